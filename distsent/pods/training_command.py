"""The training command of a launcher: runs it, passes stop requests on, and learns how it ended.

mpirun answers SIGTERM by killing its ranks a second later, but it passes SIGUSR1 on to all of
them: distsent.train then saves and exits with 75.
"""

import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import psutil

from distsent.distributed.secrets import without_secrets
from distsent.errors import FINISHED, STOPPED, UserError
from distsent.exit_policy import Decision, decide
from distsent.job import load_job
from distsent.runtime.run_folder import RunFolder
from distsent.runtime.run_status import ATTEMPT, START, RunStatus, status_of
from distsent.runtime.signals import SIGNALS

MPIRUN = ("mpirun", "orterun", "mpiexec")
# After a rank has reported the end of the run, mpirun may wait for a node that is gone.
LINGER = 60.0  # seconds
LOOK = 5.0  # seconds between two looks at a run
TAG = re.compile(r"^\[\d+,\d+\]<stderr>: ?")  # mpirun's, before the lines of a rank
LINES, BYTES = 8, 8000  # of the last errors that are kept
# Options of horovodrun, and the fix. Over Gloo there is no mpirun: a stop request would end
# horovodrun alone, and its ranks would train on.
OVER_GLOO = {
    "--gloo": "leave it out",
    "--host-discovery-script": "use --elastic of python -m distsent.k8s launch",
}


class Training:
    """The training command while it runs. A stop signal requests a stop, before or during.

    `progressed`: whether the last start saved a step that earlier ones had not, or, of a command
    that leaves no status, ran for longer than `LINGER`.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stop_requested = self.progressed = False
        self._errors = b""
        # With run.resume=never, the next start is not to delete what this one saves.
        self._name = os.environ.get(START) or f"launcher-{secrets.token_hex(8)}"
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop_requested = True
        self.request_save()

    def request_save(self) -> None:
        """Ask all ranks to save and exit."""
        if self.process is None or self.process.poll() is not None:
            return
        # horovodrun runs mpirun in a shell, and a shell passes no signal on. Before there is an
        # mpirun, there is nothing to save.
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [child.pid] if child.name() in MPIRUN else []
        for pid in found or [self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def run(self, command: list[str], poll: Callable[[], None], every: float) -> Decision:
        """Run to the end. Calls `poll` every so many seconds."""
        if self.stop_requested:
            return decide(STOPPED)
        folders, started, ended = run_folders(command), time.monotonic(), None
        attempt = str(time.time_ns())
        names = {START: self._name, ATTEMPT: attempt}
        env, unset, token_file = without_secrets({**os.environ, **names})
        if unset:
            print(f"distsent: unset for the command: {', '.join(unset)}", flush=True)
        self._errors, code = b"", None
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        copier = threading.Thread(target=self._copy, args=(self.process.stderr,), daemon=True)
        copier.start()
        if self.stop_requested:
            self.request_save()
        while code is None:
            try:
                code = self.process.wait(timeout=every)
            except subprocess.TimeoutExpired:
                poll()
                if have_ended([status_of(folder, attempt) for folder in folders]):
                    ended = ended or time.monotonic()
                    if time.monotonic() - ended > LINGER:
                        self._kill()
        copier.join(timeout=5.0)
        if token_file is not None:
            token_file.unlink(missing_ok=True)
        runs = [status_of(each, attempt) for each in folders]
        code = code if code >= 0 else 128 - code
        decision = decide(code, *runs, stop_requested=self.stop_requested)
        left = [run for run in runs if run is not None]
        took = time.monotonic() - started
        self.progressed = any(run.progressed for run in left) if folders else took > LINGER
        if decision.action == "give_up" and not decision.message:
            decision = replace(decision, message=self._last_errors())
            if folders and not left:
                RunFolder(folders[0]).write_refusal(decision.code, decision.message, attempt)
        return decision

    def _copy(self, stream: BinaryIO) -> None:
        """Pass the command's errors on, and keep the last ones: they say why it gave up."""
        while chunk := os.read(stream.fileno(), 65536):
            self._errors = (self._errors + chunk)[-BYTES:]
            with suppress(OSError):
                os.write(2, chunk)

    def _last_errors(self) -> str:
        """The last lines of distsent's own, which the main worker writes; empty without any."""
        lines = [TAG.sub("", each) for each in self._errors.decode(errors="replace").splitlines()]
        own = [each.removeprefix("distsent: ") for each in lines if each.startswith("distsent: ")]
        return "\n".join(own[-LINES:])

    def _kill(self) -> None:
        assert self.process is not None
        print(f"distsent: the run ended {LINGER:.0f} s ago, but mpirun did not: killed", flush=True)
        parent = psutil.Process(self.process.pid)
        # The parent first: it would take its child's end for that of the command.
        for each in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def refused_options(command: Sequence[str]) -> Iterator[str]:
    """A line for each option with which a stop request would not reach the ranks."""
    for name in (word.partition("=")[0] for word in command):
        if name in OVER_GLOO:
            yield f"{name}: over Gloo no stop request reaches the workers: {OVER_GLOO[name]}"


def have_ended(runs: Sequence[RunStatus | None]) -> bool:
    """Whether a start has reported its end: all its runs finished, or one failed or stopped."""
    codes = [run.code if run is not None else None for run in runs]
    return any(code not in (None, FINISHED) for code in codes) or set(codes) == {FINISHED}


def run_folders(command: Sequence[str]) -> list[Path]:
    """The folders of the command's runs, in the order of their training. Empty for others."""
    try:
        job = load_job(*job_arguments(command))
    except (UserError, ValueError):
        return []
    return [Path(job.run.dir) / job.for_seed(seed).job.name for seed in job.seeds]


def job_arguments(command: Sequence[str]) -> tuple[str | None, list[str]]:
    """The job file, if any, and the overrides of a command with `distsent.train`."""
    words = command[list(command).index("distsent.train") + 1 :]
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    return next((word for word in words if "=" not in word), None), overrides
