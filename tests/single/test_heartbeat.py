"""Heartbeats between real processes: a death, a hang, a failure and a stop request are noticed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 3
WORKER = """
import json, sys, time
from pathlib import Path
from distsent.distributed.progress import Position
from distsent.distributed.world import World
from distsent.runtime.heartbeat.monitor import HeartbeatMonitor, Watched
from distsent.runtime.signals import StopSignal

class FileWorld(World):
    def __init__(self, rank, size, folder):
        super().__init__()
        self.rank, self.size, self._folder = rank, size, folder

    def _allgather_object(self, value, name):
        paths = [self._folder / f"{name}.{rank}" for rank in range(self.size)]
        part = paths[self.rank].with_suffix(".part%d" % self.rank)
        part.write_text(json.dumps(value))
        part.rename(paths[self.rank])
        while not all(path.exists() for path in paths):
            time.sleep(0.01)
        return [json.loads(path.read_text()) for path in paths]

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
stop = StopSignal()

def on_failure(message, cause):
    print("on_failure:", message, cause, flush=True)

world = FileWorld(rank, size, folder)
watched = Watched(3.0, "", folder / "stacks", on_failure, print, "resume it")
monitor = HeartbeatMonitor(world, watched, stop)
monitor.connect()
world.progress.position = Position(phase="step", step=7)
(folder / f"ready.{rank}").touch()
while not (folder / "leave").exists() and stop.requested is None:
    while (folder / f"hang.{rank}").exists():
        time.sleep(0.02)
    if list(folder.glob("hang.*")):
        with world.progress.waiting("gradients"):
            world.progress.enter("gradients")
            time.sleep(60)
    world.progress.worked()
    if (folder / f"fail.{rank}").exists():
        monitor.failed(RuntimeError("out\\nof memory"))
        sys.exit(5)
    time.sleep(0.02)
time.sleep(1.2 if stop.requested else 0)  # time for one more heartbeat
monitor.close()
print("left:", stop.requested, flush=True)
"""
ADVICE = "; resume it"


class Workers:
    """A main worker (rank 0) and others, each in a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.processes = [
            subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(SIZE), folder], **pipes)
            for rank in range(SIZE)
        ]
        until = time.monotonic() + 60
        while not all((folder / f"ready.{rank}").exists() for rank in range(SIZE)):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(2.2)  # the first heartbeats

    def kill(self, rank: int, number: int) -> None:
        os.kill(self.processes[rank].pid, number)

    def outcome(self, rank: int) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of a worker."""
        process = self.processes[rank]
        out, errors = process.communicate(timeout=30)
        return process.returncode, out.strip(), errors.strip()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    started = Workers(tmp_path)
    yield started
    for process in started.processes:
        process.kill()
        process.communicate()


def test_workers_that_leave_in_good_order_are_no_failure(workers: Workers) -> None:
    (workers.folder / "leave").touch()
    for rank in range(SIZE):
        assert workers.outcome(rank) == (0, "left: None", "")


def test_a_death_is_reported_at_once_and_ends_all(workers: Workers) -> None:
    workers.kill(1, signal.SIGKILL)
    message = f"rank 1 on {socket.gethostname()} died at step 7{ADVICE}"
    report = f"on_failure: {message} worker_died"
    assert workers.outcome(0) == (1, report, f"distsent: rank 0: {message}")
    assert workers.outcome(2) == (1, "", ""), "one line is enough, and rank 0 has not died"


def test_a_hang_is_reported_after_the_deadline(workers: Workers) -> None:
    workers.kill(2, signal.SIGSTOP)
    what = f"rank 2 on {socket.gethostname()} sent no heartbeat for 3 s at step 7{ADVICE}"
    report = f"on_failure: {what} worker_lost"
    assert workers.outcome(0) == (1, report, f"distsent: rank 0: {what}")


def test_a_main_worker_that_hangs_is_reported_by_the_others(workers: Workers) -> None:
    workers.kill(0, signal.SIGSTOP)
    for rank in (1, 2):
        what = f"distsent: rank {rank}: rank 0 sent no heartbeat for 3 s around step 7{ADVICE}"
        assert workers.outcome(rank) == (1, "", what)


def test_a_suspended_run_is_not_a_hang(workers: Workers) -> None:
    for rank in range(SIZE):
        workers.kill(rank, signal.SIGSTOP)
    time.sleep(6)
    for rank in range(SIZE):
        workers.kill(rank, signal.SIGCONT)
    time.sleep(2)
    (workers.folder / "leave").touch()
    for rank in range(SIZE):
        assert workers.outcome(rank) == (0, "left: None", "")


def test_a_worker_that_keeps_the_others_waiting_is_named_with_its_line(workers: Workers) -> None:
    (workers.folder / "hang.1").touch()
    code, out, errors = workers.outcome(0)
    line = f"rank 1 on {socket.gethostname()} has not entered the collective 'gradients' that the "
    line += "others wait in; it is at step 7 (step), in <string>:"
    assert code == 1 and errors.startswith("distsent: rank 0: no progress for 3 s: " + line)
    assert out.startswith("on_failure: no progress for 3 s: rank 1") and "worker_lost" in out
    for rank in (1, 2):
        assert workers.outcome(rank) == (1, "", "")
    for rank in range(SIZE):
        stacks = (workers.folder / "stacks" / f"rank-{rank}.txt").read_text()
        assert f"rank {rank}, process" in stacks and "Thread 0x" in stacks, stacks


def test_a_failure_of_one_worker_is_reported_with_its_error(workers: Workers) -> None:
    (workers.folder / "fail.1").touch()
    error = "RuntimeError: out of memory"
    message = f"rank 1 on {socket.gethostname()} failed at step 7: {error}{ADVICE}"
    report = f"on_failure: {message} None"
    assert workers.outcome(0) == (1, report, f"distsent: rank 0: {message}")
    assert workers.outcome(1) == (5, "", "")


def test_a_main_worker_that_fails_alone_says_so_and_ends_all(workers: Workers) -> None:
    (workers.folder / "fail.0").touch()
    line = f"distsent: rank 0: rank 0 on {socket.gethostname()} failed at step 7: "
    assert workers.outcome(0) == (5, "", f"{line}RuntimeError: out of memory{ADVICE}")
    for rank in (1, 2):  # else they would wait in a collective
        assert workers.outcome(rank) == (1, "", ""), "one line is enough"


def test_a_stop_request_reaches_the_main_worker(workers: Workers) -> None:
    workers.kill(1, signal.SIGUSR1)
    assert workers.outcome(0) == (0, "left: SIGUSR1 on rank 1", "")
    assert workers.outcome(1) == (0, "left: SIGUSR1", "")
