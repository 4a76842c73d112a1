"""Spreadsheets: xlsx, xls and ods, through python-calamine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from distsent.errors import UserError
from distsent.formats.compression import Source, seekable, source_of
from distsent.formats.delimited import header
from distsent.formats.reader import Reader
from distsent.formats.records import counted, first_few, one_line, shorten

EXACT = 10**15  # whole numbers below it are in the file as they were typed


class ExcelReader(Reader):
    """excel: one sheet. Whole numbers are texts, as in csv; dates and other numbers are not."""

    format = "excel"
    _taken = 0

    def done(self) -> float:
        return self._taken / max(1, self.rows or 0)

    def _open(self) -> None:
        source = source_of(self.path, self.name, self.options.compression)
        self._file: IO[bytes] = seekable(source)
        try:
            sheet, rows = self._cells()
        except UserError:
            raise
        except Exception as error:  # whatever a library in Rust says of damaged bytes
            why = one_line(str(error))[:80]
            raise UserError(f"{self.name}: no spreadsheet, or damaged ({why})") from None
        self.resolved.update(compression=source.compression, sheet_name=sheet)
        self._table = [*rows.values()]
        if rows:
            self._find_columns(source, [*rows][1:])

    def _cells(self) -> tuple[str, dict[int, list[Any]]]:
        """The name of the sheet, and by their number its rows that are not empty."""
        try:
            from python_calamine import CalamineWorkbook, PasswordError
        except ImportError:
            fix = "pip install 'distsent[excel]', or save the sheet as csv"
            raise UserError(f"{self.name}: spreadsheets need python-calamine: {fix}") from None
        try:
            book = CalamineWorkbook.from_filelike(self._file)
        except PasswordError:
            fix = "save it without one"
            raise UserError(f"{self.name}: protected by a password; {fix}") from None
        sheet = book.get_sheet_by_name(self._sheet(book))
        rows = [list(map(_value, row)) for row in sheet.iter_rows()]
        left = sheet.start[1] if sheet.start else 0  # rows begin in the first column with data
        if filled := _fill(rows, sheet.merged_cell_ranges or (), left):
            what = "the value of the merged cell that covers them"
            self.notes.append(f"{counted(filled, 'cell')} with {what}")
        return sheet.name, {
            number: row for number, row in enumerate(rows, 1) if any(v is not None for v in row)
        }

    def _sheet(self, book: Any) -> str:
        """The sheet that data.sheet_name names, or the only one with rows that is not hidden."""
        names = book.sheet_names
        wanted = self.options.sheet_name
        if wanted is not None:
            if wanted not in names:
                raise UserError(f"{self.name}: no sheet {wanted!r}; there are {_quoted(names)}")
            return wanted
        full = [name for name in names if book.get_sheet_by_name(name).height]
        shown = [
            sheet.name for sheet in book.sheets_metadata if str(sheet.visible).endswith(".Visible")
        ]
        hidden = [name for name in full if name not in shown]
        full = [name for name in full if name in shown] or full
        if hidden and hidden != full:
            self.notes.append(f"hidden sheets ({_quoted(hidden)}) are not read")
        if len(full) > 1:
            sizes = {name: book.get_sheet_by_name(name) for name in full}
            full.sort(key=lambda name: (sizes[name].width < 2, -sizes[name].height))
            which = f"data.sheet_name = {shorten(full[0])} names one"
            keys = [{"data.sheet_name": sheet} for sheet in full]
            found = f"{len(full)} sheets ({_quoted(full)})"
            raise UserError(f"{self.name}: {found}; {which}", fix=keys[0], others=keys[1:])
        return full[0] if full else names[0]

    def _find_columns(self, source: Source, lines: Sequence[int]) -> None:
        """`lines`: the numbers of the rows behind the first one."""
        first, *rows = self._table
        names = [*map(_word, first)]
        pairs = zip(lines, rows, strict=True)
        records = ((line, [*map(_word, row)], [""]) for line, row in pairs)
        survey = header.survey(records, names, deep=bool(self.options.names))
        has_header = header.exists(source, self.options, survey)
        given = self.options.names or ()
        if given and len(given) != len(names):
            said = f"data.names has {len(given)} names for {len(names)} columns"
            raise UserError(f"{self.name}: {said}")
        positions = [*map(str, range(len(names)))]
        self.columns = [*(given or ([n.strip() for n in names] if has_header else positions))]
        self._table = self._table[has_header:]
        self.rows = len(self._table)
        self.resolved["header"] = has_header
        self.resolved.update({"names": [*given]} if given else {})
        if survey.unnamed and has_header and not given:
            what = "values in unnamed columns, which are not read"
            self.notes.append(f"{counted(survey.unnamed, 'row')} with {what}")

    def _read(self, columns: Sequence[str | int]) -> Iterator[tuple[Any, str]]:
        names = self.columns or []
        known = [c for c in columns if isinstance(c, int) or c in names]
        wanted = [(c, c if isinstance(c, int) else names.index(c)) for c in known]
        for row in self._table:
            self._taken += 1
            yield {column: row[index] for column, index in wanted}, ""


def _value(cell: Any) -> Any:
    """A cell as it is shown; None if it is empty."""
    if cell == "":
        return None
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, int | float) and abs(cell) < EXACT and cell == int(cell):
        return str(int(cell))
    return cell


def _fill(rows: Sequence[list[Any]], merged: Iterable[Any], first: int) -> int:
    """Give the cells below the first one of a merged cell its value; returns their number.

    `first`: the column of the sheet in which the rows begin.
    """
    filled = 0
    for (top, left), (bottom, _) in merged:
        for row in rows[top + 1 : bottom + 1]:
            if 0 <= left - first < len(row):  # others have no value
                row[left - first] = rows[top][left - first]
                filled += 1
    return filled


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _quoted(names: Sequence[str]) -> str:
    return first_few([*map(repr, names)])
