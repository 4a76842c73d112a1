"""The pages of docs/: a reader may copy each command of those in SIZES, in their order.

Encoders and datasets are tiny in place of those that the pages name.
"""

import json
import re
import tomllib
from pathlib import Path
from unittest.mock import MagicMock

import datasets
import huggingface_hub
import pytest
from transformers import pipeline

from distsent.job import Job, load_job
from distsent.planning import calibrate
from distsent.reporting import plots
from distsent.search.space import read_space
from tests import dataset_files, fixtures, systems
from tests.pages import DOCS, Sizes, blocks, follow, run

PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
FEW = (
    "data.max_rows=60", "data.max_eval_rows=40", "train.batch_size=8", "train.max_steps=4",
    "log.tensorboard=false",
)  # fmt: skip
ENCODER = "model.name=./encoder"
MINILM = "model.name=sentence-transformers/all-MiniLM-L6-v2"
SIZES = {
    "tutorial.md": Sizes((ENCODER,), {"20": "2"}),  # trials
    "tasks.md": Sizes(FEW, {}),
    "long-texts.md": Sizes(FEW, {MINILM: ENCODER}),
    "trust.md": Sizes(FEW, {"0.99": "0.3"}),  # four steps reach no precision of 0.99
    "audit.md": Sizes(FEW, {}),
}


def code(page: str, language: str) -> list[str]:
    """The blocks of a page in one language."""
    return [text for name, text in blocks(page) if name == language]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a clone of the repository, as far as pages name its files."""
    (tmp_path / "jobs").symlink_to(DOCS.parent / "jobs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "available", lambda: False)
    return tmp_path


def test_from_a_csv_file_to_a_shipped_model(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = fixtures.rows(90)
    columns = {key: [row[key] for row in rows] for key in ("text", "label")}
    dataset_files.write(clone / "mail" / "train.csv", columns)
    dataset_files.write(clone / "new.csv", {"text": ["w1 w2", "w80"]})
    systems.encoder(clone / "encoder", "distilbert")
    monkeypatch.setattr(calibrate, "SECONDS", 0.5)
    monkeypatch.setattr(calibrate, "local_workers", lambda: 1)
    hub = MagicMock()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    ran = follow("tutorial.md", SIZES["tutorial.md"])
    assert hub.upload_folder.call_args.kwargs["repo_id"] == "my-name/mail"
    output = {" ".join(words): output for words, output in ran}
    plan = output["-m distsent.plan mail.toml --workers 1,2,4,8"]
    assert "measured here: workers 1 x" in plan and "\nadvice: " in plan
    assert "| mail-long | mail " in output["-m distsent.report runs/mail runs/mail-long"]
    assert "| 0001 " in output["-m distsent.sweep mail.toml space.toml --trials 20"]
    assert {fixtures.result(clone / "runs" / name)["name"] for name in (
        "mail-best", "mail-sweep/trial-0000", "mail-sweep/trial-0001",
    )} == {"mail-best", "trial-0000", "trial-0001"}  # fmt: skip
    # The best job trains to its trial's own weights.
    swept = json.loads((clone / "runs/mail-sweep/trials.json").read_text())
    best, own = (fixtures.result(clone / "runs" / name)["weights_sha256"] for name in (
        "mail-best", f"mail-sweep/trial-{swept['best']:04}",
    ))  # fmt: skip
    assert best == own
    keys = {"file", "row", "label", "predicted", "score", "score_of_label", "text"}
    mistakes = (clone / "runs/mail/predictions/test.mistakes.jsonl").read_text().splitlines()
    assert set(json.loads(mistakes[0])) == keys
    answers = output["-m distsent.predict runs/mail --file new.csv"].splitlines()
    shipped = pipeline("text-classification", "runs/mail/model", device="cpu")
    labels = [json.loads(line)["label"] for line in answers]
    assert [one["label"] for one in shipped(["w1 w2", "w80"])] == labels
    # What the page says of machines without a GPU
    words = ["mail.toml", "job.name=mail-lora", "adapter.kind=lora", "optim.lr=3e-4"]
    run(["-m", "distsent.train", *words], SIZES["tutorial.md"])
    adapted = pipeline("text-classification", "runs/mail-lora/model", device="cpu")
    assert adapted("w1")[0]["label"] in fixtures.LABELS


def test_several_labels_and_numbers(clone: Path) -> None:
    *_, several, number = follow("tasks.md", SIZES["tasks.md"])
    assert json.loads(several.output).keys() == {"text", "labels", "scores"}
    assert json.loads(number.output).keys() == {"text", "value"}


def test_long_texts(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems.encoder(clone / "encoder", "bert")
    rows = fixtures.rows(1200, classes=2, longest=60)
    imdb = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: imdb)
    *_, report = follow("long-texts.md", SIZES["long-texts.md"])
    assert all(f"| long-{long} " in report.output for long in ("cut", "head_tail", "windows"))


def test_scores_to_trust(clone: Path) -> None:
    follow("tasks.md", SIZES["tasks.md"])  # trains a run that the page names
    *_, one_label, several = follow("trust.md", SIZES["trust.md"])
    keys = {"text", "label", "score", "scores"}
    assert all(json.loads(line).keys() == keys for line in one_label.output.splitlines())
    assert json.loads(several.output).keys() == {"text", "labels", "scores"}
    shown = json.loads("{" + code("trust.md", "json")[0] + "}")["calibration"]
    assert fixtures.result(clone / "runs/demo-calibrated")["calibration"].keys() == shown.keys()


def test_mistakes_in_a_dataset(clone: Path) -> None:
    ran = follow("audit.md", SIZES["audit.md"])
    checked = [re.search(r"labels of (\d+) of 140 rows checked", one.output) for one in ran]
    assert [one and int(one[1]) for one in checked] == [None, 80, 140]


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
def test_code_in_the_pages_is_valid(page: str, tmp_path: Path) -> None:
    for block in code(page, "toml"):
        if "search" in tomllib.loads(block):
            (tmp_path / "space.toml").write_text(block)
            read_space(str(tmp_path / "space.toml"), [], Job())
            continue
        Job.from_dict({key: value for key, value in tomllib.loads(block).items() if key != "data"})
    for block in code(page, "python"):
        compile(block, page, "exec")


def test_labels_as_the_pages_describe_them_are_jobs() -> None:
    """Each row of the table of labels: its keys are those of a job."""
    keys = re.findall(
        r"^\|[^|]*\| `(data\.task=[^`]*)`", (DOCS / "tasks.md").read_text(), re.MULTILINE
    )
    assert len(keys) > 6
    for words in keys:
        load_job(None, re.findall(r"\S+=\{.*\}|\S+", words))


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_pages_exist(page: str) -> None:
    text = (DOCS / page).read_text()
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", text):
        target = (DOCS / page).parent.joinpath(link) if link else DOCS / page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), f"{link}#{anchor}"
    for path in re.findall(r"`((?:jobs|tests|docs)/[^`*]+)`", text):
        assert (DOCS.parent / path).exists() or "mine" in path, path
