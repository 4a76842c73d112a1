"""From a job to predictions: counts, measures or reads, and predicts each number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from distsent.job.job import Job
from distsent.planning import advice, calibrate
from distsent.planning.critical_batch import NoiseScale, batch_sizes, find_noise_scale
from distsent.planning.hardware import Description, Hardware, described_hardware
from distsent.planning.job_parts import JobParts, open_parts
from distsent.planning.step_time import Prediction, predict
from distsent.planning.work import Work
from distsent.runtime import device as devices
from distsent.runtime.signals import StopSignal


@dataclass(frozen=True)
class Planner:
    """A job on machines of one kind. `peak_memory`: measured, of the largest share that ran."""

    parts: JobParts
    hardware: Hardware
    precision: str
    peak_memory: int | None = None
    noise: NoiseScale | None = None
    about_noise: str = ""
    _works: dict[tuple[int, int, int | None], Work] = field(default_factory=dict)

    @classmethod
    def open(
        cls, job: Job, asked: Sequence[int], described: Description | None, stop: StopSignal
    ) -> Planner:
        """Measures for about a minute unless the machines are described. Raises UserError."""
        precision = choose_precision(job, described)
        parts = open_parts(job, "float32" if precision == "float32" else "bf16", stop)
        if described is not None and described.has_speed:
            trained = parts.model.trained
            hardware = described_hardware(described, precision, parts.layers, trained)
            return cls(parts, hardware, precision, None, *find_noise_scale(job))
        resolved = replace(job, train=replace(job.train, precision=precision))
        local = calibrate.local_workers()
        shares = calibrate.shares_to_run(asked, local, parts.job.train.batch_size)
        messages = parts.work(1).messages
        found = calibrate.calibrate(resolved, shares, messages, stop)
        hardware = calibrate.measured_hardware(found, described)
        return cls(parts, hardware, precision, found[-1].peak_memory, *find_noise_scale(job))

    def work(self, workers: int, factor: int = 1, budget: int | None = None) -> Work:
        """Counted once for each number of workers, factor of the batch size and token budget."""
        key = workers, factor, budget
        if key not in self._works:
            self._works[key] = self.parts.work(*key)
        return self._works[key]

    def predict(self, workers: int, factor: int = 1, budget: int | None = None) -> Prediction:
        counts = workers, 1, self.hardware.unit
        work, alone, unit = (self.work(count, factor, budget) for count in counts)
        return predict(work, alone, unit, self.hardware, self.parts.model, self.parts.run)

    def larger(self, workers: int, factor: int) -> Prediction | None:
        """With batches `factor` times as large; None if the dataset has none."""
        sampler = self.parts.plan.sampler
        fits = factor * sampler.batch_size <= sampler.rows
        return self.predict(workers, factor) if fits else None

    def limit(self, asked: Sequence[int]) -> int:
        """The number of workers beyond which more is waste."""
        size, unit = self.parts.job.train.batch_size, self.hardware.unit
        counts = advice.counts_to_try(asked, self.hardware, size)
        limit = advice.last_worth_adding([self.predict(count) for count in counts])
        if limit > unit:
            return limit
        # One machine: its workers share its cores, and fewer of them may be as fast.
        inside = [self.predict(count) for count in {1, unit, *asked} if count <= unit]
        return min(inside, key=lambda each: (-each.samples_per_second, each.workers)).workers

    def advice(self, asked: Sequence[int], limit: int) -> str:
        predictions = [self.predict(count) for count in asked]
        full = max(predictions, key=lambda each: each.memory or 0.0).workers
        question = advice.Question(
            self.parts.job,
            self.hardware,
            predictions,
            self.predict(limit),
            self.parts.run.steps,
            self.larger,
            partial(self.predict, full, 1),
            self.noise,
        )
        return advice.advice(question)

    def batch_sizes(self, workers: int, noise: NoiseScale) -> list[list[str]]:
        """Rows of a table of batch sizes."""
        larger = partial(self.larger, workers)
        return [*batch_sizes(noise, self.parts.job.train.batch_size, larger)]

    def notes(self, predictions: Sequence[Prediction]) -> Iterator[str]:
        """What the table rests on."""
        job, model, run = self.parts.job, self.parts.model, self.parts.run
        size = job.train.batch_size
        yield (
            f"{job.job.name}: {job.model.name}, {model.trained:,} trained parameters, "
            f"{run.steps:,} steps of {size}, {self.precision}; on {self.hardware.name}"
        )
        yield from self.hardware.notes
        yield (
            f"time: steps, {run.evaluations} evaluations, final scores, pauses of saves, roughly; "
            "not the start"
        )
        if self.peak_memory is not None:
            measured = f"{self.peak_memory / 1e9:.2f} GB"
            yield f"memory: of the training itself; a process here had {measured} at its peak"
        yield self.about_noise
        for each in predictions:
            if each.idle:
                have = f"{each.workers - each.idle} of {each.workers}"
                yield f"a batch has {size} examples: only {have} workers get any"


def choose_precision(job: Job, described: Description | None) -> str:
    """The job's precision; a choice that is left open is made as the machines would."""
    asked = job.train.precision
    if described is not None and described.has_speed:
        return described.fastest() if asked == "auto" else asked
    gpu = torch.cuda.is_available()
    return devices.resolve_precision(asked, torch.device("cuda:0" if gpu else "cpu"))[0]
