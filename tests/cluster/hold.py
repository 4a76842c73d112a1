"""A run that a test holds at a step, so that what the test does to it comes neither too early nor too late.

On a fast machine a small run is over before a signal, a second host or a dead node has reached it; on a slow one any
number of seconds is too short. So the workers wait (paused_worker/sitecustomize.py) until the test lets them go.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PAUSED_WORKER = Path(__file__).parent / "paused_worker"


class Hold:
    """The file that workers look at, in a folder that all of them see; `seen_as` is its path as they see it."""

    def __init__(self, folder: Path, seen_as: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # workers that are not root leave their word here
        self._file, self._heard = folder / "hold", folder / "hold.heard"
        shutil.copy(PAUSED_WORKER / "sitecustomize.py", folder)
        inside = seen_as or str(folder)
        self.env = {
            "PYTHONPATH": inside,
            "DISTSENT_TEST_HOLD": f"{inside}/hold",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def at(self, step: int) -> None:
        """Let `step` steps be done, and no more."""
        self._heard.unlink(missing_ok=True)
        new = self._file.with_suffix(".new")
        new.write_text(str(step))
        os.replace(new, self._file)

    def free(self) -> None:
        """Wait for nothing any more."""
        self._file.unlink(missing_ok=True)

    def heard(self) -> bool:
        """Whether a worker has been asked to stop since `at`: it will stop at this step, when it is let go."""
        return self._heard.exists()
