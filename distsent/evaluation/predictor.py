"""Texts -> labels and scores, from a finished run or any saved classifier.

from distsent.evaluation.predictor import Predictor
predictor = Predictor("runs/imdb")
predictor(["What a film!"])  # [{"label": "pos", "score": 0.98, "scores": {"neg": 0.02, "pos": 0.98}}]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from distsent.batching.balance import split_by_tokens
from distsent.batching.packing import pack
from distsent.errors import UserError
from distsent.evaluation.metrics import softmax
from distsent.evaluation.score import batch_tokens_for
from distsent.model import classifier
from distsent.model.forward import autocast, choose_forward
from distsent.model.tokenizer import explain_load_errors, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_model_folder(path: str | Path) -> Path:
    """The folder of a saved model: `path` itself, `model/` of a run folder, or where the hub's cache keeps it.

    Raises UserError if there is none.
    """
    path = Path(path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)) and not path.parent.is_dir():
        return _from_hub(str(path))
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    if (path / "job.json").is_file():
        status = (
            (path / "status").read_text(encoding="utf-8").strip()
            if (path / "status").is_file()
            else "unknown"
        )
        raise UserError(
            f"{path}: this run has no model yet ({status}); run its training command again to carry on"
        )
    if (path / "adapter_config.json").is_file():
        raise UserError(f"{path}: an adapter alone; the folder above it holds the whole model")
    raise UserError(
        f"{path}: neither a run folder nor a saved model (there is no model/config.json and no config.json)"
    )


def _from_hub(name: str) -> Path:
    """A model of the hub, whole, in its cache; nothing that is code or a pickle is fetched."""
    from huggingface_hub import snapshot_download

    with explain_load_errors(name, "model"):
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"])
        )


def class_names(model: PreTrainedModel) -> list[str]:
    """What a saved classifier calls its classes."""
    names = cast(dict[int, str], model.config.id2label)
    return [str(names[i]) for i in sorted(names)]


class Predictor:
    """A classifier ready to be asked. Texts longer than the model takes are cut, as in training."""

    def __init__(
        self,
        path: str | Path,
        precision: str = "float32",
        batch_tokens: int = 8192,
        max_length: int | None = None,
    ) -> None:
        folder = str(find_model_folder(path))
        self.tokenizer = load_tokenizer(folder)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = classifier.load_classifier(folder).eval()
        torch.nn.Module.to(model, self.device)
        self.forward, _ = choose_forward(model, self.tokenizer)
        self.labels = class_names(model)
        limit = min(self.tokenizer.model_max_length, classifier.token_limit(model))
        if max_length is not None and not 3 <= max_length <= classifier.token_limit(model):
            raise UserError(
                f"max_length = {max_length}: this model takes 3 to {classifier.token_limit(model)} tokens"
            )
        self.max_length = max_length or limit
        self._precision, self._batch_tokens = precision, batch_tokens

    @torch.inference_mode()
    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Logits [n, C] float32 of n texts (or pairs of texts), in their order. Raises UserError for what is no text."""
        for name, given in (("texts", texts), ("pairs", pairs or ())):
            if isinstance(given, str):
                raise UserError(
                    f"{name}: one text, where a list of texts is expected: [{given[:40]!r}]"
                )
            if odd := next(
                (f"{name}[{i}] = {x!r}" for i, x in enumerate(given) if not isinstance(x, str)),
                None,
            ):
                raise UserError(f"{odd} is no text")
        if not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        coded = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            truncation=True,
            max_length=self.max_length,
            verbose=False,
        )
        ids = [np.asarray(x, dtype=np.int64) for x in coded["input_ids"]]
        types = (
            [np.asarray(x) for x in coded["token_type_ids"]] if "token_type_ids" in coded else None
        )
        lengths = np.array([len(x) for x in ids])
        out = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        for rows in split_by_tokens(
            np.argsort(lengths, kind="stable"),
            lengths,
            batch_tokens_for(self.device, self._batch_tokens),
        ):
            piece = pack(
                [ids[i] for i in rows],
                np.zeros(len(rows)),
                types and [types[i] for i in rows],
                device=self.device,
            )
            with autocast(self.device, self._precision):
                out[rows] = self.forward(piece).float().cpu().numpy()
        return out

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """One {"label", "score", "scores"} a text."""
        return [
            {
                "label": self.labels[int(row.argmax())],
                "score": float(row.max()),
                "scores": {
                    label: float(score) for label, score in zip(self.labels, row, strict=True)
                },
            }
            for row in softmax(self.logits(texts, pairs))
        ]
