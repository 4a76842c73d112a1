"""A checkpoint is complete or absent, whenever a machine dies and whatever happens to its files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import safetensors.torch
import torch

from distsent.errors import UserError
from distsent.runtime import checkpoint, safetensors_buffer
from distsent.runtime.checkpoint import (
    Checkpoint,
    Saver,
    list_checkpoints,
    load,
    load_newest,
    prune,
    save,
    weights_sha256,
)
from distsent.runtime.ownership import Owner
from distsent.runtime.safetensors_buffer import SafetensorsBuffer
from tests.fixtures import safetensors_buffers


def ignore(step: int) -> None:
    """Called for each saved step."""


STATE = {"progress": {"step": 3, "loss": 0.1 + 0.2}, "updates": 3, "scale": [1.0, 0]}


def tensors(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 4), "b.bias": (5,)}
    return {
        "weights": {
            name: torch.randn(shape, generator=generator) for name, shape in shapes.items()
        },
        "optimizer": {
            f"exp_avg.{name}": torch.randn(shape, generator=generator)
            for name, shape in shapes.items()
        },
    }


def holds(found: Checkpoint | None, step: int) -> bool:
    """Whether `found` equals, to the last bit, what `put` saved at `step`."""
    if found is None or found.step != step or found.state != STATE | {"step": step}:
        return False
    expected = tensors(step)
    return found.tensors.keys() == expected.keys() and all(
        weights_sha256(found.tensors[group]) == weights_sha256(expected[group])
        for group in expected
    )


def put(folder: Path, step: int) -> Path:
    return save(folder, step, safetensors_buffers(tensors(step)), STATE | {"step": step})


def test_a_loaded_checkpoint_equals_the_saved_one_to_the_last_bit(tmp_path: Path) -> None:
    path = put(tmp_path, 7)
    assert path.name == "step-00000007" and holds(load(path), 7) and holds(load_newest(tmp_path), 7)
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors"]  # fmt: skip
    put(tmp_path, 12)
    assert holds(load_newest(tmp_path), 12) and [p.name for p in list_checkpoints(tmp_path)] == [
        "step-00000007",
        "step-00000012",
    ]


def test_a_missing_or_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert (
        load_newest(tmp_path / "none") is None
        and load_newest(tmp_path) is None
        and list_checkpoints(tmp_path / "none") == []
    )


def test_checkpoints_are_ordered_by_step_and_other_folders_are_ignored(tmp_path: Path) -> None:
    for name in (
        "step-00000009",
        "step-100000000",
        "step-00000010",
        "step-7",
        "step-0000001x",
        ".step-00000011.tmp",
    ):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000009",
        "step-00000010",
        "step-100000000",
    ]


# Crashes: before every call that reaches the system, and halfway through it


class Crash(BaseException):
    """The machine dies: no exception handler runs, so none may catch this."""


CALLS: tuple[tuple[Any, str], ...] = (
    (checkpoint.os, "rename"), (checkpoint.os, "fsync"), (checkpoint.os, "open"),
    (checkpoint.os, "close"), (checkpoint.os, "pwrite"), (checkpoint.os, "ftruncate"),
    (SafetensorsBuffer, "digest"), (Path, "mkdir"), (Path, "write_text"),
    (checkpoint.shutil, "rmtree"),
)  # fmt: skip


def crashing(patch: pytest.MonkeyPatch, at: int, cut: bool) -> None:
    """Let the `at`-th of all CALLS crash: before it does anything, or halfway through (`cut`)."""
    count = iter(range(10**6))

    def wrapped(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(count) == at:
                if cut:
                    half_done(name, args)
                raise Crash
            return real(*args, **kwargs)

        return call

    for owner, name in CALLS:
        patch.setattr(owner, name, wrapped(getattr(owner, name), name))


def half_done(name: str, args: tuple[Any, ...]) -> None:
    """Do what a call may have done when it is cut short, by means that are not patched."""
    if name == "write_text":
        with open(args[0], "w", encoding="utf-8") as file:
            file.write(args[1][: len(args[1]) // 2])
    elif name == "pwrite":
        safetensors_buffer._set_direct_io(args[0], False)  # direct I/O takes only full pages
        os.write(args[0], args[1][: len(args[1]) // 2])
    elif name == "rmtree" and Path(args[0]).is_dir():
        for entry in sorted(os.scandir(args[0]), key=lambda entry: entry.name)[:2]:
            os.unlink(entry)


def crashes(
    tmp_path: Path, work: Callable[[Path], None], before: Callable[[Path], None]
) -> Iterator[tuple[Path, bool]]:
    """(folder, whether the work ended) for a crash at every call that `work` makes."""
    for cut in (False, True):
        for at in range(1000):
            folder = tmp_path / f"{cut}-{at}"
            before(folder)
            with pytest.MonkeyPatch.context() as patch:
                crashing(patch, at, cut)
                try:
                    work(folder)
                    ended = True
                except Crash:
                    ended = False
            yield folder, ended
            shutil.rmtree(folder)
            if ended:
                break
        else:
            raise AssertionError("the work does not end")


def test_a_crash_at_any_point_of_a_save_leaves_the_old_or_the_new_checkpoint_intact(
    tmp_path: Path,
) -> None:
    points = 0
    for folder, ended in crashes(
        tmp_path, lambda folder: put(folder, 2) and None, lambda folder: put(folder, 1) and None
    ):
        points += 1
        warnings: list[str] = []
        found = load_newest(folder, warnings.append)
        assert holds(found, 2) if ended else holds(found, 1) or holds(found, 2)
        assert warnings == [], "a crash leaves no damaged checkpoint"
        assert holds(load(put(folder, 2)), 2), "the leftovers do not disturb the next save"
        prune(folder, keep=2, best=None)
        assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]
    assert points > 40


def test_a_crash_at_any_point_of_pruning_loses_no_kept_checkpoint(tmp_path: Path) -> None:
    def before(folder: Path) -> None:
        for step in (1, 2, 3, 4):
            put(folder, step)

    for folder, _ in crashes(tmp_path, lambda folder: prune(folder, keep=1, best=2), before):
        warnings: list[str] = []
        assert holds(load_newest(folder, warnings.append), 4) and warnings == []
        assert holds(load(folder / "step-00000002"), 2)
        prune(folder, keep=1, best=2)
        assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000004"]


def test_pruning_deletes_what_a_crashed_save_of_the_same_step_left(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        put(tmp_path, step)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000001.tmp")
    prune(tmp_path, keep=1, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_disk_error_is_one_line_and_keeps_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    put(tmp_path, 1)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(
            UserError,
            match=r"step-00000002: the checkpoint could not be written \(.*No space left on device",
        ) as caught:
            put(tmp_path, 2)
    assert len(caught.value.lines) == 1
    assert holds(load_newest(tmp_path), 1) and [path.name for path in tmp_path.iterdir()] == [
        "step-00000001"
    ]


# Damage: load_newest() falls back to an intact checkpoint or finds none

FILES = ("manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors")


def damage(rng: random.Random, path: Path) -> str:
    """Damage a checkpoint's files; returns how."""
    name = rng.choice(FILES)
    file, content = path / name, (path / name).read_bytes()
    kind = rng.choice(
        (
            "flip",
            "flips",
            "cut",
            "empty",
            "append",
            "delete",
            "garbage",
            "swap",
            "insert",
            "json",
            "folder",
        )
    )
    if kind == "flip":
        at = rng.randrange(len(content))
        file.write_bytes(
            content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        )
    elif kind == "flips":
        file.write_bytes(
            bytes(byte ^ (rng.random() < 0.02) * rng.randrange(256) for byte in content)
        )
    elif kind == "cut":
        file.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "append":
        file.write_bytes(content + rng.randbytes(rng.randrange(1, 9)))
    elif kind == "delete":
        file.unlink()
    elif kind == "garbage":
        file.write_bytes(rng.randbytes(len(content)))
    elif kind == "swap":
        other = path / rng.choice(FILES)
        file.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind == "insert":
        at = rng.randrange(len(content))
        file.write_bytes(content[:at] + rng.randbytes(1) + content[at:])
    elif kind == "json":
        wrong: Any = [
            None, 1, "x", [], {}, [1], {"a": 1}, {"state.json": None}, {"state.json": {"bytes": 1}},
            {"": {}}, {"\0": {}}, {name: {"bytes": None, checkpoint.HASH: 3} for name in FILES},
            {"../step-00000001/state.json": {"bytes": 0}},
        ]  # fmt: skip
        (path / "manifest.json").write_text(json.dumps(rng.choice(wrong)))
    else:
        file.unlink()
        file.mkdir()
    return f"{kind} {name}"


