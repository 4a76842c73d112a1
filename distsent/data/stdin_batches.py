"""Lines from a stream in batches: few lines at a time if they come slowly, many if fast."""

import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator


def stdin_batches(
    lines: Iterable[str], most: int, poll: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, from 1; one to `most` lines).

    A thread reads ahead: the next lines are ready when the model is. `poll` is called often while
    there are none. Bytes that are not UTF-8 become lone surrogates.
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
        taken = [_get(waiting, poll)]
        while taken[-1] is not None and len(taken) < most and waiting.qsize():
            taken.append(waiting.get())
        ended = taken[-1] is None
        if batch := [line for line in taken if line is not None]:
            yield row, batch
        row += len(batch)


def _get(waiting: queue.Queue[str | None], poll: Callable[[], None]) -> str | None:
    while True:
        try:
            return waiting.get(timeout=0.1)
        except queue.Empty:
            poll()
