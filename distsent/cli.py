"""What all doors share: from a mistake, a stop or a bad number to one clear line and the exit code that says the same."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from distsent.distributed.launchers import is_main_process
from distsent.errors import NON_FINITE, STOPPED, NonFinite, Stopped, UserError

# With 700, the default, the collector goes through all modules again and again while torch and transformers come in.
NEW_OBJECTS = 100_000


def run(main: Callable[[list[str]], int]) -> None:
    """Run a door's `main(arguments)` and leave with its exit code."""
    gc.set_threshold(NEW_OBJECTS)
    try:
        code = main(sys.argv[1:])
    except UserError as error:
        code = print_and_exit_code(error.lines, error.code)
    except NonFinite as error:
        code = print_and_exit_code([str(error)], NON_FINITE)
    except Stopped as error:
        code = print_and_exit_code([f"{error}; run the same command again to carry on"], STOPPED)
    except BrokenPipeError:  # the reader of our output has gone: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if is_main_process() and (
        path := os.environ.get("DISTSENT_EXIT_CODE")
    ):  # for a script whose launcher passes on no code but 1
        with suppress(OSError):
            Path(path).write_text(f"{code}\n", encoding="utf-8")
    sys.exit(code)


def print_and_exit_code(lines: tuple[str, ...] | list[str], code: int) -> int:
    """Print `lines` once: all workers meet the same end, the first one tells. (Of elastic ones, each may meet its own.)"""
    if is_main_process() or os.environ.get("HOROVOD_ELASTIC") == "1":
        for line in lines:
            print(f"distsent: {line}", file=sys.stderr, flush=True)
    else:
        time.sleep(
            1.0
        )  # a launcher ends everybody when the first one leaves: let that one have spoken
    return code


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one clear line and exit code 2, like all others."""

    def __init__(self, program: str, description: str | None) -> None:
        super().__init__(
            prog=f"python -m distsent.{program}",
            description=description,
            formatter_class=argparse.RawTextHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help shows what there is")

    def add_job(self) -> None:
        """The words that ask for a job: an optional file, then overrides."""
        self.add_argument(
            "words",
            nargs="*",
            metavar="JOB.toml section.key=value",
            help="a job file, and keys that override it",
        )

    @staticmethod
    def job_of(words: list[str]) -> tuple[str | None, list[str]]:
        """(job file or None, overrides)."""
        return (words[0], words[1:]) if words and "=" not in words[0] else (None, words)

    def add_model(self, rest: str) -> None:
        """The words that name a model, then any number of `rest`."""
        about = (
            f"a run folder, or a saved model in Hugging Face's layout; then any number of {rest}"
        )
        self.add_argument("words", nargs="*", metavar=f"RUN_OR_MODEL {rest}", help=about)

    def model_of(self, words: list[str]) -> tuple[str, list[str]]:
        """(run or model, the rest)."""
        if not words:
            self.error(
                "RUN_OR_MODEL is missing: name a run folder, or a saved model in Hugging Face's layout"
            )
        return words[0], words[1:]
