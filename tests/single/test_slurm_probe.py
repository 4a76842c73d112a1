"""The doctor's conclusions from the reports of SLURM tasks; tests/cluster tests the reports."""

import pytest

from distsent.runtime.slurm_probe import (
    INTERACTIVE,
    can_start_tasks,
    diagnose,
    has_hub_cache,
    parse_reports,
    report_task,
    run_command,
)


def report(host="a", **changed):
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    storage = {"writable": True, "shared": True, "cached": True}
    sound = {"host": host, "versions": versions, "cores": 8, "threads": 8, "size": 2, **storage}
    return sound | changed


def test_a_sound_allocation_passes_all_checks():
    lines = diagnose([report("a"), report("b")], 2, "pmix")
    assert {state for state, *_ in lines} == {"ok"}
    assert lines[0][2] == "2 on 2 nodes by srun --mpi=pmix; MPI sees 2"


@pytest.mark.parametrize(("fault", "state", "what", "found"), [
    ({"size": 1}, "fail", "tasks", "MPI sees 1, 2"),
    ({"size": "none: it aborts"}, "fail", "tasks", "it aborts"),
    ({"versions": {"python": "3.11.7", "torch": "2.12.0"}}, "fail", "versions",
     "torch 2.13.0 on a, 2.12.0 on b"),
    ({"threads": 16}, "warn", "cores per task", "b (16 threads, 8 cores)"),
    ({"writable": False, "shared": False}, "fail", "storage", "not writable on b"),
    ({"shared": False}, "fail", "shared disk", "not there on b"),
    ({"cached": False}, "warn", "hub cache", "empty on b"),
])  # fmt: skip
def test_each_fault_fails_one_check_with_its_node_and_a_fix(fault, state, what, found):
    bad = [
        line for line in diagnose([report("a"), report("b", **fault)], 2, "pmix") if line[0] != "ok"
    ]
    assert [line[:2] for line in bad] == [(state, what)]
    assert found in bad[0][2] and bad[0][3]


def test_without_any_task_the_error_of_srun_is_shown():
    (line,) = diagnose(
        [], 2, "pmi9", "srun: error: Couldn't find the specified plugin name for mpi/pmi9"
    )
    assert line[0] == "fail" and "pmi9" in line[2] and "--mpi=list" in line[3]


def test_reports_are_separated_from_other_output():
    lines = ("0: Welcome to the cluster!", '0: {"host": "a", "cores": 2}', '1: {"host": "b"}')
    output = "\n".join((*lines, '0: {"size": 2}', "srun: done\n"))
    assert parse_reports(output) == [{"host": "a", "cores": 2, "size": 2}, {"host": "b"}]
    assert parse_reports("Welcome to the cluster!\n") == []


def test_a_node_that_does_not_answer_is_named():
    (line,) = diagnose(
        [report("a.example.org"), report("b")],
        3,
        "pmix",
        "srun: error: c: task 2: Killed",
        ["a", "b", "c"],
    )
    assert (
        line[:3] == ("fail", "tasks", "no answer from c: srun: error: c: task 2: Killed")
        and line[3]
    )
    assert {
        state
        for state, *_ in diagnose([report("a.example.org"), report("b")], 2, "pmix", "", ["a", "b"])
    } == {"ok"}


def test_the_output_of_a_command_that_runs_too_long_is_kept():
    assert run_command(["sh", "-c", "echo here; exec sleep 60"], seconds=0.5) == (
        "here\n",
        "no end within 0.5 s",
    )
    assert run_command(["sh", "-c", "echo one >&2; echo two >&2"]) == ("", "one")
    assert (
        run_command(["no-such-command"])[0] == ""
        and "no-such-command" in run_command(["no-such-command"])[1]
    )


@pytest.mark.parametrize(("name", "folder"), [("HF_HOME", "home"), ("HF_HUB_CACHE", "home/hub")])
def test_an_empty_hub_cache_does_not_count(tmp_path, name, folder):
    env = {name: str(tmp_path / folder)}
    assert not has_hub_cache(env)
    (tmp_path / "home" / "hub").mkdir(parents=True)
    assert not has_hub_cache(env)
    (tmp_path / "home" / "hub" / "models--x--y").mkdir()
    assert has_hub_cache(env)
    assert not has_hub_cache(
        {"HF_HUB_CACHE": str(tmp_path / "elsewhere"), "HF_HOME": str(tmp_path / "home")}
    )


def test_a_task_reports_its_node(tmp_path):
    seen = report_task(
        tmp_path,
        tmp_path / "elsewhere",
        {"HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "3", "SLURM_CPUS_PER_TASK": "1"},
    )
    assert (seen["writable"], seen["shared"], seen["cached"], seen["threads"], seen["cores"]) == (
        True,
        False,
        False,
        3,
        1,
    )
    assert seen["versions"]["torch"]


@pytest.mark.parametrize(("env", "expected"), [
    ({}, False),
    ({"SLURM_JOB_ID": "1"}, True),
    ({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}, False),
    ({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": INTERACTIVE}, True),
])  # fmt: skip
def test_only_the_shell_of_an_allocation_can_start_tasks(env, expected):
    assert can_start_tasks(env) is expected
