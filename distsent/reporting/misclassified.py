"""The rows that a model has wrong, the ones it was surest of first: the place to look for wrong labels and blind spots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distsent.evaluation.metrics import softmax

MOST = 200


def worst_mistakes(
    logits_nC: np.ndarray,
    labels_n: np.ndarray,
    rows_n: np.ndarray,
    names: Sequence[str],
    text_of: Callable[[int], str],
    most: int = MOST,
) -> list[dict[str, Any]]:
    """One record a mistake: row (as the user counts, from 1), label, predicted, score of each, text."""
    scores = softmax(logits_nC)
    predicted = scores.argmax(1)
    wrong = np.flatnonzero(predicted != labels_n)
    wrong = wrong[np.argsort(-scores[wrong, predicted[wrong]], kind="stable")][:most]
    return [
        {
            "row": int(rows_n[i]) + 1, "label": names[labels_n[i]], "predicted": names[predicted[i]],
            "score": float(scores[i, predicted[i]]), "score_of_label": float(scores[i, labels_n[i]]), "text": text_of(int(i)),
        }
        for i in wrong
    ]  # fmt: skip
