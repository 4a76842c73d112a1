"""Those who train: distsent, Hugging Face Trainer, Horovod's documented example.

Each takes (work, folder) and gives its speed over the steps after `work.warm`, and the losses of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.launch import horovodrun, run, script, torchrun
from benchmarks.workload import Workload

Contestant = Callable[[Workload, Path], dict[str, Any]]


def distsent(work: Workload, folder: Path) -> dict[str, Any]:
    """`python -m distsent.train`; speed from the counters in metrics.jsonl (steps: planning, exchange and update included)."""
    keys = {
        "data.source": work.corpus, "data.max_length": work.max_length, "data.max_eval_rows": 16,
        "data.store": Path(work.corpus).parent / "stores", "model.name": work.encoder, "train.precision": work.precision,
        "train.batch_size": work.batch_size, "train.max_steps": work.steps, "train.seed": work.seed, "optim.name": "adamw",
        "optim.lr": work.lr, "optim.weight_decay": 0.0, "optim.warmup": 0.0, "optim.clip_norm": 1.0, "eval.every": "end",
        "log.every": 1, "log.tensorboard": "false", "run.dir": folder, "job.name": "run",
        **({} if work.dropout is None else {"model.dropout": work.dropout}),
    }  # fmt: skip
    command = [
        *horovodrun(work),
        "distsent.train",
        *(f"{key}={value}" for key, value in keys.items()),
    ]
    ended = run(command, work, folder, first="run/metrics.jsonl")
    steps = [
        line for line in map(json.loads, (folder / "run" / "metrics.jsonl").open()) if "lr" in line
    ]
    first, last = steps[work.warm - 1], steps[-1]
    result, seconds = (
        json.loads((folder / "run" / "result.json").read_text())["train"],
        last["seconds"] - first["seconds"],
    )
    return {
        "examples_per_second": (last["samples"] - first["samples"]) / seconds,
        "tokens_per_second": (last["tokens"] - first["tokens"]) / seconds,
        "losses": [line["loss"] for line in steps],
        "first_step": ended.first_step,
        "memory_bytes": result["peak_memory_bytes"],
        "bytes_per_step": result["bytes_exchanged"] / work.steps,
        "mfu": result["mfu"],
    }


def one_process(work: Workload, folder: Path) -> dict[str, Any]:
    """distsent without Horovod on as many cores: one process that has all the threads."""
    return distsent(replace(work, workers=1, threads=work.workers * work.threads), folder)


def trainer(strategy: str) -> Contestant:
    """Hugging Face Trainer under torchrun; `strategy`: its train_sampling_strategy."""
    return lambda work, folder: script(torchrun(work), "trainer", work, folder, strategy=strategy)


def horovod_example(work: Workload, folder: Path) -> dict[str, Any]:
    """Horovod's documented example: DistributedSampler, DistributedOptimizer, every row padded to `work.pad` tokens."""
    return script(horovodrun(work), "horovod_example", work, folder)
