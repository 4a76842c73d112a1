"""Floating-point operations of a model on real tokens: the useful ones, without padding.

In the last layer of an encoder that runs packed only the input of the head is useful: keys and
values of all tokens, everything else for the first token of each example.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FlopCounter:
    """Operations of a forward pass: linear layers (2 per weight), attention's two products."""

    per_token: float
    per_pair: float
    per_example: float = 0.0
    passes: float = 3.0  # forward and backward, in forward passes; 2 for a frozen encoder
    near: float = 0.0  # share of per_pair in layers whose tokens attend to a window only
    window: int = 0  # tokens of that window

    def forward(self, lengths: np.ndarray) -> float:
        """Operations of one forward pass over examples of `lengths` tokens."""
        lengths = np.asarray(lengths, dtype=np.float64)
        tokens, pairs, examples = lengths.sum(), (lengths * lengths).sum(), len(lengths)
        if self.near:
            far = (lengths * np.maximum(lengths - self.window, 0)).sum()
            pairs -= self.near * far
        total = self.per_token * tokens + self.per_pair * pairs + self.per_example * examples
        return float(total)

    def training(self, lengths: np.ndarray) -> float:
        """Forward and backward: 3 times forward (Chowdhery et al., 2022, appendix B)."""
        return self.passes * self.forward(lengths)


def passes(frozen: bool) -> float:
    """Forward and backward, in forward passes. `frozen`: only adapters are trained."""
    return 2.0 if frozen else 3.0


def count_flops(config: Any, frozen: bool = False) -> FlopCounter:
    """The counts of BERT's layers in the sizes of a configuration, without the head.

    `frozen`: only adapters are trained. Raises AttributeError for a configuration without sizes.
    """
    text = config.get_text_config()
    # The architectures name their sizes differently.
    width = getattr(text, "hidden_size", None) or text.dim
    layers = getattr(text, "num_hidden_layers", None) or text.n_layers
    inner = getattr(text, "intermediate_size", None) or getattr(text, "hidden_dim", 4 * width)
    cls_only = 2 * width * width + 2 * width * inner  # last layer: weights for first tokens only
    weights = layers * (4 * width * width + 2 * width * inner) - cls_only
    return FlopCounter(
        per_token=2.0 * weights + 4.0 * width,  # the last layer has one query per example
        per_pair=4.0 * (layers - 1) * width,
        per_example=2.0 * cls_only,
        passes=passes(frozen),
    )
