"""The interfaces and addresses of a host."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from distsent.distributed import network
from distsent.errors import HostError


@pytest.mark.parametrize(
    ("asked", "env", "chosen"),
    [
        ("", {}, []),
        ("ib0", {"HOROVOD_GLOO_IFACE": "eth0"}, ["ib0"]),
        ("", {"HOROVOD_GLOO_IFACE": "eth0", "NCCL_SOCKET_IFNAME": "ib"}, ["eth0"]),
        ("", {"GLOO_SOCKET_IFNAME": "eth0,ib0"}, ["eth0", "ib0"]),
        ("", {"NCCL_SOCKET_IFNAME": "ib"}, ["ib0", "ib1"]),
        ("", {"NCCL_SOCKET_IFNAME": "=ib1"}, ["ib1"]),
        ("", {"NCCL_SOCKET_IFNAME": "^docker,lo"}, ["eth0", "ib0", "ib1"]),
        ("", {"GLOO_SOCKET_IFNAME": "gone0"}, []),
        ("ib1,eth0", {}, ["eth0", "ib1"]),
    ],
)
def test_the_interface(asked: str, env: dict[str, str], chosen: list[str]) -> None:
    present = ["lo", "eth0", "ib0", "ib1", "docker0"]
    assert network.chosen_interfaces(asked, present, env) == chosen
    with pytest.raises(HostError, match=r"run.interface = 'ib7': \S+ has no such.*it has lo, eth0"):
        network.chosen_interfaces("ib7", present, env)


def has(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> None:
    family = {True: socket.AF_INET6, False: socket.AF_INET}
    found = {
        name: [SimpleNamespace(family=family[":" in host], address=host) for host in some]
        for name, some in hosts.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)


def test_addresses_are_those_that_other_hosts_may_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"127.0.0.1", "127.0.1.1", "::1"} & {*network.addresses()}
    lo, eth0 = ["127.0.0.1", "::1"], ["fe80::1%eth0", "fd00::5", "10.0.0.5"]
    has(monkeypatch, lo=lo, eth0=eth0, nodelocaldns=["169.254.20.10"])
    assert network.addresses() == ["10.0.0.5", "fd00::5"]
    assert network.addresses(["eth0"]) == ["10.0.0.5", "fd00::5"]
    assert network.addresses(["lo"]) == [] and network.loopback() == "lo"
    has(monkeypatch, lo=lo, eth0=["169.254.7.7", "fe80::1%eth0"])  # two hosts and a cable
    assert network.addresses() == ["169.254.7.7"]


def test_the_interface_to_a_host_is_never_loopback() -> None:
    assert network.interface_to("127.0.0.1") is None
    assert [*map(network.interface_to, network.addresses())].count(None) == 0
