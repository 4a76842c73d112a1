"""How cost grows with the corpus: preparing it, training on it, the memory of a worker.

From a thousand generated rows to two million; a tiny encoder, so that growth is not hidden behind matrix products.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import materials
from benchmarks.comparison import about
from benchmarks.launch import PYTHON, horovodrun, run
from benchmarks.workload import Workload

ROWS = (1_000, 10_000, 100_000, 1_000_000, 2_000_000)
STEPS, WARM = 120, 20
WORK = Workload("generated", "tiny", "float32", max_length=64, batch_size=64)
PIECE = 100_000  # rows generated at once
WORDS = [f"word{i}" for i in range(200)]


def corpus(rows: int, folder: Path) -> Path:
    """Texts of 4 to 28 words that differ from each other, and a label that nothing tells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    for split, n in (("train", rows), ("test", 64)):
        rng, words = np.random.default_rng(n), np.array(WORDS)
        with pq.ParquetWriter(folder / f"{split}.parquet", schema) as file:
            for start in range(0, n, PIECE):
                count = min(PIECE, n - start)
                cuts = np.cumsum(rng.integers(4, 29, count))
                parts = np.split(words[rng.integers(0, len(words), cuts[-1])], cuts[:-1])
                texts = [f"{start + i} {' '.join(part)}" for i, part in enumerate(parts)]
                file.write_table(
                    pa.table({"text": texts, "label": rng.integers(0, 2, count)}, schema)
                )
    return folder


def encoder(folder: Path) -> Path:
    """BERT-tiny's shape with random weights, and BERT's words."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(materials.encoder("minilm", folder)).save_pretrained(folder)
    return folder


class Watch(threading.Thread):
    """The most memory of its own, in bytes, of a process with `word` on its command line. A context; looks twice a second."""

    def __init__(self, word: str) -> None:
        super().__init__(daemon=True)
        self.most, self._word, self._over = 0, word.encode(), threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if self._word in (folder / "cmdline").read_bytes().split(b"\0"):
                        found = re.search(r"RssAnon:\s+(\d+) kB", (folder / "status").read_text())
                        self.most = max(self.most, int(found[1]) * 1024 if found else 0)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()


def measure(rows: int, model: Path, folder: Path) -> dict[str, Any]:
    """Seconds of `prepare` on one rank and on two, then cost, start-up and memory of training on two workers."""
    source = corpus(rows, folder / "corpus")
    keys = [
        f"data.source={source}", f"model.name={model}", f"data.max_length={WORK.max_length}", "job.name=run", f"run.dir={folder}",
        f"train.batch_size={WORK.batch_size}", f"train.max_steps={STEPS}", "log.every=1", "log.tensorboard=false", "eval.every=end",
    ]  # fmt: skip
    prepare = {}
    for ranks in (1, 2):
        launcher = (
            ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", *PYTHON]
            if ranks == 2
            else PYTHON
        )
        began = time.perf_counter()
        run(
            [*launcher, "distsent.prepare", *keys, f"data.store={folder}/stores{ranks}"],
            WORK,
            folder / f"prepare{ranks}",
        )
        prepare[ranks] = time.perf_counter() - began
    began = time.perf_counter()
    with Watch(f"run.dir={folder}") as watch:
        run(
            [*horovodrun(WORK), "distsent.train", *keys, f"data.store={folder}/stores2"],
            WORK,
            folder / "train",
        )
    whole = time.perf_counter() - began
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    steps = [line["seconds"] for line in lines if "lr" in line]
    each = np.diff(steps)[WARM:] / WORK.batch_size
    result = json.loads((folder / "run" / "result.json").read_text())["train"]
    return {
        "rows": rows, "prepare": prepare, "example": float(np.median(each)), "memory": result["peak_memory_bytes"],
        "own": watch.most, "around": whole - steps[-1],
    }  # fmt: skip


def report() -> str:
    lines = [
        "# Growth with the corpus",
        "",
        about(),
        "",
        f"Generated texts of 4 to 28 words, BERT-tiny's shape, 2 workers x 1 thread, global batch {WORK.batch_size}, "
        f"{STEPS} steps (the first {WARM} not counted). `prepare` includes its own start. "
        "Peak memory counts the mapped pages of the store, which the kernel may take back; memory of its own (RssAnon) does not.",
        "",
        "| rows | prepare, 1 rank | 2 ranks | training an example (median) | peak memory of worker 0 | of its own, either worker "
        "| start and end of a run |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        model = encoder(Path(scratch) / "model")
        for rows in ROWS:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                found = measure(rows, model, Path(folder))
            lines.append(
                f"| {rows:,} | {found['prepare'][1]:.1f} s | {found['prepare'][2]:.1f} s | {1e6 * found['example']:.0f} us | "
                f"{found['memory'] / 2**20:.0f} MiB | {found['own'] / 2**20:.0f} MiB | {found['around']:.1f} s |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"
