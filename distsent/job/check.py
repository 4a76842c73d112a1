"""Keys as they were written, checked against the schema: every mistake becomes one line."""

import difflib
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from distsent.job.kinds import to_toml_value
from distsent.job.schema import KEYS, SECTIONS, Key

COMMAND_LINE = "command line"

# What the same things are called in Hugging Face's TrainingArguments and in common speech.
SYNONYMS = {
    "learning_rate": "optim.lr", "optimizer": "optim.name", "max_grad_norm": "optim.clip_norm",
    "lr_scheduler_type": "optim.schedule", "scheduler": "optim.schedule", "adam_epsilon": "optim.eps",
    "adam_beta1": "optim.betas", "adam_beta2": "optim.betas", "warmup_steps": "optim.warmup",
    "warmup_ratio": "optim.warmup", "num_train_epochs": "train.epochs", "num_epochs": "train.epochs",
    "train_batch_size": "train.batch_size", "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.token_budget", "per_device_eval_batch_size": "eval.batch_tokens",
    "eval_batch_size": "eval.batch_tokens", "label_smoothing_factor": "train.label_smoothing",
    "early_stopping": "train.patience", "early_stopping_patience": "train.patience", "dtype": "train.precision",
    "fp16": "train.precision", "bf16": "train.precision", "eval_steps": "eval.every", "logging_steps": "log.every",
    "metric_for_best_model": "eval.metric", "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep", "output_dir": "run.dir", "dataset": "data.source",
    "model_name_or_path": "model.name", "max_seq_length": "data.max_length", "lora_r": "adapter.rank",
    "r": "adapter.rank", "lora_alpha": "adapter.alpha", "target_modules": "adapter.targets",
}  # fmt: skip


@dataclass(frozen=True)
class Assignment:
    """A value that somebody gave a key, and where: a file's name or the command line."""

    where: str
    key: str
    value: Any

    def wrong(self, what: str) -> str:
        return f"{self.where}: {self.key} = {shown(self.value)}: {what}"


def flatten(where: str, tree: dict[str, Any]) -> Iterator[Assignment]:
    """The keys of a TOML file or of a job as a dict, under their dotted names."""
    for name, body in tree.items():
        if name in SECTIONS and isinstance(body, dict):
            yield from (Assignment(where, f"{name}.{leaf}", value) for leaf, value in body.items())
        else:
            yield Assignment(where, name, body)


def check(written: Iterable[Assignment]) -> tuple[dict[str, Any], list[str], set[str]]:
    """The values by key, a line per mistake, and the keys that have one; the last value given to a key counts."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    invalid: set[str] = set()
    for item in written:
        known = KEYS.get(item.key)
        if known is None:
            mistakes.append(unknown(item))
            continue
        try:
            values[item.key] = known.read(item.value)
        except ValueError:
            mistakes.append(item.wrong(expected(known, item)))
            invalid.add(item.key)
    return values, mistakes, invalid


def expected(known: Key, item: Assignment) -> str:
    """What the key accepts, and an example in the form in which the user wrote."""
    name = item.key.rpartition(".")[2]
    if (
        item.where != COMMAND_LINE
        and isinstance(item.value, str)
        and accepts(known, parse(item.value))
    ):
        return f"expected {known.kind.allowed}, without the quotes: {name} = {item.value.strip()}"
    if item.where == COMMAND_LINE:
        return f"expected {known.kind.allowed}, e.g. {item.key}={bare(known.example)}"
    return f"expected {known.kind.allowed}, e.g. {name} = {to_toml_value(known.example)}"


def accepts(known: Key, value: Any) -> bool:
    try:
        known.read(value)
    except ValueError:
        return False
    return True


def unknown(item: Assignment) -> str:
    """The line for a key that does not exist: its right name, or else all names that do exist there."""
    section, _, name = item.key.rpartition(".")
    if item.key in SECTIONS:
        first = next(known for known in KEYS if known.startswith(f"{item.key}."))
        return item.wrong(f"{item.key} is a section; name one of its keys, e.g. {first}")
    if not section and isinstance(item.value, dict):
        return f"{item.where}: [{item.key}]: unknown section; {near(item.key, SECTIONS)}"
    kind = (
        "unknown key"
        if section in SECTIONS
        else "unknown section"
        if section
        else "a key without its section"
    )
    return f"{item.where}: {item.key}: {kind}; {suggestion(section, name)}"


def suggestion(section: str, name: str) -> str:
    elsewhere = " or ".join(known for known in KEYS if known.endswith(f".{name}"))
    if section in SECTIONS:
        names = [known.partition(".")[2] for known in KEYS if known.startswith(f"{section}.")]
        if elsewhere:
            return f"{name} belongs elsewhere: {elsewhere}"
        if name in SYNONYMS:
            return f"did you mean {SYNONYMS[name]}?"
        if close := difflib.get_close_matches(name, names, n=1):
            return f"did you mean {section}.{close[0]}?"
        return f"[{section}] has {', '.join(names)}"
    if close := difflib.get_close_matches(f"{section}.{name}", KEYS, n=1, cutoff=0.8):
        return f"did you mean {close[0]}?"
    if elsewhere or name in SYNONYMS:
        return f"did you mean {elsewhere or SYNONYMS[name]}?"
    return near(section or name, SECTIONS)


def near(name: str, known: Iterable[str]) -> str:
    """The closest of the known names, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean [{close[0]}]?" if close else f"sections are {', '.join(known)}"


def parse(text: str) -> Any:
    """A value as TOML would read it; what TOML does not read is a bare word, and stays text."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        # A list of words, whose quotes the shell has eaten.
        if text.startswith("[") and text.endswith("]") and "[" not in text[1:]:
            return [parse(item.strip()) for item in text[1:-1].split(",") if item.strip()]
        return text
    # A line break in the text could smuggle in a second key.
    return tree["value"] if len(tree) == 1 else text


def bare(value: Any) -> str:
    """A value as one types it on the command line, where quotes would go to the shell."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(bare, value))}]"
    return value if isinstance(value, str) else to_toml_value(value)


def shown(value: Any) -> str:
    """A value as an error line shows it."""
    line = to_toml_value(value)
    return line if len(line) <= 100 else f"{line[:97]}..."
