"""When workers share one copy of their weights, and when each keeps its own."""

from typing import Any
from unittest.mock import patch

import pytest
from torch import nn

from distsent.distributed.shared_memory import NotShared
from distsent.distributed.world import World
from distsent.job import load_job
from distsent.training import build, shared_reducer
from distsent.training.flat_parameters import FlatParameters
from distsent.training.reducer import GradientReducer
from distsent.training.shared_reducer import SharedReducer
from tests.single.test_world import ThreadWorld, on_workers


class OnGpu(ThreadWorld):
    """Rank 1 computes on a GPU."""

    def _allgather_object(self, value: Any, name: str) -> list[Any]:
        if name == "run.devices" and self.rank == 1:
            value = ("H100", "cuda", False)
        return super()._allgather_object(value, name)


def choose(changes: dict[str, Any], *words: str, kind: type[World] = ThreadWorld) -> list[Any]:
    """The reducer of each of two workers, and what they log."""
    lines: list[str] = []

    def work(world: World) -> Any:
        world.__class__ = kind
        world.__dict__ |= {"local_size": 2, **changes}
        model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
        flat, job = FlatParameters(model, model[0]), load_job(None, [*words])  # type: ignore[arg-type]
        before = flat.values
        reducer = build.build_reducer(job, world, flat, "float32", False, lines.append)
        assert flat.shared == isinstance(reducer, SharedReducer) == (flat.values is not before)
        return type(reducer)

    return [*on_workers(2, work), *lines]


def test_workers_of_one_machine_share_their_weights() -> None:
    assert choose({}) == [SharedReducer] * 2


@pytest.mark.parametrize(
    "case",
    [
        {"changes": {"local_size": 1}},
        {"changes": {"elastic": True}},
        {"kind": OnGpu},
        {"words": "train.share_weights=false"},
    ],
    ids=str,
)
def test_others_keep_their_own(case: dict[str, Any]) -> None:
    words = [case["words"]] if "words" in case else []
    found = choose(case.get("changes", {}), *words, kind=case.get("kind", ThreadWorld))
    assert found == [GradientReducer] * 2


def test_workers_that_cannot_share_memory_keep_their_own_and_say_why() -> None:
    with patch.object(shared_reducer, "share_memory", side_effect=NotShared("no /proc (rank 1)")):
        found = choose({})
    line = "each worker keeps a copy of the weights: no /proc (rank 1)"
    assert found == [GradientReducer, GradientReducer, line, line]
