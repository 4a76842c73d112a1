"""Name -> classifier: an encoder with a classification head, in float32, run packed where it can be.

A hub id or local folder in Hugging Face's layout (safetensors only: no code and no pickle is taken from a model), or
`demo`, a small BERT with random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from distsent.errors import UserError
from distsent.model.tokenizer import NO_REMOTE_CODE, explain_load_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

transformers.utils.logging.set_verbosity_error()  # a new head's weights are missing from every encoder: that is no news
transformers.utils.logging.disable_progress_bar()

DROPOUT_KEYS = (  # the names under which the families keep their rates
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "classifier_dropout_prob",
    "dropout", "attention_dropout", "seq_classif_dropout",
)  # fmt: skip


def check_encoder(name: str, revision: str | None = None) -> None:
    """Raises UserError where there is no such encoder: before its corpus is tokenised for it, which takes longer."""
    if name != "demo":
        with explain_load_errors(name, "model.name"):
            AutoConfig.from_pretrained(name, revision=revision or "main", **NO_REMOTE_CODE)


def build_classifier(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    *,
    seed: int,
    revision: str | None = None,
    dropout: float | None = None,
    quantization: Any = None,
) -> PreTrainedModel:
    """The classifier to train. The seed draws what is not pretrained: the head, or all of `demo`."""
    torch.manual_seed(seed)
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if name == "demo":
        config: Any = BertConfig(
            vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512,
            max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **names,
        )  # fmt: skip
        _set_dropout(config, dropout)
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with explain_load_errors(name, "model.name"):
        config = AutoConfig.from_pretrained(
            name, revision=revision or "main", **names, **NO_REMOTE_CODE
        )
        _set_dropout(config, dropout)
        return AutoModelForSequenceClassification.from_pretrained(
            name, revision=revision or "main", config=config, dtype=torch.float32, use_safetensors=True,
            ignore_mismatched_sizes=True,  # a head for other classes is drawn anew
            quantization_config=quantization, **NO_REMOTE_CODE,
        )  # fmt: skip


def load_classifier(folder: str) -> PreTrainedModel:
    """A finished classifier as it was saved, with its labels. Raises UserError for an encoder without a trained head."""
    with explain_load_errors(folder, "model"):
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **NO_REMOTE_CODE,
        )
    if lacking := sorted(found["missing_keys"]):
        raise UserError(
            f"{folder}: no classifier, an encoder alone ({', '.join(lacking[:3])} is not among its weights): train one from it, "
            f"with model.name={folder}"
        )
    return model


def _set_dropout(config: Any, rate: float | None) -> None:
    if rate is not None:
        for key in DROPOUT_KEYS:
            if hasattr(config, key):
                setattr(config, key, rate)


def token_limit(model: PreTrainedModel) -> int:
    """The most tokens an example may have."""
    return int(getattr(model.config, "max_position_embeddings", 1 << 30)) - position_offset(model)


def position_offset(model: nn.Module) -> int:
    """The position of an example's first token: RoBERTa's family counts on from its padding index."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids"):
            return int(getattr(module, "padding_idx", 0)) + 1
    return 0


def token_embedding(model: PreTrainedModel) -> nn.Embedding:
    """The embedding of token ids."""
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise UserError(
            f"{type(model).__name__}: its input embedding is no plain table; such encoders are not supported"
        )
    return table
