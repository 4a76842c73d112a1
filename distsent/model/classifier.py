"""Name -> classifier: an encoder with a classification head, in float32.

The name is a hub id, a local folder in Hugging Face's layout (safetensors only: a model's code and
pickles are never read), or `demo`, a small BERT with random weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForSequenceClassification as AutoClassifier
from transformers import BertConfig, PreTrainedModel

from distsent.errors import UserError
from distsent.job.schema import ModelSection
from distsent.model.config import NO_REMOTE_CODE, describe_problem, load_config
from distsent.model.dropout_rates import set_dropout_rates, unset_dropout_rates
from distsent.model.tokenizer import settle_padding
from distsent.model.weights import Loaded, is_head, listed, load_weights

# transformers warns that the weights of a new head are missing, which is true of every encoder.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LOAD_OPTIONS: Any = {"dtype": torch.float32, "use_safetensors": True, **NO_REMOTE_CODE}
UNLIMITED = 1 << 30  # tokens


def build_classifier(
    model: ModelSection,
    tokenizer: Any,
    labels: Sequence[str],
    seed: int,
    quantization: Any = None,
    task: str = "single_label",
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
    describe_problem(config, task)
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
        before = class_names(load_config(model.name, model.revision))
        loaded = loaded.with_notes(_kept_head(loaded, before, labels))
    if model.dropout is None:
        return loaded
    return loaded.with_notes(unset_dropout_rates(loaded.model, model.dropout))


def without_weights(model: ModelSection) -> PreTrainedModel:
    """The modules of the classifier alone. Not for `demo`, which has no configuration to load."""
    config = load_config(model.name, model.revision)
    with torch.device("meta"):
        return AutoClassifier.from_config(config)


def class_names(config: Any) -> list[str]:
    """The class names of a classifier's configuration, by class number."""
    return [str(config.id2label[i]) for i in sorted(config.id2label)]


def _kept_head(loaded: Loaded, before: Sequence[str], labels: Sequence[str]) -> str | None:
    """A line if the head is not new, but was trained for other classes."""
    names = [name for name in loaded.model.state_dict() if is_head(loaded.model, name)]
    head = [name for name in names if "pooler" not in name]
    if not head or list(before) == list(labels) or not {*head}.isdisjoint(loaded.new_weights):
        return None
    return f"not new: {listed(head)}, which model.name trained for {', '.join(before)[:80]}"


def load_classifier(folder: str) -> Loaded:
    """A trained classifier with its labels. Raises UserError for an encoder without a head."""
    config = load_config(folder, key="model")
    loaded = load_weights(folder, "model", 0, **LOAD_OPTIONS, config=config)
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
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:  # XLNet: -1
        return UNLIMITED
    return limit - position_offset(model)


def shortest_input(config: Any) -> int:
    """The smallest number of tokens that the encoder takes, padding included.

    Funnel halves them after each block but the last, and fails if one alone is left.
    """
    blocks = getattr(config, "block_sizes", None) if config.model_type == "funnel" else None
    return 2 ** (len(blocks) - 1) + 1 if blocks else 1


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
