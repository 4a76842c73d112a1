"""A packed batch: the real tokens of a micro-batch, concatenated, almost without padding.

On CPUs, token counts, group lengths and group sizes are rounded up a little. A matmul library
generates code for every new shape: milliseconds each, or a quarter of a step if all shapes differ.

With data.long = "windows" an example here is a window; `windows_n` says how many are of each text.

Shape letters: T tokens of the packed batch, n examples, g rows of a length group, L slots of a
group's row, H attention heads, D width of an attention head, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from distsent.batching.block_tables import BlockTables

Device = torch.device | str
MAX_PADDING = 0.3  # share of attention that a group of unequal examples may spend on padding
OWN_GROUP_LENGTH = 128  # attention over an example of this length is worth a call of its own
MAX_GROUP_TOKENS = 1024


@dataclass(frozen=True)
class LengthGroup:
    """Consecutive examples whose attention runs as one batch of `rows` x `longest` slots.

    Rows past `examples` are padding: no token uses their slots.
    """

    first: int  # its first example
    examples: int
    start: int  # its first slot; the slots of all groups are contiguous
    cls_start: int  # the same in the layout of one slot per row
    rows: int
    longest: int  # slots of a row
    shortest: int  # tokens of the shortest example
    used_g: torch.Tensor  # tokens of each row, int64; `longest` for padding rows
    equal: bool  # whether all examples have `shortest` tokens

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.longest


@dataclass(frozen=True)
class HeadLayout:
    """The attention layout of the rows [T * H] of a packed batch: per group [g, H, L], flat."""

    gather_index: torch.Tensor  # row of every slot; slots without a token repeat a finite row
    scatter_index: torch.Tensor  # slot of every row of the packed batch
    pad_index: torch.Tensor  # slots without a token


@dataclass(frozen=True)
class PackedBatch:
    """Concatenated examples, then filler tokens. `keys_T` seed dropout; None: no dropout."""

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    types_T: torch.Tensor | None
    cls_index_n: torch.Tensor  # the first token of each example
    # int64 [n], of texts if there are windows; multi_label and regression: float32 [n, labels]
    labels_n: torch.Tensor
    lengths: tuple[int, ...]
    rounds_shapes: bool
    keys_T: torch.Tensor | None
    step_key: torch.Tensor | None  # [1], for dropout of what all examples share
    windows_n: torch.Tensor | None = None  # windows of each text, one text after another
    tables: BlockTables | None = None  # of a static batch: which blocks attention computes
    _layouts: dict[tuple[int, bool], HeadLayout] = field(default_factory=dict, compare=False)
    memo: dict[Any, Any] = field(default_factory=dict, compare=False)  # what all layers share

    @property
    def sequences(self) -> int:
        """Number of examples: windows, if texts have several."""
        return len(self.lengths)

    @property
    def texts(self) -> int:
        """Number of texts, which have labels and losses."""
        return len(self.labels_n)

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of an example, at most."""
        return max(self.lengths) if self.tables is None else self.tables.longest

    @cached_property
    def groups(self) -> tuple[LengthGroup, ...]:
        """Of attention without a kernel that takes all lengths at once."""
        lengths, device = np.array(self.lengths), self.ids_T.device
        return tuple(_length_groups(lengths, device, self.rounds_shapes))

    @cached_property
    def cu_seqlens(self) -> torch.Tensor:
        """0, then the end of each example: int32 [n + 1], as torch's varlen kernel takes it."""
        ends = np.cumsum((0, *self.lengths)).astype(np.int32)
        return torch.from_numpy(ends).to(self.ids_T.device)

    @cached_property
    def lengths_n(self) -> torch.Tensor:
        """Tokens of each example: int64 [n]."""
        return self.cu_seqlens.diff().long()

    def head_layout(self, H: int, cls_only: bool = False) -> HeadLayout:
        """The layout of all tokens, or of one row per example. All layers share one copy."""
        if (H, cls_only) not in self._layouts:
            self._layouts[H, cls_only] = _head_layout(self, H, cls_only)
        return self._layouts[H, cls_only]


