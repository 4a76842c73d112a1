"""The contests there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import curves, scoring
from benchmarks.contest import Contest
from benchmarks.training import distsent, horovod_example, one_process, trainer
from benchmarks.work import Work

EMOTION = Work("emotion", "minilm", steps=30, warm=5)  # 25 steps: a whole cycle of group_by_length, which goes from long to short
IMDB = Work("imdb", "minilm", rows=2048, steps=5, warm=2, batch_size=32)

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
ROWS = {"emotion": Work("emotion", "minilm", "float32", "score", rows=2000, steps=40, batch_size=32)}
ROWS["imdb"] = Work("imdb", "minilm", "float32", "score", rows=200, steps=20, batch_size=32)


def scoring_contests() -> Iterator[Contest]:
    for corpus, work in ROWS.items():
        for kind, contestants, begin in (("evaluate", EVALUATORS, "tokens"), ("predict", SCORERS, "texts")):
            title = f"Scoring {corpus}'s test part, from {begin}"
            yield Contest(f"{kind}-{corpus}", title, work, contestants, scoring.check, scoring.classifier)


def taxes() -> Iterator[Contest]:
    """The heavier a step's arithmetic, the less its exchange and its update weigh."""
    contestants = {"distsent": distsent, "distsent, one process": one_process}
    for corpus, work, name in (("emotion", EMOTION, "tax"), ("IMDB", IMDB, "tax-imdb")):
        yield Contest(name, f"{TAX}, {corpus}", work, contestants, curves.check)
        yield Contest(f"{name}-float32", f"{TAX}, {corpus}", replace(work, precision="float32"), contestants, curves.check)


CONTESTS = {
    contest.name: contest
    for contest in (
        Contest("emotion", "Training emotion", EMOTION, {"distsent": distsent, **HF, **GROUPED}, curves.check),
        Contest(
            "emotion-padded", "Training emotion, against rows padded to 128", replace(EMOTION, steps=9, warm=2),
            {"distsent": distsent, "Horovod's example, padded to 128": horovod_example}, curves.check,
        ),
        Contest("imdb", "Training IMDB", IMDB, {"distsent": distsent, **HF}, curves.check),
        Contest(
            "imdb-float32", "Training IMDB", replace(IMDB, precision="float32", steps=4, warm=1),
            {"distsent": distsent, **HF}, curves.check,
        ),
        Contest(
            "imdb-no-dropout", "Training IMDB, without dropout", replace(IMDB, dropout=0.0),
            {"distsent": distsent, **HF}, curves.check,
        ),
        *taxes(),
        *scoring_contests(),
    )
}  # fmt: skip
