"""Scores against scikit-learn, and counts that merge exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from distsent.evaluation.tasks.multi_label import MultiLabel
from distsent.evaluation.tasks.regression import Regression, column_scores
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.evaluation.tasks.task import Task


def counted(task: Task, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The counts of rows whose logits say `predicted`."""
    return task_counts(task, np.eye(len(task.names))[predicted], labels)


def task_counts(task: Task, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    counts = task.no_counts()
    task.count(counts, logits, labels)
    return counts


def single_label(classes: int) -> SingleLabel:
    return SingleLabel(tuple(map(str, range(classes))))


@pytest.mark.filterwarnings("ignore")
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**31))
def test_scores_equal_scikit_learn(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    task = single_label(classes)
    got = task.scores(counted(task, labels, predicted), 0.5, np.eye(classes)[predicted], labels)
    assert (got["n"], got["loss"]) == (n, 0.5)
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
    owner, task = rng.integers(0, parts, n), single_label(3)
    total = sum(counted(task, labels[owner == w], predicted[owner == w]) for w in range(parts))
    assert (total == counted(task, labels, predicted)).all()


def drawn(n: int, labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32, many of them equal, and truth; the first label has no rows, the last all."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, labels)) < rng.random(labels)).astype(np.uint8)
    truth[:, 0], truth[:, -1] = 0, 1
    logits = rng.normal(size=(n, labels)).round(rng.integers(0, 3)) + truth * rng.normal()
    return logits.astype(np.float32), truth


@pytest.mark.filterwarnings("ignore")
@given(st.integers(1, 50), st.integers(2, 7), st.integers(0, 2**31), st.integers(1, 4))
def test_scores_of_several_labels_equal_scikit_learn(
    n: int, labels: int, seed: int, parts: int
) -> None:
    (logits, truth), task = drawn(n, labels, seed), MultiLabel(tuple(map(str, range(labels))))
    counts = sum(task_counts(task, logits[i::parts], truth[i::parts]) for i in range(parts))
    got, predicted = task.scores(counts, 0.5, logits, truth), logits > 0
    expected = {
        f"f1_{average}": metrics.f1_score(truth, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "weighted", "samples")
    }
    expected["subset_accuracy"] = metrics.accuracy_score(truth, predicted)
    expected["map"] = metrics.average_precision_score(truth, logits, average="macro")
    both = [i for i in range(labels) if 0 < truth[:, i].sum() < n]  # else scikit-learn says NaN
    areas = [metrics.roc_auc_score(truth[:, i], logits[:, i]) for i in both]
    expected["auc_macro"] = np.mean(areas) if both else np.nan
    assert {key: got[key] for key in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert {*expected, "loss"} == {*task.scalars}
    assert got["confusion"] == metrics.multilabel_confusion_matrix(truth, predicted).tolist()
    each = metrics.precision_recall_fscore_support(truth, predicted, zero_division=0)
    for i, found in enumerate(got["per_label"].values()):
        keys = ("precision", "recall", "f1", "n")
        assert [found[key] for key in keys] == pytest.approx([x[i] for x in each], abs=1e-12)


@pytest.mark.filterwarnings("ignore")
@given(st.integers(2, 50), st.integers(1, 3), st.integers(0, 2**31), st.booleans())
def test_scores_of_numbers_equal_scikit_learn_and_scipy(
    n: int, columns: int, seed: int, constant: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(rng.normal(scale=100), 1, (n, columns)).round(rng.integers(1, 5))
    predicted = (truth + rng.normal(size=truth.shape)).astype(np.float32)
    if constant:
        truth[:, 0] = 3.0
    task, double = Regression(tuple("abc"[:columns])), predicted.astype(np.float64)
    got = task.scores(task.no_counts(), 0.5, predicted, truth)
    pairs = list(zip(truth.T, double.T, strict=True))
    expected = {
        "mae": metrics.mean_absolute_error(truth, double),
        "rmse": metrics.root_mean_squared_error(truth, double),
        "r2": metrics.r2_score(truth, double),
        "pearson": np.mean([stats.pearsonr(*pair).statistic for pair in pairs]),
        "spearman": np.mean([stats.spearmanr(*pair).statistic for pair in pairs]),
    }
    assert {key: got[key] for key in expected} == pytest.approx(
        expected, rel=1e-12, abs=1e-12, nan_ok=True
    )
    assert [*got["per_column"]] == list(task.names)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", [3.0, 0.1])  # the mean of which is another number
def test_a_constant_column_has_no_spread(value: float) -> None:
    truth = np.full(3, value)
    assert (truth.mean() == value) == (value == 3)
    found = column_scores(truth, np.array([0.0, 1.0, 2.0]))
    assert found["r2"] == 0 and np.isnan([found["pearson"], found["spearman"]]).all()
    assert column_scores(truth, truth)["r2"] == 1
    assert np.isnan(column_scores(np.arange(3.0), truth)["pearson"])
    drawn = Regression(("x",)).intervals({}, np.zeros((3, 1), np.float32), truth[:, None])
    assert not np.isfinite(drawn["r2"]).any()