def pack(
    ids: Sequence[np.ndarray],
    labels: np.ndarray,
    types: Sequence[np.ndarray] | None = None,
    keys_T: torch.Tensor | None = None,
    device: Device = "cpu",
    step_key: torch.Tensor | None = None,
    round_shapes: bool | None = None,
    windows_n: np.ndarray | None = None,
) -> PackedBatch:
    """Concatenate examples in the given order, which groups best when sorted by length.

    `round_shapes` rounds shapes up to few distinct ones; None: on CPUs.
    `windows_n`: the examples are windows, of which each text has this many.
    """
    round_shapes = torch.device(device).type == "cpu" if round_shapes is None else round_shapes
    lengths = np.fromiter((len(x) for x in ids), dtype=np.int64, count=len(ids))
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    fill = filler_tokens(len(positions)) if round_shapes else 0
    if keys_T is not None:
        keys_T = torch.cat([keys_T, keys_T[:1].expand(fill)]).to(device)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)

    def filled(array: np.ndarray) -> torch.Tensor:
        """Fill with the first token, which has a gradient in the embedding anyway."""
        return tensor(np.concatenate([array, np.repeat(array[:1], fill)]))

    return PackedBatch(
        ids_T=filled(np.concatenate(ids)),
        positions_T=filled(positions),
        types_T=None if types is None else filled(np.concatenate(types)),
        cls_index_n=tensor(starts),
        labels_n=_labels(labels).to(device),
        lengths=tuple(lengths.tolist()),
        rounds_shapes=round_shapes,
        keys_T=keys_T,
        step_key=None if step_key is None else step_key.to(device),
        windows_n=None if windows_n is None else tensor(windows_n),
    )


def _labels(labels: np.ndarray) -> torch.Tensor:
    """Class indices as int64; a row of several labels or numbers each as float32."""
    kind = np.int64 if labels.ndim == 1 else np.float32
    return torch.from_numpy(np.ascontiguousarray(labels, dtype=kind))


def _split_into_groups(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Ranges [a, b) of examples to batch: similar lengths, or too short to be worth a call."""
    spans, a, longest, useful = [], 0, 0, 0
    for b, length in enumerate(lengths.tolist()):
        longest, useful = max(longest, length), useful + length * length
        slots = (b - a + 1) * longest
        fits = length < OWN_GROUP_LENGTH and slots <= MAX_GROUP_TOKENS
        if b > a and not (fits and useful >= (1 - MAX_PADDING) * slots * longest):
            spans.append((a, b))
            a, longest, useful = b, length, length * length
    return [*spans, (a, len(lengths))]


def filler_tokens(tokens: int) -> int:
    """Tokens that round the total up to a multiple of about a 32nd: a run has some 20 totals."""
    unit = max(8, 1 << max(0, (tokens // 32).bit_length() - 1))
    return -tokens % unit


def round_rows(examples: int) -> int:
    """Round up to 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    power = 1 << (examples - 1).bit_length()
    return power * 3 // 4 if power >= 4 and examples <= power * 3 // 4 else power


def _length_groups(lengths: np.ndarray, device: Device, round_shapes: bool) -> list[LengthGroup]:
    groups, start, cls_start = [], 0, 0
    rounded = lengths + -lengths % 8 if round_shapes else lengths
    for a, b in _split_into_groups(rounded):
        own, longest = lengths[a:b], int(rounded[a:b].max())
        rows = round_rows(b - a) if round_shapes else b - a
        shortest = int(own.min())
        # Padding rows attend to all slots: their output is dropped, but must be finite.
        used = np.append(own, np.full(rows - len(own), longest))
        used_g, equal = torch.from_numpy(used).to(device), bool((own == shortest).all())
        groups.append(
            LengthGroup(a, b - a, start, cls_start, rows, longest, shortest, used_g, equal)
        )
        start, cls_start = groups[-1].stop, cls_start + rows
    return groups


def _head_layout(batch: PackedBatch, H: int, cls_only: bool) -> HeadLayout:
    lengths = np.ones(batch.sequences, dtype=np.int64) if cls_only else np.array(batch.lengths)
    starts = np.cumsum(lengths) - lengths
    gather, scatter, pads = [], [], []
    for group in batch.groups:
        L, start = (1, group.cls_start) if cls_only else (group.longest, group.start)
        g, position = np.arange(group.rows), np.arange(L)[None, :]
        example = np.minimum(g, group.examples - 1) + group.first
        used = np.where(g < group.examples, lengths[example], 0)
        is_token = position < used[:, None]
        row = np.where(is_token, position, 0) + starts[example, None]
        gather.append((row[:, None, :] * H + np.arange(H)[None, :, None]).ravel())
        slot = (start * H + np.arange(len(g) * H * L).reshape(-1, H, L)).transpose(0, 2, 1)
        scatter.append(slot[is_token].ravel())
        pads.append(slot[~is_token].ravel())
    indices = (torch.from_numpy(np.concatenate(x)) for x in (gather, scatter, pads))
    return HeadLayout(*(index.to(batch.ids_T.device) for index in indices))
