"""Jobs: their keys, checks, files and overrides. Imports nothing heavy, so it answers at once."""

from distsent.job.job import Job
from distsent.job.load import load_job, load_job_to_train, load_saved_job

__all__ = ["Job", "load_job", "load_job_to_train", "load_saved_job"]
