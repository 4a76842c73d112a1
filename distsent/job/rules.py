"""Contradictions: keys that are right one by one and wrong together."""

import os
from collections.abc import Iterator
from pathlib import Path

from distsent.job.kinds import to_toml_value
from distsent.job.schema import Sections

NAMES = {
    "data.source": ("demo", "imdb", "emotion", "tweets"),
    "model.name": ("demo",),
}  # words that distsent knows


def looks_local(name: str) -> bool:
    """Whether a source or a model is meant as a path; anything else may be a hub id."""
    return name in (".", "..") or name.startswith(("./", "../", "/", "~"))


def meant_locally(key: str, name: str) -> bool:
    """Whether a source or a model that does not look like a path is one all the same: there is such a thing here."""
    return not looks_local(name) and name not in NAMES[key] and os.path.exists(name)


def public_name(name: str) -> str:
    """What may be told of a source or a model: of a local folder its own name, not where it lies."""
    return Path(name).name if looks_local(name) else name


def contradictions(job: Sections) -> Iterator[tuple[tuple[str, ...], str]]:
    """The keys at odds, the likeliest culprit first, and what is wrong between them."""
    data, train = job.data, job.train

    for dotted, value, what, name in (
        ("data.config", data.config, "data.source", data.source),
        ("data.revision", data.revision, "data.source", data.source),
        ("model.revision", job.model.revision, "model.name", job.model.name),
    ):
        if value is not None and (name == "demo" or looks_local(name)):
            yield (
                (dotted, what),
                f"only what comes from a hub has one, and {what} = {to_toml_value(name)} does not",
            )

    for first, one, second, other in (
        ("data.label_column", data.label_column, "data.text_column", data.text_column),
        ("data.pair_column", data.pair_column, "data.text_column", data.text_column),
        ("data.pair_column", data.pair_column, "data.label_column", data.label_column),
    ):
        if one == other:
            yield (first, second), f"{first} and {second} must be different columns"

    if data.validation_fraction + data.test_fraction >= 1:
        yield (
            ("data.validation_fraction", "data.test_fraction"),
            "data.validation_fraction and data.test_fraction must stay below 1 together, or no training row is left",
        )
    if data.pool_splits and not data.validation_fraction + data.test_fraction:
        yield (
            ("data.pool_splits", "data.test_fraction"),
            "pooled rows need data.test_fraction or data.validation_fraction to be cut by, e.g. test_fraction = 0.2",
        )

    for budget, tokens in (
        ("train.token_budget", train.token_budget),
        ("eval.batch_tokens", job.eval.batch_tokens),
    ):
        if tokens < data.max_length:
            yield (
                (budget, "data.max_length"),
                f"{budget} must hold one example of data.max_length = {data.max_length}",
            )

    if job.adapter.kind == "none":
        for name in ("bits", "targets"):
            if getattr(job.adapter, name) is not None:
                yield (
                    (f"adapter.{name}", "adapter.kind"),
                    'has a meaning only with adapter.kind = "lora"',
                )

    if (
        isinstance(train.class_weights, tuple)
        and data.labels
        and len(train.class_weights) != len(data.labels)
    ):
        yield (
            ("train.class_weights", "data.labels"),
            f"train.class_weights has {len(train.class_weights)} numbers for the {len(data.labels)} data.labels",
        )

    warmup = job.optim.warmup
    if warmup > 1 and warmup != int(warmup):
        yield (
            ("optim.warmup",),
            "expected a share below 1 or a whole number of steps, e.g. 0.1 or 500",
        )
    elif warmup >= 1 and train.max_steps and warmup > train.max_steps:
        yield (
            ("optim.warmup", "train.max_steps"),
            f"optim.warmup = {int(warmup)} steps would outlast train.max_steps = {train.max_steps}",
        )

    if train.patience and job.eval.every == "end":
        yield (
            ("train.patience", "eval.every"),
            'train.patience waits for evaluations, and eval.every = "end" makes none before the end',
        )
    if (
        train.patience
        and train.max_steps
        and isinstance(job.eval.every, int)
        and job.eval.every >= train.max_steps
    ):
        yield (
            ("train.patience", "eval.every", "train.max_steps"),
            f"train.patience waits for evaluations, and eval.every = {job.eval.every} makes none before "
            f"train.max_steps = {train.max_steps}",
        )
    if train.min_delta and not train.patience:
        yield (
            ("train.min_delta", "train.patience"),
            "has a meaning only with train.patience, e.g. patience = 3",
        )
