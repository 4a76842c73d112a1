"""One worker's share of a training, in this process: the streams that `distsent.train` would lay for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import materials
from benchmarks.workload import Workload
from distsent.batching import flops
from distsent.batching.batch_plan import BatchPlan
from distsent.batching.packing import PackedBatch
from distsent.batching.sampler import BatchSampler
from distsent.data.token_store import Tokens, open_token_store
from distsent.distributed.world import World
from distsent.job import load_job
from distsent.model import classifier
from distsent.model.forward import PackedForward, choose_forward
from distsent.model.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Share:
    forward: PackedForward
    tokens: Tokens
    plan: BatchPlan

    def streams(self, steps: int) -> Iterator[PackedBatch]:
        for step in range(steps):
            for rows in self.plan.batch(step).micro:
                yield self.plan.pack(rows, seed=0, step=step, drops=True)


def share(asked: Workload, rank: int = 0) -> Share:
    """Worker `rank`'s part of `asked`, its model ready to train."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = materials.corpus(asked, Path(scratch) / "corpus")
        encoder = str(materials.encoder(asked.encoder, Path(scratch) / "encoder"))
        data = load_job(None, [f"data.source={corpus}", f"data.max_length={asked.max_length}"])
        tokenizer = load_tokenizer(encoder)
        store = open_token_store(
            data.data,
            asked.seed,
            tokenizer,
            asked.max_length,
            Path(scratch) / "stores",
            workers=World(),
        )
        model = classifier.build_classifier(
            encoder, tokenizer, store.label_names, seed=asked.seed, dropout=asked.dropout
        )
        tokens = store.splits["train"]
        useful = flops.count_flops(model.config)
        forward, _ = choose_forward(model, tokenizer, "always")
        assert isinstance(forward, PackedForward)
        model.train()
        order = BatchSampler(len(tokens), asked.batch_size, asked.seed)
        plan = BatchPlan(
            tokens, order, useful, rank, asked.workers, data.train.token_budget, torch.device("cpu")
        )
        return Share(
            forward, tokens, plan
        )  # the store is mapped: its files live on until nobody holds it
