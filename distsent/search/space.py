"""SPACE.toml: the values that each key of a job may take, and how they are searched."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, product
from typing import Any, Self

from distsent.errors import UserError
from distsent.job.check import Assignment, check_assignments, shorten
from distsent.job.job import Job
from distsent.job.load import read_assignments, resolve
from distsent.job.schema import KEYS
from distsent.search.searchable import reason_against
from distsent.search.settings import MOST_TRIALS, Settings, read_settings
from distsent.storage import is_file

MOST_CHECKED = 500  # combinations that are checked before a sweep starts
DRAWS = 64  # random ones among them
RANGE = "low", "high", "log", "step"
EXAMPLE = "e.g. [16, 32] or { low = 1e-5, high = 1e-3, log = true }"

Parameters = Mapping[str, Any]  # by dotted key, as TOML has them


@dataclass(frozen=True)
class Dimension:
    """The values of one key: `values`, or those from `low` to `high`."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    integer: bool = False

    @property
    def options(self) -> Sequence[Any] | None:
        """All values, if they can be counted."""
        if self.values:
            return self.values
        if self.integer:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return None
        return [float(f"{self.low + i * self.step:.12g}") for i in range(self.steps + 1)]

    def holds(self, value: Any) -> bool:
        if self.options is not None:
            return value in self.options
        return isinstance(value, float) and self.low <= value <= self.high

    @property
    def steps(self) -> int:
        return math.floor((self.high - self.low) / (self.step or math.inf) + 1e-9)

    def at(self, share: float) -> Any:
        """The value at this share, from 0 to 1, of the way."""
        if (options := self.options) is not None:
            return options[min(len(options) - 1, int(share * len(options)))]
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        value = low + share * (high - low)
        return min(self.high, max(self.low, math.exp(value) if self.log else value))


