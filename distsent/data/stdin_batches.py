"""Lines from a stream as they come: few at a time while they drip, many while they pour."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator


class StdinBatches:
    """Iterate: (number of the first line, from 1; at least one and at most `most` lines). Waits only where there is none.

    A thread reads ahead, so that a model busy with some lines finds the next ones ready, and bad bytes end nothing.
    """

    def __init__(self, lines: Iterable[str], most: int) -> None:
        self._most = most
        self._queue: queue.Queue[str | None] = queue.Queue(maxsize=4 * most)
        if hasattr(lines, "reconfigure"):
            lines.reconfigure(errors="surrogateescape")
        threading.Thread(target=self._fill, args=(lines,), daemon=True).start()

    def _fill(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._queue.put(line.rstrip("\r\n"))
        self._queue.put(None)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        row = 1
        line = self._queue.get()
        while line is not None:
            lines = [line]
            while len(lines) < self._most:
                try:
                    line = self._queue.get_nowait()
                except queue.Empty:
                    break
                if line is None:
                    break
                lines.append(line)
            yield row, lines
            row += len(lines)
            if line is not None:
                line = self._queue.get()
