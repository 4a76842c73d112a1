"""Predicted step times against measured ones here, and a simulation against published scaling.

    python -m benchmarks plan

Measured: real workers over the real all-reduce. Where there are more of them than cores, each waits
as long as its share would take on a core of its own, so that only the exchange is shared. The
predictions come from a calibration in each round, as `python -m distsent.plan` makes it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import materials, published
from benchmarks.comparison import about
from benchmarks.launch import PYTHON, run
from benchmarks.table import spread
from benchmarks.workload import Workload
from distsent.job import Job, load_job, load_saved_job
from distsent.planning import calibrate
from distsent.planning.hardware import Hardware
from distsent.planning.job_parts import JobParts, open_parts
from distsent.planning.speed import Speed
from distsent.planning.step_time import StepTime, step_time
from distsent.runtime.signals import StopSignal

COUNTS = 1, 2, 4, 8
ROUNDS, STEPS, WARMUP = 5, 30, 5
WORK = Workload("emotion", "minilm", "float32", max_length=64, batch_size=64, rows=4096)


@dataclass(frozen=True)
class Measure:
    """What one worker of a measurement does. `waits`: the speed to imitate, None: the real step."""

    job: dict[str, Any]
    steps: int
    waits: dict[str, float] | None
    out: str


def worker(file: str) -> None:
    """One worker: write the seconds of each step."""
    import torch

    from distsent.distributed.launchers import init_world
    from distsent.runtime import device as devices
    from distsent.training.build import build_plan, build_step, open_model
    from distsent.training.inputs import prepare_store, prepare_tokenizer

    measure, stop = Measure(**json.loads(Path(file).read_text())), StopSignal(0.0)
    job, world, cpu = load_saved_job(measure.job, file), None, torch.device("cpu")
    world = init_world(job.run.transport)
    devices.share_cores(world)
    tokenizer = prepare_tokenizer(job)
    store = prepare_store(job, tokenizer, world, stop, None)
    _, forward, precision = open_model(job, world, job.train.precision, tokenizer, store, cpu)
    plan = build_plan(job, store, forward, world, cpu, precision)
    step = build_step(job, store, forward, world, cpu, precision, measure.steps)
    forward.model.train()
    if measure.waits is None:
        steps: Iterator[Callable[[], object]] = (
            lambda number=number: step(plan.batch(number)) for number in range(measure.steps)
        )
    else:
        batches = [plan.batch(number) for number in range(measure.steps)]
        steps = (waiting(measure, plan, step, batch) for batch in batches)
    found = []
    world.barrier()
    for take in steps:
        start = time.perf_counter()
        take()
        found.append(time.perf_counter() - start)
    if world.is_main:
        Path(measure.out).write_text(json.dumps(found))
    world.shutdown()


def waiting(measure: Measure, plan: Any, step: Any, batch: Any) -> Callable[[], object]:
    """A step whose compute, update and planning are waits; its exchange is real."""
    from distsent.planning.worker import work_of

    assert measure.waits is not None
    planning = measure.waits["planning"]
    speed = Speed(*(measure.waits[name] for name in ("update", "micro_batch", "flop")))
    compute = speed.micro_batch * len(batch.micro_rows) + speed.flop * work_of(plan, batch)

    def take() -> None:
        time.sleep(planning + compute)
        step.reducer.reduce(batch.token_ids)
        time.sleep(speed.update)

    return take


def measured_step(job: Job, count: int, waits: dict[str, float] | None, folder: Path) -> float:
    """Median seconds of a step of `count` workers."""
    folder.mkdir(parents=True)
    out, written = folder / "out.json", folder / "measure.json"
    written.write_text(json.dumps(asdict(Measure(job.to_dict(), STEPS, waits, str(out)))))
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    launcher = [*PYTHON, "distsent.launch", "--nproc-per-node", str(count), "-m"]
    run([*launcher, "benchmarks.plan", str(written)], replace(WORK, threads=threads), folder)
    return statistics.median(json.loads(out.read_text())[WARMUP:])


def calibrated(job: Job, parts: JobParts, stop: StopSignal) -> Hardware:
    """This machine, as if it had a core for each of the most workers.

    Its speed is measured with as many workers as it has cores, its all-reduce with all numbers.
    """
    cores, messages = calibrate.local_workers(), parts.work(1).messages
    shares = calibrate.shares_to_run(COUNTS, cores, job.train.batch_size)
    crowded = {count: [job.train.batch_size] for count in COUNTS if count > cores}
    found = calibrate.calibrate(job, {**shares, **crowded}, messages, stop)
    whole = calibrate.measured_hardware(found, None)
    speeds = {count: speed for count, speed in whole.speeds.items() if count <= cores}
    return replace(whole, speeds=speeds)


def against_measured(folder: Path) -> list[str]:
    """A line of the table for each number of workers.

    Each round predicts from a calibration of its own: the speed of a machine drifts.
    """
    work = replace(
        WORK,
        dataset=str(materials.dataset(WORK, folder / "dataset")),
        encoder=str(materials.encoder(WORK.encoder, folder / "encoder")),
    )
    job = load_job(
        None,
        [
            f"data.source={work.dataset}", f"model.name={work.encoder}",
            f"data.max_length={work.max_length}", f"train.batch_size={work.batch_size}",
            f"train.precision={work.precision}", f"run.dir={folder / 'runs'}",
            "train.share_weights=false",  # the all-reduce is tested, which machines need
        ],
    )  # fmt: skip
    stop, cores = StopSignal(), calibrate.local_workers()
    parts = open_parts(job, job.train.precision, stop)
    works = {count: parts.work(count) for count in COUNTS}
    predicted: dict[int, list[StepTime]] = {count: [] for count in COUNTS}
    measured: dict[int, list[float]] = {count: [] for count in COUNTS}
    for number in range(ROUNDS):
        hardware = calibrated(job, parts, stop)
        for count in COUNTS:
            speed = asdict(hardware.speed(count))
            waits = {**speed, "planning": works[count].planning} if count > cores else None
            predicted[count].append(step_time(works[count], hardware))
            place = folder / f"round{number}-{count}"
            measured[count].append(measured_step(job, count, waits, place))
            both = predicted[count][-1].seconds, measured[count][-1]
            print(f"round {number + 1}, {count}: {both[0]:.4f} {both[1]:.4f}", file=sys.stderr)
    kinds = {count: "real" if count <= cores else "waits" for count in COUNTS}
    return [row(count, kinds[count], predicted[count], measured[count]) for count in COUNTS]


def row(workers: int, kind: str, predicted: list[StepTime], measured: list[float]) -> str:
    """Medians of the rounds, in milliseconds."""
    seconds = [each.seconds for each in predicted]
    parts = [
        f"{1000 * statistics.median(getattr(each, part) for each in predicted):.1f}"
        for part in asdict(predicted[0])
    ]
    error = statistics.median(seconds) / statistics.median(measured) - 1
    spreads = [spread([1000 * value for value in values], 1) for values in (seconds, measured)]
    line = f"| {workers} | {kind} | {' + '.join(parts)} | {' | '.join(spreads)} | {error:+.1%} |"
    print(line, flush=True)
    return line


def report() -> str:
    with tempfile.TemporaryDirectory() as scratch:
        measured = against_measured(Path(scratch))
    return (
        "\n".join(
            [
                "# Predicted step times",
                "",
                about(),
                "",
                f"Emotion, MiniLM, {WORK.precision}, batches of {WORK.batch_size}, torch over Gloo "
                f"on one machine. Medians of {ROUNDS} rounds (lowest - highest), the median of "
                f"{STEPS - WARMUP} steps. Each round predicts from a calibration of its own. "
                "Compute: real, or a wait for the time of the share where there are more workers "
                "than cores.",
                "",
                "| workers | compute | predicted ms: compute + exchange + update + planning "
                "| predicted ms | measured ms | error |",
                "|---|---|---|---|---|---|",
                *measured,
                "",
                *published.report(),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    worker(sys.argv[1])
