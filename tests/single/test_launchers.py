"""From a launcher's variables to transport, rank and address, or a line that says what is wrong."""

from __future__ import annotations

import sys

import pytest

from distsent.distributed import launchers, slurm_nodes
from distsent.distributed.launchers import find_launch
from distsent.errors import HostError, UserError

Env = dict[str, str]
HOROVODRUN = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "1"}
HAND = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "5"}
TORCHRUN = HAND | {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
STEP = BATCH | {
    "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[2-3]",
}  # fmt: skip
PMIX, FORCED = STEP | {"PMIX_RANK": "1"}, {"DISTSENT_TRANSPORT": "torch"}
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}  # platforms set it
ONE_HOST = {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_NAMESPACE": "1"}


@pytest.mark.parametrize(
    ("env", "asked", "transport", "rank", "why"),
    [
        ({}, "auto", "none", 0, "no launcher"),
        ({}, "torch", "none", 0, "no launcher"),
        ({}, "horovod", "none", 0, "no launcher"),
        (HOROVODRUN, "auto", "horovod", 1, "horovodrun (HOROVOD_SIZE=4)"),
        (MPIRUN, "auto", "horovod", 1, "mpirun (OMPI_COMM_WORLD_SIZE=4)"),
        (STEP | MPIRUN, "auto", "horovod", 1, "mpirun (OMPI_COMM_WORLD_SIZE=4)"),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, "auto", "horovod", 1, "mpiexec (PMI_SIZE=4)"),
        (PMIX, "auto", "horovod", 1, "srun with PMI (SLURM_STEP_NUM_TASKS=4)"),
        (STEP, "auto", "torch", 1, "srun without PMI (SLURM_STEP_NUM_TASKS=4)"),
        (PMIX, "torch", "torch", 1, "srun with PMI (SLURM_STEP_NUM_TASKS=4), run.transport"),
        (PMIX | FORCED, "horovod", "torch", 1,
         "srun with PMI (SLURM_STEP_NUM_TASKS=4), DISTSENT_TRANSPORT"),
        (BATCH, "auto", "none", 0, "no launcher"),
        (TORCHRUN, "auto", "torch", 1, "torchrun (WORLD_SIZE=4)"),
        (HAND, "auto", "torch", 1, "RANK and MASTER_ADDR (WORLD_SIZE=4)"),
        (STEP | HAND, "auto", "torch", 1, "RANK and MASTER_ADDR (WORLD_SIZE=4)"),
        # torchrun gives ranks in another order than srun, which starts one per node.
        (PMIX | TORCHRUN | {"SLURM_STEP_NUM_TASKS": "2"}, "auto", "torch", 1,
         "torchrun (WORLD_SIZE=4)"),
        (TORCHRUN | MPIRUN, "torch", "torch", 1, "torchrun (WORLD_SIZE=4), run.transport"),
        (TORCHRUN | MPIRUN, "horovod", "horovod", 1, "mpirun (OMPI_COMM_WORLD_SIZE=4)"),
        (MPIRUN | ONE_HOST, "torch", "torch", 1, "mpirun (OMPI_COMM_WORLD_SIZE=4), run.transport"),
        (ALONE, "auto", "none", 0, "no launcher"),
        (ALONE | MPIRUN, "auto", "horovod", 1, "mpirun (OMPI_COMM_WORLD_SIZE=4)"),
        (ALONE | STEP, "auto", "torch", 1, "srun without PMI (SLURM_STEP_NUM_TASKS=4)"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "5"}, "auto", "none", 0, "no launcher"),
        ({"WORLD_SIZE": "4"} | MPIRUN, "auto", "horovod", 1, "mpirun (OMPI_COMM_WORLD_SIZE=4)"),
    ],
)  # fmt: skip
def test_the_launcher_decides(env: Env, asked: str, transport: str, rank: int, why: str) -> None:
    found = find_launch(env, asked)
    assert (found.transport, found.rank, found.why) == (transport, rank, why)
    assert (found.address is not None) == (transport == "torch")
    assert launchers.is_main_process(env) == (rank == 0)


