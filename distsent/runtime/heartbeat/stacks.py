"""Where a process is: the stacks of all its threads, and the line of code that it executes."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

PACKAGE = Path(__file__).parents[2]
LIMIT = 2.0  # seconds for a folder or a stream that may never answer


def within(seconds: float, *tasks: Callable[[], object]) -> bool:
    """Run tasks side by side, each in a thread that may block forever. Whether all succeeded."""
    done = []

    def run(task: Callable[[], object]) -> None:
        task()
        done.append(task)

    threads = [threading.Thread(target=run, args=(t,), daemon=True, name="limited") for t in tasks]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return len(done) == len(tasks)


def write_stacks(folder: Path | None, rank: int, where: str) -> None:
    """Write the stacks of all threads to `rank-N.txt`; to stderr if no folder answers."""
    heading = f"rank {rank}, process {os.getpid()}, {where}\n"

    def to_file(folder: Path) -> None:
        try:
            folder.mkdir(exist_ok=True)  # no parents: a host may not see the run folder
            with open(folder / f"rank-{rank}.txt", "w", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {heading}")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            to_stderr()

    def to_stderr() -> None:
        os.write(2, f"distsent: {heading}".encode())
        faulthandler.dump_traceback(2, all_threads=True)

    if folder is None or not within(LIMIT, lambda: to_file(folder)):
        within(LIMIT, to_stderr)


def location(phase: str = "") -> str:
    """The innermost line of this package that the main thread executes; in a save, the saver's."""
    frames, found = sys._current_frames(), []
    for thread in threading.enumerate():
        is_main = thread is threading.main_thread()
        if (is_main or (phase == "save" and thread.name.startswith("save"))) and thread.ident:
            found.append((not is_main, _innermost(frames.get(thread.ident))))
    return "; saving: ".join(line for _, line in sorted(found) if line) or "unknown"


def _innermost(frame: FrameType | None) -> str:
    """`distsent/training/loop.py:84 in _step`, with the call into other code, if it is there."""
    top, inside = frame, ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            own = f"{path.relative_to(PACKAGE.parent)}:{frame.f_lineno} in {frame.f_code.co_name}"
            return own + inside
        if frame is top:
            inside = f" ({path.name}:{frame.f_lineno} in {frame.f_code.co_name})"
        frame = frame.f_back
    return inside.strip(" ()")
