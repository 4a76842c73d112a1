"""The model card: metadata for the hub, tables, and no trace of the machine."""

import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from distsent import report
from distsent.reporting import model_card, plots, tensorboard
from distsent.reporting.finished_run import read_run
from tests import fixtures

HEADINGS = [
    "Scores",
    "Scores per class",
    "Confidence",
    "Evaluations during training",
    "Hyperparameters",
    "Throughput",
    "How to load it",
    "Versions",
]


@pytest.fixture
def loaded(finished: Path) -> ModelCard:
    return ModelCard.load(finished / "plain" / "model" / "README.md")


def test_metadata_hold_every_score_of_every_split(loaded: ModelCard, finished: Path) -> None:
    evaluated = fixtures.result(finished / "plain")["eval"]
    found = {
        (one.dataset_split, one.metric_type): one.metric_value for one in loaded.data.eval_results
    }
    assert found == {
        (split, key): pytest.approx(scores[key], abs=1e-6)
        for split, scores in evaluated.items()
        for key in ("accuracy", "f1", "precision", "recall", "loss")
    }
    assert (loaded.data.model_name, loaded.data.pipeline_tag, loaded.data.library_name) == (
        "plain", "text-classification", "transformers",
    )  # fmt: skip


def test_the_card_has_its_parts_in_order(loaded: ModelCard) -> None:
    assert re.findall(r"^## (.*)$", loaded.text, re.MULTILINE) == HEADINGS
    assert loaded.text.strip().startswith(
        "# plain\n\nA text classifier with 3 classes (bad, fair, good)"
    )


def test_each_evaluation_is_a_line_of_the_table(loaded: ModelCard, finished: Path) -> None:
    history = fixtures.result(finished / "plain")["history"]
    part = loaded.text.split("## Evaluations during training")[1].split("![")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in part.splitlines()
        if line.startswith("| ")
    ]
    assert rows[0] == [
        "epoch", "step", "training loss", "training accuracy", "validation loss", "accuracy", "F1",
        "precision", "recall",
    ]  # fmt: skip
    assert [row[:6] for row in rows[2:]] == [
        [
            f"{one['epoch']:.2f}",
            str(one["step"]),
            *(f"{one[k]:.4f}" for k in ("train_loss", "train_accuracy", "loss", "accuracy")),
        ]
        for one in history
    ]


def test_scores_come_with_their_intervals(loaded: ModelCard, finished: Path) -> None:
    scores = fixtures.result(finished / "plain")["eval"]["test"]
    line = next(line for line in loaded.text.splitlines() if line.startswith("| test "))
    accuracy, low, high = map(float, re.search(r"(0\.\d+) \[(0\.\d+), (\d\.\d+)\]", line).groups())
    assert accuracy == pytest.approx(scores["accuracy"], abs=5e-5) and low < accuracy < high


def test_calibration_and_decisions_are_those_of_the_run(loaded: ModelCard, finished: Path) -> None:
    result = fixtures.result(finished / "plain")
    part = loaded.text.split("## Confidence")[1].split("\n## ")[0]
    calibration, decisions = result["calibration"], result["decisions"]
    assert f" {calibration['temperature']:.4f} |" in part and "are without it" in part
    for one in decisions["targets"]:
        reached = one["threshold"] is not None
        assert f"{one['threshold']:.4f}" in part if reached else "not reached (best" in part
    run = read_run(finished / "plain")
    run.result["calibration"] = run.result["decisions"] = None
    assert (
        "Not measured: that takes a validation split with finite scores."
        in model_card.card_text(run, drawn=True)
    )
    for key in ("calibration", "decisions"):  # a run of an older version
        del run.result[key]
    assert "Not measured" in model_card.card_text(run, drawn=True)


def test_the_pictures_of_a_card_are_in_its_folder(loaded: ModelCard, finished: Path) -> None:
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", loaded.text)
    assert shown == [
        "reliability.png", "curves.png", "confusion-validation.png", "confusion-test.png"
    ]  # fmt: skip
    assert all(
        (finished / "plain" / "model" / name).read_bytes().startswith(b"\x89PNG") for name in shown
    )


def test_without_matplotlib_there_is_a_card_without_pictures(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:  # fmt: skip
    run = shutil.copytree(finished / "plain", tmp_path / "plain")
    for path in run.glob("model/*.png"):
        path.unlink()
    (run / "model" / "README.md").unlink()
    monkeypatch.setattr(plots, "available", lambda: False)
    assert report.main([str(run), "--card"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "model" / "README.md")
    text = (run / "model" / "README.md").read_text()
    assert "## Versions" in text and "![" not in text and not [*run.glob("model/*.png")]


def test_an_adapters_card_describes_it_and_how_to_load_it(finished: Path) -> None:
    text = (finished / "lora" / "model" / "README.md").read_text()
    assert "low-rank updates (LoRA, rank 8, alpha 16) over weights left as they are" in text
    assert (
        'PeftModel.from_pretrained(base, "MODEL", subfolder="adapter")' in text
        and "- adapter: kind lora, rank 8" in text
    )
    assert set(ModelCard(text).data.tags) >= {"lora", "peft"}


def test_the_card_has_no_path_of_the_machine(finished: Path) -> None:
    for name in ("plain", "lora"):
        text = (finished / name / "model" / "README.md").read_text()
        assert str(finished.parent) not in text and "/tmp" not in text
        assert "encoder` (a local folder)" in text and 'source = "./corpus"' in text


def test_cards_of_runs_of_the_same_name_have_that_name(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    monkeypatch.setattr(tensorboard, "write_summaries", lambda run: None)
    runs = [shutil.copytree(finished / "plain", tmp_path / name / "plain") for name in "ab"]
    assert report.main([*map(str, runs), "--card"]) == 0
    for run in runs:
        text = (run / "model" / "README.md").read_text()
        assert "\n# plain\n" in text and str(tmp_path) not in text


def test_hub_ids_are_links_and_metadata(finished: Path) -> None:
    run = read_run(finished / "plain")
    run.result["job"]["model"]["name"], run.result["job"]["data"]["source"] = (
        "distilbert-base-uncased",
        "emotion",
    )
    data = ModelCard(model_card.card_text(run, drawn=False)).data
    assert (data.base_model, data.datasets) == ("distilbert-base-uncased", ["dair-ai/emotion"])


def test_a_run_without_chosen_weights_has_a_card(finished: Path) -> None:
    """Its dataset has no validation split to choose them on."""
    run = read_run(finished / "plain")
    assert "The weights are those of step" in model_card.card_text(run, drawn=False)
    run.result["best"] = None
    assert "The weights are those of step" not in model_card.card_text(run, drawn=False)


def test_the_noise_scale_or_what_it_exceeds_has_a_line(finished: Path) -> None:
    run = read_run(finished / "plain")
    line = "- gradient noise scale at the end: "
    assert f"{line}not known" in model_card.card_text(run, False), "one worker"
    for scale, least, shown in ((1234.5, 300.0, "1,234 examples"), (None, 300.0, "more than 300")):
        run.result["train"] |= {"noise_scale": scale, "noise_scale_at_least": least}
        assert line + shown in model_card.card_text(run, False)
    del run.result["train"]["noise_scale"]  # of an older version
    assert line not in model_card.card_text(run, False)
