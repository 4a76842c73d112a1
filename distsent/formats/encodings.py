"""The encoding of a text file, decided over the whole of it."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from distsent.errors import UserError
from distsent.formats.commands import filtered
from distsent.formats.compression import Source
from distsent.formats.likely_encoding import count_zeros, diagnose, is_utf8, wide_encoding
from distsent.formats.records import counted

MARKS = {  # UTF-32 first: the mark of UTF-16 begins its own
    **{codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"},
    **{codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"},
    codecs.BOM_UTF8: "utf-8",
}
UNSPECIFIC = ("utf-16", "utf-32")  # without a mark, their bytes have two orders
LONGEST = 1 << 28  # characters of a line: a bomb without line ends would fill the memory
_NO_CTRL_Z = "tr -d '\\032'"
REPLACE = 'data.encoding_errors = "replace" reads U+FFFD for such bytes'


@dataclass(frozen=True)
class Encoding:
    """A codec of Python, the bytes before the text, and what the user should know."""

    codec: str
    mark: int = 0
    notes: tuple[str, ...] = ()
    lines: int = 0
    line_end: str = "\n"  # "\r" where no other ends a line; lines that end with "\r\n" have both
    stray_returns: int = 0  # carriage returns that end no line, if line_end is "\n"

    @property
    def name(self) -> str:
        """As data.encoding names it: where there is a mark, it says which UTF-16 or UTF-32."""
        return self.codec[:6] if self.mark and self.codec != "utf-8" else self.codec


def decide(source: Source, wanted: str = "auto", errors: str = "strict") -> Encoding:
    """The encoding in which all of a file can be read. Raises UserError if that is in doubt."""
    with source.opened() as file:
        head = file.read(4)
    mark = _mark(head)
    codec = _codec(source.name, wanted, MARKS.get(mark, ""))
    if codec in UNSPECIFIC:
        raise _lacks_mark(source.name, codec, wanted, _survey(source, "latin-1", 0, errors))
    survey = _survey(source, codec, len(mark), errors)
    if survey.fault:
        if codec == "utf-8" and wanted == "auto" and not mark:
            raise diagnose(source, survey.fault)
        raise UserError(f"{source.name}: not {codec} ({survey.fault}); {REPLACE}")
    if survey.last == "\x1a" and not codec.startswith("utf-16"):
        why = "ends with Ctrl-Z, the end mark of DOS, which is no text"
        raise UserError(f"{source.name}: {why}; {filtered(source, _NO_CTRL_Z)} removes it")
    if not mark:
        _check(source.name, survey, wanted, codec)
    ends = (survey.lines, "\n", survey.returns - survey.both)
    if survey.returns and not survey.lines:
        ends = (survey.returns, "\r", 0)
    lines = ends[0] + (survey.last not in ("", ends[1]))
    return Encoding(codec, len(mark), survey.notes(codec), lines, *ends[1:])


class TextFiles:
    """Decodes texts that are a file each. All of them together say whether the key is right."""

    def __init__(self, wanted: str, errors: str) -> None:
        self._wanted, self._errors = wanted, errors
        self._all = _Survey()  # of the files without a mark
        self._utf8 = self._others = 0  # of them, those beyond ASCII, by what their bytes are
        self._first = ""  # the first that is UTF-8, or in which bytes were replaced

    @property
    def codec(self) -> str:
        """That of files without a mark."""
        return _codec("", self._wanted, "")

    def decode(self, name: str, content: bytes) -> str:
        """The text of a file. Raises UnicodeDecodeError, or UserError if it is in doubt."""
        mark = _mark(content)
        codec, body = _codec(name, self._wanted, MARKS.get(mark, "")), content[len(mark) :]
        if mark:
            return body.decode(codec, self._errors)
        found = _Survey()
        count_zeros(found.zeros, body, 0)
        found.size, found.escaped, found.utf8 = len(body), b"\x1b$" in body, False
        if codec in UNSPECIFIC:
            raise _lacks_mark(name, codec, self._wanted, found)
        _check(name, found, self._wanted, codec)
        text = body.decode(codec, self._errors)
        self._all.characters += len(text)
        if not body.isascii():
            self._add(name, body, text, codec)
        return text

    def _add(self, name: str, body: bytes, text: str, codec: str) -> None:
        """Counts a file beyond ASCII. A short one in another encoding may be UTF-8 by chance."""
        replaced = text.count("\ufffd") if self._errors != "strict" else 0
        utf8 = codec != "utf-8" and is_utf8(body)
        self._all.replaced += replaced
        self._utf8, self._others = self._utf8 + utf8, self._others + (not utf8)
        if utf8 or replaced:
            self._first = self._first or name

    def check(self) -> None:
        """Raises UserError if the key is wrong for most files."""
        self._all.beyond_ascii, self._all.utf8 = self._utf8 > 0, self._utf8 > self._others
        more = f" ({self._utf8:,} files are like this)" if self._utf8 > 1 else ""
        _check(self._first, self._all, self._wanted, self.codec, more)


def _mark(head: bytes) -> bytes:
    """The mark that a file begins with, or nothing."""
    return next((mark for mark in MARKS if head.startswith(mark)), b"")


def _lacks_mark(name: str, codec: str, wanted: str, survey: _Survey) -> UserError:
    """The error of a file without a mark, where data.encoding does not say which UTF-16 it is."""
    which = wide_encoding(survey.zeros, survey.size) or f"{codec}-le"
    fix = f'data.encoding = "{which}" says which one it is'
    why = f'data.encoding = "{wanted}", but the file does not start with a mark; {fix}'
    return UserError(f"{name}: {why}", fix={"data.encoding": which})


def _codec(name: str, wanted: str, marked: str) -> str:
    """What `wanted` and the mark say together."""
    known = "" if wanted == "auto" else codecs.lookup(wanted).name.removesuffix("-sig")
    if known and not codecs.lookup(known).incrementaldecoder:
        raise UserError(f"{name}: data.encoding = {wanted!r} is no encoding of files")
    if marked and known and known not in (marked, marked[:6]):
        said = f"starts with the mark of {marked}, which data.encoding = {wanted!r} contradicts"
        raise UserError(f"{name}: {said}; leave the key out: the mark decides")
    return marked or known or "utf-8"


class _Survey:
    """What a pass over the text of a file finds."""

    def __init__(self) -> None:
        self.fault = ""  # the first bytes that cannot be decoded
        self.utf8 = True  # the bytes are UTF-8, whatever the codec is
        self.beyond_ascii = self.escaped = False  # escaped: as in Japanese of 7 bits
        self.size = self.characters = self.nul = self.replaced = 0
        self.c1 = 0  # control characters that are letters and quotes in cp1252
        self.zeros = [0, 0, 0, 0]  # NUL bytes by position modulo 4
        self.lines = self.returns = self.both = 0  # newlines, carriage returns, one after the other
        self.last = ""  # character

    def count_ends(self, text: str) -> None:
        """Counts the line ends of the next block."""
        self.lines += text.count("\n")
        if "\r" in text:
            self.returns += text.count("\r")
            self.both += text.count("\r\n")
        self.both += self.last == "\r" and text.startswith("\n")
        self.last = text[-1:] or self.last

    def line_at(self, text: str) -> int:
        """The number of the line in which a text after the blocks so far ends."""
        lines = self.lines + text.count("\n")
        return 1 + (lines or self.returns + text.count("\r"))

    def notes(self, codec: str) -> tuple[str, ...]:
        """What the user should know."""
        counts = (
            (self.nul, "NUL character", "read as in the file"),
            (self.replaced, "U+FFFD character", "read for bytes that cannot be decoded"),
            (self.c1, f"control character of {codec}", "where cp1252 has letters"),
        )
        return tuple(f"{counted(n, what)}, {meaning}" for n, what, meaning in counts if n)


def _survey(source: Source, codec: str, mark: int, errors: str) -> _Survey:
    """Reads all of a file."""
    found, run = _Survey(), 0
    decoder = codecs.getincrementaldecoder(codec)(errors)
    utf8 = codecs.getincrementaldecoder("utf-8")()
    for block in source.blocks(mark):
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(codec, "replace")
            byte = f"byte 0x{error.object[error.start]:02x}, line {found.line_at(before)}"
            found.fault = byte if errors == "strict" else ""
            return found
        found.count_ends(text)
        run = 0 if "\n" in text or "\r" in text else run + len(text)
        if run > LONGEST:
            raise UserError(f"{source.name}: a line of more than {LONGEST >> 20} Mi characters")
        count_zeros(found.zeros, block, found.size)
        found.size += len(block)
        found.characters += len(text)
        found.escaped |= b"\x1b$" in block
        found.nul += text.count("\0") if b"\0" in block else 0
        if not block.isascii():
            found.beyond_ascii = True
            found.replaced += text.count("\ufffd") if errors != "strict" else 0
            found.c1 += len(re.findall("[\x80-\x9f]", text)) if codec == "iso8859-1" else 0
        if codec != "utf-8" and found.utf8:
            try:
                utf8.decode(block, final=not block)
            except UnicodeDecodeError:
                found.utf8 = False
    return found


def _check(name: str, survey: _Survey, wanted: str, codec: str, more: str = "") -> None:
    """Raises UserError, which `more` ends, for a text without a mark that is in doubt."""
    if doubt := _doubt(survey, wanted, codec):
        wide = wide_encoding(survey.zeros, survey.size)
        fix = {"data.encoding": wide} if wide else None
        raise UserError(f"{name}: {doubt}{more}", fix=fix)


def _doubt(survey: _Survey, wanted: str, codec: str) -> str:
    """Why a text without a mark cannot be trusted though it can be read; empty if it can."""
    wide = wide_encoding(survey.zeros, survey.size)
    if survey.replaced * 5 > survey.characters:
        share = f"{survey.replaced:,} of {survey.characters:,} characters"
        return f"no text in {codec}: {share} cannot be decoded; another data.encoding may fit"
    if wide and wide != codec:
        return f'text in {wide} without a mark; data.encoding = "{wide}" reads it'
    if not wide and sum(survey.zeros) * 3 > survey.size:
        return "mostly NUL characters, so it is damaged or no text; copy or download it again"
    if codec != "utf-8" and survey.utf8 and survey.beyond_ascii and not _is_asian(codec):
        convert = f"iconv -f {wanted} -t utf-8 FILE > NEW"
        fix = f"leave the key out (other files that need it: {convert})"
        return f"data.encoding = {wanted!r}, but the text is UTF-8; {fix}"
    if survey.escaped and wanted == "auto":
        fix = 'data.encoding = "iso2022_jp" or "iso2022_kr" reads it, "utf-8" takes it as it is'
        return f"seems to be in an encoding of 7 bits (there is ESC $); {fix}"
    return ""


def _is_asian(codec: str) -> bool:
    """Whether a codec has characters of two bytes, which may look like UTF-8 by chance."""
    try:
        return len(b"\xb0\xa1".decode(codec)) == 1
    except UnicodeDecodeError:
        return True
