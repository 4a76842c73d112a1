"""Keys that may differ when a run resumes, or between the starts of a sweep.

They change where, how fast or how verbosely it computes, but not what.
"""

RESUMABLE_KEYS = (
    "run.dir", "run.stall_seconds", "run.resume", "run.transport", "run.interface", "data.store",
    "train.token_budget", "train.recompute", "train.share_weights", "eval.batch_tokens",
    "checkpoint.every_steps", "checkpoint.every_seconds", "checkpoint.keep", "log.every",
    "log.tensorboard", "log.trackers",
)  # fmt: skip
