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
from distsent.model.dropout_rates import set_dropout_rates, unset_dropout_rates
from distsent.model.load_errors import check_model_folder, explain_load_errors
from distsent.model.tokenizer import NO_REMOTE_CODE, settle_padding
from distsent.model.weights import Loaded, load_weights

# transformers warns that the weights of a new head are missing, which is true of every encoder.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LOAD_OPTIONS: Any = {"dtype": torch.float32, "use_safetensors": True, **NO_REMOTE_CODE}
UNLIMITED = 1 << 30  # tokens


def load_config(name: str, revision: str | None = None, **changes: Any) -> Any:
    """An encoder's configuration. Raises UserError if there is no such encoder."""
    check_model_folder(name, "model.name")
    options = {"revision": revision or "main", **changes, **NO_REMOTE_CODE}
    with explain_load_errors(name, "model.name"):
        config = AutoConfig.from_pretrained(name, **options)
    if type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"model.name = {name!r}: transformers has no text classifier with the architecture "
            f"{config.model_type!r}; choose an encoder such as BERT, RoBERTa or ModernBERT"
        )
    return config


def build_classifier(
    model: ModelSection, tokenizer: Any, labels: Sequence[str], seed: int, quantization: Any = None
) -> Loaded:
    """The classifier to train. The seed initializes new weights: the head, or all of `demo`."""
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
    _describe_this_problem(config)
    if tokenizer is not None:
        settle_padding(tokenizer, config)
    if model.dropout is not None:
        set_dropout_rates(config, model.dropout)
    if model.name == "demo":
        torch.manual_seed(seed)
        loaded = Loaded(AutoClassifier.from_config(config, dtype=torch.float32))
    else:
        options = {**LOAD_OPTIONS, "config": config, "quantization_config": quantization}
        options["revision"] = model.revision or "main"
        loaded = load_weights(model.name, "model.name", seed, **options)
    if model.dropout is None:
        return loaded
    return loaded.with_notes(unset_dropout_rates(loaded.model, model.dropout))


def _describe_this_problem(config: Any) -> None:
    """Overwrite what a configuration says about the task that its model was saved for.

    transformers' pipelines, and the losses of its models, act on these.
    """
    config.problem_type = "single_label_classification"
    config.return_dict = True
    config.output_attentions = config.output_hidden_states = False
    for key in ("task_specific_params", "function_to_apply"):
        if getattr(config, key, None) is not None:
            setattr(config, key, None)


def load_classifier(folder: str) -> Loaded:
    """A trained classifier with its labels. Raises UserError for an encoder without a head."""
    check_model_folder(folder, "model")
    loaded = load_weights(folder, "model", 0, **LOAD_OPTIONS)
    if missing := loaded.new_weights:
        raise UserError(
            f"{folder}: an encoder without a classification head (its weights lack "
            f"{', '.join(missing[:3])}); train a classifier from it with model.name={folder}"
        )
    return loaded


def check_vocabulary(model: PreTrainedModel, tokenizer: Any, key: str) -> None:
    """Raise UserError if the tokenizer makes tokens that the encoder has no embedding for."""
    known, largest = token_embedding(model).num_embeddings, max(tokenizer.get_vocab().values())
    if largest >= known:
        raise UserError(
            f"{key}: its tokenizer has {largest + 1} tokens, but its encoder has only {known} "
            "embeddings: they do not match"
        )


def token_limit(model: PreTrainedModel) -> int:
    """The largest number of tokens in an example."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:  # XLNet: -1
        return UNLIMITED
    return limit - position_offset(model)


def position_offset(model: nn.Module) -> int:
    """The position of an example's first token: RoBERTa starts after its padding index."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def token_embedding(model: PreTrainedModel) -> nn.Embedding:
    """The embedding of token ids."""
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:  # Canine hashes characters
        embedding = None
    if not isinstance(embedding, nn.Embedding):
        name = type(model).__name__
        raise UserError(f"{name} is not supported: its input embedding is not nn.Embedding")
    return embedding
