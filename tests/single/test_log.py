"""What a run logs: console, train.log, metrics.jsonl, and progress for a parent process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distsent.runtime import log
from distsent.runtime.log import RunLog
from distsent.runtime.run_folder import RunFolder
from distsent.tracking.events import Started
from distsent.tracking.metrics_file import MetricsFile

OpenLog = Callable[..., RunLog]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def open_log(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> OpenLog:
    def opened(console: io.StringIO, start: int = 0, total: int = 9) -> RunLog:
        monkeypatch.setattr(sys, "stderr", console)
        return RunLog(folder, start, total)

    return opened


def lines_of(folder: RunFolder) -> list[str]:
    """The lines of train.log without their time."""
    return [line[20:] for line in folder.log.read_text().splitlines()]


def progress_of(console: io.StringIO) -> list[dict[str, object]]:
    found = [line for line in console.getvalue().splitlines() if line.startswith("distsent-prog")]
    return [json.loads(line.removeprefix("distsent-progress: ")) for line in found]


def test_without_a_terminal_progress_is_plain_lines(folder: RunFolder, open_log: OpenLog) -> None:
    console = io.StringIO()
    run_log = open_log(console)
    run_log.info("hello")
    run_log.progress(1, "step 1/9")
    run_log.to_file("stopped")
    run_log.close()
    assert console.getvalue() == "hello\nstep 1/9\n"
    assert lines_of(folder) == ["hello", "step 1/9", "stopped"]


def test_on_a_terminal_progress_is_a_bar(folder: RunFolder, open_log: OpenLog) -> None:
    console = Terminal()
    run_log = open_log(console)
    run_log.info("hello")
    run_log.progress(9, "loss 0.1")
    run_log.close()
    assert "9/9" in console.getvalue() and "loss 0.1" in console.getvalue()
    assert "distsent-progress" not in console.getvalue() and lines_of(folder) == ["hello"]


@pytest.mark.parametrize("console", [io.StringIO(), Terminal()])
def test_a_parent_process_gets_progress_as_json(
    folder: RunFolder, open_log: OpenLog, console: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTSENT_PROGRESS", "json")
    monkeypatch.setattr(log, "PROGRESS_INTERVAL", 0.0)
    run_log = open_log(console, start=3)
    run_log.info("hello")
    run_log.progress(5, "loss ½")
    run_log.close()
    assert console.getvalue().splitlines()[1] == "hello", "other lines stay as they are"
    assert progress_of(console) == [
        {"step": 3, "of": 9, "text": ""},
        {"step": 5, "of": 9, "text": "loss ½"},
    ]
    assert lines_of(folder) == ["hello", "loss ½"]


def test_json_progress_is_throttled_but_for_the_last_line(
    folder: RunFolder, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTSENT_PROGRESS", "json")
    monkeypatch.setattr(log, "PROGRESS_INTERVAL", 100.0)
    for total, last in ((1000, 499), (500, 499)):
        console = io.StringIO()
        run_log = open_log(console, total=total)
        for step in range(500):
            run_log.progress(step, f"step {step}")
        assert [line["step"] for line in progress_of(console)] == [0]
        run_log.close()
        assert [line["step"] for line in progress_of(console)] == [0, last]
    assert len(lines_of(folder)) == 1000, "train.log has them all"

    console = io.StringIO()
    run_log = open_log(console, total=500)
    run_log.progress(500, "done")
    assert progress_of(console)[-1] == {"step": 500, "of": 500, "text": "done"}, "at once"


def test_a_full_disk_is_reported_once_and_lines_are_kept(
    folder: RunFolder, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.StringIO()
    run_log = open_log(console)
    file = run_log._file._file

    class Full:
        name = "train.log"
        full = True

        def write(self, text: str) -> None:
            file.write(text)

        def flush(self) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            file.flush()

        def close(self) -> None:
            file.close()

    monkeypatch.setattr(run_log._file, "_file", Full())
    run_log.info("one")
    run_log.info("two")
    complaint = "train.log: cannot be written (No space left on device); training continues"
    assert [line.startswith(complaint) for line in console.getvalue().splitlines()].count(True) == 1
    monkeypatch.setattr(Full, "full", False)
    run_log.info("three")
    run_log.close()
    assert lines_of(folder) == ["one", "two", "three"]


def test_a_console_that_is_gone_does_not_end_the_run(folder: RunFolder, open_log: OpenLog) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    run_log = open_log(Gone())
    run_log.info("hello")
    run_log.progress(1, "step 1/9")
    run_log.close()
    assert lines_of(folder) == ["hello", "step 1/9"]


def test_metrics_after_the_resumed_step_are_dropped(folder: RunFolder) -> None:
    records = [{"step": step} for step in (1, 2, 3)] + [{"step": 2, "split": "validation"}]
    folder.metrics.write_text(
        "".join(json.dumps(each) + "\n" for each in records) + '{"step": 1, "l'
    )
    MetricsFile(folder, print).hear(Started("it", str(folder.path), "", 2, 0))
    kept = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert kept == [{"step": 1}, {"step": 2}], "an evaluation that the state does not know goes too"
