"""Checkpoints: complete or absent.

A checkpoint is a folder `step-00000500/` of safetensors and JSON with a manifest of sizes and hashes. It is written under a
temporary name, synced, and renamed into place; a reader believes nothing but the hashes and walks back to the newest good one.
Nothing here is a pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from xxhash import xxh3_128

from distsent.errors import FAILED, UserError
from distsent.fsync import sync
from distsent.runtime.safetensors_buffer import SafetensorsBuffer

FOLDER = "step-{:08d}"
PATTERN = re.compile(r"step-(\d{8,})")
MANIFEST = "manifest.json"
HASH = "xxh3_128"  # against accidents, ten times as fast as SHA-256: whoever can forge a file can forge a manifest

# What a disk or a system in trouble answers: the file may be whole all the same.
TROUBLE = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN,
)  # fmt: skip

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps: groups of named tensors ("weights", "optimizer") and plain state."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]


def save(
    folder: Path, step: int, images: Mapping[str, SafetensorsBuffer], state: Mapping[str, Any]
) -> Path:
    """Write one checkpoint. Raises UserError when the disk does not take it; earlier checkpoints stay as they are.

    The same step holds the same bits: one that is there already, whole, is never touched again.
    """
    final = folder / FOLDER.format(step)
    temporary = folder / f".{final.name}.tmp"
    if _is_whole(final):
        return final
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        if final.exists():
            os.rename(final, temporary)
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        text = json.dumps(state)
        (temporary / "state.json").write_text(text, encoding="utf-8")
        manifest = {"state.json": {"bytes": len(text), HASH: xxh3_128(text.encode()).hexdigest()}}
        for name, image in images.items():
            image.write(temporary / f"{name}.safetensors")
            manifest[f"{name}.safetensors"] = {"bytes": image.size, HASH: image.digest()}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [*(temporary / name for name in manifest), temporary / MANIFEST, temporary]:
            sync(path)
        os.rename(temporary, final)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"{final}: the checkpoint could not be written ({error}); the earlier ones are whole: make room, then run the "
            "same command again",
            code=FAILED,
        ) from None
    return final


def load(path: Path) -> Checkpoint:
    """Read one checkpoint and hold it against its manifest. Raises ValueError naming what is wrong with it, and UserError where
    the disk does not let it be read: then it may be whole, and must not be given up for an older one.
    """
    match = PATTERN.fullmatch(path.name)
    try:
        if not (path / MANIFEST).is_file():  # a device or a pipe could be read for ever
            raise ValueError(f"it has no {MANIFEST}")
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in manifest.items():
            if Path(name).name != name or not (path / name).is_file():
                raise ValueError(f"{name!r} is no file of it")
            if (path / name).stat().st_size != entry["bytes"]:
                raise ValueError(
                    f"{name} has {(path / name).stat().st_size} bytes, not {entry['bytes']}"
                )
            if _digest(path / name) != entry[HASH]:
                raise ValueError(f"{name} does not match its hash")
        if match is None or {"weights.safetensors", "optimizer.safetensors", "state.json"} - set(
            manifest
        ):
            raise ValueError(f"{MANIFEST} does not list what a checkpoint holds")
        tensors = {
            name[: -len(".safetensors")]: load_file(path / name)
            for name in manifest
            if name.endswith(".safetensors")
        }
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError("state.json holds no state")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        if isinstance(error, OSError) and error.errno in TROUBLE:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); nothing was changed: mend that and run the same command again, or "
                "remove this checkpoint to carry on behind an older one",
                code=FAILED,
            ) from None
        raise ValueError(f"{path}: {error}") from None
    return Checkpoint(int(match.group(1)), tensors, state)


def newest(folder: Path, say: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """The newest checkpoint that is whole; `say` hears of every one that is passed over. Raises UserError as `load` does."""
    for path in reversed(steps(folder)):
        try:
            return load(path)
        except ValueError as error:
            say(f"passed over a damaged checkpoint: {error}")
    return None


def steps(folder: Path) -> list[Path]:
    """All checkpoint folders, oldest first; temporary ones are none."""
    found = (
        [path for path in folder.glob("step-*") if PATTERN.fullmatch(path.name)]
        if folder.is_dir()
        else []
    )
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step behind which a checkpoint folder was saved."""
    return int(path.name[5:])


def prune(folder: Path, keep: int, best: int | None, damaged: Container[int] = ()) -> None:
    """Delete all but the newest `keep` and the one of step `best`, and what crashes left behind.

    Steps that are `damaged` go first: they must not push out good ones.
    """
    found = steps(folder)
    good = [path for path in found if step_of(path) not in damaged]
    for path in [
        *folder.glob(".step-*.tmp"),
        *good[:-keep],
        *(path for path in found if path not in good),
    ]:
        if best is None or path.name != FOLDER.format(best):
            with suppress(OSError):  # what cannot be deleted costs space, and no step
                doomed = (
                    path if path.name.startswith(".") else path.rename(folder / f".{path.name}.tmp")
                )
                shutil.rmtree(doomed, ignore_errors=True)


def weights_sha256(weights: Tensors) -> str:
    """One hash for named tensors: equal if and only if names, shapes and all bits are."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Saver:
    """Saves off the training path: a snapshot now, the writing in a thread; one save at a time.

    `start`: the step behind which the run carries on; checkpoints of later steps were passed over, so they are damaged.
    """

    def __init__(self, folder: Path, keep: int, start: int = 0) -> None:
        self._folder, self._keep = folder, keep
        self._damaged = {step for step in map(step_of, steps(folder)) if step > start}
        self._images: dict[
            str, SafetensorsBuffer
        ] = {}  # laid out once: fresh memory costs more than the copying
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether something went wrong that `finish` is going to raise."""
        return self._error is not None

    def begin(
        self, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], best: int | None
    ) -> None:
        """Copy what is to be saved and return; the former save is finished first."""
        self.finish()
        images = {name: self._image(name, group) for name, group in tensors.items()}
        frozen = json.loads(json.dumps(state))

        def write() -> None:
            try:
                with suppress(
                    OSError
                ):  # `nice` may have put this process lower already, and only root may raise it
                    os.setpriority(
                        os.PRIO_PROCESS, threading.get_native_id(), 5
                    )  # of this thread: training goes first
                save(self._folder, step, images, frozen)
                self._damaged.discard(step)
                prune(self._folder, self._keep, best, self._damaged)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=write, name=f"save-{step}")
        self._thread.start()

    def _image(self, name: str, tensors: Tensors) -> SafetensorsBuffer:
        held = self._images.get(name)
        if held is None or not held.fits(tensors):
            held = self._images[name] = SafetensorsBuffer(tensors)
        return held.fill(tensors)

    def finish(self) -> None:
        """Wait for the save under way. Raises what went wrong in it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _is_whole(path: Path) -> bool:
    try:
        return path.exists() and bool(load(path))
    except ValueError:
        return False


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, xxh3_128).hexdigest()
