"""torch's transport: workers meet, exchange, and notice when they are in different collectives."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from torch.distributed import Store, TCPStore

from distsent.distributed import rendezvous, torch_world
from distsent.distributed.launchers import Launch
from distsent.distributed.rendezvous import MEETING, Member, meet, this_member
from distsent.distributed.torch_world import has_own_gpus
from distsent.errors import HostError, Stopped, UserError
from distsent.runtime import run_folder
from distsent.runtime.run_folder import RunFolder
from tests import launcher

NO_STOPS: Mapping[int, Callable[[], str | None]] = MappingProxyType({})


@pytest.fixture
def store() -> Store:
    """As torchrun's agent keeps it: over several starts of the workers."""
    return TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), False)


def met(
    store: Store,
    ranks: list[int],
    size: int,
    patience: float = 20.0,
    stops: Mapping[int, Callable[[], str | None]] = NO_STOPS,
) -> list[Any]:
    """What workers in threads get from `meet`, each through a connection of its own.

    `stops`: by rank, why a stop is requested.
    """
    found: list[Any] = [None] * len(ranks)

    def run(i: int) -> None:
        rank, stop = ranks[i], stops.get(ranks[i], lambda: None)
        own = TCPStore("127.0.0.1", store.port, None, False, timedelta(seconds=30), False)
        try:
            found[i] = meet(own, this_member(rank, 0), size, patience, stop)[0]
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_workers_meet_again_in_a_store_that_holds_their_last_start(store: Store) -> None:
    for _ in range(3):  # torchrun --max-restarts with a fixed address keeps its store
        found = met(store, [2, 0, 1], 3)
        assert all([each.rank for each in members] == [0, 1, 2] for members in found), found
    late = threading.Thread(target=lambda: time.sleep(1.0) or late_found.extend(met(store, [0], 2)))
    late_found: list[Any] = []
    late.start()  # rank 0 of the next start comes after rank 1, which sees the old meeting first
    (second,) = met(store, [1], 2)
    late.join()
    assert second == late_found[0] and len(second) == 2


def test_who_is_missing_is_named_by_all_that_are_there(store: Store) -> None:
    first, third = met(store, [0, 2], 4, patience=1.0)
    for error in (first, third):
        assert isinstance(error, UserError) and error.code == 1
        assert "2 of 4 workers did not come within 1 s: rank 1, 3; the others are on" in str(error)


def test_without_rank_0_each_host_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (error,) = met(store, [1], 2, patience=-9.0)
    assert isinstance(error, HostError) and "rank 0 has not come" in str(error)


@pytest.mark.parametrize("asked", [0, 1])
def test_a_stop_request_is_heard_while_workers_meet(store: Store, asked: int) -> None:
    def stop() -> str | None:  # it comes when both wait for rank 2
        both = store.check([MEETING]) and store.check([f"{store.get(MEETING).decode()}/1"])
        return "SIGUSR1" if both else None

    for error in met(store, [0, 1], 3, stops={asked: stop}):
        why = "SIGUSR1 on rank 1" if asked else "SIGUSR1"
        assert isinstance(error, Stopped) and f"stop requested: {why}, before all" in str(error)
    found = met(store, [1, 0], 2)
    assert all(len(members) == 2 for members in found), "it is no request to the next start"


def test_a_worker_that_no_rank_0_would_hear_stops_by_itself(store: Store) -> None:
    for _ in range(2):
        (error,) = met(store, [1], 2, stops={1: lambda: "SIGTERM"})
        assert isinstance(error, Stopped)
        met(store, [0, 1], 2)  # what an earlier start has left is no rank 0
    launch = Launch("torch", 1, 2, address=("127.0.0.1", 9))
    with pytest.raises(Stopped, match="stop requested: SIGTERM"):
        rendezvous.open_store(launch, 60.0, lambda: "SIGTERM")


def test_the_end_of_rank_0_ends_the_wait() -> None:
    servers = [TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), False)]
    own = TCPStore("127.0.0.1", servers[0].port, None, False, timedelta(seconds=30), False)
    looks: list[int] = []

    def end_at_the_third_look() -> None:
        looks.append(1)
        if len(looks) == 3:
            servers.clear()

    with pytest.raises(HostError, match="rank 0 or its launcher ended while workers met") as error:
        meet(own, this_member(1, 0), 2, 60.0, end_at_the_third_look)
    assert len(looks) == 3 and error.value.code == 1 and len(error.value.lines) == 1


def member(rank: int, machine: str, *addresses: str, gpus: int = 0) -> Member:
    return Member(rank, machine, machine, list(addresses), gpus, "")


