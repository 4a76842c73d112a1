"""Flushing files and folders to disk, so that they survive a power failure."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk. Raises OSError.

    Without it, a rename may reach the disk before the content of the renamed file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