def test_hundreds_of_damaged_checkpoints_are_never_loaded_in_part(tmp_path: Path) -> None:
    put(tmp_path, 1)
    put(tmp_path / "fresh", 2)
    rng, path = random.Random(0), tmp_path / "step-00000002"
    skipped = 0
    for _ in range(600):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tmp_path / "fresh" / "step-00000002", path)
        what = damage(rng, path)
        warnings: list[str] = []
        found = load_newest(tmp_path, warnings.append)
        if holds(found, 2):
            continue  # only white space in the manifest changed, or a file was swapped with itself
        assert holds(found, 1), what
        assert len(warnings) == 1 and "step-00000002" in warnings[0] and "\n" not in warnings[0], (
            what,
            warnings,
        )
        with pytest.raises(ValueError):
            load(path)
        skipped += 1
    assert skipped > 500


def test_a_deeply_nested_manifest_is_skipped(tmp_path: Path) -> None:
    put(tmp_path, 1)
    (put(tmp_path, 2) / "manifest.json").write_text("[" * 100_000)
    assert holds(load_newest(tmp_path), 1)


def test_if_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (put(tmp_path, step) / "state.json").write_text("{}")
    warnings: list[str] = []
    assert load_newest(tmp_path, warnings.append) is None
    assert [line.split("/")[-1].split(":")[0] for line in warnings] == [
        "step-00000003",
        "step-00000002",
        "step-00000001",
    ]


