"""[search] in SPACE.toml: how the values are searched, and by what trials are compared."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distsent.job.check import shorten
from distsent.job.job import Job
from distsent.job.keys import ValueType, choice, integer, to_toml_value
from distsent.job.metrics import LOWER_IS_BETTER, METRICS
from distsent.job.schema import SECTIONS

DEFAULT_TRIALS, MOST_TRIALS = 20, 10_000


@dataclass(frozen=True)
class Settings:
    """`folds`: parts of the training rows, each of which is validation once; 0: the job's own."""

    sampler: str
    pruner: str
    metric: str
    seed: int
    trials: int
    folds: int

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER


def read_settings(path: str, given: Any, job: Job, errors: list[str]) -> Settings | None:
    """The settings with their defaults; None, and an error more each, if some are wrong."""
    if not isinstance(given, Mapping):
        errors.append(f"{path}: search = {shorten(given)}: expected a section, [search]")
        return None
    types: dict[str, tuple[Any, ValueType]] = {
        "sampler": ("tpe", choice("random", "tpe", "grid")),
        "pruner": ("none", choice("none", "median", "hyperband")),
        "metric": (job.eval.metric, choice(*METRICS[job.data.task])),
        "seed": (0, integer(">= 0", "<= 4294967295")),
        "trials": (None, integer(">= 1", f"<= {MOST_TRIALS}")),
        "folds": (0, ValueType("0, or 2 to 100", lambda x: type(x) is int and x in FOLDS)),
    }
    before = len(errors)
    for name, value in given.items():
        if name not in types:
            close = difflib.get_close_matches(name, types, n=1)
            fix = f"did you mean {close[0]}?" if close else f"[search] has {', '.join(types)}"
            fix = f"keys of the job stand in a section [{name}]" if name in SECTIONS else fix
            errors.append(f"{path}: search.{name}: unknown key; {fix}")
        elif not types[name][1].accepts(value):
            expected = f"expected {types[name][1].allowed}"
            errors.append(f"{path}: search.{name} = {to_toml_value(value)[:80]}: {expected}")
    if len(errors) > before:
        return None
    values = {name: given.get(name, default) for name, (default, _) in types.items()}
    if values["trials"] is None:  # of a grid: all, and no more
        values["trials"] = MOST_TRIALS if values["sampler"] == "grid" else DEFAULT_TRIALS
    return Settings(**values)


FOLDS = (0, *range(2, 101))
