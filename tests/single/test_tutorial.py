"""The commands of docs/tutorial.md, with a tiny encoder in place of DistilBERT."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from transformers import pipeline

from distsent import predict, report
from distsent.distributed.world import World
from distsent.job import Job, load_job
from distsent.training.session import TrainingRun
from tests import dataset_files, fixtures, systems
from tests.parallel.driver import NoSignals

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def code(page: str, language: str) -> list[str]:
    """The blocks of a page in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )


def test_from_a_csv_file_to_a_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = fixtures.rows(90)
    dataset_files.write(
        tmp_path / "mail" / "train.csv",
        {key: [row[key] for row in rows] for key in ("text", "label")},
    )
    (tmp_path / "mail.toml").write_text(code("tutorial.md", "toml")[0])
    tiny = f"model.name={systems.encoder(tmp_path / 'encoder', 'distilbert')}"
    for more in (
        [],
        ["job.name=mail-long", "data.max_length=256"],
        ["job.name=mail-lora", "adapter.kind=lora", "optim.lr=3e-4"],
    ):
        TrainingRun(load_job("mail.toml", [tiny, *more]), World(), NoSignals()).train()
    capsys.readouterr()

    assert report.main(["runs/mail", "runs/mail-long"]) == 0
    assert "| mail-long | mail " in capsys.readouterr().out
    mistakes = (tmp_path / "runs/mail/predictions/test.mistakes.jsonl").read_text().splitlines()
    assert set(json.loads(mistakes[0])) == {
        "row",
        "label",
        "predicted",
        "score",
        "score_of_label",
        "text",
    }
    dataset_files.write(tmp_path / "new.csv", {"text": ["w1 w2", "w80"]})
    assert predict.main(["runs/mail", "--file", "new.csv"]) == 0
    labels = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    shipped = pipeline("text-classification", "runs/mail/model", device="cpu")
    assert [one["label"] for one in shipped(["w1 w2", "w80"])] == labels
    adapted = pipeline("text-classification", "runs/mail-lora/model", device="cpu")
    assert adapted("w1")[0]["label"] in fixtures.LABELS


def test_the_code_of_error_analysis_runs(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "emotion-5000").symlink_to(finished / "plain")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in code("error-analysis.md", "python"):
        exec(block, names)
    output = capsys.readouterr().out
    assert re.search(
        r"^score 0\.00 or more: 100% of the rows, \d+\.\d% of them right$", output, re.MULTILINE
    )
    assert all(
        re.search(rf"^{label}: \d+ rows, \d+\.\d% found$", output, re.MULTILINE)
        for label in fixtures.LABELS
    )


@pytest.mark.parametrize("page", PAGES)
def test_code_in_the_pages_is_valid(page: str) -> None:
    for block in code(page, "toml"):
        Job.from_dict({key: value for key, value in tomllib.loads(block).items() if key != "data"})
    for block in code(page, "python"):
        compile(block, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_pages_exist(page: str) -> None:
    text = (DOCS / page).read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
        assert (DOCS / page).parent.joinpath(link).exists(), link
    for path in re.findall(r"`((?:jobs|tests|docs)/[^`*]+)`", text):
        assert (DOCS.parent / path).exists() or "mine" in path, path
