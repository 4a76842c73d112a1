"""Hugging Face Trainer as its documentation has it: dynamic padding, DDP over Gloo, the recipe of work.json."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.rivals.rows import rows
from distsent.corpus.order import Order


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.ends.append(time.perf_counter())


class SameOrder(torch.utils.data.Sampler):
    """distsent's order of rows; accelerate hands batch 0, 2, 4... to worker 0 and the others to worker 1."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __len__(self) -> int:
        return self.order.rows

    def __iter__(self):
        for step in range(self.order.steps_per_epoch):
            yield from self.order.batch(step).tolist()


class OrderedTrainer(Trainer):
    order: Order

    def _get_train_sampler(self, *args: object) -> SameOrder:
        return SameOrder(self.order)


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    examples = rows(work, tokenizer)
    classes = max(x["label"] for x in examples) + 1
    transformers.set_seed(work["seed"])
    torch.manual_seed(work["seed"])
    config = transformers.AutoConfig.from_pretrained(work["model"], num_labels=classes)
    if work["dropout"] is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = config.classifier_dropout = work["dropout"]
    torch.manual_seed(work["seed"])
    model = AutoModelForSequenceClassification.from_pretrained(work["model"], config=config, dtype=torch.float32)
    clock, same = Clock(), work["strategy"] == "same"
    arguments = TrainingArguments(
        output_dir=os.path.dirname(work["out"]), per_device_train_batch_size=work["batch_size"] // work["workers"],
        max_steps=work["steps"], learning_rate=work["lr"], lr_scheduler_type="linear", warmup_steps=0, max_grad_norm=1.0,
        optim="adamw_torch_fused", weight_decay=0.0, adam_epsilon=1e-8, bf16=work["precision"] == "bf16", use_cpu=True,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, seed=work["seed"],
        train_sampling_strategy="random" if same else work["strategy"], ddp_backend="gloo",
    )  # fmt: skip
    kind = OrderedTrainer if same else Trainer
    trainer = kind(
        model=model, args=arguments, train_dataset=examples,
        data_collator=Collator(tokenizer), callbacks=[clock],
    )  # fmt: skip
    if same:
        trainer.order = Order(len(examples), work["batch_size"], work["seed"])
    trainer.train()
    if trainer.is_world_process_zero():
        seconds = clock.ends[-1] - clock.ends[work["warm"] - 1]
        out = {
            "examples_per_second": work["batch_size"] * (work["steps"] - work["warm"]) / seconds,
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "bytes_per_step": 4 * sum(p.numel() for p in model.parameters()),
        }
        with open(work["out"], "w") as file:
            json.dump(out, file)


class Collator(DataCollatorWithPadding):
    """The default collator, without the length column that group_by_length reads."""

    def __call__(self, features: list[dict]) -> dict:
        return super().__call__([{k: v for k, v in x.items() if k != "length"} for x in features])


if __name__ == "__main__":
    main()
