"""Memory that workers of one machine share, and the parts of a model that each of them updates."""

import gc
import os
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from distsent.distributed import shared_memory
from distsent.distributed.shared_memory import NotShared, share_memory
from distsent.distributed.world import World
from distsent.job.schema import OptimSection
from distsent.training import exchange
from distsent.training.exchange import Part
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import torch_optimizer
from tests.single.test_world import on_workers


def descriptors() -> list[str]:
    gc.collect()  # what tracebacks hold, also those of earlier tests
    return os.listdir("/proc/self/fd")


def test_all_workers_read_what_each_has_written_and_nothing_is_left() -> None:
    def work(world: World) -> list[list[float]]:
        memory = share_memory(world, 2 + world.rank)
        assert [len(each) for each in memory] == [2, 3, 4] and not any(map(torch.any, memory))
        world.barrier()
        memory[world.rank].fill_(world.rank + 1)
        world.barrier()
        return [each.tolist() for each in memory]

    before = descriptors()
    assert on_workers(3, work) == [[[1.0, 1.0], [2.0] * 3, [3.0] * 4]] * 3
    assert len(descriptors()) == len(before)


@pytest.mark.parametrize("fault", ["create", "open", "other process", "container"])
def test_all_workers_learn_why_one_cannot_share(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, opened = shared_memory.create, shared_memory.open_memory

    def no_memory(size: int, token: bytes) -> int:
        if size > 4 * 7 + shared_memory.START:
            raise OSError(12, "Cannot allocate memory")
        return create(size, token)

    def hidden(where: str, pid: int, made: int, size: int, token: str) -> Any:
        if fault == "container":
            where = "another one"
        elif fault == "other process":
            token = bytes(shared_memory.TOKEN).hex()
        elif size > 4 * 7 + shared_memory.START:
            pid = 2**22 + 1  # above all numbers of processes
        return opened(where, pid, made, size, token)

    if fault == "create":
        monkeypatch.setattr(shared_memory, "create", no_memory)
    else:
        monkeypatch.setattr(shared_memory, "open_memory", hidden)
    before = descriptors()
    found = [(type(one), str(one)) for one in on_workers(2, lambda w: share_memory(w, 7 + w.rank))]
    assert found == [(NotShared, found[0][1])] * 2
    expected = {
        "create": "memory cannot be created: [Errno 12] Cannot allocate memory (rank 1)",
        "open": "another worker cannot be opened: [Errno 2] No such file or directory: '/proc/",
        "other process": f"cannot be opened: process {os.getpid()} is not that worker (rank 0)",
        "container": "cannot be opened: it runs in another container (PID or network namespace)",
    }[fault]
    assert expected in found[0][1]
    assert len(descriptors()) == len(before)


def test_nothing_of_another_container_is_opened() -> None:
    """The number of its process may be that of any process here, and the file any file."""
    with patch.object(os, "open") as opened, pytest.raises(OSError, match="another container"):
        shared_memory.open_memory("another one", os.getpid(), 0, 4096, "")
    assert not opened.called


class Tiny(nn.Module):
    def __init__(self, rows: int, trained: bool) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(rows, 3), nn.Linear(5, 7)
        self.embedding.weight.requires_grad_(trained)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 64])
def test_parts_cover_each_parameter_once(
    workers: int, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the moments and the weight decay that one worker gives it."""
    monkeypatch.setattr(exchange, "CHUNK", 4)
    flat = FlatParameters((model := Tiny(11, trained)), model.embedding)
    parts = [Part.of(flat, i, workers) for i in range(workers)]
    updated, chunks, ids = torch.zeros(flat.size), [], []
    optim = OptimSection(weight_decay=0.1)
    decays = torch.zeros(flat.size)
    for part in parts:
        chunks += part.chunks()
        ids += part.own_rows(torch.arange(11)).tolist() if trained else []
        optimizer = torch_optimizer(optim, flat, part.spans(flat))
        optimizer.step()
        for group in optimizer.param_groups:
            for p in filter(torch.numel, group["params"]):
                start = p.data_ptr() - flat.values.data_ptr()
                span = slice(start // 4, start // 4 + p.numel())
                updated[span] += 1
                decays[span] = group["weight_decay"]
                moment = optimizer.state[p]["exp_avg"]
                assert moment.data_ptr() - flat.moments["exp_avg"].data_ptr() == start
    assert updated.tolist() == [1] * flat.size
    assert chunks == [*range(exchange.count_chunks(flat))]
    assert ids == [*range(11)] * trained
    assert decays.tolist() == pytest.approx([0.1] * flat.decayed + [0] * (flat.size - flat.decayed))
