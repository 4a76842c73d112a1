"""A trained classifier as evaluation and prediction use it: a model folder, or an export."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from distsent.data.tokens import long_texts, template
from distsent.errors import UserError
from distsent.evaluation.exported import Export, ExportedForward, read_export
from distsent.model import classifier
from distsent.model.config import NO_REMOTE_CODE
from distsent.model.forward import Forward, choose_forward
from distsent.model.half_precision import usable_precision
from distsent.model.load_errors import explain_load_errors
from distsent.model.tokenizer import load_tokenizer, settle_padding

AnyForward = Forward | ExportedForward


@dataclass(frozen=True)
class SavedModel:
    """`build(packed, windows, precision, key)`: the forward, and the precision that it computes in.

    `key`: what asked for the precision; None if nobody did. `build` raises UserError.
    """

    labels: list[str]
    tokenizer: Any
    token_limit: int
    long_texts: long_texts.LongTexts
    template: str | None
    device: torch.device
    build: Callable[[str, bool, str, str | None], tuple[AnyForward, str]]
    notes: tuple[str, ...] = ()

    @property
    def max_length(self) -> int:
        """The largest number of tokens for which it was made."""
        return min(self.tokenizer.model_max_length, self.token_limit)


def load_saved_model(folder: Path, device: torch.device) -> SavedModel:
    """The model in a folder. An export computes on the CPU, whatever `device` is.

    Raises UserError.
    """
    export = read_export(folder)
    return _model(str(folder), device) if export is None else _exported(folder, export)


def _model(folder: str, device: torch.device) -> SavedModel:
    tokenizer = load_tokenizer(folder, key="model")
    loaded = classifier.load_classifier(folder)
    model, key = loaded.model.eval(), f"model = {folder!r}"
    classifier.check_vocabulary(model, tokenizer, key)
    settle_padding(tokenizer, model.config)

    def build(
        packed: str, windows: bool, precision: str, asked: str | None
    ) -> tuple[AnyForward, str]:
        torch.nn.Module.to(model, device)
        forward, _ = choose_forward(model, tokenizer, packed, windows)
        return forward, usable_precision(forward, tokenizer, precision, asked)[0]

    names, limit = classifier.class_names(model.config), classifier.token_limit(model)
    how = long_texts.recorded(model.config, key), template.recorded(model.config, key)
    return SavedModel(names, tokenizer, limit, *how, device, build, loaded.notes)


def _exported(folder: Path, export: Export) -> SavedModel:
    with explain_load_errors(str(folder), "model"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **NO_REMOTE_CODE)
    key, cpu = f"model = {str(folder)!r}", torch.device("cpu")
    how = long_texts.recorded(export, key), template.recorded(export, key)

    def build(packed: str, windows: bool, precision: str, asked: str | None) -> Any:
        return ExportedForward.open(folder, export, torch.get_num_threads()), export.precision

    return SavedModel(export.labels, tokenizer, export.token_limit, *how, cpu, build)


def check_asked(folder: Path, key: str, value: str | None) -> None:
    """Raise UserError if a key asks an export to compute in another way than it does."""
    asked = (value or "auto").strip(" '\"")
    export = read_export(folder) if asked != "auto" else None
    if export is None:
        return
    how = None
    if key in ("train.precision", "--precision") and asked != export.precision:
        how = f"computes in {export.precision}"
    if key == "model.packed" and asked != "never":
        how = "takes padded batches"
    if how:
        raise UserError(f"{key}={value}: {folder} is an export, which {how}; leave it out")
