"""Systems that train: distsent, Hugging Face Trainer, Horovod's documented example.

Each takes (work, folder) and returns its speed after `work.warmup` steps and all losses.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.comparison import System
from benchmarks.launch import horovodrun, run, script, torchrun
from benchmarks.workload import Workload

LORA = {"adapter.kind": "lora", "adapter.rank": 8, "adapter.targets": ["q_proj", "v_proj"]}


def distsent(work: Workload, folder: Path, adapter: dict[str, Any] | None = None) -> dict[str, Any]:
    """`python -m distsent.train`.

    Speed comes from metrics.jsonl: planning, all-reduce and optimizer step are included.
    """
    keys = {
        "data.source": work.dataset, "data.max_length": work.max_length,
        "data.max_eval_rows": 16, "data.store": Path(work.dataset).parent / "stores",
        "model.name": work.encoder, "train.precision": work.precision,
        "train.batch_size": work.batch_size, "train.max_steps": work.steps,
        "train.seed": work.seed, "optim.name": "adamw", "optim.lr": work.lr,
        "optim.weight_decay": 0.0, "optim.warmup": 0.0, "optim.clip_norm": 1.0,
        "eval.every": "end", "log.every": 1, "log.tensorboard": "false",
        "run.dir": folder, "job.name": "run",
    }  # fmt: skip
    if work.dropout is not None:
        keys["model.dropout"] = work.dropout
    words = [f"{key}={value}" for key, value in {**keys, **(adapter or {})}.items()]
    command = [*horovodrun(work), "distsent.train", *words]
    done = run(command, work, folder, marker="run/metrics.jsonl")
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").open())
    steps = [line for line in lines if "lr" in line]
    first, last = steps[work.warmup - 1], steps[-1]
    seconds = last["seconds"] - first["seconds"]
    timed = zip(steps[work.warmup - 1 :], steps[work.warmup :], strict=False)
    arithmetic = sum(now["mfu"] * (now["seconds"] - before["seconds"]) for before, now in timed)
    result = json.loads((folder / "run" / "result.json").read_text())["train"]
    return {
        "examples_per_second": (last["samples"] - first["samples"]) / seconds,
        "tokens_per_second": (last["tokens"] - first["tokens"]) / seconds,
        "losses": [line["loss"] for line in steps],
        "first_step": done.first_step,
        "memory_bytes": result["peak_memory_bytes"],
        "bytes_per_step": result["bytes_exchanged"] / work.steps,
        "mfu": arithmetic / seconds,
    }


def one_process(work: Workload, folder: Path) -> dict[str, Any]:
    """distsent without Horovod on as many cores: one process with all the threads."""
    return distsent(replace(work, workers=1, threads=work.workers * work.threads), folder)


def distsent_lora(work: Workload, folder: Path) -> dict[str, Any]:
    """LoRA of rank 8 for the queries and values of each layer of a decoder."""
    return distsent(work, folder, LORA)


def distsent_lora_16(work: Workload, folder: Path) -> dict[str, Any]:
    """`distsent_lora`, the frozen weights in the 16 bits in which they are published."""
    return distsent(work, folder, {**LORA, "adapter.bits": 16})


def trainer(
    strategy: str, adapter: str = "none", attention: str | None = None, dtype: str = "float32"
) -> System:
    """Hugging Face Trainer under torchrun; `strategy`: its train_sampling_strategy.

    `adapter` = "lora": that of `distsent_lora`. `attention`: transformers' implementation.
    `dtype`: of the weights; "auto", which is transformers' default, as they are published.
    """
    chosen = {"strategy": strategy, "adapter": adapter, "attention": attention, "dtype": dtype}
    return lambda work, folder: script(torchrun(work), "trainer", work, folder, **chosen)


def horovod_example(work: Workload, folder: Path) -> dict[str, Any]:
    """Horovod's documented example; every row is padded to `work.pad` tokens."""
    return script(horovodrun(work), "horovod_example", work, folder)
