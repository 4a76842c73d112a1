"""Values that are no text and no label, but hold some: the command that writes rows of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distsent.formats.records import shorten

Rewrite = Callable[..., str]  # Reader.rewritten: `text` and `label` are Python of a row x


def text_fault(value: Any, text: str, label: str, rewrite: Rewrite) -> str:
    """What a list of texts is, with the command; empty for other values."""
    if not (isinstance(value, list) and value):
        return ""
    named = f",label={label}" if label else ""
    if all(isinstance(one, str) for one in value):
        what, each = "a list of texts", f"[dict(text=t{named})for t in {text} or[]]"
    elif not all(isinstance(one, dict) for one in value):
        return ""
    elif _are_parts(value):
        each = f"[dict(text=''.join(t['text']for t in {text}){named})]"
        command = rewrite(each)
        return f"{shorten(value)} is a text in parts{_with(command, 'joins them')}"
    else:
        what, each = "a list of objects", f"[dict(t{named})for t in {text} or[]]"
    return f"{shorten(value)} is {what}{_with(rewrite(each), 'writes a row for each')}"


def keys_fault(value: Any, rewrite: Rewrite) -> str:
    """What lists of texts in all columns are, with the command."""
    each = "[dict(text=t,label=k)for k,v in x.items()for t in v]"
    command = _with(rewrite(each), "converts them if columns are labels")
    return f"{shorten(value)} is a list of texts{command}"


def is_list_of_texts(value: Any) -> bool:
    """Whether most values have several words."""
    some = [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
    return bool(some) and sum(" " in one.strip() for one in some) * 2 > len(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _with(command: str, what: str) -> str:
    return f": not read; {command} {what}" if command else ": not read"


def _are_parts(value: list[dict[str, Any]]) -> bool:
    """Whether texts begin or end with blanks, as those of a text that was cut into parts do."""
    texts = [text for one in value if isinstance(text := one.get("text"), str)]
    return len(texts) == len(value) and any(text != text.strip() for text in texts)
