"""The folder of an export: complete, or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distsent.errors import UserError
from distsent.evaluation.exported import RECORD
from distsent.lock import try_lock
from distsent.runtime.ownership import Owner
from distsent.storage import entries, is_file, is_folder, mode_of, nearest_parent, sync, walk

LOCK = ".lock"


def check_target(path: Path) -> None:
    """Raise UserError if something is there that is no export, or no folder can be there."""
    if not is_folder(above := nearest_parent(path)):
        raise UserError(f"{path}: {above} is not a folder; give another one with --out")
    if mode_of(path) is not None and not is_file(path / RECORD):
        # It would be deleted
        problem = "is there and is no export, so it is not replaced"
        raise UserError(f"{path}: {problem}; move it away, or give another folder with --out")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write the export in. At the end it becomes `path`; after an error, nothing does.

    What killed exports left beside it is deleted.
    """
    owner = Owner()
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = owner.temporary(path)
    temporary.mkdir()
    lock = try_lock(temporary / LOCK)
    try:
        yield temporary
        for inside in walk(temporary):
            sync(inside)
        check_target(path)
        owner.publish_folder(temporary, path)
        (path / LOCK).unlink(missing_ok=True)  # not before: `_sweep` would not know what is left
        sync(path.parent)
    finally:
        if lock is not None:
            lock.close()
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(path: Path) -> None:
    for left in entries(path.parent):
        ours = left.name.startswith(f".{path.name}.") and left.name.endswith(".tmp")
        if ours and is_file(left / LOCK) and (lock := try_lock(left / LOCK)) is not None:
            if lock.works:  # its process has ended
                shutil.rmtree(left, ignore_errors=True)
            lock.close()
