"""Scoring a saved model anew: on its own corpus or on another, on any number of workers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distsent.data.token_store import TokenStore, open_token_store, token_store_folder
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation import intervals
from distsent.evaluation.evaluate_split import evaluate_split
from distsent.evaluation.predictor import class_names, find_model_folder
from distsent.job import Job, load_job, load_saved_job
from distsent.model import classifier
from distsent.model.forward import choose_forward
from distsent.model.tokenizer import load_tokenizer
from distsent.runtime import device as devices
from distsent.runtime.device import pinned_precision
from distsent.runtime.run_folder import read_json

# What describes the corpus that a model was trained on, and has no meaning for another one.
ITS_OWN = (
    "config", "revision", "labels", "max_rows", "max_eval_rows", "validation_fraction", "test_fraction", "pool_splits", "store",
)  # fmt: skip
CUTS = ("data.validation_fraction", "data.test_fraction", "data.pool_splits")


@dataclass(frozen=True)
class EvaluationRequest:
    """`only`: whether the split is taken from the source as it is there, instead of cut as for training."""

    folder: Path
    name: str
    job: Job
    split: str
    only: bool


def resolve_request(path: str, overrides: list[str], split: str) -> EvaluationRequest:
    """What is to be scored: the model at `path`, with its own job where it has one, under overrides. Raises UserError."""
    folder = find_model_folder(path)
    given = {override.partition("=")[0].strip() for override in overrides}
    kept = next(
        (
            place
            for place in (Path(path) / "job.json", folder.parent / "job.json")
            if place.is_file()
        ),
        None,
    )
    other = "data.source" in given
    if kept is None:
        if not other:
            raise UserError(
                f"{path}: a model without a job: say what to score it on, e.g. data.source=./test.csv"
            )
        asked = load_job(
            None,
            [
                *overrides,
                *([] if "data.max_length" in given else [f"data.max_length={_longest(folder)}"]),
            ],
        )
        return EvaluationRequest(folder, folder.name, asked, split, only=given.isdisjoint(CUTS))
    begun = read_json(kept)
    tree = begun["job"]
    if "precision" in tree.get("train", {}):  # as it was trained, whatever is faster here
        tree["train"]["precision"] = pinned_precision(tree["train"]["precision"], begun)
    if other:
        tree["data"] = {key: value for key, value in tree["data"].items() if key not in ITS_OWN}
    elif "run.dir" not in given:
        tree["run"]["dir"] = str(
            kept.parent.parent
        )  # where its token store is, should the run have been moved
    asked = load_saved_job(tree, str(kept), overrides)
    return EvaluationRequest(
        folder, tree["job"]["name"], asked, split, only=other and given.isdisjoint(CUTS)
    )


def _longest(folder: Path) -> int:
    """The most tokens that a model takes, from what stands beside its weights."""
    limits = []
    for name, key in (
        ("tokenizer_config.json", "model_max_length"),
        ("config.json", "max_position_embeddings"),
    ):
        path = folder / name
        limits.append(
            json.loads(path.read_text(encoding="utf-8")).get(key, 512) if path.is_file() else 512
        )
    return int(min(*limits, 512))


def evaluate_saved_model(asked: EvaluationRequest, world: World) -> dict[str, Any]:
    """Scores of the split, with 95 % confidence intervals; the same on every worker."""
    job, folder = asked.job, str(asked.folder)
    world.assert_equal_across_ranks([job.to_dict(), asked.split], "what is to be scored")
    devices.share_cores(world)
    device = devices.select_device(world.local_rank)
    precision, _ = world.on_main(
        lambda: devices.resolve_precision(job.train.precision, device), "rescore.precision"
    )
    tokenizer = world.all_or_raise(lambda: load_tokenizer(folder), "rescore.tokenizer")
    model = world.all_or_raise(lambda: classifier.load_classifier(folder), "rescore.model")
    names = class_names(model)
    if job.data.max_length > classifier.token_limit(model):
        raise UserError(
            f"data.max_length = {job.data.max_length}: this model takes at most {classifier.token_limit(model)} tokens"
        )
    made = Path(world.on_main(lambda: str(_store(asked, names, tokenizer).folder), "rescore.store"))
    store = world.all_or_raise(lambda: TokenStore.open(made), "rescore.open")
    _check(asked, store, names)
    torch.nn.Module.to(model, device)
    forward, _ = choose_forward(model, tokenizer, job.model.packed)
    scores, _ = evaluate_split(
        world,
        forward,
        store.splits[asked.split],
        names,
        batch_tokens=job.eval.batch_tokens,
        precision=precision,
        device=device,
    )
    return {
        "model": folder, "name": asked.name, "source": job.data.source, "split": asked.split, **scores,
        "intervals": intervals.score_intervals(scores["confusion"]), "labels": names, "computed_in": precision, "world_size": world.size,
    }  # fmt: skip


def _store(asked: EvaluationRequest, names: list[str], tokenizer: Any) -> TokenStore:
    data = asked.job.data
    if asked.only and data.labels is None and not _nameless(names):
        data = replace(
            data, labels=tuple(names)
        )  # what the model's classes are called decides what a label means
    return open_token_store(
        data,
        asked.job.seeds[0],
        tokenizer,
        data.max_length,
        token_store_folder(asked.job),
        workers=World(),
        only=asked.split if asked.only else None,
    )


def _check(asked: EvaluationRequest, store: TokenStore, names: list[str]) -> None:
    """Raises UserError unless there is such a split, and its classes are the model's."""
    if asked.split not in store.splits:
        raise UserError(
            f"data.source: there is no {asked.split} split; there is {', '.join(store.splits)}: say --split"
        )
    same = (
        len(store.label_names) == len(names)
        if _nameless(names)
        else list(store.label_names) == names
    )
    if not same:
        raise UserError(
            f"data.source: its classes are {', '.join(store.label_names)}, the model's are {', '.join(names)}; "
            "data.labels names them in the model's order"
        )


def _nameless(names: list[str]) -> bool:
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))
