"""A run's peak memory: measured, foretold before training, and what is said when it is too much."""

import gc
import mmap
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distsent import train
from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.packing import pack
from distsent.distributed.world import World
from distsent.job import load_job
from distsent.lock import try_lock
from distsent.model.forward import Forward, autocast
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import PaddedForward
from distsent.model.recompute import recompute_layers
from distsent.runtime import cgroup
from distsent.training import session
from distsent.training.activations import Activations, LiveBytes, count_activations
from distsent.training.memory import Expected, less_memory
from distsent.training.publish import peak_memory, reset_peak_memory
from tests import fixtures, tiny_models
from tests.parallel.driver import NoSignals, quick

SIZE = 256 << 20


def test_a_new_run_starts_at_the_memory_in_use() -> None:
    reset_peak_memory()
    before = peak_memory()
    # New pages for certain: malloc may return some that are in memory already.
    block = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE)
    for start in range(0, SIZE, mmap.PAGESIZE):
        block[start] = 1
    most = peak_memory()
    assert most > before + SIZE // 2
    block.close()
    # The kernel counts in steps, which grow with the number of cores.
    assert peak_memory() > most - SIZE // 2
    reset_peak_memory()
    assert peak_memory() < before + (50 << 20)


def counted(forward: Forward, precision: str = "float32") -> Activations:
    found = count_activations(forward, precision, np.arange(10, 30), longest=200)
    assert found is not None
    return found


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "albert"])
def test_three_tiny_batches_foretell_the_memory_of_a_large_one(family: str, precision: str) -> None:
    forward = PackedForward(tiny_models.encoder(family, dropout=0.1, layers=12))
    found = counted(forward, precision)
    forward.model.train()
    for lengths, least in (([32] * 12, 0.98), ([20, 60, 90, 130], 0.8)):
        rows = np.arange(len(lengths))
        keys_T = dropout_keys(1, 2, rows, np.array(lengths))
        batch = pack([np.arange(n) % 90 for n in lengths], rows % 3, keys_T=keys_T)
        with LiveBytes() as live:
            with autocast(torch.device("cpu"), precision):
                logits = forward(batch)
            logits.float().square().sum().backward()
        # Slots of shorter texts in a length group are not counted.
        assert least <= found.bytes(lengths) / max(live.after) <= 1.2


def test_recomputation_takes_less_and_padding_is_not_counted_as_training() -> None:
    plain, less = (PaddedForward(tiny_models.encoder(layers=6), 0) for _ in range(2))
    recompute_layers(less.model, less.again)
    lengths = [100] * 8
    assert counted(less).bytes(lengths) < 0.5 * counted(plain).bytes(lengths)
    assert plain.padding == 0.0 and not plain.model.training


def expected(**changes: object) -> str:
    values = {"before": 5e8, "step": 1e9, "saving": 0.0, "tokens": 4096, "budget": None}
    values |= {"free": 4e9, "fits": True, **changes}
    return Expected(**values).line(load_job(None, ["model.name=x"]))


def test_the_line_before_training() -> None:
    line = (
        "memory: about 1.50 GB per worker (0.50 GB before the first step, 1.00 GB for a "
        "micro-batch of 4,096 tokens); 4.00 GB are free"
    )
    assert expected() == line
    short = line.replace("4.00", "0.90") + ": that does not fit; set "
    assert expected(free=9e8, fits=False, budget=2048) == (
        f"{short}train.token_budget=2048 or train.recompute=true or adapter.kind=lora"
    )
    assert expected(free=9e8, fits=False) == (
        f"{short}a train.token_budget below 16384 or train.recompute=true or adapter.kind=lora"
    )
    small = ["train.token_budget=512", "train.recompute=true", "adapter.kind=lora", "model.name=x"]
    assert less_memory(load_job(None, small)) == "set adapter.bits=4"
    assert less_memory(load_job(None, [*small, "adapter.bits=4"])) == (
        "use fewer workers on each machine"
    )


def test_what_the_kernel_killed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "machine_kills", lambda: 7)
    assert cgroup.killed_for_memory((0, 7)) is None
    assert "the kernel killed 2 processes of this machine" in str(cgroup.killed_for_memory((0, 5)))
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    assert str(cgroup.killed_for_memory((0, 6))).startswith("out of memory: 1 processes killed (")
    assert cgroup.memory_left() is None
    (tmp_path / "memory.max").write_text(str(8 << 30))
    (tmp_path / "memory.current").write_text(str(2 << 30))
    assert cgroup.memory_left() == 6 << 30


class Elastic(World):
    """Workers join after the first step."""

    elastic = True
    membership_changed = True

    def __init__(self, lock: Path) -> None:
        super().__init__()
        self._lock = lock

    def rejoin(self) -> None:
        assert try_lock(self._lock) is None, "another start would take the folder over"
        self.membership_changed = False


@pytest.mark.parametrize("elastic", [False, True])
def test_a_model_is_gone_before_the_next_one_is_loaded(
    elastic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the seed before, and of the world before a rejoin, during which the run stays locked."""
    corpus = fixtures.corpus(tmp_path / "corpus", train=8, validation=0, test=4)
    words = [
        f"data.source={corpus}", f"model.name={fixtures.model(tmp_path / 'model')}",
        f"run.dir={tmp_path}", "job.name=it", "data.max_length=40", "train.batch_size=4",
        "train.max_steps=2", "eval.every=end", "log.tensorboard=false",
    ]  # fmt: skip
    models: list[weakref.ref[torch.nn.Module]] = []
    open_session = session.open_session

    def opened(*asked: Any) -> session.Session:
        assert [model() for model in models] == [None] * len(models)
        made = open_session(*asked)
        models.append(weakref.ref(made.forward.model))
        return made

    monkeypatch.setattr(session, "open_session", opened)
    gc.disable()
    try:
        with quick():
            if elastic:
                world = Elastic(tmp_path / "it" / ".lock")
                session.TrainingRun(load_job(None, words), world, NoSignals()).train()
            else:
                train.main([*words, "train.seed=[1, 2]"])
    finally:
        gc.enable()
    assert len(models) == 2
