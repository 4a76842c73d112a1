"""What a contest is held over: rows, an encoder, a recipe - the same for all who take part."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Workload:
    corpus: str  # a folder with train.parquet and test.parquet (text, label), or its name in the folder DISTSENT_DATA
    encoder: (
        str  # minilm, distilbert (its shape, random weights), or a folder in Hugging Face's layout
    )
    precision: str = "bf16"
    task: str = "train"  # or "score"
    max_length: int = 512
    rows: int = 8192  # of the corpus, drawn once for all
    steps: int = 30  # of a run
    warm: int = (
        5  # steps at its begin that no speed is taken over: allocations, caches, first shapes
    )
    batch_size: int = 64  # over all workers when training; of one worker when scoring
    workers: int = 2
    threads: int = 1  # a worker
    pad: int = 128  # tokens that Horovod's example pads every row to
    lr: float = 1e-4
    dropout: float | None = None  # None: the encoder's own
    seed: int = 42
    order: str = (
        "own"  # each its own order of rows; "distsent": all take distsent's, to compare curves
    )


def override(work: Workload, assignments: dict[str, str]) -> Workload:
    """`work` with some fields set from text. Raises KeyError for a name that is no field."""
    kinds = {field.name: field.type for field in fields(Workload)}
    convert = {"int": int, "float": float, "float | None": float, "str": str}
    return replace(
        work, **{name: convert[str(kinds[name])](text) for name, text in assignments.items()}
    )
