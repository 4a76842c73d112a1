"""Runs whose processes all live while nothing moves: each culprit is named within its bound.

`make chaos` provokes each hang 20 times, and disturbs 200 runs that do not hang (HANGS and CALM
change that).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from distsent.runtime.run_status import read_status
from tests.chaos.attacked_run import job, launchers, send, workers
from tests.chaos.fork_server import ForkServer
from tests.hosts.disk import Disk, need_fuse
from tests.launcher import wait_for

STALL = 2.0  # seconds
MARGIN = 40.0  # seconds for slow steps, stacks and exits; transports give up after minutes
ENTERED = r"has not entered the collective '{0}' that the others wait in"


@dataclass(frozen=True)
class Hang:
    place: str  # of paused_worker
    rank: int
    line: str  # what names the culprit
    bound: float = STALL  # seconds
    torch: str = ""  # the same over torch, if it differs
    frozen: bool = False  # stopped by a signal, at a place before heartbeats


IN_STEP = (
    r"has not entered the collective 'gradient[.\w]*' that the others wait in; it is at step 2 "
    r"\(step\), in distsent/training/train_step.py:\d+ in \w+"
)
IN_SAVE = (
    r"has not entered the collective 'loop.saved' that the others wait in; it is at step \d+ "
    r"\(save\), in distsent/runtime/checkpoint.py:\d+ in _wait_for_save .*; saving: "
    r"distsent/runtime/checkpoint.py:\d+ in _write"
)
HANGS = {
    "forward": Hang("forward:3", 1, IN_STEP),
    "before the all-reduce": Hang("reduce:3", 0, IN_STEP),
    "save": Hang("saving:2", 0, IN_SAVE, 10 * STALL),
    "skipped": Hang(
        "skip:1",
        1,
        r"entered 'gradient[\w.]*', the others 'replica[\w.]*': it skipped a collective",
        torch=r"failed at step 3: CollectiveMismatch: it enters the collective",
    ),
    "before the rendezvous": Hang(
        "rendezvous:1",
        1,
        r"has given no sign for \d+ s, in its (import|rendezvous)",
        10 * STALL,
        frozen=True,
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("hangs") / "server") as server:
        yield server


def provoke(server: ForkServer, folder: Path, transport: str, hang: Hang) -> None:
    """Let a run hang, and check what it says."""
    marks = folder / "marks"
    marks.mkdir(parents=True)
    env = {"PAUSE_AT": hang.place, "PAUSE_RANK": str(hang.rank), "PAUSE_FOLDER": str(marks)}
    words = [*job(folder), f"run.stall_seconds={STALL}"]
    place = hang.place.partition(":")[0]
    if place == "skip":  # workers that share their weights compare none
        words.append("train.share_weights=false")
    with server.start(words, 2, transport, **env) as started:
        if place != "skip":
            started.until((marks / f"{place}.{hang.rank}").exists, 300)
        began = time.monotonic()
        if hang.frozen:
            send([workers(started)[hang.rank]], signal.SIGSTOP)
        ended = started.wait(300)
        seconds = time.monotonic() - began
        wait_for(lambda: not workers(started), 60)  # the server ends those of killed stubs
    line = hang.torch if transport == "torch" and hang.torch else hang.line
    assert re.search(rf"distsent: rank 0: .*rank {hang.rank} on \S+ {line}", ended.output), (
        ended.output
    )
    assert ended.code not in (0, 75), ended.output
    assert place == "skip" or seconds < hang.bound + MARGIN, f"{seconds}\n{ended.output}"
    if hang.frozen:
        return
    status = read_status(folder / "chaos" / "status.json")
    assert status and (status.state, status.code) == ("failed", 1), status
    if line == hang.line:
        assert status.cause == "worker_lost" and f"rank {hang.rank} on" in status.message
        stacks = sorted(path.name for path in (folder / "chaos" / "stacks").iterdir())
        assert stacks == ["rank-0.txt", "rank-1.txt"]


@pytest.mark.parametrize("transport", ["horovod", "torch"])
@pytest.mark.parametrize("name", HANGS)
def test_a_hang_is_named(server: ForkServer, tmp_path: Path, transport: str, name: str) -> None:
    provoke(server, tmp_path, transport, HANGS[name])


@pytest.mark.chaos
@pytest.mark.timeout(0)
@pytest.mark.parametrize("transport", ["horovod", "torch"])
@pytest.mark.parametrize("name", HANGS)
def test_dozens_of_hangs(server: ForkServer, tmp_path: Path, transport: str, name: str) -> None:
    for i in range(int(os.environ.get("HANGS", "20"))):
        provoke(server, tmp_path / str(i), transport, HANGS[name])


def freeze_storage(server: ForkServer, folder: Path, transport: str) -> None:
    """Not even status, stacks or log can be written: standard error gets all."""
    with need_fuse(), Disk(folder / "folder", folder / "mount") as disk:
        words = [*job(disk.path), f"run.stall_seconds={STALL}"]
        with server.start(words, 2, transport) as started:
            started.until(lambda: "step 7/60" in started.output, 300)
            began = time.monotonic()
            disk._process.send_signal(signal.SIGSTOP)
            line = (
                r"distsent: rank 0: .*rank 0 on \S+ has not entered the collective '[\w.]+' that "
            )
            line += (
                r"the others wait in; it is at step \d+ \(\w+\), in distsent/runtime/\w+.py:\d+ in"
            )
            stacks = r"distsent: rank 0, process \d+, step \d+, \w+\n[^\0]*Thread 0x"
            for expected in (line, stacks):
                found = partial(re.search, expected)
                started.until(lambda found=found: bool(found(started.output)), 300)  # type: ignore[misc]
            assert time.monotonic() - began < 10 * STALL + MARGIN, started.output
            disk._process.send_signal(signal.SIGCONT)  # its files are closed only then
            assert started.wait(300).code not in (0, 75)


@pytest.mark.parametrize("transport", ["horovod", "torch"])
def test_storage_that_does_not_answer_is_named(
    server: ForkServer, tmp_path: Path, transport: str
) -> None:
    freeze_storage(server, tmp_path, transport)


@pytest.mark.chaos
@pytest.mark.timeout(0)
@pytest.mark.parametrize("transport", ["horovod", "torch"])
def test_dozens_of_silent_disks(server: ForkServer, tmp_path: Path, transport: str) -> None:
    for i in range(int(os.environ.get("HANGS", "20"))):
        folder = tmp_path / str(i)
        folder.mkdir()
        freeze_storage(server, folder, transport)


DISTURBED = ("slow save", "long evaluation", "paused machine", "stopped launcher")


def disturb(server: ForkServer, folder: Path, transport: str, how: str) -> None:
    """A run that something holds up for longer than its bound, and that is no hang."""
    marks, longer = folder / "marks", 3 * STALL
    marks.mkdir(parents=True)
    place = {"slow save": "saving", "long evaluation": "evaluating"}.get(how, "")
    words = [*job(folder), f"run.stall_seconds={STALL}"]
    env = {"PAUSE_AT": f"{place}:2", "PAUSE_FOLDER": str(marks), "STEP_DELAY": "0.05"}
    with server.start(words, 2, transport, **env) as started:
        started.until(lambda: "step 4/60" in started.output, 300)
        if place:
            started.until((marks / f"{place}.0").exists, 300)
            # An evaluation moves with each of its batches.
            time.sleep(longer if how == "slow save" else STALL / 2)
            (marks / "go").touch()
        else:
            all_of_it = [started.process.pid, *workers(started).values(), *launchers(started)]
            targets = launchers(started) if how == "stopped launcher" else all_of_it
            send(targets, signal.SIGSTOP)
            time.sleep(longer)
            send(targets, signal.SIGCONT)
        ended = started.wait(120)
    assert ended.code == 0, ended.output
    assert "no progress" not in ended.output and "no heartbeat" not in ended.output, ended.output


@pytest.mark.chaos
@pytest.mark.timeout(0)
@pytest.mark.parametrize("how", DISTURBED)
def test_dozens_of_disturbed_runs(server: ForkServer, tmp_path: Path, how: str) -> None:
    for i in range(int(os.environ.get("CALM", "200")) // len(DISTURBED)):
        disturb(server, tmp_path / str(i), ("horovod", "torch")[i % 2], how)
