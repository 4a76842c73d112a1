"""The schema for people: a table for docs/jobs.md, plain lines for --help."""

from collections.abc import Iterator

from distsent.job.keys import Key, to_toml_value
from distsent.job.schema import KEYS


def markdown_table() -> str:
    """The table of all keys."""
    rows = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, key in KEYS.items():
        rows.append(f"| `{name}` | {_default(key)} | {key.type.allowed} | {key.meaning} |")
    return "\n".join(rows) + "\n"


def help_lines() -> Iterator[str]:
    """One line per key, for a terminal."""
    for name, key in KEYS.items():
        yield f"{name:26} {key.meaning} [{_default(key)}]".replace("`", "")


def _default(key: Key) -> str:
    if key.default is None:
        return f"unset: {key.unset}"
    default = f"`{to_toml_value(key.default)}`"
    if key.pretrained is None:
        return default
    return f"{default}; `{to_toml_value(key.pretrained)}` for models other than the demo's"


if __name__ == "__main__":
    print(markdown_table(), end="")
