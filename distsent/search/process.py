"""The training of a trial: the ordinary command, in processes of its own."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from distsent.lock import try_lock
from distsent.runtime.local_start import local_command
from distsent.runtime.run_status import ATTEMPT, START, RunStatus, status_of
from distsent.search.machine import Slot
from distsent.search.trials import TrialFolder
from distsent.storage import exists

# Never urgent to a worker, however often it comes (runtime/signals.py)
STOP = signal.SIGUSR1
REPEATED = 2.0  # seconds until a stop request is repeated: the workers may have just started
PATIENCE = 60.0  # seconds for which workers of an earlier start may still hold the run folder
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def training_command(job: Path, workers: int, transport: str) -> list[str]:
    """The command that trains a job on this many workers of this machine."""
    train = ["-m", "distsent.train", str(job)]
    return [sys.executable, *train] if workers == 1 else local_command(train, workers, transport)


class Process:
    """A start of a run. It is told to save and end when this process ends."""

    def __init__(self, folder: TrialFolder, command: list[str], slot: Slot) -> None:
        self.attempt = f"sweep-{secrets.token_hex(8)}"
        self.asked = False
        self._asked_at = 0.0
        self._folder, parent = folder, os.getpid()
        self._by_workers = "horovodrun" in " ".join(command[1:2])
        env = {**os.environ, **slot.variables(), ATTEMPT: self.attempt}
        for name in ("DISTSENT_PROGRESS", START):
            env.pop(name, None)

        def prepare() -> None:
            with suppress(OSError):  # the container's cores have changed since
                os.sched_setaffinity(0, slot.cores)
            LIBC.prctl(PR_SET_PDEATHSIG, STOP)
            if os.getppid() != parent:
                os._exit(1)

        with open(folder.output, "ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                preexec_fn=prepare,
            )

    def poll(self) -> int | None:
        """The exit code, 128 + n after signal n; None while it trains."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def status(self) -> RunStatus | None:
        """What this start has left in status.json, or beside the run folder."""
        return status_of(self._folder.files.path, self.attempt)

    def stop(self) -> None:
        """Ask for a stop: the run saves and ends. Asks again if that is not heard."""
        now = time.monotonic()
        if self.asked and now < self._asked_at + REPEATED:
            return
        self.asked, self._asked_at = True, now
        # horovodrun does not pass signals on in every case, so the workers get them.
        targets = self.workers() if self._by_workers else [self._process.pid]
        for target in targets:
            with suppress(ProcessLookupError):
                os.kill(target, STOP)

    def workers(self) -> list[int]:
        """The processes of this start that train."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()[:3]
                is_worker = words[1:] == ["-m", "distsent.train"]
                if is_worker and process.environ().get(ATTEMPT) == self.attempt:
                    found.append(process.pid)
        return found

    def kill(self) -> None:
        """At once, without saving: for the end of a controller that failed itself."""
        for target in [*self.workers(), self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
        self._process.wait()

    def last_line(self) -> str:
        """What it printed last, for a start that left no status."""
        with suppress(OSError):
            text = self._folder.output.read_text(encoding="utf-8", errors="replace")
            lines = [line.strip() for line in text[-20_000:].splitlines() if line.strip()]
            own = [line for line in lines if line.startswith("distsent: ")]
            return (own or lines or [""])[-1].removeprefix("distsent: ")[:300]
        return ""


def await_earlier_start(folder: TrialFolder, poll: Callable[[], None]) -> None:
    """Wait until workers whose controller was killed have saved and left the run folder."""
    lock = folder.files.path / ".lock"
    until = time.monotonic() + PATIENCE
    while exists(lock) and time.monotonic() < until:
        held = try_lock(lock)
        if held is not None:
            held.close()
            return
        poll()
        time.sleep(0.1)
