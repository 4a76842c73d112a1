"""The rows of a packed batch in the order in which attention reads them, and back.

Shapes: [T, H, D] in a packed batch (letters: batching/packing.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distsent.batching.packing import HeadLayout, LengthGroup, PackedBatch
from distsent.model.attention_window import ALL_TOKENS, Block, Window
from distsent.operators.softmax_dropout import Seen


def to_head_layout(x: Tensor, layout: HeadLayout) -> Tensor:
    """[T, H, D] in attention's layout. One copy: advanced indexing costs six times as much."""
    return x.reshape(-1, x.shape[-1]).index_select(0, layout.gather_index)


def from_head_layout(x: Tensor, layout: HeadLayout, shape: torch.Size) -> Tensor:
    """The inverse: [T, H, D], zero for filler tokens."""
    out = x.new_empty(shape)
    rows, real = out.view(-1, shape[-1]), len(layout.scatter_index)
    torch.index_select(x, 0, layout.scatter_index, out=rows[:real])
    rows[real:] = 0
    return out


def _blocks_of(group: LengthGroup, window: Window, cls_only: bool) -> Sequence[Block]:
    """The group's queries with the keys that they attend to."""
    if cls_only:
        assert window == ALL_TOKENS, "queries of first tokens attend to all tokens"
        return (Block(slice(0, 1), slice(0, group.longest), cut=False),)
    return window.blocks(group.longest)


def seen_blocks(
    batch: PackedBatch, H: int, window: Window, cls_only: bool
) -> Sequence[Sequence[tuple[Block, Seen]]]:
    """For each length group its blocks, with the keys that their queries see. Layers share them."""
    key = H, window, cls_only
    if key not in batch.memo:
        batch.memo[key] = [
            [(b, _seen(group, b, H, window)) for b in _blocks_of(group, window, cls_only)]
            for group in batch.groups
        ]
    return batch.memo[key]


def _seen(group: LengthGroup, block: Block, H: int, window: Window) -> Seen:
    q, k = block.queries, block.keys
    return Seen(
        group.used_g, H, q.stop - q.start, k.stop - k.start,
        q.start, k.start, window.before, window.after,
    )  # fmt: skip


def group_slices(group: LengthGroup, H: int, cls_only: bool) -> tuple[slice, slice]:
    """A group's rows among the queries, and among the keys and values."""
    keys = slice(group.start * H, group.stop * H)
    first_tokens = slice(group.cls_start * H, (group.cls_start + group.rows) * H)
    return first_tokens if cls_only else keys, keys
