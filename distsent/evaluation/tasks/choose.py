"""The task of a job or of a saved classifier, by the name that `data.task` has for it."""

from collections.abc import Sequence
from pathlib import Path

from distsent.evaluation.exported import read_export
from distsent.evaluation.tasks.multi_label import MultiLabel
from distsent.evaluation.tasks.regression import Regression
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.evaluation.tasks.task import Task
from distsent.model.config import load_config, task_of
from distsent.runtime.run_folder import read_json

TASKS: dict[str, type[Task]] = {task.name: task for task in (SingleLabel, MultiLabel, Regression)}


def choose_task(name: str, names: Sequence[str]) -> Task:
    """The task `name`. `names`: of its classes, labels or columns."""
    return TASKS[name](tuple(names))


def saved_task(folder: Path) -> str:
    """The name of a saved classifier's task. Raises UserError if that is not clear."""
    export = read_export(folder)
    if export is not None:
        return export.task
    record = read_json(folder.parent / "job.json")
    if record is None:
        return task_of(load_config(str(folder), key="model"), f"model = {str(folder)!r}")
    # Not its config.json: runs of older versions kept the problem of their base there.
    return str(record["job"]["data"].get("task", "single_label"))
