"""One worker's share of a training, in this process: the streams that `distsent.train` would lay for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import materials
from benchmarks.work import Work
from distsent import job as jobs
from distsent.corpus.order import Order
from distsent.corpus.store import Tokens, open_store
from distsent.model import classifier, work
from distsent.model.forward import Packed, forward_of
from distsent.model.stream import Stream
from distsent.model.tokenizer import load_tokenizer
from distsent.training.plan import Plan


@dataclass(frozen=True)
class Share:
    forward: Packed
    tokens: Tokens
    plan: Plan

    def streams(self, steps: int) -> Iterator[Stream]:
        for step in range(steps):
            for rows in self.plan.batch(step).micro:
                yield self.plan.stream(rows, seed=0, step=step, drops=True)


def share(asked: Work, rank: int = 0) -> Share:
    """Worker `rank`'s part of `asked`, its model ready to train."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = materials.corpus(asked, Path(scratch) / "corpus")
        encoder = str(materials.encoder(asked.encoder, Path(scratch) / "encoder"))
        data = jobs.load(None, [f"data.source={corpus}", f"data.max_length={asked.max_length}"])
        tokenizer = load_tokenizer(encoder)
        store = open_store(data.data, asked.seed, tokenizer, asked.max_length, Path(scratch) / "stores")
        model = classifier.build(encoder, tokenizer, store.label_names, seed=asked.seed, dropout=asked.dropout)
        tokens = store.splits["train"]
        useful = work.work(model.config)
        forward, _ = forward_of(model, tokenizer, "always")
        assert isinstance(forward, Packed)
        model.train()
        order = Order(len(tokens), asked.batch_size, asked.seed)
        plan = Plan(tokens, order, useful, rank, asked.workers, data.train.token_budget, torch.device("cpu"))
        return Share(forward, tokens, plan)  # the store is mapped: its files live on until nobody holds it
