"""The loss of each example: cross-entropy with label smoothing and class weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from distsent.data.token_store import TokenStore
from distsent.errors import UserError
from distsent.job.job import Job


@dataclass(frozen=True)
class ClassificationLoss:
    """Losses per example. `weights_C`: a factor per class, None for equal weights."""

    label_smoothing: float = 0.0
    weights_C: torch.Tensor | None = None

    def __call__(self, logits_nC: torch.Tensor, labels_n: torch.Tensor) -> torch.Tensor:
        losses_n = F.cross_entropy(
            logits_nC.float(), labels_n, reduction="none", label_smoothing=self.label_smoothing
        )
        return losses_n if self.weights_C is None else losses_n * self.weights_C[labels_n]


def class_weights(job: Job, store: TokenStore, device: torch.device) -> torch.Tensor | None:
    """`train.class_weights` as a tensor.

    `balanced` gives all classes the same total weight, and examples a mean weight of 1.
    """
    weights, names = job.train.class_weights, store.label_names
    if weights == "none":
        return None
    if weights == "balanced":
        labels = torch.tensor(store.splits["train"].labels[:]).long()
        counts = torch.bincount(labels, minlength=len(names)).double()
        return (counts.sum() / (len(names) * counts.clamp(min=1))).float().to(device)
    if len(weights) != len(names):
        raise UserError(
            f"train.class_weights: {len(weights)} weights for {len(names)} classes "
            f"({', '.join(names)})"
        )
    return torch.tensor(weights, dtype=torch.float32, device=device)
