"""What each class's losses are multiplied with."""

from __future__ import annotations

import torch

from distsent.data.token_store import TokenStore
from distsent.errors import UserError
from distsent.job.job import Job


def class_weights(job: Job, store: TokenStore, device: torch.device) -> torch.Tensor | None:
    """What each class's losses are multiplied with; `balanced` makes all classes weigh alike and the mean weight 1."""
    wish = job.train.class_weights
    if wish == "none":
        return None
    classes = len(store.label_names)
    if wish == "balanced":
        counts = torch.bincount(
            torch.tensor(store.splits["train"].labels[:]).long(), minlength=classes
        ).double()
        return (counts.sum() / (classes * counts.clamp(min=1))).float().to(device)
    if len(wish) != classes:
        raise UserError(
            f"train.class_weights: {len(wish)} weights for {classes} classes ({', '.join(store.label_names)})"
        )
    return torch.tensor(wish, dtype=torch.float32, device=device)
