"""Texts that are the same, or almost: MinHash (Broder, 1997) finds the latter, their pieces decide.

Equal texts differ in case and white space only. Near duplicates share at least LEAST of the sets of
their pieces of five letters (the Jaccard index), whatever their punctuation, markup and blanks.
"""

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

LEAST = 0.65
WIDTH = 5  # letters of a shingle
# A pair with index 0.65 is equal in one of the bands with a chance of 0.998.
BANDS, PER_BAND = 32, 4
MARGIN = 0.15  # 3.6 times the standard deviation of the estimate from all hashes
PRIME = np.uint64(1099511628211)
TAG = re.compile(r"</?[a-z][^<>]*>")


class _Letters(dict[int, int | None]):
    """For str.translate: deletes all but letters, marks (vowels in many scripts) and digits."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


_LETTERS = _Letters()


def normalized(text: str) -> str:
    """Without differences in case and white space."""
    return " ".join(text.casefold().split())


def letters(text: str) -> str:
    """The letters and digits outside markup; of fewer than WIDTH, the `normalized` text."""
    found = unicodedata.normalize("NFKC", html.unescape(text)).casefold()
    found = TAG.sub("", found).translate(_LETTERS)
    return found if len(found) >= WIDTH else normalized(text)


def shingles(text: str) -> np.ndarray:
    """Hashes of the different pieces of WIDTH letters, uint64; of a shorter text, one."""
    codes = np.frombuffer(letters(text).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = codes.astype(np.uint64)
    width = min(WIDTH, len(codes))
    hashes = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    for i in range(width):
        hashes = hashes * PRIME + codes[i : i + len(hashes)]
    hashes ^= hashes >> np.uint64(31)
    return np.unique(hashes * PRIME)


def first_equal(texts: Sequence[str]) -> np.ndarray:
    """The first text that is equal to each of `texts`, int64 (n,)."""
    seen: dict[bytes, int] = {}
    out = np.empty(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        encoded = normalized(text).encode("utf-8", "surrogatepass")
        out[row] = seen.setdefault(hashlib.blake2b(encoded, digest_size=16).digest(), row)
    return out


def near_duplicates(texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """(text, an earlier text, their Jaccard index) for each text that has a near duplicate.

    Of a group of near duplicates all name the first one that they resemble.
    """
    candidates: dict[int, list[int]] = {}
    for row, other in _candidates(_signatures(texts)).tolist():
        candidates.setdefault(row, []).append(other)
    for row, others in candidates.items():
        here = shingles(texts[row])
        for other in others:
            there = shingles(texts[other])
            shared = len(np.intersect1d(here, there, assume_unique=True))
            index = shared / (len(here) + len(there) - shared)
            if index >= LEAST:
                yield row, other, index
                break


def _candidates(signatures: np.ndarray) -> np.ndarray:
    """(text, an earlier one), int64 [pairs, 2], sorted, of texts that are equal in a band.

    Each is compared with the first of these texts and the one before: many texts that are almost
    the same make no square of pairs.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for band in range(BANDS if len(signatures) > 1 else 0):
        keys = np.ascontiguousarray(signatures[:, band * PER_BAND : (band + 1) * PER_BAND])
        values = keys.view([("", keys.dtype)] * PER_BAND)[:, 0]
        order = np.argsort(values, kind="stable")
        same = values[order][1:] == values[order][:-1]
        starts = np.where(np.append(False, same), 0, np.arange(len(order)))
        first = order[np.maximum.accumulate(starts)][1:]
        for other in (first, order[:-1]):
            found = np.stack([order[1:][same], other[same]], axis=1)
            # The share of equal hashes is an estimate of the index
            alike = (signatures[found[:, 0]] == signatures[found[:, 1]]).mean(1)
            pairs.append(found[alike >= LEAST - MARGIN])
    return np.unique(np.concatenate(pairs), axis=0)


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
