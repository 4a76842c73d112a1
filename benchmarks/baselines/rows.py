"""The rows of a split, tokenized, as plain lists; and a sampler in distsent's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from distsent.batching.sampler import BatchSampler


def rows(work: dict[str, Any], tokenizer: Any, split: str = "train") -> list[dict[str, Any]]:
    """All rows: input_ids (truncated to max_length) and label."""
    table = pq.read_table(f"{work['dataset']}/{split}.parquet").to_pydict()
    ids = tokenizer(table["text"], truncation=True, max_length=work["max_length"])["input_ids"]
    return [{"input_ids": x, "label": y} for x, y in zip(ids, table["label"], strict=True)]


class SameOrder:
    """A sampler that yields distsent's global batches, split evenly: one batch is one step."""

    def __init__(self, work: dict[str, Any], rows: int, rank: int = 0, size: int = 1) -> None:
        self.batches = BatchSampler(rows, work["batch_size"], work["seed"])
        self.rank, self.size = rank, size

    def __len__(self) -> int:
        return self.batches.rows // self.size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.batches.steps_per_epoch):
            yield from self.batches.batch(step)[self.rank :: self.size].tolist()
