"""Scores against scikit-learn, and counts that merge exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from distsent.evaluation.metrics import Counts


def counted(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Counts:
    counts = Counts(classes)
    counts.add(labels, predicted, np.full(len(labels), 0.5, np.float32))
    return counts


@pytest.mark.filterwarnings("ignore")
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**31))
def test_scores_equal_scikit_learn(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    got = counted(labels, predicted, classes).scores([str(c) for c in range(classes)])
    every = list(range(classes))
    average = {"average": "binary"} if classes == 2 else {"average": "weighted", "labels": every}
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, zero_division=0, **average
    )
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    assert (got["precision"], got["recall"], got["f1"]) == pytest.approx(
        (precision, recall, f1), abs=1e-12
    )
    assert got["f1_macro"] == pytest.approx(
        metrics.f1_score(labels, predicted, average="macro"), abs=1e-12
    )
    assert got["confusion"] == metrics.confusion_matrix(labels, predicted, labels=every).tolist()
    p, r, f, s = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    for i in every:
        assert list(got["per_class"][str(i)].values()) == pytest.approx(
            [s[i], p[i], r[i], f[i]], abs=1e-12
        )


@given(st.integers(1, 50), st.integers(1, 7), st.integers(0, 2**31))
def test_counts_merge_exactly_in_any_grouping(n: int, parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 3, n), rng.integers(0, 3, n)
    owner = rng.integers(0, parts, n)
    total = sum(
        counted(labels[owner == w], predicted[owner == w], 3).to_vector() for w in range(parts)
    )
    merged = Counts.from_vector(np.asarray(total), 3)
    assert (merged.confusion == counted(labels, predicted, 3).confusion).all()
    assert merged.loss_sum == pytest.approx(0.5 * n, abs=1e-12)
