"""Temperature and calibration error against their formulas; the temperature inside a model."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from transformers import AutoModelForSequenceClassification, pipeline
from transformers.models.gpt2 import GPT2Config, GPT2ForSequenceClassification

from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.calibration import Reliability, error_interval, fit_temperature
from distsent.evaluation.confidence import assess
from distsent.evaluation.predictor import Predictor
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.job import Job, load_job
from distsent.model import adapter, head
from distsent.model.tokenizer import load_tokenizer
from distsent.reporting import plots
from distsent.runtime.model_folder import write_model_folder
from distsent.runtime.ownership import Owner
from distsent.training.session import TrainingRun
from tests import fixtures, systems, tiny_models
from tests.parallel.driver import NoSignals

TEXTS = [row["text"] for row in fixtures.rows(12, seed=9)]
TASK = SingleLabel(("a", "b", "c"))


def drawn(n: int, classes: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `scale` times too large for the labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    chances = softmax(logits, axis=1)
    labels = np.array([rng.choice(classes, p=p) for p in chances])
    return (scale * logits).astype(np.float32), labels


@pytest.mark.parametrize(
    ("n", "classes", "scale"), [(2000, 3, 2.5), (40, 2, 0.3), (999, 28, 1.0), (3000, 2, 0.02)]
)
def test_the_temperature_has_the_lowest_loss(n: int, classes: int, scale: float) -> None:
    logits, labels = drawn(n, classes, scale)

    def loss(log_t: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_t)
        return -log_softmax(scaled, axis=1)[np.arange(n), labels].mean()

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    found = fit_temperature(logits, labels)
    assert found.reason is None and found.value == pytest.approx(np.exp(best.x), rel=1e-6)
    order = np.random.default_rng(1).permutation(n)
    again = fit_temperature(logits[order], labels[order])
    assert again.value == pytest.approx(found.value, rel=1e-11)


def top_scores(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the predicted classes, and whether they are right [n]."""
    scores, right = TASK.confidences(logits, labels, np.array([temperature]))
    return scores[:, 0], right[:, 0]


def test_where_no_temperature_is_best_the_scores_stay_and_a_line_says_why() -> None:
    logits = 8 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    broken = logits.copy()
    broken[1, 2] = np.nan
    cases = {
        "all right": (logits, [0, 1, 2, 0], 1.0, "4 of 4 rows are right"),
        "one class": (logits[[0, 3]], [0, 0], 1.0, "2 of 2 rows are right"),
        "all wrong": (logits, [1, 2, 0, 1], 1.0, "say nothing"),
        "all equal": (0 * logits, [0, 1, 2, 0], 1.0, "say nothing"),
        "not finite": (broken, [0, 1, 2, 0], None, "1 of 4 rows have no score"),
    }
    for name, (values, labels, expected, line) in cases.items():
        found = fit_temperature(values, np.array(labels))
        assert found.value == expected and line in found.reason, name


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_guo_et_al(seed: int) -> None:
    rng, edges = np.random.default_rng(seed), np.linspace(0, 1, 16)
    scores = rng.choice(np.append(rng.random(50), edges[1:]), 400)
    right = rng.random(400) < scores**2
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (scores > low) & (scores <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - scores[inside].mean())
    assert Reliability.of(scores, right).error == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_the_error_is_that_of_resampled_rows() -> None:
    logits, labels = drawn(600, 3, 2.0)
    scores, right = top_scores(logits, labels)
    rng = np.random.default_rng(5)
    picks = [rng.integers(0, 600, 600) for _ in range(1000)]
    errors = np.array([Reliability.of(scores[x], right[x]).error for x in picks])
    expected = np.quantile(errors, [0.025, 0.975]) - errors.mean()
    low, high = error_interval(scores[:, None], right[:, None])
    estimate = Reliability.of(scores, right).error
    assert low <= estimate <= high
    assert (low - estimate, high - estimate) == pytest.approx(expected, abs=0.012)


