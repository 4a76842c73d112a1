"""BigBird with full attention: its block-sparse attention depends on the texts seen before."""

from typing import Any

from transformers import PreTrainedModel


def use_full_attention(model: PreTrainedModel) -> str | None:
    """Change a BigBird for good, its configuration too. Returns a line for the log.

    transformers does so at the first short batch (704 tokens in published models). Until then the
    same text, padded or not, would get other scores.
    """
    if getattr(model.config, "attention_type", None) != "block_sparse":
        return None
    base: Any = model.base_model
    encoder = base if hasattr(base, "set_attention_type") else base.encoder  # BigBird-Pegasus
    encoder.set_attention_type("original_full")
    model.config.attention_type = "original_full"
    name = type(model).__name__
    return f"{name} attends to all tokens: block-sparse attention would depend on the batch"
