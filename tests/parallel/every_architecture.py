"""Every architecture through train and evaluate; with one worker through predict and pipeline, too.

    python -m tests.parallel.every_architecture FOLDER [NAME ...]

One start of the workers trains all. FOLDER holds `dataset` and a folder per architecture in
`encoders`. `npN/outcomes.json` tells for each, at -np N, what the log says of it, its loss curve
and the scores of the test texts; or an error. Two workers evaluate the models of TYPED alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import pipeline

from distsent.distributed.launchers import init_world
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.offline import evaluate_saved_model, resolve_request
from distsent.evaluation.predictor import Predictor
from distsent.job import load_job
from distsent.training.session import TrainingRun
from tests import fixtures
from tests.parallel.driver import NoSignals, quick

OVERRIDES = (
    "data.max_length=32", "model.dropout=0.1", "train.batch_size=6", "train.max_steps=4",
    "optim.lr=1e-3", "eval.every=end", "log.every=1", "log.tensorboard=false",
)  # fmt: skip
TYPED = ("roberta", "deberta-v2", "xlnet")  # packed, padded, equal lengths
BUDGETS = {1: 10_000, 2: 40}  # tokens, by number of workers: both must leave the curve as it is


def outcome(folder: Path, name: str, world: World) -> dict[str, Any]:
    """What a user gets who trains the architecture and then scores the test texts."""
    runs, budget = folder / f"np{world.size}", BUDGETS[world.size]
    own = f"job.name={name}", f"run.dir={runs}", f"model.name={folder / 'encoders' / name}"
    source = f"data.source={folder / 'dataset'}", f"train.token_budget={budget}"
    job = load_job(None, [*OVERRIDES, *own, *source])
    stop = NoSignals()
    try:
        TrainingRun(job, world, stop).train()
    except UserError as error:
        return {"lines": [str(error)]}
    run, found = runs / name, {}
    if world.size == 1 or name in TYPED:
        scored = evaluate_saved_model(resolve_request(str(run), [], "test"), world, stop)
        found["evaluated"] = scored["loss"]
    if not world.is_main:
        return {}
    saved = load_file(run / "predictions" / "test.safetensors")
    log = (run / "train.log").read_text(encoding="utf-8").splitlines()
    lines = [line[len("2000-01-01 00:00:00 ") :] for line in log]  # without the time
    return {
        "lines": [line for line in lines if re.match(r"\w+ForSequenceClassification ", line)],
        "curve": [[line["loss"], line["grad_norm"]] for line in fixtures.metrics(run)],
        "trained": saved["logits"].double().softmax(-1).tolist(),
        **found,
        **({} if world.size > 1 else scores(run)),
    }


def scores(run: Path) -> dict[str, Any]:
    """Those of the test texts from `predict` and `pipeline`, which know no workers."""
    texts = [line["text"] for line in fixtures.rows(12, seed=2)]
    classify = pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    return {
        "predicted": [list(answer["scores"].values()) for answer in Predictor(run)(texts)],
        "piped": [
            [next(x["score"] for x in answer if x["label"] == label) for label in fixtures.LABELS]
            for answer in classify(texts)
        ],
    }


def outcomes(folder: Path, names: Sequence[str], world: World) -> None:
    found = {}
    with quick():
        for name in names:
            torch.manual_seed(world.rank)  # no worker may depend on its generator
            found[name] = outcome(folder, name, world)
    if world.is_main:
        (folder / f"np{world.size}" / "outcomes.json").write_text(json.dumps(found))


if __name__ == "__main__":
    here = init_world()
    outcomes(Path(sys.argv[1]), sys.argv[2:], here)
    here.shutdown()
