"""Training steps with recorded passes against plain ones, with the kernels: interpreted_kernels.py.

What takes the place of a CUDA graph here calls the pass again.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from distsent.batching.batch_plan import Batch
from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.packing import pack
from distsent.distributed.world import World
from distsent.evaluation.tasks.choose import choose_task
from distsent.job.schema import OptimSection
from distsent.model.classifier import token_embedding
from distsent.model.packed_forward import PackedForward
from distsent.model.pooling import FIRST
from distsent.operators import gpu
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import Schedule
from distsent.training.passes import EachAsItComes, Pass, TrainingLoss
from distsent.training.recorded_passes import RecordedPasses, Run
from distsent.training.reducer import GradientReducer
from distsent.training.train_step import TrainStep
from tests import tiny_models

CPU = torch.device("cpu")
# Of the micro-batches of each step. Steps of equal numbers of tokens share a recorded pass.
STEPS = [[(9, 1, 5)], [(4, 4, 7)], [(2, 2, 2, 2, 2, 5), (7, 8, 1)], [(1, 1, 13), (2, 9, 4)]]


class Again:
    """Calls the pass again. Results stay in their memory."""

    def __init__(self, flat: FlatParameters) -> None:
        self.flat, self.replays = flat, 0

    def aside(self, run: Run) -> None:
        run()

    def record(self, run: Run) -> tuple[Callable[[], Any], Tensor]:
        before = self.flat.buffer.clone()
        out = run().clone()
        self.flat.buffer.copy_(before)  # a recording computes nothing

        def replay() -> None:
            self.replays += 1
            if self.flat.half is not None:
                self.flat.half.written = frozenset()
            out.copy_(run())

        return replay, out


def batch_of(step: int) -> Batch:
    """The batch of a step of STEPS. Its first example is the only one with token 5."""
    lengths = np.concatenate(STEPS[step])
    rows = np.arange(len(lengths))
    stops = np.cumsum([len(each) for each in STEPS[step]])[:-1]
    ids = [(3 + row + np.arange(n)) % 60 for row, n in enumerate(lengths)]

    def packed(rows: np.ndarray) -> Any:
        keys_T = dropout_keys(1, step, rows, lengths[rows])
        return pack([ids[row] for row in rows], rows % 3, keys_T=keys_T, step_key=step_key(1, step))

    tokens, micro = torch.from_numpy(np.unique(np.concatenate(ids))), np.split(rows, stops)
    shares = np.array([len(rows)])
    return Batch(step, rows, lengths, lengths, tokens, shares, tuple(micro), packed)


def train(precision: str, recorded: bool) -> tuple[list[float], Tensor, int]:
    """Losses of the steps, the weights after them, and how often a recorded pass was replayed."""
    forward, lines = PackedForward(tiny_models.encoder(dropout=0.3), FIRST), list[str]()
    forward.model.train()
    flat = FlatParameters(forward.model, token_embedding(forward.model))
    optim = replace(OptimSection(), lr=1e-2)
    run = Pass(forward, flat, TrainingLoss(choose_task("single_label", ["a", "b", "c"])), precision)
    passes: Any = EachAsItComes(run)
    recorder = Again(flat)
    if recorded:
        passes = RecordedPasses(run, recorder, CPU, lines.append)
    schedule = Schedule.from_job(optim, 10)
    step = TrainStep(run, GradientReducer(World(), flat), optim, schedule, passes)
    with patch.object(gpu, "runs", lambda x: True):
        losses = [step(batch_of(i)).loss for i in range(len(STEPS))]
    assert not lines, lines
    return losses, flat.values, recorder.replays


def errors(precision: str) -> dict[str, float]:
    """Of losses and weights, and how many replays are missing."""
    losses, weights, _ = train(precision, recorded=False)
    found, ours, replays = train(precision, recorded=True)
    off = {"losses": float(np.abs(np.subtract(found, losses)).max())}
    return off | {
        "weights": float((ours - weights).abs().max()),
        "replays": max(0.0, 4.0 - replays),
    }
