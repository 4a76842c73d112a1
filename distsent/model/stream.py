"""A micro-batch as one stream of real tokens: examples end to end, no padding.

Shape letters: T tokens of the stream, n examples, g examples of a group, L tokens of a group's longest, H heads,
D width of a head, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

WASTE = 0.3  # share of attention that a group of unequal examples may spend on padding
ALONE = 128  # from this length on an example's attention is worth a call of its own
GROUP_TOKENS = 1024


@dataclass(frozen=True)
class Group:
    """Neighbouring examples, from number `first` on, whose attention runs as one batch of `count` x `longest` places."""

    first: int
    start: int  # its first place; the groups' places follow one another
    count: int
    longest: int
    pad_gL: torch.Tensor | None  # True where there is no token; None: a token everywhere

    @property
    def stop(self) -> int:
        return self.start + self.count * self.longest


@dataclass(frozen=True)
class Heads:
    """How a stream's rows [T * H] are laid out for attention: group by group, in each [g, H, L], every head's rows together."""

    take: torch.Tensor  # row of the stream for every place (at pads the example's first token's: finite, and its own)
    put: torch.Tensor  # place of every row of the stream
    pads: torch.Tensor  # places without a token


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
    _heads: dict[int, Heads] = field(default_factory=dict, compare=False)

    @property
    def tokens(self) -> int:
        return len(self.ids_T)

    def heads(self, H: int) -> Heads:
        """Made once a stream: all layers share it."""
        if H not in self._heads:
            self._heads[H] = _heads(self, H)
        return self._heads[H]

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
        groups=_groups(lengths, device),
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


def _groups(lengths: np.ndarray, device: torch.device | str) -> tuple[Group, ...]:
    groups, start = [], 0
    for a, b in _spans(lengths):
        own, longest = lengths[a:b], int(lengths[a:b].max())
        pad = np.arange(longest)[None, :] >= own[:, None]
        groups.append(Group(a, start, b - a, longest, torch.from_numpy(pad).to(device) if pad.any() else None))
        start = groups[-1].stop
    return tuple(groups)


def _heads(s: Stream, H: int) -> Heads:
    starts = np.cumsum(s.lengths) - s.lengths
    take, put, pads = [], [], []
    for group in s.groups:
        g, L = group.count, group.longest
        own = np.array(s.lengths[group.first : group.first + g])
        token = np.arange(L)[None, :] < own[:, None]
        row = np.where(token, np.arange(L)[None, :], 0) + starts[group.first : group.first + g, None]
        take.append((row[:, None, :] * H + np.arange(H)[None, :, None]).ravel())
        place = group.start * H + np.arange(g * H * L).reshape(g, H, L)
        put.append(place.transpose(0, 2, 1)[token].ravel())
        pads.append(place.transpose(0, 2, 1)[~token].ravel())
    tensors = (torch.from_numpy(np.concatenate(x)).to(s.ids_T.device) for x in (take, put, pads))
    return Heads(*tensors)
