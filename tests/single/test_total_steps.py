"""The five systems have the steps and evaluations of their cards (tweets: of its page)."""

from pathlib import Path

import pytest

from distsent.batching.sampler import BatchSampler
from distsent.errors import UserError
from distsent.job import load_job
from distsent.training.inputs import check_length

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


def test_a_run_has_a_step_and_a_batch_has_at_most_all_rows() -> None:
    sampler = BatchSampler(60, 10**23, 1)
    assert (sampler.batch_size, sampler.steps_per_epoch, sampler.total_steps(1e-20)) == (60, 1, 1)
    assert sorted(sampler.batch(3)) == list(range(60))


@pytest.mark.parametrize(("words", "lines"), [
    (["optim.warmup=16", "eval.every=15", "train.patience=1"], []),
    (["optim.warmup=0.9", "eval.every=epoch", "train.patience=1", "train.epochs=1"], []),
    (["optim.warmup=17", "eval.every=16", "train.patience=1"], [
        "optim.warmup = 17 steps is longer than the run: train.epochs = 2 takes 16 steps",
        "train.patience = 1: needs evaluations before the end; eval.every = 16 runs none: "
        "train.epochs = 2 takes 16 steps"]),
])  # fmt: skip
def test_a_run_too_short_for_its_job_is_a_line_for_each_key(
    words: list[str], lines: list[str]
) -> None:
    job = load_job(None, ["train.epochs=2"] * ("train.epochs=1" not in words) + words)
    if not lines:
        return check_length(job, 16)
    with pytest.raises(UserError) as caught:
        check_length(job, 16)
    assert list(caught.value.lines) == lines


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
