"""The workers of torch's transport find each other: who is here, on which host, by which network.

Rank 0, or torchrun's agent, serves a small store at MASTER_ADDR. Every worker writes there who it
is; rank 0 reads all, and tells everybody that the world is complete or who is missing. An agent's
store may still hold what workers of an earlier start wrote: `--max-restarts` starts all of them
again. So rank 0 gives each meeting a new name, and each worker looks for itself in the result.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from distsent.distributed import network
from distsent.errors import FAILED, HostError, Stopped, UserError

if TYPE_CHECKING:
    from torch.distributed import PrefixStore, Store, TCPStore

    from distsent.distributed.launchers import Launch

MEETING = "distsent.meeting"  # the key of the meeting's name
# Seconds between two looks into the store. torch's own wait prints a warning whenever its time is
# over, and hears nothing else meanwhile.
POLL = 0.1
PER_SECOND = 2000  # looks of all other workers together, which rank 0 answers: more look less often
LINGER = 2.0  # seconds for the others to read a bad result: the store may end with rank 0
Stop = Callable[[], str | None]  # why a stop is requested; None: it is not


@dataclass(frozen=True)
class Member:
    """What a worker tells about itself."""

    rank: int
    host: str
    machine: str  # equal for workers that see each other
    addresses: list[str]
    gpus: int
    token: str  # drawn by this process


@dataclass(frozen=True)
class Result:
    """What rank 0 tells everybody. `problem`: who is missing; `stop`: why a stop is requested."""

    members: list[dict[str, Any]]
    problem: str = ""
    stop: str = ""


def this_member(rank: int, gpus: int) -> Member:
    host, token = socket.gethostname(), secrets.token_hex(8)
    return Member(rank, host, network.machine(), network.addresses(), gpus, token)


def open_store(launch: Launch, patience: float, stop: Stop = lambda: None) -> TCPStore:
    """The store at the launch's address.

    Raises HostError if it does not answer in time, Stopped at a stop request before that.
    """
    from torch.distributed import DistError, TCPStore

    assert launch.address is not None
    host, port = launch.address
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = launch.rank == 0 and not agent
    until, wait = time.monotonic() + patience, timedelta(seconds=min(patience, 30.0))
    while True:  # a new pod's name may not resolve yet
        try:
            if not serves:  # torch would print pages about an address that does not answer
                socket.create_connection((host, port), wait.total_seconds()).close()
            # Rank 0 reaches itself, whatever the others need to reach it.
            at = "127.0.0.1" if serves else host
            return TCPStore(at, port, None, serves, wait, False, multi_tenant=not agent)
        except (DistError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:160]
        if serves:
            problem = f"rank 0 cannot listen on port {port}: {reason}"
            raise HostError(f"{problem}; set another MASTER_PORT", code=FAILED)
        if why := stop():
            raise stopped(why)  # nobody is there to be told
        if time.monotonic() >= until:
            server = "torchrun's first node" if agent else "rank 0"
            problem = f"{server} does not answer at {host}, port {port}, within {patience:g} s"
            fix = "start all nodes, and check MASTER_ADDR, MASTER_PORT and firewalls"
            raise HostError(f"rank {launch.rank}: {problem}: {fix}", code=FAILED)
        time.sleep(1.0)


def stopped(why: str) -> Stopped:
    return Stopped(
        f"stop requested: {why}, before all workers had come; run the same command again"
    )


def meet(
    store: Store, me: Member, size: int, patience: float, stop: Stop = lambda: None
) -> tuple[list[Member], PrefixStore]:
    """All workers, in the order of their ranks, and a part of the store for them alone.

    Raises UserError with the missing ranks, or Stopped at a stop request on any worker, on all
    workers that are there; HostError without rank 0.
    """
    from torch.distributed import DistNetworkError, PrefixStore

    try:
        if me.rank == 0:
            meeting = me.token
            store.set(f"{meeting}/0", json.dumps(asdict(me)))
            store.set(MEETING, meeting)
            result = _gather(store, meeting, size, patience, stop)
            store.set(f"{meeting}/result", json.dumps(asdict(result)))
        else:
            pause = min(1.0, max(POLL, size / PER_SECOND))
            meeting, result = _attend(store, me, patience, stop, pause)
    except DistNetworkError as error:  # the process that kept the store is gone for good
        problem = f"rank {me.rank} on {me.host}: rank 0 or its launcher ended while workers met"
        reason = str(error).splitlines()[0][:160]
        raise HostError(f"{problem} ({reason}); look at its log", code=FAILED) from None
    if result.stop or result.problem:
        time.sleep(0.0 if me.rank else LINGER)
        raise stopped(result.stop) if result.stop else UserError(result.problem, code=FAILED)
    return [Member(**each) for each in result.members], PrefixStore(meeting, store)


def _attend(
    store: Store, me: Member, patience: float, stop: Stop, pause: float
) -> tuple[str, Result]:
    """On other ranks: the meeting's name and result. `pause`: seconds between two looks."""
    until = time.monotonic() + patience + 10.0  # rank 0 names the missing ones first
    told, own = dict[str, str](), json.dumps(asdict(me))  # what this worker wrote, by key
    while time.monotonic() < until:
        meeting, why = "", stop()
        if store.check([MEETING]):
            meeting = store.get(MEETING).decode()
            says = {f"{meeting}/{me.rank}": own}
            says |= {f"{meeting}/stop": f"{why} on rank {me.rank}"} if why else {}
            for key in says.keys() - told.keys():
                store.set(key, says[key])
            told |= says
            if store.check([f"{meeting}/result"]):
                result = Result(**json.loads(store.get(f"{meeting}/result")))
                if any(each["token"] == me.token for each in result.members):
                    return meeting, result
                meeting = ""  # of an earlier start
        if why and not meeting:
            raise stopped(why)  # no rank 0 is there to be told
        time.sleep(pause)
    problem = f"rank {me.rank} on {me.host}: rank 0 has not come within {patience + 10:g} s"
    raise HostError(f"{problem}, or has left; look at its log", code=FAILED)


