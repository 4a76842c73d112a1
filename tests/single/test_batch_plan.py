"""A block of steps is planned like single steps, wherever a run starts."""

import numpy as np
import pytest
import torch

from distsent.batching import batch_plan as plans
from distsent.batching.balance import assign_to_ranks, cost
from distsent.batching.batch_plan import BatchPlan
from distsent.batching.flops import FlopCounter
from distsent.batching.sampler import BatchSampler
from tests import tiny_models

FLOPS = FlopCounter(per_token=5.0, per_pair=0.3)


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("rows", [40, 45, 5])
def test_a_batch_does_not_depend_on_its_block(
    rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """45 rows in batches of 8: every sixth batch holds 5."""
    monkeypatch.setattr(plans, "BLOCK", block)
    tokens, sampler = tiny_models.tokens(rows), BatchSampler(rows, 8, seed=3)
    for rank in range(3):
        plan = BatchPlan(tokens, sampler, FLOPS, rank, 3, 60, torch.device("cpu"), added_ids=(99,))
        for step in (0, 1, 2, 7, 8, 3, 14, 13, 11, 12):  # a run may resume anywhere
            batch, chosen = plan.batch(step), sampler.batch(step)
            owner = assign_to_ranks(
                cost(tokens.lengths(chosen), FLOPS.per_token, FLOPS.per_pair)[None], 3
            )[0]
            assert (
                batch.rows.tolist() == chosen.tolist()
                and batch.lengths.tolist() == tokens.lengths(chosen).tolist()
            )
            assert sorted(np.concatenate([*batch.micro_rows, []])) == sorted(chosen[owner == rank])
            assert (
                batch.token_ids.tolist()
                == np.unique(np.concatenate([[99], *(tokens[row] for row in chosen)])).tolist()
            )
