"""The task of a job, by the name that `data.task` has for it."""

from collections.abc import Sequence

from distsent.evaluation.tasks.multi_label import MultiLabel
from distsent.evaluation.tasks.regression import Regression
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.evaluation.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (SingleLabel, MultiLabel, Regression)}


def choose_task(name: str, names: Sequence[str]) -> Task:
    """The task `name`. `names`: of its classes, labels or columns."""
    return TASKS[name](tuple(names))