def _gather(store: Store, meeting: str, size: int, patience: float, stop: Stop) -> Result:
    """On rank 0: all that are there, and why that is not enough."""
    keys, until = [f"{meeting}/{rank}" for rank in range(size)], time.monotonic() + patience
    why: str | None = None
    while not (complete := store.check(keys)) and not why and time.monotonic() < until:
        time.sleep(POLL)
        told = store.check([f"{meeting}/stop"])
        why = store.get(f"{meeting}/stop").decode() if told else stop()
    missing = [] if complete else [rank for rank in range(size) if not store.check([keys[rank]])]
    there = [json.loads(store.get(key)) for rank, key in enumerate(keys) if rank not in missing]
    if not missing or why:
        return Result(there, stop=(why or "") if missing else "")
    hosts = ", ".join(dict.fromkeys(each["host"] for each in there))
    ranks = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
    problem = f"{len(missing)} of {size} workers did not come within {patience:g} s: rank {ranks}"
    fix = "look at the missing ones' nodes and logs"
    return Result(there, f"{problem}; the others are on {hosts}; {fix}")


def choose_interface(members: list[Member], me: Member) -> str:
    """The network interface that leads to workers on other hosts; loopback if there are none."""
    away = [each for each in members if each.machine != me.machine]
    if not away:
        return network.loopback()
    # Each host may have a bridge of its own at the same address, which leads to nobody: last.
    found = dict.fromkeys(address for each in away for address in each.addresses)
    for address in sorted(found, key=lambda address: address in me.addresses):
        if name := network.interface_to(address):
            return name
    where = f"{away[0].host} ({', '.join(away[0].addresses)[:80] or 'it has no address'})"
    raise HostError(f"{me.host}: no network leads to {where}: set run.interface", code=FAILED)
