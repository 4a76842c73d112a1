"""Building a token store: by one process at a time, complete or absent, never under its readers."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distsent.data.tokens.tokenize import Progress
from distsent.errors import FAILED, UserError
from distsent.lock import is_old, locked
from distsent.machine_errors import NO_SPACE
from distsent.storage import appears, entries, exists, is_folder, sync


@contextmanager
def building(store: Path, progress: Progress, log: Callable[[str], None]) -> Iterator[Path | None]:
    """A temporary folder to build the store in; None if the store is complete.

    If the context ends well, the temporary folder is renamed to the store; otherwise deleted.
    """
    if not damage(store):
        yield None
        return

    def on_wait(owner: str) -> None:
        log(f"waiting for {owner}, which is building the same token store")

    parent = store.parent
    with explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with locked(parent / f".{store.name}.lock", on_wait, lambda: progress(0, 0)) as lock:
            entries(parent)  # NFS then asks its server again whether there is a store
            why = damage(store)
            if not why:
                yield None
                return
            if not lock.works:
                log(f"{parent}: the file system has no locks; another process may build the same")
            if exists(store):
                log(f"{store}: the token store is damaged ({why}); building it again")
            ours = f".{store.name}.{lock.reach}-"
            for path in entries(parent):  # what killed builders left
                left = path.name.startswith(f".{store.name}.") and is_folder(path)
                if left and (path.name.startswith(ours) or is_old(path)):
                    shutil.rmtree(path, ignore_errors=True)
            temporary = parent / f"{ours}{secrets.token_hex(4)}"
            temporary.mkdir()
            try:
                yield temporary
                _publish(temporary, store, lock.works)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def damage(folder: Path) -> str | None:
    """Why `folder` is not a complete token store; None if it is.

    Raises UserError with code FAILED where that cannot be told now: running jobs may read it.
    """
    try:
        files = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["files"]
        for name, size in files.items():
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found:,} bytes instead of {size:,}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "meta.json is not readable"
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            return "it is a file"
        line = f"the token store cannot be read now ({error.strerror}); it was left as it is"
        raise UserError(f"{folder}: {line}", code=FAILED) from None
    return None


def _publish(temporary: Path, store: Path, locks: bool) -> None:
    """Rename into place. A second builder, where there are no `locks`, finds an equal store."""
    if exists(store) and damage(store):
        broken = temporary.with_name(f"{temporary.name}-broken")
        os.rename(store, broken)
        if locks:  # else the second builder may have it open
            shutil.rmtree(broken, ignore_errors=True)
    try:
        os.rename(temporary, store)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not appears(lambda: not damage(store), store.parent):
            raise
    sync(store.parent)


@contextmanager
def explained(parent: Path) -> Iterator[None]:
    """A full disk or a folder that cannot be written is one line: the user can fix it."""
    try:
        yield
    except OSError as error:
        line = f"the token store cannot be written ({error.strerror or error}); see data.store"
        if error.errno in NO_SPACE:
            line = "no space left for the token store; free some, or choose another data.store"
        raise UserError(f"{parent}: {line}") from error
