"""data.template: a model reads each text inside other text, which no window lacks.

The filled template is tokenized as a whole, so that its tokens are those that the tokenizer itself
gives it. Their places then tell which of them are of a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from distsent.errors import UserError
from distsent.job.template import parse_template

SIDES = {"text": 0, "pair": 1}  # as in the sequence_ids of a tokenizer
Spans = dict[int, tuple[int, int]]  # where the first text and the second are, in characters


class Marked(NamedTuple):
    """The tokens of a filled template, with the names of a tokenizer's encoding.

    `sequence_ids`: the text that a token has characters of; None for the template's and special
    tokens. `kept` (T,) bool: the token has characters of the template, or is special.
    """

    ids: list[int]
    type_ids: list[int]
    sequence_ids: list[int | None]
    kept: np.ndarray


class Template:
    """A template for texts, or for pairs of texts. Raises UserError if it is for the other ones."""

    def __init__(self, template: str, pairs: bool) -> None:
        self._literals, names = parse_template(template)
        self._sides = [SIDES[name] for name in names]
        if (1 in self._sides) != pairs:
            what = "has no {pair}, but there is a" if pairs else "has {pair}, but there is no"
            raise UserError(f"data.template = {shorten(template)}: {what} second text")

    def count_tokens(self, backend: Any) -> int:
        """Tokens beside those of the texts. Raises UserError if they cannot be told from these."""
        letters = [("a",) * len(self._sides)]
        for one in self.encode(backend, letters):
            if {*one.sequence_ids} - {None} == {*self._sides}:
                return len(backend.encode(self._fill(("", ""))[0]).ids)
        problem = "its tokenizer does not tell which characters a token is of"
        raise UserError(f"model.name: {problem}, which data.template needs")

    def encode(self, backend: Any, rows: Sequence[str | tuple[str, ...]]) -> Iterator[Marked]:
        """All tokens of each row's text or texts in the template."""
        filled = [self._fill((row,) if isinstance(row, str) else row) for row in rows]
        # Not encode_batch_fast: that one leaves out where tokens are.
        encodings = backend.encode_batch([text for text, _ in filled])
        for (text, spans), encoding in zip(filled, encodings, strict=True):
            yield _mark(encoding, text, spans)

    def _fill(self, texts: Sequence[str]) -> tuple[str, Spans]:
        """Braces in the texts mean nothing."""
        parts, length, spans = [self._literals[0]], len(self._literals[0]), {}
        for side, literal in zip(self._sides, self._literals[1:], strict=True):
            spans[side] = length, length + len(texts[side])
            parts += texts[side], literal
            length = spans[side][1] + len(literal)
        return "".join(parts), spans


def _mark(encoding: Any, text: str, spans: Spans) -> Marked:
    start, stop = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    side, kept = np.full(len(start), -1), np.ones(len(start), dtype=bool)
    for which, (first, last) in spans.items():
        # `stop` decides: of white space some tokenizers give the place behind it, (8, 8) for (6, 8)
        inside = (first < stop) & (stop <= last)
        for token in np.flatnonzero(inside & (start < first)):
            # White space before a word is in the word's token; that part of a template may be cut.
            inside[token] = text[start[token] : first].isspace()
        across = (first < last) & (start < last) & (first < stop)
        side[inside | across] = which
        kept[inside] = False
    ids = [None if one < 0 else one for one in side.tolist()]
    return Marked(encoding.ids, encoding.type_ids, ids, kept)


def shorten(template: str) -> str:
    """At most 80 characters of it, on one line."""
    return repr(template if len(template) <= 80 else f"{template[:77]}...")


def recorded(config: Any, key: str) -> str | None:
    """The template of a trained model, from its configuration. Raises UserError."""
    found = getattr(config, "text_template", None)
    try:
        if found is not None:
            parse_template(found)
    except (TypeError, ValueError) as error:
        problem = f"{key}: text_template in its config.json is {shorten(str(found))}"
        raise UserError(f"{problem}: {error}") from None
    return found
