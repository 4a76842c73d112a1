"""A job: its dataset, model, training and output. Frozen after loading."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Self

from distsent.errors import UserError
from distsent.job.check import Assignment, check_assignments, flatten
from distsent.job.keys import to_toml_value
from distsent.job.rules import find_conflicts, find_unused
from distsent.job.schema import KEYS, SECTIONS, Sections


@dataclass(frozen=True, kw_only=True)
class Job(Sections):
    """The sections of schema.py, with conversions."""

    @classmethod
    def from_assignments(
        cls, assignments: Iterable[Assignment], errors: Iterable[str] = ()
    ) -> Self:
        """The job, or a UserError with all its mistakes, after the `errors` already found."""
        assignments = list(assignments)
        values, found, invalid = check_assignments(assignments)
        errors = [*errors, *found]
        values = _conditional_defaults(values) | values
        sections = _nested(values.items())
        job = cls(**{section: SECTIONS[section](**body) for section, body in sections.items()})

        by_key = {item.key: item for item in assignments}
        for keys, problem in (*find_conflicts(job), *find_unused(job, by_key)):
            if invalid.isdisjoint(keys):
                culprit = next(by_key[name] for name in keys if name in by_key)
                errors.append(culprit.error(problem))
        if errors:
            raise UserError(*(line.replace("\n", "\\n") for line in errors))
        return job

    @classmethod
    def from_dict(cls, tree: dict[str, Any], origin: str = "job") -> Self:
        """The inverse of `to_dict`. Raises UserError, with `origin`, for what is not a job."""
        return cls.from_assignments(flatten(origin, tree))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested dicts, lists and scalars, for JSON."""
        plain = ((name, list(x) if isinstance(x, tuple) else x) for name, x in self.items())
        return _nested(plain)

    def to_toml(self) -> str:
        """A job file that loads to an equal job; unset keys are comments."""
        blocks = []
        for section, body in _nested(self.items()).items():
            lines = [f"[{section}]"]
            for name, value in body.items():
                unset = f"# {name} = ({KEYS[f'{section}.{name}'].unset})"
                lines.append(unset if value is None else f"{name} = {to_toml_value(value)}")
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks) + "\n"

    def items(self) -> Iterator[tuple[str, Any]]:
        """Dotted key and value, in the schema's order."""
        return ((name, attrgetter(name)(self)) for name in KEYS)

    def changed_keys(self, other: "Job") -> list[str]:
        """The dotted keys whose values differ."""
        return [name for name, value in self.items() if value != attrgetter(name)(other)]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, one run each."""
        return self.train.seed if isinstance(self.train.seed, tuple) else (self.train.seed,)

    def for_seed(self, seed: int) -> Self:
        """The job of one seed. With several seeds the run's name contains it."""
        name = f"{self.job.name}-seed{seed}" if len(self.seeds) > 1 else self.job.name
        return replace(self, job=replace(self.job, name=name), train=replace(self.train, seed=seed))


def _conditional_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of keys that depend on the model, or on the task."""
    model, task = values.get("model.name", "demo"), str(values.get("data.task"))
    found = {name: key.by_task[task] for name, key in KEYS.items() if task in key.by_task}
    if model != "demo":
        found |= {name: key.pretrained for name, key in KEYS.items() if key.pretrained is not None}
    return found


def _nested(items: Iterable[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    """Values under dotted keys as one dict per section, including empty sections."""
    tree: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for dotted, value in items:
        section, _, name = dotted.partition(".")
        tree[section][name] = value
    return tree