def test_the_interface_leads_to_other_hosts_and_is_loopback_only_without_them() -> None:
    me = member(0, "a")
    assert rendezvous.choose_interface([me, member(1, "a")], me) == "lo"
    with pytest.raises(HostError, match=r"no network leads to b \(it has no address\)"):
        rendezvous.choose_interface([me, member(1, "b")], me)


def test_a_bridge_that_every_host_has_leads_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {"172.17.0.1": "docker0", "fd00::5": "eth0", "fd00::6": "eth0"}
    monkeypatch.setattr(rendezvous.network, "interface_to", routes.get)
    me = member(0, "a", "172.17.0.1", "fd00::5")
    other, sibling = member(1, "b", "172.17.0.1", "fd00::6"), member(2, "c", *me.addresses)
    assert rendezvous.choose_interface([me, other], me) == "eth0"
    assert rendezvous.choose_interface([me, sibling, other], me) == "eth0"
    assert rendezvous.choose_interface([me, sibling], me), "two containers in one network"


def test_a_network_that_is_named_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [member(0, "a"), member(1, "b")]  # without an address
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # put back at the end
    monkeypatch.setattr(torch_world, "open_store", lambda *_: None)
    monkeypatch.setattr(torch_world, "meet", lambda *_: (members, None))
    monkeypatch.setattr(torch_world.dist, "init_process_group", lambda *_, **__: None)
    world = torch_world.init(Launch("torch", 0, 2), "lo", 1.0, lambda: None)
    assert (world.size, os.environ["GLOO_SOCKET_IFNAME"]) == (2, "lo")


def test_an_address_that_does_not_answer_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    launch = Launch("torch", 1, 2, address=("127.0.0.1", 9))
    with pytest.raises(HostError, match=r"rank 0 does not answer at 127.0.0.1, port 9, w"):
        rendezvous.open_store(launch, 1.0)
    assert capfd.readouterr().err == "", "torch prints nothing"


def test_rank_0_reaches_its_own_store_where_its_name_leads_nowhere() -> None:
    launch = Launch("torch", 0, 2, address=("rank-0.invalid", 0))
    store = rendezvous.open_store(launch, 5.0)
    assert store.port and not store.check([MEETING])


@pytest.mark.parametrize(
    ("gpus", "own"), [([0, 0], False), ([2, 2], True), ([1, 1], True), ([2, 0], False)]
)
def test_nccl_needs_a_gpu_per_worker(gpus: list[int], own: bool) -> None:
    assert has_own_gpus([member(i, "a", gpus=n) for i, n in enumerate(gpus)]) is own


EXCHANGE = """
import os, sys, torch
from distsent.distributed.launchers import init_world
world = init_world(patience=60)
size, rank = world.size, world.rank
long = ["x" * (10_000 * r) for r in range(size)]  # some longer than one part
assert world.allgather_object(long[rank], "long") == long
assert world.allgather_object({"é": None}, "short") == [{"é": None}] * size
for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8):
    assert world.allreduce(torch.full((7,), rank + 1, dtype=dtype), "sum").tolist() == [6] * 7
    assert world.broadcast(torch.full((3,), rank, dtype=dtype), "copy", 2).tolist() == [2] * 3
assert (world.local_rank, world.local_size) == (rank, size)
handles = [world.allreduce_async(torch.ones(100_000), f"part.{i}") for i in range(4)]
for handle in handles:
    world.wait(handle)
world.barrier()
os.write(1, b"exchanged\\n")
if rank == 1:
    world.allreduce_async(torch.ones(5), "gradient.2")  # this worker has skipped one
else:
    world.wait(world.allreduce_async(torch.ones(5), "gradient.1"))
"""


def test_values_cross_and_a_skipped_collective_is_no_wrong_sum(tmp_path: Path) -> None:
    program = tmp_path / "exchange.py"
    program.write_text(EXCHANGE)
    ended = launcher.run(str(program), np=3, transport="torch", timeout=120)
    assert ended.output.count("exchanged") == 3 and ended.code == 1, ended.output
    line = "it enters the collective 'gradient.2', rank 0 'gradient.1'"
    assert f"CollectiveMismatch: {line}" in ended.output


def test_workers_that_torchrun_starts_again_wait_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [RunFolder(tmp_path), RunFolder(tmp_path)]
    folders[0].create()
    folders[0].lock()
    monkeypatch.setattr(run_folder, "RESTART_PATIENCE", 20.0)
    with pytest.raises(UserError):
        folders[1].lock()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ending = threading.Timer(1.0, folders[0].unlock)
    ending.start()
    folders[1].lock()
    folders[1].unlock()
