"""datasets, as distsent uses it: rows become memory-mapped Arrow tables in its cache, and failures become one line."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distsent.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


def from_rows(
    make: Callable[..., Iterator[dict[str, Any]]],
    wanted: dict[str, Any],
    types: dict[str, str],
    name: str,
) -> pa.Table:
    """The rows that `make(**wanted)` yields. Read once: the cache knows them by `make`'s name and `wanted`."""
    from datasets import Dataset, Features, Value

    with reading(name):
        features = Features({column: Value(kind) for column, kind in types.items()})
        try:
            return Dataset.from_generator(make, gen_kwargs=wanted, features=features).data.table
        except ValueError as error:
            if "corresponds to no data" not in str(error):
                raise
            return features.arrow_schema.empty_table()  # datasets has no corpora without rows


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Read something called `name` with datasets or Arrow: silently, and errors become one line."""
    try:
        with silently():
            yield
    except Exception as error:
        raise explain(error, name) from error


@contextmanager
def silently() -> Iterator[None]:
    """No progress bars and no remarks of datasets' own: it shows them in log files, too."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    had_bars, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


def explain(error: BaseException, name: str) -> BaseException:
    """The UserError inside or behind `error`; anything that is no fault of the data stays as it is."""
    import pyarrow as pa
    from datasets.exceptions import DatasetGenerationError

    while isinstance(error, DatasetGenerationError) and (
        cause := error.__cause__ or error.__context__
    ):
        error = cause
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{name}: no space left for datasets' cache; free some, or set HF_DATASETS_CACHE to a folder with space"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        return UserError(
            f"{name}: datasets' cache needs file locks: set HF_DATASETS_CACHE to a folder of a local disk"
        )
    if isinstance(error, pa.ArrowException | OSError | DatasetGenerationError | UnicodeDecodeError):
        text = str(error).strip() or type(error).__name__
        return UserError(f"{name}: cannot be read ({text.splitlines()[0].rstrip('.')})")
    return error
