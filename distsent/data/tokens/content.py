"""Which texts a tokenizer leaves nothing of but special tokens: a model cannot read them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("bos", "eos", "sep", "pad", "cls", "mask")  # an unknown token stands for a text
NO_TEXT = "no text (the tokenizer leaves special tokens alone of it)"


class TokenContent:
    """Tells tokens of a text from those that frame it."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, pairs: bool, templated: bool = False
    ) -> None:
        self._unknown, self._pairs, self._templated = tokenizer.unk_token_id, pairs, templated
        ids: set[Any] = {getattr(tokenizer, f"{role}_token_id", None) for role in ROLES}
        self.special = np.array(sorted(ids - {None, self._unknown}), dtype=np.int64)
        self._added = tokenizer.num_special_tokens_to_add(pairs)

    def find_empty(
        self, encodings: Sequence[Any], ids: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        """Rows without a token of their text, or of one of their two texts: bool (n,).

        `ids`: the tokens of all `encodings`, which have these `lengths`.
        """
        counts = _sums(self._of_texts(encodings, ids), lengths)
        empty = counts == 0
        for row in np.flatnonzero(~empty).tolist() if self._pairs else ():
            sides = {*encodings[row].sequence_ids} - {None}
            if lengths[row] - counts[row] > self._added:  # a text spells a special token
                one = encodings[row]
                known = zip(one.sequence_ids, one.ids, strict=True)
                sides = {side for side, token in known if token not in self.special} - {None}
            empty[row] = len(sides) < 2
        return empty

    def count_unknown(self, encodings: Sequence[Any], ids: np.ndarray, lengths: np.ndarray) -> int:
        """Rows of which the tokenizer knows nothing."""
        if self._unknown is None:
            return 0
        known = self._of_texts(encodings, ids) & (ids != self._unknown)
        return int(np.count_nonzero(_sums(known, lengths) == 0))

    def _of_texts(self, encodings: Sequence[Any], ids: np.ndarray) -> np.ndarray:
        """Which tokens are not special, nor of a template: bool (T,)."""
        found = ~np.isin(ids, self.special)
        if self._templated:
            sides = chain.from_iterable(one.sequence_ids for one in encodings)
            found &= np.fromiter((side is not None for side in sides), bool, len(found))
        return found


def _sums(flags: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How many flags of each row are set, int64 (n,)."""
    before = np.concatenate([[0], np.cumsum(flags)])
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.asarray(before[ends] - before[ends - lengths])
