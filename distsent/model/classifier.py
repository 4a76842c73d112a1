"""Name -> classifier: an encoder with a classification head, in float32.

The name is a hub id, a local folder in Hugging Face's layout (safetensors only: a model's code and
pickles are never read), or `demo`, a small BERT with random weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, BertConfig, PreTrainedModel
from transformers import AutoModelForSequenceClassification as AutoClassifier

from distsent.errors import UserError
from distsent.job.schema import ModelSection
from distsent.model.tokenizer import NO_REMOTE_CODE, explain_load_errors

# transformers warns that the weights of a new head are missing, which is true of every encoder.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

DROPOUT_KEYS = (  # the names that the architectures use
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
    "classifier_dropout_prob", "dropout", "attention_dropout", "seq_classif_dropout",
)  # fmt: skip
LOAD_OPTIONS: Any = {"dtype": torch.float32, "use_safetensors": True, **NO_REMOTE_CODE}


def load_config(name: str, revision: str | None = None, **changes: Any) -> Any:
    """An encoder's configuration. Raises UserError if there is no such encoder."""
    options = {"revision": revision or "main", **changes, **NO_REMOTE_CODE}
    with explain_load_errors(name, "model.name"):
        return AutoConfig.from_pretrained(name, **options)


def build_classifier(
    model: ModelSection, tokenizer: Any, labels: Sequence[str], seed: int, quantization: Any = None
) -> PreTrainedModel:
    """The classifier to train. The seed initializes new weights: the head, or all of `demo`."""
    torch.manual_seed(seed)
    names: dict[str, Any] = {"id2label": dict(enumerate(labels))}
    names["label2id"] = {label: i for i, label in names["id2label"].items()}
    if model.name == "demo":
        config: Any = BertConfig(
            vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=512, max_position_embeddings=128, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, **names,
        )  # fmt: skip
    else:
        config = load_config(model.name, model.revision, **names)
    for key in DROPOUT_KEYS:
        if model.dropout is not None and hasattr(config, key):
            setattr(config, key, model.dropout)
    if model.name == "demo":
        return AutoClassifier.from_config(config, dtype=torch.float32)
    options = {**LOAD_OPTIONS, "config": config, "quantization_config": quantization}
    options["ignore_mismatched_sizes"] = True  # a head for other classes is replaced by a new one
    with explain_load_errors(model.name, "model.name"):
        revision = model.revision or "main"
        return AutoClassifier.from_pretrained(model.name, revision=revision, **options)


def load_classifier(folder: str) -> PreTrainedModel:
    """A trained classifier with its labels. Raises UserError for an encoder without a head."""
    with explain_load_errors(folder, "model"):
        options = {**LOAD_OPTIONS, "output_loading_info": True}
        model, info = AutoClassifier.from_pretrained(folder, **options)
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{folder}: an encoder without a classification head (its weights lack "
            f"{', '.join(missing[:3])}); train a classifier from it with model.name={folder}"
        )
    return model


def token_limit(model: PreTrainedModel) -> int:
    """The largest number of tokens in an example."""
    return int(getattr(model.config, "max_position_embeddings", 1 << 30)) - position_offset(model)


def position_offset(model: nn.Module) -> int:
    """The position of an example's first token: RoBERTa starts after its padding index."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids"):
            return int(getattr(module, "padding_idx", 0)) + 1
    return 0


def token_embedding(model: PreTrainedModel) -> nn.Embedding:
    """The embedding of token ids."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        name = type(model).__name__
        raise UserError(f"{name} is not supported: its input embedding is not nn.Embedding")
    return embedding
