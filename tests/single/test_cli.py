"""Every program helps, refuses a wrong argument in one line, and answers before anything heavy is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests import fixtures, launcher

DOORS = {  # program: a wrong command line, and its line
    "train": (["--chekc"], "unrecognized arguments: --chekc"),
    "evaluate": (
        [],
        "RUN_OR_MODEL is missing: give a run folder or a saved Hugging Face model",
    ),
    "predict": (
        ["--max-length=9"],
        "RUN_OR_MODEL is missing: give a run folder or a saved Hugging Face model",
    ),
    "prepare": (["--workers=3"], "unrecognized arguments: --workers=3"),
    "report": ([], "the following arguments are required: RUN"),
    "doctor": (["everything"], "unrecognized arguments: everything"),
}


@pytest.mark.parametrize("door", DOORS)
def test_help_and_a_wrong_argument(door: str) -> None:
    helped = launcher.run("-X", "importtime", "-m", f"distsent.{door}", "--help")
    assert helped.code == 0 and f"usage: python -m distsent.{door} " in helped.output
    assert not [
        line
        for line in helped.output.splitlines()
        if line.endswith(("| torch", "| transformers", "| datasets"))
    ]
    wrong, line = DOORS[door]
    refused = launcher.run("-m", f"distsent.{door}", *wrong)
    assert (refused.code, refused.output) == (
        2,
        f"distsent: python -m distsent.{door}: {line}; --help lists all arguments\n",
    )


def test_one_process_needs_no_horovod_no_mpi_and_no_network(tmp_path: Path) -> None:
    """The demo job in miniature, in an interpreter that finds none of them and cannot connect anywhere."""
    without = """if True:
        import runpy, socket, sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("horovod", "mpi4py", "peft", "bitsandbytes", "matplotlib"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Absent())
        def nowhere(*address): raise OSError("no network")
        socket.socket.connect = nowhere
        sys.argv = ["train", *sys.argv[1:]]
        runpy.run_module("distsent.train", run_name="__main__")
    """
    job = [
        f"run.dir={tmp_path}",
        "train.max_steps=3",
        "data.max_rows=200",
        "data.max_eval_rows=50",
        "log.tensorboard=false",
    ]
    ended = launcher.run("-c", without, *job, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hub"))
    assert ended.code == 0, ended.output
    assert fixtures.result(tmp_path / "demo")["world_size"] == 1
    assert json.loads((tmp_path / "demo" / "job.json").read_text())["world_size"] == 1
    assert "horovod" not in sys.modules
