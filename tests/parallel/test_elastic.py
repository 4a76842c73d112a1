"""Elastic horovodrun: workers join and are lost during a run, and the training is unchanged."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from distsent.distributed.world import World
from distsent.job.metrics import METRICS
from distsent.runtime.run_folder import write_text  # atomic: the workers read these files
from tests import fixtures, launcher
from tests.parallel.conftest import PLAIN, but, task_words
from tests.parallel.driver import Entry, drive
from tests.parallel.test_invariance import deviation


def worker_on(started: launcher.Started, host: str) -> int:
    """The process id of the worker that the launcher started on `host`."""
    for process in started.processes():
        path = Path(f"/proc/{process}")
        try:
            environ, command = (
                (path / name).read_bytes().split(b"\0") for name in ("environ", "cmdline")
            )
        except OSError:  # it has ended
            continue
        if f"HOROVOD_HOSTNAME={host}".encode() in environ and command[1:2] == [b"-m"]:
            return process
    raise AssertionError(f"there is no worker on {host}; output:\n{started.output}")


def elastic(job: Sequence[str], folder: Path, at_least: int, at_most: int) -> launcher.Started:
    """Two workers of run `elastic` on the hosts that the file `hosts` names.

    The file `pause` says how long they wait before each step: at first a second.
    """
    script = folder / "discover.sh"
    script.write_text(f"#!/bin/sh\ncat {folder / 'hosts'}\n")
    script.chmod(0o755)
    (folder / "pause").write_text("1")
    options = [
        "--min-np", str(at_least), "--max-np", str(at_most), "--network-interface", "lo",
        "--host-discovery-script", str(script),
    ]  # fmt: skip
    # How long workers wait for one that joins (a minute on a busy machine) or for the lost one.
    env = {"PAUSE": str(folder / "pause"), "HOROVOD_GLOO_TIMEOUT_SECONDS": "120"}
    words = ["-m", "tests.parallel.slowly", *job, f"run.dir={folder}", "job.name=elastic"]
    return launcher.Started([*words, "run.stall_seconds=12"], np=2, env=env, options=options)


def test_workers_join_and_are_lost_and_the_training_is_the_same(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    job = but([*parts, *PLAIN], "model.dropout=0.1", "eval.every=end", "optim.lr=1e-3")
    hosts, pause = tmp_path / "hosts", tmp_path / "pause"
    hosts.write_text("localhost:2\n")
    with elastic(job, tmp_path, at_least=2, at_most=3) as started:
        started.until(lambda: "step 2/100" in started.output)
        write_text(hosts, "localhost:2\n127.0.0.1:1\n")
        started.until(
            lambda: bool(
                re.search(
                    r"3 workers[^\0]*resumed at step \d+ of 100[^\0]*step \d+/100",
                    started.output,
                )
            )
        )
        began = time.monotonic()
        os.kill(worker_on(started, "127.0.0.1"), signal.SIGSTOP)
        line = r"rank 2 on \S+ sent no heartbeat for 12 s at step \d+; the others continue"
        started.until(lambda: bool(re.search(line, started.output)))
        assert time.monotonic() - began < 100.0, "not after Gloo's timeout"
        two = rf"{line}[^\0]*2 workers[^\0]*resumed at step \d+ of 100"
        started.until(lambda: bool(re.search(two, started.output)))
        write_text(hosts, f"localhost:2\n{socket.gethostname()}:1\n")
        again = rf"{two}[^\0]*3 workers[^\0]*resumed at step \d+ of 100[^\0]*step \d+/100"
        started.until(lambda: bool(re.search(again, started.output)))
        os.kill(worker_on(started, socket.gethostname()), signal.SIGKILL)
        line = r"rank 2 on \S+ died at step \d+; the others continue without it"
        started.until(lambda: bool(re.search(line, started.output)))
        last = rf"{line}[^\0]*2 workers[^\0]*resumed at step \d+ of 100"
        started.until(lambda: bool(re.search(last, started.output)))
        write_text(pause, "0")
        ended = started.wait()
    assert ended.code == 0, ended.output

    drive([Entry(overrides=[*job, f"run.dir={tmp_path}", "job.name=alone"], mutant=None)], World())
    assert len(fixtures.metrics(tmp_path / "elastic")) == 100, "each step is logged once"
    assert deviation(tmp_path / "elastic", tmp_path / "alone") < 1e-5
    ours, theirs = fixtures.result(tmp_path / "elastic"), fixtures.result(tmp_path / "alone")
    assert ours["eval"]["test"]["confusion"] == theirs["eval"]["test"]["confusion"]
    assert (ours["world_size"], ours["steps"]) == (2, 100)
    # From memory: a run resumed from a checkpoint would have trained some steps twice.
    logged = [int(step) for step in re.findall(r"step (\d+)/100 ", ended.output)]
    assert len(logged) - len(set(logged)) <= 2, logged


@pytest.mark.parametrize("task", fixtures.TASKS)
def test_a_task_goes_on_without_a_lost_worker(
    task: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    """Labels, what was the best so far and scores of each task outlast the change of workers."""
    job = but(task_words([*parts, *PLAIN], task), "model.dropout=0.1")
    (tmp_path / "hosts").write_text("localhost:1\n127.0.0.1:1\n")
    with elastic(job, tmp_path, at_least=1, at_most=2) as started:
        started.until(lambda: "step 8/18" in started.output)
        os.kill(worker_on(started, "127.0.0.1"), signal.SIGKILL)
        lost = r"died \w+ step \d+; the others continue without it"  # around: if it was rank 0
        line = rf"{lost}[^\0]*resumed at step \d+ of 18"
        started.until(lambda: bool(re.search(line, started.output)))
        write_text(tmp_path / "pause", "0")
        ended = started.wait()
    assert ended.code == 0, ended.output

    drive([Entry(overrides=[*job, f"run.dir={tmp_path}", "job.name=alone"], mutant=None)], World())
    assert len(fixtures.metrics(tmp_path / "elastic")) == 18, "each step is logged once"
    assert deviation(tmp_path / "elastic", tmp_path / "alone") < 1e-5
    ours, theirs = fixtures.result(tmp_path / "elastic"), fixtures.result(tmp_path / "alone")
    assert (ours["world_size"], ours["steps"]) == (1, 18)
    assert ours["best"]["step"] == theirs["best"]["step"]
    assert ours["history"][-1]["step"] == 18 and len(ours["history"]) == 3
    for split, scores in theirs["eval"].items():
        for name in METRICS[task]:
            # A correlation is near 0 here, where rounding is large beside it: 1.2e-4 on one CPU.
            least = 5e-4 if name == "pearson" else 1e-12
            expected = pytest.approx(scores[name], rel=1e-4, abs=least)
            assert ours["eval"][split][name] == expected, name
