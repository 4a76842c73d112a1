"""A micro-batch as one stream of real tokens: examples end to end, no padding.

Almost none: numbers of tokens, lengths of groups and their counts are rounded up a little. A library of matrix products
generates its code for every new shape - milliseconds each, a quarter of a step where no two steps have a shape in common.

Shape letters: T tokens of the stream, n examples, g examples of a group, L tokens of a group's longest, H heads,
D width of a head, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

WASTE = 0.3  # share of attention that a group of unequal examples may spend on padding
ALONE = 128  # from this length on an example's attention is worth a call of its own
GROUP_TOKENS = 1024


@dataclass(frozen=True)
class LengthGroup:
    """Neighbouring examples, from number `first` on, whose attention runs as one batch of `count` x `longest` places.

    The last of the `count` may be nobody: places that no token has.
    """

    first: int
    examples: int
    start: int  # its first place; the groups' places follow one another
    start_first: int  # likewise where each example has one place only
    count: int
    longest: int
    shortest: int
    pad_gL: (
        torch.Tensor | None
    )  # True where an example has no token; None: all have as many, `shortest`

    @property
    def stop(self) -> int:
        return self.start + self.count * self.longest


@dataclass(frozen=True)
class HeadLayout:
    """How rows [T * H] of a stream are laid out for attention: group by group, in each [g, H, L], a head's rows together."""

    take: torch.Tensor  # row of the stream for every place (without a token: a first token's of the group, for its finite numbers)
    put: torch.Tensor  # place of every row of the stream
    pads: torch.Tensor  # places without a token


@dataclass(frozen=True)
class PackedBatch:
    """Examples end to end, then tokens that fill up and belong to nobody. `keys_T` feeds dropout; None: nothing is dropped."""

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    types_T: torch.Tensor | None
    cls_index_n: torch.Tensor
    labels_n: torch.Tensor
    lengths: tuple[int, ...]
    groups: tuple[LengthGroup, ...]
    keys_T: torch.Tensor | None
    _heads: dict[tuple[int, bool], HeadLayout] = field(default_factory=dict, compare=False)

    @property
    def tokens(self) -> int:
        """Real ones."""
        return sum(self.lengths)

    @cached_property
    def cu_seqlens(self) -> torch.Tensor:
        """0, then where each example cu_seqlens: [n + 1] int32, as torch's kernel wants it."""
        return torch.from_numpy(np.cumsum((0, *self.lengths)).astype(np.int32)).to(
            self.ids_T.device
        )

    def heads(self, H: int, firsts: bool = False) -> HeadLayout:
        """The layout of all tokens, or of rows that are one an example. Made once a stream: all layers share it."""
        if (H, firsts) not in self._heads:
            self._heads[H, firsts] = _heads(self, H, firsts)
        return self._heads[H, firsts]

    def __len__(self) -> int:
        return len(self.lengths)


def pack(
    ids: Sequence[np.ndarray],
    labels: np.ndarray,
    types: Sequence[np.ndarray] | None = None,
    keys_T: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    even: bool | None = None,
) -> PackedBatch:
    """Lay examples end to end, in the order given (shortest first groups best). `even`: round shapes up (None: on CPUs)."""
    even = torch.device(device).type == "cpu" if even is None else even
    lengths = np.fromiter((len(x) for x in ids), dtype=np.int64, count=len(ids))
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    fill = _fill(len(positions)) if even else 0
    if keys_T is not None:
        keys_T = torch.cat([keys_T, keys_T[:1].expand(fill)]).to(device)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)

    def filled(array: np.ndarray) -> torch.Tensor:
        """With the first token again at the end: one that the batch touches in any case."""
        return tensor(np.concatenate([array, np.repeat(array[:1], fill)]))

    return PackedBatch(
        ids_T=filled(np.concatenate(ids)),
        positions_T=filled(positions),
        types_T=None if types is None else filled(np.concatenate(types)),
        cls_index_n=tensor(starts),
        labels_n=tensor(labels),
        lengths=tuple(lengths.tolist()),
        groups=_groups(lengths, device, even),
        keys_T=keys_T,
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


def _fill(tokens: int) -> int:
    """Tokens to add: the sum is a multiple of a power of two near a 32nd of it, so that a run meets some twenty sums."""
    unit = max(8, 1 << max(0, (tokens // 32).bit_length() - 1))
    return -tokens % unit


def _count(examples: int) -> int:
    """Rounded up to 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    power = 1 << (examples - 1).bit_length()
    return power * 3 // 4 if power >= 4 and examples <= power * 3 // 4 else power


def _groups(lengths: np.ndarray, device: torch.device | str, even: bool) -> tuple[LengthGroup, ...]:
    groups, start, start_first = [], 0, 0
    rounded = lengths + -lengths % 8 if even else lengths
    for a, b in _spans(rounded):
        own, longest, count = (
            lengths[a:b],
            int(rounded[a:b].max()),
            _count(b - a) if even else b - a,
        )
        shortest, pad_gL = int(own.min()), None
        if (own != shortest).any():
            nobody = np.full(
                count - len(own), longest
            )  # attends to everything: what comes of it is dropped, but must be finite
            pad_gL = torch.from_numpy(
                np.arange(longest)[None, :] >= np.append(own, nobody)[:, None]
            ).to(device)
        groups.append(LengthGroup(a, b - a, start, start_first, count, longest, shortest, pad_gL))
        start, start_first = groups[-1].stop, start_first + count
    return tuple(groups)


def _heads(s: PackedBatch, H: int, firsts: bool) -> HeadLayout:
    lengths = np.ones(len(s), dtype=np.int64) if firsts else np.array(s.lengths)
    starts = np.cumsum(lengths) - lengths
    take, put, pads = [], [], []
    for group in s.groups:
        g, L, start = (
            (group.count, 1, group.start_first)
            if firsts
            else (group.count, group.longest, group.start)
        )
        example = np.minimum(np.arange(g), group.examples - 1) + group.first
        token = (
            np.arange(L)[None, :]
            < np.where(np.arange(g) < group.examples, lengths[example], 0)[:, None]
        )
        row = np.where(token, np.arange(L)[None, :], 0) + starts[example, None]
        take.append((row[:, None, :] * H + np.arange(H)[None, :, None]).ravel())
        place = (start * H + np.arange(g * H * L).reshape(g, H, L)).transpose(0, 2, 1)
        put.append(place[token].ravel())
        pads.append(place[~token].ravel())
    tensors = (torch.from_numpy(np.concatenate(x)).to(s.ids_T.device) for x in (take, put, pads))
    return HeadLayout(*tensors)
