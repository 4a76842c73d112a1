"""Job file and command line -> job."""

import difflib
import glob
import os
import re
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from distsent.errors import UserError
from distsent.job.check import COMMAND_LINE, Assignment, flatten, shorten
from distsent.job.ignored import find_ignored, without_old_positions
from distsent.job.job import Job
from distsent.job.keys import parse_value
from distsent.job.label_file import read_label_file
from distsent.job.rules import PRETRAINED, exists_locally, has_own_texts, looks_local
from distsent.job.schema import KEYS
from distsent.machine_errors import is_trouble
from distsent.storage import exists, is_file

# Keys that may hold a path: of something to read, which must exist; of a folder to write to.
INPUTS, OUTPUTS = ("data.source", "model.name"), ("run.dir", "data.store")
# What the shell expands on a command line, and nothing in a file
VARIABLE = re.compile(r"\$(\w+|\{\w+\})", re.ASCII)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
WRITE_PATH = "write the path itself, or give the key on the command line"


def load_job(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> Job:
    """The job of a file (None: the demo job) with `section.key=value` overrides.

    Paths are relative to the current folder. UserError has one line per mistake.
    """
    return resolve(*read_assignments(path, overrides))


def load_job_to_train(path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()) -> Job:
    """As `load_job`, for programs that need an encoder. Raises as `check_encoder` does, too."""
    assignments, errors = read_assignments(path, overrides)
    job = resolve(assignments, errors)
    check_encoder(job, {item.key for item in assignments})
    return job


def check_encoder(job: Job, written: Container[str]) -> None:
    """Raise UserError if the demo's encoder would learn from other texts, and nobody asked for it.

    It knows only the demo's words, so that it would read most of a text as unknown.
    """
    if not has_own_texts(job.data) or "model.name" in written:
        return
    key = "data.source" if job.data.source != "demo" else "data.train"
    asked = f"{key} = {shorten(attrgetter(key)(job))} needs an encoder: set model.name to"
    demo = "or to demo for a small one with random weights, which knows only the demo's words"
    fix = {"model.name": PRETRAINED}
    raise UserError(f"{asked} a hub id or the folder of a pretrained one, {demo}", fix=fix)


def read_assignments(
    path: str | os.PathLike[str] | None, overrides: Sequence[str] = ()
) -> tuple[list[Assignment], list[str]]:
    """(the keys of a job file, then those of the overrides; a line for each that cannot be read)"""
    errors: list[str] = []
    in_file = _read_file(os.fspath(path), errors) if path is not None else []
    return [*in_file, *_read_overrides(overrides, errors)], errors


def resolve(assignments: Sequence[Assignment], errors: Iterable[str] = ()) -> Job:
    """The job of these keys; a key's last value counts. Raises UserError with all mistakes."""
    errors = [*errors]
    assignments = without_old_positions([_expand_path(item) for item in assignments])
    assignments = _with_label_names(assignments, errors)
    last = {item.key: item for item in assignments}
    errors += _path_errors(last.values())
    errors += find_ignored(last, last)
    return Job.from_assignments(assignments, errors)


def load_saved_job(tree: Mapping[str, Any], origin: str, overrides: Sequence[str] = ()) -> Job:
    """The job that the file `origin` holds as a dict, with overrides. Raises UserError."""
    errors: list[str] = []
    changes = [_expand_path(item) for item in _read_overrides(overrides, errors)]
    errors += _path_errors(changes)
    assignments = without_old_positions([*flatten(origin, dict(tree)), *changes])
    assignments = _with_label_names(assignments, errors)
    last = {item.key: item for item in assignments}
    written = {item.key: item for item in changes}
    errors += find_ignored(written, last if "data.source" in last else None)
    return Job.from_assignments(assignments, errors)


def _read_file(path: str, errors: list[str]) -> list[Assignment]:
    """The keys of a job file; an unreadable file adds one error."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        text = content.decode("utf-8-sig")
        return list(flatten(path, tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        problem = _explain_toml_error(str(error), text)
    except RecursionError:
        problem = "not a job: brackets are nested too deeply"
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = f"line {line}: not UTF-8 text; a job file is TOML"
    except IsADirectoryError:
        jobs = ", ".join(name for name in _names_in(path) if name.endswith(".toml"))
        problem = f"a folder, not a job file; it contains {jobs or 'no .toml file'}"
    except FileNotFoundError:
        problem = f"no such job file; {_similar_job(path)}"
    except (OSError, ValueError) as error:
        if is_trouble(error):
            raise UserError(f"{path}: cannot be read: {error}") from error
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    errors.append(f"{path}: {problem}")
    return []


def _explain_toml_error(message: str, text: str) -> str:
    """tomllib's message after the position, then the most common fix and the line."""
    position = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if not position:
        return f"not TOML: {message}"
    problem, lines = message[: position.start()], text.rstrip().split("\n")
    place, number = f"line {position[1]}, column {position[2]}", int(position[1] or len(lines))
    if not position[1]:
        place = f"line {number}, the end"
    line = text.split("\n")[number - 1].strip()
    if problem.startswith("Invalid value"):
        problem += " (text needs quotes; true and false are lower case)"
    if problem == "Cannot overwrite a value":
        problem += " (a key is set twice; keep one)"
    return f"{place}: not TOML: {problem}: {shorten(line)}"


def _similar_job(path: str) -> str:
    """The job file that was probably meant, from its folder and from jobs/."""
    folder, name = os.path.split(path)
    jobs = {
        job.removesuffix(".toml"): os.path.join(parent, job)
        for parent in ("jobs", folder)
        for job in _names_in(parent)
        if job.endswith(".toml") and job != "pyproject.toml"
    }
    if close := difflib.get_close_matches(os.path.splitext(name)[0], jobs, n=1):
        return f"did you mean {jobs[close[0]]}?"
    if jobs:
        return f"there are {', '.join(jobs.values())}"
    return f"the current folder is {os.getcwd()}"


def _read_overrides(overrides: Sequence[str], errors: list[str]) -> list[Assignment]:
    """The keys of `section.key=value` arguments."""
    found: dict[str, Assignment] = {}
    for argument in overrides:
        left, equals, text = argument.partition("=")
        key = left.strip()
        known = KEYS[key].type if key in KEYS else None
        # `key = value` has blanks around the sign, `key=value` only those of the value
        if known is None or not known.keeps_blanks or left != left.rstrip():
            text = text.strip()
        item = Assignment(COMMAND_LINE, key, known.parse(text) if known else parse_value(text))
        if not equals or not key:
            expected = "expected section.key=value, e.g. train.epochs=3"
            errors.append(f"{COMMAND_LINE}: {shorten(argument)}: {expected}")
        elif key in found:
            errors.append(item.error(f"set twice, first to {shorten(found[key].value)}; keep one"))
        else:
            found[key] = item
    return list(found.values())


def _expand_path(item: Assignment) -> Assignment:
    """Expand ~, and put ./ before a local path that could be a hub id."""
    if item.key not in INPUTS + OUTPUTS or not isinstance(item.value, str):
        return item
    if item.key in INPUTS and exists_locally(item.key, item.value):
        return replace(item, value=f"./{item.value}")
    return replace(item, value=os.path.expanduser(item.value))


def _with_label_names(assignments: list[Assignment], errors: list[str]) -> list[Assignment]:
    """The names that a file in data.labels contains in its place: a job records what it means."""
    last = {item.key: item for item in assignments}
    item, source = last.get("data.labels"), last.get("data.source")
    if item is None or not isinstance(item.value, str) or KEYS[item.key].read(item.value) is None:
        return assignments
    try:
        names = read_label_file(item.value, str(source.value) if source else "")
    except ValueError as error:
        errors.append(item.error(str(error)))
        return [other for other in assignments if other.key != item.key]
    return [*assignments, replace(item, value=names)]


def _path_errors(assignments: Iterable[Assignment]) -> Iterator[str]:
    """One line per missing input, and per output folder that is a file."""
    for item in assignments:
        if not isinstance(item.value, str):
            continue
        try:
            if item.key in INPUTS + OUTPUTS and VARIABLE.search(item.value):
                if not exists(item.value):
                    yield item.error(f"variables have no meaning in a job; {WRITE_PATH}")
                continue
            if item.key in INPUTS + OUTPUTS and URL.match(item.value):
                hub = "a hub id or a path; download it first"
                there = hub if item.key in INPUTS else "a folder, on a disk that all workers see"
                yield item.error(f"a URL; expected {there}")
            elif item.key in OUTPUTS and item.value.startswith("~"):
                yield item.error(f"there is no such user; {WRITE_PATH}")
            if item.key in INPUTS and looks_local(item.value) and not exists(item.value):
                yield item.error(f"no such file or folder; {_similar_path(item.value)}")
            if item.key in OUTPUTS and is_file(item.value):
                yield item.error("is a file; expected a folder or a new path")
        except OSError as error:
            if is_trouble(error):
                raise UserError(item.error(f"cannot be read: {error.strerror}")) from error
            yield item.error(f"{error.strerror}; expected a path that can be read")


def _similar_path(path: str) -> str:
    folder, name = os.path.split(path.rstrip("/"))
    if glob.has_magic(path):
        return "patterns are for data.train, data.validation and data.test"
    if close := difflib.get_close_matches(name, _names_in(folder), n=1):
        return f"did you mean {os.path.join(folder, close[0])}?"
    return f"paths are relative to {os.getcwd()}"


def _names_in(folder: str) -> list[str]:
    """The files in a folder; none if it cannot be read."""
    try:
        return sorted(os.listdir(folder or "."))
    except OSError:
        return []
