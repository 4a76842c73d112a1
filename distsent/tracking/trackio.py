"""Trackio: a local database, or what TRACKIO_SPACE_ID or TRACKIO_SERVER_URL names."""

import os
from typing import Any

from distsent.tracking.events import Ended, Evaluation, Event, Listener, Metrics, Started, numbers

PROJECT = "distsent"


class Tracker(Listener):
    """It resumes by name, so the name contains the run's id. What was logged is skipped here."""

    def __init__(self) -> None:
        import trackio

        self._trackio: Any = trackio
        self._run: Any = None
        self._known: dict[str, int] = {}

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                self._known = dict(event.logged)
                self._run = self._trackio.init(
                    project=os.environ.get("TRACKIO_PROJECT") or PROJECT,
                    name=f"{event.name}-{event.run_id}",
                    config=dict(event.parameters),
                    resume="allow",
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
            case Metrics() | Evaluation() if event.values["step"] > self._known.get(event.tag, 0):
                self._run.log(numbers(event), step=event.values["step"])
            case Ended():
                if event.final:
                    self._run.log(dict(event.final), step=event.step)
                self._run.finish()
