"""Arrow tables through the cache of the datasets library; its failures become one line."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from distsent.data.rows import Part
from distsent.errors import UserError


def table_from_rows(
    rows: Callable[..., Iterator[dict]], arguments: dict[str, Any], types: dict[str, str], name: str
) -> pa.Table:
    """The memory-mapped table of what `rows(**arguments)` yields: these are its cache key."""
    from datasets import Dataset, Features, Value

    with explained(name):
        features = Features({column: Value(kind) for column, kind in types.items()})
        try:
            return Dataset.from_generator(rows, gen_kwargs=arguments, features=features).data.table
        except ValueError as error:
            if "corresponds to no data" not in str(error):
                raise
            return features.arrow_schema.empty_table()  # datasets refuses datasets without rows


def part_of_dataset(name: str, rows: Any, label: str) -> Part:
    """The rows of a datasets.Dataset, with the class names of the column `label` if it has some."""
    names = getattr(rows.features[label], "names", None)
    return Part(name, rows.data.table, names and tuple(names))


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Read something called `name` with datasets or Arrow, silently; errors become one line."""
    try:
        with silenced():
            yield
    except Exception as error:
        raise explain(error, name) from error


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
    if number in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some, or set HF_DATASETS_CACHE to a folder with space"
        return UserError(f"{name}: no space left for the cache of datasets; {fix}")
    if number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        fix = "set HF_DATASETS_CACHE to a folder on a local disk"
        return UserError(f"{name}: the cache of datasets needs file locks; {fix}")
    if isinstance(error, pa.ArrowException | OSError | DatasetGenerationError | UnicodeDecodeError):
        text = str(error).strip() or type(error).__name__
        return UserError(f"{name}: cannot be read ({text.splitlines()[0].rstrip('.')})")
    return error
