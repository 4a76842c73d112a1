"""An error on one worker ends all with the same message; models are compared at the start."""

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


class ThreadWorld(World):
    """Workers that are threads of this process."""

    def __init__(self, rank: int, size: int, values: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.size, self._values, self._barrier = rank, size, values, barrier

    def _allgather_object(self, value: Any, name: str) -> list[Any]:
        self._values[self.rank] = json.dumps(value)
        self._barrier.wait(30)
        found = [json.loads(text) for text in self._values]
        self._barrier.wait(30)
        return found


def on_workers(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What `work` returns or raises on each of `size` workers."""
    values, barrier, outcomes = [None] * size, threading.Barrier(size), [None] * size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = work(ThreadWorld(rank, size, values, barrier))
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def raise_at(rank: int, error: Exception) -> Callable[[World], int]:
    def work(world: World) -> int:
        if world.rank == rank:
            raise error
        return world.rank

    return work


def test_each_worker_gets_its_own_value_or_that_of_the_main_worker() -> None:
    assert on_workers(3, lambda w: w.all_or_raise(lambda: w.rank + 1, "x")) == [1, 2, 3]
    assert on_workers(3, lambda w: w.on_main(lambda: w.rank + 1, "x")) == [1, 1, 1]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_user_error_on_one_worker_is_raised_by_all_with_its_rank(rank: int) -> None:
    work = raise_at(rank, UserError("no such store", "no such model", code=1))
    found = on_workers(3, lambda world: world.all_or_raise(lambda: work(world), "x"))
    where = "rank 2: " if rank else ""
    assert {(type(one), one.lines, one.code) for one in found} == {
        (UserError, (f"{where}no such store", f"{where}no such model"), 1)
    }


@pytest.mark.parametrize("collective", ["all_or_raise", "on_main"])
def test_a_stop_and_a_crash_end_all(collective: str) -> None:
    def run(error: Exception) -> list[Any]:
        work = raise_at(0, error)
        return on_workers(2, lambda world: getattr(world, collective)(lambda: work(world), "x"))

    assert [type(one) for one in run(Stopped("requested"))] == [Stopped, Stopped]
    crashed = run(KeyError("k"))
    assert isinstance(crashed[0], KeyError) and str(crashed[1]) == "rank 0 failed: KeyError: 'k'"


def test_an_elastic_worker_that_fails_raises_alone() -> None:
    """The others lose a worker and continue, so nobody may wait for a report of the error."""

    class Alone(ElasticHorovodWorld):
        def __init__(self) -> None:
            World.__init__(self)

        def _allgather_object(self, value: Any, name: str) -> list[Any]:
            return [value]

    assert Alone().all_or_raise(lambda: 3, "x") == 3
    with pytest.raises(KeyError):
        Alone().all_or_raise(lambda: {}["k"], "x")


def linear(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.register_buffer("packed", torch.arange(5, dtype=torch.uint8))
    model[0].weight.requires_grad = False
    return model


def test_equal_models_are_accepted() -> None:
    models = [linear(0), linear(0)]
    found = on_workers(2, lambda world: replica_check.check_loaded_model(world, models[world.rank]))
    assert found == [None, None]


@pytest.mark.parametrize("name", ["0.weight", "packed"])
def test_frozen_tensors_are_compared_too(name: str) -> None:
    models = [linear(0), linear(0)]
    dict([*models[1].named_parameters(), *models[1].named_buffers()])[name].view(-1)[0] += 1
    found = on_workers(2, lambda world: replica_check.check_loaded_model(world, models[world.rank]))
    assert {str(one) for one in found} == {
        f"model.name: rank 1 loaded a different {name} than rank 0; give all nodes the same files "
        "(model.revision selects one version of a hub model)"
    }
