"""Starting a contestant: its command, in the same surroundings as the others', its output kept in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.workload import Workload

PYTHON = [sys.executable, "-m"]


def horovodrun(work: Workload) -> list[str]:
    return ["horovodrun", "-np", str(work.workers), *PYTHON] if work.workers > 1 else PYTHON


def torchrun(work: Workload) -> list[str]:
    launcher = [
        *PYTHON,
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={work.workers}",
        "-m",
    ]
    return launcher if work.workers > 1 else PYTHON


@dataclass(frozen=True)
class Ended:
    said: str  # on standard output
    first_step: float  # seconds from the start until the file `first` was there, which a contestant makes after its first step


def run(command: list[str], work: Workload, folder: Path, first: str = "first") -> Ended:
    """Run to the end. Raises RuntimeError with the last line of a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    surroundings = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(work.threads),
        "CUDA_VISIBLE_DEVICES": "",  # the contests are held on CPUs: some of the rivals' scripts know nothing else
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    began, seen = time.perf_counter(), 0.0
    with (
        open(folder / "log", "w", encoding="utf-8") as log,
        open(folder / "said", "w", encoding="utf-8") as said,
    ):
        process = subprocess.Popen(command, env=surroundings, stdout=said, stderr=log)
        while process.poll() is None:
            if (
                not seen
                and (folder / first).is_file()
                and (first == "first" or (folder / first).stat().st_size)
            ):
                seen = time.perf_counter() - began
            time.sleep(0.05)
    if process.returncode:
        lines = (folder / "log").read_text(encoding="utf-8").strip().splitlines()
        wrong = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
        raise RuntimeError(
            (wrong or lines or [f"exit code {process.returncode}"])[-1].strip()[:200]
        )
    return Ended((folder / "said").read_text(encoding="utf-8"), seen)


def script(
    launcher: list[str], module: str, work: Workload, folder: Path, **extra: Any
) -> dict[str, Any]:
    """Run a rival: it reads work.json and leaves out.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "out.json"
    (folder / "work.json").write_text(json.dumps({**asdict(work), **extra, "out": str(out)}))
    ended = run(
        [*launcher, f"benchmarks.baselines.{module}", str(folder / "work.json")], work, folder
    )
    return {**json.loads(out.read_text()), "first_step": ended.first_step}
