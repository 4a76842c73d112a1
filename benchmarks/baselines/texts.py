"""Scorers of texts: one process, the clock runs from texts to logits. work.json's `scorer` says which one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.baselines.leave import leave

Scorer = Callable[[list[str]], np.ndarray]


def distsent(work: dict[str, Any]) -> Scorer:
    from distsent.evaluation.predictor import Predictor

    return Predictor(work["encoder"], work["precision"], max_length=work["max_length"]).logits


def pipeline(work: dict[str, Any]) -> Scorer:
    """As the documentation has it; `batch` 1 is its default, and what it advises on a CPU."""
    import transformers

    model: Any = transformers.pipeline(
        "text-classification", work["encoder"], batch_size=work["batch"], top_k=None
    )
    names = [model.model.config.id2label[i] for i in range(model.model.config.num_labels)]

    def score(texts: list[str]) -> np.ndarray:
        rows = model(
            texts, function_to_apply="none", truncation=True, max_length=work["max_length"]
        )
        return np.array(
            [[{x["label"]: x["score"] for x in row}[name] for name in names] for row in rows]
        )

    return score


def onnx(work: dict[str, Any]) -> Scorer:
    """ONNX Runtime on the exported model: batches of `batch` texts as they come, padded to their longest."""
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
    free = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    torch.onnx.export(
        model, kwargs={name: example[name] for name in names}, f=file, dynamic_shapes={name: free for name in names},
        input_names=list(names), output_names=["logits"], verbose=False,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work["threads"]
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def score(texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), work["batch"]):
            batch = texts[start : start + work["batch"]]
            coded = tokenizer(
                batch,
                padding=True,
                truncation=True,
                max_length=work["max_length"],
                return_tensors="np",
            )
            parts.append(
                session.run(["logits"], {name: coded[name].astype(np.int64) for name in names})[0]
            )
        return np.concatenate(parts)

    return score


def main() -> None:
    import torch

    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    table = pq.read_table(f"{work['corpus']}/test.parquet").to_pydict()
    score = {"distsent": distsent, "pipeline": pipeline, "onnx": onnx}[work["scorer"]](work)
    score(table["text"][:32])  # warms up
    began = time.perf_counter()
    logits = score(table["text"])
    leave(work, time.perf_counter() - began, logits)


if __name__ == "__main__":
    main()
