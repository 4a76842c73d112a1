"""The five published systems in miniature: a hub cache with tiny encoders, and small datasets.

python -m tests.systems PLAN trains the jobs in PLAN, a JSON list of [job file, overrides], with one
start of the workers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests import fixtures, tiny_models

ROOT = Path(__file__).resolve().parents[1]
HUB = {  # hub id in a job file: architecture
    "distilbert-base-uncased": "distilbert",
    "prajjwal1/bert-tiny": "bert",
    "bert-base-uncased": "bert",
    "roberta-base": "roberta",
    "albert-base-v2": "albert",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub(home: Path, words: Sequence[str] = fixtures.WORDS) -> Path:
    """An HF_HOME whose cache has an encoder without a head for each name, with 95 `words`."""
    for name, family in HUB.items():
        repository = home / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / COMMIT
        encoder(snapshot, family, words)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
    return home


def snapshot(home: Path, name: str) -> Path:
    """The folder of an encoder in the cache."""
    return home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT


def encoder(folder: Path, family: str, words: Sequence[str] = fixtures.WORDS) -> Path:
    """A tiny encoder as published: without a head, with a tokenizer of its padding id."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = (
        ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
        if family == "roberta"
        else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    )
    vocab = {word: i for i, word in enumerate([*special, "[MASK]", *words])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    model = tiny_models.encoder(family)
    model.base_model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=256,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    return folder


def corpora(folder: Path) -> dict[str, Path]:
    """The splits of the published datasets: emotion has all three, the others no validation."""
    return {
        "imdb": fixtures.corpus(folder / "imdb", train=90, validation=0, test=70, classes=2),
        "tweets": fixtures.corpus(folder / "tweets", train=80, validation=0, test=40, classes=3),
        "emotion": fixtures.corpus(folder / "emotion", train=70, validation=30, test=40, classes=3),
    }


def drive(plan: Path) -> None:
    from distsent.distributed.launchers import init_world
    from distsent.job import load_job
    from distsent.training.session import TrainingRun
    from tests.parallel.driver import NoSignals

    world = init_world()
    for file, overrides in json.loads(plan.read_text()):
        TrainingRun(load_job(ROOT / "jobs" / file, overrides), world, NoSignals()).train()
    world.shutdown()


if __name__ == "__main__":
    drive(Path(sys.argv[1]))
