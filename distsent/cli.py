"""What entry points share: command lines, one-line errors and exit codes."""

import argparse
import atexit
import errno
import gc
import io
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from distsent.distributed.launchers import is_first_on_host, is_main_process
from distsent.errors import (
    FAILED,
    MORE_MEMORY,
    STOPPED,
    USAGE_ERROR,
    HostError,
    NonFinite,
    Stopped,
    UserError,
    WorkerFailed,
    out_of_memory,
)
from distsent.job.check import to_word
from distsent.job.rules import looks_local
from distsent.machine_errors import errno_of, is_out_of_memory, is_trouble
from distsent.storage import entries, is_file, is_folder, nearest_parent

# With the default of 700, the collector scans all modules again and again while torch and
# transformers are imported.
GC_THRESHOLD = 100_000
# Idle threads of torch (libgomp) spin 300,000 times, for milliseconds, before they sleep. Where
# other processes want the same cores, a step took four times as long. 10,000 bridge what Python
# does between two operations.
SPINS = "10000"
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR)


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Run an entry point's `main(arguments)` and exit with its code."""
    gc.set_threshold(GC_THRESHOLD)
    atexit.register(gc.freeze)  # no last collection: it took a second of each worker's exit
    open_closed_streams()
    use_utf8()
    # A caller may have ignored it. Then the system keeps no exit code of a child: Python says 0.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read once, while torch is loaded
    try:
        check_current_folder()
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except HostError as error:
        code = print_and_exit_code(error.lines, error.code, first=is_first_on_host())
    except UserError as error:
        code = print_and_exit_code([*error.lines, *repaired_commands(error)], error.code)
    # The failing worker prints the traceback of a WorkerFailed.
    except (Stopped, NonFinite, WorkerFailed) as error:
        code = print_and_exit_code([str(error)], error.code)
    except BrokenPipeError:  # the reader of standard output has exited: `... | head`
        code = FAILED
        drop_output()
    except (OSError, MemoryError, RuntimeError) as error:  # also torch's and other libraries' own
        code = print_refusal(error)
    except KeyboardInterrupt:  # end as by the signal, without a traceback: shells look at that
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    sys.exit(code)


def print_refusal(error: OSError | MemoryError | RuntimeError) -> int:
    """Print one line for what the system refuses, and return the exit code.

    Raises the error again if it is a mistake in the program, with its traceback.
    """
    if is_out_of_memory(error):
        lines = out_of_memory(error, "working", MORE_MEMORY).lines
        return print_and_exit_code(lines, USAGE_ERROR, first=True)
    if isinstance(error, OSError):
        if not is_trouble(error) and (error.errno not in REFUSED or error.filename is None):
            raise error
        line = f"{error.filename or 'the output'}: {error.strerror or error}"
        code = print_and_exit_code([line], FAILED, first=True)
        drop_output()
        return code
    if errno_of(error) is None or not is_trouble(error):
        raise error
    return print_and_exit_code([str(error).splitlines()[0]], FAILED, first=True)


def check_current_folder() -> None:
    """Raises UserError if it has been deleted: torch's libraries would abort the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was deleted: cd to another one", code=FAILED) from None


def drop_output() -> None:
    """Let what standard output still holds go nowhere, so that Python's exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed_streams() -> None:
    """Open /dev/null for streams that the caller has closed, as daemons and `2>&-` do.

    Else the next file to be opened would take their place, and errors would be written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def use_utf8() -> None:
    """Read and write UTF-8 in any locale: arguments, names of files, and the standard streams.

    Python decodes arguments before any code runs, so another locale needs a second start.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if isinstance(sys.stdout, io.TextIOWrapper):  # PYTHONIOENCODING may name another encoding
        # In JSON, these backslashes are the escape of a lone surrogate.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def print_and_exit_code(lines: Sequence[str], code: int, first: bool | None = None) -> int:
    """Print `lines` to standard error, on rank 0 only (else where `first`), and return `code`.

    Elastic workers all print: each may have failed for a reason of its own.
    """
    first = is_main_process() if first is None else first
    if first or os.environ.get("HOROVOD_ELASTIC") == "1":
        with suppress(OSError):  # the terminal may be gone
            for line in lines:
                sys.stderr.write(f"distsent: {line}\n")
    else:
        # A launcher kills all workers when the first exits: let rank 0 print. On a busy machine it
        # may be seconds behind, if they did not wait for each other before.
        time.sleep(1.0 if code == STOPPED else 5.0)
    return code


