"""Hugging Face Trainer as documented: dynamic padding, DDP over Gloo, the recipe of work.json."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.baselines.rows import SameOrder, rows
from distsent.model.dropout_rates import set_dropout_rates


class Clock(TrainerCallback):
    """Records the time at which each step ends."""

    def __init__(self, first: Path) -> None:
        self.ends: list[float] = []
        self.first = first

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.ends.append(time.perf_counter())
        if len(self.ends) == 1:
            self.first.touch()


class Collator(DataCollatorWithPadding):
    """The default collator, which also counts real tokens."""

    tokens: list[int]

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        self.tokens.append(sum(len(x["input_ids"]) for x in features))
        return super().__call__(features)


class OrderedTrainer(Trainer):
    """Trains on distsent's batches, in its order."""

    work: dict[str, Any]

    def _get_train_sampler(self, *args: object) -> Any:
        return SameOrder(self.work, self.work["rows"])


def build_model(work: dict[str, Any], classes: int) -> Any:
    config = AutoConfig.from_pretrained(work["encoder"], num_labels=classes)
    if work["dropout"] is not None:
        set_dropout_rates(config, work["dropout"])
    torch.manual_seed(work["seed"])  # the new head's weights: the same in all systems
    kind = AutoModelForSequenceClassification
    model = kind.from_pretrained(
        work["encoder"], config=config, dtype=work["dtype"], attn_implementation=work["attention"]
    )
    if work["adapter"] == "none":
        return model
    from peft import LoraConfig, TaskType, get_peft_model

    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]
    )
    return get_peft_model(model, lora)


def peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["encoder"])
    examples = rows(work, tokenizer)
    transformers.set_seed(work["seed"])
    model = build_model(work, max(x["label"] for x in examples) + 1)
    same, size = work["order"] == "distsent", work["workers"]
    arguments = TrainingArguments(
        output_dir=os.path.dirname(work["out"]), max_steps=work["steps"],
        per_device_train_batch_size=work["batch_size"] // size, learning_rate=work["lr"],
        lr_scheduler_type="linear", warmup_steps=0, max_grad_norm=1.0, optim="adamw_torch_fused",
        weight_decay=0.0, adam_epsilon=1e-8, bf16=work["precision"] == "bf16",
        fp16=work["precision"] == "fp16", use_cpu=not work["on_gpu"],
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        seed=work["seed"], train_sampling_strategy="random" if same else work["strategy"],
        ddp_backend="gloo" if size > 1 else None,
        # Its default multiplies a classifier's loss and gradient by the number of workers.
        average_tokens_across_devices=not same,
    )  # fmt: skip
    clock, collator = Clock(Path(work["out"]).with_name("first")), Collator(tokenizer)
    collator.tokens = []
    trainer = (OrderedTrainer if same else Trainer)(
        model=model, args=arguments, train_dataset=examples, data_collator=collator,
        callbacks=[clock],
    )  # fmt: skip
    if isinstance(trainer, OrderedTrainer):
        trainer.work = {**work, "rows": len(examples)}
    trainer.train()
    warmup, steps = work["warmup"], work["steps"]
    tokens = torch.tensor(float(sum(collator.tokens[warmup:steps])))
    if size > 1:
        torch.distributed.all_reduce(tokens)
    if trainer.is_world_process_zero():
        seconds = clock.ends[-1] - clock.ends[warmup - 1]
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        out = {
            "examples_per_second": work["batch_size"] * (steps - warmup) / seconds,
            "tokens_per_second": tokens.item() / seconds,
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "memory_bytes": peak_memory(),
            "bytes_per_step": 4 * trained if size > 1 else 0,
        }
        Path(work["out"]).write_text(json.dumps(out))


if __name__ == "__main__":
    main()
