"""All trained parameters in one flat tensor; their gradients and Adam's moments in others.

The model's parameters and gradients become views. So all-reduce, norm, optimizer step, checkpoint
and hash are one operation each. Layout: token embedding (if trained) | parameters with weight decay
| parameters without | control slots.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from xxhash import xxh3_128

from distsent.operators.embedding import add_rows_to
from distsent.training.half_weights import HalfWeights

# Numbers that all workers must agree on. They travel with the gradients and cost nothing.
CONTROL_SLOTS = 7
# LayerNorm, BatchNorm1d, LlamaRMSNorm; not RobertaPreLayerNormModel
NORMALIZATION = re.compile(r"norm(\dd)?$", re.IGNORECASE)
MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, by torch's names


class FlatParameters:
    """Takes over a model's trainable parameters.

    `values`, `grads` and each of `moments`: float32 [N], `decayed` of them with weight decay.
    `control_slots`: float32 [7]. `buffer`: gradients and slots. `embedding_grad`: the gradient of
    the token embedding, [V, d], None if it is frozen. `dense`: all other gradients and the control
    slots, sent completely.
    `frozen_hash`: of the weights that are not trained, None if all are. `half`: see `use_half`.
    """

    def __init__(self, model: nn.Module, embedding: nn.Embedding | None) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        weight = embedding.weight if embedding and embedding.weight.requires_grad else None
        undecayed = undecayed_names(model)
        named.sort(key=lambda item: (item[1] is not weight, item[0] in undecayed))
        self.named, self.size = named, sum(p.numel() for _, p in named)
        self.frozen_hash = hash_of_frozen(model)
        self.embedding_size = weight.numel() if weight is not None else 0
        self.decayed = sum(p.numel() for name, p in named if name not in undecayed)
        self.embedding_grad: torch.Tensor | None = None
        values = torch.cat([p.detach().reshape(-1) for _, p in named])
        moments = {key: torch.zeros_like(values) for key in MOMENTS}
        self.use_memory(values, moments, values.new_zeros(self.size + CONTROL_SLOTS))
        self.shared = False  # by all workers, except for the gradients
        self.half: HalfWeights | None = None
        self.half_grads: torch.Tensor | None = None  # memory for them, if it is not its own
        if embedding is not None and weight is not None:
            self.embedding_grad = self.grads[: self.embedding_size].view(weight.shape)
            # Only the touched rows are added to the gradient.
            if not (self.values.is_cuda and add_rows_to(embedding, self.embedding_grad)):
                embedding.sparse = True

    def use_memory(
        self, values: torch.Tensor, moments: dict[str, torch.Tensor], buffer: torch.Tensor
    ) -> None:
        """Keep everything there, where `values` already hold the weights.

        Not after `use_half`, and not on a GPU: both keep addresses.
        """
        self.values, self.moments, self.buffer = values, moments, buffer
        self.grads, self.control_slots = buffer[: self.size], buffer[self.size :]
        self.dense = buffer[self.embedding_size :]
        if self.embedding_grad is not None:
            self.embedding_grad = self.grads[: self.embedding_size].view_as(self.embedding_grad)
        start = 0
        for _, p in self.named:
            stop = start + p.numel()
            p.data = values[start:stop].view(p.shape)
            p.grad = self.grads[start:stop].view(p.shape)
            start = stop

    @property
    def finite(self) -> bool:
        """Whether all values are finite."""
        return all(bool(bound.isfinite()) for bound in self.values.aminmax())

    def use_half(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Let linear layers read a 16-bit copy of their weights in training steps."""
        first = 0 if self.embedding_grad is None else 1
        parameters, start = [p for _, p in self.named[first:]], self.embedding_size
        values, grads, half_grads = self.values[start:], self.grads[start:], self.half_grads
        if half_grads is None:
            half_grads = torch.zeros_like(values, dtype=dtype)
        self.half = HalfWeights(model, parameters, values, grads, half_grads)

    def add_half_grads(self, part: slice) -> None:
        """Add the 16-bit gradients of a backward pass, if there are any, to a part of `grads`."""
        if self.half is not None:
            self.half.add_grads(part)

    def end_pass(self, parts: Iterable[slice]) -> None:
        """A backward pass is complete: its 16-bit gradients are added to `parts` of `grads`."""
        for part in parts:
            self.add_half_grads(part)
        if self.half is not None:
            self.half.end_pass()

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


def undecayed_names(model: nn.Module) -> set[str]:
    """Parameters without weight decay: biases and those of normalization layers, as is usual."""
    names = set()
    for path, module in model.named_modules():
        normalizes = NORMALIZATION.search(type(module).__name__)
        for name, _ in module.named_parameters(recurse=False):
            full = f"{path}.{name}".lstrip(".")
            # T5 names a whole module `relative_attention_bias`.
            if normalizes or any("bias" in part for part in full.split(".")[-2:]):
                names.add(full)
    return names


def hash_of_frozen(model: nn.Module) -> str | None:
    """A hash of the frozen weights that updates are added to; None if there are none."""
    digest = xxh3_128()
    for name, p in model.named_parameters():
        # peft keeps the head's first weights there. Nothing computes with them.
        if not p.requires_grad and ".original_module." not in name:
            flat = p.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name} {p.dtype} {tuple(p.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest() if digest.digest() != xxh3_128().digest() else None
