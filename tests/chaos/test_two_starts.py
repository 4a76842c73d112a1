"""Two starts of one run, on hosts without locks between them: one stays. In real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from distsent.runtime import checkpoint
from distsent.runtime.run_status import read_status
from tests import fixtures, launcher
from tests.chaos.attacked_run import job
from tests.chaos.fork_server import ForkServer
from tests.parallel.conftest import but

pytestmark = pytest.mark.timeout(900)
STEPS = 24


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("two-starts") / "server") as server:
        yield server


class Host:
    """Starts a run on a host of its own, as far as locks are concerned."""

    def __init__(self, server: ForkServer, folder: Path, name: str) -> None:
        self.server, self.folder, self.marks = server, folder, folder / f"marks-{name}"
        self.marks.mkdir(parents=True)

    def start(self, pause_at: str = "", delay: float = 0.0) -> launcher.Started:
        words = but(job(self.folder), f"train.max_steps={STEPS}")
        env = {"PAUSE_AT": pause_at, "PAUSE_FOLDER": str(self.marks), "STEP_DELAY": str(delay)}
        return self.server.start(words, 1, **env, NO_LOCKS="12")

    def reached(self, place: str) -> bool:
        return (self.marks / f"{place}.0").exists()

    def go_on(self) -> None:
        (self.marks / "go").touch()


def hash_of(run: Path) -> list[object]:
    last = checkpoint.load_newest(run / "checkpoints", lambda line: pytest.fail(line))
    assert last is not None and last.step == STEPS
    weights = fixtures.result(run)["weights_sha256"]
    return [weights, *(checkpoint.weights_sha256(group) for group in last.tensors.values())]


@pytest.fixture(scope="module")
def undisturbed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with Host(server, folder, "a").start() as started:
        done = started.wait(300)
    assert done.code == 0, done.output
    assert "has no locks" in (folder / "chaos" / "train.log").read_text()
    return hash_of(folder / "chaos")


def visible(run: Path) -> dict[str, float]:
    """What counts in a run folder, and when it was written."""
    return {
        str(path.relative_to(run)): path.stat().st_mtime
        for path in run.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(run).parts)
    }


def lines_of(output: str) -> list[str]:
    """What a start says of its end."""
    lines = [line for line in output.splitlines() if "distsent: " in line]
    return [line for line in lines if ".tokens: the file system has no locks" not in line]


@pytest.mark.parametrize("when", ["while the other trains", "after the other's end"])
def test_a_writer_that_was_paused_in_a_save_is_fenced(
    when: str, server: ForkServer, undisturbed: list[object], tmp_path: Path
) -> None:
    run, stale, new = tmp_path / "chaos", Host(server, tmp_path, "a"), Host(server, tmp_path, "b")
    with stale.start("writing:3") as first:
        first.until(lambda: stale.reached("writing"), 200)
        process = first.workers()[0]  # type: ignore[attr-defined]
        os.kill(process, signal.SIGSTOP)
        stale.go_on()
        with new.start("training:15") as second:
            second.until(lambda: new.reached("training"), 300)
            if when == "while the other trains":
                os.kill(process, signal.SIGCONT)
                ended = first.wait(200)
            new.go_on()
            done = second.wait(300)
        assert done.code == 0, done.output
        before = visible(run)
        os.kill(process, signal.SIGCONT) if when != "while the other trains" else None
        ended = first.wait(200)
    assert ended.code == 1, ended.output
    assert len(lines_of(ended.output)) == 1, ended.output
    (line,) = lines_of(ended.output)
    assert "this start lost the run to process" in line
    assert "Traceback" not in ended.output
    assert visible(run) == before
    assert hash_of(run) == undisturbed
    status = read_status(run / "status.json")
    assert status is not None and status.state == "finished"


def test_a_second_start_on_another_host_is_refused_while_the_first_lives(
    server: ForkServer, undisturbed: list[object], tmp_path: Path
) -> None:
    first_host, other = Host(server, tmp_path, "a"), Host(server, tmp_path, "b")
    with first_host.start("training:10") as first:
        first.until(lambda: first_host.reached("training"), 200)
        with other.start() as second:
            refused = second.wait(200)
        first_host.go_on()
        done = first.wait(300)
    assert refused.code == 1 and done.code == 0, refused.output + done.output
    (line,) = lines_of(refused.output)
    assert "is training here right now" in line
    assert hash_of(tmp_path / "chaos") == undisturbed
