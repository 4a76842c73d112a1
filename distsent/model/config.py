"""An encoder's configuration: read, checked, and made to describe the problem of this job."""

import json
from inspect import signature
from typing import Any

from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from xxhash import xxh3_128_hexdigest

from distsent.errors import UserError
from distsent.model.load_errors import CHOOSE, check_model_folder, explain_load_errors

# What transformers calls `data.task`
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
# Without this, transformers asks on the terminal whether it may run a model's code.
NO_REMOTE_CODE = {"trust_remote_code": False}


def load_config(
    name: str, revision: str | None = None, key: str = "model.name", **changes: Any
) -> Any:
    """An encoder's configuration. Raises UserError if there is no such encoder."""
    check_model_folder(name, key)
    # How its model was computed elsewhere (bf16, FlashAttention) must not matter here.
    ours: dict[str, Any] = {"dtype": "float32", "attn_implementation": None}
    options = {"revision": revision or "main", **ours, **changes, **NO_REMOTE_CODE}
    with explain_load_errors(name, key):
        config = AutoConfig.from_pretrained(name, **options)
    config._attn_implementation = None  # some files have it under this name
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"{key} = {name!r}: transformers has no text classifier with the architecture "
            f"{config.model_type!r}; {CHOOSE}"
        )
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{key} = {name!r}: its weights are quantized (quantization_config in its "
            "config.json); use the original weights: adapter.bits = 4 quantizes them"
        )
    return config


def config_hash(config: Any) -> str:
    """A hash of how a classifier computes: the same at each start of a run."""
    values = config.to_dict()
    for key in ("_name_or_path", "transformers_version", "quantization_config"):
        values.pop(key, None)
    return xxh3_128_hexdigest(json.dumps(values, sort_keys=True, default=str).encode())


def describe_problem(config: Any, task: str) -> None:
    """Overwrite what a configuration says about the task that its model was saved for.

    transformers' pipelines, and the losses of its models, act on these.
    """
    config.problem_type = PROBLEM_TYPES[task]
    config.return_dict = True
    config.output_attentions = config.output_hidden_states = False
    if config.model_type == "xlnet":
        config.use_mems_eval = False  # pipelines cannot split a batch of its memories
    for key in ("task_specific_params", "function_to_apply", "long_texts", "text_template"):
        if getattr(config, key, None) is not None:
            setattr(config, key, None)


def task_of(config: Any, key: str) -> str:
    """The `data.task` of a saved classifier. Raises UserError if its configuration leaves it open.

    `key` begins the error.
    """
    kind = config.problem_type
    if kind is None and config.num_labels == 1:
        fix = '"problem_type": "regression" or "multi_label_classification"'
        raise UserError(
            f"{key}: it has a single label, and may mean a number or a yes or no by it; its "
            f"config.json needs {fix}"
        )
    return next((task for task, name in PROBLEM_TYPES.items() if name == kind), "single_label")


def vocabulary(config: Any) -> int:
    """Number of token ids. Encoders of images and text have it in the configuration of the text."""
    return int(config.get_text_config().vocab_size)


def padding_token(config: Any) -> int | None:
    """The padding token that a classifier knows. Heads of decoders read that of the text."""
    text = config.get_text_config()
    places = (text, config) if is_decoder(config) else (config, text)
    found = (getattr(place, "pad_token_id", None) for place in places)
    return next((token for token in found if token is not None), None)


def is_decoder(config: Any) -> bool:
    """Whether the architecture only predicts next tokens: GPT-2, Llama, Qwen, XLNet."""
    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return causal and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def takes_token_types(config: Any) -> bool:
    """Whether the architecture tells the texts of a pair apart by the types of their tokens."""
    found: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    model = found[0] if isinstance(found, tuple) else found
    types = getattr(config, "type_vocab_size", None)
    return "token_type_ids" in signature(model.forward).parameters and types not in (0, 1)
