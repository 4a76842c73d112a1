"""From a job file and the command line to a job."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distsent.job.check import COMMAND_LINE, Assignment, flatten, parse, shown
from distsent.job.job import Job
from distsent.job.rules import looks_local, meant_locally

# Keys that may hold a path. What is read must be there; what is written to may be there, as a folder.
READ, WRITTEN_TO = ("data.source", "model.name"), ("run.dir", "data.store")


def load_job(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> Job:
    """The job of a file (None: the demo job) under `section.key=value` overrides; paths count from the current folder.

    UserError holds every mistake at once, one line each.
    """
    mistakes: list[str] = []
    in_file = from_file(os.fspath(path), mistakes) if path is not None else []
    in_overrides = from_command_line(overrides, mistakes)
    written = [expanded(item) for item in (*in_file, *in_overrides)]
    mistakes += wrong_paths({item.key: item for item in written}.values())
    return Job.build(written, mistakes)


def load_saved_job(tree: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Job:
    """The job that was kept as a dict, in the file `where`, under overrides. UserError holds every mistake at once."""
    mistakes: list[str] = []
    asked = [expanded(item) for item in from_command_line(overrides, mistakes)]
    mistakes += wrong_paths(asked)
    return Job.build([*flatten(where, dict(tree)), *asked], mistakes)


def from_file(path: str, mistakes: list[str]) -> list[Assignment]:
    """The keys of a job file; what stands in the way of reading it is one mistake."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        text = content.decode("utf-8-sig")
        return list(flatten(path, tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{path}: {not_toml(str(error), text)}")
    except RecursionError:
        mistakes.append(f"{path}: not a job: brackets nested too deeply")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        mistakes.append(f"{path}: line {line}: not UTF-8 text; a job file is TOML")
    except IsADirectoryError:
        jobs = ", ".join(name for name in names_in(path) if name.endswith(".toml"))
        mistakes.append(
            f"{path}: a folder, not a job file; {f'it holds {jobs}' if jobs else 'it holds no .toml file'}"
        )
    except FileNotFoundError:
        mistakes.append(f"{path}: no such job file; {nearest_job(path)}")
    except (OSError, ValueError) as error:
        mistakes.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
    return []


def not_toml(message: str, text: str) -> str:
    """tomllib's message with the place in front, the line itself, and the cure of the commonest case."""
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if not place or not place[1]:
        return f"not TOML: {message}"
    line = text.split("\n")[int(place[1]) - 1].strip()
    cure = (
        " (text needs quotes; true and false are lower case)"
        if message.startswith("Invalid value")
        else ""
    )
    return f"line {place[1]}, column {place[2]}: not TOML: {message[: place.start()]}{cure}: {shown(line)}"


def nearest_job(path: str) -> str:
    """The job file that was probably meant, among those beside it and those in jobs/."""
    folder, name = os.path.split(path)
    jobs = {job.removesuffix(".toml"): os.path.join(place, job)
            for place in ("jobs", folder) for job in names_in(place) if job.endswith(".toml")}  # fmt: skip
    jobs.pop("pyproject", None)
    if close := difflib.get_close_matches(os.path.splitext(name)[0], jobs, n=1):
        return f"did you mean {jobs[close[0]]}?"
    return (
        f"there are {', '.join(jobs.values())}" if jobs else f"the current folder is {os.getcwd()}"
    )


def from_command_line(overrides: Sequence[str], mistakes: list[str]) -> list[Assignment]:
    """The keys of `section.key=value` arguments."""
    written: dict[str, Assignment] = {}
    for argument in overrides:
        key, equals, text = (part.strip() for part in argument.partition("="))
        item = Assignment(COMMAND_LINE, key, parse(text))
        if not equals or not key:
            mistakes.append(
                f"{COMMAND_LINE}: {shown(argument)}: expected section.key=value, e.g. train.epochs=3"
            )
        elif key in written:
            mistakes.append(
                item.wrong(f"given twice, first as {shown(written[key].value)}; keep one")
            )
        else:
            written[key] = item
    return list(written.values())


def expanded(item: Assignment) -> Assignment:
    """A path from home (~) in full, and one that might be a hub id with ./ in front: so that nobody after us need think of it."""
    if item.key not in READ + WRITTEN_TO or not isinstance(item.value, str):
        return item
    if item.key in READ and meant_locally(item.key, item.value):
        return replace(item, value=f"./{item.value}")
    return replace(item, value=os.path.expanduser(item.value))


def wrong_paths(written: Iterable[Assignment]) -> Iterator[str]:
    """A line for each local path that is not there, or is a file where a folder will be made."""
    for item in written:
        if not isinstance(item.value, str):
            continue
        if item.key in READ and looks_local(item.value) and not os.path.exists(item.value):
            yield item.wrong(f"no such file or folder; {nearest_path(item.value)}")
        if item.key in WRITTEN_TO and os.path.isfile(item.value):
            yield item.wrong("a file; expected a folder, or a name that is free")


def nearest_path(path: str) -> str:
    """What was probably meant by a path, or where paths start."""
    folder, name = os.path.split(path.rstrip("/"))
    close = difflib.get_close_matches(name, names_in(folder), n=1)
    return (
        f"did you mean {os.path.join(folder, close[0])}?"
        if close
        else f"paths count from {os.getcwd()}"
    )


def names_in(folder: str) -> list[str]:
    """What lies in a folder; nothing where it cannot be read."""
    try:
        return sorted(os.listdir(folder or "."))
    except OSError:
        return []
