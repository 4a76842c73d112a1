"""The doctor's checks on faults, and the program itself."""

import json

import pytest

from distsent import doctor
from distsent.doctor import FAIL, OK, WARN

TORCH = {"version": "2.13.0", "cuda": None, "threads": 2, "devices": []}
HOROVOD = {"version": "0.28.1", "MPI": True, "Gloo": True, "NCCL": False}
MPI4PY = {"version": "4.1.2", "library": "Open MPI v4.1.8"}
BROKEN = {"error": "ImportError: undefined symbol", "missing": False}
MISSING = {"error": "ModuleNotFoundError: No module named 'x'", "missing": True}
OPEN_MPI_4, OPEN_MPI_5 = (
    "mpirun (Open MPI) 4.1.8\n\nReport bugs",
    "mpirun (Open MPI) 5.0.7\n\nReport bugs",
)
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4"}
STEP = {
    "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "4",
    "SLURM_STEP_NODELIST": "node1",
}  # fmt: skip
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"
}  # fmt: skip
GIB = 2**30


@pytest.mark.parametrize(
    ("check", "state", "words"),
    [
        (doctor.check_version("Python", "3.11.7", "3.11"), OK, "3.11.7"),
        (doctor.check_version("Python", "3.9.2", "3.11"), FAIL, "3.11 or newer"),
        (doctor.check_version("datasets", "", "4.0"), FAIL, "not installed"),
        (doctor.check_torch(TORCH, 0), OK, "2 threads"),
        (doctor.check_torch(BROKEN, 0), FAIL, "undefined symbol"),
        (doctor.check_torch(TORCH, 1), WARN, "DEVICE=cuda"),
        (doctor.check_torch(TORCH | {"cuda": "13.0"}, 1), WARN, "CUDA_VISIBLE_DEVICES"),
        (doctor.check_torch(TORCH | {"cuda": "13.0", "devices": ["H200"]}, 1), OK, "H200"),
        (doctor.check_horovod(HOROVOD, 0), OK, "MPI, Gloo"),
        (doctor.check_horovod(HOROVOD, 1), WARN, "CUDA toolkit"),
        (doctor.check_horovod(HOROVOD | {"NCCL": True}, 1), OK, "NCCL"),
        (doctor.check_horovod(HOROVOD | {"MPI": False}, 0), WARN, "--gloo"),
        (
            doctor.check_horovod(HOROVOD | {"MPI": False, "Gloo": False}, 0),
            FAIL,
            "cannot communicate",
        ),
        (doctor.check_horovod(MISSING, 0), WARN, "torch's transport"),
        (doctor.check_horovod(BROKEN, 0), FAIL, "another torch"),
        (doctor.check_combination("0.28.1", "2.13.0+cpu", "3.11.7"), OK, "2.13.0+cpu"),
        (doctor.check_combination("0.28.1", "2.15.0", "3.11.7"), WARN, "not tried together"),
        (doctor.check_combination("0.28.1", "2.13.0", "3.14.1"), WARN, "Python 3.14.1"),
        (doctor.check_mpirun(OPEN_MPI_4, {}), OK, "4.1.8"),
        (doctor.check_mpirun(OPEN_MPI_5, {}), WARN, "Open MPI 4.1"),
        (
            doctor.check_mpirun(OPEN_MPI_5, {"OMPI_MCA_orte_default_hostfile": "x"}),
            FAIL,
            "ignores OMPI_MCA_orte_default",
        ),
        (doctor.check_mpirun("HYDRA build details:", {}), WARN, "HYDRA"),
        (doctor.check_mpirun("", {}), WARN, "not in PATH"),
        (doctor.check_mpi4py(MPI4PY, OPEN_MPI_4), OK, "v4.1.8"),
        (doctor.check_mpi4py(MPI4PY, OPEN_MPI_5), WARN, "another MPI"),
        (doctor.check_mpi4py(MPI4PY, ""), OK, "v4.1.8"),
        (doctor.check_mpi4py(MISSING, ""), WARN, "make setup"),
        (doctor.check_mpi4py(BROKEN, ""), FAIL, "undefined symbol"),
        (doctor.check_host_name("localhost"), OK, "localhost"),
        (doctor.check_host_name("no-such.invalid"), WARN, "no-such.invalid, does not resolve"),
        (doctor.check_host_name("192.0.2.1"), WARN, "is 192.0.2.1, no address of this host"),
        (doctor.check_cores(8, None, "", 4), OK, "8 usable"),
        (doctor.check_cores(8, None, "2", 4), OK, "8 usable"),
        (doctor.check_cores(8, 2, "8", 1), WARN, "OMP_NUM_THREADS=2"),
        (doctor.check_cores(8, None, "8", 4), WARN, "OMP_NUM_THREADS=2"),
        (doctor.check_cores(2, None, "", 4), OK, "2 usable"),
        (doctor.check_cores(8, None, "many", 1), FAIL, "number of threads"),
        (doctor.check_cores(8, None, "0", 1), FAIL, "number of threads"),
        (doctor.check_space("shm", "in /dev/shm", 2 * GIB, 1, "more"), OK, "2.0 GiB"),
        (doctor.check_space("shm", "in /dev/shm", 64 * 2**20, 1, "more"), WARN, "0.1 GiB"),
        (
            doctor.check_space("runs", "free in /runs", 0, 2, "another run.dir"),
            FAIL,
            "not writable",
        ),
        (doctor.check_hub({}, False), OK, "online"),
        (doctor.check_hub({"HF_HUB_OFFLINE": "1", "HF_HOME": "/hub"}, True), OK, "offline"),
        (doctor.check_hub({"HF_HUB_OFFLINE": "1"}, False), WARN, "cache is empty"),
        (doctor.check_launcher({}), OK, "none"),
        (
            doctor.check_launcher(OPEN_MPI | {"HOROVOD_SIZE": "4"}),
            OK,
            "horovodrun (HOROVOD_SIZE=4)",
        ),
        (doctor.check_launcher(OPEN_MPI | {"HOROVOD_SIZE": "2"}), FAIL, "nested launchers"),
        (doctor.check_launcher({"SLURM_NTASKS": "4"}), WARN, "start workers with srun"),
        (doctor.check_launcher(STEP), OK, "srun without PMI (SLURM_STEP_NUM_TASKS=4): 4 workers"),
        (doctor.check_launcher(STEP | {"PMIX_RANK": "1"}), OK, "4 workers over horovod"),
        (doctor.check_launcher(OPEN_MPI | {"SLURM_NTASKS": "8"}), OK, "mpirun"),
        (doctor.check_launcher(TORCHRUN), OK, "torchrun (WORLD_SIZE=2): 2 workers over torch"),
        (doctor.check_launcher(TORCHRUN | OPEN_MPI), FAIL, "two launchers at once"),
    ],
)
def test_a_fault_is_found_with_its_fix(check, state, words):
    assert check.state == state
    assert words in f"{check.found} -> {check.fix}"
    assert state == OK or check.fix


