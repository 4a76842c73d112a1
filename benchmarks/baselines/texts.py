"""Scorers of texts in one process, timed from texts to logits; work.json's `scorer` selects one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.baselines.scores import write_scores

Scorer = Callable[[list[str]], np.ndarray]


def distsent(work: dict[str, Any]) -> Scorer:
    from distsent.evaluation.predictor import Predictor

    return Predictor(work["encoder"], work["precision"], max_length=work["max_length"]).logits


def pipeline(work: dict[str, Any]) -> Scorer:
    """As documented; `batch` 1 is its default and its recommendation for CPUs."""
    import transformers

    model: Any = transformers.pipeline(
        "text-classification", work["encoder"], batch_size=work["batch"], top_k=None
    )
    names = [model.model.config.id2label[i] for i in range(model.model.config.num_labels)]

    def score(texts: list[str]) -> np.ndarray:
        rows = model(
            texts, function_to_apply="none", truncation=True, max_length=work["max_length"]
        )
        scores = [{x["label"]: x["score"] for x in row} for row in rows]
        return np.array([[row[name] for name in names] for row in scores])

    return score


def onnx(work: dict[str, Any]) -> Scorer:
    """ONNX Runtime on the exported model: batches of `batch` texts, padded to the longest."""
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(work["encoder"])
    file = str(Path(work["out"]).parent / "model.onnx")
    names = ("input_ids", "attention_mask")
    model = AutoModelForSequenceClassification.from_pretrained(
        work["encoder"], attn_implementation="eager"
    ).eval()
    example = tokenizer(["a good film", "no"], padding=True, return_tensors="pt")
    free = {0: "batch", 1: "length"}
    torch.onnx.export(
        model, tuple(example[name] for name in names), file, input_names=list(names),
        output_names=["logits"], dynamic_axes=dict.fromkeys(names, free), dynamo=False,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work["threads"]
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    encode = {"padding": True, "truncation": True, "max_length": work["max_length"]}

    def score(texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), work["batch"]):
            batch = texts[start : start + work["batch"]]
            coded = tokenizer(batch, return_tensors="np", **encode)
            inputs = {name: coded[name].astype(np.int64) for name in names}
            parts.append(session.run(["logits"], inputs)[0])
        return np.concatenate(parts)

    return score


def main() -> None:
    import torch

    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    table = pq.read_table(f"{work['dataset']}/test.parquet").to_pydict()
    score = {"distsent": distsent, "pipeline": pipeline, "onnx": onnx}[work["scorer"]](work)
    score(table["text"][:32])  # warmup
    start = time.perf_counter()
    logits = score(table["text"])
    write_scores(work, time.perf_counter() - start, logits)


if __name__ == "__main__":
    main()