def test_it_is_fitted_on_validation_and_measured_on_test() -> None:
    validation, test = drawn(800, 3, 3.0, seed=1), drawn(900, 3, 3.0, seed=2)
    found = assess(TASK, {"test": test, "validation": validation}, False, "float32")
    calibration = found.result["calibration"]
    assert calibration["temperature"] == fit_temperature(*validation).value
    assert (calibration["split"], calibration["n"], calibration["folded"]) == ("test", 900, False)
    assert calibration["ece_before"] == Reliability.of(*top_scores(*test)).error
    assert calibration["ece_after"] < calibration["ece_before"] / 2
    assert found.temperature == 1.0
    folded = assess(TASK, {"test": test, "validation": validation}, True, "float32")
    assert folded.temperature == calibration["temperature"]
    alone = assess(TASK, {"validation": validation}, False, "float32").result
    assert (alone["calibration"]["split"], alone["decisions"]) == ("validation", None)
    nothing = assess(TASK, {"test": test}, True, "float32")
    assert nothing.result == {"calibration": None, "decisions": None} and not nothing.curves
    assert "no validation split; set data.validation_fraction" in nothing.lines[0]


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_saved_model_gives_calibrated_scores(family: str, tmp_path: Path) -> None:
    """A plain model, one with an adapter over 4 bits, that adapter alone, and several labels."""
    base = systems.encoder(tmp_path / "base", family)
    tokenizer = load_tokenizer(str(base))
    kinds = {
        "plain": [], "several": ["data.task=multi_label"],
        "lora": ["adapter.kind=lora", "adapter.bits=4"],
    }  # fmt: skip
    for name, keys in kinds.items():
        temperature = np.array([1.7, 0.6, 3.0] if name == "several" else [1.7])
        job = load_job(None, [f"model.name={base}", "eval.calibrate=true", *keys])
        model = adapter.build_model(job, tokenizer, fixtures.LABELS).model.eval()
        torch.manual_seed(1)
        for p in model.parameters():
            if p.requires_grad:
                p.data.normal_(0, 0.2)
        before = {key: x.clone() for key, x in model.state_dict().items()}
        for folder, used in (("one", np.ones(1)), ("hot", temperature)):
            path = tmp_path / name / folder
            path.parent.mkdir(exist_ok=True)
            write_model_folder(model, tokenizer, path, 40, Owner(), temperature=used)
        assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())
        one, hot = (Predictor(tmp_path / name / folder) for folder in ("one", "hot"))
        assert hot.logits(TEXTS) == pytest.approx(one.logits(TEXTS) / temperature, abs=4e-6)
        ours, key = hot(TEXTS), "labels" if name == "several" else "label"
        assert [x[key] for x in ours] == [x[key] for x in one(TEXTS)]
        pipe = pipeline("text-classification", str(tmp_path / name / "hot"), top_k=None)
        for theirs, own in zip(pipe(TEXTS), ours, strict=True):
            found = {x["label"]: x["score"] for x in theirs}
            assert found == pytest.approx(own["scores"], abs=1e-6)
    if family == "bert":
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        loaded = PeftModel.from_pretrained(plain, tmp_path / "lora" / "hot" / "adapter").eval()
        found = loaded.base_model.model.classifier.modules_to_save["default"].weight
        trained = before["classifier.modules_to_save.default.weight"]
        torch.testing.assert_close(found.detach() * 1.7, trained)


def test_heads_that_cannot_be_divided_are_refused() -> None:
    for family in tiny_models.FAMILIES:
        head.check_head(tiny_models.encoder(family))
    config = GPT2Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2, num_labels=3, pad_token_id=0
    )
    model = GPT2ForSequenceClassification(config)
    head.check_head(model)

    class Bounded(GPT2ForSequenceClassification):
        def forward(self, *args, **more):
            output = super().forward(*args, **more)
            output.logits = output.logits.tanh()
            return output

    class Headless(GPT2ForSequenceClassification):
        def __init__(self, config):
            super().__init__(config)
            self.score = torch.nn.Identity()

    for kind in (Bounded, Headless):
        with pytest.raises(UserError, match=f"^eval.calibrate: the logits of {kind.__name__} do"):
            head.check_head(kind(config))


def test_a_run_folds_it_into_the_model_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and scores in result.json are those of the same run without the key."""
    monkeypatch.setattr(plots, "available", lambda: False)
    before = fixtures.result(finished / "lora")
    tree = before["job"]
    tree["job"]["name"], tree["run"]["dir"] = "calibrated", str(tmp_path)
    tree["eval"]["calibrate"] = True
    TrainingRun(Job.from_dict(tree), World(), NoSignals()).train()
    after = fixtures.result(tmp_path / "calibrated")
    assert after["weights_sha256"] == before["weights_sha256"]
    temperature = after["calibration"]["temperature"]
    assert temperature == before["calibration"]["temperature"] != 1
    assert (before["calibration"]["folded"], after["calibration"]["folded"]) == (False, True)
    assert after["eval"]["test"]["loss"] == before["eval"]["test"]["loss"]
    plain = Predictor(finished / "lora").logits(TEXTS)
    assert Predictor(tmp_path / "calibrated").logits(TEXTS) * temperature == pytest.approx(
        plain, abs=1e-5
    )
