"""How much arithmetic an encoder does: the counted, useful floating-point operations of real tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Work:
    """Forward operations: `per_token` for the linear layers (2 a weight), `per_pair` for attention's two products."""

    per_token: float
    per_pair: float

    def forward(self, lengths: np.ndarray) -> float:
        """Operations of one forward pass over examples of `lengths` tokens."""
        lengths = np.asarray(lengths, dtype=np.float64)
        return float(self.per_token * lengths.sum() + self.per_pair * (lengths * lengths).sum())

    def training(self, lengths: np.ndarray) -> float:
        """Operations of forward and backward: three times forward (Chowdhery et al., 2022, appendix B)."""
        return 3 * self.forward(lengths)


def work(config: Any) -> Work:
    """From an encoder's configuration (BERT, RoBERTa, ALBERT and DistilBERT name things differently)."""
    width = getattr(config, "hidden_size", None) or config.dim
    layers = getattr(config, "num_hidden_layers", None) or config.n_layers
    inner = getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", 4 * width)
    weights = layers * (4 * width * width + 2 * width * inner)
    return Work(per_token=2.0 * weights, per_pair=4.0 * layers * width)
