"""PackedBatch -> logits [n, C]: packed, or padded for encoders that cannot run packed."""

import copy
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distsent.batching.packing import PackedBatch, pack
from distsent.model import attention
from distsent.model.classifier import position_offset
from distsent.model.cls_only_layer import cls_only_last_layer
from distsent.model.dropout import DropoutContext, TokenDropout


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
        return self.model(**inputs, packed_batch=batch, dropout_context=self._context).logits

    def _keep_first_tokens(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Pooler and head read token 0 of each row: make every example a row."""
        rows, first = output.last_hidden_state[0], self._cls_index_n
        output.last_hidden_state = (rows if len(rows) == len(first) else rows[first]).unsqueeze(1)
        return output


class PaddedForward:
    """Runs a classifier on packed batches by padding them to their longest example.

    `side` is the tokenizer's padding side, because some heads read the last token.
    """

    def __init__(self, model: PreTrainedModel, pad: int, side: str = "right") -> None:
        self.model, self.pad, self.side = model, pad, side
        takes_positions = "position_ids" in signature(model.forward).parameters
        # Padding on the left would shift an example's positions.
        self._pass_positions = side == "left" and takes_positions and position_offset(model) == 0

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        def rows(x_T: torch.Tensor, pad: int) -> torch.Tensor:
            examples = x_T[: batch.tokens].split(batch.lengths)
            return nn.utils.rnn.pad_sequence(examples, True, pad, self.side)

        inputs = {} if batch.types_T is None else {"token_type_ids": rows(batch.types_T, 0)}
        mask = rows(torch.ones_like(batch.ids_T), 0)
        if self._pass_positions:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if batch.keys_T is not None:
            # Dropout by torch's generator: seeded by the micro-batch, it has no state to save.
            torch.manual_seed(int(batch.keys_T[0]))
        ids = rows(batch.ids_T, self.pad)
        return self.model(input_ids=ids, attention_mask=mask, **inputs).logits


Forward = PackedForward | PaddedForward


def choose_forward(
    model: PreTrainedModel, tokenizer: Any, packed: str = "auto"
) -> tuple[Forward, str | None]:
    """The forward for `packed` = "auto", "always" or "never", and a log line if "auto" pads."""
    if packed == "always" or (packed == "auto" and can_pack(model)):
        return PackedForward(model), None
    note = f"{type(model).__name__} cannot run packed: its batches are padded"
    padded = PaddedForward(model, tokenizer.pad_token_id or 0, tokenizer.padding_side)
    return padded, note if packed == "auto" else None


def encoder_stack(model: PreTrainedModel) -> nn.Module:
    """The module that returns the last hidden states: pooler and head come after it."""
    base = model.base_model
    for name in ("encoder", "transformer"):
        if isinstance(getattr(base, name, None), nn.Module):
            return getattr(base, name)
    raise ValueError(f"{type(base).__name__} has neither `encoder` nor `transformer`")


def can_pack(model: PreTrainedModel) -> bool:
    """Whether packed equals padded, on a small random copy of the architecture."""
    config = copy.deepcopy(model.config)
    small = {"num_hidden_layers": 2, "n_layers": 2, "num_hidden_groups": 1, "vocab_size": 64}
    for key, value in small.items():
        if hasattr(config, key):
            setattr(config, key, value)
    batch = pack([np.arange(5, 5 + n) for n in (4, 7, 9)], np.zeros(3))
    try:
        # `devices=[]`: otherwise it would initialize every GPU of the machine.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            # float64 separates rounding from a real difference.
            copied = type(model)._from_config(config).double().eval()
            padded = PaddedForward(copied, pad=config.pad_token_id or 0)(batch)
            return bool(torch.allclose(PackedForward(copied)(batch), padded, atol=1e-10))
    except Exception:
        return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """float32 stays as it is; bf16 and fp16 compute in 16 bits where torch considers it safe."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
