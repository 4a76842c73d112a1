"""Evaluate a split on all workers: each row is scored once, at any number of workers."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from distsent.batching.balance import split_by_tokens
from distsent.batching.batch_plan import collate
from distsent.data.tokens.store import Tokens
from distsent.distributed.world import World
from distsent.errors import MORE_MEMORY, Stopped, UserError, WorkerFailed, out_of_memory
from distsent.evaluation.exported import ExportedForward
from distsent.evaluation.tasks.task import Task
from distsent.model.forward import Forward, autocast

# More tokens do not fit a core's cache between two layers: batches of 8,192 or 32,768 tokens scored
# short texts 15 % slower.
CPU_TOKENS = 2048
LESS = "set eval.batch_tokens lower"


def evaluate_split(
    world: World,
    forward: Forward | ExportedForward,
    tokens: Tokens,
    task: Task,
    *,
    batch_tokens: int,
    precision: str,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
    free: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Any], torch.Tensor]:
    """The split's scores, and its logits [n, C] float32 in row order; equal on all workers.

    `free`: called if there is no memory; True: it freed some. Raises Stopped on all workers when
    `stop` returns True on any of them. Raises WorkerFailed unless each row was scored exactly once.
    """
    started, n, classes = time.perf_counter(), len(tokens), len(task.names)
    batch_tokens = batch_tokens_for(device, batch_tokens)
    batches = batches_of_rank(tokens.lengths(), world.rank, world.size, batch_tokens)
    rounds = max(world.allgather_object(len(batches), "evaluation.rounds"))
    logits = torch.zeros(n, classes + 1)  # the last column counts how often a row was scored

    counts, loss_sum, training = task.no_counts(), 0.0, forward.model.training

    def score(rows: np.ndarray) -> float:
        batch = collate(tokens, rows, None, device)
        with torch.inference_mode(), autocast(device, precision):
            logits_nC = forward(batch).float().cpu()
        losses_n = task.losses(logits_nC, batch.labels_n.cpu()).numpy()
        task.count(counts, logits_nC.numpy(), tokens.labels[rows])
        logits[torch.from_numpy(rows)] += F.pad(logits_nC, (0, 1), value=1.0)
        world.progress.worked()
        return float(losses_n.astype(np.float64).sum())

    forward.model.eval()
    for i in range(rounds):
        problem = None
        if i < len(batches):
            loss, problem = _in_memory(score, batches[i], free)
            loss_sum += loss
        _agree_to_go_on(world, stop(), problem)
    forward.model.train(training)

    # Sums of integers are exact up to 2**53.
    sums = torch.from_numpy(np.append(counts.ravel().astype(np.float64), loss_sum))
    world.allreduce(sums, "evaluation.counts")
    world.allreduce(logits, "evaluation.logits")
    if wrong := int((logits[:, classes] != 1).sum()):
        raise WorkerFailed(f"{wrong} of {n} rows were not scored exactly once: a bug in distsent")
    counts[:] = np.rint(sums[:-1].numpy()).astype(np.int64).reshape(counts.shape)
    logits = logits[:, :classes]
    scores = task.scores(counts, float(sums[-1]) / n, logits.numpy(), tokens.labels[:])
    seconds = time.perf_counter() - started
    scores |= {"seconds": seconds, "samples_per_second": n / seconds}
    if not math.isfinite(scores["loss"]):
        scores["loss"] = float("nan")
    return scores, logits


def _in_memory(
    score: Callable[[np.ndarray], float], rows: np.ndarray, free: Callable[[], bool]
) -> tuple[float, UserError | None]:
    """The score of a batch, and the error if there is no memory for it."""
    try:
        return score(rows), None
    except (MemoryError, RuntimeError) as error:
        problem = out_of_memory(error, "evaluating", f"{LESS}; {MORE_MEMORY}")
    return _in_memory(score, rows, free) if free() else (0.0, problem)


def _agree_to_go_on(world: World, stop: bool, problem: UserError | None) -> None:
    """Every worker takes part in every round, with or without a batch of its own.

    So all stop or fail in the same round, or none does.
    """
    flags = torch.tensor([float(stop), float(problem is not None)])
    stopped, failed = world.allreduce(flags, "evaluation.stop").tolist()
    if failed:
        world.raise_together(problem, "evaluation.failed")
    if stopped:
        raise Stopped("stop requested during an evaluation")


def batch_tokens_for(device: torch.device, batch_tokens: int) -> int:
    """Tokens per batch on this device, where `batch_tokens` is the upper limit."""
    return min(batch_tokens, CPU_TOKENS) if device.type == "cpu" else batch_tokens


def batches_of_rank(lengths: np.ndarray, rank: int, size: int, limit: int) -> list[np.ndarray]:
    """The rows of a rank in batches of at most `limit` tokens, each batch shortest first.

    A rank has every `size`-th row, the longest first, so that all workers finish together.
    """
    rows = np.argsort(lengths, kind="stable")[::-1][rank::size]
    batches = split_by_tokens(rows, lengths, limit) if len(rows) else []
    return [batch[::-1].copy() for batch in batches]
