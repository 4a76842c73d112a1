"""An error on one worker ends all with the same message; models are compared at the start."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from distsent.data.tokens.store import open_token_store
from distsent.distributed.horovod import ElasticHorovodWorld
from distsent.distributed.world import World
from distsent.errors import Stopped, UserError
from distsent.training import replica_check
from distsent.versions import shared_software
from tests.dataset_files import data, folder, own_cache, reviews, tokenizer  # noqa: F401


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


def test_the_worker_and_the_value_that_differ_are_named() -> None:
    def compare(world: World) -> None:
        libraries = {"numpy": "2.0" if world.rank < 2 else "1.0" * 90, "torch": "2.9"}
        software = {"job": {"train.lr": float("nan")}, "software": libraries}
        world.assert_equal_across_ranks(software, "the software")

    found = on_workers(3, compare)
    host = socket.gethostname()
    assert {str(one) for one in found} == {
        f"the software differs between workers: rank 2 on {host} has "
        f'software.numpy = "{"1.0" * 25}1'
        f'..., rank 0 on {host} has software.numpy = "2.0" (1 of 3 differ from rank 0); give all '
        "nodes the same files and the same software"
    }
    assert on_workers(2, lambda w: w.assert_equal_across_ranks({"a": [1]}, "it")) == [None, None]


def test_workers_compare_all_software_that_decides_numbers() -> None:
    found = shared_software()
    assert {"torch", "transformers", "tokenizers", "datasets", "numpy"} <= found.keys()
    assert found["numpy"] == np.__version__ and found["code"]


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("rows", "has other rows on rank 1 "),
        ("tokenizer", "its tokenizer is another one on rank 1"),
    ],
)
@pytest.mark.usefixtures("own_cache")
def test_no_store_mixes_the_tokens_of_two_hosts(
    what: str, line: str, complete: bool, tmp_path: Path
) -> None:
    """Not even where the store of rank 0 is there already."""
    counts = (40, 41 if what == "rows" else 40)
    sources = [
        folder(tmp_path / str(i), train=reviews(n), test=reviews(9, 50))
        for i, n in enumerate(counts)
    ]
    tokenizers = [tokenizer(), tokenizer()]
    if what == "tokenizer":
        tokenizers[1].backend_tokenizer.normalizer = normalizers.Sequence([])

    def prepare(world: World) -> str:
        own = data(sources[world.rank])
        found = open_token_store(own, 1, tokenizers[world.rank], 12, tmp_path / "s", workers=world)
        return str(found.folder)

    if complete:
        assert "s" in str(on_workers(1, prepare))
    for error in on_workers(2, prepare):
        assert isinstance(error, UserError) and line in str(error), error
        assert socket.gethostname() in str(error)
    stores = [path for path in (tmp_path / "s").iterdir() if not path.name.endswith(".lock")]
    assert len(stores) == complete


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
