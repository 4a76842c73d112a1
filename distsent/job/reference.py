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
    others = [f"`{to_toml_value(value)}` for {task}" for task, value in key.by_task.items()]
    if key.pretrained is not None:
        others.append(f"`{to_toml_value(key.pretrained)}` for models other than the demo's")
    return "; ".join([f"`{to_toml_value(key.default)}`", *others])


if __name__ == "__main__":
    print(markdown_table(), end="")
