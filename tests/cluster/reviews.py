"""A small dataset of film reviews for runs on clusters: real ones if available, else synthetic."""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from pathlib import Path

TRAIN, TEST = 192, 64


def reviews(folder: Path) -> list[str]:
    """Write the dataset into `folder`. Returns the job keys that select it."""
    folder.mkdir(parents=True)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            table.writerows(_real(split, rows) or _synthetic(rows))
    return [f"data.source={folder}", "data.max_length=64"]


def common_words(folder: Path, count: int) -> list[str]:
    """The most frequent words of the dataset in `folder`."""
    with open(folder / "train.csv", newline="", encoding="utf-8") as file:
        words = Counter(word for row in csv.DictReader(file) for word in row["text"].split())
    return [word for word, _ in words.most_common(count)]


def _real(split: str, rows: int) -> list[list[str]]:
    path = Path(os.environ.get("DISTSENT_DATA", "/nonexistent"), "imdb", f"{split}.parquet")
    if not path.exists():
        return []
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["text", "label"])
    drawn = random.Random(1).sample(range(len(table)), rows)
    return [[row["text"], row["label"]] for row in table.take(drawn).to_pylist()]


def _synthetic(rows: int) -> list[list[str]]:
    draw, words = random.Random(1), [[f"{kind}{i}" for i in range(60)] for kind in ("good", "bad")]
    return [
        [" ".join(draw.choices(words[row % 2], k=draw.randint(3, 60))), row % 2]
        for row in range(rows)
    ]
