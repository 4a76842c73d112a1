"""A job is the same training on any number of workers, and the classical mistakes are caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from scipy import special, stats
from sklearn import metrics as sklearn

from distsent.errors import USAGE_ERROR
from tests import fixtures
from tests.parallel.conftest import WINDOW_MISTAKES
from tests.parallel.mutants import MISTAKES, SHARED_MISTAKES

World = Callable[[int], Path]
COLUMNS = ("loss", "grad_norm", "lr", "samples", "tokens", "epoch")


def curve(run: Path) -> list[float]:
    """All logged numbers of all steps."""
    return [float(line[column]) for line in fixtures.metrics(run) for column in COLUMNS]


def deviation(run: Path, reference: Path) -> float:
    """The largest relative difference between the logged steps of two runs."""
    pairs = list(zip(curve(run), curve(reference), strict=True))
    return max(abs(a - b) / max(abs(b), 1e-12) if a != b else 0.0 for a, b in pairs)


@pytest.mark.parametrize("np", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "steps"), [("plain", 100), ("dropout", 100), ("tiny", 30), ("windows", 30)]
)
def test_losses_norms_and_counts_agree_at_any_number_of_workers(
    world: World, np: int, name: str, steps: int
) -> None:
    """`tiny`: two examples per step, each a micro-batch; at -np 3 and 4 some workers have none."""
    assert len(fixtures.metrics(world(1) / name)) == steps
    assert deviation(world(np) / name, world(1) / name) < 1e-5
    if name in ("dropout", "plain", "tiny"):
        assert deviation(world(np) / f"shared-{name}", world(1) / name) < 1e-5


@pytest.mark.parametrize("np", [2, 3, 4])
@pytest.mark.parametrize("name", ["dropout", "shared-dropout"])
def test_the_same_run_at_the_same_number_of_workers_gives_the_same_bits(
    world: World, np: int, name: str
) -> None:
    once, again = (
        fixtures.result(world(np) / each)["weights_sha256"] for each in (name, f"{name}-again")
    )
    assert once == again


def test_two_workers_that_share_their_weights_get_the_bits_of_two_that_do_not(
    world: World,
) -> None:
    """Of three or more workers, gradients are added in another order. `plain` has best weights."""
    for name in ("plain", "dropout", "tiny", "half", "tiny-half"):
        each = [fixtures.result(world(2) / run) for run in (name, f"shared-{name}")]
        assert each[0]["weights_sha256"] == each[1]["weights_sha256"], name
        assert each[0]["train"]["bytes_exchanged"] > each[1]["train"]["bytes_exchanged"] > 0


@pytest.mark.parametrize("np", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["plain", "windows"])
def test_scores_equal_scikit_learn_if_workers_do_not_divide_the_rows(
    world: World, name: str, np: int
) -> None:
    """With windows, `n` counts texts."""
    for split, n in (("validation", 3), ("test", 82)):
        scores = fixtures.result(world(np) / name)["eval"][split]
        saved = load_file(world(np) / name / "predictions" / f"{split}.safetensors")
        truth, predicted = saved["labels"], saved["logits"].argmax(-1)
        assert saved["rows"].tolist() == list(range(n)) and scores["n"] == n
        assert (
            scores["confusion"]
            == sklearn.confusion_matrix(truth, predicted, labels=range(3)).tolist()
        )
        assert scores["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, predicted))
        weighted = sklearn.precision_recall_fscore_support(
            truth, predicted, average="weighted", zero_division=0
        )
        assert [scores[key] for key in ("precision", "recall", "f1")] == pytest.approx(weighted[:3])
        assert scores["f1_macro"] == pytest.approx(
            sklearn.f1_score(truth, predicted, average="macro")
        )
        assert scores["loss"] == pytest.approx(
            sklearn.log_loss(truth, saved["logits"].double().softmax(-1), labels=range(3)), rel=1e-5
        )


@pytest.mark.parametrize("np", [1, 2, 3, 4])
def test_scores_of_several_labels_equal_scikit_learn(world: World, np: int) -> None:
    """Neither the rows nor the labels divide evenly."""
    for split, n in (("validation", 13), ("test", 29)):
        scores = fixtures.result(world(np) / "multi_label")["eval"][split]
        saved = load_file(world(np) / "multi_label" / "predictions" / f"{split}.safetensors")
        truth, logits = saved["labels"].numpy(), saved["logits"].numpy()
        predicted = logits > 0
        assert truth.shape == (n, 4) and scores["n"] == n
        matrices = sklearn.multilabel_confusion_matrix(truth, predicted)
        assert scores["confusion"] == matrices.tolist()
        expected = {
            f"f1_{average}": sklearn.f1_score(truth, predicted, average=average, zero_division=0)
            for average in ("micro", "macro", "weighted", "samples")
        }
        expected["subset_accuracy"] = sklearn.accuracy_score(truth, predicted)
        expected["map"] = sklearn.average_precision_score(truth, logits)
        expected["auc_macro"] = sklearn.roc_auc_score(truth, logits)
        assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("np", [1, 2, 3, 4])
def test_each_label_has_its_temperature_and_threshold(world: World, np: int) -> None:
    """Those of its validation logits, and those of one worker."""
    run = world(np) / "multi_label"
    result, one = fixtures.result(run), fixtures.result(world(1) / "multi_label")
    saved = load_file(run / "predictions" / "validation.safetensors")
    rows = zip(saved["logits"].double().numpy().T, saved["labels"].numpy().T, strict=True)
    found = result["calibration"]["temperature"]
    assert found == pytest.approx(one["calibration"]["temperature"], rel=1e-3)
    for (z, y), temperature in zip(rows, found, strict=True):
        slope = float((z * (special.expit(z / temperature) - y)).mean())
        assert temperature == 1 or slope == pytest.approx(0, abs=1e-10)
    thresholds, expected = (
        [label["threshold"] for label in x["thresholds"]["per_label"].values()]
        for x in (result, one)
    )
    assert thresholds == pytest.approx(expected, abs=1e-4)
    for key in ("ece_before", "ece_after"):
        assert result["calibration"][key] == pytest.approx(one["calibration"][key], abs=1e-4)
    assert result["thresholds"]["f1_macro"] == one["thresholds"]["f1_macro"]
    truth, scores = saved["labels"].numpy(), saved["logits"].sigmoid().double().numpy()
    for threshold, y, s in zip(thresholds, truth.T, scores.T, strict=True):
        precision, recall, _ = sklearn.precision_recall_curve(y, s)
        best = max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r)
        assert sklearn.f1_score(y, s >= threshold) == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize("np", [1, 2, 3, 4])
def test_scores_of_numbers_equal_scikit_learn_and_scipy(world: World, np: int) -> None:
    for split in ("validation", "test"):
        scores = fixtures.result(world(np) / "regression")["eval"][split]
        saved = load_file(world(np) / "regression" / "predictions" / f"{split}.safetensors")
        truth, values = saved["labels"].numpy(), saved["logits"].double().numpy()
        pairs = list(zip(truth.T, values.T, strict=True))
        expected = {
            "mae": sklearn.mean_absolute_error(truth, values),
            "rmse": sklearn.root_mean_squared_error(truth, values),
            "r2": sklearn.r2_score(truth, values),
            "pearson": sum(stats.pearsonr(*pair).statistic for pair in pairs) / 2,
            "spearman": sum(stats.spearmanr(*pair).statistic for pair in pairs) / 2,
        }
        assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-12)
        assert scores["loss"] == pytest.approx(sklearn.mean_squared_error(truth, values), rel=1e-5)


@pytest.mark.parametrize("np", [2, 3, 4])
@pytest.mark.parametrize("task", fixtures.TASKS)
def test_a_task_has_one_curve_at_any_number_of_workers(world: World, task: str, np: int) -> None:
    assert deviation(world(np) / task, world(1) / task) < 1e-5


@pytest.mark.parametrize("name", ["plain", "windows"])
def test_confusions_are_equal_at_any_number_of_workers(world: World, name: str) -> None:
    for split in ("validation", "test"):
        confusions = [
            fixtures.result(world(np) / name)["eval"][split]["confusion"] for np in (1, 2, 3, 4)
        ]
        assert confusions == [confusions[0]] * 4


def test_touched_rows_give_the_bits_of_the_complete_embedding(world: World) -> None:
    sparse, dense = (fixtures.result(world(2) / name) for name in ("short", "all_rows"))
    assert sparse["weights_sha256"] == dense["weights_sha256"]
    assert sparse["train"]["bytes_exchanged"] < dense["train"]["bytes_exchanged"]


def test_a_loss_scale_changes_nothing(world: World) -> None:
    assert deviation(world(2) / "loss_scaled", world(1) / "short") < 1e-5


def test_without_mistakes_the_short_runs_agree(world: World) -> None:
    assert deviation(world(2) / "short", world(1) / "short") < 1e-5
    assert deviation(world(2) / "short-dropout", world(1) / "short-dropout") < 1e-5


@pytest.mark.parametrize("mistake", SHARED_MISTAKES)
def test_a_mistake_with_shared_weights_is_caught(world: World, mistake: str) -> None:
    assert deviation(world(2) / mistake, world(1) / "short") > 1e-3


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_distributed_training_is_caught(world: World, mistake: str) -> None:
    run = world(2) / mistake
    name = "short-windows" if mistake in WINDOW_MISTAKES else "short"
    reference = world(1) / ("short-dropout" if mistake == "dropout_per_rank" else name)
    if mistake == "padded_evaluation":
        assert "1 of 3 rows were not scored exactly once" in (run / "raised").read_text()
    elif (
        mistake == "embedding_not_reduced"
    ):  # the weights differ between workers, which is detected before they are saved
        assert (
            "holds different weights than rank 0 in bert.embeddings.word_embeddings.weight"
            in (run / "raised").read_text()
        )
    elif mistake == "reduced_too_early":  # later gradients were not reduced
        assert "holds different weights than rank 0" in (run / "raised").read_text()
    else:
        assert not (run / "raised").exists()
        assert deviation(run, reference) > 1e-3
        assert deviation(world(2) / reference.name, reference) < 1e-5


@pytest.mark.parametrize(
    ("run", "problem", "fix"),
    [
        ("no_memory", "training (no 4096 bytes more); memory: about", "train.token_budget below"),
        ("no_memory_to_evaluate", "evaluating (no 2.00 GiB more);", "set eval.batch_tokens lower"),
        ("shared-no_memory", "training (no 4096 bytes more); memory: about", "train.token_budget"),
    ],
)
def test_all_workers_learn_that_one_has_no_memory(
    world: World, run: str, problem: str, fix: str
) -> None:
    """The runs after this one, with the same workers, show that none of them was left waiting."""
    raised = (world(2) / run / "raised").read_text()
    assert raised.startswith(f"UserError: rank 1: out of memory while {problem}")
    assert fix in raised
    assert json.loads((world(2) / run / "status.json").read_text())["code"] == USAGE_ERROR


@pytest.mark.parametrize("np", [2, 3, 4])
def test_workers_that_start_together_tokenize_once(world: World, np: int) -> None:
    stores = 4  # of all runs: one label, several labels, numbers, windows
    assert (world(np) / "tokenized.json").read_text() == str([stores] + [0] * (np - 1))
