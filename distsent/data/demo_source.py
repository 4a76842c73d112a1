"""The demo dataset as a source of rows."""

from __future__ import annotations

import pyarrow as pa

from distsent.data import demo
from distsent.data.rows import SPLITS, Columns, Part
from distsent.data.sample import table_columns
from distsent.errors import UserError
from distsent.formats.column_choice import SAMPLE, Column
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection


class DemoReviews:
    """Its splits and rows."""

    splits, notes = tuple(demo.SIZES), ()

    def __init__(self, data: DataSection) -> None:
        for split in SPLITS:
            if (value := getattr(data, split)) is not None:
                fix = "the demo dataset has its own splits; set data.source, or data.train, too"
                raise UserError(f"data.{split} = {to_toml_value(value)}: {fix}")

    def fingerprint(self) -> str:
        return demo.FINGERPRINT

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(f"demo {split}", ["text", "label"])]

    def sample(self, split: str, most: int | None = SAMPLE) -> list[tuple[str, list[Column]]]:
        (part,) = self.parts(split, Columns("text", None, "label"))
        return [(part.name, table_columns(part.table.slice(0, most)))]

    def parts(self, split: str, columns: Columns) -> list[Part]:
        reviews = demo.reviews()[split]
        names = {new: old for new, old in columns.in_file(["text", "label"]).items()}
        values = {"text": reviews.texts, "label": reviews.labels}
        table = pa.table({new: values[old] for new, old in names.items()})
        return [Part(f"demo {split}", table, demo.LABEL_NAMES)]
