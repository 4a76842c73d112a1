"""The model folder of a finished run, in Hugging Face's layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distsent.model import adapter
from distsent.model.head import divided_logits
from distsent.runtime.ownership import Owner
from distsent.storage import walk

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNCHANGED = np.ones(1)


def write_model_folder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_length: int,
    owner: Owner,
    *,
    temperature: np.ndarray = UNCHANGED,
    add: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write weights, configuration with label names, and tokenizer; all or nothing.

    Adapters are merged into float32 weights, so that every program that loads a model can load
    this one. The adapter itself is saved in `adapter/`. `temperature`: the saved head's logits are
    divided by it, each by its own if there are several. `add` writes further files.
    """
    temporary = owner.temporary(folder)
    try:
        with divided_logits(model, temperature):
            merged = adapter.merge_adapter(model) if adapter.has_adapter(model) else model
            # Not in the original format: that would bring back names that loading has replaced.
            merged.save_pretrained(temporary, save_original_format=False)
            if merged is not model:
                adapter.save_adapter(model, temporary / "adapter")
        tokenizer.model_max_length = max_length
        tokenizer.save_pretrained(temporary)
        for path in walk(temporary):
            if path.suffix == ".safetensors":
                # Saved with mode 0600 whatever the umask. This one was opened as usual.
                shutil.copymode(temporary / "config.json", path)
        add(temporary)
        owner.publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
