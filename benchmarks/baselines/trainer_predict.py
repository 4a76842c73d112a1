"""Hugging Face Trainer.predict under torchrun: batches padded to their longest row."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.baselines.rows import rows
from benchmarks.baselines.scores import write_scores


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["encoder"])
    examples = rows(work, tokenizer, "test")
    model = AutoModelForSequenceClassification.from_pretrained(work["encoder"], dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=os.path.dirname(work["out"]), per_device_eval_batch_size=work["batch_size"],
        use_cpu=True, report_to="none", bf16_full_eval=work["precision"] == "bf16",
        disable_tqdm=True, ddp_backend="gloo" if work["workers"] > 1 else None,
    )  # fmt: skip
    collator = DataCollatorWithPadding(tokenizer)
    trainer: Any = Trainer(model=model, args=arguments, data_collator=collator)
    trainer.predict(examples[: 2 * work["batch_size"]])  # warmup
    start = time.perf_counter()
    logits = trainer.predict(examples).predictions
    if trainer.is_world_process_zero():
        write_scores(work, time.perf_counter() - start, np.asarray(logits))


if __name__ == "__main__":
    main()
