"""A tokenizer for batches of texts, and a hash of all that decides its tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from distsent.data.rows import Columns
from distsent.data.tokens.content import TokenContent
from distsent.data.tokens.long_texts import CUT, WINDOWS, LongTexts, Windows
from distsent.data.tokens.template import Template
from distsent.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distsent.job.schema import DataSection


class BatchTokenizer:
    """What decides the tokens of a text. `digest`: its hash; `streams`: arrays of token values."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        pairs: bool,
        long_texts: LongTexts | None = None,
        template: str | None = None,
    ) -> None:
        from tokenizers import Tokenizer

        long_texts = long_texts or LongTexts()
        self.max_length, self.long_texts, self.template = max_length, long_texts, template
        self._template = None if template is None else Template(template, pairs)
        # A copy: truncation and padding are state of the tokenizer, which others use, too
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._side = side = tokenizer.truncation_side
        in_two = pairs and template is None  # a template makes one text of a pair
        # XLNet and Funnel give one of a single text's special tokens a type of its own.
        types = in_two or any(self._backend.encode("a").type_ids)
        types = types and "token_type_ids" in tokenizer.model_input_names
        self.content = TokenContent(tokenizer, pairs, template is not None)
        content = f"{self._backend.to_str()} {side} {types} {self.content.special.tolist()}"
        special, what = self._backend.num_special_tokens_to_add(in_two), "special tokens"
        if self._template:
            special, what = self._template.count_tokens(self._backend), "tokens of data.template"
            content += f" template {template!r}"
        texts = 2 if pairs and self._template else 1
        if max_length < special + texts:
            raise UserError(f"data.max_length = {max_length}: {special} {what} fill that")
        long_texts.check(max_length, special, pairs)
        if long_texts.long != CUT:
            content += f" {long_texts.long} {long_texts.window_overlap}"
        elif not self._template:
            self._backend.enable_truncation(max_length, direction=side)
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        largest = max(self._backend.get_vocab().values())
        self.streams = {"ids": np.dtype(np.uint16 if largest < 65536 else np.int32)}
        if types:
            self.streams["types"] = np.dtype(np.uint8)
        windows = ("windows",) if long_texts.long == WINDOWS else ()
        self.parts = ("lengths", *windows, *self.streams)  # of what is written per block of rows

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, data: DataSection, max_length: int
    ) -> BatchTokenizer:
        """As a job says."""
        pairs = Columns.of(data).pair is not None
        return cls(tokenizer, max_length, pairs, LongTexts.of(data), data.template)

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[Windows]:
        """The windows of each text."""
        rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        if self._template:
            length, side = self.max_length, self._side
            marked = self._template.encode(self._backend, rows)
            return [self.long_texts.windows(one, length, side, one.kept) for one in marked]
        found = self._backend.encode_batch_fast(rows)
        if self.long_texts.long != CUT:
            return [self.long_texts.windows(one, self.max_length) for one in found]
        return [_truncated(one) for one in found]


def _truncated(encoding: Any) -> Windows:
    """What a tokenizer has truncated by itself."""
    ids, cut = encoding.ids, bool(encoding.overflowing)
    return Windows(ids, encoding.type_ids, encoding.sequence_ids, [len(ids)], cut, cut)


def flat(values: Iterable[Sequence[int]], dtype: Any) -> np.ndarray:
    """All numbers of all sequences."""
    return np.fromiter(chain.from_iterable(values), dtype)


def flat_ids(encoded: Sequence[Windows], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of some texts, and how many each has, int64 (n,)."""
    lengths = np.array([len(one.ids) for one in encoded], dtype=np.int64)
    ids = chain.from_iterable(one.ids for one in encoded)
    return np.fromiter(ids, dtype, int(lengths.sum())), lengths
