"""Starting a contestant: its command, in the same surroundings as the others', its output kept in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.work import Work

PYTHON = [sys.executable, "-m"]


def horovodrun(work: Work) -> list[str]:
    return ["horovodrun", "-np", str(work.workers), *PYTHON] if work.workers > 1 else PYTHON


def torchrun(work: Work) -> list[str]:
    launcher = [*PYTHON, "torch.distributed.run", "--standalone", f"--nproc-per-node={work.workers}", "-m"]
    return launcher if work.workers > 1 else PYTHON


def run(command: list[str], work: Work, folder: Path) -> str:
    """Run to the end; what it wrote on standard output. Raises RuntimeError with the last line of a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    surroundings = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(work.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with open(folder / "log", "w", encoding="utf-8") as log:
        done = subprocess.run(command, env=surroundings, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
    if done.returncode:
        said = (folder / "log").read_text(encoding="utf-8").strip().splitlines()
        wrong = [line for line in said if "Error" in line and "ChildFailedError" not in line]
        raise RuntimeError((wrong or said or [f"exit code {done.returncode}"])[-1].strip()[:200])
    return done.stdout


def script(launcher: list[str], module: str, work: Work, folder: Path, **extra: Any) -> dict[str, Any]:
    """Run a rival: it reads work.json and leaves out.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "out.json"
    (folder / "work.json").write_text(json.dumps({**asdict(work), **extra, "out": str(out)}))
    run([*launcher, f"benchmarks.rivals.{module}", str(folder / "work.json")], work, folder)
    return json.loads(out.read_text())
