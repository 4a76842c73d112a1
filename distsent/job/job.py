"""A job: what to train, on what and how. Frozen once it is loaded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Self

from distsent.errors import UserError
from distsent.job.check import Assignment, check, flatten
from distsent.job.kinds import to_toml_value
from distsent.job.rules import contradictions
from distsent.job.schema import KEYS, SECTIONS, Sections


@dataclass(frozen=True, kw_only=True)
class Job(Sections):
    """The sections of schema.py, and what can be done with all of them together."""

    def items(self) -> Iterator[tuple[str, Any]]:
        """Dotted key and value, in the schema's order."""
        return ((dotted, attrgetter(dotted)(self)) for dotted in KEYS)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dicts, lists and scalars, fit for JSON."""
        return nested(
            (dotted, list(value) if isinstance(value, tuple) else value)
            for dotted, value in self.items()
        )

    @classmethod
    def from_dict(cls, tree: dict[str, Any], where: str = "job") -> Self:
        """The job that `to_dict` gave; UserError names `where` if it holds what a job cannot."""
        return cls.build(flatten(where, tree))

    def to_toml(self) -> str:
        """A job file that loads back to an equal job; keys that are unset stand in it as comments."""
        blocks = []
        for section, body in nested(self.items()).items():
            lines = [f"[{section}]"]
            for name, value in body.items():
                unset = f"# {name} = ({KEYS[f'{section}.{name}'].none})"
                lines.append(unset if value is None else f"{name} = {to_toml_value(value)}")
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks) + "\n"

    def changed(self, other: "Job") -> list[str]:
        """The dotted keys whose values differ."""
        return [dotted for dotted, value in self.items() if value != attrgetter(dotted)(other)]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds asked for, one run each."""
        return self.train.seed if isinstance(self.train.seed, tuple) else (self.train.seed,)

    def for_seed(self, seed: int) -> Self:
        """The job of one seed; where the job asks for several, the run's name tells them apart."""
        name = f"{self.job.name}-seed{seed}" if len(self.seeds) > 1 else self.job.name
        return replace(self, job=replace(self.job, name=name), train=replace(self.train, seed=seed))

    @classmethod
    def build(cls, written: Iterable[Assignment], mistakes: Iterable[str] = ()) -> Self:
        """The job that was written, or a UserError with all its mistakes, those already known first."""
        written = list(written)
        values, found, invalid = check(written)
        mistakes = [*mistakes, *found]
        if values.get("model.name", "demo") != "demo":
            values = {
                dotted: known.pretrained
                for dotted, known in KEYS.items()
                if known.pretrained is not None
            } | values
        job = cls(
            **{
                section: SECTIONS[section](**body)
                for section, body in nested(values.items()).items()
            }
        )

        origin = {item.key: item for item in written}
        for keys, what in contradictions(job):
            if invalid.isdisjoint(keys):
                culprit = next(origin[dotted] for dotted in keys if dotted in origin)
                mistakes.append(culprit.wrong(what))
        if mistakes:
            raise UserError(*(line.replace("\n", "\\n") for line in mistakes))
        return job


def nested(items: Iterable[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    """Values under dotted keys as one dict per section, every section there."""
    tree: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for dotted, value in items:
        section, _, name = dotted.partition(".")
        tree[section][name] = value
    return tree
