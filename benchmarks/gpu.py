"""Training on one GPU against Hugging Face Trainer, in at most eight minutes.

Correctness comes first: the kernels must agree with torch, and the systems' loss curves with each
other. Then come the settings, the most usual ones first: texts, encoders and precisions differ.
Systems that choose other batches come last, in all settings.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmarks import materials
from benchmarks.comparison import Comparison, ResultsDiffer, System, about
from benchmarks.curves import OWN_BATCHES, check_loss_curves
from benchmarks.training import distsent, trainer
from benchmarks.workload import Workload

SECONDS = 8 * 60.0


@dataclass(frozen=True)
class GpuWorkload(Workload):
    on_gpu: ClassVar[bool] = True
    workers: int = 1
    threads: int = 8


# In the warmup passes are recorded: about 20 shapes of batches come up.
FIRST = GpuWorkload("imdb", "bert-base", batch_size=32, rows=2048, steps=120, warmup=60)
SHORT = replace(FIRST, dataset="emotion", batch_size=64, rows=8192)
WORKS = (
    FIRST,
    replace(SHORT, encoder="minilm"),
    SHORT,
    replace(FIRST, encoder="distilbert"),
    replace(FIRST, precision="float32", steps=80, warmup=60),
    replace(FIRST, precision="fp16"),
)
CHECKED = replace(SHORT, encoder="minilm")


def systems() -> dict[str, System]:
    """By name; the first is the reference."""
    found = {
        "distsent": distsent,
        "HF Trainer, sdpa": trainer("random", attention="sdpa"),
        "HF Trainer, sdpa, group_by_length": trainer("group_by_length", attention="sdpa"),
    }
    if find_spec("flash_attn"):
        found["HF Trainer, flash attention"] = trainer("random", attention="flash_attention_2")
    return found


def checks(arms: Mapping[str, System], folder: Path) -> Iterator[str]:
    """What was found to be right, a line each. Raises ResultsDiffer."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "8", "-k", "kernels", "tests/gpu"]
    root = Path(__file__).parents[1]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=root, **pipes) as tests:
        comparison = Comparison("gpu", "gpu", CHECKED, arms, check_loss_curves)
        found = check_loss_curves(comparison, with_files(CHECKED, folder), folder / "check")
        output, _ = tests.communicate()
    last = (output.strip().splitlines() or ["no output"])[-1]
    if tests.returncode:
        raise ResultsDiffer(f"tests/gpu: {last}")
    yield f"kernels against torch, and their masks: {last}"
    yield from (f"{name}: {outcome}" for name, outcome in found.items())


def with_files(work: Workload, folder: Path) -> Workload:
    data = materials.dataset(work, folder / work.dataset)
    encoder = encoder_folder(work.encoder, folder)
    return replace(work, dataset=str(data), encoder=str(encoder))


@cache
def encoder_folder(name: str, folder: Path) -> Path:
    """Made once for all settings: that takes seconds of the eight minutes."""
    return materials.encoder(name, folder / name)


def measure(
    arms: Mapping[str, System],
    works: Sequence[Workload],
    folder: Path,
    left: Callable[[], float],
) -> Iterator[tuple[int, str]]:
    """Rows of the table, each with its place in it. A failure is a row, too."""
    ready = [with_files(work, folder) for work in works]
    done: list[list[dict[str, Any]]] = [[] for _ in works]
    turns = enumerate(product(range(len(works)), arms))
    for place, (i, name) in sorted(turns, key=lambda turn: OWN_BATCHES in turn[1][1]):
        work, scratch = works[i], folder / str(place)
        setting = f"| {work.encoder}, {work.dataset}, {work.precision} | {name}"
        if left() <= 0:
            yield place, f"{setting} | not run: {SECONDS / 60:.0f} minutes are over | | | | |"
            continue
        try:
            found = arms[name](ready[i], scratch)
        except RuntimeError as error:
            yield place, f"{setting} | failed: {str(error)[:100]} | | | | |"
            continue
        done[i].append(found)
        yield place, f"{setting}{slower_ways(scratch)} | {' | '.join(cells(found, done[i][0]))} |"


def slower_ways(folder: Path) -> str:
    """What the log of a run says about kernels and recorded passes that it did without."""
    lines = [
        line
        for name in ("log", "output")
        if (folder / name).is_file()
        for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        if "kernel by kernel" in line or "without its compiled operators" in line
    ]
    return "".join(f" ({line.strip()[:160]})" for line in lines)


def cells(found: dict[str, Any], first: dict[str, Any]) -> list[str]:
    """Examples/s, speedup of the first system that ran, tokens/s, MFU on real tokens, memory."""
    ratio = first["examples_per_second"] / found["examples_per_second"]
    # All need the same arithmetic per example; only distsent counts it.
    mfu = f"{first['mfu'] / ratio:.2f}" if first.get("mfu") else ""
    tokens, memory = f"{found['tokens_per_second']:.0f}", f"{found['memory_bytes'] / 2**20:.0f} MiB"
    return [f"{found['examples_per_second']:.1f}", f"{ratio:.2f}", tokens, mfu, memory]


def report() -> str:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks gpu: torch finds no GPU here (python -m distsent.doctor)")
    end = time.monotonic() + SECONDS
    lines = ["# Training on a GPU", "", f"{torch.cuda.get_device_name()} · {about()}", ""]
    arms = systems()
    with tempfile.TemporaryDirectory() as scratch:
        for line in checks(arms, Path(scratch)):
            print(line, flush=True)
            lines.append(f"- {line}")
        head = "setting | system | examples/s | speedup of distsent | real tokens/s | MFU | memory"
        lines += ["", f"| {head} |", "|---" * 7 + "|"]
        rows = []
        for place, row in measure(arms, WORKS, Path(scratch), lambda: end - time.monotonic()):
            print(row, flush=True)
            rows.append((place, row))
    lines += [row for _, row in sorted(rows)]
    return "\n".join(lines) + "\n"
