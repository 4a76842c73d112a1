"""All trained parameters in one flat tensor; their gradients and Adam's moments in others.

The model's parameters and gradients become views. So all-reduce, norm, optimizer step, checkpoint
and hash are one operation each. Layout: token embedding (if trained) | parameters with weight decay
| parameters without | control slots.
"""

from collections.abc import Mapping

import torch
from torch import nn

# Numbers that all workers must agree on. They travel with the gradients and cost nothing.
CONTROL_SLOTS = 8
UNDECAYED = ("bias", "norm")  # no weight decay on biases and normalization, as is usual
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, by torch's names


class FlatParameters:
    """Takes over a model's trainable parameters.

    `values`, `grads` and each of `moments`: float32 [N], `decayed` of them with weight decay.
    `control_slots`: float32 [8]. `embedding_grad`: the gradient of the token embedding, [V, d],
    None if it is frozen. `dense`: all other gradients and the control slots, sent completely.
    """

    def __init__(self, model: nn.Module, embedding: nn.Embedding | None) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        weight = embedding.weight if embedding and embedding.weight.requires_grad else None
        named.sort(key=lambda item: (item[1] is not weight, is_undecayed(item[0])))
        self.named, self.size = named, sum(p.numel() for _, p in named)
        self.embedding_size = weight.numel() if weight is not None else 0
        self.values = torch.cat([p.detach().reshape(-1) for _, p in named])
        self.moments = {key: torch.zeros_like(self.values) for key in MOMENTS}
        buffer = self.values.new_zeros(self.size + CONTROL_SLOTS)
        self.grads, self.control_slots = buffer[: self.size], buffer[self.size :]
        self.dense = buffer[self.embedding_size :]
        start, self.decayed = 0, 0
        for name, p in named:
            stop = start + p.numel()
            p.data = self.values[start:stop].view(p.shape)
            p.grad = self.grads[start:stop].view(p.shape)
            self.decayed += 0 if is_undecayed(name) else p.numel()
            start = stop
        self.embedding_grad: torch.Tensor | None = None
        if embedding is not None and weight is not None:
            # Autograd then adds only the touched rows to the gradient.
            embedding.sparse = True
            self.embedding_grad = self.grads[: self.embedding_size].view(weight.shape)

    def zero_grads(self, token_ids: torch.Tensor) -> None:
        """Set all gradients to zero. `token_ids`: embedding rows that the last step touched."""
        self.dense.zero_()
        if self.embedding_grad is not None:
            self.embedding_grad.index_fill_(0, token_ids, 0.0)

    def split(self, flat: torch.Tensor, prefix: str = "") -> dict[str, torch.Tensor]:
        """Views, one per parameter, of a tensor like `values`. Keys: `prefix` and name."""
        parts = flat.split([p.numel() for _, p in self.named])
        return {
            prefix + name: part.view(p.shape)
            for part, (name, p) in zip(parts, self.named, strict=True)
        }

    def check_shapes(self, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> None:
        """Raises ValueError unless `tensors` has each parameter under `prefix` and its name."""
        for name, p in self.named:
            found = tensors.get(prefix + name)
            if found is None or found.shape != p.shape:
                state = "missing" if found is None else f"{list(found.shape)}, not {list(p.shape)}"
                raise ValueError(f"{prefix}{name} is {state}")

    def join(self, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> torch.Tensor:
        """The inverse of `split`. Raises KeyError for a missing name."""
        parts = (tensors[prefix + name] for name, _ in self.named)
        return torch.cat([part.reshape(-1).to(self.values) for part in parts])


def is_undecayed(name: str) -> bool:
    return any(word in name.lower() for word in UNDECAYED)