def test_a_file_that_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    path = put(tmp_path, 1)
    safetensors.torch.save_file({"x": torch.ones(1)}, path / "extra.safetensors")
    assert set(load(path).tensors) == {"weights", "optimizer"}


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_manifest_without_a_required_file_is_damage(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest[name]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="does not list all files of a checkpoint"):
        load(path)


# Pruning and the saver


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [5]), (2, None, [4, 5]), (2, 1, [1, 4, 5]), (2, 5, [4, 5]), (9, 2, [1, 2, 3, 4, 5])],
)
def test_pruning_keeps_the_newest_and_the_best(
    tmp_path: Path, keep: int, best: int | None, left: list[int]
) -> None:
    for step in range(1, 6):
        put(tmp_path, step)
    (tmp_path / ".step-00000009.tmp").mkdir()
    prune(tmp_path, keep, best)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}" for step in left]


def test_the_saver_writes_copies_in_the_order_of_its_calls(tmp_path: Path) -> None:
    saver, live = Saver(tmp_path, 5, 0, ignore), tensors(1)
    saver.start(1, live, STATE | {"step": 1}, best=None)
    for group in live.values():
        for tensor in group.values():
            tensor.zero_()  # training continues at once and must not change the copy
    saver.start(2, tensors(2), STATE | {"step": 2}, best=None)
    saver.wait()
    assert holds(load(tmp_path / "step-00000001"), 1) and holds(load_newest(tmp_path), 2)


def test_training_continues_while_the_saver_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = threading.Event()
    real = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: resume.wait(20) and real(*args))
    saver = Saver(tmp_path, 5, 0, ignore)
    saver.start(1, tensors(1), STATE | {"step": 1}, best=None)
    assert load_newest(tmp_path) is None
    resume.set()
    saver.wait()
    assert holds(load_newest(tmp_path), 1)


