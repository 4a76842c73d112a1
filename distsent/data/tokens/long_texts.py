"""What an encoder reads of a text with more tokens than it takes at once: data.long.

It reads a text in one window, or in several of which each is encoded on its own. A window is a
choice of the text's tokens: all special ones, all of a template, and a part of the others. Of a
pair, the longer text is parted; the shorter one has up to half of the room in each window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distsent.errors import UserError

if TYPE_CHECKING:
    from distsent.job.schema import DataSection

CUT, HEAD_TAIL, WINDOWS = "cut", "head_tail", "windows"
# What happens to texts that are longer: the end of a sentence about them.
READ = {
    CUT: "are truncated",
    HEAD_TAIL: "are read without their middle",
    WINDOWS: "are read in windows",
}
LOST = "are pairs of two long texts, of which the shorter one is truncated to half a window"


class Windows(NamedTuple):
    """The tokens of a text's windows, one window after another."""

    ids: list[int]
    type_ids: list[int]
    sequence_ids: list[int | None]  # 0 or 1: the text of a pair; None: special, of a template
    lengths: list[int]  # of each window
    long: bool = False  # the text has more tokens than a window
    truncated: bool = False  # some of its tokens are in no window


@dataclass(frozen=True)
class LongTexts:
    """`data.long`, and `data.window_overlap` for windows."""

    long: str = CUT
    window_overlap: int | None = None

    @classmethod
    def of(cls, data: DataSection) -> LongTexts:
        """What a job says."""
        return cls(data.long, data.window_overlap)

    def to_dict(self) -> dict[str, Any]:
        """As the token store and a model's configuration keep it; {} for `cut`."""
        return {} if self.long == CUT else asdict(self)

    def check(self, max_length: int, special: int, pairs: bool) -> None:
        """Raise UserError unless each window reads more of a text than the one before."""
        room = max_length - special
        least = room - room // 2 if pairs else room
        if self.long == WINDOWS and self._overlap(room) >= least:
            of = "the longer text of a pair" if pairs else "a text"
            raise UserError(
                f"data.window_overlap = {self.window_overlap}: a window of {max_length} tokens "
                f"holds {least} of {of}; set it to {least - 1} or less"
            )

    def windows(
        self,
        encoding: Any,
        max_length: int,
        cut_at: str = "right",
        kept: np.ndarray | None = None,
    ) -> Windows:
        """The windows of a text, from the encoding of all its tokens.

        `cut_at`: the side from which `cut` removes tokens. `kept` (T,): those in each window; the
        special ones if unset. Raises UserError if they leave no room.
        """
        ids, types, sides = encoding.ids, encoding.type_ids, encoding.sequence_ids
        if len(ids) <= max_length:
            return Windows(ids, types, sides, [len(ids)])
        side = np.array([-1 if one is None else one for one in sides])
        kept = side < 0 if kept is None else kept
        shorter, longer = sorted((np.flatnonzero(~kept & (side == i)) for i in (0, 1)), key=len)
        room = max_length - int(np.count_nonzero(kept))
        if room < 1:
            problem = f"all but a text takes {max_length - room} tokens, and leaves none for it"
            raise UserError(f"data.max_length = {max_length}: {problem}")
        from_end = self.long == CUT and cut_at == "left"
        most = min(len(shorter), room // 2)
        always = np.concatenate(
            [np.flatnonzero(kept), shorter[len(shorter) - most :] if from_end else shorter[:most]]
        )
        parts = self._parts(len(longer), max_length - len(always), self._overlap(room), from_end)
        places = [np.sort(np.concatenate([always, longer[part]])) for part in parts]
        chosen = np.concatenate(places).tolist()
        return Windows(
            [ids[place] for place in chosen],
            [types[place] for place in chosen],
            [sides[place] for place in chosen],
            [len(window) for window in places],
            long=True,
            truncated=self.long != WINDOWS or len(shorter) > room // 2,
        )

    def _overlap(self, room: int) -> int:
        """`room`: a window's tokens that are not special."""
        return room // 4 if self.window_overlap is None else self.window_overlap

    def _parts(self, tokens: int, room: int, overlap: int, from_end: bool) -> Iterator[np.ndarray]:
        """Which of a text's tokens are in each window that has `room` for them."""
        if self.long != WINDOWS:
            room = min(room, tokens)
            # As in Sun et al., How to Fine-Tune BERT for Text Classification?, 2019: 128 and 382.
            head = room // 4 if self.long == HEAD_TAIL else 0 if from_end else room
            yield np.r_[:head, tokens - room + head : tokens]
            return
        overlap = min(overlap, room - 1)  # a text may cost a template some tokens more
        for start in range(0, max(1, tokens - overlap), room - overlap):
            yield np.arange(start, min(start + room, tokens))


def recorded(config: Any, key: str) -> LongTexts:
    """How a trained model reads long texts, from its configuration. Raises UserError."""
    found = getattr(config, "long_texts", None) or {}
    try:
        known = LongTexts(**found)
        overlap = known.window_overlap
        if known.long in READ and (overlap is None or (type(overlap) is int and overlap >= 0)):
            return known
    except TypeError:
        pass
    problem = f"{key}: long_texts in its config.json is {str(found)[:80]}"
    raise UserError(f"{problem}; expected e.g. {LongTexts(WINDOWS, 32).to_dict()}")
