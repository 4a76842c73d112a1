"""Text of any compression and encoding: exact, or one line that says what helps."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from distsent.errors import UserError
from distsent.formats import encodings
from distsent.formats.options import FileOptions
from distsent.formats.streams import open_text

LINES = ["plain", "é ü 🎬 \u2028 \x85 \ufeff", "", "  blanks\t", 'a "quote', "the end"]
TEXT = "\n".join(LINES)


def zipped(content: bytes, **names: bytes) -> bytes:
    """A zip with x.txt and other files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.txt", content)
        for name, other in names.items():
            archive.writestr(name, other)
    return file.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda content: content,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
    "zip": zipped,
}


def read(content: bytes, path: Path, **keys: Any) -> Any:
    """(text, encoding, compression) of a file, or the line with which it is refused."""
    path.write_bytes(content)
    try:
        with open_text(path, "x", FileOptions(**keys), newline="") as text:
            assert 0 <= text.share() <= 1
            return text.read(), text.options["encoding"], text.compression
    except UserError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
        return str(error).removeprefix("x: ")


@pytest.mark.parametrize("kind", COMPRESS)
def test_every_compression_and_encoding_with_a_mark_is_read(tmp_path: Path, kind: str):
    names = {"utf-8": "utf-8", "utf-8-sig": "utf-8", "utf-16": "utf-16", "utf-32": "utf-32"}
    for codec, name in names.items():
        content = COMPRESS[kind](TEXT.encode(codec))
        for keys in ({}, {"compression": kind, "encoding": name}):
            # By content: the name says nothing
            assert read(content, tmp_path / "x.txt", **keys) == (TEXT, name, kind)
    big = "".join(f"line {i} é\n" for i in range(200_000))  # longer than a block
    assert read(COMPRESS[kind](big.encode()), tmp_path / "x") == (big, "utf-8", kind)
    if kind in ("gzip", "bz2", "xz", "zstd"):  # several members one after another
        twice = COMPRESS[kind](b"one\n") + COMPRESS[kind](b"two\n")
        assert read(twice, tmp_path / "x") == ("one\ntwo\n", "utf-8", kind)
    assert read(COMPRESS[kind](b""), tmp_path / "x")[0] == ""


