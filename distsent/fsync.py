"""What a power cut must not undo."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have a file on disk, or what a folder says of its own: a rename may otherwise outlive the content that it names.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