def repaired_commands(error: UserError) -> list[str]:
    """The command that was given, with the keys that repair an error, and with other such keys."""
    if not error.fix:
        return []
    others = [f"or:  {_command({**error.fix, **keys})}" for keys in error.others]
    return [f"try: {_command(error.fix)}", *others]


def _command(fix: Mapping[str, Any]) -> str:
    """The command that was given, with keys in place of those that it has."""
    kept, words = [], iter(sys.argv[1:])
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--"):  # such as --text-column, which stands for data.text_column
            name = f"data.{name[2:].replace('-', '_')}"
        replaced = name in fix or ("data.source" in fix and is_dataset(Path(word)))
        if not replaced:
            kept.append(shlex.quote(word))
        elif "=" not in word:
            next(words, None)  # the value of an option that is replaced
    kept += (to_word(key, value) for key, value in fix.items())
    return f"python -m distsent.{Path(sys.argv[0]).stem} {' '.join(kept)}"


def is_dataset(path: Path) -> bool:
    """Whether this is a file or folder that is not about jobs."""
    if is_folder(path):
        return not any(inside.suffix == ".toml" for inside in entries(path))
    return is_file(path) and path.suffix != ".toml"


def check_output(option: str, path: Path) -> None:
    """Raises UserError if `path` cannot become a file: before the work, not after it."""
    if is_folder(path):
        raise UserError(f"{option} {path}: is a folder; expected a file")
    if not is_folder(above := nearest_parent(path)):
        raise UserError(f"{option} {path}: {above} is not a folder; expected a file in a folder")


class Parser(argparse.ArgumentParser):
    """A command line whose errors are one line and exit code 2."""

    def __init__(self, program: str, description: str | None) -> None:
        name, style = f"python -m distsent.{program}", argparse.RawTextHelpFormatter
        super().__init__(prog=name, description=description, formatter_class=style)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists all arguments")

    def add_job(self) -> None:
        """Accept an optional job file and overrides, in any order."""
        about = "a job file, and keys that override it, in any order"
        self.add_argument("words", nargs="*", metavar="JOB.toml section.key=value", help=about)

    def job_of(self, words: Sequence[str]) -> tuple[str | None, list[str]]:
        """(job file or None, overrides): the job file is the word without `=`.

        A file or folder of a dataset in its place is data.source.
        """
        files = [word for word in words if "=" not in word]
        if len(files) > 1:
            self.error(
                f"{files[0]!r} and {files[1]!r}: expected one job file and section.key=value"
            )
        rest = [word for word in words if word not in files]
        if files and is_dataset(Path(files[0])):
            # A key may say `emotion` and mean the hub; here it is a path
            path = files[0] if looks_local(files[0]) else f"./{files[0]}"
            return None, [f"data.source={path}", *rest]
        # A last word like 1e-3 is a broken override: the job reports it with its other mistakes.
        if files and words[0] != files[0] and not files[0].endswith(".toml"):
            files = []
        return (files[0] if files else None), [word for word in words if word not in files]

    def add_model(self, rest: str) -> None:
        """Accept a run or model, then any number of `rest`."""
        about = f"a run folder or a saved Hugging Face model, then any number of {rest}"
        self.add_argument("words", nargs="*", metavar=f"RUN_OR_MODEL {rest}", help=about)

    def model_of(self, words: list[str]) -> tuple[str, list[str]]:
        """(run or model, the other words)."""
        if not words:
            self.error("RUN_OR_MODEL is missing: give a run folder or a saved Hugging Face model")
        return words[0], words[1:]
