"""Weights & Biases. Its own variables say how: WANDB_API_KEY, WANDB_MODE=offline, WANDB_PROJECT."""

import os
from typing import Any

from distsent.tracking.events import (
    CheckpointSaved,
    Ended,
    Evaluation,
    Event,
    Listener,
    Metrics,
    Started,
    numbers,
)

PROJECT = "distsent"


class Tracker(Listener):
    """Its steps count calls, so ours is a value of its own, and what was logged is skipped here."""

    def __init__(self) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = None
        self._known: dict[str, int] = {}

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Metrics() | Evaluation() if event.values["step"] > self._known.get(event.tag, 0):
                self._run.log({"step": event.values["step"], **numbers(event)})
            case CheckpointSaved():
                self._run.summary["checkpoint"] = event.step
            case Ended():
                self._run.summary.update({"end": event.message, **event.final})
                self._run.finish(event.code)

    def _start(self, event: Started) -> None:
        self._known = dict(event.logged)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            dir=os.environ.get("WANDB_DIR") or event.folder,
            id=event.run_id,
            name=event.name,
            resume="allow",
            settings=self._wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True
            ),
        )
        self._run.config.update(dict(event.parameters), allow_val_change=True)
        self._run.define_metric("*", step_metric="step")