def test_a_library_that_aborts_its_process_is_reported(monkeypatch):
    monkeypatch.setitem(doctor.PROBES, "torch", "import os; os.abort()")
    assert doctor.check_torch(doctor.probe_library("torch"), 0).state == FAIL


def test_a_missing_library_is_reported(monkeypatch):
    monkeypatch.setitem(doctor.PROBES, "horovod", "import no_such_library")
    assert doctor.check_horovod(doctor.probe_library("horovod"), 0).found.startswith(
        "not installed"
    )


def test_every_line_of_the_table_is_also_in_json(monkeypatch, capsys):
    checks = [
        doctor.Check(OK, "torch", "2.13.0", ""),
        doctor.Check(FAIL, "Horovod", "broken", "make setup"),
    ]
    monkeypatch.setattr(doctor, "run_checks", lambda run_dir: checks)
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.splitlines()[1] == "fail  Horovod        broken  ->  make setup"
    assert doctor.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [each._asdict() for each in checks]
    monkeypatch.setattr(doctor, "run_checks", lambda run_dir: checks[:1])
    assert doctor.main([]) == 0


def test_this_machine_can_be_checked(tmp_path):
    checks = doctor.run_checks(tmp_path / "not" / "yet")
    assert [each.what for each in checks][:4] == ["Python", "torch", "Horovod", "mpirun"]
    assert not [
        each for each in checks if each.state == FAIL and each.what in ("Python", "torch", "runs")
    ]
