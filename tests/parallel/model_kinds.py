"""A model of each kind, trained and resumed.

    python -m tests.parallel.model_kinds FOLDER

FOLDER holds `dataset` and a folder per kind in `models`. `npN/outcomes.json` tells for
each, at -np N, its loss curve and the weights of an undisturbed run and of a stopped one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distsent.distributed.launchers import init_world
from distsent.distributed.world import World
from distsent.errors import Stopped
from distsent.job import load_job
from distsent.training.session import TrainingRun
from distsent.training.train_step import TrainStep
from tests import fixtures
from tests.parallel.driver import NoSignals, quick


@dataclass(frozen=True)
class Kind:
    architecture: str
    words: tuple[str, ...] = ("model.packed=always",)
    sizes: dict[str, Any] = field(default_factory=dict)


LORA = "model.packed=always", "adapter.kind=lora", "adapter.dropout=0.2"
DEBERTA_V3 = {  # with the width of its heads, 64
    "hidden_size": 128, "pooler_hidden_size": 128, "num_hidden_layers": 3, "position_buckets": 8,
    "max_relative_positions": -1, "position_biased_input": False, "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}  # fmt: skip
KINDS = {
    "windows": Kind("modernbert"),
    "rotary positions": Kind("nomic_bert"),
    "relative positions": Kind("deberta-v2", (), DEBERTA_V3),  # in calls of similar length
    "causal, LoRA": Kind("qwen3", LORA),
    "causal, LoRA on 4 bits": Kind("qwen3", (*LORA, "adapter.bits=4")),
}
STEPS, STOPPED_IN = 4, 1
WORDS = (
    "data.max_length=32", "model.dropout=0.1", "train.batch_size=6",
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
    own = f"model.name={folder / 'models' / kind}", f"data.source={folder / 'dataset'}"
    for name in ("undisturbed", "stopped"):
        words = [*WORDS, *own, *KINDS[kind].words, f"run.dir={runs / kind}", f"job.name={name}"]
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
            log = (run / "train.log").read_text()
            found["resumed"] = "resumed at step" in log
            found["similar"] = "texts of similar length share a call" in log
    return found


def outcomes(folder: Path, world: World) -> None:
    with quick():
        found = {kind: outcome(folder, kind, world) for kind in KINDS}
    if world.is_main:
        (folder / f"np{world.size}" / "outcomes.json").write_text(json.dumps(found))


if __name__ == "__main__":
    here = init_world()
    outcomes(Path(sys.argv[1]), here)
    here.shutdown()
