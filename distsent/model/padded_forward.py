"""PackedBatch -> logits [n, C] of encoders that cannot run packed: padded on the right."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from distsent.batching.packing import PackedBatch
from distsent.batching.similar_lengths import calls_of_similar_lengths
from distsent.model import batching_check
from distsent.model.classifier import shortest_input
from distsent.model.padded_dropout import HashedDropout, example_axes

# Which examples share a call of the encoder, fastest first. One at a time is always exact.
SIMILAR, EQUAL, SINGLE = "similar lengths", "equal lengths", "one at a time"
TOGETHER = "together"  # all of them: the most padding, to measure whether any changes the scores
# Tokens whose computation takes as long as a call takes beside its tokens: 26 in MPNet, 95 in
# DeBERTa, which projects its table of positions. On a GPU a call never pays: only the limit of
# padding asks for it.
CPU_CALL_TOKENS = 64.0


class PaddedForward:
    """Runs a classifier on packed batches by padding them on the right.

    `scoring` and `training` say which examples share a call: see `choose_ways`.
    """

    def __init__(
        self, model: PreTrainedModel, pad: int, scoring: str = SIMILAR, training: str = SIMILAR
    ) -> None:
        self.model, self.pad, self._scoring, self._training = model, pad, scoring, training
        self._shortest = shortest_input(model.config)
        # Keys and values of decoders are for texts that go on, and take memory.
        caches = "use_cache" in signature(model.forward).parameters
        self._options = {"use_cache": False} if caches else {}
        self._axes: tuple[int | None, ...] | None = None  # of the dropouts, when first needed
        self._tokens = self._slots = 0  # of training: real ones, and those computed
        self._dropouts = HashedDropout(torch.empty(0), torch.empty(0), None)  # of this call
        # Their embeddings have gradients although texts do not hold them.
        self.added_ids = (pad, *batching_check.special_token_ids(model.config))

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        assert batch.windows_n is None, "choose_ways refuses windows in padded batches"
        way = self._scoring if batch.keys_T is None else self._training
        call_tokens = CPU_CALL_TOKENS if batch.ids_T.device.type == "cpu" else math.inf
        logits = []
        for a, b in _calls(batch.lengths, way, call_tokens):
            inputs = self._inputs(batch, a, b)
            with self._dropout(batch, a, b, way):
                logits.append(self.model(**inputs, **self._options).logits)
            if self.model.training:
                self._tokens += sum(batch.lengths[a:b])
                self._slots += inputs["input_ids"].numel()
        return torch.cat(logits)

    @property
    def padding(self) -> float:
        """Share of padding among the tokens that were computed in training, so far."""
        return 1 - self._tokens / self._slots if self._slots else 0.0

    def reset_padding(self) -> None:
        self._tokens = self._slots = 0

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
        axes = None if way == SINGLE else self._axes
        self._dropouts = HashedDropout(keys_n, batch.step_key, axes)
        return self._dropouts

    def again(self) -> AbstractContextManager[object]:
        """The dropouts of a layer that is computed again: called before the layer."""
        return self._dropouts.again()


def _calls(lengths: Sequence[int], way: str, call_tokens: float) -> list[tuple[int, int]]:
    """Ranges [a, b) of the examples that share a call."""
    if way == SIMILAR:
        return calls_of_similar_lengths(lengths, call_tokens)
    n = len(lengths)
    differ = {
        TOGETHER: lambda i: False, EQUAL: lambda i: lengths[i] != lengths[i - 1],
        SINGLE: lambda i: True,
    }[way]  # fmt: skip
    starts = [i for i in range(n) if i == 0 or differ(i)]
    return list(zip(starts, [*starts[1:], n], strict=True))
