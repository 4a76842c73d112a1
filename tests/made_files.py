"""A made-up file of each format that is not delimited text, and of each compression."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet

from tests.spreadsheet_files import write_ods, write_xlsx

ROWS = [
    {"text": f'text {i} é 🎬 \u2028 "quoted"', "label": "neg" if i % 3 else "pos"}
    for i in range(30)
]
COLUMNS = {key: [row[key] for row in ROWS] for key in ("text", "label")}
PAIRS = [[*row.values()] for row in ROWS]


def zipped(content: bytes) -> bytes:
    """A zip with one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.jsonl", content)
    return file.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
    ".zip": zipped,
}


def made_files() -> dict[str, bytes]:
    """The bytes of the files, by name."""
    texts: dict[str, Any] = {
        "list.json": ROWS, "columns.json": COLUMNS, "values.json": PAIRS,
        "splits.json": {"train": ROWS[:20], "test": ROWS[20:]},
        "split.json": {"columns": [*COLUMNS], "data": PAIRS},
        "objects.json": {k: dict(enumerate(values)) for k, values in COLUMNS.items()},
    }  # fmt: skip
    files = {name: json.dumps(value).encode() for name, value in texts.items()}
    files["pretty.json"] = json.dumps(ROWS, indent=1).encode("utf-16")
    files["lines.jsonl"] = "\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS).encode()
    files["label.txt"] = "".join(f"{r['label']} {r['text']}\n" for r in ROWS).encode()
    files["fast.txt"] = "".join(f"__label__{r['label']} {r['text']}\r\n" for r in ROWS).encode()
    files["table.txt"] = "".join(f"{r['text']}\t{r['label']}\n" for r in ROWS).encode()
    return files | _columnar() | _spreadsheets() | {
        f"lines.jsonl{suffix}": compress(files["lines.jsonl"])
        for suffix, compress in COMPRESS.items()
    }  # fmt: skip


def _columnar() -> dict[str, bytes]:
    table = pa.table(COLUMNS)
    kinds = {"dictionary": table["text"].dictionary_encode(),
             "view": table["text"].cast(pa.string_view())}  # fmt: skip
    files = {}
    for name, column in {"plain": table["text"], **kinds}.items():
        table = table.set_column(0, "text", column)
        plain, stream = io.BytesIO(), io.BytesIO()
        parquet.write_table(table, plain, compression="none")
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        files |= {f"{name}.parquet": plain.getvalue(), f"{name}.arrow": stream.getvalue()}
    file = io.BytesIO()
    feather.write_feather(table, file)
    return files | {"lz4.feather": file.getvalue()}


def _spreadsheets() -> dict[str, bytes]:
    rows = [[*COLUMNS], *PAIRS]
    with tempfile.TemporaryDirectory() as folder:
        xlsx = write_xlsx(Path(folder, "x.xlsx"), {"Sheet1": rows})
        ods = write_ods(Path(folder, "x.ods"), rows)
        return {path.name: path.read_bytes() for path in (xlsx, ods)}
