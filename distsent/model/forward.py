"""PackedBatch -> logits: packed, or padded for encoders that cannot run packed. Both give [n, C] for a stream's n examples."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distsent.batching.packing import PackedBatch, pack
from distsent.model import attention, cls_only_layer
from distsent.model.classifier import position_offset
from distsent.model.dropout import DropoutContext, TokenDropout


class PackedForward:
    """Runs a classifier over streams. The encoder sees one row of T tokens; its head sees every example's first token.

    Turns the model's dropouts into ones that are hashed by token, in place, and lets no attention cross examples.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.flow = model, DropoutContext()
        self._offset = position_offset(model)
        attention.register()
        model.set_attn_implementation(attention.NAME)
        stack = encoder_stack(model)
        cls_only_layer.cls_only_last_layer(stack)
        stack.register_forward_hook(self._keep_first_tokens)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, TokenDropout(child.p, self.flow).train(child.training))

    def __call__(self, s: PackedBatch) -> torch.Tensor:
        self.flow.begin(s.keys_T, s.cls_index_n)
        self._firsts = s.cls_index_n
        types = {} if s.types_T is None else {"token_type_ids": s.types_T[None]}
        out = self.model(
            input_ids=s.ids_T[None],
            position_ids=s.positions_T[None] + self._offset,
            stream=s,
            flow=self.flow,
            **types,
        )
        return out.logits

    def _keep_first_tokens(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What follows the encoder (pooler, head) reads token 0 of each row: give it one row an example."""
        rows = output.last_hidden_state[0]
        output.last_hidden_state = (
            rows if len(rows) == len(self._firsts) else rows[self._firsts]
        ).unsqueeze(1)
        return output


class PaddedForward:
    """Runs a classifier over streams by padding them to their longest example, on its tokenizer's `side`: heads may read an end."""

    def __init__(self, model: PreTrainedModel, pad: int, side: str = "right") -> None:
        self.model, self.pad, self.side = model, pad, side
        self._counts = (
            side == "left"
            and "position_ids" in signature(model.forward).parameters
            and position_offset(model) == 0
        )

    def __call__(self, s: PackedBatch) -> torch.Tensor:
        def rows(x_T: torch.Tensor, pad: int) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence(x_T[: s.tokens].split(s.lengths), True, pad, self.side)

        types = {} if s.types_T is None else {"token_type_ids": rows(s.types_T, 0)}
        mask = rows(torch.ones_like(s.ids_T), 0)
        if self._counts:  # by place, where padding on the left would shift an example's positions
            types["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if (
            s.keys_T is not None
        ):  # dropout by torch's generator, seeded by what the micro-batch holds: nothing to save
            torch.manual_seed(int(s.keys_T[0]))
        return self.model(input_ids=rows(s.ids_T, self.pad), attention_mask=mask, **types).logits


Forward = PackedForward | PaddedForward


def choose_forward(
    model: PreTrainedModel, tokenizer: Any, wish: str = "auto"
) -> tuple[Forward, str | None]:
    """How to run `model`: packed where it can be (or must: `wish` is "always"), and a line for the log where it cannot."""
    if wish == "always" or (wish == "auto" and can_pack(model)):
        return PackedForward(model), None
    remark = (
        f"{type(model).__name__} cannot run packed: its batches are padded"
        if wish == "auto"
        else None
    )
    return PaddedForward(model, tokenizer.pad_token_id or 0, tokenizer.padding_side), remark


def encoder_stack(model: PreTrainedModel) -> nn.Module:
    """The module whose output is the last hidden states: where the families' heads begin."""
    base = model.base_model
    for name in ("encoder", "transformer"):
        if isinstance(getattr(base, name, None), nn.Module):
            return getattr(base, name)
    raise ValueError(f"{type(base).__name__} has neither `encoder` nor `transformer`")


def can_pack(model: PreTrainedModel) -> bool:
    """Tries it: three short examples, packed and padded, on a small copy of the architecture with random weights."""
    config = copy.deepcopy(model.config)
    for key, value in {
        "num_hidden_layers": 2,
        "n_layers": 2,
        "num_hidden_groups": 1,
        "vocab_size": 64,
    }.items():
        if hasattr(config, key):
            setattr(config, key, value)
    ids = [np.arange(5, 5 + n) for n in (4, 7, 9)]
    s = pack(ids, np.zeros(3))
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
        ):  # or every GPU of the machine would be woken
            small = (
                type(model)._from_config(config).double().eval()
            )  # float64 leaves no doubt about what is rounding
            padded = PaddedForward(small, pad=config.pad_token_id or 0)(s)
            return bool(torch.allclose(PackedForward(small)(s), padded, atol=1e-10))
    except Exception:
        return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """float32 stays as it is; bf16 and fp16 compute in half width where torch says it is safe."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
