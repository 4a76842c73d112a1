"""What a file may be that is not UTF-8. Only a message depends on it: nothing is read by guess."""

from __future__ import annotations

import codecs
import re

from distsent.errors import UserError
from distsent.formats.alphabets import one_language
from distsent.formats.commands import filtered, python
from distsent.formats.compression import Source
from distsent.formats.records import counted, shorten

SAMPLE = 1 << 18  # bytes by which a likely encoding is chosen
# Of those that read the same text, the first is named; so Western comes first
LIKELY = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949", "mac_roman", "cp437", "tis_620", "latin-1"),
)
# Of languages with Latin letters; among equals the first is named
_LATIN = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859_2", "mac_roman", "cp437")
_SURE = 0.9  # share of the letters beyond ASCII that one language has
_JAPANESE = ("cp932", "euc_jp")
_WIDE = {"x0x0": "utf-16-le", "0x0x": "utf-16-be", "x000": "utf-32-le", "000x": "utf-32-be"}
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape keeps
_CHARACTER = re.compile("[\x80-\ud7ff\ue000-\U0010ffff]")
_TO_UTF8 = (
    "import codecs,sys;codecs.register_error('x',lambda e:(e.object[e.start:e.end].decode('cp1252')"
    ",e.end));[sys.stdout.buffer.write(x.decode('utf-8','x').encode())for x in sys.stdin.buffer]"
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def count_zeros(zeros: list[int], block: bytes, at: int) -> None:
    """Adds the NUL bytes of a block at byte `at` to the counts by position modulo 4."""
    if b"\0" in block:
        for i in range(4):
            zeros[i] += block[(i - at) % 4 :: 4].count(0)


def wide_encoding(zeros: list[int], size: int) -> str:
    """UTF-16 or UTF-32, if NUL bytes lie as they do there; empty if not."""
    return _WIDE.get("".join("0" if n > size / 20 else "x" for n in zeros), "")


def _wide_chinese(zeros: list[int], size: int) -> str:
    """UTF-16 by the line ends and digits alone: other characters there have no NUL bytes."""
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if even + odd < size / 1000 or (even and odd):
        return ""
    return "utf-16-le" if odd else "utf-16-be"


def diagnose(source: Source, fault: str) -> UserError:
    """The error of a file that has a fault as UTF-8, with the key that reads it."""
    why, likely = _diagnose(source, fault)
    keys = [{"data.encoding": codec} for codec in likely]
    return UserError(f"{source.name}: {why}", fix=keys[0] if keys else None, others=keys[1:])


def _diagnose(source: Source, fault: str) -> tuple[str, list[str]]:
    """(what a file is, its likely encodings)."""
    bad = beyond = control = size = at = 0
    sample, zeros = bytearray(), [0, 0, 0, 0]
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for block in source.blocks():
        text = decoder.decode(block, final=not block)
        bad += len(_NOT_UTF8.findall(text))
        beyond += len(_CHARACTER.findall(text))
        control += len(_CONTROL.findall(text))
        count_zeros(zeros, block, at)
        at, size = at + len(block), size + len(text)
        if len(sample) < SAMPLE:
            sample += b"".join(x for x in block.splitlines(keepends=True) if not x.isascii())
    for wide in (wide_encoding(zeros, at), _wide_chinese(zeros, at)):
        if wide and _decodes(source, wide):
            return f'text in {wide} without a mark; data.encoding = "{wide}" reads it', [wide]
    if control > size / 50:
        return "neither text nor a known binary format; convert it to csv, or name another", []
    if beyond > bad:
        fix = 'data.encoding_errors = "replace" reads U+FFFD for them'
        return f"UTF-8 except for {counted(bad, 'byte')} (the first: {fault}); {fix}", []
    if mixed := _mixed(source, bytes(sample[:SAMPLE])):
        return mixed, []
    likely = _likely(source, bytes(sample[:SAMPLE]))
    if not likely:
        return f'not UTF-8 ({fault}); data.encoding names another encoding, such as "cp1252"', []
    shown = " or ".join(f"{codec} ({text})" for codec, text in likely.items())
    keys = " or ".join(f'"{codec}"' for codec in likely)
    return f"not UTF-8 ({fault}), likely {shown}; data.encoding = {keys} reads it", [*likely]


def _mixed(source: Source, sample: bytes) -> str:
    """What a file is that has lines in UTF-8 and others in cp1252, with the command that joins."""
    utf8, others = list[bytes](), list[bytes]()
    for line in sample.splitlines():
        (utf8 if is_utf8(line) else others).append(line)
    text = b"\n".join(others).decode("cp1252", "replace")
    if not utf8 or "\ufffd" in text or one_language(text) <= _SURE:
        return ""
    of_utf8, of_others = utf8[0].decode(), others[0].decode("cp1252")
    first = (_excerpt(text, _difference(text)) for text in (of_utf8, of_others))
    found = "lines in UTF-8 ({}) and lines in cp1252 ({}), as in joined files".format(*first)
    return f"{found}: not read; {filtered(source, python(_TO_UTF8))} makes all of them UTF-8"


def is_utf8(line: bytes) -> bool:
    """Whether some bytes, of which there are any, are UTF-8."""
    try:
        return bool(line.decode())
    except UnicodeDecodeError:
        return False


def _likely(source: Source, sample: bytes) -> dict[str, str]:
    """At most three encodings that the sample looks like and that read the whole file.

    With each, some of the text: users know which one is right.
    """
    texts = _latin(source, sample) or _others(source, sample)
    some = [*texts][:3]
    at = _difference(*(texts[codec] for codec in some[:2]))
    return {codec: _excerpt(texts[codec], at) for codec in some}


def _latin(source: Source, sample: bytes) -> dict[str, str]:
    """The text in the encodings in which it has the letters of one language, if there are any."""
    texts: dict[str, str] = {}
    for codec in _LATIN:
        text = sample.decode(codec, "replace")
        if text not in texts.values() and _decodes(source, codec):
            texts[codec] = text
    scores = {codec: one_language(text) for codec, text in texts.items()}
    best = max(scores.values(), default=0)
    fit = [codec for codec in texts if scores[codec] > max(_SURE, best - 0.1)]
    return {
        codec: texts[codec] for codec in sorted(fit, key=lambda codec: -round(scores[codec], 2))
    }


def _others(source: Source, sample: bytes) -> dict[str, str]:
    """The text in the encodings that its bytes look like, by statistics."""
    from charset_normalizer import from_bytes

    matches = [*from_bytes(sample, cp_isolation=[*LIKELY[:-1]])]
    texts: dict[str, str] = {}
    for match in matches:
        text = sample.decode(match.encoding, "replace")
        worse = match.chaos > matches[0].chaos + 0.1 or match.coherence < matches[0].coherence - 0.1
        if text in texts.values() or (texts and worse):
            continue
        equal = (codec for codec in LIKELY if sample.decode(codec, "replace") == text)
        if codec := next((codec for codec in equal if _decodes(source, codec)), ""):
            texts[codec] = text
    if not texts and sample:  # bytes that most encodings lack
        texts["latin-1"] = sample.decode("latin-1")
    japanese = next((codec for codec in _JAPANESE if _is_japanese(sample, codec)), "")
    for codec in ("cp1252" if _is_western(sample) else "", japanese):
        if codec and codec not in texts and _decodes(source, codec):
            texts[codec] = sample.decode(codec, "replace")
    return {c: texts[c] for c in sorted(texts, key=lambda c: (c != japanese, LIKELY.index(c)))}


def _is_western(sample: bytes) -> bool:
    """Whether few letters are beyond ASCII, as in Western texts: too few for statistics."""
    beyond = sum(byte > 127 for byte in sample)
    return beyond <= 3 or beyond < 0.2 * sum(b > 127 or chr(b).isalpha() for b in sample)


def _is_japanese(sample: bytes, codec: str) -> bool:
    """Whether much of the sample is Hiragana, as in Japanese alone."""
    text = "".join(c for c in sample.decode(codec, "replace") if not c.isascii())
    return sum("\u3041" <= c <= "\u309f" for c in text) > len(text) / 8


def _difference(text: str = "", other: str = "") -> int:
    """The first place where two texts differ; of one text, where it is not ASCII."""
    if not other:
        return next((i for i, letter in enumerate(text) if not letter.isascii()), 0)
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (one, two) in pairs if one != two), 0)


def _excerpt(text: str, at: int) -> str:
    """The words at a place of a text."""
    start = max(text.rfind("\n", 0, at) + 1, at - 12)
    return shorten(text[start : at + 12].split("\n")[0].strip())


def _decodes(source: Source, codec: str) -> bool:
    """Whether all of a file can be read in this encoding."""
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        for block in source.blocks():
            decoder.decode(block, final=not block)
    except UnicodeDecodeError:
        return False
    return True
