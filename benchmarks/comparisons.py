"""The contests there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import curves, scoring
from benchmarks.comparison import Comparison
from benchmarks.training import distsent, horovod_example, one_process, trainer
from benchmarks.workload import Workload

EMOTION = Workload(
    "emotion", "minilm", steps=30, warm=5
)  # 25 steps: a whole cycle of group_by_length, which goes from long to short
IMDB = Workload("imdb", "minilm", rows=2048, steps=5, warm=2, batch_size=32)

TAX = "Horovod's tax: 2 workers x 1 thread against 1 process x 2 threads"
HF = {"HF Trainer": trainer("random")}
GROUPED = {"HF Trainer, group_by_length": trainer("group_by_length")}

EVALUATORS = {"distsent evaluate": scoring.evaluate, "HF Trainer.predict": scoring.trainer_predict}
SCORERS = {
    "distsent Predictor": scoring.alone("distsent"),
    "HF pipeline": scoring.alone("pipeline", batch=1),
    "HF pipeline, batch_size=32": scoring.alone("pipeline"),
    "ONNX Runtime, batches of 32": scoring.alone("onnx"),
}
ROWS = {
    "emotion": Workload("emotion", "minilm", "float32", "score", rows=2000, steps=40, batch_size=32)
}
ROWS["imdb"] = Workload("imdb", "minilm", "float32", "score", rows=200, steps=20, batch_size=32)


def scoring_contests() -> Iterator[Comparison]:
    for corpus, work in ROWS.items():
        for kind, contestants, begin in (
            ("evaluate", EVALUATORS, "tokens"),
            ("predict", SCORERS, "texts"),
        ):
            title = f"Scoring {corpus}'s test part, from {begin}"
            yield Comparison(
                f"{kind}-{corpus}", title, work, contestants, scoring.check, scoring.classifier
            )


def taxes() -> Iterator[Comparison]:
    """The heavier a step's arithmetic, the less its exchange and its update weigh."""
    contestants = {"distsent": distsent, "distsent, one process": one_process}
    for corpus, work, name in (("emotion", EMOTION, "tax"), ("IMDB", IMDB, "tax-imdb")):
        yield Comparison(name, f"{TAX}, {corpus}", work, contestants, curves.check)
        yield Comparison(
            f"{name}-float32",
            f"{TAX}, {corpus}",
            replace(work, precision="float32"),
            contestants,
            curves.check,
        )


CONTESTS = {
    comparison.name: comparison
    for comparison in (
        Comparison("emotion", "Training emotion", EMOTION, {"distsent": distsent, **HF, **GROUPED}, curves.check),
        Comparison(
            "emotion-padded", "Training emotion, against rows padded to 128", replace(EMOTION, steps=9, warm=2),
            {"distsent": distsent, "Horovod's example, padded to 128": horovod_example}, curves.check,
        ),
        Comparison("imdb", "Training IMDB", IMDB, {"distsent": distsent, **HF}, curves.check),
        Comparison(
            "imdb-float32", "Training IMDB", replace(IMDB, precision="float32", steps=4, warm=1),
            {"distsent": distsent, **HF}, curves.check,
        ),
        Comparison(
            "imdb-no-dropout", "Training IMDB, without dropout", replace(IMDB, dropout=0.0),
            {"distsent": distsent, **HF}, curves.check,
        ),
        *taxes(),
        *scoring_contests(),
    )
}  # fmt: skip
