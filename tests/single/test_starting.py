"""Workers that never come are named, by the signs of life that the others leave."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NoReturn

import pytest

from distsent.distributed.launchers import Launch
from distsent.runtime.heartbeat import starting
from distsent.runtime.heartbeat.starting import (
    Sign,
    Starting,
    find_missing,
    main_missing,
    starting_folder,
    watch_start,
)
from tests.launcher import wait_for


@pytest.mark.parametrize(
    ("signs", "line"),
    [
        ({0: Sign("a", "rendezvous")}, "no sign of 2 ranks (1, 2) (on shared storage all leave"),
        (
            {0: Sign("a", "rendezvous"), 1: Sign("b", "import"), 2: Sign("c", "rendezvous")},
            "rank 1 on b still imports",
        ),
        (
            {0: Sign("a", "rendezvous"), 1: Sign("b", "import", 31.0), 2: Sign("c", "import")},
            "rank 1 on b has given no sign for 31 s, in its import; rank 2 on c still imports",
        ),
        (
            {0: Sign("a", "rendezvous"), 2: Sign("c", "rendezvous", 99.0)},
            "no sign of rank 1 (on shared storage all leave one); rank 2 on c has given no sign",
        ),
        ({rank: Sign("a", "rendezvous") for rank in range(3)}, "all 3 workers have come, but"),
    ],
)
def test_who_is_missing(signs: dict[int, Sign], line: str) -> None:
    assert find_missing(signs, 3, 15.0).startswith(line)


def test_slurm_tells_the_host_of_a_worker_that_left_no_sign() -> None:
    env = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    signs = {0: Sign("n1", "rendezvous"), 1: Sign("n1", "rendezvous")}
    hosts = starting.expected_hosts(signs, 4, env)
    line = find_missing(signs, 4, 15.0, hosts)
    assert line.startswith("no sign of 2 ranks (2, 3), on n2 (on shared")
    env["SLURM_STEP_TASKS_PER_NODE"] = "1(x2)"  # of torchrun, with two workers each
    assert starting.expected_hosts(signs, 4, env) == ["n2"]
    assert starting.expected_hosts(signs, 3, env) == starting.expected_hosts(signs, 4, {}) == []


@pytest.mark.parametrize(
    ("signs", "line"),
    [
        ({}, "no sign of rank 0"),
        ({0: Sign("a", "import 3", 40.0)}, "rank 0 on a has given no sign for 40 s"),
        ({0: Sign("a", "rendezvous 3", 1.0)}, "rank 0 on a waits for others, too"),
    ],
)
def test_what_the_others_say(signs: dict[int, Sign], line: str) -> None:
    assert main_missing(signs, 15.0).startswith(line)


class Ended(Exception):
    pass


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    def end(rank: int, line: str, *_: object) -> NoReturn:
        lines.append(f"rank {rank}: {line}")
        raise Ended

    monkeypatch.setattr(starting, "report_and_exit", end)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    monkeypatch.setattr(starting, "OTHERS_LATER", 1.0)
    return lines


def test_each_worker_leaves_signs_until_all_are_connected(tmp_path: Path, said: list[str]) -> None:
    folder = starting_folder(tmp_path, "emotion", {"SLURM_JOB_ID": "7", "MASTER_PORT": "1"})
    assert folder == tmp_path / ".starting" / "emotion-7-1"
    workers = [Starting(folder, rank, 2, 60.0) for rank in range(2)]
    wait_for(lambda: folder.is_dir() and len(os.listdir(folder)) == 2, 10)
    for worker in (*workers, workers[0]):
        worker.finish()
    assert not os.listdir(tmp_path) and not said


def test_rank_0_names_who_does_not_come(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "start"
    main, other = Starting(folder, 0, 3, 0.1), Starting(folder, 1, 3, 0.1)
    other.enter("rendezvous")
    wait_for(lambda: len(said) == 2, 20)
    first, second = sorted(said)
    assert "no worker came or moved for 1 s at the start: no sign of rank 2" in first
    assert first.startswith("rank 0") and "rank 0 on" in second and second.startswith("rank 1")
    for worker in (main, other):
        worker.finish()


def test_signs_of_a_start_that_failed_do_not_mislead_the_next_one(
    tmp_path: Path, said: list[str]
) -> None:
    folder = tmp_path / ".starting" / "start"
    folder.mkdir(parents=True)
    (folder / "rank-1").write_text('{"host": "old", "phase": "import", "moves": 0}')
    os.utime(folder / "rank-1", (time.time() - 99, time.time() - 99))
    killed = Starting(folder, 0, 3, 0.1)
    other = Starting(folder, 2, 3, 0.1)
    wait_for(lambda: len(said) == 2, 20)
    assert "no sign of rank 1 (on shared" in sorted(said)[0] and "old" not in str(said)
    killed._give_up()
    assert not (folder / "rank-2").exists() and (folder / "rank-0").exists()
    other._give_up()
    assert not os.listdir(tmp_path)


def test_storage_that_cannot_be_written_is_no_error(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").touch()
    worker = Starting(tmp_path / "file" / "start", 1, 2, 60.0)
    worker.finish()
    assert not said


def test_a_worker_alone_and_elastic_ones_leave_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch_start(tmp_path, "x", Launch(), 60.0) is None
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    assert watch_start(tmp_path, "x", Launch(size=2), 60.0) is None
