"""The memory that a run is expected to take, told before its first step, and what to change."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from distsent.batching.balance import micro_batches
from distsent.batching.batch_plan import BatchPlan
from distsent.distributed.world import World
from distsent.job.job import Job
from distsent.runtime.cgroup import memory_left
from distsent.training.train_step import TrainStep
from distsent.training.worker_memory import WorkerMemory, worker_memory

STEPS = 8  # whose micro-batches are looked at


@dataclass(frozen=True)
class Expected:
    """Bytes: in use `before` the first step, and what steps and checkpoints add at most."""

    before: float
    step: float
    saving: float
    tokens: int  # of the largest micro-batch
    budget: int | None  # the largest train.token_budget that fits; None: no other is needed
    free: float
    fits: bool

    def line(self, job: Job) -> str:
        parts = f"{gigabytes(self.before)} before the first step, {gigabytes(self.step)} for a "
        parts += f"micro-batch of {self.tokens:,} tokens"
        if self.saving > 0.01 * (self.before + self.step):
            parts += f", {gigabytes(self.saving)} for checkpoints"
        total = gigabytes(self.before + self.step + self.saving)
        line = f"memory: about {total} per worker ({parts}); {gigabytes(self.free)} are free"
        return line if self.fits else f"{line}: that does not fit; {less_memory(job, self.budget)}"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def less_memory(job: Job, budget: int | None = None) -> str:
    """What a job can change to take less memory. `budget`: one that is known to fit."""
    ways = [f"train.token_budget={budget}"] if budget else []
    if not budget and job.train.token_budget > job.data.max_length:
        ways = [f"a train.token_budget below {job.train.token_budget}"]
    ways += [] if job.train.recompute else ["train.recompute=true"]
    if job.adapter.kind == "none":
        ways.append("adapter.kind=lora")
    elif job.adapter.bits != 4 and job.model.name != "demo":
        ways.append("adapter.bits=4")
    return f"set {' or '.join(ways)}" if ways else "use fewer workers on each machine"


def expect(job: Job, world: World, plan: BatchPlan, step: TrainStep, precision: str) -> str | None:
    """A line about the memory of the worker that needs most; None if it cannot be counted.

    All workers call this, after all that lives as long as the run has been built.
    """
    ids = np.asarray(plan.tokens.ids[plan.tokens.window_spans(np.zeros(1, np.int64))[0]])
    counted = worker_memory(step.forward, precision, ids, job.data.max_length)
    step.flat.grads.zero_()
    own = _own(job, world, plan, counted, world.size if step.flat.shared else 1)
    found: Any = world.allgather_object(own, "run.memory")
    if own is None or not all(found):
        return None
    worst = max(range(world.size), key=lambda rank: sum(found[rank]["bytes"]))
    here = [each for each in found if each["where"] == found[worst]["where"]]
    free = min(each["free"] for each in here)
    budgets = [
        budget
        for i, (budget, _) in enumerate(found[worst]["budgets"])
        if sum(each["budgets"][i][1] + each["bytes"][2] + each["zeros"] for each in here) <= free
    ]
    fits = sum(sum(each["bytes"][1:]) + each["zeros"] for each in here) <= free
    budget = max(budgets, default=None)
    before, most, saving = found[worst]["bytes"]
    tokens = found[worst]["tokens"]
    expected = Expected(before, most, saving, tokens, budget, free, fits)
    return expected.line(job)


def _own(
    job: Job, world: World, plan: BatchPlan, memory: WorkerMemory, sharing: int
) -> dict[str, Any] | None:
    """What this worker knows: bytes before, of a step and of checkpoints; where; what is free.

    `sharing`: the workers that write to one copy of the moments.
    """
    if memory.activations is None:
        return None
    budgets = [job.train.token_budget]
    while budgets[-1] // 2 >= job.data.max_length:
        budgets.append(budgets[-1] // 2)
    largest = [largest_step(plan, budget, memory) for budget in budgets]
    before, free, where = memory_of(plan.device)
    gpu = plan.device.type == "cuda"
    zeros, saving = memory.zeros(gpu) / sharing, memory.saving(gpu) if world.is_main else 0.0
    return {
        "bytes": [before + zeros, largest[0][0], saving],
        "zeros": zeros,
        "tokens": largest[0][1],
        "budgets": [(budget, most) for budget, (most, _) in zip(budgets, largest, strict=True)],
        "where": where,
        "free": free,
    }


def largest_step(plan: BatchPlan, budget: int, memory: WorkerMemory) -> tuple[float, int]:
    """Bytes of this worker's micro-batch that takes most, of the first steps, and its tokens."""
    best, counted = (0.0, 0), memory.activations
    assert counted is not None
    for step in range(min(STEPS, plan.sampler.steps_per_epoch)):
        rows, lengths, owner = plan.assigned(step)
        own, own_lengths = rows[owner == plan.rank], lengths[owner == plan.rank]
        for group in micro_batches(own_lengths, budget):
            windows = plan.tokens.window_lengths(own[group])
            most = memory.step(counted.bytes(windows), plan.device.type == "cuda")
            best = max(best, (most, int(windows.sum())))
    return best


def memory_of(device: torch.device) -> tuple[float, float, Sequence[str]]:
    """Bytes that this process uses, those that are free beside them, and where."""
    host = socket.gethostname()
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        used = torch.cuda.memory_allocated(device)
        unused = torch.cuda.memory_reserved(device) - used
        return float(used), float(free + unused), [host, str(device)]
    left = memory_left()
    free = psutil.virtual_memory().available
    used = psutil.Process().memory_info().rss
    return float(used), float(free if left is None else min(free, left)), [host, "cpu"]
