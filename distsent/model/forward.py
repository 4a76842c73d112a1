"""PackedBatch -> logits [n, C]: packed, or padded for encoders that cannot run packed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from distsent.batching.packing import PackedBatch
from distsent.data.tokens.long_texts import WINDOWS
from distsent.errors import UserError
from distsent.job.job import Job
from distsent.model import attention, batching_check
from distsent.model.classifier import (
    position_offset,
    shortest_input,
    token_limit,
    without_weights,
)
from distsent.model.cls_only_layer import cls_only_last_layer
from distsent.model.dropout import DropoutContext, TokenDropout
from distsent.model.padded_dropout import HashedDropout, example_axes
from distsent.model.tokenizer import padding_id

# Ways in which examples share a call of the encoder, fastest first. One at a time is always exact.
PACKED, PADDED, EQUAL, SINGLE = "packed", "padded", "equal lengths", "one at a time"
SLOWLY = {EQUAL: "examples of equal length together", SINGLE: "one example at a time"}


class PackedForward:
    """Runs a classifier on packed batches: the encoder sees one row of T tokens.

    Changes the model in place: dropout is hashed per token, attention stays inside each example,
    and the head sees the first token of every example.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._context = DropoutContext()
        self._offset = position_offset(model)
        attention.register_attention()
        model.set_attn_implementation(attention.NAME)
        stack = encoder_stack(model)
        cls_only_last_layer(stack)
        stack.register_forward_hook(self._keep_first_tokens)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    dropout = TokenDropout(child.p, self._context).train(child.training)
                    setattr(module, name, dropout)

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        self._context.start_pass(batch.keys_T, batch.cls_index_n)
        self._cls_index_n = batch.cls_index_n
        types = batch.types_T
        inputs: dict[str, Any] = {} if types is None else {"token_type_ids": types[None]}
        positions = batch.positions_T[None] + self._offset
        inputs |= {"input_ids": batch.ids_T[None], "position_ids": positions}
        logits = self.model(**inputs, packed_batch=batch, dropout_context=self._context).logits
        return logits if batch.windows_n is None else mean_of_windows(logits, batch.windows_n)

    def _keep_first_tokens(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Pooler and head read token 0 of each row: make every example a row."""
        rows, first = output.last_hidden_state[0], self._cls_index_n
        output.last_hidden_state = (rows if len(rows) == len(first) else rows[first]).unsqueeze(1)
        return output


def mean_of_windows(logits_wC: torch.Tensor, windows_n: torch.Tensor) -> torch.Tensor:
    """The mean logits [n, C] of each text's windows, summed in their order, at least in float32."""
    wide = logits_wC.to(torch.promote_types(logits_wC.dtype, torch.float32))
    return torch.segment_reduce(wide, "mean", lengths=windows_n, axis=0)


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


Forward = PackedForward | PaddedForward


def choose_forward(
    model: PreTrainedModel, tokenizer: Any, packed: str = "auto", windows: bool = False
) -> tuple[Forward, str | None]:
    """The forward for `packed` = "auto", "always" or "never", to score alone, and a log line."""
    ways = choose_ways(model, packed, training=False, windows=windows)
    return build_forward(model, tokenizer, packed, ways)


def choose_ways(
    model: PreTrainedModel, packed: str, training: bool, windows: bool = False
) -> tuple[str, str]:
    """How examples share the encoder: (in scoring, in training), the first way that is exact.

    Without `training` the second is not measured. `windows`: some texts have several. Raises
    UserError if packing is not exact, but `packed` = "always" or `windows` need it.
    """
    longest = token_limit(model)

    def exact(build: Callable[[PreTrainedModel], Forward], train: bool) -> bool:
        return batching_check.equals_alone(model, build, train, longest)

    if packed != "never":
        if exact(PackedForward, False) and (not training or exact(PackedForward, True)):
            return PACKED, PACKED
        if packed == "always":
            raise UserError(
                f"model.packed = 'always': {type(model).__name__} computes other scores in packed "
                'batches than alone; set model.packed to "auto" or "never"'
            )
    if windows:
        raise UserError(
            f'data.long = "windows": {type(model).__name__} cannot run packed, as windows must; '
            'set data.long to "cut" or "head_tail"'
        )
    scoring = next((way for way in (PADDED, EQUAL) if exact(_padded(way), False)), SINGLE)
    if not training or scoring == SINGLE:
        return scoring, SINGLE
    ways = (PADDED, EQUAL) if scoring == PADDED else (EQUAL,)
    return scoring, next((way for way in ways if exact(_padded(way), True)), SINGLE)


def check_windows(job: Job) -> None:
    """Raise UserError if a job's texts have windows, and its encoder cannot run packed.

    A look at the architecture answers before the dataset is read.
    """
    if job.data.long == WINDOWS and job.model.name != "demo":
        choose_ways(without_weights(job.model), job.model.packed, training=True, windows=True)


def _padded(way: str) -> Callable[[PreTrainedModel], Forward]:
    return lambda small: PaddedForward(small, small.config.pad_token_id or 0, way, way)


def build_forward(
    model: PreTrainedModel, tokenizer: Any, packed: str, ways: Sequence[str]
) -> tuple[Forward, str | None]:
    """The forward that runs examples in these ways, and a log line if nobody asked for it."""
    scoring, training = ways
    if scoring == PACKED:
        return PackedForward(model), None
    forward = PaddedForward(model, padding_id(model.config, tokenizer), scoring, training)
    name = type(model).__name__
    if scoring == PADDED == training:
        note = f"{name} cannot run packed: its batches are padded"
        return forward, note if packed == "auto" else None
    what = "dropout masks" if scoring == PADDED else "scores"
    return forward, f"{name} trains on {SLOWLY[training]}: padding would change its {what}"


def encoder_stack(model: PreTrainedModel) -> nn.Module:
    """The module that returns the last hidden states: pooler and head come after it."""
    base = model.base_model
    for name in ("encoder", "transformer"):
        if isinstance(getattr(base, name, None), nn.Module):
            return getattr(base, name)
    raise ValueError(f"{type(base).__name__} has neither `encoder` nor `transformer`")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """float32 stays as it is; bf16 and fp16 compute in 16 bits where torch considers it safe."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
