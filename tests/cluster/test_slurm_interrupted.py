"""The job scripts on a real SLURM cluster: time limits, preemption, lost workers and nodes."""

from __future__ import annotations

import re

import pytest
from patience import wait_for
from slurm_cluster import NODES, Cluster
from slurm_job import DEMO, ENDED, ENDLESS, MARKS, Job

pytestmark = MARKS

# SLURM must notice a dead node soon. In other tests a busy machine must not make one look dead.
nodes_may_die = pytest.mark.parametrize(
    "cluster", [{"patience": 15}], indirect=True, ids=["nodes-may-die"]
)


def test_a_time_limit_saves_and_requeues_and_scancel_ends_for_good(cluster: Cluster) -> None:
    cluster.hold.at(8)
    job = Job(cluster, "imdb.sh", *DEMO, ENDLESS, options="--time=60 --signal=B:USR1@100")
    job.wait_for_line(r"\bstep 8/")
    job.wait_for_checkpoint()
    hours, minutes, seconds = map(int, job["RunTime"].split(":"))

    def limit(minutes: int) -> None:
        cluster.run("scontrol", "update", f"JobId={job.id}", f"TimeLimit={minutes}")

    # 45 to 105 seconds are left then: SLURM checks every 30 seconds, and warns at the next check.
    job.stop(lambda: limit(hours * 60 + minutes + (seconds + 45) // 60 + 1))
    limit(60)
    saved = job.wait_for_line(r"slurm: stopped: .*saved after step (\d+) of")[1]
    assert job.wait_for_line(r"resumed at step (\d+) of")[1] == saved
    assert job["Restarts"] == "1" and job["Comment"] == ""
    job.wait_for_line(rf"\bstep {int(saved) + 2}/")
    cluster.run("scancel", job.id)
    log = job.end("CANCELLED", restarts=1)
    wait_for(
        "both nodes are free",
        lambda: all(cluster.node_state(name) == "idle" for name in NODES),
        120,
    )
    assert job["JobState"] == "CANCELLED"
    assert len(re.findall("saved after step", log)) >= 2
    assert not [
        line
        for name in NODES
        for line in cluster.hosts[name].processes().values()
        if "distsent.train" in line
    ]


@pytest.mark.parametrize("launcher", ["srun", "horovodrun"])
def test_preemption_does_not_count_as_a_failure(cluster: Cluster, launcher: str) -> None:
    """SLURM signals steps and not the script. The workers of horovodrun are not a step."""
    cluster.hold.at(8)
    job = Job(cluster, "imdb.sh", *DEMO, RETRIES="0", LAUNCHER=launcher)
    job.wait_for_line(r"\bstep 8/40")
    urgent = [
        "sbatch",
        "--partition=urgent",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--output=/dev/null",
    ]
    other: list[str] = []
    job.stop(lambda: other.append(cluster.run(*urgent, "--wrap=sleep 1").split()[-1]))
    log = job.end(restarts=1)
    saved = re.search(r"slurm: stopped: .*saved after step (\d+) of 40", log)
    assert saved and f"resumed at step {saved[1]} of 40" in log
    assert job["Comment"] == "" and job.result("imdb")["steps"] == 40
    assert "JobState=COMPLETED" in cluster.run("scontrol", "show", "job", other[0])


def test_failures_are_counted_and_the_last_lines_name_the_cause(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, ENDLESS, RETRIES="1")
    job.wait_for_checkpoint()
    cluster.hosts["node2"].kill("distsent.train")
    job.wait_for_line(
        r"slurm: exit code .*rank 1 on node2 died at step \d+.*; failure 1, requeueing"
    )
    job.wait_for_line(r"resumed at step[^$]*\bstep \d+/")
    assert job["Comment"] == "failures=1"
    cluster.hosts["node2"].kill("distsent.train")
    last = job.end("FAILED", restarts=1).splitlines()[-1]
    assert re.match(r"slurm: failed: exit code \d+, rank 1 on node2 died at step \d+", last), last


@nodes_may_die
def test_a_run_continues_without_a_node_that_was_cut_off(cluster: Cluster) -> None:
    cluster.hold.at(8)
    job = Job(cluster, "imdb.sh", *DEMO, "run.stall_seconds=12", options="--no-kill")
    job.wait_for_line(r"\bstep 8/40")
    job.wait_for_checkpoint()
    cluster.connect("node2", False)
    cluster.hold.free()
    log = job.end()
    assert "slurm: lost 1 of 2 nodes" in log
    assert re.search(r"resumed at step \d+ of 40", log)
    assert job.result("imdb")["world_size"] == 1
    cluster.start_node("node2")
    wait_for(
        "the cut-off workers have gone",
        lambda: "distsent.train" not in str(cluster.hosts["node2"].processes()),
        120,
    )


@nodes_may_die
def test_a_node_without_slurmd_has_the_job_requeued(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, ENDLESS, RETRIES="0")
    job.wait_for_checkpoint()
    cluster.hosts["node1"].kill(r"^slurmd ")  # on the node of the batch script
    wait_for(
        "SLURM notices",
        lambda: job["Restarts"] == "1" or job["JobState"] in ENDED,
        120,
        job.describe,
    )
    cluster.start_node("node1")
    job.wait_for_line(r"resumed at step \d+ of")
    assert "2 workers" in job.log and job["Comment"] == ""
    cluster.run("scancel", job.id)
    job.end("CANCELLED", restarts=1)


def test_array_tasks_stop_and_resume_independently(cluster: Cluster) -> None:
    cluster.hold.at(8)
    options = f"--array=0,2 --output={cluster.home}/%x-%A_%a-%j.log"
    job = Job(cluster, "emotion.sh", *DEMO, options=options)
    # The last task has the number of the array: requeueing that number would requeue all tasks.
    numbers = dict(
        line.split()
        for line in cluster.run("squeue", "--noheader", "--array", "--format=%K %A").splitlines()
    )
    assert numbers["2"] == job.id
    last = Job.__new__(Job)
    last.cluster, last.id, last.runs = cluster, job.id, job.runs
    last.wait_for_line(r"\bstep 8/40")
    # What --signal sends when time runs out.
    last.stop(lambda: cluster.run("scancel", "--batch", "--signal=USR1", f"{job.id}_2"))
    last.wait_for_line(r"slurm: stopped: .*saved after step \d+")

    def states() -> dict[str, list[str]]:
        shown = cluster.run("scontrol", "show", "job", job.id).split("\n\n")
        fields = [
            dict(re.findall(r"(ArrayTaskId|JobState|Restarts)=(\S+)", text))
            for text in shown
            if "ArrayTaskId" in text
        ]
        return {each["ArrayTaskId"]: [each["JobState"], each["Restarts"]] for each in fields}

    wait_for("both have ended", lambda: all(state in ENDED for state, _ in states().values()), 240)
    assert states() == {"0": ["COMPLETED", "0"], "2": ["COMPLETED", "1"]}, last.log
    assert [job.result(f"emotion-{name}")["steps"] for name in ("distilbert", "roberta")] == [
        40,
        40,
    ]
