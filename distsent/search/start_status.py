"""How a start of a sweep went, for the launcher that gave it a name (`DISTSENT_ATTEMPT`).

Several starts may work on one sweep, so each has a `status.json` of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from distsent.errors import FAILED, FINISHED
from distsent.runtime.run_folder import write_text
from distsent.runtime.run_status import ATTEMPT, FILE, RunStatus, read_status
from distsent.search.trials import TrialFolder, read_runs


@contextmanager
def start_status(sweep: Path) -> Iterator[None]:
    """Within it the trials are trained. Writes how that ends, and whether they got further.

    `step` is that of all trials together: a time limit that lets none of them save is a failure.
    """
    attempt = os.environ.get(ATTEMPT)
    if attempt is None:
        yield
        return
    path = sweep / "starts" / attempt.replace("/", "-") / FILE
    status = RunStatus.started("searching", saved_steps(sweep))
    code, message = FAILED, ""
    try:
        yield
        code, message = FINISHED, "finished"
    except BaseException as error:
        code, message = getattr(error, "code", FAILED), str(error)
        raise
    finally:
        status = replace(status, step=saved_steps(sweep)).ended(code, message)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, status.to_json())


def saved_steps(sweep: Path) -> int:
    """The saved steps of all trials; one more for each that has ended, as failed ones have none."""
    total = 0
    for run in read_runs(sweep):
        status = read_status(TrialFolder(sweep / run.name).files.status)
        total += (status.step if status else 0) + run.ended
    return total
