"""Masks of padded batches: a hash that neither padding nor the other examples move."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.model.padded_dropout import HashedDropout, example_axes

RATE = 0.3


def hashed(rows: list[int], *axes: int | None, step: int = 0) -> HashedDropout:
    """Dropout in a step with these rows of a dataset; `axes`: of the examples, by dropout."""
    keys = dropout_keys(5, step, np.array(rows), np.ones(len(rows), dtype=np.int64))
    return HashedDropout(keys, step_key(5, step), axes)


def kept(shape: tuple[int, ...], axis: int | None, rows: list[int], step: int = 0) -> torch.Tensor:
    """Where dropout keeps the elements of a tensor, and scales them."""
    with hashed(rows, axis, step=step):
        out = F.dropout(torch.ones(shape, dtype=torch.float64), RATE)
    assert out[out > 0].numpy() == pytest.approx(1 / (1 - RATE), rel=1e-4)
    return out > 0


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 7, 10), 0),
        ((3, 4, 7, 7), 0),
        ((12, 7, 7), 0),
        ((3, 10), 0),
        ((7, 3, 10), 1),
        ((10, 3), 1),
    ],
)
def test_an_examples_mask_is_the_same_in_any_batch_at_any_padding(
    shape: tuple[int, ...], axis: int
) -> None:
    """Hidden states, attention per head, heads beside examples, pooled, tokens first."""
    whole = kept(shape, axis, [4, 9, 2])
    alone = kept(tuple(n // 3 if i == axis else n for i, n in enumerate(shape)), axis, [9])
    of_9 = whole.narrow(axis, shape[axis] // 3, shape[axis] // 3)
    assert torch.equal(of_9, alone)
    longer = kept(tuple(n if i == axis else n + 5 for i, n in enumerate(shape)), axis, [4, 9, 2])
    assert torch.equal(longer[tuple(slice(n) for n in shape)], whole)
    assert not torch.equal(kept(shape, axis, [4, 9, 2], step=1), whole)


def test_what_all_examples_share_has_one_mask_per_step() -> None:
    shared = kept((9, 10), None, [4, 9, 2])
    assert torch.equal(shared, kept((9, 10), None, [7]))
    assert not torch.equal(shared, kept((9, 10), None, [7], step=1))


def test_elements_are_kept_independently_of_their_neighbors_on_every_axis() -> None:
    with hashed(list(range(16)), 0, 0):
        x = torch.ones(16, 8, 32, 32, dtype=torch.float64)
        one, other = ((F.dropout(x, RATE) > 0).double() for _ in range(2))
    n, variance = one.numel(), RATE * (1 - RATE)
    assert abs(one.mean() - (1 - RATE)) < 5 * (variance / n) ** 0.5
    centered = one - one.mean()
    for axis, far in itertools.product(range(4), (1, 2, 4)):
        assert abs((centered * centered.roll(far, axis)).mean() / variance) < 5 / n**0.5
    assert abs((centered * (other - other.mean())).mean() / variance) < 5 / n**0.5


@pytest.mark.parametrize("kind", ["plain", "padding", "added", "causal", "grouped"])
def test_attention_is_torchs_but_for_the_masks(kind: str) -> None:
    """At a rate that rounds to none."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 6, 8, dtype=torch.float64) for _ in range(3))
    padding = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    padding[1, ..., 4:] = False
    if kind == "grouped":
        k, v = k[:, :2], v[:, :2]
    options = {
        "plain": {"scale": 0.2}, "padding": {"attn_mask": padding}, "causal": {"is_causal": True},
        "added": {"attn_mask": torch.randn(2, 1, 6, 6, dtype=torch.float64)},
        "grouped": {"enable_gqa": True},
    }[kind]  # fmt: skip
    with hashed([1, 2], 0, 0):
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=1e-9, **options)
        dropped = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, **options)
    assert torch.allclose(found, F.scaled_dot_product_attention(q, k, v, **options), atol=1e-12)
    assert not torch.allclose(found, dropped, atol=1e-2)


def test_padding_that_attends_to_nothing_stays_finite() -> None:
    """A window around padding may hold no token. NaN would spread from there."""
    x = torch.randn(1, 1, 3, 4)
    mask = torch.tensor([[True, True, False], [True, True, False], [False, False, False]])
    with hashed([0], 0):
        assert F.scaled_dot_product_attention(x, x, x, mask, dropout_p=0.5).isfinite().all()


def test_the_axis_of_the_examples_is_the_one_that_grows_with_them() -> None:
    def model(ids: torch.Tensor) -> None:
        n, T = ids.shape
        for shape in ((n, T, 8), (T, n, 8), (4 * n, T, T), (8, 8)):
            F.dropout(torch.ones(shape), 0.1)
        F.scaled_dot_product_attention(*[torch.ones(n, 2, T, 4)] * 3, dropout_p=0.1)
        F.dropout(torch.ones(n, 8), 0.1, training=False)

    assert example_axes(model, {"ids": torch.zeros(1, 6)}) == (0, 1, 0, None, 0)


def test_a_shape_that_does_not_fit_the_examples_is_an_error() -> None:
    with hashed([1, 2, 3], 0), pytest.raises(RuntimeError, match=r"\[4, 8\] without 3 examples"):
        F.dropout(torch.ones(4, 8), 0.1)
    with hashed([1, 2], 0), pytest.raises(RuntimeError, match="dropout 2 of this architecture"):
        for _ in range(2):
            F.dropout(torch.ones(2, 8), 0.1)
