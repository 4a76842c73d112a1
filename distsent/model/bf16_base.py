"""The base of adapters in 16 bits: frozen matrices in bfloat16 that compute as float32 ones do."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distsent.model.classifier import token_embedding

LINEAR = nn.Linear, Conv1D
PRODUCTS = nn.Linear.forward, Conv1D.forward  # not that of PhiMoE's router, a linear layer, too


def halve_frozen_weights(model: PreTrainedModel) -> None:
    """Keep the encoder's matrices in bfloat16, in which most large models are published.

    They compute as float32 weights of these values do: under autocast to bf16 with the same bits.
    What a model's code reads without calling its module stays in float32: tables of positions
    (DeBERTa), and layers whose dtype becomes that of their input (T5). Raises UserError for a model
    without a table of tokens.
    """
    tokens = token_embedding(model).weight
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is tokens]
    halved: list[tuple[Any, Any]] = [(_embedding_16bit, table) for table in tables]
    if not all(map(_looks_up, tables)):
        halved = []
    wide = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for name, module in model.named_modules():
        read = any(f".{part}." in f".{name}.weight." for part in wide)
        if isinstance(module, LINEAR) and type(module).forward in PRODUCTS and not read:
            halved.append((_linear_16bit, module))
    for forward, module in halved:
        if not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(torch.bfloat16)
            module.forward = partial(forward, module)


def _looks_up(table: nn.Embedding) -> bool:
    """Whether it gives the rows of its table, or these times a number (Gemma, BART)."""
    scales = hasattr(table, "embed_scale") and len(list(table.parameters())) == 1
    return scales or type(table).forward is nn.Embedding.forward


def _embedding_16bit(table: Any, ids: torch.Tensor) -> torch.Tensor:
    rows = F.embedding(ids, table.weight).float()
    scale = getattr(table, "embed_scale", None)
    return rows if scale is None else rows * scale


def _linear_16bit(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Outside of autocast, in the precision of its input."""
    autocast = torch.is_autocast_enabled(x.device.type)
    weight = module.weight if autocast else module.weight.to(x.dtype)
    return F.linear(x, weight.t() if isinstance(module, Conv1D) else weight, module.bias)
