"""torchrun on two hosts: one is lost, the other one starts again alone and resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from patience import wait_for
from slurm_cluster import NODES, ROOT, Cluster
from slurm_job import DEMO

TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1",
    "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-endpoint=node1:29400",
    "--rdzv-conf=last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=5",
    "-m", "distsent.train",
)  # fmt: skip

STEPS = 400
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(slurm_cluster.missing() is not None, reason=str(slurm_cluster.missing())),
]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "hosts", slurm=False) as cluster:
        yield cluster


def start(cluster: Cluster, name: str, *words: str) -> subprocess.Popen[bytes]:
    command = [*cluster.hosts[name].enter, "env", f"--chdir={ROOT}", *TORCHRUN, *words]
    here = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with open(cluster.home / f"{name}.out", "wb") as output:
        return subprocess.Popen(command, env=cluster.env | here, stdout=output, stderr=output)


def test_a_lost_node_ends_the_start_and_the_next_one_resumes(hosts: Cluster) -> None:
    # Debian's /etc/hosts gives a host's own name a loopback address, which no other host reaches.
    text = (hosts.home / "hosts").read_text()
    mine = text.replace(f"{slurm_cluster.HOSTS['node2']} node2", "127.0.1.1 node2")
    (hosts.home / "hosts.node2").write_text(mine)
    hosts.hosts["node2"].run("mount", "--bind", f"{hosts.home}/hosts.node2", "/etc/hosts")
    run = hosts.home / "runs" / "two"
    words = [*but_longer(DEMO), f"run.dir={run.parent}", "job.name=two", "run.stall_seconds=8"]
    nodes = {name: start(hosts, name, *words) for name in NODES}

    def outputs() -> str:
        return "\n".join((hosts.home / f"{name}.out").read_text() for name in NODES)

    def saved() -> bool:
        assert all(node.poll() is None for node in nodes.values()), outputs()
        return any((run / "checkpoints").glob("step-*[1-9]0"))

    try:
        wait_for("a checkpoint", saved, 240, outputs)
        hosts.connect("node2", False)
        wait_for("the end", lambda: nodes["node1"].poll() is not None, 300, outputs)
    finally:
        for process in nodes.values():
            process.kill()
    assert nodes["node1"].returncode == 0, outputs()
    assert "transport: torch over Gloo, started by torchrun (WORLD_SIZE=2)" in outputs()
    log = (hosts.home / "node1.out").read_text()
    assert "resumed at step" in log, log
    assert "saved by 2 workers (transport: torch over Gloo), continued by 1" in log
    result = json.loads((run / "result.json").read_text())
    assert (result["steps"], result["world_size"]) == (STEPS, 1)


def but_longer(words: tuple[str, ...]) -> list[str]:
    """Long enough for the cable to be pulled out on the way."""
    return [word for word in words if "max_steps" not in word] + [f"train.max_steps={STEPS}"]
