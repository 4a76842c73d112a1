"""A run's log: lines (console and train.log) and progress."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distsent.runtime.ownership import Owner
from distsent.runtime.run_folder import RunFolder

# "json": a parent process draws the progress bar, because standard error is never a terminal under
# mpirun. It reads lines such as  distsent-progress: {"step": 3, "of": 9, "text": "..."}
PROGRESS = "DISTSENT_PROGRESS"
PROGRESS_INTERVAL = 0.2  # seconds between two of them


class Log:
    """The interface, and the log of all workers but the main one, which drops everything."""

    def info(self, line: str) -> None: ...
    def to_file(self, line: str) -> None: ...  # not to the console
    def progress(self, step: int, text: str) -> None: ...
    def close(self) -> None: ...


class AppendedFile:
    """A text file that a run appends to. A full disk does not end the run: `complain` gets a line.

    What the disk refuses stays in the buffer for the next attempt.
    """

    def __init__(self, path: Path, owner: Owner, complain: Callable[[str], None]) -> None:
        self._owner, self._complain, self._complained = owner, complain, False
        # Names may be any bytes
        self._file = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115

    def append(self, text: str) -> None:
        if self._owner.lost:
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            if not self._complained:
                self._complained = True
                why = f"cannot be written ({error.strerror or error})"
                line = f"{self._file.name}: {why}; training continues, lines may be missing"
                self._complain(line)

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


class RunLog(Log):
    """The main worker's log, resuming at step `start`.

    A full disk or a closed console does not end the run.
    """

    def __init__(self, folder: RunFolder, start: int, total: int) -> None:
        self._file = AppendedFile(folder.log, folder.owner, self.print)
        self._bar: Any = None
        self._progress_lines: ProgressLines | None = None
        if os.environ.get(PROGRESS) == "json":
            self._progress_lines = ProgressLines(start, total)
        elif sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1
            )

    def info(self, line: str) -> None:
        self.to_file(line)
        self.print(line)

    def progress(self, step: int, text: str) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.set_postfix_str(text, refresh=False)
                self._bar.update(step - self._bar.n)
            if step >= self._bar.total:  # the result table is to be last on the screen
                self._bar.close()
                self._bar = None
        elif self._progress_lines is not None:
            self.to_file(text)
            self._progress_lines.update(step, text)
        else:
            self.info(text)

    def close(self) -> None:
        for sink in (self._progress_lines, self._bar, self._file):
            with suppress(OSError):
                sink.close() if sink is not None else None

    def print(self, line: str) -> None:
        """To the console alone."""
        # The launcher that reads the console may be dead, and the run must still save.
        with suppress(OSError):
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                sys.stderr.write(f"{line}\n")  # one write: launchers prefix each one

    def to_file(self, line: str) -> None:
        self._file.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


class ProgressLines:
    """Progress as JSON lines on the console, at most five per second, and always the last one."""

    def __init__(self, start: int, total: int) -> None:
        self._total, self._written = total, 0.0
        self._pending = ""
        self.update(start, "")

    def update(self, step: int, text: str) -> None:
        self._pending = json.dumps({"step": step, "of": self._total, "text": text})
        if step >= self._total or time.monotonic() - self._written >= PROGRESS_INTERVAL:
            self.close()

    def close(self) -> None:
        """Write the pending line, if any."""
        with suppress(OSError):
            if self._pending:
                sys.stderr.write(f"distsent-progress: {self._pending}\n")
        self._pending, self._written = "", time.monotonic()


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 5 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
