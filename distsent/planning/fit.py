"""Least squares for times: no part of a time is negative, and relative errors count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def fit_times(parts_nk: np.ndarray, seconds_n: Sequence[float]) -> list[float]:
    """The non-negative factors (k of them) with parts @ factors closest to `seconds`.

    Every subset of the parts is tried: there are three or four of them.
    """
    seconds = np.asarray(seconds_n, dtype=np.float64)
    scaled = np.asarray(parts_nk, dtype=np.float64) / seconds[:, None]
    units = np.maximum(scaled.max(axis=0), 1e-300)  # bytes and messages differ by many digits
    scaled = scaled / units
    best, least = np.zeros(scaled.shape[1]), np.inf
    for count in range(1, scaled.shape[1] + 1):
        for chosen in combinations(range(scaled.shape[1]), count):
            columns = scaled[:, chosen]
            factors, *_ = np.linalg.lstsq(columns, np.ones(len(seconds)), rcond=None)
            error = float(((columns @ factors - 1) ** 2).sum())
            if (factors >= 0).all() and error < least - 1e-12:
                best, least = np.zeros(scaled.shape[1]), error
                best[list(chosen)] = factors
    return [float(factor) for factor in best / units]
