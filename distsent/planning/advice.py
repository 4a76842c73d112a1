"""The number of workers beyond which more is waste, and one line of advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from distsent.job.job import Job
from distsent.planning.critical_batch import NoiseScale
from distsent.planning.hardware import Hardware
from distsent.planning.step_time import Prediction

WORTH = 0.5  # what an added worker must add, relative to the first one
SPARE = 0.9  # of a device's memory: the rest is for libraries and fragments


def last_worth_adding(predictions: Sequence[Prediction]) -> int:
    """The most workers of which each added at least half of what the first one does.

    `predictions`: in ascending order of workers, from one worker on.
    """
    first = predictions[0].samples_per_second
    for i, after in enumerate(predictions[1:]):
        before = predictions[i]
        gained = after.samples_per_second - before.samples_per_second
        if gained < WORTH * first * (after.workers - before.workers):
            return before.workers
    return predictions[-1].workers


def counts_to_try(asked: Sequence[int], hardware: Hardware, batch_size: int) -> list[int]:
    """Worker counts that show where waste begins: those asked for, and full machines, doubled."""
    counts, count = {1, *asked}, 1 if len(hardware.speeds) == 1 else hardware.workers_per_machine
    while count <= batch_size:
        counts.add(count)
        count *= 2
    return sorted(counts)


def advice(
    asked: Sequence[Prediction],
    limit: int,
    hardware: Hardware,
    job: Job,
    larger: Callable[[int], Prediction | None],
    noise: NoiseScale | None = None,
) -> str:
    """What to change first.

    `larger`: factor of the batch -> prediction for the most workers, None if there are no such
    batches. `noise`: what a larger batch costs in examples, if that is known.
    """
    full = max(asked, key=lambda each: each.memory)
    if hardware.memory is not None and full.memory > SPARE * hardware.memory:
        return too_large(full, SPARE * hardware.memory, job)
    most = asked[-1]
    if most.workers <= limit:
        return f"{most.workers} workers are worth it ({most.efficiency:.0%} of linear)"
    size = job.train.batch_size
    stop = f"take at most {limit} for batches of {size}"
    factor = 2
    while (found := larger(factor)) is not None and found.efficiency < WORTH:
        factor *= 2
    if found is None:
        return f"{stop}: the dataset has no batches for {most.workers}"
    lr = f"optim.lr={job.optim.lr * math.sqrt(factor):.2g}"
    needed = "" if noise is None else f"; {examples_needed(noise, size, factor)}"
    return (
        f"{stop}; with train.batch_size={factor * size} {lr} (Adam: the root of the factor; "
        f"check the scores), {most.workers} reach {found.efficiency:.0%} of linear{needed}"
    )


def examples_needed(noise: NoiseScale, size: int, factor: int) -> str:
    """What batches `factor` times as large cost, by the noise scale."""
    most = "" if noise.exact else "at most "
    more = f"{most}{noise.more_examples(size, factor):.1f} times the examples"
    needed = f"for the same loss they need {more}"
    critical = f"beyond the critical batch size of {noise.examples:,.0f}"
    return f"{needed}: {critical}" if noise.exact and factor * size > noise.examples else needed


def too_large(full: Prediction, memory: float, job: Job) -> str:
    """The token budget that fits, if one does."""
    found = f"{full.workers} workers: {full.memory / 1e9:.1f} GB each, {memory / 1e9:.1f} usable"
    budget = job.train.token_budget
    room, longest = memory - full.states, job.data.max_length
    while budget >= longest and full.activations * budget / job.train.token_budget > room:
        budget //= 2
    if budget < longest:
        return f"{found}: take a smaller encoder, a smaller data.max_length or adapter.kind=lora"
    return f"{found}: train.token_budget={budget} fits; the rest of a share is accumulated"
