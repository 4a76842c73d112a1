"""An error on one worker ends all of them with the same message; replicas are compared at the start."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distsent.distributed.horovod import ElasticHorovodWorld
from distsent.distributed.world import World
from distsent.errors import Stopped, UserError
from distsent.training import replica_check


class Crowd(World):
    """Workers that are threads."""

    def __init__(self, rank: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._table, self._barrier = rank, size, table, barrier

    def allgather_object(self, value: Any, name: str) -> list[Any]:
        self._table[self.rank] = json.dumps(value)
        self._barrier.wait(30)
        found = [json.loads(text) for text in self._table]
        self._barrier.wait(30)
        return found


def crowd(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What `work` returns, or raises, on each of `size` workers."""
    table, barrier, outcome = [None] * size, threading.Barrier(size), [None] * size

    def run(rank: int) -> None:
        try:
            outcome[rank] = work(Crowd(rank, size, table, barrier))
        except Exception as error:
            outcome[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcome


def at(rank: int, error: Exception) -> Callable[[World], int]:
    def work(world: World) -> int:
        if world.rank == rank:
            raise error
        return world.rank

    return work


def test_each_worker_gets_its_own_value() -> None:
    assert crowd(3, lambda world: world.all_or_raise(lambda: world.rank + 1, "x")) == [1, 2, 3]
    assert crowd(3, lambda world: world.on_main(lambda: world.rank + 1, "x")) == [1, 1, 1]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_mistake_that_one_worker_meets_is_told_by_all_with_its_rank(rank: int) -> None:
    error = UserError("no such store", "no such model", code=1)
    found = crowd(3, lambda world: world.all_or_raise(lambda: at(rank, error)(world), "x"))
    where = "rank 2: " if rank else ""
    assert {(type(one), one.lines, one.code) for one in found} == {
        (UserError, (f"{where}no such store", f"{where}no such model"), 1)
    }


@pytest.mark.parametrize("collective", ["all_or_raise", "on_main"])
def test_a_stop_and_a_crash_end_all(collective: str) -> None:
    stopped = crowd(
        2, lambda world: getattr(world, collective)(lambda: at(0, Stopped("asked"))(world), "x")
    )
    assert [type(one) for one in stopped] == [Stopped, Stopped]
    crashed = crowd(
        2, lambda world: getattr(world, collective)(lambda: at(0, KeyError("k"))(world), "x")
    )
    assert isinstance(crashed[0], KeyError) and str(crashed[1]) == "rank 0 failed: KeyError: 'k'"


def test_an_elastic_worker_that_fails_leaves_alone() -> None:
    """The others lose a worker, which ends nothing; here they would wait for it, so nobody waits for anybody."""

    class Lone(ElasticHorovodWorld):
        def __init__(self) -> None: ...

        def allgather_object(self, value: Any, name: str) -> list[Any]:
            return [value]

    assert Lone().all_or_raise(lambda: 3, "x") == 3
    with pytest.raises(KeyError):
        Lone().all_or_raise(lambda: {}["k"], "x")


def linear(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.register_buffer("packed", torch.arange(5, dtype=torch.uint8))
    model[0].weight.requires_grad = False
    return model


def test_models_that_were_read_alike_are_let_be() -> None:
    models = [linear(0), linear(0)]
    assert crowd(2, lambda world: replica_check.check_model(world, models[world.rank])) == [
        None,
        None,
    ]


@pytest.mark.parametrize("name", ["0.weight", "packed"])
def test_what_is_frozen_is_compared_too(name: str) -> None:
    models = [linear(0), linear(0)]
    dict([*models[1].named_parameters(), *models[1].named_buffers()])[name].view(-1)[0] += 1
    found = crowd(2, lambda world: replica_check.check_model(world, models[world.rank]))
    assert {str(one) for one in found} == {
        f"model.name: rank 1 has read another {name} than rank 0; give all nodes the same files "
        "(model.revision pins one of the hub)"
    }
