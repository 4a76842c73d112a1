"""What a sweep tells: lines on the console and in sweep.log, and a bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from distsent.runtime.log import AppendedFile
from distsent.runtime.ownership import Owner
from distsent.search.sweep_folder import SweepFolder
from distsent.search.trials import Trial, best_of


class SweepLog:
    """`total`: trials of the sweep. A full disk or a closed console does not end the sweep."""

    def __init__(self, folder: SweepFolder, total: int, metric: str, lower_is_better: bool) -> None:
        self._metric, self._lower_is_better = metric, lower_is_better
        self._file = AppendedFile(folder.log, Owner(), self.print)
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="trial", dynamic_ncols=True)

    def info(self, line: str) -> None:
        self._file.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        self.print(line)

    def print(self, line: str) -> None:
        with suppress(OSError):
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                sys.stderr.write(f"{line}\n")

    def progress(self, trials: Sequence[Trial]) -> None:
        """On a terminal: how many trials have ended, and the best value so far."""
        if self._bar is None:
            return
        best = best_of(trials, self._lower_is_better)
        with suppress(OSError):
            if best is not None:
                self._bar.set_postfix_str(f"best {self._metric} {best.value:.4f}", refresh=False)
            ended = sum(trial.state != "running" for trial in trials)
            self._bar.update(ended - self._bar.n)

    def close(self) -> None:
        for sink in (self._bar, self._file):
            with suppress(OSError):
                sink.close() if sink is not None else None
