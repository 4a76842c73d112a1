"""The model folder of a finished run, in Hugging Face's layout."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from distsent.model import adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write_model_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, max_length: int
) -> None:
    """Write weights, configuration with label names, and tokenizer; all or nothing.

    Adapters are merged into float32 weights, so that every program that loads a model can load
    this one. The adapter itself is saved in `adapter/`.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    merged = adapter.merge_adapter(model) if adapter.has_adapter(model) else model
    # Not in the original format: that would bring the names back that loading has replaced.
    merged.save_pretrained(temporary, save_original_format=False)
    if merged is not model:
        adapter.save_adapter(model, temporary / "adapter")
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(temporary)
    for path in temporary.rglob("*.safetensors"):
        # Saved with mode 0600 whatever the umask. This one was opened as usual.
        shutil.copymode(temporary / "config.json", path)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(temporary, folder)
