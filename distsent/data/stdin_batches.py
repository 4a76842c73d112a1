"""Lines from a stream in batches: few lines at a time if they come slowly, many if fast."""

import queue
import threading
from collections.abc import Iterable, Iterator


class StdinBatches:
    """Iterator over (number of the first line, from 1; one to `most` lines).

    A thread reads ahead: the next lines are ready when the model is. Bytes that are not UTF-8
    become lone surrogates.
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
        row, ended = 1, False
        while not ended:
            lines = [self._queue.get()]
            while lines[-1] is not None and len(lines) < self._most and self._queue.qsize():
                lines.append(self._queue.get())
            ended = lines[-1] is None
            if batch := [line for line in lines if line is not None]:
                yield row, batch
            row += len(batch)
