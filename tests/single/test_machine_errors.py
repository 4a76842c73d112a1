"""Trouble with the machine ends a program with 1, a wrong job with 2, wherever it happens."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from distsent import cli, storage
from distsent.data import row_cache
from distsent.data.dataset import open_dataset
from distsent.data.hub import Hub
from distsent.data.tokens.store import TokenStore
from distsent.errors import FAILED, USAGE_ERROR, UserError, exit_code
from distsent.job import load_job
from distsent.job.schema import DataSection
from distsent.model.load_errors import check_model_folder, explain_load_errors
from distsent.reporting.finished_run import read_run
from distsent.runtime import checkpoint
from distsent.runtime.run_folder import RunFolder, disk_errors_as_user_errors

TROUBLE = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOSPC, errno.EDQUOT, errno.ENOTCONN,
    errno.EHOSTDOWN, errno.EMFILE,
)  # fmt: skip
Fail = Callable[..., None]


def system_error(number: int, path: object = None) -> OSError:
    return OSError(number, os.strerror(number), *([str(path)] if path else []))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Let every system call of Python on a path with `part` in it fail with `number`."""

    def fail(number: int, part: str) -> None:
        def wrap(owner: object, name: str) -> None:
            real = getattr(owner, name)

            def call(*args: object, **kwargs: object) -> object:
                if args and isinstance(args[0], str | os.PathLike) and part in os.fspath(args[0]):  # type: ignore[operator]
                    raise system_error(number, args[0])
                return real(*args, **kwargs)

            monkeypatch.setattr(owner, name, call)

        import builtins
        import io

        for name in ("open", "stat", "scandir", "listdir", "mkdir"):
            wrap(os, name)
        wrap(builtins, "open")
        monkeypatch.setattr(io, "open", builtins.open)

    return fail


def job_file(folder: Path) -> None:
    load_job(folder / "fails.toml")


def labels_file(folder: Path) -> None:
    load_job(None, [f"data.source={folder}", f"data.labels={folder}/fails.txt"])


def source(folder: Path) -> None:
    load_job(None, [f"data.source={folder}/fails"])


def dataset(folder: Path) -> None:
    open_dataset(DataSection(source=str(folder / "fails")), 0).read()


def rows(folder: Path) -> None:
    with row_cache.writable("train.csv"):
        open(folder / "fails.arrow", "wb")  # noqa: SIM115


def store(folder: Path) -> None:
    TokenStore.open(folder / "fails")


def model(folder: Path) -> None:
    check_model_folder(str(folder / "fails"), "model.name")


def run_folder(folder: Path) -> None:
    RunFolder(folder / "fails").create()


def status(folder: Path) -> None:
    with disk_errors_as_user_errors(folder):
        RunFolder(folder).write_json(folder / "fails.json", {"a": 1})


def report(folder: Path) -> None:
    read_run(folder / "fails")


def load_checkpoint(folder: Path) -> None:
    checkpoint.load(folder / "fails")


def checkpoints(folder: Path) -> None:
    checkpoint.load_newest(folder / "fails", lambda line: pytest.fail(line))


