"""Real file systems, full or read-only, under a run in this process."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from distsent.distributed.world import World
from distsent.errors import FAILED, UserError
from distsent.job import load_job
from distsent.runtime import checkpoint
from distsent.runtime.safetensors_buffer import SafetensorsBuffer
from distsent.training.session import TrainingRun
from tests import fixtures
from tests.chaos.attacked_run import job
from tests.parallel.driver import NoSignals


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB. Only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def train(folder: Path) -> None:
    """Train in this process."""
    TrainingRun(load_job(None, job(folder)), World(), NoSignals()).train()


def fill(folder: Path) -> Path:
    """Fill the disk; returns the file that takes the space."""
    filler = folder / "filler"
    handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while True:
            os.write(handle, bytes(4096))
    os.close(handle)
    return filler


def test_a_disk_that_fills_up_is_one_line_and_the_run_resumes_when_there_is_space(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fillers: list[Path] = []
    real = checkpoint.save

    def save(folder: Path, step: int, *rest: object) -> Path:
        if step == 9:
            fillers.append(fill(disk))
        return real(folder, step, *rest)  # type: ignore[arg-type]

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="step-00000009: the checkpoint could not") as caught,
    ):
        patch.setattr(checkpoint, "save", save)
        train(disk)
    assert len(caught.value.lines) == 1 and caught.value.code == FAILED
    found = checkpoint.load_newest(disk / "chaos" / "checkpoints", lambda line: pytest.fail(line))
    assert found is not None and found.step == 6

    with pytest.raises(UserError, match=r"cannot be written.*No space left on device") as caught:
        train(disk)  # not even the status can be written
    assert len(caught.value.lines) == 1 and caught.value.code == FAILED

    fillers[0].unlink()
    train(disk)
    train(tmp_path / "undisturbed")
    undisturbed = fixtures.result(tmp_path / "undisturbed" / "chaos")
    assert fixtures.result(disk / "chaos")["weights_sha256"] == undisturbed["weights_sha256"]


def test_a_disk_that_turns_read_only_is_one_line(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk with open files cannot be remounted, so the first failure is simulated.
    def write(buffer: SafetensorsBuffer, path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"could not be written .*Read-only file system") as caught,
    ):
        real = SafetensorsBuffer.write
        calls = iter([real, real])
        patch.setattr(SafetensorsBuffer, "write", lambda *rest: next(calls, write)(*rest))
        train(disk)
    assert len(caught.value.lines) == 1 and caught.value.code == FAILED
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(
        UserError, match=r"cannot write to .*run the same command again, or choose another folder"
    ) as caught:
        train(disk)
    assert len(caught.value.lines) == 1 and caught.value.code == FAILED
    found = checkpoint.load_newest(disk / "chaos" / "checkpoints", lambda line: pytest.fail(line))
    assert found is not None and found.step == 3
