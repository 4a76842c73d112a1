"""A run that was stopped and resumed ends with the bits of an uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from distsent.distributed.world import World
from distsent.runtime import checkpoint
from distsent.runtime.run_status import RunStatus, read_status
from tests import fixtures, launcher
from tests.parallel.conftest import PLAIN, SHARED, but
from tests.parallel.driver import Entry, drive
from tests.parallel.test_noise import noise_sums

Made = Callable[[int], Path]
SLOW = "tests.parallel.slowly"  # the train program with a pause before each step


def last_step(run: Path) -> int:
    """The last step in metrics.jsonl, 0 if there is none."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max([json.loads(line)["step"] for line in lines if line.endswith("}")], default=0)


def status(run: Path) -> RunStatus:
    found = read_status(run / "status.json")
    assert found is not None
    return found


def alone(job: list[str]) -> None:
    """Train in this process, without signal handlers."""
    drive([Entry(overrides=job, mutant=None)], World())


def overrides(parts: tuple[str, ...], folder: Path, *changes: str) -> list[str]:
    """The run `dropout` of conftest, saved every 5 steps."""
    base = but([*parts, *PLAIN], "model.dropout=0.1", "eval.every=end", "checkpoint.every_steps=5")
    return but(base, f"run.dir={folder}", "job.name=stopped", *changes)


def test_stopped_killed_and_resumed_it_ends_with_the_bits_of_an_uninterrupted_run(
    world: Made, parts: tuple[str, ...], tmp_path: Path
) -> None:
    run, command = tmp_path / "stopped", ["-m", SLOW, *overrides(parts, tmp_path, SHARED)]

    # A stop request on one worker only
    with launcher.start(*command, np=2, PAUSE="0.05") as started:
        started.until(lambda: last_step(run) >= 7)
        os.kill(started.worker(1), signal.SIGTERM)
        ended = started.wait()
    assert ended.code == 75, ended.output
    message = re.search(
        r"distsent: stop requested; saved after step (\d+) of 100; run the same command again",
        ended.output,
    )
    assert message, ended.output
    assert ended.output.count("saved after step") == 1, "the ending is printed once"
    stopped = int(message[1])
    assert 7 <= stopped < 100 and (run / "checkpoints" / f"step-{stopped:08d}").is_dir()
    reached = status(run)
    assert (reached.state, reached.code, reached.retry) == ("stopped", 75, True)
    assert reached.message == f"stop requested; saved after step {stopped} of 100"
    assert (run / "train.log").read_text().endswith(f" stopped: {reached.message}\n")
    assert (reached.step, reached.of, reached.resumed_from) == (stopped, 100, 0)
    assert not (run / "result.json").exists() and not (run / "model").exists()

    # A worker dies, some steps after the last checkpoint
    with launcher.start(*command, np=2, PAUSE="0.05") as started:
        started.until(lambda: last_step(run) >= stopped + 8)
        os.kill(started.worker(1), signal.SIGKILL)
        ended = started.wait()
    assert ended.code != 0
    died = re.search(r"rank 1 on \S+ died at step (\d+)", ended.output)
    assert died and int(died[1]) >= stopped + 8, ended.output
    reached = status(run)
    assert (reached.state, reached.code, reached.retry) == ("failed", 1, True)
    assert (reached.cause, reached.message.partition(" on ")[0]) == ("worker_died", "rank 1")
    assert reached.resumed_from == stopped <= reached.step <= int(died[1])

    ended = launcher.run(*command, np=2)
    assert ended.code == 0, ended.output
    uninterrupted = world(2) / "shared-dropout"
    ours, theirs = fixtures.result(run), fixtures.result(uninterrupted)
    assert ours["weights_sha256"] == theirs["weights_sha256"]
    columns = ("step", "epoch", "loss", "lr", "grad_norm", "samples", "tokens")
    lines = [
        [[line[c] for c in columns] for line in fixtures.metrics(folder)]
        for folder in (run, uninterrupted)
    ]
    assert lines[0] == lines[1], "each step is logged once, with the same numbers"
    assert noise_sums(run) == pytest.approx(noise_sums(uninterrupted), rel=1e-4)
    assert ours["eval"]["test"]["confusion"] == theirs["eval"]["test"]["confusion"]
    reached = status(run)
    assert (reached.state, reached.code, reached.retry) == ("finished", 0, False)
    assert (reached.step, reached.of) == (100, 100)


