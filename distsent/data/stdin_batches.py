"""Lines from a stream in batches: few lines at a time if they come slowly, many if fast."""

import io
import queue
import threading
from collections.abc import Iterable, Iterator


def stdin_batches(lines: Iterable[str], most: int) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, from 1; one to `most` lines).

    A thread reads ahead: the next lines are ready when the model is. Bytes that are not UTF-8
    become lone surrogates.
    """
    waiting: queue.Queue[str | None] = queue.Queue(maxsize=4 * most)
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(encoding="utf-8-sig", errors="surrogateescape")

    def read_ahead() -> None:
        for line in lines:
            waiting.put(line.rstrip("\r\n"))
        waiting.put(None)

    threading.Thread(target=read_ahead, daemon=True).start()
    row, ended = 1, False
    while not ended:
        taken = [waiting.get()]
        while taken[-1] is not None and len(taken) < most and waiting.qsize():
            taken.append(waiting.get())
        ended = taken[-1] is None
        if batch := [line for line in taken if line is not None]:
            yield row, batch
        row += len(batch)
