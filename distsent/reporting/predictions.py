"""The final model's logits for each row of a split, and its worst mistakes, kept for reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distsent.evaluation.metrics import softmax
from distsent.runtime.run_folder import write_text

if TYPE_CHECKING:
    from distsent.data.token_store import TokenStore

MAX_MISTAKES = 200


def write_predictions(
    folder: Path, split: str, logits_nC: torch.Tensor, store: TokenStore, tokenizer: Any
) -> None:
    """Write `<split>.safetensors` (logits, labels, rows) and `<split>.mistakes.jsonl`.

    The texts of the mistakes are decoded from their tokens: what the model read.
    """
    from safetensors.torch import save_file

    def text_of(i: int) -> str:
        return str(tokenizer.decode(tokens[i].tolist(), skip_special_tokens=True))

    tokens, logits_nC = store.splits[split], logits_nC.float().contiguous()
    labels, rows = torch.tensor(tokens.labels[:]).long(), torch.tensor(tokens.rows[:]).long()
    folder.mkdir(exist_ok=True)
    tensors = {"logits": logits_nC, "labels": labels, "rows": rows}
    save_file(tensors, folder / f"{split}.safetensors")
    arrays = (logits_nC.numpy(), labels.numpy(), rows.numpy())
    mistakes = worst_mistakes(*arrays, store.label_names, text_of)
    lines = [json.dumps(mistake, ensure_ascii=False) + "\n" for mistake in mistakes]
    write_text(folder / f"{split}.mistakes.jsonl", "".join(lines))


def worst_mistakes(
    logits_nC: np.ndarray,
    labels_n: np.ndarray,
    rows_n: np.ndarray,
    names: Sequence[str],
    text_of: Callable[[int], str],
) -> list[dict[str, Any]]:
    """The misclassified rows, the most confident first: they show wrong labels and blind spots.

    One record each: row (counted from 1), label, predicted, their scores, text.
    """
    scores = softmax(logits_nC)
    predicted = scores.argmax(1)
    wrong = np.flatnonzero(predicted != labels_n)
    most_confident = np.argsort(-scores[wrong, predicted[wrong]], kind="stable")
    return [
        {
            "row": int(rows_n[i]) + 1,
            "label": names[labels_n[i]],
            "predicted": names[predicted[i]],
            "score": float(scores[i, predicted[i]]),
            "score_of_label": float(scores[i, labels_n[i]]),
            "text": text_of(int(i)),
        }
        for i in wrong[most_confident][:MAX_MISTAKES]
    ]
