"""Small files of kinds that were once read wrongly, refused without help, or crashed.

Each ends in prepare, train, evaluate and predict as its row in CASES says: read to the row, with
the line that tells how, or refused with a line that names the way out, which then works.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from distsent import cli, evaluate, predict, prepare, train
from distsent.data.dataset import open_dataset
from distsent.data.tokens.store import TokenStore
from distsent.job import load_job
from tests import fixtures
from tests.single.test_user_errors import undisturbed  # noqa: F401

FILES = Path(__file__).parents[1] / "cases"
ORDERS = ["data.labels=[negative,neutral,positive]"]


@dataclass(frozen=True)
class Case:
    """A file, the texts in it, and how programs end.

    `refused`: what the line says without `keys`; empty if the file is read without them. `said`:
    what a line says that prepare and train print when they read it. `refused_by_predict`: predict
    does not read labels, so it may read what training refuses.
    """

    texts: Callable[[str], list[str]]
    keys: tuple[str, ...] = ()
    refused: str = ""
    said: str = ""
    classes: str = "a b"
    encoding: str = "utf-8"
    refused_by_predict: bool = True


def before(delimiter: str, header: int = 1) -> Callable[[str], list[str]]:
    """The texts of lines whose last field is the label."""
    return lambda content: [
        line.rsplit(delimiter)[0] for line in re.split("\r\n|[\r\n]", content.strip())[header:]
    ]


def of_objects(content: str) -> list[str]:
    """The texts of the objects in a file of any shape."""
    return [json.loads(f'"{text}"') for text in re.findall(r'"text": "(.*?)"', content)]


CASES = {
    "blank.csv": Case(before(",")),
    "case.csv": Case(before(","), ("data.fold_labels=true",), r"'(Pos|pos)' \(20 rows\)",
                     "fold_labels|counts as", "Pos neg|Neg Pos|neg pos|Neg pos",
                     refused_by_predict=False),
    "dup.csv": Case(before(","), ("data.text_position=0",), "2 columns .*'text'.* 1 and 3"),
    "extra.csv": Case(before(","), said="unnamed column"),
    "int.csv": Case(before(","), ("data.text_column=0", "data.label_column=1"), "no column 'text'"),
    "latin.csv": Case(before(","), ("data.encoding=cp1252",), 'cp1252.*data.encoding = "cp1252"',
                      "cp1252", encoding="cp1252"),
    "lines.json": Case(of_objects),
    "mac.csv": Case(before(",")),
    "merge.tsv": Case(before("\t"), ("data.quoting=none",), "41 rows.*43 rows",
                      "quotes are letters"),
    "minus.csv": Case(before(","), tuple(ORDERS), "label -1", "-1 = negative, 0 = neutral",
                      "negative neutral positive", refused_by_predict=False),
    "nl.json": Case(of_objects),
    "nohead.tsv": Case(before("\t", header=0), ("data.names=[text,label]",), "data.names = "),
    "null.csv": Case(before(","), said="NUL"),
    "onebased.csv": Case(before(","), tuple(ORDERS), "", "1 = negative, 2 = neutral",
                         "negative neutral positive"),
    "pretty.json": Case(of_objects),
    "quote.tsv": Case(before("\t"), said="quotes are letters"),
    "sp.csv": Case(before(","), said="blank|space|delimiter ', '"),
    "space.csv": Case(before(","), ("data.fold_labels=true",), r"' a' \(20 rows\)",
                      "counts as", refused_by_predict=False),
    "utf16.csv": Case(before(","), said="utf-16", encoding="utf-16"),
    "utf16.tsv": Case(before("\t"), said="utf-16", encoding="utf-16"),
}  # fmt: skip


class Programs:
    """The entry points in this process, with their exit codes and what they print."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.base = [
            f"model.name={fixtures.model(folder / 'model')}", f"run.dir={folder}", "job.name=run",
            "data.max_length=40", "train.max_steps=1", "log.tensorboard=false",
            "train.batch_size=4", "data.validation_fraction=0.25",
        ]  # fmt: skip

    def __call__(self, program: object, *words: object) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)."""
        self._capsys.readouterr()
        name = program.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
        sys.argv = [name, *map(str, words)]
        with pytest.raises(SystemExit) as ended:
            cli.run(program.main)  # type: ignore[attr-defined]
        return (ended.value.code, *self._capsys.readouterr())  # type: ignore[return-value]


@pytest.fixture
def programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Programs:
    import datasets

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(sys, "argv", [])
    return Programs(tmp_path, capsys)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a plain file with the classes of most files."""
    folder = tmp_path_factory.mktemp("other")
    rows = [{"text": f"w{i} w{i + 1}", "label": "ab"[i % 2]} for i in range(20)]
    source = fixtures.jsonl(folder / "plain.jsonl", rows)
    words = [
        f"data.source={source}", "data.validation_fraction=0.2", f"run.dir={folder}",
        f"model.name={fixtures.model(folder / 'model')}", "job.name=run", "train.max_steps=1",
        "log.tensorboard=false", "data.max_length=40",
    ]  # fmt: skip
    assert train.main(words) == 0
    return folder / "run"


