"""Who has come, before workers can speak to each other: a sign of life of each in shared storage.

A worker that never comes would keep the others waiting in the transport's own start, forever and
without a line. So each writes host and phase to a file, and again every few seconds, from before
its imports until heartbeats are connected. Rank 0 reads them and names who is missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distsent.distributed.launchers import Launch
from distsent.distributed.slurm_nodes import hosts_of_tasks
from distsent.runtime.heartbeat.ending import report_and_exit
from distsent.runtime.heartbeat.stacks import LIMIT, within

FOLDER = ".starting"  # in run.dir
# Together they tell a start from others: what launchers tell all their workers.
LAUNCHER_IDS = (
    "DISTSENT_ATTEMPT", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "PMIX_NAMESPACE",
    "HOROVOD_GLOO_RENDEZVOUS_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
    "MASTER_PORT",
)  # fmt: skip
PHASES = 10  # times run.stall_seconds without a new worker or phase
OTHERS_LATER = 10.0  # seconds: rank 0 knows more
EVERY = 5.0  # seconds between signs, or run.stall_seconds if that is less
SILENT = 3  # of these times


@dataclass(frozen=True)
class Sign:
    """What a worker wrote. `age`: seconds by which it is older than the newest sign."""

    host: str
    phase: str
    age: float = 0.0


class Starting:
    """The signs of life of this worker, and on rank 0 the watch over those of all."""

    def __init__(self, folder: Path, rank: int, size: int, stall_seconds: float) -> None:
        self._folder, self._rank, self._size = folder, rank, size
        self._every = min(EVERY, stall_seconds)
        self._bound = PHASES * stall_seconds + (OTHERS_LATER if rank else 0.0)
        self._phase, self._moves = "import", 0
        self._oldest = 0.0  # of signs of this start, by the storage's clock
        self._done = threading.Event()
        within(LIMIT, self._write)  # who stops moving right after this has left a sign
        self._thread = threading.Thread(target=self._watch, daemon=True, name="starting")
        self._thread.start()

    def enter(self, phase: str) -> None:
        self._phase = phase

    def finish(self) -> None:
        """All workers are connected, or this one has failed."""
        if not self._done.is_set():
            self._done.set()
            self._thread.join(LIMIT)
            within(LIMIT, self._remove)

    def _watch(self) -> None:
        # Counted, not measured: a pause of this process is no time of the others.
        seen, idle = dict[int, tuple[str, str]](), 0.0
        while True:
            signs: dict[int, Sign] = {}
            within(LIMIT, lambda signs=signs: signs.update(self._read()))  # type: ignore[misc]
            now = {rank: (sign.host, sign.phase) for rank, sign in signs.items()}
            idle = idle + self._every if now == seen else 0.0
            self._moves += now != seen
            seen = now
            if idle >= self._bound:
                hosts = expected_hosts(signs, self._size)
                why = find_missing(signs, self._size, SILENT * self._every, hosts)
                if self._rank:
                    why = main_missing(signs, SILENT * self._every)
                line = f"no worker came or moved for {idle:.0f} s at the start: {why}"
                report_and_exit(self._rank, line, int, lambda: within(LIMIT, self._give_up))
            if self._done.wait(self._every):
                return
            within(LIMIT, self._write)

    def _write(self) -> None:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # The number lets the others, which read this sign alone, see that the start goes on.
            moves = self._moves if self._rank == 0 else 0
            sign = {"host": socket.gethostname(), "phase": self._phase, "moves": moves}
            path = self._folder / f"rank-{self._rank}"
            part = path.with_name(f".{path.name}")
            part.write_text(json.dumps(sign))
            os.replace(part, path)
            # A start that was killed may have left its signs.
            self._oldest = self._oldest or path.stat().st_mtime - self._bound

    def _read(self) -> dict[int, Sign]:
        """All signs on rank 0, and that of rank 0 on the others."""
        found, newest = {}, 0.0
        for rank in range(self._size if self._rank == 0 else 1):
            with suppress(OSError, ValueError, KeyError, TypeError):
                with open(self._folder / f"rank-{rank}", encoding="utf-8") as file:
                    sign, changed = json.load(file), os.fstat(file.fileno()).st_mtime
                if changed < self._oldest:
                    continue
                phase = f"{sign['phase']} {sign['moves']}" if self._rank else sign["phase"]
                found[rank] = (sign["host"], phase, changed)
                newest = max(newest, changed)
        if self._rank:  # the storage's clock, not this host's
            with suppress(OSError):
                newest = max(newest, (self._folder / f"rank-{self._rank}").stat().st_mtime)
        return {rank: Sign(host, phase, newest - at) for rank, (host, phase, at) in found.items()}

    def _give_up(self) -> None:
        """Leave no sign to a later start, but that of rank 0 to those that still look for it."""
        for path in self._folder.glob("rank-*" if self._rank else "rank-[1-9]*"):
            path.unlink(missing_ok=True)
        if self._rank:
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            if self._rank == 0:
                shutil.rmtree(self._folder, ignore_errors=True)
            (self._folder / f"rank-{self._rank}").unlink(missing_ok=True)
            self._folder.rmdir()
        with suppress(OSError):
            self._folder.parent.rmdir()


def expected_hosts(
    signs: Mapping[int, Sign], size: int, env: Mapping[str, str] = os.environ
) -> list[str]:
    """The hosts of workers that have not come, from SLURM's variables.

    Each once, in the order of the ranks; empty if nothing tells.
    """
    tasks, absent = hosts_of_tasks(env), [rank for rank in range(size) if rank not in signs]
    if len(tasks) == size:  # each worker is a task
        return [*dict.fromkeys(tasks[rank] for rank in absent)]
    if len(tasks) and len(tasks) < size and size % len(tasks) == 0:  # each task starts workers
        return [*dict.fromkeys(tasks[rank * len(tasks) // size] for rank in absent)]
    return []


def find_missing(
    signs: Mapping[int, Sign], size: int, silent: float, hosts: Sequence[str] = ()
) -> str:
    """Who keeps the others waiting, from what they wrote; a sign older than `silent` is no sign.

    `hosts`: of those that left none, where that is known.
    """
    absent = [rank for rank in range(size) if rank not in signs]
    frozen = {rank: sign for rank, sign in signs.items() if sign.age > silent}
    busy = {r: s for r, s in signs.items() if r not in frozen and s.phase == "import"}
    lines = []
    if absent:
        where = f", on {', '.join(hosts[:20])}" if hosts else ""
        lines.append(f"no sign of {_ranks(absent)}{where} (on shared storage all leave one)")
    lines += [
        f"rank {rank} on {sign.host} has given no sign for {sign.age:.0f} s, in its {sign.phase}"
        for rank, sign in [*frozen.items()][:8]
    ]
    if more := [*frozen][8:]:
        lines.append(f"nor has {_ranks(more)}")
    lines += [f"rank {rank} on {s.host} still imports" for rank, s in [*busy.items()][:8]]
    if not lines:
        lines = [f"all {size} workers have come, but they do not connect: look at the network"]
    return "; ".join(lines)


def main_missing(signs: Mapping[int, Sign], silent: float) -> str:
    """The same, as another worker sees it."""
    if 0 not in signs:
        return "no sign of rank 0 (on shared storage it leaves one)"
    if signs[0].age > silent:
        return f"rank 0 on {signs[0].host} has given no sign for {signs[0].age:.0f} s"
    return f"rank 0 on {signs[0].host} waits for others, too: look at its log"


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:20])) + (", ..." if len(ranks) > 20 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"{len(ranks)} ranks ({shown})"


def watch_start(
    runs: str | Path, job: str, launch: Launch, stall_seconds: float
) -> Starting | None:
    """Call it before the imports that take long. None for a worker alone, and for elastic ones."""
    if launch.size == 1 or os.environ.get("HOROVOD_ELASTIC") == "1":
        return None
    return Starting(starting_folder(runs, job), launch.rank, launch.size, stall_seconds)


def starting_folder(runs: str | Path, job: str, env: Mapping[str, str] = os.environ) -> Path:
    """Equal for all workers of a start."""
    ids = "-".join(env[name] for name in LAUNCHER_IDS if env.get(name))
    return Path(runs) / FOLDER / re.sub(r"[^\w.-]", "_", f"{job}-{ids}")[:200]
