"""The model folder of a finished run, in Hugging Face's layout."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from distsent.model import adapter
from distsent.storage import entries, exists, walk

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def write_model_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, max_length: int
) -> None:
    """Write weights, configuration with label names, and tokenizer; all or nothing.

    Adapters are merged into float32 weights, so that every program that loads a model can load
    this one. The adapter itself is saved in `adapter/`.
    """
    for path in entries(folder.parent):  # of processes that were killed
        if path.name.startswith(f".{folder.name}."):
            shutil.rmtree(path, ignore_errors=True)
    # A new name: what could not be deleted must not mix with this one
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    replaced = folder.with_name(f"{temporary.name}.replaced")
    try:
        merged = adapter.merge_adapter(model) if adapter.has_adapter(model) else model
        # Not in the original format: that would bring the names back that loading has replaced.
        merged.save_pretrained(temporary, save_original_format=False)
        if merged is not model:
            adapter.save_adapter(model, temporary / "adapter")
        tokenizer.model_max_length = max_length
        tokenizer.save_pretrained(temporary)
        for path in walk(temporary):
            if path.suffix == ".safetensors":
                # Saved with mode 0600 whatever the umask. This one was opened as usual.
                shutil.copymode(temporary / "config.json", path)
        if exists(folder):
            os.rename(folder, replaced)
        os.rename(temporary, folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
