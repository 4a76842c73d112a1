"""Expected memory of a worker against what its process takes: the line before training, and plan.

    python -m benchmarks memory

Each job trains a few steps in a process of its own. distsent/training/worker_memory.py is asked
before the first one, the kernel after the last.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import materials
from benchmarks.comparison import about
from benchmarks.launch import PYTHON, run
from benchmarks.workload import Workload

STEPS = 6


@dataclass(frozen=True)
class Case:
    name: str
    work: Workload
    keys: tuple[str, ...] = ()


EMOTION = Workload("emotion", "minilm", "float32", max_length=64, rows=2048)
TINY = Workload("imdb", "bert-tiny", "float32", rows=512, batch_size=32)
MODERNBERT = Workload("imdb", "modernbert-6-layers", "bf16", rows=256, batch_size=16)
QWEN3 = Workload("imdb", "qwen3-4-layers", "bf16", rows=256, batch_size=16)
LORA, AGAIN = "adapter.kind=lora", "train.recompute=true"
CASES = (
    Case("emotion, MiniLM, float32", EMOTION),
    Case("IMDB, bert-tiny, float32", TINY),
    Case("IMDB, ModernBERT of 6 layers, bf16", MODERNBERT),
    Case("the same, recomputed", MODERNBERT, (AGAIN,)),
    Case("IMDB, Qwen3 of 4 layers with LoRA, bf16", QWEN3, (LORA,)),
    Case("the same, 4-bit base", QWEN3, (LORA, "adapter.bits=4")),
    Case("the same, 16-bit base, recomputed", QWEN3, (LORA, "adapter.bits=16", AGAIN)),
)


def main(words: list[str]) -> None:
    """One worker: count, train some steps, write what was expected and what was taken."""
    import torch

    from distsent.distributed.world import World
    from distsent.job import load_job
    from distsent.runtime import device as devices
    from distsent.runtime.signals import StopSignal
    from distsent.training.build import build_plan, build_step, open_model
    from distsent.training.inputs import prepare_store, prepare_tokenizer
    from distsent.training.memory import largest_step, memory_of
    from distsent.training.publish import peak_memory, reset_peak_memory
    from distsent.training.worker_memory import worker_memory

    job, world, cpu = load_job(None, words), World(), torch.device("cpu")
    devices.share_cores(world)
    tokenizer = prepare_tokenizer(job)
    store = prepare_store(job, tokenizer, world, StopSignal(0.0), None)
    _, forward, precision = open_model(job, world, job.train.precision, tokenizer, store, cpu)
    plan = build_plan(job, store, forward, world, cpu, precision)
    step = build_step(job, store, forward, world, cpu, precision, STEPS)
    memory = worker_memory(forward, precision, plan.tokens.ids[:64], job.data.max_length)
    step.flat.grads.zero_()
    before = memory_of(cpu)[0] + memory.zeros(gpu=False)
    expected, tokens = largest_step(plan, job.train.token_budget, memory)
    reset_peak_memory()
    forward.model.train()
    for number in range(STEPS):
        step(plan.batch(number))
    out = {"before": before, "held": memory.held(gpu=False), "step": expected, "tokens": tokens}
    written = json.dumps({**out, "peak": peak_memory()})
    (Path(job.run.dir) / "out.json").write_text(written)


def measure(case: Case, folder: Path) -> dict[str, float]:
    work = case.work
    dataset = materials.dataset(work, folder / "dataset")
    keys = [
        f"data.source={dataset}", f"data.max_length={work.max_length}", f"run.dir={folder}",
        f"model.name={materials.encoder(work.encoder, folder / 'encoder')}",
        f"train.precision={work.precision}", f"train.batch_size={work.batch_size}", *case.keys,
    ]  # fmt: skip
    run([*PYTHON, "benchmarks.memory", *keys], work, folder)
    found: dict[str, float] = json.loads((folder / "out.json").read_text())
    return found


def report() -> str:
    head = "tokens", "measured GB", "held before", "a step", "line / measured", "plan / measured"
    lines = [
        "# Expected memory of a worker against its process", "", about(), "",
        f"One worker x 1 thread, {STEPS} steps, the most that was resident. In GB; before the "
        "first step and for a step: measured / expected. Checkpoints are not in it.", "",
        f"| | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|",
    ]  # fmt: skip
    for case in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(case, Path(scratch))
        peak, before, held, step = (found[key] for key in ("peak", "before", "held", "step"))
        cells = [
            f"{found['tokens']:,.0f}", f"{peak / 1e9:.2f}",
            f"{before / 1e9:.2f} / {held / 1e9:.2f}",
            f"{(peak - before) / 1e9:.2f} / {step / 1e9:.2f}", f"{(before + step) / peak:.2f}",
            f"{(held + step) / peak:.2f}",
        ]  # fmt: skip
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
