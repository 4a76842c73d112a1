"""Formats that are known but not read: each with its name and a way out."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from shlex import quote
from typing import NamedTuple

from distsent.errors import UserError
from distsent.formats.commands import filtered, in_pandas, new_file
from distsent.formats.compression import Source, is_text, seekable
from distsent.formats.records import readable

UNPACK = "unpack it and name a file of it"
EXPORT = "export it as csv, and name that"
_SST = r"import re,sys;[print(x[1],*re.findall(r'\d ([^()]+)\)',x))for x in sys.stdin]"


class Refused(NamedTuple):
    """A format. `fix` may contain {command}: what `command` returns for a file."""

    name: str
    fix: str
    command: Callable[[Source], str] = lambda _: ""


def _pandas(read: str) -> Callable[[Source], str]:
    """The command that converts a file with a function of pandas."""
    return lambda source: in_pandas(source, read)


def _from_sqlite(source: Source) -> str:
    new = quote(new_file(source, ".csv"))
    return f'sqlite3 -header -csv {quote(str(source.path))} "select * from TABLE" > {new}'


def _from_xml_sheet(source: Source) -> str:
    folder, file = quote(new_file(source, "")), quote(str(source.path))
    return f"soffice --convert-to xlsx --outdir {folder} {file}"


def _from_r(source: Source) -> str:
    file, new = json.dumps(str(source.path)), json.dumps(new_file(source, ".csv"))
    return f"write.csv(readRDS({file}), {new}, row.names = FALSE)"


_CONVERTS = "{command} converts it"
PICKLE = Refused(
    "pickled Python objects, which can run code",
    f"if you trust it, {_CONVERTS}",
    _pandas("read_pickle({})"),
)
WEB_PAGE = Refused(
    "an HTML page", "a download may have ended at a log-in or error page: fetch the file itself"
)
XML = Refused("XML", _CONVERTS, _pandas("read_xml({}, parser='etree')"))
XML_SHEET = Refused("a spreadsheet as XML", _CONVERTS, _from_xml_sheet)
SGML = Refused("SGML", "convert it to csv, a text and a label in each row")
SQLITE = Refused("a database of SQLite", "{command} converts a table of it", _from_sqlite)
NUMPY = Refused("arrays of NumPy", "write their texts and labels to a csv or parquet file")
HDF5 = Refused("HDF5", _CONVERTS, _pandas("read_hdf({})"))
WORD = Refused("a document, not a table", "save its texts as csv, one in each row")
STATA = Refused("a file of Stata", _CONVERTS, _pandas("read_stata({})"))
SPSS = Refused("a file of SPSS", EXPORT)
LFS = Refused("a pointer of git-lfs, not the file itself", "git lfs pull fetches the file")
NESTED = Refused("a zip in a compressed file", UNPACK)
IMAGE = Refused("an image", "name a file of texts")
OLD_FEATHER = Refused(
    "feather of version 1",
    f"{_CONVERTS}, with pyarrow of before 2020",
    _pandas("read_feather({})"),
)
TREES = Refused(
    "parse trees of the Stanford Sentiment Treebank",
    '{command} and data.format = "label_text" read it',
    lambda source: filtered(source, f'python -c "{_SST}"', ".lines"),
)
R = Refused("data of R", "in R: {command}", _from_r)
TAR = Refused(
    "a tar archive",
    "{command} unpacks it; name a file of it",
    lambda source: f"tar xf {quote(str(source.path))}",
)

_TWICE = Refused("compressed twice", "decompress it once")
# What a text may begin with, too: the rest of the bytes tells
_WORDS = {
    **{b"$FL2": SPSS, b"GIF8": IMAGE, b"X\n\0\0\0": R, b"RDX2\n": R, b"RDX3\n": R},
    **{b"FEA1": OLD_FEATHER, b"ORC": Refused("ORC", _CONVERTS, _pandas("read_orc({})"))},
    **{b"PARE": Refused("encrypted parquet", "decrypt it"), b"Obj\1": Refused("Avro", EXPORT)},
    **{b"MATLAB 5.0": Refused("data of MATLAB", EXPORT), b"<stata_dta>": STATA},
    **{b"Rar!": Refused("a rar archive", UNPACK), b"LZIP": Refused("compressed by lzip", UNPACK)},
}
_MAGIC = {
    **{b"SQLite format 3\0": SQLITE, b"%PDF-": Refused("PDF", WORD.fix), b"{\\rtf1": WORD},
    **{b"\x93NUMPY": NUMPY, b"\x89HDF": HDF5, b"version https://git-lfs.": LFS},
    **{b"\x89PNG": IMAGE, b"\xff\xd8\xff": IMAGE, b"\x1f\x8b": _TWICE, b"\xfd7zXZ\0": _TWICE},
    **{b"BZh91AY&SY": _TWICE, b"\x28\xb5\x2f\xfd": _TWICE},
    **{b"7z\xbc\xaf\x27\x1c": Refused("a 7z archive", UNPACK)},
    **{b"\x04\x22\x4d\x18": Refused("compressed by lz4", UNPACK)},
    **{b"\x1f\x9d": Refused("compressed by compress (.Z)", UNPACK)},
}
SUFFIXES = {
    **{".xml": XML, ".sgm": SGML, ".sgml": SGML, ".html": WEB_PAGE, ".htm": WEB_PAGE},
    **{".pkl": PICKLE, ".pickle": PICKLE, ".joblib": PICKLE, ".npz": NUMPY, ".npy": NUMPY},
    **{".docx": WORD, ".doc": WORD, ".pdf": WORD, ".odt": WORD, ".h5": HDF5, ".hdf5": HDF5},
    **{".dta": STATA, ".sav": SPSS, ".rds": R, ".rdata": R, ".pt": PICKLE, ".pth": PICKLE},
    **{".sqlite": SQLITE, ".sqlite3": SQLITE, ".db": SQLITE},
}
_OLD_PICKLE = re.compile(
    rb"\(dp\d|\(lp\d|\]q\0|\}q\0|c(copy_reg|__builtin__|(pandas|numpy)[\w.]*)\n\w+\n"
)
_TREE = re.compile(rb"\(\d \([^\n]*\)\r?\n")
_ARFF = re.compile(rb"(?:\s|%[^\n]*\n)*@relation\b.*^\s*@attribute\b", re.I | re.M | re.S)
_ATTRIBUTE = re.compile(r"^\s*@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", re.IGNORECASE | re.MULTILINE)
_XML = re.compile(rb"\s*<\?xml", re.IGNORECASE)
_XML_SHEET = re.compile(rb"\s*<\?xml.{,200}<\?mso-application[^>]*Excel", re.I | re.S)
_SGML = re.compile(rb"\s*<!DOCTYPE", re.IGNORECASE)
_HTML = re.compile(rb"\s*(<!DOCTYPE *html|<html)", re.IGNORECASE)


def refuse(source: Source, head: bytes) -> None:
    """Raises UserError for a file of such a format, which its first bytes (or its name) show."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    if _ARFF.match(head):
        raise UserError(f"{source.name}: {_arff(source, head)}")
    if found := _by_content(head) or _by_members(source, head):
        _raise(source, found)
    markup = head.lstrip().startswith(b"<")
    if (named := SUFFIXES.get(source.suffix)) and (markup or not is_text(head)):
        _raise(source, named)


