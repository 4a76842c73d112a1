"""Spreadsheets for tests: the smallest xlsx and ods that hold some cells."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

Sheets = Mapping[str, Sequence[Sequence[Any]]]
OFFICE = "http://schemas.openxmlformats.org"
MAIN = f'xmlns="{OFFICE}/spreadsheetml/2006/main"'
RELATIONS = f'xmlns="{OFFICE}/package/2006/relationships"'
OPEN = "urn:oasis:names:tc:opendocument:xmlns"


class Date(NamedTuple):
    """A cell of days since 1900."""

    days: int


class Fault(NamedTuple):
    """A cell with an error such as #N/A."""

    name: str


def write_xlsx(
    path: Path, sheets: Sheets, hidden: Collection[str] = (), merged: Collection[str] = ()
) -> Path:
    """A workbook. A cell is a text, a number, a bool, a Date, a Fault or None.

    `merged`: ranges such as A2:A5 that are one cell, in each sheet.
    """
    ids = {name: index for index, name in enumerate(sheets, 1)}
    entries = "".join(
        f"<sheet name={quoteattr(name)} sheetId='{i}' r:id='r{i}' "
        f"state='{'hidden' if name in hidden else 'visible'}'/>"
        for name, i in ids.items()
    )
    links = "".join(
        f"<Relationship Id='r{i}' Type='{OFFICE}/officeDocument/2006/relationships/worksheet' "
        f"Target='worksheets/sheet{i}.xml'/>"
        for i in ids.values()
    )
    office = f"{OFFICE}/officeDocument/2006/relationships"
    styles = f"<Relationship Id='s' Type='{office}/styles' Target='styles.xml'/>"
    book = f"<workbook {MAIN} xmlns:r='{office}'><sheets>{entries}</sheets></workbook>"
    root = f"<Relationship Id='b' Type='{office}/officeDocument' Target='xl/workbook.xml'/>"
    formats = "<cellXfs count='2'><xf numFmtId='0'/><xf numFmtId='14'/></cellXfs>"
    files = {
        "[Content_Types].xml": f"<Types xmlns='{OFFICE}/package/2006/content-types'/>",
        "_rels/.rels": f"<Relationships {RELATIONS}>{root}</Relationships>",
        "xl/workbook.xml": book,
        "xl/_rels/workbook.xml.rels": f"<Relationships {RELATIONS}>{links}{styles}</Relationships>",
        "xl/styles.xml": f"<styleSheet {MAIN}>{formats}</styleSheet>",
    }
    for name, rows in sheets.items():
        cells = "".join(_xlsx_row(number, row) for number, row in enumerate(rows, 1))
        ranges = "".join(f"<mergeCell ref='{cell}'/>" for cell in merged)
        cells = f"<sheetData>{cells}</sheetData><mergeCells>{ranges}</mergeCells>"
        sheet = f"<worksheet {MAIN}>{cells}</worksheet>"
        files[f"xl/worksheets/sheet{ids[name]}.xml"] = sheet
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, f"<?xml version='1.0' encoding='UTF-8'?>{content}")
    return path


def _xlsx_row(number: int, row: Sequence[Any]) -> str:
    cells = (_xlsx_cell(f"{chr(65 + column)}{number}", value) for column, value in enumerate(row))
    return f"<row r='{number}'>{''.join(cells)}</row>"


def _xlsx_cell(place: str, value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return f"<c r='{place}' t='b'><v>{int(value)}</v></c>"
        case int() | float():
            return f"<c r='{place}'><v>{value}</v></c>"
        case Date(days):
            return f"<c r='{place}' s='1'><v>{days}</v></c>"
        case Fault(name):
            return f"<c r='{place}' t='e'><v>{name}</v></c>"
    text = escape(value).replace("\r", "_x000D_")
    return f"<c r='{place}' t='inlineStr'><is><t xml:space='preserve'>{text}</t></is></c>"


def write_ods(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """A document with one sheet of texts."""
    cells = "".join(
        "<table:table-row>"
        + "".join(
            f"<table:table-cell office:value-type='string'><text:p>{escape(value)}</text:p>"
            "</table:table-cell>"
            for value in row
        )
        + "</table:table-row>"
        for row in rows
    )
    spaces = " ".join(f"xmlns:{n}='{OPEN}:{n}:1.0'" for n in ("office", "table", "text"))
    table = f"<table:table table:name='S'>{cells}</table:table>"
    body = f"<office:spreadsheet>{table}</office:spreadsheet>"
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", kind)
        manifest = (
            f"<m:manifest xmlns:m='{OPEN}:manifest:1.0'><m:file-entry m:full-path='/' "
            f"m:media-type='{kind}'/></m:manifest>"
        )
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr(
            "content.xml",
            f"<office:document-content {spaces}><office:body>{body}</office:body>"
            "</office:document-content>",
        )
    return path
