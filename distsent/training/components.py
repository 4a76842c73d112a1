"""The parts of a run that come from its job: tokenizer, token store, model. Each is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distsent.data.token_store import TokenStore, open_token_store
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.job.job import Job
from distsent.model import adapter, classifier
from distsent.model.tokenizer import load_tokenizer
from distsent.runtime.signals import StopSignal


def load_checked_tokenizer(job: Job) -> Any:
    """Raises UserError if the model or an adapter's package cannot be had."""
    adapter.check_adapter(job)
    classifier.check_encoder(job.model.name, job.model.revision)
    return load_tokenizer(job.model.name, job.model.revision)


def open_shared_store(job: Job, tokenizer: Any, world: World, stop: StopSignal) -> TokenStore:
    """The token store, which the main worker writes first if it is missing."""
    parent = Path(job.data.store or Path(job.run.dir) / ".tokens")

    def tokenize() -> str:
        store = open_token_store(
            job.data,
            job.seeds[0],
            tokenizer,
            job.data.max_length,
            parent,
            workers=World(),
            progress=lambda done, total: stop.raise_if_requested(),
        )
        return str(store.folder)

    folder = Path(world.on_main(tokenize, "run.tokenize"))
    store = world.all_or_raise(lambda: TokenStore.open(folder), "run.store")
    world.assert_equal_across_ranks(store.meta, "the token store")
    return store


def build_checked_model(job: Job, tokenizer: Any, store: TokenStore, precision: str) -> Any:
    """Raises UserError if job, model, tokenizer and dataset do not fit together."""
    model = adapter.build_model(job, tokenizer, store.label_names, precision)
    limit, name = classifier.token_limit(model), job.model.name
    if job.data.max_length > limit:
        raise UserError(
            f"data.max_length = {job.data.max_length}: {name} takes at most {limit} tokens"
        )
    known = classifier.token_embedding(model).num_embeddings
    if len(tokenizer) > known:
        raise UserError(
            f"model.name = {name!r}: its tokenizer has {len(tokenizer)} tokens, its encoder knows "
            f"{known}: they do not belong together"
        )
    if job.train.patience is not None and "validation" not in store.splits:
        raise UserError(
            "train.patience: there is no validation split to watch; set data.validation_fraction, "
            "e.g. 0.1"
        )
    if "validation" not in store.splits and "test" not in store.splits:
        raise UserError(
            "data.source: neither a validation nor a test split; set data.validation_fraction, "
            "e.g. 0.1"
        )
    return model
