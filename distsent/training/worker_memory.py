"""The memory of a worker: one model, for the line before training and for `distsent.plan`.

    held before the first step: libraries, weights, gradients, moments
  + a step: what forward and backward of the largest micro-batch have alive at most
  + a checkpoint: a copy of weights and moments, while it is written

A training looks what it holds (training/memory.py); a plan calculates it, for machines that are not
there. `python -m benchmarks memory` compares both with what processes take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from distsent.model.adapter import count_parameters
from distsent.model.forward import Forward
from distsent.model.recompute import is_recomputed
from distsent.training import half_weights
from distsent.training.activations import Activations, count_activations

STATES = 16  # bytes of a trained parameter: weight, gradient, two moments of Adam
HALF = 2  # and in half precision: a gradient in 16 bits. Activations count the 16-bit weights.
SAVED = 12  # of these, what a checkpoint copies: weight, two moments
ZEROS = 8  # of these, what takes no memory on a CPU before the first step writes it: two moments


@dataclass(frozen=True)
class Overhead:
    """What is in no tensor: bytes of `libraries`; what `loading` leaves, per byte of the file.

    A step takes `gaps` times the bytes of its tensors, and `buffers`; with train.recompute, when
    most are alive for a moment only, `gaps_again` times.
    """

    libraries: float
    loading: float
    gaps: float
    gaps_again: float
    buffers: float


# Loading leaves pages of the file, which a busy machine can take back, and freed memory. Between
# tensors of ever new sizes, malloc leaves more gaps than CUDA's allocator.
CPU = Overhead(libraries=6.5e8, loading=1.5, gaps=1.6, gaps_again=2.9, buffers=1.5e8)
GPU = Overhead(libraries=5e8, loading=0.0, gaps=1.1, gaps_again=1.1, buffers=1e8)


@dataclass(frozen=True)
class WorkerMemory:
    """`trained`, `parameters`: numbers of them. `frozen`: bytes of all else that a model holds.

    `half`: whether it computes in half precision.
    """

    trained: int
    parameters: int
    frozen: float
    activations: Activations | None  # None: they could not be counted
    half: bool = False
    recomputed: bool = False  # train.recompute

    def held(self, gpu: bool) -> float:
        """Bytes before the first step."""
        overhead, states = GPU if gpu else CPU, STATES + HALF * self.half
        weights = states * self.trained + self.frozen
        return overhead.libraries + overhead.loading * 4 * self.parameters + weights

    def zeros(self, gpu: bool) -> float:
        """Of these, the bytes that the first step adds."""
        return 0.0 if gpu else float(ZEROS * self.trained)

    def step(self, alive: float, gpu: bool) -> float:
        """Bytes of a step whose tensors take so many at most."""
        overhead = GPU if gpu else CPU
        gaps = overhead.gaps_again if self.recomputed else overhead.gaps
        return gaps * alive + overhead.buffers

    def saving(self, gpu: bool) -> float:
        """Bytes of a checkpoint on the main worker. That of a GPU is in the memory of the CPU."""
        return 0.0 if gpu else float(SAVED * self.trained)


def worker_memory(forward: Forward, precision: str, ids: np.ndarray, longest: int) -> WorkerMemory:
    """Runs a few tiny batches: see `count_activations`."""
    counted = count_activations(forward, precision, ids, longest)
    trained = sum(p.numel() for p in forward.model.parameters() if p.requires_grad)
    parameters = count_parameters(forward.model)
    frozen, half = frozen_bytes(forward.model), precision in half_weights.DTYPES
    recomputed = is_recomputed(forward.model)
    return WorkerMemory(trained, parameters, frozen, counted, half, recomputed)


def frozen_bytes(model: nn.Module) -> float:
    """Of weights that are not trained, in the precision that they are kept in, and of buffers."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    storages = [tensor.untyped_storage() for tensor in (*frozen, *model.buffers())]
    return float(sum({each.data_ptr(): each.nbytes() for each in storages}.values()))