@dataclass(frozen=True)
class Space:
    """What is searched. Without dimensions, with folds: the job itself on each fold."""

    dimensions: tuple[Dimension, ...]
    search: Settings

    @property
    def size(self) -> int | None:
        """The number of combinations, if they can be counted."""
        counts = [None if d.options is None else len(d.options) for d in self.dimensions]
        return None if None in counts else math.prod(filter(None, counts))

    def combinations(self) -> Iterator[dict[str, Any]]:
        """All of a space that can be counted; the last key changes the fastest."""
        keys = [each.key for each in self.dimensions]
        for values in product(*(each.options or () for each in self.dimensions)):
            yield dict(zip(keys, values, strict=True))

    def with_trials(self, trials: int | None) -> Self:
        """With this number of trials, if one is given, and never more than combinations."""
        wanted = trials or self.search.trials
        if self.size is not None:
            wanted = min(wanted, self.size)
        return replace(self, search=replace(self.search, trials=wanted))

    @property
    def untried(self) -> str:
        """A line if a grid has more combinations than a sweep may have trials; else empty."""
        trials, size = self.search.trials, self.size or 0
        if self.search.sampler != "grid" or trials < MOST_TRIALS or size <= trials:
            return ""
        return f"the grid has {size:,} combinations; a sweep tries the first {trials:,}"

    def holds(self, parameters: Parameters) -> bool:
        """Whether a trial of this space can have these."""
        return {each.key for each in self.dimensions} == parameters.keys() and all(
            each.holds(parameters[each.key]) for each in self.dimensions
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON, and to name what differs between two: the number of trials may."""
        search = {k: v for k, v in asdict(self.search).items() if k != "trials"}
        keys = {d.key: list(d.values) or _range(d) for d in self.dimensions}
        return {**{f"search.{name}": value for name, value in search.items()}, **keys}


def _range(each: Dimension) -> dict[str, Any]:
    return {name: value for name in RANGE if (value := getattr(each, name)) not in (None, False)}


def read_space(path: str, base: Sequence[Assignment], job: Job) -> Space:
    """The space in the file `path`, for a job and its keys, `base`.

    Raises UserError with a line per mistake: in the file, and in jobs that trials would have.
    """
    if not is_file(path):
        raise UserError(f"{path}: no such file; a space has the values of each key, {EXAMPLE}")
    items, errors = read_assignments(path)
    settings = [item for item in items if item.key == "search"]
    found = [_dimension(item, errors) for item in items if item.key != "search"]
    dimensions = tuple(each for each in found if each is not None)
    search = read_settings(path, settings[0].value if settings else {}, job, errors)
    if search is not None and not errors:
        space = Space(dimensions, search)
        errors += _conflicts(path, space, job)
        errors = errors or [*_wrong_jobs(path, space, base)]
    if errors or search is None:
        raise UserError(*(line.replace("\n", "\\n") for line in errors))
    return space.with_trials(None)


def parameters_as_keys(origin: str, parameters: Parameters) -> list[Assignment]:
    return [Assignment(origin, key, value) for key, value in parameters.items()]


def _dimension(item: Assignment, errors: list[str]) -> Dimension | None:
    """The values of a key; None, and an error more, if it cannot be searched by them."""
    lines: list[str] = []
    found: Dimension | None = None
    if item.key not in KEYS:
        lines = check_assignments([item])[1]
    elif reason := reason_against(item.key):
        lines = [item.error(f"cannot be searched: {reason}")]
    elif isinstance(item.value, list):
        found = Dimension(item.key, tuple(item.value))
        lines = [*_list_errors(item)]
    elif isinstance(item.value, dict):
        found = _read_range(item, lines)
    else:
        fixed = f"one value belongs in the job; a space has several, {EXAMPLE}"
        lines = [item.error(fixed)]
    errors += lines
    return None if lines else found


def _list_errors(item: Assignment) -> Iterator[str]:
    if not item.value:
        yield item.error(f"expected at least one value, {EXAMPLE}")
    for i, value in enumerate(item.value):
        yield from check_assignments([replace(item, value=value)])[1]
        if value in item.value[:i]:
            yield item.error(f"{shorten(value)} stands there twice")


def _read_range(item: Assignment, errors: list[str]) -> Dimension | None:
    given, key = item.value, KEYS[item.key]
    if unknown := [name for name in given if name not in RANGE]:
        errors.append(item.error(f"unknown {unknown[0]!r}; a range has {', '.join(RANGE)}"))
        return None
    ends = [given.get(name) for name in ("low", "high")]
    if any(type(end) not in (int, float) for end in ends):
        errors.append(item.error(f"a range has two numbers, low and high, {EXAMPLE}"))
        return None
    wrong = [line for x in ends for line in check_assignments([replace(item, value=x)])[1]]
    low, high = float(given["low"]), float(given["high"])
    integer = not key.accepts(low + 0.382 * (high - low))
    log, step = given.get("log", False), given.get("step")
    problems = {
        "low must be less than high": low >= high,
        "log must be true or false": type(log) is not bool,
        "log = true needs low > 0": log is True and low <= 0,
        "step must be a number > 0, at most high - low": step is not None
        and not (type(step) in (int, float) and 0 < step <= high - low),
        "a range has log or step, not both": bool(log) and step is not None,
        "step must be an integer here": integer and type(step) is float,
        "step gives more than 10,000 values": type(step) is float and step * 1e4 < high - low,
    }
    errors += wrong or [item.error(problem) for problem, applies in problems.items() if applies][:1]
    return None if errors else Dimension(item.key, (), low, high, log, step, integer)


def _conflicts(path: str, space: Space, job: Job) -> Iterator[str]:
    """Settings that do not fit the keys that are searched, or the job."""
    search, keys = space.search, [each.key for each in space.dimensions]
    if not keys and not search.folds:
        yield f"{path}: nothing to search: give a key some values, {EXAMPLE}"
    for each in space.dimensions:
        if search.sampler == "grid" and each.options is None:
            problem = "a grid needs a list, or a range with step: e.g. [1e-5, 3e-5, 1e-4]"
            yield f"{path}: {each.key} = {shorten(_range(each))}: {problem}"
    pruned = f'{path}: search.pruner = "{search.pruner}"'
    if search.pruner != "none" and job.eval.every == "end":
        yield f'{pruned}: compares evaluations, and eval.every = "end" has one: set it to "epoch"'
    if search.pruner != "none" and isinstance(job.eval.every, int) and "train.batch_size" in keys:
        problem = f"after {job.eval.every} steps, trials have seen as many batches, not examples"
        yield f'{pruned}: {problem}: set eval.every = "epoch" in the job'
    if search.pruner != "none" and search.folds:
        yield f"{pruned}: folds are all trained: a mean of some would compare different rows"
    if search.folds and "data.max_rows" in keys:
        yield f"{path}: data.max_rows: decides what the folds are drawn from; search it without"
    yield from _without_effect(path, space, job)
    if len(job.seeds) > 1:
        yield f"train.seed = {list(job.seeds)}: a trial has one seed; give the job one"


def _without_effect(path: str, space: Space, job: Job) -> Iterator[str]:
    """Keys that change nothing in any trial, because of the value of another one."""
    searched = {each.key: each for each in space.dimensions}
    steps, kind = searched.get("train.max_steps"), searched.get("adapter.kind")
    limited = job.train.max_steps is not None if steps is None else not _may_be_unset(steps)
    if "train.epochs" in searched and limited:
        where = "the job has" if steps is None else "all trials have"
        yield f"{path}: train.epochs: has no effect: {where} train.max_steps; leave one of them out"
    kinds = (job.adapter.kind,) if kind is None else kind.values
    for key in ("adapter.rank", "adapter.alpha", "adapter.dropout"):
        if key in searched and "lora" not in kinds:
            yield f'{path}: {key}: applies only to adapter.kind = "lora"; set it in the job'


def _may_be_unset(each: Dimension) -> bool:
    return any(KEYS[each.key].read(value) is None for value in each.values)


def _wrong_jobs(path: str, space: Space, base: Sequence[Assignment]) -> Iterator[str]:
    """A line for each mistake in the jobs that trials would have: at both ends, and in between."""
    rng = random.Random(0)
    ends = [_ends(each) for each in space.dimensions]
    keys = [each.key for each in space.dimensions]
    drawn = ([each.at(rng.random()) for each in space.dimensions] for _ in range(DRAWS))
    seen: set[str] = set()
    for values in [*islice(product(*ends), MOST_CHECKED), *drawn]:
        parameters = dict(zip(keys, values, strict=True))
        lines = [*_mistakes(path, base, parameters)]
        if new := [line for line in lines if line not in seen]:
            seen.update(new)
            with_keys = ", ".join(f"{key} = {shorten(value)}" for key, value in parameters.items())
            yield f"{path}: a trial with {with_keys} is wrong: {new[0]}"
        if len(seen) >= 5:
            return


def _ends(each: Dimension) -> Iterable[Any]:
    return each.values or (each.at(0.0), each.at(1.0))


def _mistakes(path: str, base: Sequence[Assignment], parameters: Parameters) -> Sequence[str]:
    try:
        resolve([*base, *parameters_as_keys(path, parameters)])
    except UserError as error:
        return error.lines
    return ()
