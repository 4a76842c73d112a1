"""The number of workers beyond which more is waste, and one line of advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distsent.job.job import Job
from distsent.planning.critical_batch import NoiseScale
from distsent.planning.hardware import Hardware
from distsent.planning.step_time import Prediction

WORTH = 0.5  # what an added worker must add, relative to those of the first machine
LEAST_STEPS = 100  # of a training: with fewer, warmup and schedule are no longer what they were


def last_worth_adding(predictions: Sequence[Prediction]) -> int:
    """The most workers of which each added at least half of what the first ones do.

    `predictions`: in ascending order of workers, from the fewest that share nothing with others.
    """
    first = predictions[0].samples_per_second / predictions[0].workers
    for i, after in enumerate(predictions[1:]):
        before = predictions[i]
        gained = after.samples_per_second - before.samples_per_second
        if gained < WORTH * first * (after.workers - before.workers):
            return before.workers
    return predictions[-1].workers


def counts_to_try(asked: Sequence[int], hardware: Hardware, batch_size: int) -> list[int]:
    """Worker counts that show where waste begins: those asked for, and full machines, doubled."""
    count = hardware.unit
    counts = {count, max(count, batch_size), *(each for each in asked if each >= count)}
    while count <= batch_size:
        counts.add(count)
        count *= 2
    return sorted(counts)


@dataclass(frozen=True)
class Question:
    """What the advice is about. `limit`: workers beyond which more is waste; `steps`: of the job.

    `larger`: workers, factor of the batch -> prediction; None if there are no such batches.
    `smaller`: token budget -> prediction for the workers that need most memory. `noise`: what a
    larger batch costs in examples, if that is known.
    """

    job: Job
    hardware: Hardware
    asked: Sequence[Prediction]
    best: Prediction  # on `limit` workers
    steps: int
    larger: Callable[[int, int], Prediction | None]
    smaller: Callable[[int], Prediction]
    noise: NoiseScale | None = None

    @property
    def full(self) -> Prediction:
        """For the workers that need most memory."""
        return max(self.asked, key=lambda each: each.memory or 0.0)


def advice(question: Question) -> str:
    """What to change first, in one line."""
    job, most, limit = question.job, question.asked[-1], question.best.workers
    memory, needed = question.hardware.memory, question.full.memory
    if memory is not None and needed is not None and needed > memory:
        return too_large(question, memory)
    unit = question.hardware.unit
    if most.workers <= limit:
        more = f"; more are, up to {limit:,}" if most.workers < limit else ""
        linear = f" ({most.of_machine:.0%} of linear)" if most.workers > unit else ""
        return f"{in_words(most.workers)} worth it{linear}{more}"
    if most.workers <= unit:
        return f"take {in_words(limit, '')}: {most.workers:,} share one machine, and are no faster"
    stop = f"take {'at most ' * (limit > 1)}{in_words(limit, '')} for batches of "
    stop += f"{job.train.batch_size:,}"
    few = f"leave less than {LEAST_STEPS} steps"
    beyond = [each.workers for each in question.asked if each.workers > limit]
    for count in reversed(beyond):
        found, factor = batches_for(question, count)
        if found is not None and question.steps >= LEAST_STEPS * factor:
            line = f"{stop}; {larger_batches(question, found, factor)}"
            rest = f"; batches for {most.workers:,} would {few}"
            return line + (rest if count < most.workers else "")
    if found is None:
        return f"{stop}: the dataset has no batches that are large enough for {beyond[0]:,}"
    size = factor * job.train.batch_size
    return f"{stop}: the batches of {size:,} that {beyond[0]:,} need would {few}"


def batches_for(question: Question, workers: int) -> tuple[Prediction | None, int]:
    """The factor of the batch with which so many workers reach half of linear, if there is one."""
    factor = 2
    while (found := question.larger(workers, factor)) is not None and found.of_machine < WORTH:
        factor *= 2
    return found, factor


def in_words(workers: int, verb: str = " are") -> str:
    return f"one worker{verb and ' is'}" if workers == 1 else f"{workers:,} workers{verb}"


def larger_batches(question: Question, found: Prediction, factor: int) -> str:
    """How to change the job, what the asked workers reach then, and what it costs in examples."""
    job, noise = question.job, question.noise
    keys = f"train.batch_size={factor * job.train.batch_size} "
    keys += f"optim.lr={job.optim.lr * math.sqrt(factor):.2g}"
    if job.train.max_steps:
        keys += f" train.max_steps={-(-job.train.max_steps // factor)}"
    reached = f"{found.workers:,} reach {found.of_machine:.0%} of linear"
    line = f"with {keys} (Adam: the root of the factor; check the scores), {reached}"
    if noise is None:
        cost = f"for the same loss they may need up to {factor} times the examples"
        return f"{line}; {cost}: the gradient noise scale is not known"
    seconds = noise.fewer_steps(job.train.batch_size, factor) * found.time.seconds
    share = seconds / question.best.time.seconds
    most = "" if noise.exact else "at most "
    time = f"{most}{share:.2g} of the time of {question.best.workers:,}"
    return f"{line}; {examples_needed(noise, job.train.batch_size, factor)}, in {time}"


def examples_needed(noise: NoiseScale, size: int, factor: int) -> str:
    """What batches `factor` times as large cost, by the noise scale."""
    most = "" if noise.exact else "at most "
    more = f"{most}{noise.more_examples(size, factor):.1f} times the examples"
    beyond = noise.exact and factor * size > noise.examples
    critical = f" (beyond the critical batch size of {noise.examples:,.0f})" if beyond else ""
    return f"for the same loss they need {more}{critical}"


def too_large(question: Question, memory: float) -> str:
    """The token budget that fits, if one does; else what else takes less memory."""
    job, full = question.job, question.full
    found = f"{in_words(full.workers, '')}: {(full.memory or 0.0) / 1e9:.1f} GB each, and there "
    found += f"are {memory / 1e9:.1f}"
    budget = job.train.token_budget // 2
    while budget >= job.data.max_length:
        if (question.smaller(budget).memory or 0.0) <= memory:
            return f"{found}: train.token_budget={budget} fits; the rest of a share is accumulated"
        budget //= 2
    ways = [] if job.train.recompute else ["train.recompute=true"]
    if job.adapter.kind == "none":
        ways.append("adapter.kind=lora")
    elif job.adapter.bits != 4:
        ways.append("adapter.bits=4")
    ways += ["a smaller data.max_length", "a smaller model"]
    return f"{found}, with any train.token_budget: take {' or '.join(ways)}"
