"""What goes wrong in one worker or on one disk, switched in from outside:  python -m tests.chaos.mishaps PLAN

Several runs in one start of the workers, as `tests.parallel.driver` makes them. A worker that ended otherwise than the others would
leave them hanging in the next run.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from distsent.batching.batch_plan import Batch
from distsent.data.token_store import TokenStore
from distsent.distributed.launchers import init_world
from distsent.model import adapter
from distsent.runtime import checkpoint
from distsent.runtime.safetensors_buffer import SafetensorsBuffer
from distsent.training import replica_check
from distsent.training.optimizer import moments
from distsent.training.train_step import TrainStep
from tests.parallel.driver import drive
from tests.parallel.mutants import mutant

STEP = 13  # of 24; saved every 3, evaluated every 10
FLIPPED = "bert.encoder.layer.1.output.dense.weight"


class Poisoned:
    """A forward pass whose last logit is no number."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)

    def __call__(self, stream: Any) -> torch.Tensor:
        logits = self._forward(stream)
        return torch.cat([logits[:-1], logits[-1:] * float("nan")])


def poison(steps: tuple[int, ...], here: bool) -> Any:
    """Let the loss of one example be no number in some steps, if this is the worker."""
    real = TrainStep._backward

    def wrong(self: TrainStep, batch: Batch) -> list[int]:
        if not here or batch.step not in steps:
            return real(self, batch)
        with patch.object(self, "forward", Poisoned(self.forward)):
            return real(self, batch)

    return patch.object(TrainStep, "_backward", wrong)


@mutant
def nan_loss_at_rank_1(rank: int, size: int) -> Iterator[Any]:
    with poison((STEP,), rank == 1):
        yield


@mutant
def nan_loss_twice(rank: int, size: int) -> Iterator[Any]:
    with poison((STEP, STEP + 4), rank == 1):
        yield


@mutant
def infinite_gradient_at_rank_0(rank: int, size: int) -> Iterator[Any]:
    """The loss is a number, its gradient is not."""
    real = TrainStep._backward

    def wrong(self: TrainStep, batch: Batch) -> list[int]:
        bad = real(self, batch)
        if rank == 0 and batch.step == STEP:
            self.flat.grads[-1] = float("inf")
        return bad

    with patch.object(TrainStep, "_backward", wrong):
        yield


def flip(
    here: bool,
    held: Callable[[TrainStep], Sequence[torch.Tensor]] = lambda update: (update.flat.values,),
) -> Any:
    """Flip the lowest bit of one weight after a step, or of what else is `held`, as a cosmic ray would."""
    real = TrainStep.__call__

    def wrong(self: TrainStep, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        outcome = real(self, batch, *args, **kwargs)
        if here and batch.step == STEP:
            self.flat.split(*held(self))[FLIPPED].view(torch.int32)[0, 0] ^= 1
        return outcome

    return patch.object(TrainStep, "__call__", wrong)


@mutant
def flipped_bit_at_rank_1(rank: int, size: int) -> Iterator[Any]:
    with flip(rank == 1):
        yield


@mutant
def flipped_bit_that_nothing_saves(rank: int, size: int) -> Iterator[Any]:
    with flip(rank == 0), patch.object(replica_check, "EVERY", 20):
        yield


@mutant
def flipped_moment_at_rank_1(rank: int, size: int) -> Iterator[Any]:
    with flip(rank == 1, lambda update: moments(update.optimizer)["exp_avg"]):
        yield


@mutant
def other_base_at_rank_1(rank: int, size: int) -> Iterator[Any]:
    """Weights that nobody trains or exchanges, read from other files."""
    real = adapter.build_model

    def wrong(*args: Any) -> Any:
        model = real(*args)
        if rank == 1:
            dict(model.named_parameters())[FLIPPED].data[0, 0] += 1
        return model

    with patch.object(adapter, "build_model", wrong):
        yield


@mutant
def no_store_at_rank_1(rank: int, size: int) -> Iterator[Any]:
    """What the first worker has written, another node does not see."""
    real = TokenStore.open

    def wrong(folder: Path) -> TokenStore:
        return real(folder / "elsewhere" if rank == 1 else folder)

    with patch.object(TokenStore, "open", wrong):
        yield


@mutant
def full_disk(rank: int, size: int) -> Iterator[Any]:
    """From the third save on there is no room."""
    real, saves = SafetensorsBuffer.write, 0

    def wrong(image: SafetensorsBuffer, path: Path) -> None:
        nonlocal saves
        saves += 1
        if saves > 4:  # two files each
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(image, path)

    with patch.object(SafetensorsBuffer, "write", wrong):
        yield


@mutant
def slow_disk(rank: int, size: int) -> Iterator[Any]:
    """Every fsync takes its time, longer than the steps between two saves."""
    real = checkpoint.sync

    def slow(path: Path) -> None:
        time.sleep(0.05)
        real(path)

    with patch.object(checkpoint, "sync", slow):
        yield


if __name__ == "__main__":
    world = init_world()
    drive(json.loads(Path(sys.argv[1]).read_text()), world)
    world.shutdown()
