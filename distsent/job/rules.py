"""Conflicts: keys whose values are right one by one and wrong together."""

import re
from collections.abc import Container, Iterator, Mapping
from operator import attrgetter
from pathlib import Path

from distsent.job.keys import to_toml_value
from distsent.job.known_datasets import KNOWN_DATASETS
from distsent.job.metrics import METRICS
from distsent.job.schema import KEYS, DataSection, Sections
from distsent.job.template import parse_template
from distsent.storage import exists

# Names with a meaning of their own, even if there is a file with that name.
NAMES = {"data.source": ("demo", *KNOWN_DATASETS), "model.name": ("demo",)}
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
PRETRAINED = "distilbert-base-uncased"  # the encoder that messages suggest

Conflict = tuple[tuple[str, ...], str]  # the keys, the likeliest mistake first, and the problem


def has_own_texts(data: DataSection) -> bool:
    """Whether the texts are others than the demo's, for which its encoder is made."""
    return data.source != "demo" or data.train is not None


def looks_local(name: str) -> bool:
    """Whether a source or model is written as a path. Anything else may be a hub id."""
    return name in (".", "..") or name.startswith(("./", "../", "/", "~"))


def exists_locally(key: str, name: str) -> bool:
    """Whether a source or model that is not written as a path exists here all the same."""
    return not looks_local(name) and name not in NAMES[key] and exists(name)


def public_name(name: str) -> str:
    """A source or model as it may be published: without the path to a local folder."""
    return Path(name).name if looks_local(name) else name


def find_conflicts(job: Sections) -> Iterator[Conflict]:
    """All conflicts between the values of a job."""
    for rule in RULES:
        yield from rule(job)


def find_unused(job: Sections, written: Container[str]) -> Iterator[Conflict]:
    """Keys of LoRA without adapter.kind. If that is written, they wait for another value of it."""
    if "adapter.kind" not in written and job.adapter.kind == "none":
        for name in ("rank", "alpha", "dropout"):
            if f"adapter.{name}" in written:
                yield (f"adapter.{name}",), 'applies only to adapter.kind = "lora"'


def _hub_keys(job: Sections) -> Iterator[Conflict]:
    for keys in (
        ("data.config", "data.source"),
        ("data.revision", "data.source"),
        ("model.revision", "model.name"),
    ):
        value, name = attrgetter(*keys)(job)
        if value is not None and (name == "demo" or looks_local(name)):
            yield keys, f"applies only to a hub id, not to {keys[1]} = {to_toml_value(name)}"


def _columns(job: Sections) -> Iterator[Conflict]:
    for first, second in (("label", "text"), ("pair", "text"), ("pair", "label")):
        keys = f"data.{first}_column", f"data.{second}_column"
        if len(set(attrgetter(*keys)(job))) == 1:
            yield keys, f"{keys[0]} and {keys[1]} must be different columns"


# Keys that have no meaning for some tasks, or beside data.label_columns
OF_TASKS = {
    "data.label_columns": ("multi_label", "regression"),
    "data.label_delimiter": ("multi_label",),
    "data.allow_empty_labels": ("multi_label",),
    "data.fold_labels": ("single_label", "multi_label"),
    "data.drop_labels": ("single_label", "multi_label"),
    "train.class_weights": ("single_label", "multi_label"),
    "train.label_smoothing": ("single_label", "multi_label"),
    "eval.calibrate": ("single_label", "multi_label"),
}
NOT_BESIDE_COLUMNS = (
    "data.label_column", "data.label_position", "data.label_delimiter", "data.allow_empty_labels",
    "data.labels", "data.fold_labels", "data.drop_labels",
)  # fmt: skip


def _task(job: Sections) -> Iterator[Conflict]:
    task, columns = job.data.task, job.data.label_columns

    def is_set(name: str) -> bool:
        return bool(attrgetter(name)(job) != KEYS[name].default)

    for name, tasks in OF_TASKS.items():
        if task not in tasks and is_set(name):
            where = " and ".join(f'"{one}"' for one in tasks)
            yield (name, "data.task"), f'has no meaning for data.task = "{task}", only for {where}'
    for name in NOT_BESIDE_COLUMNS if columns and task in OF_TASKS["data.label_columns"] else ():
        if is_set(name) and task in OF_TASKS.get(name, (task,)):
            yield (name, "data.label_columns"), "has no meaning beside data.label_columns"
    texts = {job.data.text_column, job.data.pair_column}
    if shared := texts.intersection(columns or ()):
        problem = f"data.label_columns contains {min(filter(None, shared))!r}, which is a text"
        yield ("data.label_columns", "data.text_column", "data.pair_column"), problem
    if task == "multi_label" and columns and len(columns) < 2:
        problem = f'one column is one class: data.label_column = "{columns[0]}" with data.task = '
        yield ("data.label_columns", "data.task"), f'{problem}"single_label" learns it'
    labels = job.data.labels
    if task == "regression" and labels is not None and not isinstance(labels, Mapping):
        problem = "names no classes of a regression: expected a table from values to numbers"
        yield ("data.labels", "data.task"), f"{problem}, e.g. {{ bad = -1, good = 1 }}"


