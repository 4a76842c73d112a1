"""All comparisons by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import scoring
from benchmarks.comparison import Comparison
from benchmarks.curves import check_loss_curves, check_short_bf16_losses
from benchmarks.training import (
    distsent,
    distsent_lora,
    distsent_lora_16,
    horovod_example,
    one_process,
    trainer,
)
from benchmarks.workload import Workload

# 25 timed steps: one full cycle of group_by_length, which goes from long to short texts.
EMOTION = Workload("emotion", "minilm", steps=30, warmup=5)
IMDB = Workload("imdb", "minilm", rows=2048, steps=5, warmup=2, batch_size=32)

SCALING_OVERHEAD = "Scaling overhead: 2 workers x 1 thread against 1 process x 2 threads"
HF = {"distsent": distsent, "HF Trainer": trainer("random")}
HF_LORA = {"distsent": distsent_lora, "HF Trainer": trainer("random", "lora")}
HF_LORA_16 = {"distsent": distsent_lora_16, "HF Trainer": trainer("random", "lora", dtype="auto")}
GROUPED = {"HF Trainer, group_by_length": trainer("group_by_length")}
PADDED = {"distsent": distsent, "Horovod's example, padded to 128": horovod_example}

EVALUATORS = {"distsent evaluate": scoring.evaluate, "HF Trainer.predict": scoring.trainer_predict}
PREDICTORS = {
    "distsent Predictor": scoring.single_process("distsent"),
    "HF pipeline": scoring.single_process("pipeline", batch=1),
    "HF pipeline, batch_size=32": scoring.single_process("pipeline"),
    "ONNX Runtime, batches of 32": scoring.single_process("onnx"),
}
SCORING = {
    "emotion": Workload(
        "emotion", "minilm", "float32", "score", rows=2000, steps=40, batch_size=32
    ),
    "imdb": Workload("imdb", "minilm", "float32", "score", rows=200, steps=20, batch_size=32),
}


def training_comparisons() -> Iterator[Comparison]:
    short, check = replace(EMOTION, steps=9, warmup=2), check_loss_curves
    float32 = replace(IMDB, precision="float32", steps=4, warmup=1)
    no_dropout = replace(IMDB, dropout=0.0)
    padded = "Training emotion, against rows padded to 128"
    yield Comparison("emotion", "Training emotion", EMOTION, HF | GROUPED, check)
    emotion32 = replace(EMOTION, precision="float32")
    yield Comparison("emotion-float32", "Training emotion", emotion32, HF | GROUPED, check)
    yield Comparison("emotion-padded", padded, short, PADDED, check)
    yield Comparison("imdb", "Training IMDB", IMDB, HF, check)
    yield Comparison("imdb-float32", "Training IMDB", float32, HF, check)
    without, no_dropout32 = "Training IMDB, without dropout", replace(float32, dropout=0.0)
    yield Comparison("imdb-no-dropout", without, no_dropout, HF, check)
    yield Comparison("imdb-no-dropout-float32", without, no_dropout32, HF, check)
    modernbert = replace(IMDB, encoder="modernbert-6-layers", steps=3, warmup=1)
    yield Comparison("imdb-modernbert", "Training IMDB, ModernBERT", modernbert, HF, check)
    qwen3 = replace(IMDB, encoder="qwen3-4-layers", steps=3, warmup=1)
    yield Comparison("imdb-qwen3-lora", "Training IMDB, Qwen3 with LoRA", qwen3, HF_LORA, check)
    # One worker: memory is compared, which other workers would share.
    large = replace(qwen3, encoder="qwen3-0.6b", rows=128, batch_size=8, workers=1, threads=2)
    title, name = "Memory of Qwen3-0.6B with LoRA on IMDB", "memory-qwen3-lora"
    yield Comparison(name, title, large, HF_LORA_16, check_short_bf16_losses)
    similar = "Training IMDB, an encoder in calls of similar lengths"
    deberta = replace(IMDB, encoder="deberta-v3-small")
    yield Comparison("imdb-deberta", similar, deberta, HF, check)


def scaling_overhead_comparisons() -> Iterator[Comparison]:
    """The more arithmetic a step has, the less its all-reduce and its optimizer step weigh."""
    systems, check = {"distsent": distsent, "distsent, one process": one_process}, check_loss_curves
    for dataset, work, name in (
        ("emotion", EMOTION, "scaling-overhead"),
        ("IMDB", IMDB, "scaling-overhead-imdb"),
    ):
        title, float32 = f"{SCALING_OVERHEAD}, {dataset}", replace(work, precision="float32")
        yield Comparison(name, title, work, systems, check)
        yield Comparison(f"{name}-float32", title, float32, systems, check)


def scoring_comparisons() -> Iterator[Comparison]:
    for dataset, work in SCORING.items():
        for kind, systems, start in (
            ("evaluate", EVALUATORS, "tokens"),
            ("predict", PREDICTORS, "texts"),
        ):
            title = f"Scoring the test split of {dataset}, from {start}"
            yield Comparison(
                f"{kind}-{dataset}", title, work, systems, scoring.check_logits, scoring.classifier
            )


COMPARISONS = {
    comparison.name: comparison
    for comparison in (
        *training_comparisons(),
        *scaling_overhead_comparisons(),
        *scoring_comparisons(),
    )
}
