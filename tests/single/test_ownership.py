"""Who may change a run folder. Two starts on hosts whose locks do not reach each other, in turn."""

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from distsent import lock
from distsent.errors import FAILED, USAGE_ERROR, UserError
from distsent.runtime import checkpoint, ownership
from distsent.runtime.run_folder import RunFolder, write_text
from distsent.runtime.run_status import RunStatus
from distsent.runtime.safetensors_buffer import SafetensorsBuffer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "RENEWED", 0.05)
    monkeypatch.setattr(ownership, "SILENT", 0.5)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


def opened(path: Path, known: str | None = None) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    folder.lock(known)
    return folder


def die(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a killed process: no sign of life, no lock, nothing released."""
    owner = folder.owner
    assert isinstance(owner, ownership.RunOwner)
    owner._released.set()
    if folder._lock is not None:
        folder._lock.close()
    time.sleep(3 * ownership.RENEWED)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EWOULDBLOCK, "process 7 on other is training here right now"),
        (errno.EACCES, "process 7 on other is training here right now"),  # SMB, Azure Files
        (errno.ENOLCK, "has no locks"),
        (errno.ENOSYS, "has no locks"),
        (errno.EOPNOTSUPP, "has no locks"),
        (errno.EIO, "Input/output error"),
        (errno.ESTALE, "Stale file handle"),
    ],
)
def test_what_a_file_system_answers_to_a_lock(
    number: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".lock").write_text("process 7 on other")
    refuse_locks(monkeypatch, number)
    folder = RunFolder(tmp_path)
    folder.create()
    try:
        said = folder.lock()
    except (UserError, OSError) as error:
        said = str(error)
        assert getattr(error, "code", FAILED) == FAILED
    assert said is not None and says in said and "\n" not in said


def test_a_lock_file_that_may_not_be_opened_is_a_matter_of_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, *rest: Any, **options: Any) -> int:
        if Path(path).name == ".lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"\.lock: no permission to open .*chmod g\+w"):
        opened(tmp_path)


def test_a_living_owner_is_not_displaced_and_a_silent_one_is(
    tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* is training here") as caught:
        opened(tmp_path)
    assert caught.value.code == FAILED and len(caught.value.lines) == 1
    first.owner.check()
    die(first, monkeypatch)
    began = time.monotonic()
    second = opened(tmp_path)
    assert time.monotonic() - began >= ownership.SILENT
    second.unlock()
    began = time.monotonic()
    opened(tmp_path).unlock()  # released: no need to wait
    assert time.monotonic() - began < ownership.SILENT


@pytest.mark.parametrize("how", ["the same lock", "the same world", "long ago"])
def test_an_owner_that_is_surely_gone_is_not_waited_for(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "the same lock":
        refuse_locks(monkeypatch, errno.ENOLCK)
    first = opened(tmp_path)
    die(first, monkeypatch)
    if how == "long ago":
        os.utime(tmp_path / ".owner", (1, 1))
    monkeypatch.setattr(ownership, "SILENT", 60)
    began = time.monotonic()
    opened(tmp_path, known=first.owner.token if how == "the same world" else None).unlock()
    assert time.monotonic() - began < 30


def test_a_deleted_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    first = opened(tmp_path)
    (tmp_path / ".lock").unlink()
    with pytest.raises(UserError, match="is training here right now"):
        opened(tmp_path)
    first.owner.check()
    first.unlock()


def test_a_clock_that_is_wrong_by_hours_makes_nothing_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "part").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "part").touch()
    for path in (tmp_path / "old" / "part", tmp_path / "old", tmp_path / "new"):
        os.utime(path, (time.time() - lock.YOUNG - 60,) * 2)
    now = time.time()
    monkeypatch.setattr(lock.time, "time", lambda: now + 10 * 3600)
    assert lock.is_old(tmp_path / "old") and not lock.is_old(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


def test_a_new_owner_removes_leftovers_only_where_locks_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(folder: Path) -> None:
        for path in (folder / ".status.json.x.tmp", folder / "checkpoints" / ".step-9.x.tmp" / "w"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("content")

    def hidden(folder: Path) -> list[str]:
        return [path.name for path in folder.rglob(".*") if path.name not in (".lock", ".owner")]

    with_locks, without = tmp_path / "with", tmp_path / "without"
    leave(with_locks)
    opened(with_locks).unlock()
    assert hidden(with_locks) == []
    refuse_locks(monkeypatch, errno.ENOLCK)
    leave(without)
    opened(without).unlock()
    assert all(name.startswith(".fenced.") for name in hidden(without))
    assert len(hidden(without)) == 2
    for path in sorted(without.rglob("*"), reverse=True):
        os.utime(path, (1, 1))
    opened(without).unlock()
    assert hidden(without) == []


# A stale writer: a new owner takes over before any line of the old one's code


def state_of(folder: Path) -> dict[str, Any]:
    """Everything that counts in a run folder, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None
    return found


def buffers() -> dict[str, SafetensorsBuffer]:
    made = {}
    for group in ("weights", "optimizer"):
        tensors = {"a": torch.ones(3)}
        made[group] = SafetensorsBuffer(tensors)
        made[group].fill(tensors)
    return made


def save(folder: RunFolder) -> None:
    checkpoint.save(folder.checkpoints, 4, buffers(), {"step": 4}, folder.owner)
    checkpoint.prune(folder.checkpoints, 1, None, 4, folder.owner)


def export(folder: RunFolder) -> None:
    made = folder.owner.temporary(folder.model)
    made.mkdir()
    (made / "config.json").write_text("new")
    folder.owner.publish_folder(made, folder.model)


WRITES: dict[str, Callable[[RunFolder], object]] = {
    "save": save,
    "status": lambda folder: folder.write_status(RunStatus.started("training", 3, 9)),
    "export": export,
    "reset": lambda folder: folder.reset(),
    "release": lambda folder: folder.owner.release(),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with checkpoints, a model and a status."""
    path = tmp_path_factory.mktemp("begun") / "run"
    folder = RunFolder(path)
    folder.create()
    for step in (1, 2, 3):
        checkpoint.save(folder.checkpoints, step, buffers(), {"step": step})
    folder.model.mkdir()
    (folder.model / "config.json").write_text("old")
    folder.write_status(RunStatus.started("training", 2, 9))
    return path


def pause_at_line(number: int, act: Callable[[], None], work: Callable[[], object]) -> bool:
    """Run `work`, and `act` before the line of that number in its writing. Whether it has it."""
    count, files = iter(range(10**6)), (ownership.__file__, checkpoint.__file__)
    acted = False

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal acted
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and not acted and next(count) == number:
            acted = True
            sys.settrace(None)
            act()
        return None if acted else trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return acted


@pytest.mark.parametrize("what", WRITES)
def test_a_stale_writer_changes_nothing_wherever_it_was_paused(
    what: str, begun: Path, tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    fenced = points = 0
    for number in range(10_000):
        path = tmp_path / str(number)
        shutil.copytree(begun, path)
        old = opened(path)
        after: dict[str, Any] = {}
        new: list[RunFolder] = []

        def take_over() -> None:
            new.append(opened(path, known=old.owner.token))  # noqa: B023
            after.update(state_of(path))  # noqa: B023

        try:
            acted = pause_at_line(number, take_over, lambda: WRITES[what](old))  # noqa: B023
        except UserError as error:
            acted, fenced = True, fenced + 1
            assert "this start lost the run" in str(error) and error.code == FAILED
            assert len(error.lines) == 1
        if not acted:
            break
        points += 1
        assert state_of(path) == after, f"line {number}"
        new[0].owner.check()
        newest = checkpoint.load_newest(new[0].checkpoints)
        assert newest is not None or what == "reset"
        shutil.rmtree(path)
    assert points > 10
    assert what == "release" or fenced > points / 3


def test_of_two_starts_that_take_over_at_once_one_stays(
    begun: Path, tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(ownership, "SILENT", 0.02)
    winners: set[str] = set()
    for number in range(10_000):
        path = tmp_path / str(number)
        shutil.copytree(begun, path)
        dead = opened(path).owner.token
        first, second = RunFolder(path), RunFolder(path)

        def start(folder: RunFolder) -> None:
            try:
                folder.lock(known=dead)  # noqa: B023
            except UserError as error:
                assert error.code == FAILED and len(error.lines) == 1

        acted = pause_at_line(number, lambda: start(second), lambda: start(first))  # noqa: B023
        if not acted:
            break
        owners = [name for name, one in (("first", first), ("second", second)) if owns(one)]
        assert len(owners) == 1, f"line {number}: {owners}"
        winners.update(owners)
        assert state_of(path) == state_of(begun)
        shutil.rmtree(path)
    assert winners == {"first", "second"}


def owns(folder: RunFolder) -> bool:
    try:
        folder.owner.check()
    except UserError:
        return False
    return isinstance(folder.owner, ownership.RunOwner)


def test_a_text_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    folder, link = tmp_path / "thesis", tmp_path / "link"
    folder.mkdir()
    (folder / "chapter").touch()
    link.symlink_to(folder)
    before = sorted(tmp_path.rglob("*"))
    for place in (folder, link):
        with pytest.raises(IsADirectoryError) as caught:
            write_text(place, "a list")
        assert caught.value.filename == str(place)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_something_else_does_not_become_a_run(tmp_path: Path) -> None:
    """At its end a run replaces `model` and `predictions`."""
    for name in ("model", "predictions"):
        folder = RunFolder(tmp_path / name)
        (folder.path / name).mkdir(parents=True)
        with pytest.raises(UserError, match=f"is no run and has {name}, which a run") as caught:
            folder.create()
        assert caught.value.code == USAGE_ERROR and os.listdir(folder.path) == [name]
        (folder.path / "job.json").touch()
        folder.create()
