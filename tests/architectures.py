"""A tiny classifier of every architecture that classifies texts, with random weights.

python -m tests.architectures > docs/architectures.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from distsent.errors import UserError
from distsent.job.schema import ModelSection
from distsent.model.classifier import build_classifier, token_embedding
from distsent.model.forward import SLOWLY, build_forward, choose_ways
from distsent.model.padded_forward import SIMILAR
from distsent.model.tokenizer import load_tokenizer
from tests import fixtures, tiny_models
from tests.tiny_configurations import ARCHITECTURES, NESTED, NOT_BUILT, RELATIVES, REMARKS, USUAL

BUILT = ARCHITECTURES | RELATIVES


def model(name: str, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """The architecture's classifier for the labels of `tests.fixtures`, in evaluation mode."""
    usual = {} if NESTED & BUILT[name].keys() else USUAL
    merged = {**usual, "num_labels": len(fixtures.LABELS), **BUILT[name], **sizes}
    wanted = {key: value for key, value in merged.items() if value is not None}
    config = AutoConfig.for_model(name, **wanted)
    torch.manual_seed(seed)
    made = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for p in made.parameters():
            if p.dim() > 1:  # larger than fresh weights, so that scores depend on the text
                p.normal_(0, p[0].numel() ** -0.5)
    return made


def save(name: str, folder: Path, **sizes: Any) -> Path:
    """A folder with the model and a tokenizer for the texts of `tests.fixtures`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pad = BUILT[name].get("pad_token_id", 0)
    special = ["[UNK]", "[MASK]", "[CLS]", "[SEP]", "[X]", "[Y]"]
    if pad is not None:
        special[pad], special[4] = "[PAD]", special[pad]
    vocab = {
        word: i for i, word in enumerate([*special, *fixtures.WORDS][: tiny_models.VOCABULARY])
    }
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", eos_token="[SEP]", pad_token=None if pad is None else "[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    model(name, **sizes).save_pretrained(folder)
    return folder


TITLE = """# Architectures

`python -m tests.architectures > docs/architectures.md` writes this page.
It has every architecture that transformers registers for sequence classification.
`tests/parallel/test_architectures.py` trains a tiny model of those in **bold** with dropout on one
worker and on two, at two token budgets, and holds that:

- the loss curves are the same, to 1e-5;
- `train`, `evaluate`, `predict` and transformers' `pipeline` give each text the same scores, to
  1e-5;
- this table is right.

How the examples of a batch run is not looked up here: distsent measures it at every start, on a
small copy of the model (`distsent/model/batching_check.py`), and takes the fastest way in which
each example gets the scores and the dropout masks that it gets alone.

| way | what it costs |
|---|---|
| packed | nothing: no padding |
| similar lengths | examples of similar length share a call: under 10 % padding |
| equal lengths | only examples of equal length share a call: many short calls in training |
| one at a time | a call per example |

| architecture | in training | remark |
|---|---|---|
"""


def page(lines: Mapping[str, Sequence[str]]) -> str:
    """docs/architectures.md, from the lines of each architecture's log that begin with its class.

    A refused architecture has one line, its error.
    """
    rows = {name: _row(name, lines[name]) for name in lines}
    rows |= {name: f"| {name} | not tested | {reason} |\n" for name, reason in NOT_BUILT.items()}
    return TITLE + "".join(rows[name] for name in sorted(rows))


def _row(name: str, lines: Sequence[str]) -> str:
    way, remarks = "packed", []
    for line in lines:
        said, _, reason = line.partition(" ")[2].partition(": ")
        ways = {"trains on " + words: way for way, words in SLOWLY.items()}
        ways |= {"cannot run packed": SIMILAR, "is not supported": "refused"}
        way = ways.get(said, way)
        if reason != "texts of similar length share a call":
            remarks.append(reason if said in ways else f"{said}: {reason}")
    remarks += [REMARKS[name]] if name in REMARKS else []
    bold = "**" if name in ARCHITECTURES else ""
    return f"| {bold}{name}{bold} | {way} | {'; '.join(remarks)} |\n"


def lines(name: str) -> list[str]:
    """What the log says of the architecture, or the error that refuses it."""
    with TemporaryDirectory() as folder:
        asked = ModelSection(name=str(save(name, Path(folder))), dropout=0.1)
        tokenizer = load_tokenizer(asked.name)
        loaded = build_classifier(asked, tokenizer, fixtures.LABELS, seed=0)
    try:
        token_embedding(loaded.model)
        ways = choose_ways(loaded.model, "auto", training=True)
    except UserError as error:
        return [str(error)]
    notes = *loaded.notes, build_forward(loaded.model, tokenizer, "auto", ways)[1]
    return [note for note in notes if note and note.startswith(type(loaded.model).__name__)]


if __name__ == "__main__":
    print(page({name: lines(name) for name in BUILT}), end="")
