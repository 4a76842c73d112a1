"""A tiny classifier of every architecture that people fine-tune, with random weights.

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

USUAL: dict[str, Any] = {
    "vocab_size": tiny_models.VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 66,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
PADS_WITH_1 = {"pad_token_id": 1}
EMBEDDING = {"embedding_size": 16}
RELATIVE = {
    "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
    "pooler_hidden_size": 16,
}  # fmt: skip
DECODER = {"pad_token_id": None}  # neither the configuration nor the tokenizer has one
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, **PADS_WITH_1,
}  # fmt: skip
# By transformers' names: what a configuration needs beyond the usual; None: leave the key out.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "roberta": PADS_WITH_1,
    "albert": EMBEDDING,
    "xlm-roberta": PADS_WITH_1,
    "camembert": PADS_WITH_1,
    "electra": EMBEDDING,
    "ernie": {},
    "data2vec-text": PADS_WITH_1,
    "layoutlm": {},
    "markuplm": {"xpath_unit_hidden_size": 4},
    "mpnet": {"max_position_embeddings": 70, **PADS_WITH_1},
    "deberta": RELATIVE,
    "deberta-v2": RELATIVE,
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "longformer": {"attention_window": [4, 4], **PADS_WITH_1},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},  # sparse from 29 tokens
    "funnel": {
        "num_hidden_layers": None, "block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8,
        "d_inner": 32,
    },
    "xlnet": {
        "max_position_embeddings": None, "d_model": 16, "d_head": 8, "d_inner": 32,
        "pad_token_id": 5,
    },
    "xlm": {},
    "flaubert": {},
    "mobilebert": {
        "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16,
        "num_feedforward_networks": 1,
    },
    "squeezebert": EMBEDDING,
    "convbert": {"conv_kernel_size": 3, **EMBEDDING},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "megatron-bert": {},
    "nystromformer": {},
    "fnet": {},
    "roformer": EMBEDDING,
    "yoso": {},
    "ibert": PADS_WITH_1,
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX", **PADS_WITH_1},
    "roberta-prelayernorm": PADS_WITH_1,
    "xlm-roberta-xl": PADS_WITH_1,
    "esm": {"position_embedding_type": "rotary", **PADS_WITH_1},
    "nomic_bert": {},
    "jina_embeddings_v3": PADS_WITH_1,
    "eurobert": GROUPED,
    "luke": {"entity_vocab_size": 10, **PADS_WITH_1},
    "canine": {},
    "gpt2": DECODER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4, **DECODER},
    "openai-gpt": DECODER,
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 32, **PADS_WITH_1},
    "llama": GROUPED | DECODER,
    "qwen3": GROUPED | DECODER,
    "mistral": GROUPED | DECODER,
    "gemma": GROUPED,
    "bloom": {},
    "phi": DECODER,
    "t5": T5,
    "mt5": T5,
    "bart": BART,
}  # fmt: skip


def model(name: str, seed: int = 0) -> PreTrainedModel:
    """The architecture's classifier for the labels of `tests.fixtures`, in evaluation mode."""
    merged = {**USUAL, "num_labels": len(fixtures.LABELS), **ARCHITECTURES[name]}
    wanted = {key: value for key, value in merged.items() if value is not None}
    config = AutoConfig.for_model(name, **wanted)
    torch.manual_seed(seed)
    made = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for p in made.parameters():
            if p.dim() > 1:  # larger than fresh weights, so that scores depend on the text
                p.normal_(0, p[0].numel() ** -0.5)
    return made


def save(name: str, folder: Path) -> Path:
    """A folder with the model and a tokenizer for the texts of `tests.fixtures`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pad = ARCHITECTURES[name].get("pad_token_id", 0)
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
    model(name).save_pretrained(folder)
    return folder


TITLE = """# Architectures

`python -m tests.architectures > docs/architectures.md` writes this page.
`tests/parallel/test_architectures.py` trains a tiny model of each architecture with dropout on one
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
    return TITLE + "".join(_row(name, lines[name]) for name in sorted(lines))


def _row(name: str, lines: Sequence[str]) -> str:
    way, remarks = "packed", []
    for line in lines:
        said, _, reason = line.partition(" ")[2].partition(": ")
        ways = {"trains on " + words: way for way, words in SLOWLY.items()}
        ways |= {"cannot run packed": SIMILAR, "is not supported": "refused"}
        way = ways.get(said, way)
        if reason != "texts of similar length share a call":
            remarks.append(reason if said in ways else f"{said}: {reason}")
    return f"| {name} | {way} | {'; '.join(remarks)} |\n"


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
    print(page({name: lines(name) for name in ARCHITECTURES}), end="")
