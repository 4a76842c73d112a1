"""Tests of two models on the same rows, paired row by row."""

import math

import numpy as np

from distsent.evaluation.intervals import DRAWS


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact test: if the models were equal, only_a would be Binomial(n, 1/2)."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    k = np.arange(fewer)
    logs = np.append(0.0, np.cumsum(np.log(n - k) - np.log(k + 1)))  # of binomial coefficients
    return min(1.0, 2 * float(np.exp(logs - n * math.log(2)).sum()))


def bootstrap_p(draws: np.ndarray) -> float:
    """Two-sided p of differences in draws of the bootstrap: how often is the sign another?"""
    tail = min(float((draws <= 0).mean()), float((draws >= 0).mean()))
    return min(1.0, max(2 * tail, 1 / DRAWS))


def holm(p_values: np.ndarray) -> np.ndarray:
    """p [k] of k tests, each adjusted for the others (Holm, 1979)."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return adjusted
