"""Which keys of a job a sweep may search, and why not the others."""

from distsent.job.resumable import RESUMABLE_KEYS

SAME_ROWS = "trials would be trained or scored on other rows, and could not be compared"
NO_EFFECT = "it changes how a run computes, not what"
SECTIONS = {
    "job": "the sweep names its trials",
    "run": NO_EFFECT,
    "checkpoint": NO_EFFECT,
    "log": NO_EFFECT,
    "data": SAME_ROWS,
}
OTHERS = {
    **dict.fromkeys(RESUMABLE_KEYS, NO_EFFECT),
    "model.packed": NO_EFFECT,
    "train.seed": "a seed that scores better is luck; in the job, train.seed = [1, 2, 3] shows it",
    "eval.every": "trials are compared by their evaluations",
    "eval.metric": "trials are compared by one metric: [search] metric",
    "eval.calibrate": "it changes probabilities after the training, not what is trained",
}
OF_DATA = (
    "data.max_length", "data.long", "data.window_overlap", "data.template", "data.max_rows",
)  # fmt: skip


def reason_against(key: str) -> str | None:
    """Why trials cannot differ in this key; None if they can."""
    if key in OF_DATA:
        return None
    section = key.partition(".")[0]
    if section == "job":
        return SECTIONS[section]
    return OTHERS.get(key) or SECTIONS.get(section)
