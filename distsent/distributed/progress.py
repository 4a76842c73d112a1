"""How far a worker is: its phase, its step, and the collectives that it has entered.

The heartbeat sends it to the main worker, which compares all workers when nothing moves.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Position:
    """A worker's progress at one moment."""

    phase: str = "import"
    step: int = 0
    entered: int = 0  # collectives entered since the start
    collective: str = ""  # the name of the one it waits in; empty while it computes
    work: int = 0  # rows tokenized, files written: what else shows that a phase moves


class Progress:
    """The position of this process. Written by the main thread, read by the heartbeat's."""

    def __init__(self) -> None:
        self.position = Position()  # replaced as a whole, so a reader needs no lock
        self._entered: deque[str] = deque(maxlen=64)

    def at_step(self, step: int) -> None:
        self.position = replace(self.position, step=step)

    def worked(self) -> None:
        """Something moved within the phase."""
        self.position = replace(self.position, work=self.position.work + 1)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Be in a phase: load, download, tokenize, step, evaluate, save or publish."""
        before = self.position.phase
        self.position = replace(self.position, phase=name)
        try:
            yield
        finally:
            self.position = replace(self.position, phase=before)

    @property
    def recent(self) -> list[str]:
        """The names of the last collectives that were entered."""
        return list(self._entered)

    def enter(self, name: str) -> None:
        """Count a collective that is started."""
        self._entered.append(name)
        self.position = replace(self.position, entered=self.position.entered + 1)

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Wait in a collective."""
        self.position = replace(self.position, collective=name)
        try:
            yield
        finally:
            self.position = replace(self.position, collective="")


def phase_of(source: str, local: str) -> str:
    """The phase in which a source is read: what is not on this host may be downloaded."""
    return local if source == "demo" or Path(source).exists() else "download"
