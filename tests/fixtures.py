"""Small files for complete runs without network: an encoder with its tokenizer, and a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from distsent.runtime.safetensors_buffer import SafetensorsBuffer
from tests import tiny_models

WORDS = [f"w{i}" for i in range(tiny_models.VOCABULARY - 5)]
LABELS = ("bad", "fair", "good")


def model(folder: Path, classes: int = 3, dropout: float = 0.1, seed: int = 0) -> Path:
    """A two-layer BERT with random weights and a tokenizer of WORDS, in Hugging Face's layout."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    vocab = {
        word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    }
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tiny_models.encoder("bert", classes=classes, dropout=dropout, seed=seed).save_pretrained(folder)
    BertTokenizerFast(tokenizer_object=backend, model_max_length=256).save_pretrained(folder)
    return folder


def rows(n: int, classes: int = 3, longest: int = 30, seed: int = 0) -> list[dict[str, object]]:
    """Texts of very unequal lengths whose words depend on their class."""
    rng = np.random.default_rng(seed)
    out: list[dict[str, object]] = []
    for i in range(n):
        label = i % classes
        words = rng.integers(15 * label, 15 * label + 50, rng.integers(1, longest + 1))
        out.append(
            {
                "text": " ".join(WORDS[w] for w in words),
                "label": LABELS[label] if classes == 3 else int(label),
            }
        )
    return out


def corpus(
    folder: Path, train: int = 45, validation: int = 3, test: int = 82, classes: int = 3
) -> Path:
    """A dataset of jsonl files for train, validation and test; an empty split has no file."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, n) in enumerate(
        {"train": train, "validation": validation, "test": test}.items()
    ):
        if n:
            jsonl(folder / f"{name}.jsonl", rows(n, classes, seed=seed))
    return folder


def task_rows(n: int, seed: int = 0) -> list[dict[str, object]]:
    """The texts of `rows` with several `labels`, an even less balanced one, and two numbers.

    The last label is in one row of ten; `value` follows the class, `length` the text.
    """
    rng, out = np.random.default_rng(seed + 100), []
    for i, row in enumerate(rows(n, seed=seed)):
        first = LABELS.index(str(row["label"]))
        labels = [LABELS[first], *([LABELS[first - 1]] if rng.random() < 0.4 else [])]
        labels += ["rare"] if i % 10 == 0 else []
        value = round(first - 1 + 0.1 * float(rng.normal()), 3)
        length = len(str(row["text"])) / 50
        out.append({"text": row["text"], "labels": labels, "value": value, "length": length})
    return out


def task_corpus(folder: Path, train: int = 45, validation: int = 13, test: int = 29) -> Path:
    """The dataset of `task_rows`: jsonl files for train, validation and test."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": train, "validation": validation, "test": test}
    for seed, (name, n) in enumerate(sizes.items()):
        jsonl(folder / f"{name}.jsonl", task_rows(n, seed))
    return folder


TASKS = {  # overrides for each task on that dataset
    "multi_label": ["data.task=multi_label", "data.label_column=labels"],
    "regression": ["data.task=regression", "data.label_columns=[value, length]"],
}


def jsonl(path: Path, values: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def safetensors_buffers(
    groups: Mapping[str, Mapping[str, torch.Tensor]],
) -> dict[str, SafetensorsBuffer]:
    """Groups of tensors as a checkpoint takes them."""
    return {name: SafetensorsBuffer(group).fill(group) for name, group in groups.items()}


def metrics(run: Path, split: str | None = None) -> list[dict[str, object]]:
    """The training lines of a run's metrics.jsonl, or those of its evaluations of `split`."""
    lines = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if line.get("split") == split]


def result(run: Path) -> dict[str, object]:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))