@pytest.mark.parametrize("name", CASES)
def test_every_program_ends_as_the_table_says(name: str, programs: Programs, other_run: Path):
    case, path = CASES[name], FILES / name
    expected = case.texts(path.read_bytes().decode(case.encoding))
    source = [*programs.base, f"data.source={path}"]
    if case.refused:
        refused(name, programs, source, other_run)
    source += case.keys

    dataset = open_dataset(load_job(None, source).data, 1)
    rows = [pair for split in dataset.splits.values() for pair in zip(
        split.rows, split.texts(slice(None)), strict=True)]  # fmt: skip
    assert [text for _, text in sorted(rows)] == expected
    code, out, err = programs(prepare, *source)
    assert code == 0 and re.search(case.said, out + err), out + err
    (store,) = (
        TokenStore.open(path.parent) for path in programs.folder.glob(".tokens/*/meta.json")
    )
    assert sum(map(len, store.splits.values())) == len(expected)
    assert re.fullmatch(case.classes, " ".join(store.label_names))

    code, out, err = programs(train, *source)
    assert code == 0 and re.search(case.said, out + err), out + err
    # evaluate and predict read files as the run read its own
    run = programs.folder / "run"
    code, out, err = programs(evaluate, run, f"data.source={path}")
    assert (code, json.loads(out)["n"]) == (0, len(expected)), err
    code, out, err = programs(predict, run, "--file", path)
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, [one["text"] for one in answers]) == (0, expected)
    assert all("label" in one for one in answers)


def refused(name: str, programs: Programs, source: list[str], other_run: Path) -> None:
    """Each program ends with 2 and the line, which names the file."""
    case, path = CASES[name], FILES / name
    ends = [
        programs(prepare, *source),
        programs(train, *source),
        programs(evaluate, other_run, f"data.source={path}"),
    ]
    if case.refused_by_predict:
        ends.append(programs(predict, other_run, "--file", path))
    for code, out, err in ends:
        assert (code, out) == (2, ""), err
        (line,) = (line for line in err.splitlines() if re.search(case.refused, line))
        assert name in line
        assert max(map(len, re.findall("[^']+", line))) < 250


@pytest.mark.parametrize("name", ["multi.jsonl", "dict.jsonl"])
def test_lists_and_objects_are_not_labels(name: str, programs: Programs, other_run: Path):
    path = FILES / name
    expected = of_objects(path.read_text())
    for program in (prepare, train):
        code, _, err = programs(program, *programs.base, f"data.source={path}")
        assert code == 2 and re.search(rf"{name}, row 1: .*'label'", err), err
    code, _, err = programs(evaluate, other_run, f"data.source={path}")
    assert code == 2 and f"{name}, row 1" in err
    code, out, _ = programs(predict, other_run, "--file", path)
    assert (code, [json.loads(line)["text"] for line in out.splitlines()]) == (0, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cr.csv", ["red round\rflat", "blue tall"]),
        ("crq.csv", ["red round\rflat", "blue\r\ntall"]),
    ],
)
def test_a_carriage_return_inside_a_text(
    name: str, expected: list[str], programs: Programs, other_run: Path
):
    path = FILES / name
    for program in (prepare, train):  # read, but too small
        code, _, err = programs(program, *programs.base, f"data.source={path}")
        assert code == 2 and "no class has two rows" in err, err
    code, out, _ = programs(evaluate, other_run, f"data.source={path}")
    assert (code, json.loads(out)["n"]) == (0, 2)
    code, out, _ = programs(predict, other_run, "--file", path)
    assert (code, [json.loads(line)["text"] for line in out.splitlines()]) == (0, expected)


def test_quotes_may_be_read_either_way(programs: Programs, other_run: Path):
    path = FILES / "merge.tsv"
    source = [*programs.base, f"data.source={path}", "data.quoting=csv"]
    code, _, err = programs(train, *source)
    assert code == 0, err
    code, out, err = programs(predict, other_run, "--file", path, "data.quoting=csv")
    texts = [json.loads(line)["text"] for line in out.splitlines()]
    assert (code, len(texts)) == (0, 41), err
    assert texts[20].startswith("the first of a two part quote\ta\n")


def test_numbers_without_names(programs: Programs):
    """Classes 1, 2, 3 are named by themselves; -1 may mean that a row has no label."""
    code, _, err = programs(prepare, *programs.base, f"data.source={FILES / 'onebased.csv'}")
    (store,) = (
        TokenStore.open(path.parent) for path in programs.folder.glob(".tokens/*/meta.json")
    )
    assert (code, store.label_names) == (0, ("1", "2", "3")), err


def test_rare_classes_stay_in_training(programs: Programs):
    source = [f"data.source={FILES / 'single.csv'}", "data.test_fraction=0.2"]
    words = [*programs.base[:-1], *source, "data.validation_fraction=0.2"]
    code, _, err = programs(train, *words)
    assert code == 0, err
    splits = open_dataset(load_job(None, words).data, 1).splits
    assert sum(map(len, splits.values())) == 100
    assert {*splits["train"].labels} == {*range(62)}
    for one, other in pairwise(splits.values()):
        assert not {*one.rows} & {*other.rows}
