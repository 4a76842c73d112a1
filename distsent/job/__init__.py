"""What is asked: the keys of a job, their checks, job files and overrides. Imports nothing heavy, answers at once."""

from distsent.job.job import Job
from distsent.job.load import load, load_again

__all__ = ["Job", "load", "load_again"]