def _raise(source: Source, found: Refused) -> None:
    fix = found.fix.format(command=found.command(source))
    raise UserError(f"{source.name}: {found.name}: not read; {fix}")


def _by_content(head: bytes) -> Refused | None:
    if head.startswith((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")) or _OLD_PICKLE.match(head):
        return PICKLE
    if head[257:262] == b"ustar" and not is_text(head):
        return TAR
    rules: tuple[tuple[Callable[[bytes], object], Refused], ...] = (
        (_HTML.match, WEB_PAGE), (_XML_SHEET.match, XML_SHEET), (_XML.match, XML),
        (_SGML.match, SGML), (_TREE.match, TREES),
    )  # fmt: skip
    if found := next((kind for matches, kind in rules if matches(head)), None):
        return found
    magics = _MAGIC if is_text(head) else _MAGIC | _WORDS
    return next((kind for magic, kind in magics.items() if head.startswith(magic)), None)


def _by_members(source: Source, head: bytes) -> Refused | None:
    """Of a zip that is a document, arrays or pickles."""
    if not head.startswith(b"PK\3\4"):
        return None
    with readable(source.name), seekable(source) as file, zipfile.ZipFile(file) as archive:
        members = archive.namelist()
    if any(name.endswith("data.pkl") for name in members):
        return PICKLE
    if any(name.endswith(".npy") for name in members):
        return NUMPY
    if any(name.startswith("xl/") for name in members) or source.suffix == ".ods":
        return None
    return WORD if {"[Content_Types].xml", "mimetype"} & {*members} else NESTED


def _arff(source: Source, head: bytes) -> str:
    """ARFF is csv after a header of its own, from which the names can be had."""
    columns = [name.strip("'\"") for name in _ATTRIBUTE.findall(head.decode("utf-8", "replace"))]
    shown = ", ".join(f'"{name}"' for name in columns[:10])
    cut = filtered(source, "sed '1,/^ *@data/Id'", ".csv")
    keys = f'data.names = [{shown}], data.quoting = "\'" and data.escapechar = "\\\\"'
    return f"ARFF: not read; {cut} leaves its rows, which {keys} read"
