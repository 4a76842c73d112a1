"""What a forward pass keeps for backward: counted, so that it holds for any device."""

from __future__ import annotations

import torch

from distsent.batching.packing import PackedBatch
from distsent.model.forward import Forward, autocast


def activation_bytes(forward: Forward, packed: PackedBatch, precision: str) -> float:
    """Bytes per token of `packed`. Runs one forward pass, in training mode."""
    own = {p.untyped_storage().data_ptr() for p in forward.model.parameters()}
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()  # several views may be kept of one
        return tensor

    forward.model.train()
    kept = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with kept, autocast(packed.ids_T.device, precision):
        forward(packed)
    return sum(held.values()) / len(packed.ids_T)
