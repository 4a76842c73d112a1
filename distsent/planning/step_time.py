"""A step's time by part, and what follows from it: a pure function of work, hardware and job.

    step = compute of the slowest worker + exchange that backward does not hide + update + planning

The step waits for its slowest worker, so the maximum is taken step by step, before the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from distsent.planning.hardware import Hardware
from distsent.planning.work import ModelSize, Work
from distsent.training.worker_memory import SAVED

SAVE_RATE = 3e9  # bytes per second of that copy (benchmarks/results/amx/saves.md)


@dataclass(frozen=True)
class Run:
    """What a job does beside its steps."""

    steps: int
    evaluations: int  # of the watched split
    watched_flops: float  # forward pass over the watched split
    final_flops: float  # over all evaluation splits, at the end
    save_every: float  # seconds
    backward: float = 2 / 3  # share of backward in forward and backward


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, by part."""

    compute: float
    exchange: float
    update: float
    planning: float

    @property
    def seconds(self) -> float:
        return self.compute + self.exchange + self.update + self.planning


@dataclass(frozen=True)
class Prediction:
    """A job on a number of workers.

    `efficiency` is relative to one worker, 1.0 at best. `of_machine`: to a full machine if its
    workers share cores, so that one worker alone is faster than each of them.
    """

    workers: int
    machines: int
    idle: int
    time: StepTime
    samples_per_second: float
    tokens_per_second: float
    efficiency: float
    of_machine: float
    hours: float
    cost: float | None
    memory: float | None  # bytes of the worker that needs most; None: not known


def step_time(work: Work, hardware: Hardware, backward: float = 2 / 3) -> StepTime:
    """The parts of a step of `work.workers` workers."""
    speed, workers = hardware.speed(work.workers), work.workers
    compute = float(speed.compute(work.micro_batches_SR, work.flops_SR).max(axis=1).mean())
    if (shared := hardware.shared_times(workers)) is not None:
        return StepTime(compute, shared.exchange, shared.update, work.planning)
    link = hardware.link(workers)
    exchange = link.seconds(work.messages, workers)
    if hardware.overlaps(workers):
        # Only the last micro-batch's backward can hide buckets.
        last = compute * backward / max(1.0, float(work.micro_batches_SR.max(axis=1).mean()))
        tail = link.seconds(work.messages[-work.late :], workers)
        exchange = max(tail, exchange - last)
    return StepTime(compute, exchange, speed.update, work.planning)


def predict(
    work: Work, alone: Work, unit: Work, hardware: Hardware, model: ModelSize, run: Run
) -> Prediction:
    """`alone`, `unit`: the work of one worker, and that of a unit of the hardware."""
    workers, speed = work.workers, hardware.speed(work.workers)
    time = step_time(work, hardware, run.backward)
    one, machine = (step_time(each, hardware, run.backward).seconds for each in (alone, unit))
    evaluated = run.evaluations * run.watched_flops + run.final_flops
    stepping = run.steps * time.seconds + evaluated * speed.flop / workers
    saves = run.evaluations + stepping / run.save_every
    hours = (stepping + saves * SAVED * model.trained / SAVE_RATE) / 3600
    return Prediction(
        workers=workers,
        machines=hardware.machines(workers),
        idle=work.idle,
        time=time,
        samples_per_second=work.examples / time.seconds,
        tokens_per_second=work.tokens / time.seconds,
        efficiency=one / (workers * time.seconds),
        of_machine=unit.workers * machine / (workers * time.seconds),
        hours=hours,
        cost=None if hardware.price is None else hardware.price * workers * hours,
        memory=memory_of(work, hardware, model),
    )


def memory_of(work: Work, hardware: Hardware, model: ModelSize) -> float | None:
    """Bytes of the main worker, which also writes checkpoints; None if they are not known."""
    if work.alive is None:
        return None
    memory, gpu = model.memory, hardware.gpu
    # Of moments that workers share, each writes a part.
    others = 1 - 1 / work.workers if hardware.shared_times(work.workers) else 0.0
    held = memory.held(gpu) - others * memory.zeros(gpu)
    return held + memory.step(work.alive, gpu) + memory.saving(gpu)
