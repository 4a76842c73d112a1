"""PackedBatch -> logits [n, C], without padding."""

from contextlib import AbstractContextManager, suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distsent.batching.packing import PackedBatch
from distsent.model import attention, batching_check
from distsent.model.classifier import position_offset
from distsent.model.cls_only_layer import cls_only_last_layer
from distsent.model.dropout import DropoutContext, TokenDropout
from distsent.model.layer_gelu import fuse_gelus
from distsent.model.layer_output import fuse_layer_outputs
from distsent.model.pooling import FIRST, LAST, POOLINGS, Pooling


class PackedForward:
    """Runs a classifier on packed batches: the encoder sees one row of T tokens.

    Changes the model in place: dropout is hashed per token, attention stays inside each example,
    and the head gets a row of one token for each example. Raises ValueError for a head that reads
    its example in an unknown way.
    """

    padding = 0.0  # share of the tokens that are computed in training

    def __init__(self, model: PreTrainedModel, pooling: Pooling | None = None) -> None:
        self.pooling = pooling or find_pooling(model)
        self.model = model
        self._context = DropoutContext()
        self._offset = position_offset(model)
        attention.register_attention()
        model.set_attn_implementation(attention.NAME)
        self._connect(model.base_model)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    dropout = TokenDropout(child.p, self._context).train(child.training)
                    setattr(module, name, dropout)
        fuse_layer_outputs(model)
        fuse_gelus(model)

    def _connect(self, base: Any) -> None:
        """Give the encoder the packed batch, and what comes after it a row for each example."""
        base.register_forward_pre_hook(self._packed_inputs, with_kwargs=True)
        caches = "use_cache" in signature(base.forward).parameters
        self._options = {"use_cache": False} if caches else {}
        stack = encoder_stack(base)
        if stack is not None:
            stack.register_forward_hook(self._pool_output)
            if self.pooling is FIRST:
                cls_only_last_layer(stack)
        elif isinstance(getattr(base, "pooler", None), nn.Module):
            base.pooler.register_forward_pre_hook(self._pool_input)
        else:
            base.register_forward_hook(self._pool_output)

    def __call__(self, batch: PackedBatch) -> Tensor:
        self._context.start_pass(batch.keys_T, batch.cls_index_n)
        self._batch = batch
        # Heads that look for an example's last token find it in a row of one.
        last = self.pooling is LAST
        ids = batch.ids_T.new_zeros(batch.sequences, 1) if last else batch.ids_T[None]
        logits = self.model(ids, packed_batch=batch, dropout_context=self._context).logits
        logits = self.pooling.logits(logits, batch)
        return logits if batch.windows_n is None else mean_of_windows(logits, batch.windows_n)

    def again(self) -> AbstractContextManager[object]:
        """The dropouts of a layer that is computed again: called before the layer."""
        return self._context.again()

    def _packed_inputs(self, base: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        batch, types = self._batch, self._batch.types_T
        ids = batch.ids_T[None]
        inputs = {"input_ids": ids, "position_ids": batch.positions_T[None] + self._offset}
        if types is not None:
            inputs["token_type_ids"] = types[None]
        # A mask of its own says that the row is no batch of transformers' own packed format.
        inputs["attention_mask"] = torch.ones_like(ids)
        return (), {**kwargs, **inputs, **self._options}

    def _pool(self, hidden: Tensor) -> Tensor:
        pad = self.model.config.get_text_config().pad_token_id
        return self.pooling.rows(hidden[0], self._batch, pad).unsqueeze(1)

    def _pool_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = self._pool(output.last_hidden_state)
        return output

    def _pool_input(self, module: nn.Module, args: Any) -> Any:
        return (self._pool(args[0]), *args[1:])


# By class and configuration, which decide it. A start asks several times, and for a base encoder an
# answer takes 0.4 s.
_poolings: dict[tuple[type, str], Pooling] = {}


def find_pooling(model: PreTrainedModel) -> Pooling:
    """The pooling with which a lone example gets the logits that the model computes.

    Measured on a small copy. Raises ValueError if there is none.
    """
    asked = type(model), model.config.to_json_string(use_diff=False)
    if asked not in _poolings:
        _poolings[asked] = _measure_pooling(model)
    return _poolings[asked]


@torch.no_grad()
def _measure_pooling(model: PreTrainedModel) -> Pooling:
    small = batching_check.small_copy(model).eval()
    ids = batching_check.examples(small.config, [9])
    alone = batching_check.alone(small, ids)[0]
    forward = PackedForward(small, POOLINGS[-1])
    for pooling in POOLINGS:
        forward.pooling = pooling
        with suppress(IndexError, RuntimeError):  # a head that gets other rows than it expects
            if batching_check.equal(forward(batching_check.batch_of(ids, [0])), alone):
                return pooling
    raise ValueError(f"{type(model).__name__} reads its examples in an unknown way")


def mean_of_windows(logits_wC: torch.Tensor, windows_n: torch.Tensor) -> torch.Tensor:
    """The mean logits [n, C] of each text's windows, summed in their order, at least in float32."""
    wide = logits_wC.to(torch.promote_types(logits_wC.dtype, torch.float32))
    return torch.segment_reduce(wide, "mean", lengths=windows_n, axis=0)


def encoder_stack(base: nn.Module) -> nn.Module | None:
    """The module inside an encoder that returns the last hidden states, before a pooler."""
    for name in ("encoder", "transformer"):
        if isinstance(getattr(base, name, None), nn.Module):
            return getattr(base, name)
    return None
