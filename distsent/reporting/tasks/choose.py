"""The report of a task."""

from distsent.evaluation.tasks.task import Task
from distsent.reporting.tasks.multi_label import MultiLabelReport
from distsent.reporting.tasks.regression import RegressionReport
from distsent.reporting.tasks.single_label import SingleLabelReport
from distsent.reporting.tasks.task_report import TaskReport

REPORTS: dict[str, type[TaskReport]] = {
    "single_label": SingleLabelReport,
    "multi_label": MultiLabelReport,
    "regression": RegressionReport,
}


def report_of(task: Task) -> TaskReport:
    """What reports show of the task."""
    return REPORTS[task.name](task)
