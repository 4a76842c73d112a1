"""What a run tells: lines (console and train.log), numbers (metrics.jsonl, TensorBoard), a bar on a terminal.

Only the first worker speaks; the others hold a Log that stays silent.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from distsent.runtime.run_folder import RunFolder, write_text


class Log:
    """A log that says nothing: what the other workers hold, and the interface."""

    def info(self, line: str) -> None:
        """A line for people."""

    def metrics(self, tag: str, values: Mapping[str, Any]) -> None:
        """A record for machines: scalars under `tag/` for TensorBoard, one line of metrics.jsonl."""

    def progress(self, done: int, text: str) -> None:
        """Move the bar, if there is one."""

    def close(self) -> None:
        """Flush everything."""


class RunLog(Log):
    """The first worker's log. Resuming at step `start` drops what an interrupted run wrote behind that step.

    `evaluated`: the last step whose evaluation the resumed state knows of; a later one is made, and told, again.
    """

    def __init__(
        self,
        folder: RunFolder,
        start: int,
        evaluated: int,
        total: int,
        tensorboard: bool,
        console: TextIO | None = None,
    ) -> None:
        self._file = open(folder.log, "a", encoding="utf-8")  # noqa: SIM115  (lives as long as the run)
        _drop_behind(folder, start, evaluated)
        self._metrics = open(folder.metrics, "a", encoding="utf-8")  # noqa: SIM115
        self._console, self._bar = console or sys.stderr, None
        self._full = False  # whether the disk has refused a line
        self.writer: Any = None
        if self._console.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=start,
                unit="step",
                file=self._console,
                dynamic_ncols=True,
                smoothing=0.1,
            )
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder.tensorboard), purge_step=start + 1)

    def info(self, line: str) -> None:
        self._write(self._file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        self._show(line)

    def metrics(self, tag: str, values: Mapping[str, Any]) -> None:
        self._write(self._metrics, json.dumps(values) + "\n")
        with suppress(OSError):
            for key, value in values.items() if self.writer is not None else ():
                if isinstance(value, int | float) and key not in ("step", "n"):
                    self.writer.add_scalar(f"{tag}/{key}", value, values["step"])

    def progress(self, done: int, text: str) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.set_postfix_str(text, refresh=False)
                self._bar.update(done - self._bar.n)
        elif text:
            self.info(text)

    def close(self) -> None:
        for sink in (self._bar, self.writer, self._metrics, self._file):
            with suppress(OSError):
                sink.close() if sink is not None else None

    def _show(self, line: str) -> None:
        with suppress(
            OSError
        ):  # the launcher that read our lines may be dead: that must not keep us from saving
            if self._bar is not None:
                self._bar.write(line, file=self._console)
            else:
                print(line, file=self._console, flush=True)

    def _write(self, file: TextIO, text: str) -> None:
        """Append to a file. A full disk does not end a run that trains well: what did not fit is tried again with the next line."""
        try:
            file.write(text)
            file.flush()
        except OSError as error:
            if not self._full:
                self._full = True
                self._show(
                    f"{file.name}: cannot be written ({error.strerror or error}); training goes on, lines may be missing"
                )


def _drop_behind(folder: RunFolder, start: int, evaluated: int) -> None:
    """Keep the lines of metrics.jsonl up to step `start`: the steps behind it are trained, and written, again."""
    if not folder.metrics.exists():
        return
    kept = []
    for line in folder.metrics.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            if record["step"] <= (evaluated if "split" in record else start):
                kept.append(line + "\n")
        except (ValueError, KeyError):  # a line that a crash cut short
            continue
    write_text(folder.metrics, "".join(kept))


def duration(seconds: float) -> str:
    """Seconds as people read them: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
