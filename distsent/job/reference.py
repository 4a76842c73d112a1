"""The schema as people read it: a table for docs/jobs.md, plain lines for --help."""

from collections.abc import Iterator

from distsent.job.kinds import to_toml_value
from distsent.job.schema import KEYS, Key


def markdown() -> str:
    """The table of all keys."""
    rows = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for dotted, known in KEYS.items():
        rows.append(f"| `{dotted}` | {default(known)} | {known.kind.allowed} | {known.meaning} |")
    return "\n".join(rows) + "\n"


def lines() -> Iterator[str]:
    """A line per key, for a terminal."""
    for dotted, known in KEYS.items():
        yield f"{dotted:26} {known.meaning.replace('`', '')} [{default(known).replace('`', '')}]"


def default(known: Key) -> str:
    if known.default is None:
        return f"unset: {known.none}"
    value = f"`{to_toml_value(known.default)}`"
    return (
        f"{value}; `{to_toml_value(known.pretrained)}` for other models than the demo's"
        if known.pretrained is not None
        else value
    )


if __name__ == "__main__":
    print(markdown(), end="")