@pytest.mark.parametrize("when", ["start", "wait"])
def test_an_error_of_the_saver_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def broken(*args: Any) -> None:
        raise UserError("no room")

    monkeypatch.setattr(checkpoint, "save", broken)
    saver = Saver(tmp_path, 5, 0, ignore)
    saver.start(1, tensors(1), STATE, best=None)
    with pytest.raises(UserError, match="no room"):
        saver.wait() if when == "wait" else saver.start(2, tensors(2), STATE, best=None)
    saver.wait()  # raised once


def test_a_lost_folder_is_no_error_of_the_call_that_workers_do_not_answer(tmp_path: Path) -> None:
    """`start` runs after the workers have agreed that all is well: they would wait for rank 0."""

    class Lost(Owner):
        lost = True  # type: ignore[assignment]

        def check(self) -> None:
            raise UserError("another start owns the folder")

    saver = Saver(tmp_path, 5, 0, ignore, Lost())
    saver.start(1, tensors(1), STATE, best=None)
    saver.close()
    assert saver.failed and not list_checkpoints(tmp_path)
    with pytest.raises(UserError, match="another start"):
        saver.wait()


def test_the_hash_of_weights_depends_on_names_shapes_and_every_bit() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)}, {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3)}, {"a": -torch.zeros(2, 3), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3).double(), "b": torch.ones(1)},
    ]  # fmt: skip
    hashes = [weights_sha256(weights) for weights in (one, *others)]
    assert len(set(hashes)) == len(hashes)
    assert weights_sha256({"b": torch.ones(1), "a": torch.zeros(3, 2).T.contiguous()}) == hashes[0]


# Disks and systems in trouble


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE])
def test_what_cannot_be_read_now_is_not_given_up_for_an_older_one(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1), put(tmp_path, 2)
    real, warnings = hashlib.file_digest, []  # type: ignore[var-annotated]

    def fails(file: BinaryIO, kind: Any) -> Any:
        if Path(file.name).parent.name.endswith("2"):
            raise OSError(code, os.strerror(code))
        return real(file, kind)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.hashlib, "file_digest", fails)
        with pytest.raises(
            UserError,
            match=r"step-00000002: cannot be read .*; nothing was changed: fix that and run the",
        ):
            load_newest(tmp_path, warnings.append)
    assert not warnings and holds(load_newest(tmp_path), 2)


def test_damaged_checkpoints_never_push_out_good_ones(tmp_path: Path) -> None:
    put(tmp_path, 6), put(tmp_path, 9)
    (tmp_path / "step-00000009" / "weights.safetensors").write_bytes(b"")
    assert holds(load_newest(tmp_path), 6)
    saver = Saver(tmp_path, 2, 6, ignore)
    saver.start(11, tensors(11), STATE | {"step": 11}, best=None)
    saver.wait()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006", "step-00000011"]
    (tmp_path / "step-00000011" / "weights.safetensors").write_bytes(b"")
    assert holds(load_newest(tmp_path), 6)


def test_a_damaged_step_that_is_saved_again_counts(tmp_path: Path) -> None:
    put(tmp_path, 6), put(tmp_path, 9)
    (tmp_path / "step-00000009" / "weights.safetensors").write_bytes(b"")
    saver = Saver(tmp_path, 2, 6, ignore)
    for step in (9, 12):
        saver.start(step, tensors(step), STATE | {"step": step}, best=None)
    saver.wait()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000009",
        "step-00000012",
    ] and holds(load_newest(tmp_path), 12)


def test_under_nice_a_save_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint.os, "setpriority", refused)
    saver = Saver(tmp_path, 2, 0, ignore)
    saver.start(3, tensors(3), STATE | {"step": 3}, best=None)
    saver.wait()
    assert holds(load_newest(tmp_path), 3)
