"""The end of a run on the console: the result as a table, and the commands to type next."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distsent.reporting.finished_run import task_of_result
from distsent.runtime.run_folder import RunFolder
from distsent.storage import is_folder


def format_result_table(result: Mapping[str, Any]) -> str:
    """One row per split, one column per score."""
    columns = "n", *task_of_result(result).scalars, "samples_per_second"
    rows = [["split", *(column.replace("samples_per_second", "examples/s") for column in columns)]]
    for split, scores in result["eval"].items():
        rows.append([split, *(_format_score(column, scores[column]) for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _format_score(column: str, value: float) -> str:
    if column == "n":
        return f"{value:,}"
    return f"{value:.1f}" if column == "samples_per_second" else f"{value:.4f}"


def next_commands(folder: Path, pairs: bool = False) -> str:
    """The commands to type after a run, for its folder. `pairs`: its rows have two texts."""
    run, files = shlex.quote(str(folder)), RunFolder(folder)
    # In a checkout set up by make, the shell need not have activated the virtual environment.
    venv = ".venv/bin/" if Path(sys.prefix) == Path.cwd() / ".venv" else ""
    program = f"{venv}python -m distsent"
    commands = {
        "label a text": f'{program}.predict {run} "A text to label"',
        "label a file": f"{program}.predict {run} --file ./texts.csv",
        "compare runs": f"{program}.report {run} ANOTHER_RUN",
        "evaluate on a file": f"{program}.evaluate {run} data.source=./test.csv",
        "find label errors": f"{program}.audit {run}",
        "export": f"{program}.export {run} --format onnx",
    }
    if pairs:
        del commands["label a text"]
    if is_folder(files.tensorboard):
        commands["curves"] = f"{venv}tensorboard --logdir {run}"
    commands["model card"] = os.fspath(files.card)
    width = max(map(len, commands)) + 2
    return "\n".join(["next:", *(f"  {name:<{width}}{text}" for name, text in commands.items())])
