"""A contest: one piece of work, and the commands that do it, with the same weights, rows, precision, threads and processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WARM = 5  # steps that no speed is taken over: allocations, caches, first shapes


@dataclass(frozen=True)
class Work:
    """What is to be trained: a folder with train.parquet, a saved encoder, a recipe."""

    corpus: str
    model: str
    precision: str = "bf16"
    max_length: int = 512
    batch_size: int = 64  # over all workers
    steps: int = 30
    workers: int = 2
    threads: int = 1
    lr: float = 1e-4
    dropout: float | None = None
    seed: int = 42


def environment(work: Work) -> dict[str, str]:
    import os

    venv = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{venv}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(work.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def distsent(work: Work, folder: Path) -> dict[str, Any]:
    """distsent under horovodrun. Speed comes from the counters in metrics.jsonl."""
    keys = {
        "data.source": work.corpus, "model.name": work.model, "data.max_length": work.max_length, "train.precision": work.precision,
        "train.batch_size": work.batch_size, "train.max_steps": work.steps, "train.seed": work.seed, "optim.lr": work.lr,
        "optim.name": "adamw", "optim.warmup": 0.0, "optim.clip_norm": 1.0, "eval.every": "end", "data.max_eval_rows": 16,
        "log.every": 1, "log.tensorboard": "false", "run.dir": folder, "data.store": folder.parent / "stores", "job.name": "run",
        **({} if work.dropout is None else {"model.dropout": work.dropout}),
    }  # fmt: skip
    overrides = [f"{key}={value}" for key, value in keys.items()]
    run(["horovodrun", "-np", str(work.workers), sys.executable, "-m", "distsent.train", *overrides], work, folder)
    steps = [line for line in map(json.loads, (folder / "run" / "metrics.jsonl").open()) if "lr" in line]
    first, last = steps[WARM - 1], steps[-1]
    result = json.loads((folder / "run" / "result.json").read_text())
    return {
        "examples_per_second": (last["samples"] - first["samples"]) / (last["seconds"] - first["seconds"]),
        "tokens_per_second": (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]),
        "losses": [line["loss"] for line in steps],
        "memory_bytes": result["train"]["peak_memory_bytes"],
        "bytes_per_step": result["train"]["bytes_exchanged"] / work.steps,
        "mfu": result["train"]["mfu"],
    }


def trainer(strategy: str) -> Callable[[Work, Path], dict[str, Any]]:
    """Hugging Face Trainer under torchrun; `strategy`: its train_sampling_strategy, or "same" for distsent's order of rows."""

    def compete(work: Work, folder: Path) -> dict[str, Any]:
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={work.workers}", "--master-port=29511"]
        return _script([*launch, "-m", "benchmarks.rivals.trainer"], {"strategy": strategy}, work, folder)

    return compete


def horovod_style(pad: int) -> Callable[[Work, Path], dict[str, Any]]:
    """Horovod's documented example: DistributedSampler, DistributedOptimizer, every row padded to `pad` tokens."""

    def compete(work: Work, folder: Path) -> dict[str, Any]:
        launch = ["horovodrun", "-np", str(work.workers), sys.executable]
        return _script([*launch, "-m", "benchmarks.rivals.horovod_style"], {"pad": pad}, work, folder)

    return compete


def _script(command: list[str], extra: dict[str, Any], work: Work, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "out.json"
    (folder / "work.json").write_text(json.dumps({**asdict(work), **extra, "warm": WARM, "out": str(out)}))
    run([*command, str(folder / "work.json")], work, folder)
    return json.loads(out.read_text())


def run(command: list[str], work: Work, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "w") as log:
        done = subprocess.run([str(x) for x in command], env=environment(work), stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{folder / 'log'}: {(folder / 'log').read_text()[-500:]}")