@pytest.mark.parametrize(
    ("env", "asked", "words"),
    [
        (HAND | MPIRUN, "auto", "OMPI_COMM_WORLD_SIZE=4 and WORLD_SIZE=4: variables of two"),
        (TORCHRUN | HOROVODRUN, "auto", "HOROVOD_SIZE=4 and WORLD_SIZE=4: variables of two"),
        (ALONE | TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"} | MPIRUN, "auto", "two launchers"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "auto", "RANK=1 WORLD_SIZE=2 without MASTER_ADDR"),
        ({"RANK": "1"}, "auto", "RANK=1 without WORLD_SIZE and MASTER_ADDR"),
        ({"WORLD_SIZE": "2"}, "auto", "WORLD_SIZE=2 without RANK and MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": ""}, "auto", "without MASTER_ADDR"),
        (HAND | {"RANK": "4"}, "auto", "RANK=4 with WORLD_SIZE=4: ranks are 0 to"),
        (HAND | {"RANK": "one"}, "auto", "RANK='one': expected a number"),
        (HAND | {"WORLD_SIZE": "-1"}, "auto", "WORLD_SIZE='-1': expected a number"),
        (HAND | {"MASTER_PORT": "http"}, "auto", "MASTER_PORT='http': expected a number"),
        (HAND | {"MASTER_PORT": "65536"}, "auto", "MASTER_PORT=65536: expected a port, 1 to"),
        (HAND | {"MASTER_PORT": "0"}, "auto", "MASTER_PORT=0: expected a port, 1 to 65535"),
        (STEP | HAND | {"RANK": "0"}, "auto", "but srun started rank 1 of 4"),
        (STEP | HAND | {"WORLD_SIZE": "2"}, "auto", "RANK=1 WORLD_SIZE=2, but srun started"),
        (STEP | TORCHRUN | {"WORLD_SIZE": "2"}, "auto", "with torchrun: give it --nnodes"),
        (TORCHRUN, "horovod", "run.transport = horovod, but WORLD_SIZE=4 is no launcher of it"),
        (STEP, "horovod", "--mpi=pmix"),
        (MPIRUN, "torch", "run.transport: torch's transport needs MASTER_ADDR"),
        ({"DISTSENT_TRANSPORT": "nccl"}, "auto", 'expected "auto", "horovod" or "torch"'),
    ],
)
def test_what_contradicts_or_is_incomplete_is_one_line_with_the_fix(
    env: Env, asked: str, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        find_launch(env, asked)
    (line,) = caught.value.lines
    assert words in line and any(
        fix in line for fix in ("set ", "use ", "correct", "expected", "--")
    )
    assert isinstance(launchers.is_main_process(env), bool)


def test_a_rank_that_cannot_be_is_not_left_to_a_rank_0_to_say() -> None:
    for wrong in ({"RANK": "4"}, {"RANK": "one"}):
        with pytest.raises(HostError):
            find_launch(HAND | wrong)
        assert launchers.is_first_on_host(HAND | wrong | {"LOCAL_RANK": "0"})


@pytest.mark.parametrize(
    ("env", "address"),
    [
        (HAND, ("a", 5)),
        ({**HAND, "MASTER_PORT": ""}, ("a", 29500)),
        (STEP | {"MASTER_ADDR": "b", "MASTER_PORT": "6"}, ("b", 6)),
    ],
)
def test_workers_meet_at_the_given_address(env: Env, address: tuple[str, int]) -> None:
    assert find_launch(env).address == address


def test_under_srun_workers_meet_on_the_first_node_at_a_port_of_their_own() -> None:
    starts = [STEP, STEP | {"SLURM_PROCID": "3"}, STEP | {"SLURM_STEP_ID": "1"},
              STEP | {"SLURM_RESTART_COUNT": "1"}, STEP | {"SLURM_JOB_ID": "8"}]  # fmt: skip
    addresses = [find_launch(env).address for env in starts]
    assert addresses[0] == addresses[1] and len(set(addresses)) == 4
    assert {host for host, _ in filter(None, addresses)} == {"node2"}
    assert all(10_000 <= port < 30_000 for _, port in filter(None, addresses))


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("node1", "node1"),
        ("node[1-3,7]", "node1 node2 node3 node7"),
        ("b,a[09-11]", "b a09 a10 a11"),
        ("r[1-2]n[01-02],gpu-3.example.org", "r1n01 r1n02 r2n01 r2n02 gpu-3.example.org"),
    ],
)
def test_node_lists_are_expanded(nodes: str, hosts: str) -> None:
    assert list(slurm_nodes.hosts_of(nodes)) == hosts.split()


@pytest.mark.parametrize(
    ("tasks", "more", "hosts"),
    [
        ("2(x2),1", {}, "n1 n1 n2 n2 n3"),
        ("1(x3)", {"SLURM_DISTRIBUTION": "block:cyclic"}, "n1 n2 n3"),
        ("2(x3)", {"SLURM_DISTRIBUTION": "cyclic"}, ""),
        ("", {}, ""),
    ],
)
def test_the_hosts_of_slurm_tasks(tasks: str, more: dict[str, str], hosts: str) -> None:
    env = {"SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_TASKS_PER_NODE": tasks, **more}
    assert slurm_nodes.hosts_of_tasks(env) == hosts.split()


def test_horovod_asked_for_and_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distsent.distributed.horovod", None)
    monkeypatch.delattr("distsent.distributed.horovod", raising=False)
    with pytest.raises(HostError, match=r"4 workers, but Horovod cannot be imported .* torchrun"):
        launchers.init_world(env=PMIX)
