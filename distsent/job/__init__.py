"""What is asked: the keys of a job, their checks, job files and overrides. Imports nothing heavy, answers at once."""

from distsent.job.job import Job
from distsent.job.load import load_job, load_saved_job

__all__ = ["Job", "load_job", "load_saved_job"]
