"""A workload: rows, encoder and recipe, the same for every system of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar


@dataclass(frozen=True)
class Workload:
    on_gpu: ClassVar[bool] = False

    # A folder with train.parquet and test.parquet (text, label), or its name under DISTSENT_DATA.
    dataset: str
    encoder: str  # minilm, distilbert (its shape, random weights), or a Hugging Face model folder
    precision: str = "bf16"
    task: str = "train"  # or "score"
    max_length: int = 512
    rows: int = 8192  # of the dataset, drawn once for all systems
    steps: int = 30  # per run
    warmup: int = 5  # untimed first steps: allocations, caches, first shapes
    batch_size: int = 64  # training: the global batch; scoring: per worker
    workers: int = 2
    threads: int = 1  # per worker
    pad: int = 128  # tokens to which Horovod's example pads every row
    lr: float = 1e-4
    dropout: float | None = None  # None: the encoder's own
    seed: int = 42
    order: str = "own"  # "distsent": every system takes distsent's order of rows, to compare curves


def override(work: Workload, assignments: dict[str, str]) -> Workload:
    """`work` with some fields set from text. Raises KeyError for an unknown field."""
    kinds = {field.name: str(field.type) for field in fields(Workload)}
    convert = {"int": int, "float": float, "float | None": float, "str": str}
    values = {name: convert[kinds[name]](text) for name, text in assignments.items()}
    return replace(work, **values)
