"""metrics.jsonl: a line per logged step and per evaluation."""

import json
from collections.abc import Callable
from contextlib import suppress

from distsent.runtime.log import AppendedFile
from distsent.runtime.run_folder import RunFolder
from distsent.storage import exists
from distsent.tracking.events import Evaluation, Event, Listener, Metrics, Started


class MetricsFile(Listener):
    """Resuming at a step drops the lines of later ones, which are trained again.

    `complain` gets a line if the disk is full; the run goes on.
    """

    def __init__(self, folder: RunFolder, complain: Callable[[str], None]) -> None:
        self._folder, self._complain = folder, complain
        self._file: AppendedFile | None = None

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                truncate(self._folder, event.step, event.evaluated)
                self._file = AppendedFile(self._folder.metrics, self._folder.owner, self._complain)
            case Metrics() | Evaluation() if self._file is not None:
                self._file.append(json.dumps(event.values) + "\n")

    def close(self, until: float) -> None:
        if self._file is not None:
            self._file.close()


def truncate(folder: RunFolder, start: int, evaluated: int) -> None:
    """Drop the lines of steps after `start`, of evaluations after `evaluated`, and broken ones."""
    kept = []
    for record, line in read_lines(folder):
        if record["step"] <= (evaluated if "split" in record else start):
            kept.append(line + "\n")
    if exists(folder.metrics):
        folder.owner.write_text(folder.metrics, "".join(kept))


def last_steps(folder: RunFolder) -> dict[str, int]:
    """The last step in the file, by tag."""
    found: dict[str, int] = {}
    for record, _ in read_lines(folder):
        tag = record.get("split", "train")
        found[tag] = max(found.get(tag, 0), record["step"])
    return found


def read_lines(folder: RunFolder) -> list[tuple[dict, str]]:
    """(record, line) for each line; a crash may have cut one short."""
    found: list[tuple[dict, str]] = []
    if exists(folder.metrics):
        for line in folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                found += [(record, line)] if record["step"] >= 0 else []
    return found
