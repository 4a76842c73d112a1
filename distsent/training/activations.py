"""What forward and backward of a micro-batch take of memory, counted on a few tokens.

Forward and backward of three tiny batches run once. After each operation all new tensors that are
alive are counted, so it holds for any device, adapter, precision and with train.recompute. Of each
of these moments, the bytes grow with tokens and with pairs of tokens that attend to each other:
three batches give both. The moment with the most bytes depends on the size of the batch.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.packing import PackedBatch, pack
from distsent.model.forward import Forward, autocast
from distsent.model.padded_forward import PaddedForward

TOKENS = 16  # of an example of the first two batches; those of the third have twice as many
SHAPES = ((2, 1), (4, 1), (2, 2))  # examples, and their tokens in TOKENS


class LiveBytes(TorchDispatchMode):
    """Notes the bytes of all new tensors that are alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[int] = []
        self._now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {id(storage) for storage in _storages(args, *(kwargs or {}).values())}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if id(storage) not in known:  # not a view
                known.add(id(storage))
                self._now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.after.append(self._now)
        return out

    def _free(self, size: int) -> None:
        self._now -= size


def _storages(*values: Any) -> Iterator[torch.UntypedStorage]:
    for value in values:
        if isinstance(value, Tensor):
            if value.layout == torch.strided:
                yield value.untyped_storage()
        elif isinstance(value, list | tuple):
            yield from _storages(*value)


@dataclass(frozen=True)
class Activations:
    """Bytes at each moment of forward and backward: `fixed`, per token and per pair of tokens."""

    fixed_M: np.ndarray
    per_token_M: np.ndarray
    per_pair_M: np.ndarray

    def bytes(self, lengths: Sequence[int] | np.ndarray) -> float:
        """The most bytes for a micro-batch of examples with these lengths, padding included."""
        n = np.asarray(lengths, dtype=np.float64)
        return self.most(n.sum(keepdims=True), np.square(n).sum(keepdims=True))

    def most(self, tokens_G: np.ndarray, pairs_G: np.ndarray) -> float:
        """The most bytes for any of G micro-batches: the sums of lengths, and of their squares."""
        moments_MG = np.outer(self.per_token_M, tokens_G) + np.outer(self.per_pair_M, pairs_G)
        return float((self.fixed_M[:, None] + moments_MG).max(initial=0.0))


def count_activations(
    forward: Forward, precision: str, ids: np.ndarray, longest: int
) -> Activations | None:
    """`ids`: the tokens of some text. None for an architecture that does not take such batches.

    Adds to the gradients: set them to zero. Dropout is on.
    """
    model, tokens = forward.model, max(3, min(TOKENS, longest // 2))
    training = model.training
    model.train()
    moments = []
    with suppress(Exception), torch.random.fork_rng(devices=[]):
        for examples, times in (SHAPES[0], *SHAPES):  # a first call may keep tensors for good
            batch = _batch(ids, examples, times * tokens, model.device)
            with LiveBytes() as live:
                _run(forward, batch, precision)
            moments.append(np.array(live.after, dtype=np.float64))
    model.train(training)
    if isinstance(forward, PaddedForward):
        forward.reset_padding()
    if len(moments) <= len(SHAPES):
        return None
    del moments[0]
    if len({len(each) for each in moments}) > 1:  # a call per example: only the peaks compare
        moments = [each.max(keepdims=True) for each in moments]
    first, more, longer = moments
    per_pair = (longer - more) / (4 * tokens**2)
    per_token = (more - first - per_pair * 2 * tokens**2) / (2 * tokens)
    fixed = first - per_token * 2 * tokens - per_pair * 2 * tokens**2
    return Activations(*_largest(np.array([fixed, per_token, per_pair])))


def _largest(found_3M: np.ndarray) -> np.ndarray:
    """Without the moments that are smaller than another one in every batch: a few of thousands."""
    order = np.argsort(-found_3M.sum(axis=0), kind="stable")
    kept_3K = found_3M[:, :0]
    for column in found_3M.T[order]:
        if not (kept_3K >= column[:, None]).all(axis=0).any():
            kept_3K = np.column_stack([kept_3K, column])
    return kept_3K


def _batch(ids: np.ndarray, examples: int, tokens: int, device: torch.device) -> PackedBatch:
    one = np.resize(ids, tokens).astype(np.int64)
    one[-1] = ids[-1]  # some heads look for the end of a text
    rows, lengths = np.arange(examples), np.full(examples, tokens)
    keys_T = dropout_keys(0, 0, rows, lengths)
    return pack([one] * examples, np.zeros(examples), None, keys_T, device, step_key(0, 0), False)


def _run(forward: Forward, batch: PackedBatch, precision: str) -> None:
    with autocast(batch.ids_T.device, precision):
        logits = forward(batch)
    logits.float().square().sum().backward()
