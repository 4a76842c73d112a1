"""Hugging Face Trainer on a whole job: test and validation accuracy of its best epoch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

from benchmarks.baselines.rows import rows


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    found = np.argmax(prediction.predictions, axis=-1)
    return {"accuracy": float((found == prediction.label_ids).mean())}


def arguments(work: dict[str, Any], epochs: float, folder: str) -> TrainingArguments:
    """The recipe; everything else as transformers has it, and the best epoch as distsent does."""
    return TrainingArguments(
        output_dir=folder, num_train_epochs=epochs, seed=work["seed"], learning_rate=work["lr"],
        per_device_train_batch_size=work["batch_size"], per_device_eval_batch_size=64,
        lr_scheduler_type="linear", warmup_steps=0, max_grad_norm=1.0, optim="adamw_torch_fused",
        weight_decay=0.0, adam_epsilon=1e-8, bf16=work["precision"] == "bf16",
        use_cpu=True, report_to="none", disable_tqdm=True,
        eval_strategy="epoch", save_strategy="epoch", save_total_limit=1,
        load_best_model_at_end=True, metric_for_best_model="accuracy",
    )  # fmt: skip


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    out = Path(work["out"])
    tokenizer = AutoTokenizer.from_pretrained(work["encoder"])
    splits = {split: rows(work, tokenizer, split) for split in ("train", "validation", "test")}
    transformers.set_seed(work["seed"])
    kind = AutoModelForSequenceClassification
    classes = 1 + max(x["label"] for x in splits["train"])
    trainer = Trainer(
        model=kind.from_pretrained(work["encoder"], num_labels=classes),
        args=arguments(work, work["epochs"], str(out.parent / "checkpoints")),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )
    trainer.train()
    found = {
        split: trainer.evaluate(splits[split])["eval_accuracy"] for split in ("validation", "test")
    }
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
