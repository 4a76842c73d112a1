"""tracker.json: what a run is called at its trackers, and what they may know of it already."""

import secrets
from contextlib import suppress
from typing import Any

from distsent.errors import UserError
from distsent.job.job import Job
from distsent.runtime.run_folder import RunFolder, read_json
from distsent.tracking.metrics_file import last_steps


def open_record(folder: RunFolder, job: Job, step: int) -> tuple[str, dict[str, int]]:
    """(run id, last logged steps by tag) of a run that starts or resumes after `step`.

    Written before a tracker hears the id, and before metrics.jsonl drops the steps that are trained
    again: wherever a kill hits, the next start finds the tracker's run and repeats nothing. A
    corrected job of which nothing was trained, and a copied folder, are runs of their own.
    """
    known: dict[str, Any] = {}
    with suppress(UserError):  # a damaged file costs a second run at the tracker, not this one
        known = read_json(folder.tracker) or {}
    mine = {"name": job.job.name, "job": job.to_dict()}
    run_id, logged = known.get("id"), known.get("logged", {})
    if known.get("name") != job.job.name or (step == 0 and known.get("job") != mine["job"]):
        run_id, logged = None, {}
    else:
        for tag, last in last_steps(folder).items():
            logged[tag] = max(last, logged.get(tag, 0))
    run_id = run_id or secrets.token_hex(8)
    folder.write_json(folder.tracker, {"id": run_id, "logged": logged, **mine})
    return run_id, logged
