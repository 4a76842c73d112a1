"""Lines from a stream in batches: few lines at a time if they come slowly, many if fast."""

import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

from distsent.errors import FAILED, UserError

Item = str | BaseException | None  # a line; what reading ended with; None at the end


def stdin_batches(
    lines: Iterable[str], most: int, poll: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, from 1; one to `most` lines).

    A thread reads ahead: the next lines are ready when the model is. `poll` is called often while
    there are none. Bytes that are not UTF-8 become lone surrogates. A carriage return within a line
    is text. Raises UserError, after the lines before, if the stream cannot be read.
    """
    waiting: queue.Queue[Item] = queue.Queue(maxsize=4 * most)
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")

    def read_ahead() -> None:
        end: BaseException | None = None
        try:
            for line in lines:
                waiting.put(line.removesuffix("\n").removesuffix("\r"))
        except BaseException as error:  # who waits for lines has to learn of it
            end = error
        waiting.put(end)

    threading.Thread(target=read_ahead, daemon=True).start()
    row = 1
    while True:
        taken = [_get(waiting, poll)]
        while isinstance(taken[-1], str) and len(taken) < most and waiting.qsize():
            taken.append(waiting.get())
        if batch := [line for line in taken if isinstance(line, str)]:
            yield row, batch
        row, end = row + len(batch), taken[-1]
        if isinstance(end, OSError):
            where = f"after line {row - 1:,} " if row > 1 else ""
            fix = "give texts as arguments, with --file, or in a pipe"
            problem = f"cannot be read {where}({end.strerror or end})"
            raise UserError(f"standard input: {problem}; {fix}", code=FAILED)
        if isinstance(end, BaseException):
            raise end
        if end is None:
            return


def _get(waiting: queue.Queue[Item], poll: Callable[[], None]) -> Item:
    while True:
        try:
            return waiting.get(timeout=0.1)
        except queue.Empty:
            poll()
