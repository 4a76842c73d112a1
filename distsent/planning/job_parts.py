"""What a plan needs to know of a job: its batches, its model's size, what it does beside steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from distsent.batching.batch_plan import BatchPlan
from distsent.distributed.world import World
from distsent.job.job import Job
from distsent.model import classifier
from distsent.model.forward import Forward
from distsent.planning.step_time import Run
from distsent.planning.work import ModelSize, Work, count_work
from distsent.runtime.signals import StopSignal
from distsent.training.build import build_plan, open_model
from distsent.training.inputs import prepare_store, prepare_tokenizer
from distsent.training.worker_memory import WorkerMemory, worker_memory


@dataclass(frozen=True)
class JobParts:
    """`job`: with the batch size that its steps have."""

    job: Job
    plan: BatchPlan
    model: ModelSize
    layers: int
    run: Run

    def work(self, workers: int, factor: int = 1, budget: int | None = None) -> Work:
        """Of the job with batches `factor` times as large, or with another token budget."""
        sampler = self.plan.sampler
        larger = replace(sampler, batch_size=factor * sampler.batch_size)
        budget = budget or self.plan.token_budget
        plan = replace(self.plan, sampler=larger, token_budget=budget, _block={})
        return count_work(plan, self.model, workers)


def open_parts(job: Job, precision: str, stop: StopSignal) -> JobParts:
    """Opens model and token store on the CPU; writes the store if it is missing.

    `precision`: float32, or bf16 for both 16-bit types: what is kept for backward is the same.
    """
    world, device = World(), torch.device("cpu")
    tokenizer = prepare_tokenizer(job)
    store = prepare_store(job, tokenizer, world, stop, None)
    _, forward, _ = open_model(job, world, precision, tokenizer, store, device)
    plan = build_plan(job, store, forward, world, device, precision)
    memory = count_memory(job, plan, forward, precision)
    size = ModelSize.of(memory, classifier.token_embedding(forward.model))
    text: Any = forward.model.config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None) or text.n_layers
    work = {
        name: plan.flops.forward(tokens.window_lengths(np.arange(len(tokens))))
        for name, tokens in store.splits.items()
        if name != "train"
    }
    watched = work["validation"] if "validation" in work else work["test"]
    # A batch has at most all rows
    job = replace(job, train=replace(job.train, batch_size=plan.sampler.batch_size))
    return JobParts(job, plan, size, layers, job_run(job, plan, watched, sum(work.values())))


def count_memory(job: Job, plan: BatchPlan, forward: Forward, precision: str) -> WorkerMemory:
    """Of a worker. Gives the model gradients as a training does. Raises UserError."""
    embedding = classifier.token_embedding(forward.model)
    embedding.sparse = embedding.weight.requires_grad
    for parameter in forward.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    ids = plan.tokens.ids[plan.tokens.window_spans(np.zeros(1, np.int64))[0]]
    return worker_memory(forward, precision, np.asarray(ids), job.data.max_length)


def job_run(job: Job, plan: BatchPlan, watched: float, final: float) -> Run:
    sampler, every = plan.sampler, job.eval.every
    steps = sampler.total_steps(job.train.epochs, job.train.max_steps)
    every = sampler.steps_per_epoch if every == "epoch" else every
    evaluations = 1 if every == "end" else -(-steps // int(every))
    backward = 1 - 1 / plan.flops.passes
    return Run(steps, evaluations, watched, final, job.checkpoint.every_seconds, backward)
