"""Trackers: what they are told, and that none of them can harm a run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distsent.job import load_job
from distsent.runtime.ownership import Owner
from distsent.runtime.run_folder import RunFolder
from distsent.tracking import background
from distsent.tracking.background import Background
from distsent.tracking.events import (
    CheckpointSaved,
    Ended,
    Evaluation,
    Event,
    Listeners,
    Metrics,
    Started,
    final_numbers,
    from_line,
    to_line,
)
from distsent.tracking.record import open_record
from distsent.tracking.redact import redact

# A library in place of the real one: it writes down each call. BEHAVIOR is executed in each.
FAKE = """
import json, os, time
def call(name, *values):
    BEHAVIOR
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps([name, *values]) + "\\n")
    print("noise that must not reach the run")
class Run:
    def log(self, values, step): call("log", values, step)
    def finish(self): call("finish")
def init(**options):
    call("init", options)
    return Run()
"""
STARTED = Started("it", "/runs/it", "abc", 0, 0, {"optim.lr": 0.1, "data.labels": None})


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a fake `trackio` with this behavior, and return the file of its calls."""

    def write(behavior: str = "pass") -> Path:
        (tmp_path / "trackio.py").write_text(FAKE.replace("BEHAVIOR", behavior))
        return tmp_path / "calls"

    (tmp_path / "calls").touch()
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return write


