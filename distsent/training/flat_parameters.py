"""All that is trained, end to end in one tensor, and its gradient in another: parameters and gradients are views into them.

One buffer makes the exchange, the norm, the update, the checkpoint and the hash one operation each. Layout:
word table (if trained) | parameters with weight decay | parameters without | control_slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

CONTROL_SLOTS = (
    8  # numbers that all workers must agree on; they travel with the gradients and cost nothing
)
UNDECAYED = ("bias", "norm")  # as everybody fine-tunes: no weight decay on biases and normalisation


class FlatParameters:
    """Takes over a model's trainable parameters; they stay where they are in the model, now as views.

    `values`, `grads`: float32 [N] (grads without the control_slots). `table`: the word table's gradient [V, d], None where it is frozen.
    """

    def __init__(self, model: nn.Module, table: nn.Embedding | None) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        rows = table.weight if table is not None and table.weight.requires_grad else None
        named.sort(key=lambda item: (item[1] is not rows, is_undecayed(item[0])))
        self.named: list[tuple[str, nn.Parameter]] = named
        self.size = sum(p.numel() for _, p in named)
        self.table_size = rows.numel() if rows is not None else 0
        like = named[0][1].detach()
        self.values = like.new_empty(self.size)
        self._buffer = like.new_zeros(self.size + CONTROL_SLOTS)
        self.grads, self.control_slots = self._buffer[: self.size], self._buffer[self.size :]
        start, self.decayed = 0, 0
        for name, p in named:
            stop = start + p.numel()
            self.values[start:stop].copy_(p.detach().reshape(-1))
            p.data = self.values[start:stop].view(p.shape)
            p.grad = self.grads[start:stop].view(p.shape)
            self.decayed += 0 if is_undecayed(name) else p.numel()
            start = stop
        self.table: torch.Tensor | None = None
        if rows is not None and table is not None:
            table.sparse = True  # autograd then adds only the rows it touched to the gradient
            self.table = self.grads[: self.table_size].view(rows.shape)

    @property
    def dense(self) -> torch.Tensor:
        """Gradients of everything but the word table, and the control_slots: what is exchanged whole."""
        return self._buffer[self.table_size :]

    def clear(self, rows: torch.Tensor) -> None:
        """Set the gradient to zero. `rows`: those of the word table that the last step touched."""
        self.dense.zero_()
        if self.table is not None:
            self.table.index_fill_(0, rows, 0.0)

    def groups(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """(values, grads, decayed?) of the two stretches that an optimizer treats differently."""
        for part, decays in (
            (slice(0, self.decayed), True),
            (slice(self.decayed, self.size), False),
        ):
            if self.values[part].numel():
                yield self.values[part], self.grads[part], decays

    def split(self, *stretches: torch.Tensor) -> dict[str, torch.Tensor]:
        """A tensor laid out like `values`, whole or in the stretches of `groups`, cut into named pieces (views)."""
        pieces, parameters = {}, iter(self.named)
        for stretch in stretches:
            start = 0
            while start < stretch.numel():
                name, p = next(parameters)
                pieces[name] = stretch[start : start + p.numel()].view(p.shape)
                start += p.numel()
        return pieces

    def check(self, pieces: Mapping[str, torch.Tensor], prefix: str = "") -> None:
        """Raises ValueError unless `split` could have cut these pieces, their names all beginning with `prefix`."""
        for name, p in self.named:
            if (piece := pieces.get(prefix + name)) is None or piece.shape != p.shape:
                raise ValueError(
                    f"{prefix}{name} is {'missing' if piece is None else f'{list(piece.shape)}, not {list(p.shape)}'}"
                )

    def join(self, pieces: dict[str, torch.Tensor]) -> torch.Tensor:
        """What `split` cut, put together again. Raises KeyError for a missing name."""
        return torch.cat([pieces[name].reshape(-1).to(self.values) for name, _ in self.named])


def is_undecayed(name: str) -> bool:
    return any(word in name.lower() for word in UNDECAYED)
