"""Runs a system's command in the same environment as the others, with its output kept in files."""

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
    options = ["torch.distributed.run", "--standalone", f"--nproc-per-node={work.workers}", "-m"]
    return [*PYTHON, *options] if work.workers > 1 else PYTHON


@dataclass(frozen=True)
class Finished:
    output: str  # standard output
    first_step: float  # seconds from the start until the marker of the first step appeared


def run(command: list[str], work: Workload, folder: Path, marker: str = "first") -> Finished:
    """Run to the end. Raises RuntimeError with the last error line of a failure.

    `marker`: a file in `folder` that the system writes after its first step: an empty file "first",
    or another one that is not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(work.threads),
        # Comparisons run on CPUs, but for one: some baseline scripts support only those.
        **({} if work.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    file, started, first_step = folder / marker, time.perf_counter(), 0.0
    log_file, output_file = folder / "log", folder / "output"
    with (
        open(log_file, "w", encoding="utf-8") as log,
        open(output_file, "w", encoding="utf-8") as output,
    ):
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=log)
        while process.poll() is None:
            if not first_step and file.is_file() and (marker == "first" or file.stat().st_size):
                first_step = time.perf_counter() - started
            time.sleep(0.05)
    if process.returncode:
        text = log_file.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip(" -=")]
        errors = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
        last = (errors or lines or [f"exit code {process.returncode}"])[-1]
        raise RuntimeError(last.strip()[:200])
    return Finished(output_file.read_text(encoding="utf-8"), first_step)


def script(
    launcher: list[str], module: str, work: Workload, folder: Path, **extra: Any
) -> dict[str, Any]:
    """Run a baseline script: it reads work.json and writes out.json next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    out, file = folder / "out.json", folder / "work.json"
    file.write_text(json.dumps({**asdict(work), **extra, "on_gpu": work.on_gpu, "out": str(out)}))
    done = run([*launcher, f"benchmarks.baselines.{module}", str(file)], work, folder)
    return {**json.loads(out.read_text()), "first_step": done.first_step}
