"""The five systems have the steps and evaluations of their cards (tweets: of its page)."""

from pathlib import Path

import pytest

from distsent.batching.sampler import BatchSampler
from distsent.job import load_job

JOBS = Path(__file__).resolve().parents[2] / "jobs"


@pytest.mark.parametrize(("stem", "rows", "per_epoch", "in_all"), [
    ("imdb", 25_000, 1_563, 7_815),
    ("imdb-tiny-lora", 40_000, 1_250, 3_750),
    ("imdb-bert-amp", 32_000, 2_000, 6_000),
    ("tweets", 1_000, 32, 128),
    *((f"emotion-{encoder}", 16_000, 250, 2_000) for encoder in ("distilbert", "bert", "roberta",
    "albert")),
])  # fmt: skip
def test_steps(stem: str, rows: int, per_epoch: int, in_all: int) -> None:
    job = load_job(JOBS / f"{stem}.toml")
    sampler = BatchSampler(rows, job.train.batch_size, job.seeds[0])
    assert (
        sampler.steps_per_epoch,
        sampler.total_steps(job.train.epochs, job.train.max_steps),
    ) == (
        per_epoch,
        in_all,
    )


def test_system_3_is_evaluated_every_750_steps() -> None:
    job = load_job(JOBS / "imdb-bert-amp.toml")
    evaluations = [step / 2_000 for step in range(1, 6_001) if step % job.eval.every == 0]
    assert [round(epoch, 2) for epoch in evaluations] == [
        0.38,
        0.75,
        1.12,
        1.5,
        1.88,
        2.25,
        2.62,
        3.0,
    ]
