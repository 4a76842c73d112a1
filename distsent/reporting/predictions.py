"""The final model's logits for each row of a split, and its worst mistakes, kept for reports."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from distsent.data.tokens.store import TokenStore
from distsent.evaluation.tasks.choose import choose_task
from distsent.reporting.tasks.choose import report_of
from distsent.runtime.run_folder import write_text

MAX_MISTAKES = 200


def write_predictions(
    folder: Path, split: str, logits_nC: torch.Tensor, store: TokenStore, tokenizer: Any
) -> None:
    """Write `<split>.safetensors` (logits, labels, rows) and `<split>.mistakes.jsonl`.

    Mistakes, the worst first, have their file and the row in it (from 1), what the task says of it,
    and its text (decoded: what the model read).
    """
    from safetensors.torch import save

    tokens, task = store.splits[split], choose_task(store.task, store.label_names)
    logits_nC, labels = logits_nC.float(), torch.tensor(tokens.labels[:])
    if labels.ndim == 1:
        labels = labels.long()
    rows = torch.tensor(tokens.rows[:]).long()
    tensors = {"logits": logits_nC.contiguous(), "labels": labels, "rows": rows}
    folder.mkdir(exist_ok=True)
    # Not save_file: the mode of its files is 0600 whatever the umask, so a team cannot read them.
    (folder / f"{split}.safetensors").write_bytes(save(tensors))

    lines = []
    mistakes = report_of(task).mistakes(logits_nC.numpy(), labels.numpy())
    for i, wrong in islice(mistakes, MAX_MISTAKES):
        text = str(tokenizer.decode(tokens[i].tolist(), skip_special_tokens=True))
        file, row = store.place(split, i)
        mistake = {"file": file, "row": row, **wrong, "text": text}
        lines.append(json.dumps(mistake, ensure_ascii=False) + "\n")
    write_text(folder / f"{split}.mistakes.jsonl", "".join(lines))