PLACES = (
    job_file, labels_file, source, dataset, rows, store, model, run_folder, status, report,
    load_checkpoint, checkpoints,
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_the_exit_code_of_an_error_at_a_place(
    place: Callable[[Path], None],
    failing: Callable[[int, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = []
    for number in TROUBLE:
        monkeypatch.setattr(sys, "argv", ["train.py"])
        monkeypatch.setattr(cli, "drop_output", lambda: None)
        failing(number, "fails")
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda arguments: place(tmp_path) or 0)
        monkeypatch.undo()
        lines = capsys.readouterr().err.splitlines()
        expected = len(lines) == 1 and (os.strerror(number) in lines[0] or "no space" in lines[0])
        if ended.value.code != FAILED or not expected:
            wrong.append((errno.errorcode[number], ended.value.code, lines[-3:]))
    assert not wrong


class Answer:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class HfHubHTTPError(OSError):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"{status_code} of the hub")
        self.response = Answer(status_code)


HUB = [
    (HfHubHTTPError(503), FAILED), (HfHubHTTPError(429), FAILED),
    (HfHubHTTPError(404), USAGE_ERROR),
    (HfHubHTTPError(401), USAGE_ERROR), (ConnectionError("Couldn't reach the Hub"), FAILED),
    (TimeoutError("timed out"), FAILED), (system_error(errno.ECONNRESET), FAILED),
    (ValueError("no such configuration"), USAGE_ERROR),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), HUB, ids=[str(error) for error, _ in HUB])
def test_errors_of_the_hub(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError) as model_error, explain_load_errors("some/model", "model.name"):
        raise OSError("We couldn't connect, and couldn't find it in the cache") from error
    assert model_error.value.code == code
    explained = Hub(DataSection(source="some/dataset"))._explain(error)
    if isinstance(explained, UserError):
        explained.__cause__ = error
        assert explained.code == code
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # then nobody will be asked another time
    if isinstance(error, ConnectionError) and not error.errno:
        assert model_error.value.code == USAGE_ERROR


def test_a_hub_without_address_is_named_as_not_reachable() -> None:
    cause = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    problem = r"cannot be downloaded \(the hub is not reachable\); connect to the network, or use"
    with (
        pytest.raises(UserError, match=problem),
        explain_load_errors("some/model", "model.name"),
    ):
        raise OSError("We couldn't connect, and couldn't find it in the cache") from cause


def test_errors_of_libraries_that_are_no_oserror(tmp_path: Path) -> None:
    found = [
        (SafetensorError("I/O error: No space left on device (os error 28)"), FAILED),
        (Exception("Input/output error (os error 5)"), FAILED),
        (Exception("data did not match any variant"), USAGE_ERROR),
        (ValueError("in the file: (os error 5)"), USAGE_ERROR),
        (MemoryError(), USAGE_ERROR),  # the same command would need as much again
        (FileNotFoundError("No such file or directory: /nowhere"), USAGE_ERROR),
        # safetensors says that of any file that it cannot open
        (FileNotFoundError(f"No such file or directory: {tmp_path}"), FAILED),
        (system_error(errno.EACCES), FAILED),  # of an open file
        (system_error(errno.EACCES, tmp_path), FAILED),  # it can be read
        (system_error(errno.EACCES, "/proc/1/nowhere/x"), USAGE_ERROR),
    ]
    assert [(error, exit_code(error)) for error, _ in found] == found


def test_the_code_of_an_error_is_that_of_what_led_to_it() -> None:
    def fails(code: int | None, last: Exception) -> UserError:
        try:
            try:
                raise last
            except Exception:
                raise UserError("first", code=code) from None
        except UserError:
            with suppress(UserError):
                raise UserError("second") from None
            try:
                raise UserError("third") from None
            except UserError as third:
                return third

    assert fails(None, system_error(errno.EIO)).code == FAILED
    assert fails(USAGE_ERROR, system_error(errno.EIO)).code == USAGE_ERROR
    assert fails(FAILED, ValueError()).code == FAILED
    assert fails(None, ValueError()).code == USAGE_ERROR
    assert UserError("alone").code == USAGE_ERROR


def test_storage_says_absent_of_nothing_but_what_is(tmp_path: Path, failing: Fail) -> None:
    (tmp_path / "fails").mkdir()
    (tmp_path / "fails" / "file").touch()
    assert storage.is_file(tmp_path / "fails" / "file") and storage.is_folder(tmp_path / "fails")
    assert not storage.exists(tmp_path / "x") and not storage.exists("a\0b")
    assert not storage.exists("x" * 5000) and storage.entries(tmp_path / "none") == []
    assert [*storage.walk(tmp_path)] == [tmp_path / "fails" / "file", tmp_path / "fails", tmp_path]
    failing(errno.EACCES, "fails")  # of which `glob` makes nothing, in any version of Python
    for ask in (storage.exists, storage.is_file, storage.is_folder, storage.entries):
        with pytest.raises(PermissionError):
            ask(tmp_path / "fails")
    with pytest.raises(PermissionError):
        [*storage.walk(tmp_path)]


def test_a_folder_that_cannot_be_flushed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise system_error(errno.EINVAL)

    monkeypatch.setattr(os, "fsync", fsync)
    storage.sync(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        storage.sync(tmp_path / "file")


def test_a_leftover_that_cannot_be_deleted_blocks_no_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fixtures import safetensors_buffers

    tensors = {name: {"a": torch.ones(3)} for name in ("weights", "optimizer")}
    for name in (".step-00000003.tmp", ".step-00000003.x.tmp"):
        (tmp_path / name / "kept").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
    saved = checkpoint.save(tmp_path, 3, safetensors_buffers(tensors), {"step": 3})
    assert checkpoint.load(saved).step == 3


def test_a_checkpoint_is_deleted_only_after_it_was_read_and_found_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 9 cannot be read, or was not listed, when the run resumed from 6."""
    from tests.fixtures import safetensors_buffers

    tensors = {name: {"a": torch.ones(3)} for name in ("weights", "optimizer")}
    for step in (6, 9):
        checkpoint.save(tmp_path, step, safetensors_buffers(tensors), {"step": step})
    real = checkpoint._read_tensors

    def read(file: Path) -> dict[str, torch.Tensor]:
        if file.parent.name == "step-00000009":
            raise system_error(errno.EIO)
        return real(file)

    for fault in (read, real):
        monkeypatch.setattr(checkpoint, "_read_tensors", fault)
        saver = checkpoint.Saver(tmp_path, 1, 6, lambda step: None)
        saver.start(7, tensors, {"step": 7}, best=None)
        saver.wait()
        names = [path.name for path in checkpoint.list_checkpoints(tmp_path)]
        assert names == ["step-00000007", "step-00000009"]
    (tmp_path / "step-00000009" / "manifest.json").write_text("{}")
    saver = checkpoint.Saver(tmp_path, 1, 7, lambda step: None)
    saver.start(8, tensors, {"step": 8}, best=None)
    saver.wait()
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000008"]
