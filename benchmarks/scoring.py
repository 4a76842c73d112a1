"""Systems that score the test split with one trained classifier.

distsent evaluate and Hugging Face's Trainer.predict start from tokens and split the rows among
workers. distsent's Predictor, Hugging Face's pipeline and ONNX Runtime start from texts, in one
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
from benchmarks.comparison import Comparison, ResultsDiffer, System
from benchmarks.launch import PYTHON, horovodrun, run, script, torchrun
from benchmarks.workload import Workload

TOLERANCE = 1e-4  # of logits, in float32
CHECKED = 200  # rows


def classifier(work: Workload, folder: Path) -> Workload:
    """Train the classifier that all systems score with: a few steps give meaningful logits."""
    keys = {
        "data.source": work.dataset, "data.max_length": min(work.max_length, 128),
        "data.max_eval_rows": 16, "data.store": Path(work.dataset).parent / "stores",
        "model.name": work.encoder, "train.batch_size": 32, "train.max_steps": work.steps,
        "optim.name": "adamw", "optim.lr": work.lr, "optim.warmup": 0.0,
        "run.dir": folder, "job.name": "run", "log.tensorboard": "false",
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in keys.items()]
    run([*horovodrun(work), "distsent.train", *words], work, folder)
    return replace(work, encoder=str(folder / "run" / "model"))


def evaluate(work: Workload, folder: Path) -> dict[str, Any]:
    """`python -m distsent.evaluate`, timed by itself: from tokens, as in Trainer.predict."""
    keys = {
        "data.source": f"{work.dataset}/test.parquet", "data.max_length": work.max_length,
        "train.precision": work.precision, "run.dir": folder,
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in keys.items()]
    command = [*horovodrun(work), "benchmarks.baselines.evaluate", work.encoder, *words]
    with patch.dict(os.environ, LOGITS=str(folder)):
        output = run(command, work, folder).output
    scores, _ = json.JSONDecoder().raw_decode(output[output.index("{") :])
    return _with_logits({"examples_per_second": scores["samples_per_second"]}, folder)


def trainer_predict(work: Workload, folder: Path) -> dict[str, Any]:
    return _with_logits(script(torchrun(work), "trainer_predict", work, folder), folder)


def single_process(scorer: str, batch: int = 32) -> System:
    """A scorer of texts in one process."""

    def score(work: Workload, folder: Path) -> dict[str, Any]:
        single = replace(work, workers=1, threads=work.workers * work.threads)
        found = script(PYTHON, "texts", single, folder, scorer=scorer, batch=batch)
        return _with_logits(found, folder)

    return score


def _with_logits(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    return result | {"logits": np.load(folder / "logits.npy")}


def check_logits(comparison: Comparison, work: Workload, folder: Path) -> dict[str, str]:
    """Raises ResultsDiffer unless labels equal the reference's, with logits within TOLERANCE."""
    rows = materials.dataset(replace(work, rows=CHECKED), folder / "dataset")
    few = replace(work, dataset=str(rows))
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for i, (name, run_system) in enumerate(comparison.systems.items()):
        try:
            results[name] = run_system(few, folder / str(i))
        except RuntimeError as error:  # the table reports it, too
            failed[name] = f"no scores: {error}"
    reference = next(iter(results))
    logits = results.pop(reference)["logits"]
    distances = {name: difference(logits, found["logits"]) for name, found in results.items()}
    far = [f"{name}: {value:.1e}" for name, value in distances.items() if not value <= TOLERANCE]
    if far:
        raise ResultsDiffer(f"labels or logits differ from {reference}'s: {', '.join(far)}")
    same = f"the same labels for {CHECKED} rows as {reference}"
    return failed | {
        name: f"{same}, logits within {value:.0e}" for name, value in distances.items()
    }


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of logits [n, C]; infinite where a row has another label."""
    return float(abs(a - b).max()) if (a.argmax(1) == b.argmax(1)).all() else np.inf
