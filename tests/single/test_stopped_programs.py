"""evaluate, prepare and predict end at a signal: one line, code 75, whole output or none."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

from distsent import cli, evaluate, predict, prepare
from distsent.data.tokens.tokenize import BatchTokenizer
from distsent.evaluation import evaluate_split
from distsent.model import classifier
from distsent.runtime import signals
from tests import fixtures

TEXTS = [str(row["text"]) for row in fixtures.rows(10, seed=9)]
Ended = tuple[int, list[str], list[str]]  # exit code, lines of standard output and error


@pytest.fixture
def ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs a program that receives a signal when `place` (object, name) is called."""

    def run(
        program: ModuleType,
        words: list[object],
        place: tuple[Any, str],
        number: int = signal.SIGTERM,
        call: int = 1,
    ) -> Ended:
        owner, name = place
        real, calls = getattr(owner, name), 0

        def interrupted(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), number)
                time.sleep(0.2)  # the signal's thread runs
            return real(*args, **options)

        argv = [program.__name__, *map(str, words)]
        monkeypatch.setattr(sys, "argv", argv)
        with patch.object(owner, name, interrupted), pytest.raises(SystemExit) as exit:
            cli.run(program.main)
        out, err = capfd.readouterr()
        assert calls >= call, f"the place was not reached: {err}"
        return int(exit.value.code or 0), out.splitlines(), err.splitlines()

    return run


LOADED = classifier, "load_classifier"
SCORED = evaluate_split, "collate"
TOKENIZED = BatchTokenizer, "__call__"  # once for each chunk of texts


@pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)
def test_each_signal_of_a_training_stops_each_program(
    finished: Path, tmp_path: Path, ended: Callable[..., Ended], number: signal.Signals
) -> None:
    run, reason = finished / "plain", f"distsent: stop requested: {number.name}"
    job = [f"data.source={finished.parent / 'corpus'}", f"data.store={tmp_path / 'tokens'}"]
    job += [f"model.name={finished.parent / 'encoder'}", "data.max_length=12"]
    again = "run the same command again"

    code, out, err = ended(evaluate, [run], SCORED, number)
    assert (code, out) == (75, [])
    assert err[-1] == f"distsent: stop requested during an evaluation; no scores: {again}"

    code, out, err = ended(prepare, job, TOKENIZED, number)
    assert (code, out, err[-1]) == (75, [], f"{reason}; {again}")
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".lock"]

    code, out, err = ended(predict, [run, *TEXTS], TOKENIZED, number)
    assert (code, out, err[-1]) == (75, [], f"{reason}; nothing was written")


def test_predict_says_after_which_row_its_output_ends(
    finished: Path, tmp_path: Path, ended: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, reason = finished / "plain", "distsent: stop requested: SIGTERM"
    monkeypatch.setattr(predict, "CHUNK", 4)
    (tmp_path / "texts").mkdir()
    for i, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{i}.txt").write_text(text)
    (tmp_path / "file.txt").write_text("\n".join(TEXTS))
    reads, writes = os.pipe()
    os.write(writes, "".join(f"{text}\n" for text in TEXTS[:3]).encode())  # and no end
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(open(reads, "rb")))  # noqa: SIM115
    cases: list[tuple[list[object], tuple[Any, str], int, int, str]] = [
        (["--file", tmp_path / "file.txt"], TOKENIZED, 3, 8, "row 8"),
        (["--file", tmp_path / "texts"], TOKENIZED, 3, 8, "row 8 of texts/7.txt"),
        ([*TEXTS], TOKENIZED, 2, 4, "row 4"),
        ([], (queue.Queue, "get"), 6, 3, "row 3"),  # waiting for standard input
    ]
    for words, place, call, written, last in cases:
        code, out, err = ended(predict, [run, *words], place, call=call)
        assert (code, err[-1]) == (75, f"{reason}; the output ends with {last}"), words
        assert [json.loads(line)["text"] for line in out] == TEXTS[:written]


def test_a_program_that_loads_ends_after_a_grace_time(
    finished: Path, ended: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(signals.os, "_exit", codes.append)
    monkeypatch.setattr(signals, "GRACE", 0.05)
    monkeypatch.setattr(predict, "GRACE", 0.05)
    for program in (evaluate, predict):
        words = [finished / "plain", *(["a"] if program is predict else [])]
        _, _, err = ended(program, words, LOADED)
        assert "distsent: stop requested: SIGTERM; run the same command again" in err
    assert codes == [75, 75]


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({}, 5.0),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, 5.0),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 5.0),  # an error, soon
    ],
)
def test_workers_stop_together_instead(
    env: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert signals.grace() == seconds
