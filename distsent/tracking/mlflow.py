"""MLflow. Its own variables say where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from distsent.errors import FINISHED, STOPPED
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

EXPERIMENT = "distsent"
RUN_ID = "distsent.run"  # a tag, by which a resumed run finds its run there
BATCH, LONGEST = 100, 500  # parameters and characters that every server takes
STATES = {FINISHED: "FINISHED", STOPPED: "KILLED"}


class Tracker(Listener):
    """A step that MLflow has is not logged again: it would keep both values."""

    def __init__(self) -> None:
        # Its default tries for minutes, in which we could not tell that there is no server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        from mlflow import MlflowClient

        self._client, self._run = MlflowClient(), ""
        self._known: dict[str, int] = {}  # the last step that MLflow has, by tag

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Metrics() | Evaluation() if event.values["step"] > self._known.get(event.tag, 0):
                self._log(numbers(event), event.values["step"], event.at)
            case CheckpointSaved():
                self._client.set_tag(self._run, "checkpoint", event.step)
            case Ended():
                self._log(event.final, event.step, event.at)
                self._client.set_tag(self._run, "end", event.message[:LONGEST])
                self._client.set_terminated(self._run, STATES.get(event.code, "FAILED"))

    def _start(self, event: Started) -> None:
        client = self._client
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        runs = client.search_runs([experiment], f"tags.`{RUN_ID}` = '{event.run_id}'")
        tags = {RUN_ID: event.run_id, "folder": event.folder}
        run = runs[0] if runs else client.create_run(experiment, tags=tags, run_name=event.name)
        self._run = run.info.run_id
        client.update_run(self._run, status="RUNNING")
        for key in run.data.metrics:
            tag, _, last = key.rpartition("/")
            if last == "loss" and not tag.startswith("final/"):
                history = client.get_metric_history(self._run, key)
                self._known[tag] = max((one.step for one in history), default=0)
        self._log_parameters(event.parameters, run.data.params)

    def _log_parameters(self, values: Mapping[str, Any], before: Mapping[str, str]) -> None:
        """MLflow never changes a parameter: what a resumed run has changed becomes a tag."""
        from mlflow.entities import Param, RunTag

        texts = {key: str(value)[:LONGEST] for key, value in values.items()}
        new = (Param(key, text) for key, text in texts.items() if key not in before)
        for batch in batches(new):
            self._client.log_batch(self._run, params=batch)
        changed = (
            RunTag(f"resumed.{key}", text)
            for key, text in texts.items()
            if before.get(key, text) != text
        )
        for batch in batches(changed):
            self._client.log_batch(self._run, tags=batch)

    def _log(self, values: Mapping[str, float], step: int, at: float) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, int(1000 * at), step) for key, value in values.items()]
        for batch in batches(iter(metrics)):
            self._client.log_batch(self._run, metrics=batch)


def batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(items, BATCH)):
        yield batch
