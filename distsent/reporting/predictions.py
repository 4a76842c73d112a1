"""What the final model said about each row of a split, kept for reports: logits, and the worst mistakes with their texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distsent.reporting.misclassified import worst_mistakes
from distsent.runtime.run_folder import write_text

if TYPE_CHECKING:
    from distsent.data.token_store import TokenStore


def write_predictions(
    folder: Path, split: str, logits_nC: torch.Tensor, store: TokenStore, tokenizer: Any
) -> None:
    """Write `<split>.safetensors` (logits, labels, rows) and `<split>.mistakes.jsonl`, the texts as the model saw them."""
    from safetensors.torch import save_file

    tokens = store.splits[split]
    labels, rows = torch.tensor(tokens.labels[:]).long(), torch.tensor(tokens.rows[:]).long()
    folder.mkdir(exist_ok=True)
    save_file(
        {"logits": logits_nC.float().contiguous(), "labels": labels, "rows": rows},
        folder / f"{split}.safetensors",
    )
    mistakes = worst_mistakes(
        logits_nC.float().numpy(), labels.numpy(), rows.numpy(), store.label_names,
        lambda i: tokenizer.decode(tokens[i].tolist(), skip_special_tokens=True),
    )  # fmt: skip
    lines = [json.dumps(mistake, ensure_ascii=False) + "\n" for mistake in mistakes]
    write_text(folder / f"{split}.mistakes.jsonl", "".join(lines))
