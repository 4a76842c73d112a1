"""All mistakes of a dataset together, with the keys that repair them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from distsent.errors import UserError
from distsent.job.schema import DataSection


def diagnose(
    error: UserError, data: DataSection, read: Callable[[DataSection], object]
) -> UserError:
    """`error`, and what else `read(data)` finds once its fix is applied.

    The fix of the result repairs everything: it was tried (`others` were not). There is none if
    some mistake has none.
    """
    lines, fix, others = [*error.lines], dict[str, Any](), list[dict[str, Any]]()
    while error.fix.keys() - fix.keys():
        fix |= error.fix
        others += error.others
        try:
            read(with_keys(data, fix))
        except UserError as another:
            error = another
            lines += (line for line in error.lines if line not in lines)
        else:
            return UserError(*lines, fix=fix, others=others)
    return UserError(*lines, code=error.code)


def with_keys(data: DataSection, keys: Mapping[str, Any]) -> DataSection:
    """The section with other values of some keys ("data.text_column")."""
    values: dict[str, Any] = {
        key.removeprefix("data."): tuple(x) if isinstance(x, list) else x for key, x in keys.items()
    }
    return replace(data, **values)