def test_resumed_on_more_workers_it_has_the_same_examples_and_the_same_curve(
    world: Made, parts: tuple[str, ...], tmp_path: Path
) -> None:
    run, job = tmp_path / "stopped", but(overrides(parts, tmp_path), "checkpoint.keep=99")
    alone(job)
    shutil.rmtree(run / "model")
    (run / "result.json").unlink()
    for path in checkpoint.list_checkpoints(run / "checkpoints")[
        10:
    ]:  # one worker got as far as step 50
        shutil.rmtree(path)
    ended = launcher.run("-m", "distsent.train", *job, np=2)
    assert ended.code == 0 and "resumed at step 50 of 100" in ended.output, ended.output
    uninterrupted = world(2) / "dropout"
    lines, expected = fixtures.metrics(run), fixtures.metrics(uninterrupted)
    for column in ("step", "lr", "samples", "tokens"):
        assert [line[column] for line in lines] == [line[column] for line in expected]
    assert [line["loss"] for line in lines] == pytest.approx(
        [line["loss"] for line in expected], rel=1e-5
    )
    losses = [fixtures.result(folder)["eval"]["test"]["loss"] for folder in (run, uninterrupted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_finished_run_says_so_and_a_changed_job_is_refused(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    """Single process: the same job, a changed one, and one that starts over, in one folder."""
    job = but(overrides(parts, tmp_path), "train.max_steps=6", "job.name=once")
    run = tmp_path / "once"
    alone(job)
    before = fixtures.result(run)

    again = launcher.run("-m", "distsent.train", *job)
    assert (
        again.code == 0
        and f"{run}: this run is finished" in again.output
        and "test" in again.output
    )
    assert fixtures.result(run) == before
    assert (status(run).state, status(run).step, status(run).of) == ("finished", 6, 6)

    # Keys that change how a run computes, but not what, may change
    free = launcher.run(
        "-m",
        "distsent.train",
        *but(job, "log.every=2", "train.token_budget=4000", "checkpoint.keep=5"),
    )
    assert free.code == 0 and "this run is finished" in free.output

    changed = launcher.run("-m", "distsent.train", *but(job, "optim.lr=3e-3", "train.max_steps=9"))
    assert changed.code == 2
    assert changed.output.strip() == (
        f"distsent: {run}: this run was started with different values of train.max_steps, "
        "optim.lr; give the new run another job.name, or run.resume=changed to resume anyway, or "
        "run.resume=never to start over"
    )
    assert fixtures.result(run) == before and status(run).state == "finished"

    alone(but(job, "train.max_steps=9", "run.resume=changed"))
    assert [line["step"] for line in fixtures.metrics(run)] == list(range(1, 10))
    assert fixtures.result(run)["steps"] == 9

    alone(but(job, "train.seed=7", "run.resume=never"))
    assert [line["step"] for line in fixtures.metrics(run)] == list(range(1, 7))
    assert fixtures.result(run)["job"]["train"]["seed"] == 7


def test_a_job_that_failed_before_training_may_be_corrected_under_its_name(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    """Nothing was trained, so there is no run that the corrected job could contradict."""
    job = but(overrides(parts, tmp_path), "train.max_steps=2")
    refused = launcher.run("-m", "distsent.train", *but(job, "data.max_length=300"))
    assert refused.code == 2 and "takes at most 258 tokens" in refused.output
    alone(job)
    assert fixtures.result(tmp_path / "stopped")["steps"] == 2


def test_a_folder_that_another_process_holds_is_left_alone(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    job = overrides(parts, tmp_path, "checkpoint.every_steps=none")  # so the status stays the same
    run, command = tmp_path / "stopped", ["-m", SLOW, *job]
    with launcher.start(*command, PAUSE="2") as started:
        started.until(lambda: last_step(run) >= 1)
        before = (run / "status.json").read_text()
        second = launcher.run(*command)
        assert second.code == 1, "the job is fine: a retry may succeed"
        assert re.fullmatch(
            rf"distsent: {run}: process \d+ on \S+ is training here right now; wait for it, stop "
            r"it, or give this run another job\.name",
            second.output.strip(),
        )
        after = (run / "status.json").read_text()
        assert after == before, "a refused start leaves the status of the other process alone"
        os.kill(started.process.pid, signal.SIGTERM)
        assert started.wait().code == 75


def test_an_evaluation_is_logged_once_even_if_the_run_died_after_it(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    """A step is saved before it is evaluated: a run that resumes there evaluates it again."""
    run = tmp_path / "stopped"
    job = but(
        overrides(parts, tmp_path),
        "train.max_steps=8",
        "eval.every=4",
        "checkpoint.every_steps=none",
    )
    with launcher.start("-m", SLOW, *job, PAUSE="0.3") as started:
        started.until(lambda: last_step(run) >= 6)
        os.kill(started.process.pid, signal.SIGKILL)
        assert started.wait().code == -signal.SIGKILL
    assert [line["step"] for line in fixtures.metrics(run, "validation")] == [4]
    alone(job)
    assert [line["step"] for line in fixtures.metrics(run, "validation")] == [4, 8]
    assert [line["step"] for line in fixtures.metrics(run)] == list(range(1, 9))


def test_an_error_of_one_worker_is_reported_with_its_rank_and_ends_all(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    """Memory runs out on one of two workers, the main one next: a line says which one, and why."""
    run = tmp_path / "stopped"
    ended = launcher.run("-m", SLOW, *overrides(parts, tmp_path), np=2, FAIL="1:3")
    assert ended.code not in (0, 75), ended.output
    line = (
        r"rank 1 on \S+ failed at step \d+: RuntimeError: out of memory; the last checkpoint is "
        "intact: run the same command again"
    )
    assert re.search(f"distsent: rank 0: {line}", ended.output), ended.output
    assert len(re.findall(line, ended.output)) == 1, "the ending is printed once"
    assert status(run).state == "failed" and re.match(line, status(run).message)
    assert (run / "train.log").read_text().endswith(f" failed: {status(run).message}\n")
    assert (status(run).code, status(run).cause, status(run).of) == (1, None, 100)
    ended = launcher.run("-m", SLOW, *overrides(parts, tmp_path), np=2, FAIL="0:3")
    assert ended.code not in (0, 75), ended.output
    line = line.replace("rank 1", "rank 0", 1)
    assert len(re.findall(f"distsent: rank 0: {line}", ended.output)) == 1, ended.output
    assert "WorkerLost" not in ended.output, "the other worker is told, and says nothing"
    assert (status(run).state, status(run).cause) == ("failed", None)
    again = launcher.run("-m", SLOW, *overrides(parts, tmp_path), np=2)
    assert again.code == 0 and fixtures.result(run)["steps"] == 100, again.output


def test_a_single_worker_does_not_outlive_its_launcher(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    run = tmp_path / "stopped"
    with launcher.start("-m", SLOW, *overrides(parts, tmp_path), np=1, PAUSE="0.2") as started:
        started.until(lambda: last_step(run) >= 2)
        os.kill(started.process.pid, signal.SIGKILL)
        launcher.wait_for(lambda: not started.processes(), 120)
    assert status(run).state == "stopped"
    assert re.match(r"stop requested; saved after step \d+ of 100", status(run).message)
