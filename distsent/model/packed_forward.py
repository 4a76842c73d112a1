"""PackedBatch -> logits [n, C], without padding."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from distsent.batching.packing import PackedBatch
from distsent.model import attention
from distsent.model.classifier import position_offset
from distsent.model.cls_only_layer import cls_only_last_layer
from distsent.model.dropout import DropoutContext, TokenDropout


class PackedForward:
    """Runs a classifier on packed batches: the encoder sees one row of T tokens.

    Changes the model in place: dropout is hashed per token, attention stays inside each example,
    and the head sees the first token of every example.
    """

    padding = 0.0  # share of the tokens that are computed in training

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


def encoder_stack(model: PreTrainedModel) -> nn.Module:
    """The module that returns the last hidden states: pooler and head come after it."""
    base = model.base_model
    for name in ("encoder", "transformer"):
        if isinstance(getattr(base, name, None), nn.Module):
            return getattr(base, name)
    raise ValueError(f"{type(base).__name__} has neither `encoder` nor `transformer`")
