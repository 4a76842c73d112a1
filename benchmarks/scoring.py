"""Those who score the test part with one trained classifier: distsent, Hugging Face's Trainer.predict and pipeline, ONNX Runtime.

Two of them start from tokens and share the rows among workers (evaluate, Trainer.predict); the others start from texts, in one
process that has the threads of all workers.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import materials
from benchmarks.comparison import Comparison, Contestant, Unequal
from benchmarks.launch import PYTHON, horovodrun, run, script, torchrun
from benchmarks.workload import Workload

TOLERANCE = 1e-4  # of logits, in float32
CHECKED = 200  # rows


def classifier(work: Workload, folder: Path) -> Workload:
    """Trains the classifier that all score with: some steps are enough for logits that mean something."""
    keys = {
        "data.source": work.corpus, "data.max_length": min(work.max_length, 128), "data.max_eval_rows": 16,
        "data.store": Path(work.corpus).parent / "stores", "model.name": work.encoder, "train.batch_size": 32,
        "train.max_steps": work.steps, "optim.name": "adamw", "optim.lr": work.lr, "optim.warmup": 0.0, "run.dir": folder,
        "job.name": "run", "log.tensorboard": "false",
    }  # fmt: skip
    run(
        [*horovodrun(work), "distsent.train", *(f"{key}={value}" for key, value in keys.items())],
        work,
        folder,
    )
    return replace(work, encoder=str(folder / "run" / "model"))


def evaluate(work: Workload, folder: Path) -> dict[str, Any]:
    """`python -m distsent.evaluate`; its own clock, which like Trainer.predict's begins with tokens."""
    keys = {
        "data.source": f"{work.corpus}/test.parquet", "data.max_length": work.max_length, "train.precision": work.precision,
        "run.dir": folder,
    }  # fmt: skip
    command = [
        *horovodrun(work),
        "benchmarks.baselines.evaluate",
        work.encoder,
        *(f"{k}={v}" for k, v in keys.items()),
    ]
    with patch.dict(os.environ, LOGITS=str(folder)):
        said = run(command, work, folder).said
    scores, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    return {
        "examples_per_second": scores["samples_per_second"],
        "logits": np.load(folder / "logits.npy"),
    }


def trainer_predict(work: Workload, folder: Path) -> dict[str, Any]:
    return _read(script(torchrun(work), "trainer_predict", work, folder), folder)


def alone(scorer: str, batch: int = 32) -> Contestant:
    """A scorer of texts, in one process."""

    def compete(work: Workload, folder: Path) -> dict[str, Any]:
        together = replace(work, workers=1, threads=work.workers * work.threads)
        return _read(script(PYTHON, "texts", together, folder, scorer=scorer, batch=batch), folder)

    return compete


def _read(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    return result | {"logits": np.load(folder / "logits.npy")}


def check(comparison: Comparison, work: Workload, folder: Path) -> dict[str, str]:
    """Raises Unequal unless all give the same rows the same labels, and logits within TOLERANCE of the first ones shown."""
    few = replace(
        work, corpus=str(materials.corpus(replace(work, rows=CHECKED), folder / "corpus"))
    )
    results: dict[str, Any] = {}
    said: dict[str, str] = {}
    for i, (name, compete) in enumerate(comparison.contestants.items()):
        try:
            results[name] = compete(few, folder / str(i))
        except RuntimeError as error:  # the table will say so, too
            said[name] = f"no scores: {error}"
    measure = next(iter(results))
    apart = {
        name: difference(results[measure]["logits"], result["logits"])
        for name, result in results.items()
        if name != measure
    }
    far = [f"{name}: {value:.1e}" for name, value in apart.items() if not value <= TOLERANCE]
    if far:
        raise Unequal(f"other labels or logits than {measure}'s: {', '.join(far)}")
    return said | {
        name: f"the same labels for {CHECKED} rows as {measure}, logits within {value:.0e}"
        for name, value in apart.items()
    }


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of logits [n, C]; infinite where a row has another label."""
    return float(abs(a - b).max()) if (a.argmax(1) == b.argmax(1)).all() else np.inf
