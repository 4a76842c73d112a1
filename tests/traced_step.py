"""Training steps of BERT on a GPU that is not there: what they would dispatch, as a JSON line each.

LD_PRELOAD=the library of tests/no_gpu.cpp python -m tests.traced_step

Shapes and devices are computed, values are not (FakeTensorMode). Where a step reads a value, it
gets 0 or True: the loss is finite, and nobody asked to stop.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSequenceClassification, BertConfig

from distsent.batching import block_tables
from distsent.batching.batch_plan import Batch
from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.packing import PackedBatch, pack
from distsent.distributed.world import World
from distsent.evaluation.tasks.choose import choose_task
from distsent.job.schema import OptimSection
from distsent.model import classifier
from distsent.model.packed_forward import PackedForward
from distsent.model.pooling import FIRST
from distsent.operators import gpu, library, masks
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import Schedule
from distsent.training.passes import Pass, TrainingLoss
from distsent.training.reducer import GradientReducer
from distsent.training.train_step import TrainStep

GPU = torch.device("cuda", 0)
FREE = re.compile(r"empty|detach|_unsafe_view|_sparse_coo_tensor")  # launch no kernel
READS, CHOOSES = "aten._local_scalar_dense.default", "aten.index.Tensor"


class Counting(TorchDispatchMode):
    """Counts what is dispatched, by name; kernels of Triton, too."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if not func.is_view and name.startswith("aten.") and not FREE.search(name):
            self.counts[name] += 1
        if name == READS:
            return {torch.bool: True, torch.int64: 0}.get(args[0].dtype, 0.0)
        if name == CHOOSES and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self.counts["reads which rows"] += 1  # as long as all are chosen
            return args[0].clone()
        if name == "aten._coalesce.default" or (name == "aten.add_.Tensor" and args[1].is_sparse):
            return args[0]  # no implementation without values: the first one has the shape
        return func(*args, **(kwargs or {}))

    def launch(self, kernel: str, *_: Any, **options: Any) -> None:
        self.counts[kernel] += 1


@contextmanager
def fake_gpu(counting: Counting) -> Iterator[None]:
    """Code that asks finds a GPU with bf16, and Triton's kernels are counted."""
    for memory in (block_tables.blocks, masks.hash_range):
        memory.cache_clear()  # of tensors from outside
    library.use("triton")
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda *_: True),
        patch.object(gpu, "launch", counting.launch),
    ):
        yield


def packed(lengths: list[int]) -> PackedBatch:
    L = np.array(lengths)
    ids, keys_T = [np.ones(n, dtype=np.int64) for n in L], dropout_keys(3, 4, np.arange(len(L)), L)
    return pack(ids, np.zeros(len(L), dtype=np.int64), keys_T=keys_T, device=GPU)


def train_step(layers: int, precision: str) -> TrainStep:
    with torch.device(GPU):
        config = BertConfig(num_hidden_layers=layers, num_labels=2)
        model = AutoModelForSequenceClassification.from_config(config).train()
    flat = FlatParameters(model, classifier.token_embedding(model))
    forward, optim = PackedForward(model, FIRST), OptimSection()
    loss = TrainingLoss(choose_task("single_label", ["a", "b"]))
    schedule, reducer = Schedule.from_job(optim, 100), GradientReducer(World(), flat)
    return TrainStep(Pass(forward, flat, loss, precision), reducer, optim, schedule)


def traced(layers: int, lengths: list[int], precision: str) -> Counter[str]:
    """What a step dispatches, by name."""
    counting = Counting()
    with fake_gpu(counting):
        step, rows = train_step(layers, precision), np.arange(len(lengths))
        L, ids = np.array(lengths), torch.arange(2, device=GPU)
        shares = np.array([len(L)])
        batch = Batch(0, rows, L, L, ids, shares, (rows,), lambda _: packed(lengths))
        with counting:
            step(batch)
            counting.counts.clear()  # the first step also computes what all steps share
            step(batch)
    return counting.counts


if __name__ == "__main__":
    for words in sys.argv[1:]:
        layers, lengths, precision = json.loads(words)
        print(json.dumps(traced(layers, lengths, precision)), flush=True)