@pytest.mark.parametrize("kind", [kind for kind in COMPRESS if kind != "none"])
def test_damaged_archives_are_one_line(tmp_path: Path, kind: str):
    content = COMPRESS[kind](TEXT.encode() * 50)
    bad = [content[:end] for end in (6, 20, len(content) // 2, len(content) - 9, len(content) - 1)]
    bad += [content[: len(content) // 2] + bytes(40) + content[len(content) // 2 :]]
    if kind not in ("zip", "zstd"):
        bad += [content + COMPRESS[kind](b"more")[:-3]]
    for damaged in bad:
        found = read(damaged, tmp_path / "x")
        assert isinstance(found, str) and "damaged" in found, (len(damaged), found)
    wrong = f'data.compression = {kind!r}, but it is not that; data.compression = "auto" decides'
    assert read(b"text", tmp_path / "x", compression=kind).startswith(wrong)


ZIPS = {
    "two files": (
        zipped(b"a", **{"b.csv": b"b"}),
        "a zip with 2 files (x.txt, b.csv); one is read",
    ),
    "none": (b"PK\5\6" + bytes(18), "a zip with no file"),
    "outside": (zipped(b"").replace(b"x.txt", b"../x."), "a zip whose file lies outside of it"),
    "encrypted": (
        zipped(b"secret").replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1"),
        "an encrypted zip",
    ),
}


@pytest.mark.parametrize("what", ZIPS)
def test_zips_that_are_not_one_file(tmp_path: Path, what: str):
    content, line = ZIPS[what]
    assert read(content, tmp_path / "x.zip").startswith(line)


def test_what_systems_add_to_a_zip_is_no_file(tmp_path: Path):
    extra = {"__MACOSX/._x.txt": b"mac", ".DS_Store": b"mac", "folder/": b""}
    assert read(zipped(b"text", **extra), tmp_path / "x.zip")[0] == "text"


# ruff: noqa: RUF001
SPEECH = {
    "cp1252": "Le café était très mauvais, « rien » à manger.\nÜber die Größe der Räume\n"
    "“No”, he’d said\n",
    "cp1251": "Фильм был очень хороший, мне понравилось.\nСовсем не то, что обещали\n",
    "koi8_r": "Фильм был очень хороший, мне понравилось.\nСовсем не то, что обещали\n",
    "cp1254": "Şarkılar çok güzeldi ama oyuncular iyi değildi\nÖğretmen ığdır\n",
    "mac_roman": "Le café était très mauvais, où l’on s’ennuie à mourir\nÜber die Größe\n",
    "cp1257": "Filmas buvo labai geras, žmonės įdomūs\nBet pabaiga bloga, šuo ąžuole\n",
    "iso8859_2": "Zażółć gęślą jaźń, to był świetny film\nNie podobało mi się źle\n",
    "cp1250": "Zażółć gęślą jaźń, to był świetny film\nNie podobało mi się wcale, słabe\n",
    "gb18030": "这部电影非常好看，我很喜欢。\n质量太差了，不推荐购买。\n",
    "cp932": "この映画はとても面白かったです。\nもう二度と買いません。\n",
    "cp949": "이 영화는 정말 재미있었어요.\n다시는 사지 않겠습니다.\n",
    "cp1253": "Η ταινία ήταν πολύ καλή και μου άρεσε\nΔεν την προτείνω σε κανέναν\n",
}


@pytest.mark.parametrize("codec", SPEECH)
def test_the_likely_encoding_is_named_and_its_key_reads_it(tmp_path: Path, codec: str):
    text = "text,label\n" + SPEECH[codec] * 20
    found = read(text.encode(codec), tmp_path / "x")
    shown, _, keys = found.partition("; data.encoding = ")
    assert shown.startswith("not UTF-8 (byte 0x") and ", line 2), likely " in shown
    first = keys.split('"')[1]
    assert (SPEECH[codec] * 20).encode(codec).decode(first) == SPEECH[codec] * 20, found
    name = encodings.codecs.lookup(codec).name
    assert read(text.encode(codec), tmp_path / "x", encoding=codec) == (text, name, "none")


CAFE = "café latte\n" * 50
BOTH = CAFE.encode() + CAFE.encode("cp1252") * 2
DOUBTS = {
    "utf-16 without a mark": (CAFE.encode("utf-16-le"), {}, "text in utf-16-le without a mark; "),
    "big-endian": (CAFE.encode("utf-16-be"), {}, "text in utf-16-be without a mark; "),
    "ASCII in utf-16": (b"a\0b\0\n\0" * 50, {}, "text in utf-16-le without a mark; data.enc"),
    "Chinese in utf-16": (("电影好看，\n" * 50).encode("utf-16-le"), {}, "text in utf-16-le with"),
    "utf-32 without a mark": (CAFE.encode("utf-32-be"), {}, "text in utf-32-be without a mark"),
    "which utf-16": (CAFE.encode("utf-16-le"), {"encoding": "utf-16"}, 'data.encoding = "utf-16", '
                     "but the file does not start with a mark; data.encoding = \"utf-16-le\""),
    "the other end": (CAFE.encode("utf-16-le"), {"encoding": "utf-16-be"}, "text in utf-16-le"),
    "UTF-8 by another key": (CAFE.encode(), {"encoding": "cp1252"}, "data.encoding = 'cp1252', "
                             "but the text is UTF-8; leave the key out"),
    "a mark and another key": (CAFE.encode("utf-16"), {"encoding": "cp1252"}, "starts with the "
                               "mark of utf-16-le, which data.encoding = 'cp1252' contradicts"),
    "a few bad bytes": (CAFE.encode() + b"caf\xe9\n", {}, "UTF-8 except for 1 byte (the first: "
                        'byte 0xe9, line 51); data.encoding_errors = "replace"'),
    "UTF-8 and cp1252": (BOTH, {}, 'lines in UTF-8 ("café latte") and lines in cp1252 ("café latte"'
                         "), as in joined files: not read; python -c "),
    "a cut utf-16": (CAFE.encode("utf-16")[:-1], {}, "not utf-16-le (byte 0x0a, line 50)"),
    "a key that does not fit": (b"a\n\x81\n", {"encoding": "cp1252"}, "not cp1252 (byte 0x81, line "
                                '2); data.encoding_errors = "replace"'),
    "7 bits": ("映画\n".encode("iso2022_jp"), {}, "seems to be in an encoding of 7 bits"),
    "zeros": (bytes(5000), {}, "mostly NUL characters"),
    "random bytes": (bytes(range(256)) * 20, {}, "neither text nor a known binary format"),
}  # fmt: skip


@pytest.mark.parametrize("what", DOUBTS)
def test_an_encoding_in_doubt_is_one_line(tmp_path: Path, what: str):
    content, keys, line = DOUBTS[what]
    assert str(read(content, tmp_path / "x", **keys)).startswith(line)


def test_the_command_for_two_encodings_in_a_file_converts_it(tmp_path: Path):
    line = str(read(BOTH, tmp_path / "x.csv"))
    command = line.partition(": not read; ")[2].partition(" makes all of them")[0]
    subprocess.run(["bash", "-c", command], check=True, timeout=60)
    assert (tmp_path / "x.new.csv").read_text() == CAFE * 3


def test_keys_read_what_is_in_doubt(tmp_path: Path):
    path = tmp_path / "x"
    assert read(CAFE.encode("utf-16-le"), path, encoding="utf-16-le")[0] == CAFE
    assert read(b"caf\xe9\n", path, encoding_errors="replace")[0] == "caf\ufffd\n"
    assert read("联通".encode("gbk"), path, encoding="gbk")[0] == "联通"  # UTF-8, too, by chance
    path.write_bytes(b"a\0b\x80\n\0" + b"c" * 50)
    with open_text(path, "x", FileOptions(encoding_errors="replace")) as text:
        assert text.notes == (
            "2 NUL characters, read as in the file",
            "1 U+FFFD character, read for bytes that cannot be decoded",
        )
    path.write_bytes(b"it\x92s\n")
    with open_text(path, "x", FileOptions(encoding="latin-1")) as text:
        assert text.notes[0].startswith(
            "1 control character of iso8859-1, where cp1252 has letters"
        )


@pytest.mark.parametrize(
    ("content", "lines", "end", "stray"),
    [
        (b"", 0, "\n", 0),
        (b"a\nb", 2, "\n", 0),
        (b"a\r\nb\r\n", 2, "\n", 0),
        (b"a\rb\r", 2, "\r", 0),
        (b"a\rb\nc\r\n", 2, "\n", 1),
        (b"a\r\nb\r", 2, "\n", 1),
        (b"\r", 1, "\r", 0),
    ],
)
def test_line_ends_are_counted(tmp_path: Path, content: bytes, lines: int, end: str, stray: int):
    for codec in ("utf-8", "utf-16"):
        (tmp_path / "x").write_bytes(content.decode().encode(codec))
        with open_text(tmp_path / "x", "x") as text:
            assert (text.lines, text.line_end, text.stray_returns) == (lines, end, stray)


def test_a_bomb_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encodings, "LONGEST", 3 << 20)
    assert read(gzip.compress(bytes(1) + b"x" * (5 << 20)), tmp_path / "x") == (
        "a line of more than 3 Mi characters"
    )


def test_again_starts_over(tmp_path: Path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(TEXT.encode("utf-16")))
    with open_text(tmp_path / "x.gz", "x") as text:
        assert text.readline() == "plain\n"
        with text.again(newline="") as other:
            assert other.read() == TEXT
        assert text.readline().startswith("é")
