"""Scoring a split on all workers: each row once, whatever their number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distsent.batching.batch_plan import collate
from distsent.distributed.world import World
from distsent.errors import Stopped, WorkerFailed
from distsent.evaluation.metrics import Counts
from distsent.evaluation.score import batch_tokens_for, batches_of_rank, score_batches
from distsent.model.forward import Forward, autocast

if TYPE_CHECKING:
    from distsent.data.token_store import Tokens


def evaluate_split(
    world: World,
    forward: Forward,
    tokens: Tokens,
    names: Sequence[str],
    *,
    batch_tokens: int,
    precision: str,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], torch.Tensor]:
    """Scores of the whole split, and the logits of its rows in order, [n, C] float32; both the same on every worker.

    Raises Stopped on all workers together when `stop` says so on any. Raises WorkerFailed unless each row was scored once.
    """
    began, n, classes = time.perf_counter(), len(tokens), len(names)
    mine = batches_of_rank(
        tokens.lengths(), world.rank, world.size, batch_tokens_for(device, batch_tokens)
    )
    rounds = max(world.allgather_object(len(mine), "evaluation.rounds"))
    seen = torch.zeros(n, classes + 1)  # logits, and how often the row was scored

    @torch.inference_mode()
    def logits_of(rows: np.ndarray) -> torch.Tensor:
        with autocast(device, precision):
            return forward(collate(tokens, rows, None, device))

    training = forward.model.training
    forward.model.eval()
    counts, runs = Counts(classes), score_batches(logits_of, tokens.labels, mine, classes)
    for done in range(rounds):
        step = next(runs, None)
        if step is not None:
            rows, logits_nC, counts = step
            index = torch.from_numpy(rows.copy())
            seen[index, :classes] += torch.from_numpy(logits_nC)
            seen[index, classes] += 1
        # The same number of rounds on every worker, with or without work: they can only leave together.
        if world.allreduce(torch.tensor([float(stop())]), "evaluation.stop").item():
            raise Stopped("asked to stop during an evaluation")
        progress(done + 1, rounds)
    forward.model.train(training)

    vector = torch.from_numpy(counts.to_vector())
    world.allreduce(vector, "evaluation.counts")
    world.allreduce(seen, "evaluation.logits")
    if not bool((seen[:, classes] == 1).all()):
        wrong = int((seen[:, classes] != 1).sum())
        raise WorkerFailed(
            f"{wrong} of {n} rows were not scored exactly once; this is a bug in distsent"
        )
    scores = Counts.from_vector(vector.numpy(), classes).scores(names)
    seconds = time.perf_counter() - began
    scores |= {"seconds": seconds, "samples_per_second": n / seconds}
    if not math.isfinite(scores["loss"]):
        scores["loss"] = float("nan")
    return scores, seen[:, :classes]
