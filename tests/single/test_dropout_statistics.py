"""Hashed dropout masks look like coin tosses: their rates, and no correlation along any axis."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from distsent.batching.dropout_keys import dropout_keys
from distsent.operators import masks as dropout

AXES = SEEDS, STEPS, SITES, EXAMPLES, TOKENS, HEADS, WORDS, LANES = 2, 6, 8, 8, 16, 6, 8, 4
NAMES = "seed", "step", "site", "example", "token", "head", "word", "lane"  # 4 columns are a word
LAGS = 1, 2, 3, 4, 8
SIGMAS = 5  # nothing is random here: masks that pass once pass always


@cache
def masks(rate: float) -> np.ndarray:
    """1 for kept elements: [*AXES], as attention draws them, head by head."""
    rows, lengths = np.arange(EXAMPLES), np.full(EXAMPLES, TOKENS)
    found = []
    for seed in range(SEEDS):
        for step in range(STEPS):
            keys = dropout.keys_per_head(dropout_keys(seed, step, rows, lengths), HEADS)
            found += [
                dropout.keep_mask(keys, 1 + site, WORDS * LANES, rate) for site in range(SITES)
            ]
    return torch.stack(found).reshape(AXES).numpy().astype(np.float64)


def worst(kept: np.ndarray, rate: float) -> dict[str, float]:
    """Deviations from independent tosses, in standard deviations, the largest of each kind."""
    found, deviation = {}, (rate * (1 - rate)) ** 0.5
    z = (kept - (1 - rate)) / deviation
    found["rate"] = abs(z.sum()) / z.size**0.5
    for axis, name in enumerate(NAMES):
        at = np.moveaxis(z, axis, 0)
        each = at.reshape(len(at), -1).sum(1) / (z.size / len(at)) ** 0.5
        found[f"rate per {name}"] = float(np.abs(each).max())
        products = [at[lag:] * at[:-lag] for lag in LAGS if lag < len(at)]
        found[f"{name}s"] = max(abs(p.sum()) / p.size**0.5 for p in products)
        for other in range(axis + 1, z.ndim):
            # A hash of a sum of indices repeats on diagonals, one of their difference (or XOR)
            # too, and one that takes two indices in the same way is symmetric in them.
            least = min(z.shape[axis], z.shape[other])
            both = np.moveaxis(z, (axis, other), (0, 1))
            square, (row, column) = both[:least, :least], np.triu_indices(least, 1)
            products = [
                both[1:, 1:] * both[:-1, :-1],
                both[1:, :-1] * both[:-1, 1:],
                square[row, column] * square[column, row],
            ]
            name = f"{NAMES[axis]}s and {NAMES[other]}s"
            found[name] = max(abs(p.sum()) / p.size**0.5 for p in products)
    return found


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.5])
def test_rates_hold_everywhere_and_nothing_is_correlated(rate: float) -> None:
    exact = round(rate * 65536) / 65536
    found = worst(masks(rate), exact)
    assert max(found.values()) < SIGMAS, {k: v for k, v in found.items() if v >= SIGMAS}


BUGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rate": lambda kept: np.where(np.arange(kept.size).reshape(kept.shape) % 50, kept, 1.0),
    "rate per site": lambda kept: np.where(
        np.arange(SITES)[:, None, None, None, None, None] == 3,
        np.maximum(kept, kept[..., ::-1]),
        kept,
    ),
    "seeds": lambda kept: kept[[0, 0]],
    "steps": lambda kept: np.repeat(kept[:, :1], STEPS, axis=1),
    "sites": lambda kept: kept[:, :, [0, 1, 2, 3, 4, 5, 6, 6]],
    "examples": lambda kept: np.repeat(kept[:, :, :, :1], EXAMPLES, axis=3),
    "tokens": lambda kept: kept[:, :, :, :, np.arange(TOKENS) // 2],
    "heads": lambda kept: np.repeat(kept[:, :, :, :, :, :1], HEADS, axis=5),
    "words": lambda kept: kept[..., np.arange(WORDS) // 2, :],
    "lanes": lambda kept: np.repeat(kept[..., :1], LANES, axis=-1),
    "steps and sites": lambda kept: np.stack(
        [np.roll(kept[:, 0], step, axis=1) for step in range(STEPS)], axis=1
    ),
    "heads and words": lambda kept: np.concatenate(
        [(kept[..., :HEADS, :] + kept[..., :HEADS, :].swapaxes(5, 6)) // 2, kept[..., HEADS:, :]],
        -2,
    ),
}


@pytest.mark.parametrize("kind", BUGS)
def test_each_kind_of_repetition_would_be_seen(kind: str) -> None:
    assert worst(BUGS[kind](masks(0.1)), round(0.1 * 65536) / 65536)[kind] > SIGMAS
