"""Every architecture that people fine-tune trains and scores alike everywhere, or is refused."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
from transformers import pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from distsent import cli, train
from distsent.distributed.world import World
from tests import architectures, fixtures, launcher
from tests.parallel.every_architecture import OVERRIDES, TYPED, outcomes
from tests.tiny_configurations import ARCHITECTURES, NOT_BUILT, RELATIVES

REFUSED = {"canine", "ibert"}  # their token embeddings are not tables of rows that can be exchanged
TRAINED = [name for name in ARCHITECTURES if name not in REFUSED]

Outcomes = Callable[[int], dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("architectures")
    fixtures.corpus(folder / "dataset", train=24, validation=0, test=12)
    for name in ARCHITECTURES:
        architectures.save(name, folder / "encoders" / name)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Outcomes:
    """np -> the outcomes of all architectures at -np `np`, in one start of the workers."""

    @cache  # an error, too: it would be the same for every architecture, a minute later
    def run(np: int) -> str:
        module = "tests.parallel.every_architecture"
        try:
            if np == 1:
                outcomes(folder, list(ARCHITECTURES), World())
                return ""
            ended = launcher.run("-m", module, str(folder), *ARCHITECTURES, np=np)
            return ended.output if ended.code else ""
        except Exception:
            return traceback.format_exc()

    def read(np: int) -> dict[str, Any]:
        error = run(np)
        assert not error, error
        return json.loads((folder / f"np{np}" / "outcomes.json").read_text())

    return read


@pytest.mark.parametrize("name", TRAINED)
def test_training_predict_and_pipeline_give_each_text_the_same_scores(
    found: Outcomes, name: str
) -> None:
    one, two = found(1)[name], found(2)[name]
    for way in ("trained", "piped"):
        assert numpy.array(one[way]) == pytest.approx(numpy.array(one["predicted"]), abs=1e-5), way
    assert numpy.array(two["trained"]) == pytest.approx(numpy.array(one["trained"]), abs=1e-3)
    for each in (one, two) if name in TYPED else (one,):
        pairs = zip(each["trained"], [i % 3 for i in range(12)], strict=True)
        losses = [-numpy.log(row[label]) for row, label in pairs]
        assert each["evaluated"] == pytest.approx(numpy.mean(losses), rel=1e-5)
    assert numpy.std(one["predicted"], axis=0).max() > 1e-4, "the scores depend on the text"


@pytest.mark.parametrize("name", TRAINED)
def test_dropout_and_curve_depend_on_neither_workers_nor_token_budget(
    found: Outcomes, name: str
) -> None:
    one, two = (numpy.array(found(n)[name]["curve"]) for n in (1, 2))
    # Libraries round a product of few rows otherwise than one of many. On a CPU with AVX2 alone,
    # mT5's third loss moves by 1.3e-5 and Qwen 3.5's norm by 5.5e-5. A wrong mask moves far more.
    assert len(one) == 4 and two[:, 0] == pytest.approx(one[:, 0], rel=5e-5)
    assert two[:, 1] == pytest.approx(one[:, 1], rel=2e-4)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_trained_is_refused_in_one_line(found: Outcomes, name: str) -> None:
    for np in (1, 2):
        assert (
            "is not supported: its input embedding is not nn.Embedding"
            in found(np)[name]["lines"][0]
        )


def test_every_architecture_that_classifies_texts_is_on_the_page() -> None:
    """A new version of transformers adds some."""
    registered = set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    assert {*ARCHITECTURES, *RELATIVES, *NOT_BUILT} == registered


def test_the_page_of_all_architectures_is_right(found: Outcomes) -> None:
    docs = launcher.ROOT / "docs" / "architectures.md"
    relatives = {name: architectures.lines(name) for name in RELATIVES}
    for np in (1, 2):
        lines = {name: one["lines"] for name, one in found(np).items()} | relatives
        assert docs.read_text(encoding="utf-8") == architectures.page(lines)


@pytest.mark.parametrize("name", TYPED)
def test_the_commands_as_typed(folder: Path, found: Outcomes, name: str) -> None:
    words = (
        f"model.name=encoders/{name}",
        "data.source=dataset",
        f"job.name={name}",
        "run.dir=typed",
    )
    text, expected = fixtures.rows(1, seed=2)[0]["text"], found(2)[name]
    for np, command, arguments in (
        (2, "train", [*OVERRIDES, *words]), (None, "evaluate", [f"typed/{name}"]),
        (None, "predict", [f"typed/{name}", text]),
    ):  # fmt: skip
        ended = launcher.run("-m", f"distsent.{command}", *arguments, np=np, cwd=folder)
        assert ended.code == 0, ended.output
        answer = json.loads(ended.output.splitlines()[-1]) if np is None else {}
        if command == "evaluate":
            assert answer["loss"] == pytest.approx(expected["evaluated"], rel=1e-5)
        elif command == "predict":
            assert [*answer["scores"].values()] == pytest.approx(expected["trained"][0], abs=1e-5)
    classify = pipeline("text-classification", str(folder / "typed" / name / "model"), top_k=None)
    scores = {answer["label"]: answer["score"] for answer in classify([text])[0]}
    assert [scores[label] for label in fixtures.LABELS] == pytest.approx(
        expected["trained"][0], abs=1e-5
    )


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        (
            "mpnet",
            ["model.packed=always"],
            "model.packed = 'always': MPNetForSequenceClassification",
        ),
        (
            "xmod",
            [],
            "model.name: XmodForSequenceClassification fails on a batch of two short texts",
        ),
    ],
)
def test_a_model_that_would_be_wrong_ends_in_one_line(
    folder: Path,
    name: str,
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    encoder = folder / "encoders" / name
    if name == "xmod":  # as published: without a language
        config = json.loads((encoder / "config.json").read_text()) | {"default_language": None}
        (encoder / "config.json").write_text(json.dumps(config))
    asked = (
        f"model.name={encoder}",
        f"data.source={folder / 'dataset'}",
        f"run.dir={folder / 'bad'}",
    )
    monkeypatch.setattr(sys, "argv", ["train", *OVERRIDES, *asked, *words])
    with pytest.raises(SystemExit) as ended:
        cli.run(train.main)
    error = capfd.readouterr().err
    assert ended.value.code == 2 and line in error and "Traceback" not in error
