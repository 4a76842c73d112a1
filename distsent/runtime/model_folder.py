"""The model folder: what a user takes away, in Hugging Face's layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from distsent.model import adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def export(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, max_length: int
) -> None:
    """Write weights (safetensors), configuration with label names, and tokenizer; whole or not at all.

    With adapters these are the merged weights, in float32 whatever the base was kept in, so that everything that loads a
    model loads this one; the adapter itself lies beside them in `adapter/`.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if adapter.has_adapter(model):
        adapter.merge_adapter(model).save_pretrained(temporary)
        adapter.save_adapter(model, temporary / "adapter")
    else:
        model.save_pretrained(temporary)
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(temporary, folder)
