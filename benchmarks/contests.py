"""The contests there are."""

from __future__ import annotations

from benchmarks import curves
from benchmarks.contest import Contest
from benchmarks.training import distsent, horovod_example, one_process, trainer
from benchmarks.work import Work

EMOTION = Work("emotion", "minilm", steps=30, warm=5)  # 25 steps: a whole cycle of group_by_length, which goes from long to short
IMDB = Work("imdb", "minilm", rows=2048, steps=13, warm=3, batch_size=32)

HF = {"HF Trainer": trainer("random")}
GROUPED = {"HF Trainer, group_by_length": trainer("group_by_length")}

CONTESTS = {
    contest.name: contest
    for contest in (
        Contest("emotion", "Training emotion", EMOTION, {"distsent": distsent, **HF, **GROUPED}, curves.check),
        Contest(
            "emotion-padded", "Training emotion, against rows padded to 128", Work("emotion", "minilm", steps=12, warm=3),
            {"distsent": distsent, "Horovod's example, padded to 128": horovod_example}, curves.check,
        ),
        Contest("imdb", "Training IMDB", IMDB, {"distsent": distsent, **HF}, curves.check),
        Contest(
            "imdb-float32", "Training IMDB", Work("imdb", "minilm", "float32", rows=2048, steps=11, warm=3, batch_size=32),
            {"distsent": distsent, **HF}, curves.check,
        ),
        Contest(
            "tax", "Horovod's tax: 2 workers x 1 thread against 1 process x 2 threads, emotion", EMOTION,
            {"distsent": distsent, "distsent, one process": one_process}, curves.check,
        ),
    )
}  # fmt: skip
