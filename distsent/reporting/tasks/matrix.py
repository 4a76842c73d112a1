"""A matrix of counts in a picture."""

from __future__ import annotations

from typing import Any

import numpy as np


def draw_matrix(axes: Any, cells: np.ndarray, fontsize: str, numbers: bool = True) -> None:
    """Rows: true; columns: predicted; shade: share of the row; `numbers`: the counts, too."""
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*cells.shape) if numbers else ():
        color = "white" if shares[row, column] > 0.5 else "black"
        style: Any = {"ha": "center", "va": "center", "color": color, "fontsize": fontsize}
        axes.text(column, row, f"{cells[row, column]:,}", **style)
