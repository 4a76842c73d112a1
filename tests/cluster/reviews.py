"""A small corpus of film reviews for runs on clusters: real ones where they are at hand, else made ones."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path

TRAIN, TEST = 192, 64


def reviews(folder: Path) -> list[str]:
    """Write the corpus into `folder`; the keys that name it, but for where it is seen."""
    folder.mkdir(parents=True)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            table.writerows(_real(split, rows) or _made(rows))
    return [f"data.source={folder}", "data.max_length=64"]


def _real(split: str, rows: int) -> list[list[str]]:
    path = Path(os.environ.get("DISTSENT_DATA", "/nonexistent"), "imdb", f"{split}.parquet")
    if not path.exists():
        return []
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["text", "label"])
    drawn = random.Random(1).sample(range(len(table)), rows)
    return [[row["text"], row["label"]] for row in table.take(drawn).to_pylist()]


def _made(rows: int) -> list[list[str]]:
    draw = random.Random(1)
    return [[" ".join(draw.choices(["bad", "dull", "film"] if row % 2 else ["good", "fine", "film"], k=40)), row % 2]
            for row in range(rows)]  # fmt: skip
