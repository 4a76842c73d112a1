"""The parts of a run that its job determines, checked: tokenizer, token store, model, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from distsent.data.token_store import TokenStore, open_token_store
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.job.job import Job
from distsent.model import adapter, classifier
from distsent.model.tokenizer import load_tokenizer
from distsent.runtime.signals import StopSignal


def prepare_tokenizer(job: Job) -> Any:
    """Raises UserError if the model or the packages of an adapter are not available."""
    adapter.check_adapter(job)
    classifier.check_encoder(job.model.name, job.model.revision)
    return load_tokenizer(job.model.name, job.model.revision)


def prepare_store(job: Job, tokenizer: Any, world: World, stop: StopSignal) -> TokenStore:
    """The token store, which the main worker writes first if it is missing."""
    data, seed, parent = job.data, job.seeds[0], Path(job.data.store or f"{job.run.dir}/.tokens")

    def progress(done: int, total: int) -> None:
        stop.raise_if_requested()

    def tokenize() -> str:
        store = open_token_store(
            data, seed, tokenizer, data.max_length, parent, workers=World(), progress=progress
        )
        return str(store.folder)

    folder = Path(world.on_main(tokenize, "run.tokenize"))
    store = world.all_or_raise(lambda: TokenStore.open(folder), "run.store")
    world.assert_equal_across_ranks(store.meta, "the token store")
    return store


def prepare_model(job: Job, tokenizer: Any, store: TokenStore, precision: str) -> Any:
    """Raises UserError if job, model, tokenizer and dataset do not fit together."""
    model = adapter.build_model(job, tokenizer, store.label_names, precision)
    limit, length, name = classifier.token_limit(model), job.data.max_length, job.model.name
    if length > limit:
        raise UserError(f"data.max_length = {length}: {name} takes at most {limit} tokens")
    known = classifier.token_embedding(model).num_embeddings
    if len(tokenizer) > known:
        raise UserError(
            f"model.name = {name!r}: its tokenizer has {len(tokenizer)} tokens, its encoder knows "
            f"{known}: they do not belong together"
        )
    if "validation" not in store.splits:
        fix = "set data.validation_fraction, e.g. 0.1"
        if job.train.patience is not None:
            raise UserError(f"train.patience: there is no validation split to watch; {fix}")
        if "test" not in store.splits:
            raise UserError(f"data.source: neither a validation nor a test split; {fix}")
    return model


def class_weights(job: Job, store: TokenStore, device: torch.device) -> torch.Tensor | None:
    """`train.class_weights` as a tensor.

    `balanced` gives all classes the same total weight, and examples a mean weight of 1.
    """
    weights, names = job.train.class_weights, store.label_names
    if weights == "none":
        return None
    if weights == "balanced":
        labels = torch.tensor(store.splits["train"].labels[:]).long()
        counts = torch.bincount(labels, minlength=len(names)).double()
        return (counts.sum() / (len(names) * counts.clamp(min=1))).float().to(device)
    if len(weights) != len(names):
        raise UserError(
            f"train.class_weights: {len(weights)} weights for {len(names)} classes "
            f"({', '.join(names)})"
        )
    return torch.tensor(weights, dtype=torch.float32, device=device)
