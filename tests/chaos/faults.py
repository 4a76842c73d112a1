"""Faults in one worker or on one disk, injected by patches:  python -m tests.chaos.faults PLAN

Several runs in one start of the workers, as in `tests.parallel.driver`. A worker that ended in
another way than the others would make them hang in the next run.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tokenizers import normalizers
from transformers.models.bert import modeling_bert

from distsent.batching.batch_plan import Batch
from distsent.data.tokens.store import TokenStore
from distsent.distributed.launchers import init_world
from distsent.model import adapter
from distsent.runtime import checkpoint
from distsent.runtime import device as devices
from distsent.runtime.safetensors_buffer import SafetensorsBuffer
from distsent.training import inputs, replica_check
from distsent.training.reducer import GradientReducer
from distsent.training.train_step import Losses, TrainStep
from tests.parallel.driver import drive
from tests.parallel.mutants import mutant

STEP = 13  # of 24; saved every 3, evaluated every 10
FLIPPED = "bert.encoder.layer.1.output.dense.weight"


class NanForward:
    """A forward pass whose last logits are NaN."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __getattr__(self, name: str) -> Any:
        return getattr(self._forward, name)

    def __call__(self, packed: Any) -> torch.Tensor:
        logits = self._forward(packed)
        return torch.cat([logits[:-1], logits[-1:] * float("nan")])


def nan_loss(steps: tuple[int, ...], on_this_rank: bool) -> Any:
    """Make the loss of one example NaN in some steps."""
    real = TrainStep._backward

    def backward(self: TrainStep, batch: Batch) -> Losses:
        if not on_this_rank or batch.step not in steps:
            return real(self, batch)
        with patch.object(self.run, "forward", NanForward(self.forward)):
            return real(self, batch)

    return patch.object(TrainStep, "_backward", backward)


@mutant
def nan_loss_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    with nan_loss((STEP,), rank == 1):
        yield


@mutant
def nan_loss_twice(rank: int, size: int) -> Iterator[Any]:
    with nan_loss((STEP, STEP + 4), rank == 1):
        yield


@mutant
def infinite_gradient_on_rank_0(rank: int, size: int) -> Iterator[Any]:
    """The loss is finite, its gradient is not."""
    real = TrainStep._backward

    def backward(self: TrainStep, batch: Batch) -> Losses:
        losses = real(self, batch)
        if rank == 0 and batch.step == STEP:
            self.flat.grads[-1] = float("inf")
        return losses

    with patch.object(TrainStep, "_backward", backward):
        yield


def weights(step: TrainStep) -> torch.Tensor:
    return step.flat.values


def flip_bit(on_this_rank: bool, values: Callable[[TrainStep], torch.Tensor] = weights) -> Any:
    """Flip the lowest bit of one weight, or of another value per weight, as a cosmic ray would."""
    real = TrainStep.__call__

    def step_and_flip(self: TrainStep, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        result = real(self, batch, *args, **kwargs)
        if on_this_rank and batch.step == STEP:
            self.flat.split(values(self))[FLIPPED].view(torch.int32)[0, 0] ^= 1
        return result

    return patch.object(TrainStep, "__call__", step_and_flip)


@mutant
def flipped_bit_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    with flip_bit(rank == 1):
        yield


@mutant
def flipped_bit_without_saves(rank: int, size: int) -> Iterator[Any]:
    with flip_bit(rank == 0), patch.object(replica_check, "EVERY", 20):
        yield


@mutant
def flipped_moment_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    with flip_bit(rank == 1, lambda step: step.flat.moments["exp_avg"]):
        yield


@mutant
def other_frozen_weights_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    """Weights that are neither trained nor all-reduced, read from other files."""
    real = adapter.build_model

    def build(*args: Any) -> Any:
        loaded = real(*args)
        if rank == 1:
            dict(loaded.model.named_parameters())[FLIPPED].data[0, 0] += 1
        return loaded

    with patch.object(adapter, "build_model", build):
        yield


@mutant
def other_transformers_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    module = sys.modules["transformers"]  # it replaces itself while it is imported
    with patch.object(module, "__version__", "0.1") if rank else nullcontext():
        yield


@mutant
def other_layers_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    """The node's copy of a library has another activation."""
    file = __file__ if rank else modeling_bert.__file__
    with patch.object(modeling_bert, "__file__", file):
        yield


@mutant
def other_tokenizer_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    """The token store is rank 0's, but predictions and exports need the tokenizer, too."""
    real = inputs.load_tokenizer

    def load(*args: Any) -> Any:
        tokenizer = real(*args)
        if rank == 1:
            tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        return tokenizer

    with patch.object(inputs, "load_tokenizer", load):
        yield


@mutant
def other_rounding_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    """GPUs of two kinds: one's norm of the same gradient is the next float32 number."""
    real = GradientReducer._sum_norm

    def norm(self: GradientReducer, token_ids: torch.Tensor) -> float:
        return real(self, token_ids) * (1 + rank * 2**-23)

    kind = patch.object(devices, "arithmetic", lambda device: f"GPU {rank}")
    with kind, patch.object(GradientReducer, "_sum_norm", norm):
        yield


@mutant
def no_store_on_rank_1(rank: int, size: int) -> Iterator[Any]:
    """The token store that rank 0 has written does not exist on another node."""
    real = TokenStore.open

    def open_store(folder: Path) -> TokenStore:
        return real(folder / "elsewhere" if rank == 1 else folder)

    with patch.object(TokenStore, "open", open_store):
        yield


@mutant
def full_disk(rank: int, size: int) -> Iterator[Any]:
    """The disk is full from the third save on."""
    real, writes = SafetensorsBuffer.write, 0

    def write(buffer: SafetensorsBuffer, path: Path) -> None:
        nonlocal writes
        writes += 1
        if writes > 4:  # two files per save
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(buffer, path)

    with patch.object(SafetensorsBuffer, "write", write):
        yield


@mutant
def slow_disk(rank: int, size: int) -> Iterator[Any]:
    """Every fsync takes longer than the steps between two saves."""
    real = checkpoint.sync

    def slow_sync(path: Path) -> None:
        time.sleep(0.05)
        real(path)

    with patch.object(checkpoint, "sync", slow_sync):
        yield


if __name__ == "__main__":
    world = init_world()
    drive(json.loads(Path(sys.argv[1]).read_text()), world)
    world.shutdown()
