"""A save that dies at any system call leaves the newest checkpoint loadable and every earlier one intact."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from distsent.runtime import checkpoint
from distsent.runtime.checkpoint import Saver
from tests.chaos.trace import die_at
from tests.fixtures import safetensors_buffers


@cache  # made before the fork: a child of a process with threads should compute nothing
def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(step)
    return {
        group: {f"{group}.{i}": torch.randn(64, 33, generator=rng) for i in range(3)}
        for group in ("weights", "optimizer")
    }


def is_that_of(found: checkpoint.Checkpoint | None, step: int) -> bool:
    expected = tensors(step)
    return (
        found is not None
        and found.step == step
        and all(
            checkpoint.weights_sha256(found.tensors[group])
            == checkpoint.weights_sha256(expected[group])
            for group in expected
        )
    )


def put(folder: Path, step: int, keep: int = 2) -> None:
    """What the saver's thread does for a save, in this thread."""
    checkpoint.save(folder, step, safetensors_buffers(tensors(step)), {"step": step})
    checkpoint.prune(folder, keep, best=None)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Two checkpoints, and a trace of a save that died."""
    folder = tmp_path / "before"
    for step in (3, 6):
        put(folder, step)
    shutil.copytree(folder / "step-00000003", folder / ".step-00000009.tmp")
    return folder


def survives(before: Path, folder: Path, call: int, again: int | None = None) -> None:
    """Die at system call `call` of a save; look; save again, as the run that carries on does."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    step = again or 9
    tensors(step)
    die_at(call, lambda: put(folder, step))
    damaged: list[str] = []
    found = checkpoint.load_newest(folder, damaged.append)
    assert damaged == [], (
        f"call {call}: a crash leaves nothing that looks like a checkpoint and is none"
    )
    assert is_that_of(found, 6) or is_that_of(found, 9), f"call {call}"
    left = [path.name for path in checkpoint.list_checkpoints(folder)]
    assert "step-00000006" in left, f"call {call}"
    assert "step-00000003" in left or "step-00000009" in left, (
        f"call {call}: the oldest goes when the newest is there, not before"
    )
    put(folder, 9)
    assert sorted(os.listdir(folder)) == ["step-00000006", "step-00000009"], f"call {call}"
    assert is_that_of(checkpoint.load_newest(folder), 9)


def calls(before: Path, folder: Path, step: int = 9) -> int:
    """How many crash points a save of `step` has."""
    shutil.copytree(before, folder)
    tensors(step)
    try:
        count = die_at(None, lambda: put(folder, step))
    except OSError as error:
        pytest.skip(f"nobody may trace processes here ({error})")
    assert count is not None
    return count


def test_a_save_that_dies_at_a_system_call_loses_nothing(tmp_path: Path, before: Path) -> None:
    count = calls(before, tmp_path / "whole")
    assert count > 100
    for call in range(1, count + 1, 23):  # a sample: `make chaos` takes them all
        survives(before, tmp_path / "run", call)


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_a_save_that_dies_at_any_system_call_loses_nothing(tmp_path: Path, before: Path) -> None:
    count = calls(before, tmp_path / "whole")
    for call in range(1, count + 1):
        survives(before, tmp_path / "run", call)
    print(f"{count} crash points")


def test_saving_a_step_again_never_takes_the_whole_one_away(tmp_path: Path, before: Path) -> None:
    """The same step is saved twice where a run went back behind it: the one that is there is never touched."""
    count = calls(before, tmp_path / "whole", step=6)
    for call in range(1, count + 1, 11):
        survives(before, tmp_path / "run", call, again=6)


def test_everything_is_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps what was synced: all files and their folder before the rename, the parent after it."""
    told: list[str] = []
    sync, rename = checkpoint.sync, os.rename
    monkeypatch.setattr(checkpoint, "sync", lambda path: told.append(path.name) or sync(path))
    monkeypatch.setattr(os, "rename", lambda *paths: told.append("rename") or rename(*paths))
    checkpoint.save(tmp_path, 9, safetensors_buffers(tensors(9)), {})
    assert sorted(told[:5]) == [
        ".step-00000009.tmp", "manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors"]  # fmt: skip
    assert told[4:] == [".step-00000009.tmp", "rename", tmp_path.name]


def test_what_lies_behind_the_step_that_is_carried_on_from_pushes_no_good_one_out(
    tmp_path: Path,
) -> None:
    """Step 9 is damaged, the run goes on from 6 and saves 7: with one to keep, that is 7."""
    for step in (6, 9):
        checkpoint.save(tmp_path, step, safetensors_buffers(tensors(step)), {"step": step})
    (tmp_path / "step-00000009" / "weights.safetensors").write_bytes(b"")
    saver = Saver(tmp_path, keep=1)
    saver.start(7, tensors(7), {"step": 7}, best=None)
    saver.wait()
    assert is_that_of(checkpoint.load_newest(tmp_path), 7)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000007"]


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_saved_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 9, safetensors_buffers(tensors(9)), {})
    (tmp_path / "step-00000009" / "state.json").unlink()
    checkpoint.save(tmp_path, 9, safetensors_buffers(tensors(9)), {})
    assert is_that_of(checkpoint.load_newest(tmp_path), 9)
