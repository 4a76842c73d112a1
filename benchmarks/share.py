"""One worker's share of a training run, in this process: the batches that distsent.train packs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import materials
from benchmarks.workload import Workload
from distsent.batching.batch_plan import BatchPlan
from distsent.batching.packing import PackedBatch
from distsent.batching.sampler import BatchSampler
from distsent.data.tokens.store import Tokens, open_token_store
from distsent.distributed.world import World
from distsent.evaluation.tasks.choose import choose_task
from distsent.job import load_job
from distsent.job.schema import ModelSection, OptimSection
from distsent.model import classifier, flops
from distsent.model.forward import choose_forward
from distsent.model.packed_forward import PackedForward
from distsent.model.tokenizer import load_tokenizer
from distsent.training.exchange import Exchange
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import Schedule
from distsent.training.passes import Pass, TrainingLoss
from distsent.training.train_step import TrainStep


@dataclass(frozen=True)
class WorkerShare:
    forward: PackedForward
    tokens: Tokens
    plan: BatchPlan

    def packed_batches(self, steps: int) -> Iterator[PackedBatch]:
        for step in range(steps):
            for _, packed in self.plan.batch(step).micro_batches():
                yield packed


def worker_share(work: Workload, rank: int = 0) -> WorkerShare:
    """The share of worker `rank`, with a model in training mode."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = materials.dataset(work, folder / "dataset")
        encoder = str(materials.encoder(work.encoder, folder / "encoder"))
        job = load_job(None, [f"data.source={dataset}", f"data.max_length={work.max_length}"])
        tokenizer = load_tokenizer(encoder)
        # The store stays mapped after its folder is deleted.
        store = open_token_store(
            job.data, work.seed, tokenizer, work.max_length, folder / "stores", workers=World()
        )
        section = ModelSection(name=encoder, dropout=work.dropout)
        model = classifier.build_classifier(section, tokenizer, store.label_names, work.seed).model
        tokens = store.splits["train"]
        forward, _ = choose_forward(model, tokenizer, "always")
        assert isinstance(forward, PackedForward)
        model.train()
        counter = flops.measure_flops(forward)
        sampler = BatchSampler(len(tokens), work.batch_size, work.seed)
        budget, cpu = job.train.token_budget, torch.device("cpu")
        plan = BatchPlan(tokens, sampler, counter, rank, work.workers, budget, cpu)
        return WorkerShare(forward, tokens, plan)


def training_step(
    share: WorkerShare, work: Workload, reducer: Callable[[FlatParameters], Exchange]
) -> TrainStep:
    """The steps of a training with this model. It takes over the model's parameters."""
    model = share.forward.model
    flat, optim = FlatParameters(model, classifier.token_embedding(model)), OptimSection()
    task = choose_task("single_label", classifier.class_names(model.config))
    run = Pass(share.forward, flat, TrainingLoss(task), work.precision)
    return TrainStep(run, reducer(flat), optim, Schedule.from_job(optim, work.steps))