def calls(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def play(*events: Event, name: str = "trackio", seconds: float = 60.0) -> tuple[list[str], float]:
    """Tell a tracker events and close it: (lines of the log, seconds that telling took)."""
    said: list[str] = []
    tracker = Background(name, Owner(), said.append)
    start = time.monotonic()
    for event in events:
        tracker.hear(event)
    took = time.monotonic() - start
    Listeners(tracker).close_within(seconds)
    return said, took


def metrics(*steps: int) -> list[Metrics]:
    return [Metrics({"step": step, "loss": 1 / step}) for step in steps]


def test_a_tracker_hears_everything_in_order(fake: Callable[..., Path]) -> None:
    file = fake()
    scores = {"step": 20, "split": "validation", "n": 9, "accuracy": 0.5, "confusion": [[1], [2]]}
    end = Ended(0, "finished", 20, {"final/test/accuracy": 0.6})
    said, _ = play(
        STARTED, *metrics(10, 20), CheckpointSaved(20), Evaluation("validation", scores), end
    )
    (name, options), *rest = calls(file)
    assert said == [] and name == "init"
    assert options["name"] == "it-abc" and options["config"] == STARTED.parameters
    assert rest == [
        ["log", {"train/loss": 0.1}, 10],
        ["log", {"train/loss": 0.05}, 20],
        ["log", {"validation/accuracy": 0.5}, 20],
        ["log", {"final/test/accuracy": 0.6}, 20],
        ["finish"],
    ]


def test_a_resumed_run_repeats_no_step(fake: Callable[..., Path]) -> None:
    file = fake()
    resumed = Started("it", "/runs/it", "abc", 10, 0, {}, {"train": 30})
    play(resumed, *metrics(20, 30, 40), Evaluation("validation", {"step": 20, "loss": 2.0}))
    steps = [(call[2], *call[1]) for call in calls(file)[1:]]
    assert steps == [(40, "train/loss"), (20, "validation/loss")]


def test_a_tracker_that_is_not_installed_costs_a_line() -> None:
    try:
        import wandb  # noqa: F401
    except ImportError:
        said, _ = play(STARTED, *metrics(1, 2), name="wandb")
        (line,) = said
        assert line.startswith("tracker wandb: not installed (No module named 'wandb')")
        assert line.endswith("pip install 'distsent[wandb]'; the run goes on without it")
    else:
        pytest.skip("wandb is installed here")


def test_a_tracker_that_fails_costs_two_lines_without_secrets(
    fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "abcdef123")
    fake("raise ConnectionError('http://me:hunter2@host/?token=xyz refused abcdef123')")
    said, _ = play(STARTED, *metrics(1, 2, 3), seconds=60)
    first, last = said
    assert first == (
        "tracker trackio: ConnectionError: http://***@host/?token=*** refused ***; "
        "the run goes on, and it is tried again"
    )
    assert last == "tracker trackio: 4 events of this start not sent"


def test_a_tracker_that_comes_back_misses_nothing(
    fake: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "START_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(background, "PAUSES", (0.0, 0.0))
    down = f"p = {str(tmp_path / 'n')!r}; n = os.path.exists(p) and os.path.getsize(p) or 0; "
    file = fake(f"{down}open(p, 'a').write('x')\n    if n in (0, 1, 3): raise OSError('down')")
    said: list[str] = []
    tracker = Background("trackio", Owner(), said.append)
    for event in (STARTED, *metrics(1, 2)):
        tracker.hear(event)
    end = time.monotonic() + 60
    while len(calls(file)) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    Listeners(tracker).close_within(60)
    assert [call[0] for call in calls(file)] == ["init", "log", "log"]
    again = "tracker trackio: works again"
    assert said[1::2] == [again, again] and len(said) == 4


def test_a_tracker_that_hangs_costs_no_time(
    fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "QUEUE", 5)
    fake("time.sleep(1000)")
    start = time.monotonic()
    said, telling = play(STARTED, *metrics(*range(1, 101)), seconds=2)
    assert telling < 1 and time.monotonic() - start < 10
    assert said == [
        "tracker trackio: does not keep up; the oldest events are dropped",
        "tracker trackio: does not answer; 101 events of this start not sent",
    ]


def test_nobody_waits_for_a_library_to_exit(fake: Callable[..., Path]) -> None:
    file = fake("import atexit; atexit.register(time.sleep, 300)")
    start = time.monotonic()
    said, _ = play(STARTED, *metrics(1), seconds=120)
    assert said == [] and len(calls(file)) == 2 and time.monotonic() - start < 100


def test_a_crash_of_the_tracker_is_not_the_runs(fake: Callable[..., Path]) -> None:
    fake("os.abort()")
    said, _ = play(STARTED, *metrics(1))
    assert said == ["tracker trackio: its process ended; the run goes on without it"]


def test_a_start_that_lost_its_folder_says_nothing_more(fake: Callable[..., Path]) -> None:
    class Lost(Owner):
        lost = True

    file, said = fake(), []
    tracker = Background("trackio", Lost(), said.append)
    for event in (STARTED, *metrics(1)):
        tracker.hear(event)
    Listeners(tracker).close_within(5)
    assert calls(file) == [] and said == []


def test_events_survive_their_way_to_the_tracker() -> None:
    scores = {
        "step": 1,
        "split": "test",
        "loss": float("inf"),
        "name": "\u2028é",
        "confusion": [[1]],
    }
    for event in (STARTED, *metrics(3), CheckpointSaved(4), Ended(75, "stopped")):
        assert from_line(to_line(event)) == event
    found = from_line(to_line(Evaluation("test", scores, 5.0)))
    assert found == Evaluation("test", {k: v for k, v in scores.items() if k != "confusion"}, 5.0)
    result = {"train": {"mfu": 0.1}, "eval": {"test": {"f1": 0.5, "confusion": [[1]], "n": 3}}}
    assert final_numbers(result) == {
        "final/train/mfu": 0.1,
        "final/test/f1": 0.5,
        "final/test/n": 3,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://u:p@ss@h/db down", "mysql://***@h/db down"),
        ("no\nbreaks", "no breaks"),
        ('{"api_key": "s3cret", "a": 1}', '{"api_key": "***", "a": 1}'),
        ("Authorization: Bearer s3cret", "Authorization: Bearer ***"),
        ("https://h/?X-Amz-Signature=s3cret&b=1", "https://h/?X-Amz-Signature=***&b=1"),
        ("my s3cret here", "my *** here"),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_lines_have_no_secrets(text: str, shown: str) -> None:
    assert redact(text, {"MLFLOW_TRACKING_PASSWORD": "s3cret", "HOME": "no"}) == shown


def test_the_run_keeps_its_name_at_trackers(tmp_path: Path) -> None:
    folder, job = RunFolder(tmp_path), load_job(None, ["job.name=it"])
    changed = load_job(None, ["job.name=it", "optim.lr=0.5"])
    copied = load_job(None, ["job.name=copy"])

    def logged(*steps: int) -> None:
        lines = (json.dumps({"step": step}) + "\n" for step in steps)
        folder.metrics.write_text("".join(lines))

    first, known = open_record(folder, job, 0)
    assert known == {}
    logged(10, 20, 30)
    assert open_record(folder, job, 20) == (first, {"train": 30})
    logged(10, 20, 21)  # dropped at the resume, and killed soon after
    assert open_record(folder, job, 20) == (first, {"train": 30})
    assert open_record(folder, changed, 20)[0] == first, "run.resume=changed continues it"
    assert open_record(folder, job, 0)[0] != first, "another job of which nothing was trained"
    second = open_record(folder, job, 0)[0]
    third, known = open_record(folder, copied, 20)
    assert third != second and known == {}, "a copy of the folder"
    folder.tracker.write_text("{")
    assert open_record(folder, copied, 20)[1] == {}
