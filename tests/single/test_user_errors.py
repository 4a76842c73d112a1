"""Mistakes that train reports: one line each, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from distsent import cli, train
from distsent.runtime.signals import SIGNALS
from tests import fixtures

# Breaks something in a folder and returns arguments for the command line.
Harm = Callable[[Path], list[str]]


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Restore the signal handlers and threads that the entry point sets."""
    handlers, threads = (
        {number: signal.getsignal(number) for number in SIGNALS},
        torch.get_num_threads(),
    )
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


def words(*said: str) -> Harm:
    return lambda folder: [word.format(folder=folder) for word in said]


def file(name: str, content: str | bytes | None, *said: str) -> Harm:
    """Replace the content of a file; None deletes it."""

    def harm(folder: Path) -> list[str]:
        path = folder / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(said)

    return harm


def row(split: str = "train", **changes: object) -> Harm:
    """Change values in the third row of a split; `...` removes a key."""

    def harm(folder: Path) -> list[str]:
        path = folder / "corpus" / f"{split}.jsonl"
        values = [json.loads(line) for line in path.read_text().splitlines()]
        values[2] = {key: value for key, value in (values[2] | changes).items() if value is not ...}
        fixtures.jsonl(path, values)
        return []

    return harm


def both(*harms: Harm) -> Harm:
    return lambda folder: [word for harm in harms for word in harm(folder)]


NO_TEXT = (
    "train.jsonl: 1 row with no text (null, empty or only white space): row 3; "
    "data.drop_bad_rows = true leaves such rows out\ntry: data.drop_bad_rows=true"
)
GOOD = '{"text": "w1", "label": "bad"}\n'

# (mistake, error lines). Mistakes in the job, found before anything is written:
JOBS: list[tuple[Harm, str]] = [
    (words("train.batchsize=8"), "command line: train.batchsize: unknown key; did you mean "
                                 "train.batch_size?"),
    (words("training.epochs=8"), "command line: training.epochs: unknown section; did you mean "
                                 "train.epochs?"),
    (words("train.epochs=many"), 'command line: train.epochs = "many": expected a number > 0, e.g. '
                                 'train.epochs=5.0'),
    (words("optim.lr=-1"), "command line: optim.lr = -1: expected a number > 0, e.g. "
                           "optim.lr=0.001"),
    (words("optim.name=sgd"), 'command line: optim.name = "sgd": expected "adam" or "adamw", e.g. '
                              'optim.name=adamw'),
    (words("adapter.bits=4"), 'command line: adapter.bits = 4: applies only to adapter.kind = '
                              '"lora"'),
    (words("data.max_length=2"), "command line: data.max_length = 2: expected an integer >= 4, "
                                 "e.g. data.max_length=64"),
    (words("1e-3"), 'command line: "1e-3": expected section.key=value, e.g. train.epochs=3'),
    (words("--chekc"), "python -m distsent.train: unrecognized arguments: --chekc; --help lists "
                       "all arguments"),
    (words("data.source={folder}/corpsu"),
     'command line: data.source = "{folder}/corpsu": no such file or folder; did you mean '
     '{folder}/corpus?'),
    (words("model.name={folder}/modle"),
     'command line: model.name = "{folder}/modle": no such file or folder; did you mean '
     '{folder}/model?'),
    (words("run.dir=/proc/nowhere"),
     "run.dir: cannot write to /proc/nowhere/wrong (No such file or directory); choose another "
     "folder with run.dir=..."),
]  # fmt: skip

