"""Texts that are almost the same: MinHash (Broder, 1997) finds them, their shingles decide.

Two texts are near duplicates if they share at least LEAST of the sets of their pieces of five
characters (the Jaccard index), whatever their case and white space.
"""

from collections.abc import Iterator, Sequence

import numpy as np

LEAST = 0.8
WIDTH = 5  # characters of a shingle
# A pair with index 0.8 is found in one of the bands with a chance of 0.998; with 0.5, of 0.28.
BANDS, PER_BAND = 21, 6
PRIME = np.uint64(1099511628211)


def normalized(text: str) -> str:
    """Without differences in case and white space."""
    return " ".join(text.casefold().split())


def shingles(text: str) -> np.ndarray:
    """Hashes of the different pieces of WIDTH characters, uint64; of a shorter text, one."""
    codes = np.frombuffer(normalized(text).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = codes.astype(np.uint64)
    width = min(WIDTH, len(codes))
    hashes = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    for i in range(width):
        hashes = hashes * PRIME + codes[i : i + len(hashes)]
    hashes ^= hashes >> np.uint64(31)
    return np.unique(hashes * PRIME)


def near_duplicates(texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """(text, an earlier text, their Jaccard index) for each text that has a near duplicate.

    Of a group of near duplicates all name the first one that they resemble.
    """
    signatures = _signatures(texts)
    candidates: dict[int, set[int]] = {}
    for band in range(BANDS):
        keys = np.ascontiguousarray(signatures[:, band * PER_BAND : (band + 1) * PER_BAND])
        rows = keys.view([("", keys.dtype)] * PER_BAND)[:, 0]
        order = np.argsort(rows, kind="stable")
        starts = np.flatnonzero(np.append(True, rows[order][1:] != rows[order][:-1]))
        for group in np.split(order, starts[1:]):
            # Compared with the first of the group only: many equal texts make no square of pairs.
            for row in group[1:].tolist():
                candidates.setdefault(row, set()).add(int(group[0]))
    for row in sorted(candidates):
        here = shingles(texts[row])
        for other in sorted(candidates[row]):
            there = shingles(texts[other])
            shared = len(np.intersect1d(here, there, assume_unique=True))
            index = shared / (len(here) + len(there) - shared)
            if index >= LEAST:
                yield row, other, index
                break


def _signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHashes uint32 [n, BANDS * PER_BAND]."""
    rng = np.random.Generator(np.random.PCG64(0))
    draws = rng.integers(0, 2**63, (2, BANDS * PER_BAND, 1), dtype=np.uint64)
    factors, terms = draws[0] * np.uint64(2) + np.uint64(1), draws[1]
    out = np.empty((len(texts), BANDS * PER_BAND), dtype=np.uint32)
    for i, text in enumerate(texts):
        hashed = factors * shingles(text) + terms
        out[i] = (hashed.min(axis=1) >> np.uint64(32)).astype(np.uint32)
    return out
