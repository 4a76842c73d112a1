"""Cost as the dataset grows: preparation, training, memory of a worker.

From a thousand generated rows to two million, with a tiny encoder, so that matrix products do not
hide the growth.
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
STEPS, WARMUP = 120, 20
WORK = Workload("generated", "tiny", "float32", max_length=64, batch_size=64)
CHUNK = 100_000  # rows generated at once
WORDS = [f"word{i}" for i in range(200)]
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np"]


def dataset(rows: int, folder: Path) -> Path:
    """Distinct texts of 4 to 28 words, with random labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    for split, n in (("train", rows), ("test", 64)):
        rng, words = np.random.default_rng(n), np.array(WORDS)
        with pq.ParquetWriter(folder / f"{split}.parquet", schema) as file:
            for start in range(0, n, CHUNK):
                count = min(CHUNK, n - start)
                cuts = np.cumsum(rng.integers(4, 29, count))
                parts = np.split(words[rng.integers(0, len(words), cuts[-1])], cuts[:-1])
                texts = [f"{start + i} {' '.join(part)}" for i, part in enumerate(parts)]
                columns = {"text": texts, "label": rng.integers(0, 2, count)}
                file.write_table(pa.table(columns, schema))
    return folder


def encoder(folder: Path) -> Path:
    """BERT-tiny's shape with random weights, and BERT's vocabulary."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(materials.encoder("minilm", folder)).save_pretrained(folder)
    return folder


class PeakMemory(threading.Thread):
    """Context manager: peak anonymous memory (RssAnon) over processes with `word` as an argument.

    Samples twice a second. `bytes` is the peak of the largest process.
    """

    def __init__(self, word: str) -> None:
        super().__init__(daemon=True)
        self.bytes, self._word, self._done = 0, word.encode(), threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.5):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if self._word in (folder / "cmdline").read_bytes().split(b"\0"):
                        text = (folder / "status").read_text()
                        found = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", text)
                        self.bytes = max(self.bytes, sum(map(int, found)) * 1024)

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self.join()


def measure(rows: int, model: Path, folder: Path) -> dict[str, Any]:
    """Seconds of `prepare` on one rank and on two; cost, startup and memory of training on two."""
    source = dataset(rows, folder / "dataset")
    keys = [
        f"data.source={source}", f"model.name={model}", f"data.max_length={WORK.max_length}",
        "job.name=run", f"run.dir={folder}", f"train.batch_size={WORK.batch_size}",
        f"train.max_steps={STEPS}", "log.every=1", "log.tensorboard=false", "eval.every=end",
    ]  # fmt: skip
    prepare = {}
    for ranks in (1, 2):
        launcher = [*MPIRUN, str(ranks), *PYTHON] if ranks > 1 else PYTHON
        command = [*launcher, "distsent.prepare", *keys, f"data.store={folder}/stores{ranks}"]
        start = time.perf_counter()
        run(command, WORK, folder / f"prepare{ranks}")
        prepare[ranks] = time.perf_counter() - start
    command = [*horovodrun(WORK), "distsent.train", *keys, f"data.store={folder}/stores2"]
    start = time.perf_counter()
    with PeakMemory(f"run.dir={folder}") as peak:
        run(command, WORK, folder / "train")
    total = time.perf_counter() - start
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    steps = [line["seconds"] for line in lines if "lr" in line]
    result = json.loads((folder / "run" / "result.json").read_text())["train"]
    return {
        "rows": rows,
        "prepare": prepare,
        "seconds_per_example": float(np.median(np.diff(steps)[WARMUP:])) / WORK.batch_size,
        "peak_memory": result["peak_memory_bytes"],
        "anonymous_memory": peak.bytes,
        "startup_and_end": total - steps[-1],
    }


def report() -> str:
    lines = [
        "# Growth with the dataset",
        "",
        about(),
        "",
        "Generated texts of 4 to 28 words, BERT-tiny's shape, 2 workers x 1 thread, global batch "
        f"{WORK.batch_size}, {STEPS} steps (the first {WARMUP} not counted). "
        "`prepare` includes its own startup. Peak memory includes the mapped pages of the token "
        "store, which the kernel may reclaim; anonymous memory (RssAnon) does not.",
        "",
        "| rows | prepare, 1 rank | 2 ranks | training per example (median) "
        "| peak memory of rank 0 | anonymous memory, largest worker | startup and end of a run |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        model = encoder(Path(scratch) / "model")
        for rows in ROWS:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                found = measure(rows, model, Path(folder))
            cells = [
                f"{rows:,}",
                *(f"{seconds:.1f} s" for seconds in found["prepare"].values()),
                f"{1e6 * found['seconds_per_example']:.0f} us",
                f"{found['peak_memory'] / 2**20:.0f} MiB",
                f"{found['anonymous_memory'] / 2**20:.0f} MiB",
                f"{found['startup_and_end']:.1f} s",
            ]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"
