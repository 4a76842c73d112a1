"""The rows that all contestants train on, tokenised, as plain lists."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
from transformers import AutoTokenizer


def rows(work: dict[str, Any], tokenizer: Any = None) -> list[dict[str, Any]]:
    """All training rows: input_ids (cut at max_length) and label."""
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(work["model"])
    table = pq.read_table(f"{work['corpus']}/train.parquet").to_pydict()
    needed = table["text"]
    ids = tokenizer(needed, truncation=True, max_length=work["max_length"])["input_ids"]
    return [{"input_ids": x, "label": y, "length": len(x)} for x, y in zip(ids, table["label"], strict=True)]
