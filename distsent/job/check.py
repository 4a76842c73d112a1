"""Checks keys as written against the schema: every mistake becomes one line."""

import difflib
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from distsent.job.keys import Key, parse_value, to_toml_value
from distsent.job.schema import KEYS, SECTIONS

COMMAND_LINE = "command line"

# Names in Hugging Face's TrainingArguments and other common names.
SYNONYMS = {
    "learning_rate": "optim.lr", "optimizer": "optim.name", "max_grad_norm": "optim.clip_norm",
    "lr_scheduler_type": "optim.schedule", "scheduler": "optim.schedule",
    "adam_epsilon": "optim.eps", "adam_beta1": "optim.betas", "adam_beta2": "optim.betas",
    "warmup_steps": "optim.warmup", "warmup_ratio": "optim.warmup",
    "num_train_epochs": "train.epochs", "num_epochs": "train.epochs",
    "train_batch_size": "train.batch_size", "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.token_budget", "eval_batch_size": "eval.batch_tokens",
    "per_device_eval_batch_size": "eval.batch_tokens", "early_stopping": "train.patience",
    "early_stopping_patience": "train.patience", "label_smoothing_factor": "train.label_smoothing",
    "gradient_checkpointing": "train.recompute", "activation_checkpointing": "train.recompute",
    "load_in_4bit": "adapter.bits", "dtype": "train.precision",
    "fp16": "train.precision", "bf16": "train.precision", "eval_steps": "eval.every",
    "logging_steps": "log.every",
    "metric_for_best_model": "eval.metric", "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep", "output_dir": "run.dir", "dataset": "data.source",
    "problem_type": "data.task", "model_name_or_path": "model.name",
    "max_seq_length": "data.max_length",
    "stride": "data.window_overlap", "doc_stride": "data.window_overlap",
    "lora_r": "adapter.rank", "r": "adapter.rank", "lora_alpha": "adapter.alpha",
    "target_modules": "adapter.targets",
}  # fmt: skip


@dataclass(frozen=True)
class Assignment:
    """A value for a key, and its origin: a file name or the command line."""

    origin: str
    key: str
    value: Any

    def error(self, problem: str) -> str:
        return f"{self.origin}: {self.key} = {shorten(self.value)}: {problem}"


def flatten(origin: str, tree: dict[str, Any]) -> Iterator[Assignment]:
    """The keys of a TOML file, or of a job as a dict, under their dotted names."""
    for name, body in tree.items():
        if name in SECTIONS and isinstance(body, dict):
            for leaf, value in body.items():
                yield Assignment(origin, f"{name}.{leaf}", value)
        else:
            yield Assignment(origin, name, body)


def check_assignments(
    assignments: Iterable[Assignment],
) -> tuple[dict[str, Any], list[str], set[str]]:
    """(values by key, one line per error, keys with an error); a key's last value counts."""
    values: dict[str, Any] = {}
    errors: list[str] = []
    invalid: set[str] = set()
    for item in assignments:
        key = KEYS.get(item.key)
        if key is None:
            errors.append(_unknown(item))
        elif key.accepts(item.value):
            values[item.key] = key.read(item.value)
        else:
            errors.append(item.error(_expected(key, item)))
            invalid.add(item.key)
    return values, errors, invalid


def _expected(key: Key, item: Assignment) -> str:
    """What the key accepts, with an example in the syntax of the item's origin."""
    expected, name = f"expected {key.type.allowed}", item.key.rpartition(".")[2]
    if item.origin == COMMAND_LINE:
        return f"{expected}, e.g. {item.key}={_to_argument(key.example)}"
    if isinstance(item.value, str) and key.accepts(parse_value(item.value)):
        return f"{expected}, without the quotes: {name} = {item.value.strip()}"
    if not isinstance(item.value, str) and key.accepts(key.type.parse(str(item.value))):
        expected += ", in quotes"
    return f"{expected}, e.g. {name} = {to_toml_value(key.example)}"


def _unknown(item: Assignment) -> str:
    """The error for a key that does not exist, with the right name or all names there are."""
    section, _, name = item.key.rpartition(".")
    if item.key in SECTIONS:
        first = next(known for known in KEYS if known.startswith(f"{item.key}."))
        return item.error(f"{item.key} is a section; set one of its keys, e.g. {first}")
    if not section and isinstance(item.value, dict):
        return f"{item.origin}: [{item.key}]: unknown section; {_similar_section(item.key)}"
    problem = "unknown section" if section else "key without a section"
    if section in SECTIONS:
        problem = "unknown key"
    return f"{item.origin}: {item.key}: {problem}; {_suggestion(section, name)}"


def _suggestion(section: str, name: str) -> str:
    elsewhere = " or ".join(known for known in KEYS if known.endswith(f".{name}"))
    elsewhere = elsewhere or SYNONYMS.get(name, "")
    if section in SECTIONS:
        names = [known.partition(".")[2] for known in KEYS if known.startswith(f"{section}.")]
        similar = [f"{section}.{close}" for close in difflib.get_close_matches(name, names, n=1)]
        candidates = [elsewhere] if elsewhere else similar
        otherwise = f"[{section}] has {', '.join(names)}"
    else:
        similar = difflib.get_close_matches(f"{section}.{name}", KEYS, n=1, cutoff=0.8)
        candidates = similar or [elsewhere]
        otherwise = _similar_section(section or name)
    return f"did you mean {candidates[0]}?" if any(candidates) else otherwise


def _similar_section(name: str) -> str:
    close = difflib.get_close_matches(name, SECTIONS, n=1)
    return f"did you mean [{close[0]}]?" if close else f"sections are {', '.join(SECTIONS)}"


def to_word(key: str, value: Any) -> str:
    """`key=value` for a shell, which reads as that value again."""
    plain = isinstance(value, str) and parse_value(value) == value == value.strip()
    return shlex.quote(f"{key}={value if plain else to_toml_value(value)}")


def _to_argument(value: Any) -> str:
    """A value as typed on the command line, where the shell would remove quotes."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_to_argument, value))}]"
    return value if isinstance(value, str) else to_toml_value(value)


def shorten(value: Any) -> str:
    """A value for an error line, at most 100 characters."""
    line = to_toml_value(value)
    return line if len(line) <= 100 else f"{line[:97]}..."
