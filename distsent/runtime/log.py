"""A run's log: lines (console and train.log), metrics (metrics.jsonl, TensorBoard), progress."""

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from distsent.runtime.run_folder import RunFolder
from distsent.storage import exists

# "json": a parent process draws the progress bar, because standard error is never a terminal under
# mpirun. It reads lines such as  distsent-progress: {"step": 3, "of": 9, "text": "..."}
PROGRESS = "DISTSENT_PROGRESS"
PROGRESS_INTERVAL = 0.2  # seconds between two of them


class Log:
    """The interface, and the log of all workers but the main one, which drops everything."""

    def info(self, line: str) -> None: ...
    def to_file(self, line: str) -> None: ...  # not to the console
    def metrics(self, tag: str, values: Mapping[str, Any]) -> None: ...
    def progress(self, step: int, text: str) -> None: ...
    def close(self) -> None: ...


class RunLog(Log):
    """The main worker's log. A full disk or a closed console does not end the run.

    Resuming at step `start` drops the metrics of later steps, which are trained again. `evaluated`:
    the last step whose evaluation the resumed state contains; later ones are made again.
    """

    def __init__(
        self, folder: RunFolder, start: int, evaluated: int, total: int, tensorboard: bool
    ) -> None:
        self._owner = folder.owner
        _truncate_metrics(folder, start, evaluated)
        options: Any = {"encoding": "utf-8", "errors": "backslashreplace"}  # names may be any bytes
        self._file = open(folder.log, "a", **options)  # noqa: SIM115
        self._metrics = open(folder.metrics, "a", **options)  # noqa: SIM115
        self._disk_full = False
        self._bar: Any = None
        self._progress_lines: ProgressLines | None = None
        self._tensorboard: Any = None
        if os.environ.get(PROGRESS) == "json":
            self._progress_lines = ProgressLines(start, total)
        elif sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1
            )
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder.tensorboard), purge_step=start + 1)

    def info(self, line: str) -> None:
        self.to_file(line)
        self._print(line)

    def metrics(self, tag: str, values: Mapping[str, Any]) -> None:
        """Record a line of metrics.jsonl; its numbers go to TensorBoard as `tag/key`."""
        self._append(self._metrics, json.dumps(values) + "\n")
        if self._tensorboard is None or self._owner.lost:
            return
        with suppress(OSError):
            for key, value in values.items():
                if isinstance(value, int | float) and key not in ("step", "n"):
                    self._tensorboard.add_scalar(f"{tag}/{key}", value, values["step"])

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
        for sink in (self._progress_lines, self._bar, self._tensorboard, self._metrics, self._file):
            with suppress(OSError):
                sink.close() if sink is not None else None

    def _print(self, line: str) -> None:
        # The launcher that reads the console may be dead, and the run must still save.
        with suppress(OSError):
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                sys.stderr.write(f"{line}\n")  # one write: launchers prefix each one

    def to_file(self, line: str) -> None:
        self._append(self._file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _append(self, file: TextIO, text: str) -> None:
        """Append to a file. What the disk refuses stays in the buffer for the next attempt."""
        if self._owner.lost:
            return
        try:
            file.write(text)
            file.flush()
        except OSError as error:
            if not self._disk_full:
                self._disk_full = True
                why = f"cannot be written ({error.strerror or error})"
                self._print(f"{file.name}: {why}; training continues, lines may be missing")


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


def _truncate_metrics(folder: RunFolder, start: int, evaluated: int) -> None:
    if not exists(folder.metrics):
        return
    kept = []
    for line in folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a crash may have cut a line short
            record = json.loads(line)
            if record["step"] <= (evaluated if "split" in record else start):
                kept.append(line + "\n")
    folder.owner.write_text(folder.metrics, "".join(kept))


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 5 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
