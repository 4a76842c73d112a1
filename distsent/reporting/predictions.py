"""The final model's logits for each row of a split, and its worst mistakes, kept for reports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distsent.data.tokens.store import TokenStore
from distsent.evaluation.tasks.single_label import softmax
from distsent.runtime.run_folder import write_text

MAX_MISTAKES = 200


def write_predictions(
    folder: Path, split: str, logits_nC: torch.Tensor, store: TokenStore, tokenizer: Any
) -> None:
    """Write `<split>.safetensors` (logits, labels, rows) and `<split>.mistakes.jsonl`.

    Mistakes, the most confident first, show wrong labels and blind spots. One record each: row
    (counted from 1), label, predicted, their scores, text (decoded: what the model read).
    """
    from safetensors.torch import save

    tokens, names, logits_nC = store.splits[split], store.label_names, logits_nC.float()
    labels, rows = torch.tensor(tokens.labels[:]).long(), torch.tensor(tokens.rows[:]).long()
    tensors = {"logits": logits_nC.contiguous(), "labels": labels, "rows": rows}
    folder.mkdir(exist_ok=True)
    # Not save_file: the mode of its files is 0600 whatever the umask, so a team cannot read them.
    (folder / f"{split}.safetensors").write_bytes(save(tensors))

    scores, truth = softmax(logits_nC.numpy()), labels.numpy()
    predicted = scores.argmax(1)
    wrong = np.flatnonzero(predicted != truth)
    most_confident = np.argsort(-scores[wrong, predicted[wrong]], kind="stable")
    lines = []
    for i in wrong[most_confident][:MAX_MISTAKES]:
        mistake = {
            "row": int(rows[i]) + 1,
            "label": names[truth[i]],
            "predicted": names[predicted[i]],
            "score": float(scores[i, predicted[i]]),
            "score_of_label": float(scores[i, truth[i]]),
            "text": str(tokenizer.decode(tokens[int(i)].tolist(), skip_special_tokens=True)),
        }
        lines.append(json.dumps(mistake, ensure_ascii=False) + "\n")
    write_text(folder / f"{split}.mistakes.jsonl", "".join(lines))