def _metric(job: Sections) -> Iterator[Conflict]:
    task, metric = job.data.task, job.eval.metric
    if metric not in METRICS[task]:
        problem = f'is no metric of data.task = "{task}", which has {", ".join(METRICS[task])}'
        yield ("eval.metric", "data.task"), problem


def _splits(job: Sections) -> Iterator[Conflict]:
    keys = "data.validation_fraction", "data.test_fraction"
    total = job.data.validation_fraction + job.data.test_fraction
    if total >= 1:
        yield keys, f"{keys[0]} + {keys[1]} must be less than 1, to leave rows for training"
    if job.data.pool_splits and not total:
        problem = f"needs {keys[1]} or {keys[0]} to split the pooled rows, e.g. test_fraction = 0.2"
        yield ("data.pool_splits", keys[1]), problem


def _budgets(job: Sections) -> Iterator[Conflict]:
    for budget in ("train.token_budget", "eval.batch_tokens"):
        if attrgetter(budget)(job) < job.data.max_length:
            problem = f"{budget} must fit one example of data.max_length = {job.data.max_length}"
            yield (budget, "data.max_length"), problem


def _windows(job: Sections) -> Iterator[Conflict]:
    overlap, long = job.data.window_overlap, job.data.long
    keys = "data.window_overlap", "data.long"
    if overlap is not None and long != "windows":
        yield keys, 'applies only to data.long = "windows"'
    elif overlap is not None and overlap >= job.data.max_length:
        keys = "data.window_overlap", "data.max_length"
        yield keys, f"must be less than a window: data.max_length = {job.data.max_length}"
    if long == "windows" and job.model.packed == "never":
        problem = 'data.long = "windows" needs packed batches; set model.packed to "auto"'
        yield ("model.packed", "data.long"), problem


def _template(job: Sections) -> Iterator[Conflict]:
    data = job.data
    if data.template is None:
        return
    try:
        names = parse_template(data.template).names
    except ValueError as error:
        yield ("data.template",), str(error)
        return
    pairs = data.has_pairs
    if pairs and "pair" not in names:
        yield ("data.template", "data.pair_column"), "has no {pair}, the place of the second text"
    elif "pair" in names and not pairs:
        problem = "has {pair}, but there is no second text; set data.pair_column"
        yield ("data.template", "data.pair_column"), problem


def _adapter(job: Sections) -> Iterator[Conflict]:
    for name in ("bits", "targets"):
        if job.adapter.kind == "none" and getattr(job.adapter, name) is not None:
            yield (f"adapter.{name}", "adapter.kind"), 'applies only to adapter.kind = "lora"'


def _classes(job: Sections) -> Iterator[Conflict]:
    weights, labels = job.train.class_weights, job.data.labels
    if isinstance(weights, tuple) and labels and len(weights) != len(labels):
        problem = f"train.class_weights has {len(weights)} numbers for {len(labels)} data.labels"
        yield ("train.class_weights", "data.labels"), problem


def _warmup(job: Sections) -> Iterator[Conflict]:
    warmup, steps = job.optim.warmup, job.train.max_steps
    if warmup > 1 and warmup != int(warmup):
        yield ("optim.warmup",), "expected a share below 1 or an integer, e.g. 0.1 or 500"
    elif warmup >= 1 and steps and warmup > steps:
        problem = f"optim.warmup = {int(warmup)} steps is longer than train.max_steps = {steps}"
        yield ("optim.warmup", "train.max_steps"), problem


def _patience(job: Sections) -> Iterator[Conflict]:
    every, steps = job.eval.every, job.train.max_steps
    problem = "train.patience needs evaluations before the end; eval.every ="
    if job.train.patience and every == "end":
        yield ("train.patience", "eval.every"), f'{problem} "end" runs none'
    if job.train.patience and steps and isinstance(every, int) and every >= steps:
        keys = "train.patience", "eval.every", "train.max_steps"
        yield keys, f"{problem} {every} runs none before train.max_steps = {steps}"
    if job.train.min_delta and not job.train.patience:
        problem = "applies only with train.patience, e.g. patience = 3"
        yield ("train.min_delta", "train.patience"), problem


RULES = (
    _hub_keys, _columns, _task, _metric, _splits, _budgets, _windows, _template, _adapter, _classes,
    _warmup, _patience,
)  # fmt: skip