# Mistakes in files, rows and models, found after the run folder is created:
REST: list[tuple[Harm, str]] = [
    (file("corpus/train.jsonl", None),
     "the dataset has no train split, only validation and test: data.pool_splits = true joins all "
     "rows and splits them by data.validation_fraction and data.test_fraction\n"
     "try: data.pool_splits=true data.validation_fraction=0.1"),
    (both(file("corpus/test.jsonl", None), file("corpus/validation.jsonl", None)),
     "the dataset has neither a validation nor a test split: set data.validation_fraction or "
     "data.test_fraction, e.g. 0.1\ntry: data.validation_fraction=0.1"),
    (file("corpus/test.jsonl", ""),
     "test.jsonl: no column 'text' (data.text_column); the file is empty\n"
     "test.jsonl: no column 'label' (data.label_column); the file is empty"),
    (words("data.text_column=txet"),
     "train.jsonl: no column 'txet' (data.text_column); did you mean 'text'? there are text, "
     "label\ntry: data.text_column=text"),
    (row(text=None), NO_TEXT),
    (row(text="  "), NO_TEXT),
    (row(text=...), NO_TEXT),
    (row(text=5), "train.jsonl, row 3: column 'text': 5 is not text"),
    (row(label=None), "train.jsonl: 1 row with no label: row 3; data.drop_bad_rows = true leaves "
                      "such rows out\ntry: data.drop_bad_rows=true"),
    (row("test", label="goood"), "class 'goood' has no training rows, but test has 1 row of it; if "
                                 'it is not a class, data.drop_labels = ["goood"] leaves these '
                                 "rows out"),
    (words('data.labels=["bad", "fair"]'),
     "train.jsonl: 15 rows with a label outside the classes bad, fair: row 3 ('good'), row 6 "
     "('good'), row 9 ('good') and 12 more\n"
     "validation.jsonl: 1 row with a label outside the classes bad, fair: row 3 ('good')\n"
     "test.jsonl: 27 rows with a label outside the classes bad, fair: row 3 ('good'), row 6 "
     "('good'), row 9 ('good') and 24 more; "
     "data.drop_bad_rows = true leaves such rows out"),
    (file("corpus/test.jsonl", GOOD + "[1, 2]\n"), "test.jsonl, row 2: [1, 2] is not an object "
                                                   "with columns"),
    (file("corpus/test.jsonl", GOOD + '{"text": \n'), "test.jsonl, row 2: not JSON (Expecting "
                                                      "value, column 9)"),
    (file("corpus/test.jsonl", GOOD.encode() + b'{"text": "\xff", "label": "bad"}\n'),
     'test.jsonl: not UTF-8 (byte 0xff, line 2), likely cp1252 ("{\\"text\\": \\"ÿ\\", '
     '\\"label\\":") or cp437 ("{\\"text\\": \\"\xa0\\", \\"label\\":"); data.encoding = '
     '"cp1252" or "cp437" reads it\ntry: data.encoding=cp1252\nor: data.encoding=cp437'),
    (both(file("corpus/train.parquet", "PAR?"), file("corpus/train.jsonl", None)),
     "train.parquet: not parquet, or damaged (Parquet file size is 4 bytes, smaller than the "
     "minimum file footer (8 bytes))"),
    (words("data.validation_fraction=0.5"),
     "data.validation_fraction = 0.5: the dataset has its own validation split; remove the "
     "fraction to use it, or set data.pool_splits = true to split all rows again\n"
     "try: data.validation_fraction=0.0"),
    (words("data.max_length=300"),
     "data.max_length = 300: {folder}/model takes at most 258 tokens"),
    (words("train.class_weights=[1.0, 2.0]"), "train.class_weights: 2 weights for 3 classes (bad, "
                                              "fair, good)"),
    (both(file("corpus/validation.jsonl", None), words("train.patience=2")),
     "train.patience: there is no validation split to watch; set data.validation_fraction, e.g. "
     "0.1"),
    (words("adapter.kind=lora", 'adapter.targets=["nothing"]'),
     "adapter.targets: this bert encoder has no module 'nothing'; it has dense, key, query, value"),
    (both(file("model/tokenizer.json", None), file("model/tokenizer_config.json", None)),
     "model.name = '{folder}/model': its tokenizer has no vocabulary; is tokenizer.json missing?"),
    (file("model/config.json", "{"),
     "model.name = '{folder}/model': config.json is not JSON (Expecting property name enclosed in "
     "double quotes: line 1 column 2 (char 1)); copy or download it again"),
    (file("model/config.json", '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}'),
     "model.name = '{folder}/model': it needs its own code (auto_map in its config.json), which "
     "distsent never runs; choose an encoder such as BERT, RoBERTa or ModernBERT"),
    (both(file("model/pytorch_model.bin", b"\x80\x04."), file("model/model.safetensors", None)),
     "model.name = '{folder}/model': its only weights are a pickle (pytorch_model.bin), which "
     "distsent never reads; "
     "docs/jobs.md shows how to convert them once"),
    (file("model/model.safetensors", b"\x10\0\0\0\0\0\0\0{"),
     "model.name = '{folder}/model': model.safetensors is damaged or cut short (9 bytes: invalid "
     "header length); copy or download it again"),
]  # fmt: skip


def refused(
    harm: Harm,
    lines: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The entry point prints these lines and exits with code 2.

    "try: key=value" stands for the command as given, with these keys in place of what was said.
    """
    fixtures.model(folder / "model"), fixtures.corpus(folder / "corpus")
    base = [
        f"data.source={folder / 'corpus'}", f"model.name={folder / 'model'}",
        f"run.dir={folder / 'runs'}", "job.name=wrong", "data.max_length=40",
        "train.max_steps=1", "log.tensorboard=false",
    ]  # fmt: skip
    said = harm(folder)
    changed = tuple(f"{word.partition('=')[0]}=" for word in said if "=" in word)
    given = [*(word for word in base if not word.startswith(changed or "--")), *said]
    monkeypatch.setattr(sys, "argv", ["train", *given])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(train.main)
    out, err = capsys.readouterr()
    lines, *fixes = re.split(r"\n(?:try|or): ", lines.replace("{folder}", str(folder)))
    expected = [f"distsent: {line}" for line in lines.splitlines()]
    for fix, first in zip(fixes, ("try: ", "or:  ", "or:  "), strict=False):
        fixed = tuple(f"{word.partition('=')[0]}=" for word in fix.split())
        kept = [word for word in given if not word.startswith(fixed)]
        expected.append(f"distsent: {first}python -m distsent.train {' '.join([*kept, fix])}")
    assert (ended.value.code, out, err.splitlines()) == (2, "", expected)


@pytest.mark.parametrize(
    ("harm", "lines"), JOBS, ids=[re.sub(r"\W+", "-", lines)[:40] for _, lines in JOBS]
)
def test_a_wrong_job_is_refused_before_anything_is_written(
    harm: Harm,
    lines: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(harm, lines, tmp_path, monkeypatch, capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("harm", "lines"), REST, ids=[re.sub(r"\W+", "-", lines)[:40] for _, lines in REST]
)
def test_wrong_files_rows_and_models_are_refused_and_nothing_is_half_written(
    harm: Harm,
    lines: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(harm, lines, tmp_path, monkeypatch, capsys)
    run, tokens = tmp_path / "runs" / "wrong", tmp_path / "runs" / ".tokens"
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        ".owner",
        "checkpoints",
        "job.json",
        "status.json",
    ]
    assert not any((run / "checkpoints").iterdir())
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    stores = [path for path in tokens.glob("*") if not path.name.endswith(".lock")]
    assert all((store / "meta.json").exists() for store in stores), "a store is complete or absent"
