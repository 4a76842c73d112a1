"""How much arithmetic an encoder does: the counted, useful floating-point operations of real tokens.

Of the last layer only what reaches the head is useful: keys and values of all tokens, all else for each example's first token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FlopCounter:
    """Forward operations: `per_token` of linear layers (2 a weight), `per_pair` of attention's two products, and the rest."""

    per_token: float
    per_pair: float
    per_example: float = 0.0
    passes: float = 3.0  # of training, in forward passes

    def forward(self, lengths: np.ndarray) -> float:
        """Operations of one forward pass over examples of `lengths` tokens."""
        lengths = np.asarray(lengths, dtype=np.float64)
        return float(
            self.per_token * lengths.sum()
            + self.per_pair * (lengths * lengths).sum()
            + self.per_example * len(lengths)
        )

    def training(self, lengths: np.ndarray) -> float:
        """Operations of forward and backward: three times forward (Chowdhery et al., 2022, appendix B); twice, if frozen."""
        return self.passes * self.forward(lengths)


def count_flops(config: Any, frozen: bool = False) -> FlopCounter:
    """From an encoder's configuration (the families name things differently). `frozen`: adapters alone learn."""
    width = getattr(config, "hidden_size", None) or config.dim
    layers = getattr(config, "num_hidden_layers", None) or config.n_layers
    inner = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", 4 * width)
    first_tokens = (
        2 * width * width + 2 * width * inner
    )  # weights of the last layer that meet no other token
    weights = layers * (4 * width * width + 2 * width * inner) - first_tokens
    return FlopCounter(
        per_token=2.0 * weights + 4.0 * width,  # the last layer's attention: one query an example
        per_pair=4.0 * (layers - 1) * width,
        per_example=2.0 * first_tokens,
        passes=2.0 if frozen else 3.0,
    )
