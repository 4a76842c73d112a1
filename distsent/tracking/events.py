"""The events of a run, in the order in which its listeners hear them, on the main worker."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Started:
    """The run starts, or resumes after `step`; later steps are trained, and heard of, again.

    `evaluated`: the last step whose evaluation the resumed state contains. `run_id`: the same at
    every start of the run. `parameters`: the job by dotted keys, `world_size` and `transport`.
    `logged`: the last step that earlier starts have logged, by tag.
    """

    name: str
    folder: str
    run_id: str
    step: int
    evaluated: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    logged: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """A logged step: `values` is a line of metrics.jsonl. `at`: seconds since 1970."""

    values: Mapping[str, Any]
    at: float = field(default_factory=time.time)

    @property
    def tag(self) -> str:
        return "train"


@dataclass(frozen=True)
class Evaluation:
    """The scores of a split: `values` is a line of metrics.jsonl."""

    split: str
    values: Mapping[str, Any]
    at: float = field(default_factory=time.time)

    @property
    def tag(self) -> str:
        return self.split


@dataclass(frozen=True)
class CheckpointSaved:
    """The checkpoint of `step` is on disk. Heard in the saver's thread."""

    step: int


@dataclass(frozen=True)
class Ended:
    """This start of the run ends with exit code `code`. `final`: the numbers of result.json."""

    code: int
    message: str
    step: int = 0
    final: Mapping[str, float] = field(default_factory=dict)
    at: float = field(default_factory=time.time)


Event = Started | Metrics | Evaluation | CheckpointSaved | Ended
KINDS: dict[str, Any] = {kind.__name__: kind for kind in Event.__args__}


class Listener:
    """Hears the events of a run. What it does not need it ignores."""

    def hear(self, event: Event) -> None: ...
    def stop(self) -> None: ...  # start to close, without waiting
    def close(self, until: float) -> None: ...  # wait at most `until`, on the monotonic clock


class Listeners:
    """All listeners of a run, each told in turn."""

    def __init__(self, *listeners: Listener) -> None:
        self._all = listeners

    def hear(self, event: Event) -> None:
        for listener in self._all:
            listener.hear(event)

    def close_within(self, seconds: float) -> None:
        """Close all of them side by side."""
        until = time.monotonic() + seconds
        for listener in self._all:
            listener.stop()
        for listener in self._all:
            listener.close(until)


def numbers(event: Metrics | Evaluation) -> dict[str, float]:
    """What can be drawn over the steps, as `tag/key`."""
    return {
        f"{event.tag}/{key}": value
        for key, value in event.values.items()
        if isinstance(value, int | float) and key not in ("step", "n")
    }


def final_numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of result.json, as `final/split/key`."""
    parts = {"train": result["train"], **result["eval"]}
    return {
        f"final/{part}/{key}": value
        for part, values in parts.items()
        for key, value in values.items()
        if isinstance(value, int | float)
    }


def to_line(event: Event) -> str:
    """An event as a line of JSON, without matrices: of a thousand classes they take megabytes."""
    if isinstance(event, Metrics | Evaluation):
        plain = {k: v for k, v in event.values.items() if not isinstance(v, list | dict)}
        event = replace(event, values=plain)
    return json.dumps({"event": type(event).__name__, **vars(event)}) + "\n"


def from_line(line: str) -> Event:
    """The inverse of `to_line`."""
    values = json.loads(line)
    event: Event = KINDS[values.pop("event")](**values)
    return event
