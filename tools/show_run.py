"""Show a launcher's output as one program's:  tools/show_run.py horovodrun -np 4 python ...

mpirun puts `[1,0]<stderr>:` before each line, and no worker sees the terminal. This parent process
removes the prefixes, draws one progress bar if there is a terminal, and ends with the exit code of
its child.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

RANK = re.compile(r"\[\d+(,\d+)?\]<std(out|err)>:")
PROGRESS = "distsent-progress: "  # written by distsent/runtime/log.py
RULE = "-" * 60
OWN = "distsent: "  # begins the lines in which a worker says why it ended


class Screen:
    """Lines on standard output and error, and a bar below them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar: Any = None
        self._boxed: list[str] = []  # mpirun's own account of a failed worker, between two rules
        self._in_box = False
        self._reason_shown = False

    def show(self, line: str, target: IO[str]) -> None:
        line = RANK.sub("", line.rstrip("\n"))
        with self._lock:
            if (progress := progress_in(line)) is not None:
                self._move(progress)
            elif self._in_box or line.startswith(RULE):
                self._in_box ^= line.startswith(RULE)
                self._boxed.append(line)
            elif line:
                self._reason_shown |= line.startswith(OWN)
                self._print(line, target)

    def close(self, code: int) -> None:
        """Show mpirun's account of a failure where no worker gave a reason."""
        if self._bar is not None:
            self._bar.close()
        if code and not self._reason_shown:
            for line in self._boxed:
                self._print(line, sys.stderr)

    def _print(self, line: str, target: IO[str]) -> None:
        if self._bar is not None:
            self._bar.write(line, file=target)
        else:
            print(line, file=target, flush=True)

    def _move(self, progress: dict[str, Any]) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=progress["of"], initial=progress["step"], unit="step", dynamic_ncols=True
            )
        text = progress["text"].partition("  ")[2]  # the bar itself counts the steps
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(progress["step"] - self._bar.n)
        if progress["step"] >= progress["of"]:  # the result table is to be last on the screen
            self._bar.close()
            self._bar = None


def progress_in(line: str) -> dict[str, Any] | None:
    """What a line of progress says; None for any other one, and for one that was cut short."""
    if not line.startswith(PROGRESS):
        return None
    with suppress(ValueError, TypeError):
        found = json.loads(line.removeprefix(PROGRESS))
        if {"of", "step", "text"} <= set(found):
            return dict(found)
    return None


def copy(source: IO[str], target: IO[str], screen: Screen) -> None:
    for line in source:
        with suppress(OSError):  # the terminal may be gone, and the workers must still save
            screen.show(line, target)


def main(command: list[str]) -> int:
    env = dict(os.environ)
    if sys.stderr.isatty():
        env["DISTSENT_PROGRESS"] = "json"
    screen = Screen()
    # A caller may have ignored it. Then the system keeps no exit code of a child: Python says 0.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = subprocess.Popen(
        command,
        env=env,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # The terminal sends Ctrl-C to the child too. A signal to this process alone is passed on.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    threads = [
        threading.Thread(target=copy, args=(source, target, screen))
        for source, target in ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = child.wait()
    code = code if code >= 0 else 128 - code
    screen.close(code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
