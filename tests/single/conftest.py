"""The finished run that several test files read."""

from tests.runs import finished

__all__ = ["finished"]
