"""A page of docs/ as a reader follows it: its files are written, its commands run, in their order.

Python runs in the process of the tests: one start would take as long as a whole page. Blocks of
code whose first line names a file (`# mail.toml`) are that file; other Python code is run. An
indented block is commands of a shell if its first word is one of PROGRAMS, and output if not.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.parallel.conftest import but

DOCS = Path(__file__).resolve().parents[1] / "docs"
PROGRAMS = ("python", "horovodrun", "head", "for")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|(?<=\n\n)((?: {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w-]+\.\w+)\b")
# A shell that lists the words of each start of Python, each followed by NUL, instead of starting it
SHELL = r"""set -eu -o pipefail
python() { printf '%s\0' "$@" $'\n' >&3; }
horovodrun() { [ "$1 $3" = "-np python" ]; shift 3; python "$@"; }
exec 3>&1 >/dev/null
"""


class Block(NamedTuple):
    language: str  # "" of an indented block, and of a fence that names none
    text: str


class Ran(NamedTuple):
    words: tuple[str, ...]  # as the page has them
    output: str  # standard output


@dataclass(frozen=True)
class Sizes:
    """What makes the commands of a page small.

    `keys` replace those of a job in each training and plan, `words` replace single words.
    """

    keys: Sequence[str]
    words: Mapping[str, str]


def blocks(page: str) -> list[Block]:
    """The blocks of code of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(one[1] or "", one[2] or one[3]) for one in BLOCK.finditer(text)]


def follow(page: str, sizes: Sizes) -> list[Ran]:
    """Do what a page says, in the current folder. All commands must succeed."""
    ran, names = [], {"__name__": page}
    for language, text in blocks(page):
        named = FILE.match(text) if language in ("python", "toml") else None
        if named:
            Path(named[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, page, "exec"), names)
        elif not language and text.split()[0] in PROGRAMS:
            ran += [run(words, sizes) for words in commands(text)]
    return ran


def commands(block: str) -> Iterator[list[str]]:
    """The words of each start of Python, as the shell expands them."""
    shell = subprocess.run(["bash", "-c", SHELL + block], stdout=subprocess.PIPE, check=True)
    for command in shell.stdout.decode().split("\0\n\0")[:-1]:
        yield command.split("\0")


def run(words: Sequence[str], sizes: Sizes) -> Ran:
    """Run `python WORDS` in this process."""
    output = io.StringIO()
    smaller = [sizes.words.get(word, word) for word in words]
    with contextlib.redirect_stdout(output):
        if smaller[0] != "-m":
            runpy.run_path(smaller[0], run_name="__main__")
        else:
            _, program, *rest = smaller
            programs = "distsent.train", "distsent.plan", "distsent.sweep"
            small = program in programs and "--check" not in rest
            rest = but(rest, *sizes.keys) if small else rest
            assert importlib.import_module(program).main(rest) == 0, words
    sys.stdout.write(output.getvalue())
    return Ran(tuple(words), output.getvalue())
