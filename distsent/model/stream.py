"""A micro-batch as one stream of real tokens: examples end to end, no padding.

Shape letters: T tokens of the stream, n examples, g examples of a group, L tokens of a group's longest, H heads,
D width of a head, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

WASTE = 0.3  # share of attention that a group of unequal examples may spend on padding
ALONE = 128  # from this length on an example's attention is worth a call of its own
GROUP_TOKENS = 1024


@dataclass(frozen=True)
class Group:
    """Neighbouring examples, from number `first` on, whose attention runs as one batch. Tokens start..stop of the stream."""

    first: int
    start: int
    stop: int
    count: int
    longest: int
    take_gL: torch.Tensor | None  # stream index of every place (pads repeat the example's first token); None: no pads
    put_T: torch.Tensor | None  # place in [g * L] of every token; None: no pads
    pad_gL: torch.Tensor | None  # True where there is no token


@dataclass(frozen=True)
class Stream:
    """Examples end to end. `keys_T` feeds dropout and is None when nothing is dropped."""

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    types_T: torch.Tensor | None
    firsts_n: torch.Tensor
    labels_n: torch.Tensor
    lengths: tuple[int, ...]
    groups: tuple[Group, ...]
    keys_T: torch.Tensor | None

    @property
    def tokens(self) -> int:
        return len(self.ids_T)

    def __len__(self) -> int:
        return len(self.lengths)


def stream(
    ids: Sequence[np.ndarray],
    labels: np.ndarray,
    types: Sequence[np.ndarray] | None = None,
    keys_T: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Stream:
    """Lay examples end to end, in the order given (shortest first groups best)."""
    lengths = np.fromiter((len(x) for x in ids), dtype=np.int64, count=len(ids))
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)

    return Stream(
        ids_T=tensor(np.concatenate(ids)),
        positions_T=tensor(positions),
        types_T=None if types is None else tensor(np.concatenate(types)),
        firsts_n=tensor(starts),
        labels_n=tensor(labels),
        lengths=tuple(lengths.tolist()),
        groups=tuple(_group(starts, lengths, a, b, device) for a, b in _spans(lengths)),
        keys_T=None if keys_T is None else keys_T.to(device),
    )


def _spans(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Consecutive examples [a, b) that share one batched attention: of like length, or so short that calls cost more."""
    spans, a = [], 0
    longest, useful = int(lengths[0]), int(lengths[0]) ** 2
    for b in range(1, len(lengths)):
        length = int(lengths[b])
        tallest, squares = max(longest, length), useful + length * length
        places = (b - a + 1) * tallest
        if length < ALONE and places <= GROUP_TOKENS and squares >= (1 - WASTE) * places * tallest:
            longest, useful = tallest, squares
        else:
            spans.append((a, b))
            a, longest, useful = b, length, length * length
    return [*spans, (a, len(lengths))]


def _group(starts: np.ndarray, lengths: np.ndarray, a: int, b: int, device: torch.device | str) -> Group:
    start, stop = int(starts[a]), int(starts[b - 1] + lengths[b - 1])
    own, longest = lengths[a:b], int(lengths[a:b].max())
    if (own == longest).all():
        return Group(a, start, stop, b - a, longest, None, None, None)
    place = np.arange(longest)
    pad = place[None, :] >= own[:, None]
    take = np.where(pad, starts[a:b, None], starts[a:b, None] + place[None, :])
    return Group(
        a,
        start, stop, b - a, longest,
        torch.from_numpy(take).to(device),
        torch.from_numpy(np.flatnonzero(~pad.ravel())).to(device),
        torch.from_numpy(pad).to(device),
    )  # fmt: skip
