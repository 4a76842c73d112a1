"""A crash at any system call of a save leaves the newest checkpoint loadable, others intact."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from distsent.runtime import checkpoint
from distsent.runtime.checkpoint import Saver
from tests.chaos.syscalls import kill_at_syscall
from tests.fixtures import safetensors_buffers


@cache  # created before the fork: a child of a process with threads should compute nothing
def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(step)
    return {
        group: {f"{group}.{i}": torch.randn(64, 33, generator=rng) for i in range(3)}
        for group in ("weights", "optimizer")
    }


def holds_step(found: checkpoint.Checkpoint | None, step: int) -> bool:
    """Whether a checkpoint is that of `step`, with its tensors."""
    if found is None or found.step != step:
        return False
    return all(
        checkpoint.weights_sha256(found.tensors[group]) == checkpoint.weights_sha256(expected)
        for group, expected in tensors(step).items()
    )


def save(folder: Path, step: int, keep: int = 2) -> None:
    """A save as the saver's thread does it, in this thread."""
    checkpoint.save(folder, step, safetensors_buffers(tensors(step)), {"step": step})
    checkpoint.prune(folder, keep, best=None)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Two checkpoints, and the remains of a save that crashed."""
    folder = tmp_path / "before"
    for step in (3, 6):
        save(folder, step)
    shutil.copytree(folder / "step-00000003", folder / ".step-00000009.tmp")
    return folder


def crash_and_save_again(before: Path, folder: Path, call: int, step: int = 9) -> None:
    """Crash at system call `call` of a save, inspect, then save again as a resumed run does."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    tensors(step)
    kill_at_syscall(call, lambda: save(folder, step))
    damaged: list[str] = []
    found = checkpoint.load_newest(folder, damaged.append)
    assert damaged == [], f"call {call}: a crash leaves no damaged checkpoint"
    assert holds_step(found, 6) or holds_step(found, 9), f"call {call}"
    left = [path.name for path in checkpoint.list_checkpoints(folder)]
    assert "step-00000006" in left, f"call {call}"
    oldest_or_newest = "step-00000003" in left or "step-00000009" in left
    assert oldest_or_newest, f"call {call}: the oldest was deleted before the newest was there"
    save(folder, 9)
    assert sorted(os.listdir(folder)) == ["step-00000006", "step-00000009"], f"call {call}"
    assert holds_step(checkpoint.load_newest(folder), 9)


def crash_points(before: Path, folder: Path, step: int = 9) -> int:
    """The number of crash points in a save of `step`."""
    shutil.copytree(before, folder)
    tensors(step)
    try:
        count = kill_at_syscall(None, lambda: save(folder, step))
    except OSError as error:
        pytest.skip(f"tracing processes is forbidden here ({error})")
    assert count is not None
    return count


def test_a_crash_at_a_system_call_loses_nothing(tmp_path: Path, before: Path) -> None:
    count = crash_points(before, tmp_path / "complete")
    assert count > 100
    for call in range(1, count + 1, 23):  # a sample; `make chaos` takes all of them
        crash_and_save_again(before, tmp_path / "run", call)


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_a_crash_at_any_system_call_loses_nothing(tmp_path: Path, before: Path) -> None:
    count = crash_points(before, tmp_path / "complete")
    for call in range(1, count + 1):
        crash_and_save_again(before, tmp_path / "run", call)
    print(f"{count} crash points")


def test_saving_a_step_again_never_deletes_the_intact_checkpoint(
    tmp_path: Path, before: Path
) -> None:
    """A step is saved twice if a run resumed before it. The existing checkpoint stays untouched."""
    count = crash_points(before, tmp_path / "complete", step=6)
    for call in range(1, count + 1, 11):
        crash_and_save_again(before, tmp_path / "run", call, step=6)


def test_everything_is_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps what was synced: files and folder before the rename, then the parent."""
    calls: list[str] = []
    sync, rename = checkpoint.sync, os.rename
    monkeypatch.setattr(checkpoint, "sync", lambda path: calls.append(path.name) or sync(path))
    monkeypatch.setattr(os, "rename", lambda *paths: calls.append("rename") or rename(*paths))
    checkpoint.save(tmp_path, 9, safetensors_buffers(tensors(9)), {})
    files = ["manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors"]
    *content, temporary = calls[:5]
    assert sorted(content) == files and re.fullmatch(r"\.step-00000009\.[\w-]+\.tmp", temporary)
    assert calls[5:] == ["rename", tmp_path.name]


def test_a_damaged_later_checkpoint_does_not_count_as_one_to_keep(tmp_path: Path) -> None:
    """Step 9 is damaged, so the run resumes from 6 and saves 7: with one to keep, that is 7."""
    for step in (6, 9):
        checkpoint.save(tmp_path, step, safetensors_buffers(tensors(step)), {"step": step})
    (tmp_path / "step-00000009" / "weights.safetensors").write_bytes(b"")
    saver = Saver(tmp_path, 1, 0, lambda step: None)
    saver.start(7, tensors(7), {"step": 7}, best=None)
    saver.wait()
    assert holds_step(checkpoint.load_newest(tmp_path), 7)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000007"]


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_saved_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 9, safetensors_buffers(tensors(9)), {})
    (tmp_path / "step-00000009" / "state.json").unlink()
    checkpoint.save(tmp_path, 9, safetensors_buffers(tensors(9)), {})
    assert holds_step(checkpoint.load_newest(tmp_path), 9)
