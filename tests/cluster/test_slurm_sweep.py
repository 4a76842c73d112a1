"""slurm/sweep.sh on a real SLURM cluster: a job array whose tasks train the trials of one sweep."""

from __future__ import annotations

import re
from pathlib import Path

from patience import wait_for
from slurm_cluster import Cluster
from slurm_job import ENDED, MARKS, Job

pytestmark = MARKS

SPACE = """
[search]
sampler = "random"
trials = 2
[optim]
lr = { low = 1e-4, high = 1e-2, log = true }
"""
KEYS = (
    "train.max_steps=12", "train.batch_size=16", "eval.every=end", "checkpoint.every_steps=4",
    "log.every=1", "log.tensorboard=false", "data.max_eval_rows=32",
)  # fmt: skip


def tasks(cluster: Cluster, array: str) -> dict[str, dict[str, str]]:
    """Fields of each task of a job array, by its number in the array."""
    fields = r"\b(ArrayTaskId|JobState|Restarts|BatchHost|PreemptTime)=(\S+)"
    shown = cluster.run("scontrol", "show", "job", array).split("\n\n")
    found = [dict(re.findall(fields, text)) for text in shown]
    return {each["ArrayTaskId"]: each for each in found if "ArrayTaskId" in each}


def wait_for_end(cluster: Cluster, job: Job) -> dict[str, dict[str, str]]:
    def ended() -> bool:
        return all(task["JobState"] in ENDED for task in tasks(cluster, job.id).values())

    wait_for("all tasks have ended", ended, 240, lambda: logs(cluster))
    return tasks(cluster, job.id)


def logs(cluster: Cluster) -> str:
    return "\n".join(
        f"{path.name}\n{path.read_text()}" for path in cluster.home.glob("sweep-*.log")
    )


def test_tasks_of_an_array_train_a_sweep_together(cluster: Cluster) -> None:
    (cluster.home / "space.toml").write_text(SPACE)
    given = "jobs/demo.toml", f"{cluster.home}/space.toml", *KEYS
    output = f"--output={cluster.home}/%x-%A_%a.log"
    cluster.hold.at(6)
    job = Job(cluster, "sweep.sh", *given, options=f"--array=0-1 --cpus-per-task=2 {output}")
    sweep = job.runs / "demo-sweep"

    def both_are_held() -> bool:
        texts = [path.read_text() for path in sweep.glob("trial-*/train.log")]
        assert any(task["JobState"] not in ENDED for task in tasks(cluster, job.id).values())
        return sum("step 6/12" in text for text in texts) == 2

    wait_for("a trial on each node", both_are_held, 120, lambda: logs(cluster))
    urgent = ["--partition=urgent", "--nodes=1", "--exclusive", "--output=/dev/null"]
    job.stop(lambda: cluster.run("sbatch", *urgent, "--wrap=sleep 1"))
    ended = wait_for_end(cluster, job)
    assert {task["JobState"] for task in ended.values()} == {"COMPLETED"}, logs(cluster)
    assert "1" in {task["Restarts"] for task in ended.values()}, logs(cluster)
    # The script waited until the controller had told its trial to save.
    saved = r"slurm: stopped: stop requested: SIG\w+; saved (trial-\d+); run the same command again"
    name = re.findall(saved, logs(cluster))[0]
    resumed = re.findall(r"resumed at step (\d+) of 12", (sweep / name / "train.log").read_text())
    assert resumed and int(resumed[0]) >= 6
    assert count(sweep, "finished") == count(sweep) == 2
    assert logs(cluster).count("accuracy on validation."), "the last task shows the table"

    again = Job(cluster, "sweep.sh", *given, "--trials=3", options=f"--array=0 {output}")
    wait_for_end(cluster, again)
    log = (cluster.home / f"sweep-{again.id}_0.log").read_text()
    assert re.findall(r"(trial-\d+): (?:starts|resumes)", log) == ["trial-0002"]
    assert "accuracy on validation." in log and count(sweep, "finished") == 3
    assert (sweep / "best.toml").exists()


def count(sweep: Path, state: str = "") -> int:
    """Trials, or those in this state."""
    records = [path.read_text() for path in sweep.glob("trial-*/sweep/trial.json")]
    return sum(f'"state": "{state}' in record for record in records)
