"""The machines that a plan is for: described in a file, or measured here."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from distsent.errors import UserError
from distsent.planning.link import RING, TREE, Link, slower
from distsent.planning.speed import SharedTimes, Speed
from distsent.storage import is_file

T = TypeVar("T")
PASSES = 12  # over the gradients' and moments' memory in an update: 4 bytes per parameter each
NETWORK = Link(latency=200e-6, bandwidth=1e9)  # 10 Gbit/s at 80 %, if nobody describes another one
PRECISIONS = "float32", "bf16", "fp16"
SPEED_KEYS = "gpu", "memory_bandwidth", "peak_flops", "achieved", "seconds_per_layer", "within"
KEYS = ("about", "sources", "workers_per_machine", "memory", "price", "between", *SPEED_KEYS)
LINK_KEYS = "latency", "bandwidth", "algorithm"


@dataclass(frozen=True)
class Description:
    """A hardware file. Without `speed` it describes only what connects machines like this one."""

    origin: str
    values: Mapping[str, Any]
    between: Link
    within: Link | None = None

    @property
    def has_speed(self) -> bool:
        return self.within is not None

    def fastest(self) -> str:
        """The precision that train.precision = "auto" means there."""
        peaks, achieved = self.values["peak_flops"], self.values["achieved"]
        known = [precision for precision in peaks if precision in achieved]
        return max(known, key=lambda each: peaks[each] * achieved[each], default="float32")

    def speed(self, precision: str, layers: int, parameters: int) -> Speed:
        """Of one worker. Raises UserError if it does not say how fast it is in `precision`."""
        peaks, achieved = self.values["peak_flops"], self.values["achieved"]
        for key, table in (("peak_flops", peaks), ("achieved", achieved)):
            if precision not in table:
                known = ", ".join(table)
                fix = f"train.precision is one of {known} there"
                raise UserError(f"{self.origin}: {key} has no {precision}: {fix}, or add it")
        update = PASSES * 4 * parameters / self.values["memory_bandwidth"]
        per_flop = 1 / (peaks[precision] * achieved[precision])
        return Speed(update, layers * self.values["seconds_per_layer"], per_flop)


@dataclass(frozen=True)
class Hardware:
    """Machines of one kind, and what connects their workers."""

    name: str
    # By the number of workers on a machine: they share its cores, memory and buses
    speeds: Mapping[int, Speed]
    links: Mapping[int, Link]
    workers_per_machine: int
    between: Link
    gpu: bool = False
    measured: bool = False
    memory: float | None = None  # bytes of a worker
    price: float | None = None  # per worker and hour
    notes: tuple[str, ...] = ()
    shared: Mapping[int, SharedTimes] = field(default_factory=dict)  # by workers, as `speeds`

    @property
    def unit(self) -> int:
        """The fewest workers that share nothing with others: one, or those of a full machine."""
        return 1 if len(self.speeds) == 1 else self.workers_per_machine

    def machines(self, workers: int) -> int:
        return -(-workers // self.workers_per_machine)

    def speed(self, workers: int) -> Speed:
        """Of each of `workers`."""
        return at_count(self.speeds, min(workers, self.workers_per_machine))

    def link(self, workers: int) -> Link:
        """What the all-reduce of `workers` runs over."""
        within = at_count(self.links, min(workers, self.workers_per_machine))
        if self.machines(workers) == 1:
            return within
        return slower(within, self.between) if self.workers_per_machine > 1 else self.between

    def shared_times(self, workers: int) -> SharedTimes | None:
        """Of workers that share their weights; None: they do not."""
        alone = workers == 1 or self.machines(workers) > 1 or not self.shared
        return None if alone else at_count(self.shared, workers)

    def overlaps(self, workers: int) -> bool:
        """Whether buckets leave during backward (training/reducer.py: `overlaps_backward`).

        On GPUs they do not where passes are recorded, as those of usual encoders are.
        """
        return not self.gpu and self.machines(workers) > 1


def at_count(measured: Mapping[int, T], workers: int) -> T:
    """What was measured with `workers`, or else with the next higher number of them."""
    higher = [count for count in measured if count >= workers]
    return measured[min(higher) if higher else max(measured)]


def described_hardware(found: Description, precision: str, layers: int, trained: int) -> Hardware:
    """Machines as described, none of it measured."""
    assert found.within is not None
    values, count = found.values, found.values["workers_per_machine"]
    sources = [f"source: {source}" for source in values.get("sources", ())]
    return Hardware(
        name=str(values.get("about", found.origin)),
        speeds={count: found.speed(precision, layers, trained)},
        links={count: found.within},
        workers_per_machine=count,
        between=found.between,
        gpu=values["gpu"],
        memory=values.get("memory"),
        price=values.get("price"),
        notes=("not measured: computed from a description", *sources),
    )


def presets() -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "hardware.toml").read_text(encoding="utf-8"))


def read_hardware(word: str) -> Description:
    """`word`: a preset's name, or a file with the keys of one. Raises UserError."""
    known = presets()
    if word in known:
        return describe(f"--hardware {word}", known[word])
    if not is_file(Path(word)):
        close = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        names = ", ".join(known)
        raise UserError(f"--hardware {word[:80]}: no such file; {hint}known names: {names}")
    try:
        return describe(word, tomllib.loads(Path(word).read_text(encoding="utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{word}: not TOML: {str(error)[:80]}") from None


def describe(origin: str, found: Mapping[str, Any]) -> Description:
    """Check a description. Raises UserError with one line per mistake."""
    errors = [*unknown(origin, "", found, KEYS), *check_texts(origin, found)]
    needed = ["between"]
    if any(key in found for key in SPEED_KEYS):
        needed += [key for key in (*SPEED_KEYS, "workers_per_machine")]
    elif "workers_per_machine" in found:
        problem = f"applies only beside {', '.join(SPEED_KEYS)}"
        fix = "without these, machines like this one are planned: leave it out"
        errors.append(f"{origin}: workers_per_machine: {problem}; {fix}")
    missing = [key for key in needed if key not in found]
    errors += [f"{origin}: {key} is missing; docs/scaling.md explains it" for key in missing]
    for key in ("memory", "price", "memory_bandwidth", "seconds_per_layer", "workers_per_machine"):
        whole = key == "workers_per_machine"
        if key in found and not positive(found[key], whole):
            expected = "a whole number from 1" if whole else "a number > 0"
            errors.append(f"{origin}: {key} = {str(found[key])[:80]}: expected {expected}")
    if "gpu" in found and not isinstance(found["gpu"], bool):
        errors.append(f"{origin}: gpu = {str(found['gpu'])[:80]}: expected true or false")
    for key in ("peak_flops", "achieved"):
        errors += check_table(
            origin, key, found, PRECISIONS, at_most=1 if key == "achieved" else None
        )
    for key in ("within", "between"):
        errors += check_link(origin, key, found)
    if errors:
        raise UserError(*errors)
    links = {key: Link(**found[key]) for key in ("within", "between") if key in found}
    return Description(origin, found, links["between"], links.get("within"))


def unknown(
    origin: str, prefix: str, found: Mapping[str, Any], known: tuple[str, ...]
) -> list[str]:
    return [
        f"{origin}: unknown key {prefix}{key[:80]}; known: {', '.join(known)}"
        for key in found
        if key not in known
    ]


def check_texts(origin: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Mistakes in what is printed with a plan."""
    about, sources = found.get("about", ""), found.get("sources", [])
    if not isinstance(about, str):
        yield f"{origin}: about = {str(about)[:80]}: expected text in quotes"
    if not isinstance(sources, list) or not all(isinstance(one, str) for one in sources):
        expected = 'expected a list of texts, e.g. ["a data sheet"]'
        yield f"{origin}: sources = {str(sources)[:80]}: {expected}"


def check_table(
    origin: str, key: str, found: Mapping[str, Any], known: tuple[str, ...], at_most: float | None
) -> list[str]:
    """Mistakes in a table of positive numbers."""
    if key not in found:
        return []
    table, rule = found[key], "a number > 0" + (f", at most {at_most}" if at_most else "")
    if not isinstance(table, dict) or not table:
        return [f"{origin}: {key}: expected a table such as {key} = {{ {known[0]} = ... }}"]
    return unknown(origin, f"{key}.", table, known) + [
        f"{origin}: {key}.{name} = {str(value)[:80]}: expected {rule}"
        for name, value in table.items()
        if name in known and (not positive(value) or (at_most and value > at_most))
    ]


def check_link(origin: str, key: str, found: Mapping[str, Any]) -> list[str]:
    table = found.get(key, {"latency": 1, "bandwidth": 1})
    if not isinstance(table, dict):
        table = {}
    numbers = {name: table[name] for name in table if name != "algorithm"}
    errors = check_table(origin, key, {key: numbers}, LINK_KEYS, None)
    if not errors:
        missing = [name for name in LINK_KEYS[:2] if name not in table]
        errors = [f"{origin}: {key}.{name} is missing" for name in missing]
    algorithm = table.get("algorithm", RING)
    if algorithm not in (RING, TREE):
        found_as = f"{key}.algorithm = {str(algorithm)[:80]!r}"
        errors.append(f'{origin}: {found_as}: expected "{RING}" or "{TREE}"')
    return errors


def positive(value: object, whole: bool = False) -> bool:
    """Whether it is a finite number > 0, and a whole one if asked."""
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < float("inf")
