"""Holds a run at a step, so that a test acts on it neither too early nor too late.

On a fast machine a small run finishes before a signal, a second host or a dead node reaches it. On
a slow one any number of seconds is too short. So the workers wait (paused_worker/sitecustomize.py)
until the test releases them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PAUSED_WORKER = Path(__file__).parent / "paused_worker"


class Hold:
    """The file that workers poll, in a folder that all of them see (as `seen_as`)."""

    def __init__(self, folder: Path, seen_as: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # workers that are not root write here
        self._file, self._heard = folder / "hold", folder / "hold.heard"
        shutil.copy(PAUSED_WORKER / "sitecustomize.py", folder)
        inside = seen_as or str(folder)
        self.env = {
            "PYTHONPATH": inside,
            "DISTSENT_TEST_HOLD": f"{inside}/hold",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def at(self, step: int) -> None:
        """Let the run do `step` steps, and no more."""
        self._heard.unlink(missing_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(str(step))
        os.replace(new, self._file)

    def free(self) -> None:
        """Release the workers."""
        self._file.unlink(missing_ok=True)

    def heard(self) -> bool:
        """Whether a worker has received a stop request since `at`. It stops when released."""
        return self._heard.exists()
