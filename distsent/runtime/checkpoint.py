"""Checkpoints: complete or absent.

A checkpoint is a folder `step-00000500/` of safetensors and JSON, with a manifest of sizes and
hashes. It is written under a temporary name, synced, and renamed. Readers verify the hashes and
fall back to the newest intact one. There are no pickles.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from xxhash import xxh3_128

from distsent.errors import FAILED, UserError
from distsent.machine_errors import errno_of
from distsent.runtime.ownership import Owner
from distsent.runtime.safetensors_buffer import SafetensorsBuffer
from distsent.storage import entries, exists, is_file, sync

FOLDER = "step-{:08d}"
PATTERN = re.compile(r"step-(\d{8,})")
MANIFEST = "manifest.json"
REQUIRED = {"weights.safetensors", "optimizer.safetensors", "state.json"}
# Against accidents only, and ten times as fast as SHA-256: a forger could replace the manifest too.
HASH = "xxh3_128"

# Errors of the system that a damaged checkpoint leads to. With any other one it may be intact.
DAMAGED = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO,
)  # fmt: skip
# What damaged files raise while they are read.
DAMAGE = OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError

Tensors = Mapping[str, torch.Tensor]
State = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` steps: tensors by group ("weights", "optimizer") and plain values."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    buffers: Mapping[str, SafetensorsBuffer],
    state: State,
    owner: Owner | None = None,
) -> Path:
    """Write a checkpoint. Raises UserError if the disk refuses; earlier ones stay as they are.

    Equal steps have equal bits, so an intact checkpoint of this step is left alone.
    """
    owner = owner or Owner()
    final = folder / FOLDER.format(step)
    temporary = owner.temporary(final)
    try:
        if exists(final):
            with suppress(ValueError):
                load(final)
                return final
            owner.delete(final)
        temporary.mkdir(parents=True)
        text = json.dumps(state)
        (temporary / "state.json").write_text(text, encoding="utf-8")
        manifest = {"state.json": {"bytes": len(text), HASH: xxh3_128(text.encode()).hexdigest()}}
        for name, buffer in buffers.items():
            buffer.write(temporary / f"{name}.safetensors")
            manifest[f"{name}.safetensors"] = {"bytes": buffer.size, HASH: buffer.digest()}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [*(temporary / name for name in manifest), temporary / MANIFEST, temporary]:
            sync(path)
        owner.publish_folder(temporary, final)
        sync(folder)
    except OSError as error:
        with suppress(OSError):
            owner.check()  # a new owner has moved what we wrote
        problem = f"{final}: the checkpoint could not be written ({error})"
        fix = "the earlier ones are intact: free some space, then run the same command again"
        raise UserError(f"{problem}; {fix}", code=FAILED) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its hashes. Raises ValueError if it is damaged.

    Raises UserError if the disk or the system fails: the checkpoint may be intact, so the run must
    not fall back to an older one.
    """
    try:
        names = [name for name in _verify(path) if name.endswith(".safetensors")]
        tensors = {Path(name).stem: _read_tensors(path / name) for name in names}
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError("state.json is not an object")
    except DAMAGE as error:
        number = errno_of(error)
        if number is not None and number not in DAMAGED:
            problem = f"{path}: cannot be read ({os.strerror(number)}); nothing was changed"
            fix = (
                "fix that and run the same command again, or remove it to resume from an older one"
            )
            raise UserError(f"{problem}: {fix}", code=FAILED) from None
        raise ValueError(f"{path}: {error}") from None
    return Checkpoint(step_of(path), tensors, state)


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file whose hash is right. Raises one of DAMAGE."""
    try:
        return load_file(file)
    except FileNotFoundError:  # what safetensors makes of any error
        with open(file, "rb"):
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None


def _verify(path: Path) -> list[str]:
    """The names in the manifest, once sizes and hashes match. Raises one of DAMAGE."""
    entries(path)  # if another host wrote it: see `storage.appears`
    if not is_file(path / MANIFEST):
        raise ValueError(f"there is no {MANIFEST}")
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    for name, entry in manifest.items():
        file = path / name
        if Path(name).name != name or not is_file(file):
            raise ValueError(f"{name!r} in {MANIFEST} is not a file of this checkpoint")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise ValueError(f"{name} has {size} bytes instead of {entry['bytes']}")
        with open(file, "rb") as content:
            if hashlib.file_digest(content, xxh3_128).hexdigest() != entry[HASH]:
                raise ValueError(f"{name} does not match its hash")
    if not PATTERN.fullmatch(path.name) or REQUIRED - set(manifest):
        raise ValueError(f"{MANIFEST} does not list all files of a checkpoint")
    return list(manifest)


def load_newest(folder: Path, warn: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """The newest intact checkpoint; `warn` gets a line for each damaged one. Raises UserError."""
    try:
        found = list_checkpoints(folder)
    except OSError as error:
        problem = f"{folder}: cannot be listed ({error.strerror}); nothing was changed"
        fix = "fix that and run the same command again"
        raise UserError(f"{problem}: {fix}", code=FAILED) from None
    for path in reversed(found):
        try:
            return load(path)
        except ValueError as error:
            warn(f"skipped a damaged checkpoint: {error}")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders, oldest first, without temporary ones. Raises OSError."""
    found = [path for path in entries(folder) if PATTERN.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def prune(
    folder: Path, keep: int, best: int | None, newest: int | None = None, owner: Owner | None = None
) -> None:
    """Delete all checkpoints but the `keep` up to step `newest` and the one of step `best`.

    Later ones than `newest` stay, and do not count as kept. Also deletes what crashed saves left.
    What cannot be listed or deleted only costs space. Raises UserError if another start owns the
    folder.
    """
    owner = owner or Owner()
    with suppress(OSError):
        owner.sweep(folder)
        found = list_checkpoints(folder)
        superseded = [path for path in found if newest is None or step_of(path) <= newest][:-keep]
        for path in superseded:
            if step_of(path) != best:
                with suppress(OSError):
                    owner.delete(path)


def weights_sha256(weights: Tensors) -> str:
    """A hash of named tensors: equal if and only if names, shapes, types and all bits are."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Saver:
    """Saves in the background: copies the state, then writes it in a thread, one save at a time.

    `resumed_from`: the step at which the run resumed. Checkpoints of later steps should be damaged,
    or it would have resumed from them; those that are get deleted. `on_saved`: called in the thread
    with each saved step. `owner`: of the run folder.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        resumed_from: int,
        on_saved: Callable[[int], None],
        owner: Owner | None = None,
    ) -> None:
        self._folder, self._keep, self._on_saved = folder, keep, on_saved
        self._owner = owner or Owner()
        self._unread_after: int | None = resumed_from
        # Reused: allocating fresh memory costs more than the copy.
        self._buffers: dict[str, SafetensorsBuffer] = {}
        self._thread = ThreadPoolExecutor(1, "save")
        self._saving: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether `wait` would raise: a save failed, or another start owns the folder."""
        saving = self._saving
        if self._owner.lost:
            return True
        return saving is not None and saving.done() and saving.exception() is not None

    def start(
        self, step: int, tensors: Mapping[str, Tensors], state: State, best: int | None
    ) -> None:
        """Wait for the previous save, copy the state, and write it in the background.

        Raises nothing about the owner, as `wait` does: other workers would train on.
        """
        self._wait_for_save()
        for name, group in tensors.items():
            if name not in self._buffers or not self._buffers[name].fits(group):
                self._buffers[name] = SafetensorsBuffer(group)
            self._buffers[name].fill(group)
        copied = json.loads(json.dumps(state))
        self._saving = self._thread.submit(self._write, step, copied, best)

    def _write(self, step: int, state: State, best: int | None) -> None:
        with suppress(OSError):  # under `nice`, only root may raise a priority to 5
            # Of this thread: training takes precedence.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        save(self._folder, step, self._buffers, state, self._owner)
        self._on_saved(step)
        with suppress(OSError):
            self._delete_damaged(step)
        prune(self._folder, self._keep, best, step, self._owner)

    def _delete_damaged(self, saved: int) -> None:
        """Delete, once, the later checkpoints that are damaged: after reading each."""
        if self._unread_after is None:
            return
        for path in list_checkpoints(self._folder):
            if step_of(path) > self._unread_after and step_of(path) != saved:
                try:
                    load(path)
                except UserError:
                    continue  # perhaps it is intact
                except ValueError:
                    self._owner.delete(path)
        self._unread_after = None

    def wait(self) -> None:
        """Wait for the current save. Raises its error, or that another start owns the folder."""
        self._wait_for_save()
        if self._owner.lost:
            self._owner.check()

    def _wait_for_save(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """Wait for the current save, whether it succeeds or not."""
        self._thread.shutdown()
