"""The shipped job files: they load, they state what to expect, they match what was published."""

import re
from pathlib import Path

import pytest

from distsent.job import Job, load_job

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = sorted((REPOSITORY / "jobs").glob("*.toml"))


def job(stem: str) -> Job:
    return load_job(REPOSITORY / "jobs" / f"{stem}.toml")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_loads(path):
    assert load_job(path) == Job.from_dict(load_job(path).to_dict())


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_starts_with_source_command_time_and_score(path):
    head = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for entry in ("source", "command", "time", "expected"):
        assert re.search(rf"^# {entry}: +\S", head, re.MULTILINE), entry
    assert f"jobs/{path.name}" in head or path.stem == "demo"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_sets_what_a_default_could_change(path):
    keys = set(re.findall(r"^(\w+) =", path.read_text(), re.MULTILINE))
    assert keys >= {
        "name", "source", "max_length", "batch_size", "epochs", "seed", "precision", "lr", "betas",
        "eps", "weight_decay", "clip_norm", "schedule", "warmup", "every", "metric",
    }  # fmt: skip


def test_run_folders_do_not_collide():
    names = [load_job(path).job.name for path in JOBS]
    assert len(set(names)) == len(names)


def test_the_demo_job_is_the_defaults():
    assert job("demo") == Job()


# The five published systems, with the values of their cards.


RECIPE = (
    "data.source", "model.name", "train.batch_size", "train.epochs", "train.precision",
    "train.seed", "optim.name", "optim.lr", "optim.betas", "optim.eps", "optim.weight_decay",
    "optim.clip_norm", "optim.schedule", "optim.warmup", "eval.every",
)  # fmt: skip


def recipe(stem: str) -> tuple:
    values = dict(job(stem).items())
    return tuple(values[dotted] for dotted in RECIPE)


BETAS = (0.9, 0.999)


def test_system_1_distilbert_on_imdb():
    assert recipe("imdb") == (
        "imdb", "distilbert-base-uncased", 16, 5, "float32", 42,
        "adam", 2e-5, BETAS, 1e-8, 0, 1.0, "linear", 0, "epoch",
    )  # fmt: skip
    assert (job("imdb").data.validation_fraction, job("imdb").data.test_fraction) == (0, 0)


def test_system_2_tiny_bert_with_lora_on_four_bits():
    assert recipe("imdb-tiny-lora") == (
        "imdb", "prajjwal1/bert-tiny", 32, 3, "fp16", 42,
        "adamw", 3e-5, BETAS, 1e-8, 0, 1.0, "linear", 0, "epoch",
    )  # fmt: skip
    one = job("imdb-tiny-lora")
    assert (one.adapter.kind, one.adapter.bits, one.data.max_length) == ("lora", 4, 512)
    assert (one.data.pool_splits, one.data.test_fraction, one.data.validation_fraction) == (
        True,
        0.2,
        0,
    )


def test_system_3_bert_on_imdb_in_mixed_precision():
    assert recipe("imdb-bert-amp") == (
        "imdb", "bert-base-uncased", 16, 3, "fp16", 42,
        "adam", 2e-5, BETAS, 1e-8, 0, 1.0, "linear", 0, 750,
    )  # fmt: skip
    data = job("imdb-bert-amp").data
    assert data.pool_splits
    assert round(50_000 * (1 - data.validation_fraction - data.test_fraction)) == 2_000 * 16


def test_system_4_bert_on_a_thousand_tweets():
    assert recipe("tweets") == (
        "tweets", "bert-base-uncased", 32, 4, "float32", 42,
        "adam", 3e-4, BETAS, 1e-8, 0, 1.0, "constant", 0, "epoch",
    )  # fmt: skip
    one = job("tweets")
    assert (one.job.name, one.data.max_rows) == ("Horovod_Tweet_Sentiment_1K_4eps", 1000)
    assert one.data.validation_fraction > 0


@pytest.mark.parametrize(("stem", "encoder"), [
    ("distilbert", "distilbert-base-uncased"), ("bert", "bert-base-uncased"),
    ("roberta", "roberta-base"), ("albert", "albert-base-v2"),
])  # fmt: skip
def test_system_5_four_encoders_on_emotion(stem, encoder):
    assert recipe(f"emotion-{stem}") == (
        "emotion", encoder, 64, 8, "float32", 42,
        "adamw", 2e-5, BETAS, 1e-8, 0, 1.0, "linear", 0, "epoch",
    )  # fmt: skip
