"""What a file may be that is not UTF-8. Only a message depends on it: nothing is read by guess."""

from __future__ import annotations

import codecs
import re

from distsent.formats.compression import Source
from distsent.formats.records import shorten

SAMPLE = 1 << 18  # bytes by which a likely encoding is chosen
# Of those that read the same text, the first is named; so Western comes first
LIKELY = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949", "mac_roman", "cp437", "tis_620"),
)
_WIDE = {"x0x0": "utf-16-le", "0x0x": "utf-16-be", "x000": "utf-32-le", "000x": "utf-32-be"}
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape keeps
_CHARACTER = re.compile("[\x80-\ud7ff\ue000-\U0010ffff]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def count_zeros(zeros: list[int], block: bytes, at: int) -> None:
    """Adds the NUL bytes of a block at byte `at` to the counts by position modulo 4."""
    if b"\0" in block:
        for i in range(4):
            zeros[i] += block[(i - at) % 4 :: 4].count(0)


def wide_encoding(zeros: list[int], size: int, share: float = 0.2) -> str:
    """UTF-16 or UTF-32, if NUL bytes lie as they do there; empty if not."""
    pattern = "".join("0" if n > size / 4 * share else "x" for n in zeros)
    return _WIDE.get(pattern, "")


def diagnose(source: Source, fault: str) -> str:
    """What a file is that has a fault as UTF-8, and the key that reads it."""
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
    for share in (0.2, 0.002):  # Chinese has NUL bytes in line ends, digits and commas alone
        if (wide := wide_encoding(zeros, at, share)) and _decodes(source, wide):
            return f'text in {wide} without a mark; data.encoding = "{wide}" reads it'
    if control > size / 50:
        return "neither text nor a known binary format; convert it to csv, or name another file"
    if beyond > bad:
        fix = 'data.encoding_errors = "replace" reads U+FFFD for them'
        return f"UTF-8 except for {bad:,} bytes (the first: {fault}); {fix}"
    if not (codec := _likely(source, bytes(sample[:SAMPLE]))):
        return f'not UTF-8 ({fault}); data.encoding names another encoding, such as "cp1252"'
    line = next(line for line in bytes(sample).splitlines() if line.strip())
    shown = shorten(line.decode(codec, "replace"))
    return f'not UTF-8 ({fault}), likely {codec} ({shown}); data.encoding = "{codec}" reads it'


def _likely(source: Source, sample: bytes) -> str:
    """The encoding that the sample looks like and that reads the whole file; empty if none."""
    from charset_normalizer import from_bytes

    found = [match.encoding for match in from_bytes(sample, cp_isolation=[*LIKELY])]
    for codec in found:
        text = sample.decode(codec, "replace")
        same = (x for x in LIKELY if sample.decode(x, "replace") == text)
        for equal in (*same, codec):
            if _decodes(source, equal):
                return equal
    return ""


def _decodes(source: Source, codec: str) -> bool:
    """Whether all of a file can be read in this encoding."""
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        for block in source.blocks():
            decoder.decode(block, final=not block)
    except UnicodeDecodeError:
        return False
    return True
