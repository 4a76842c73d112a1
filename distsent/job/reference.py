"""The table of all keys in docs/jobs.md."""

from distsent.job.keys import Key, to_toml_value
from distsent.job.schema import KEYS


def markdown_table() -> str:
    rows = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, key in KEYS.items():
        rows.append(f"| `{name}` | {_default(key)} | {key.type.allowed} | {key.meaning} |")
    return "\n".join(rows) + "\n"


def _default(key: Key) -> str:
    if key.default is None:
        return f"unset: {key.unset}"
    default = f"`{to_toml_value(key.default)}`"
    if key.pretrained is None:
        return default
    return f"{default}; `{to_toml_value(key.pretrained)}` for models other than the demo's"


if __name__ == "__main__":
    print(markdown_table(), end="")
