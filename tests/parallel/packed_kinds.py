"""Encoders with windows or rotary positions and a decoder with LoRA, trained and resumed.

    python -m tests.parallel.packed_kinds FOLDER

FOLDER holds `dataset` and a folder per architecture in `encoders`. `npN/outcomes.json` tells for
each, at -np N, its loss curve and the weights of an undisturbed run and of a stopped one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distsent.distributed.launchers import init_world
from distsent.distributed.world import World
from distsent.errors import Stopped
from distsent.job import load_job
from distsent.reporting import plots
from distsent.runtime import device as devices
from distsent.training.session import TrainingRun
from distsent.training.train_step import TrainStep
from tests import fixtures
from tests.parallel.driver import NoSignals

KINDS: dict[str, tuple[str, ...]] = {
    "modernbert": (),  # windows
    "nomic_bert": (),  # rotary positions
    "qwen3": ("adapter.kind=lora", "adapter.dropout=0.2"),  # causal, grouped heads
}
STEPS, STOPPED_IN = 4, 1
WORDS = (
    "data.max_length=32", "model.dropout=0.1", "model.packed=always", "train.batch_size=6",
    f"train.max_steps={STEPS}", "train.token_budget=60", "optim.lr=1e-3", "eval.every=end",
    "log.every=1", "log.tensorboard=false",
)  # fmt: skip


@contextmanager
def stop_requested(stop: NoSignals) -> Iterator[None]:
    """A stop request arrives between the forward passes of a step."""
    real = TrainStep._backward

    def backward(self: TrainStep, batch: Any) -> list[int]:
        if batch.step == STOPPED_IN:
            stop.requested = "SIGTERM"
        return real(self, batch)

    with patch.object(TrainStep, "_backward", backward):
        yield


def outcome(folder: Path, kind: str, world: World) -> dict[str, Any]:
    runs, found = folder / f"np{world.size}", {}
    own = f"model.name={folder / 'encoders' / kind}", f"data.source={folder / 'dataset'}"
    for name in ("undisturbed", "stopped"):
        words = [*WORDS, *own, *KINDS[kind], f"run.dir={runs / kind}", f"job.name={name}"]
        stop = NoSignals()
        if name == "stopped":
            try:
                with stop_requested(stop):
                    TrainingRun(load_job(None, words), world, stop).train()
            except Stopped:
                stop = NoSignals()
        TrainingRun(load_job(None, words), world, stop).train()
        if world.is_main:
            run = runs / kind / name
            found[name] = fixtures.result(run)["weights_sha256"]
            found["curve"] = [[line["loss"], line["grad_norm"]] for line in fixtures.metrics(run)]
            found["resumed"] = "resumed at step" in (run / "train.log").read_text()
    return found


def outcomes(folder: Path, world: World) -> None:
    plain = patch.object(plots, "available", return_value=False)
    quick = patch.object(devices, "peak_flops", return_value=1e12)
    with plain, quick:
        found = {kind: outcome(folder, kind, world) for kind in KINDS}
    if world.is_main:
        (folder / f"np{world.size}" / "outcomes.json").write_text(json.dumps(found))


if __name__ == "__main__":
    here = init_world()
    outcomes(Path(sys.argv[1]), here)
    here.shutdown()
