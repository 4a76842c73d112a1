"""The datasets library: silent, and its failures become one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from distsent.errors import UserError
from distsent.machine_errors import NO_SPACE


@contextmanager
def silenced() -> Iterator[None]:
    """No progress bars and log lines of the datasets library: it also writes them to files."""
    from datasets import utils

    had_bars, verbosity = not utils.are_progress_bars_disabled(), utils.logging.get_verbosity()
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        utils.logging.set_verbosity(verbosity)
        if had_bars:
            utils.enable_progress_bars()


def explain(error: BaseException, name: str) -> BaseException:
    """The error to raise instead: a UserError for whatever is wrong with data, disk or cache."""
    from datasets.exceptions import DatasetGenerationError

    while isinstance(error, DatasetGenerationError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__
    number = getattr(error, "errno", None)
    if number in NO_SPACE:
        fix = "free some, or set HF_DATASETS_CACHE to a folder with space"
        return UserError(f"{name}: no space left for the cache of datasets; {fix}")
    if number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        fix = "set HF_DATASETS_CACHE to a folder on a local disk"
        return UserError(f"{name}: the cache of datasets needs file locks; {fix}")
    if isinstance(error, pa.ArrowException | OSError | DatasetGenerationError | UnicodeDecodeError):
        text = str(error).strip() or type(error).__name__
        return UserError(f"{name}: cannot be read ({text.splitlines()[0].rstrip('.')})")
    return error
