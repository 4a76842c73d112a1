"""PackedBatch -> logits [n, C] of encoders that cannot run packed: padded on the right."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from distsent.batching.packing import PackedBatch
from distsent.model import batching_check
from distsent.model.classifier import shortest_input
from distsent.model.padded_dropout import HashedDropout, example_axes

# Which examples share a call of the encoder, fastest first. One at a time is always exact.
PADDED, EQUAL, SINGLE = "padded", "equal lengths", "one at a time"


class PaddedForward:
    """Runs a classifier on packed batches by padding them on the right.

    `scoring` and `training` say which examples share a call: see `choose_ways`.
    """

    def __init__(
        self, model: PreTrainedModel, pad: int, scoring: str = PADDED, training: str = PADDED
    ) -> None:
        self.model, self.pad, self._scoring, self._training = model, pad, scoring, training
        self._shortest = shortest_input(model.config)
        self._axes: tuple[int | None, ...] | None = None  # of the dropouts, when first needed
        # Their embeddings have gradients although texts do not hold them.
        self.added_ids = (pad, *batching_check.special_token_ids(model.config))

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        assert batch.windows_n is None, "choose_ways refuses windows in padded batches"
        way = self._scoring if batch.keys_T is None else self._training
        logits = []
        for a, b in _calls(batch.lengths, way):
            with self._dropout(batch, a, b, way):
                logits.append(self.model(**self._inputs(batch, a, b)).logits)
        return torch.cat(logits)

    def _inputs(self, batch: PackedBatch, a: int, b: int) -> dict[str, torch.Tensor]:
        """Examples a to b, padded to the longest of them: [b - a, T]."""

        def rows(x_T: torch.Tensor, value: int) -> torch.Tensor:
            examples = x_T[: batch.tokens].split(batch.lengths)[a:b]
            padded = nn.utils.rnn.pad_sequence(examples, True, value)
            return F.pad(padded, (0, max(0, self._shortest - padded.shape[1])), value=value)

        mask = rows(torch.ones_like(batch.ids_T), 0)
        inputs = {"input_ids": rows(batch.ids_T, self.pad), "attention_mask": mask}
        if batch.types_T is not None:
            inputs["token_type_ids"] = rows(batch.types_T, 0)
        return inputs

    def _dropout(
        self, batch: PackedBatch, a: int, b: int, way: str
    ) -> AbstractContextManager[object]:
        if batch.keys_T is None:
            return nullcontext()
        assert batch.step_key is not None, "a packed batch for training has a step key"
        keys_n = batch.keys_T[batch.cls_index_n[a:b]]
        if way != SINGLE and self._axes is None:
            self._axes = example_axes(self.model, self._inputs(batch, a, a + 1))
        # Randomness other than dropout, by torch's generator, has no state to save either.
        torch.manual_seed(int(keys_n[0]))
        return HashedDropout(keys_n, batch.step_key, None if way == SINGLE else self._axes)


def _calls(lengths: Sequence[int], way: str) -> list[tuple[int, int]]:
    """Ranges [a, b) of the examples that share a call."""
    n = len(lengths)
    differ = {
        PADDED: lambda i: False, EQUAL: lambda i: lengths[i] != lengths[i - 1],
        SINGLE: lambda i: True,
    }[way]  # fmt: skip
    starts = [i for i in range(n) if i == 0 or differ(i)]
    return list(zip(starts, [*starts[1:], n], strict=True))
