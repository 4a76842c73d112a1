"""The job scripts on a real SLURM cluster of two nodes: to the end, and through everything that comes in between."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import NODES, ROOT, Cluster, leftovers, missing, namespaces, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=missing() or "")]

# The demo corpus and model under the scripts' own job files.
DEMO = ("data.source=demo", "data.max_length=64", "model.name=demo", "train.batch_size=64", "optim.name=adamw",
        "train.epochs=9", "eval.every=end", "checkpoint.every_steps=5", "log.every=1")  # fmt: skip
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of its own for every test; afterwards nothing of it is left."""
    with Cluster(tmp_path / "cluster") as cluster:
        inside = set.union(*(namespaces(host.pid) for host in cluster.hosts.values())) - namespaces("self")
        yield cluster
    assert len(inside) == 15
    assert leftovers(cluster.home, inside) == []


class Job:
    """A submitted job."""

    def __init__(self, cluster: Cluster, script: str, *arguments: str, options: str = "", **env: str) -> None:
        self.cluster, self.runs = cluster, cluster.home / "runs"
        self.options = [
            "--gres=none",
            "--cpus-per-task=1",
            "--ntasks-per-node=1",
            f"--output={cluster.home}/%x-%j.log",
            *options.split(),
        ]
        submitted = cluster.run("sbatch", *self.options, f"slurm/{script}", *arguments, f"run.dir={self.runs}", **env)
        self.id = submitted.split()[-1]

    def __getitem__(self, key: str) -> str:
        """A field of `scontrol show job`, empty without it."""
        found = re.search(rf"\b{key}=(\S+)", self.cluster.run("scontrol", "show", "job", self.id))
        return found[1] if found else ""

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.cluster.home.glob(f"*-{self.id}.log"))

    def wait_for_line(self, pattern: str, seconds: float = 90) -> re.Match[str]:
        """The first match in the log, as soon as it is there."""
        wait_for(self.tell(f"no {pattern!r}"), lambda: re.search(pattern, self.log) or self["JobState"] in ENDED, seconds)
        match = re.search(pattern, self.log)
        assert match, self.tell(f"ended without {pattern!r}")()
        return match

    def end(self, state: str = "COMPLETED", restarts: int = 0, seconds: float = 120) -> str:
        """Wait for the end, check how it came, and return the log."""
        wait_for(self.tell("no end"), lambda: self["JobState"] in ENDED, seconds)
        assert (self["JobState"], self["Restarts"]) == (state, str(restarts)), self.log
        return self.log

    def tell(self, what: str) -> Callable[[], str]:
        """Where the job stands, for when it matters."""
        return lambda: f"job {self.id}: {what}; {self['JobState']} {self['Reason']} {self['Restarts']}\n{self.log}"

    def result(self, name: str) -> dict:
        return json.loads((self.runs / name / "result.json").read_text())


def reviews(folder: Path) -> list[str]:
    """Overrides that name a small corpus: real reviews where they are at hand, else made ones."""
    if data := os.environ.get("DISTSENT_DATA"):
        return [f"data.source={data}/imdb", "data.max_rows=192", "data.max_eval_rows=64", "data.max_length=64"]
    folder.mkdir()
    draw = random.Random(1)
    for split, rows in (("train", 192), ("test", 64)):
        with open(folder / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for row in range(rows):
                words = draw.choices(["good", "fine"] if row % 2 else ["bad", "dull"], k=draw.randint(3, 40))
                table.writerow([" ".join(words), row % 2])
    return [f"data.source={folder}", "data.max_length=64"]


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "grad_norm" in record]


def test_a_run_over_two_nodes_equals_that_of_horovodrun(cluster: Cluster, tmp_path: Path) -> None:
    keys = [*reviews(cluster.home / "reviews"), "model.name=demo", "train.epochs=2", "train.batch_size=32", "log.every=1"]
    first = Job(cluster, "prepare.sh", "jobs/imdb.toml", *keys, options="--ntasks-per-node=2")
    options = f"--ntasks-per-node=2 --gres=gpu:2 --dependency=afterok:{first.id}"
    job = Job(cluster, "imdb.sh", *keys, options=options, LOCAL_DISK="/tmp")
    assert "token store: " in first.end()
    log = job.end(seconds=200)
    assert "4 workers" in log
    # Each node had its own copy of the tokens, and only the first worker wrote into the run folder.
    for name in NODES:
        assert cluster.hosts[name].run("ls", f"/tmp/distsent-{job.id}/tokens").strip() in first.log
    writers = {re.sub(r".*tfevents\.\d+\.(.*)\.\d+$", r"\1", path.name) for path in (job.runs / "imdb/tensorboard").iterdir()}
    assert len(writers) == 1 and writers.pop().startswith("node1.")
    plain = ["horovodrun", "-np", "4", "python", "-m", "distsent.train", "jobs/imdb.toml", *keys, f"run.dir={tmp_path}/plain"]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    subprocess.run(plain, cwd=ROOT, env=env, check=True, capture_output=True, timeout=200)
    other = json.loads((tmp_path / "plain/imdb/result.json").read_text())
    mine = job.result("imdb")
    assert mine["world_size"] == other["world_size"] == 4
    assert losses(job.runs / "imdb") == pytest.approx(losses(tmp_path / "plain/imdb"), rel=1e-5)
    assert mine["eval"]["test"]["confusion"] == other["eval"]["test"]["confusion"]
    assert mine["weights_sha256"] == other["weights_sha256"]


def test_a_mistake_fails_at_once_and_is_not_requeued(cluster: Cluster) -> None:
    began = time.monotonic()
    job = Job(cluster, "imdb.sh", "train.batch_size=many", "optim.lrr=1")
    log = job.end("FAILED")
    assert job["ExitCode"] == "2:0"
    assert time.monotonic() - began < 20
    assert [line.split(":")[0] for line in log.splitlines()] == ["distsent", "distsent"]
    assert "train.batch_size" in log and "optim.lr" in log.splitlines()[-1]


def test_a_time_too_short_for_a_checkpoint_counts_as_failure(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, RETRIES="0")
    node = cluster.hosts["node1"]
    wait_for(job.tell("not started"), lambda: "distsent.train --check" in str(node.processes()), 30, 0.05)
    cluster.run("scancel", "--batch", "--signal=USR1", job.id)
    log = job.end("FAILED")
    assert job["ExitCode"] == "75:0" and "too short for a single checkpoint" in log.splitlines()[-1]


def test_a_time_limit_saves_and_requeues_and_scancel_ends_for_good(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, "train.max_steps=2000", options="--time=2 --signal=B:USR1@75")
    saved = job.wait_for_line(r"slurm: stopped: .*saved after step (\d+) of 2000", 120)[1]
    assert job.wait_for_line(r"carrying on after step (\d+) of 2000")[1] == saved
    assert job["Restarts"] == "1" and job["Comment"] == ""
    job.wait_for_line(rf"\bstep {int(saved) + 2}/2000")
    cluster.run("scancel", job.id)
    log = job.end("CANCELLED", restarts=1)
    wait_for("both nodes are free", lambda: all(cluster.node_state(name) == "idle" for name in NODES), 30)
    assert job["JobState"] == "CANCELLED"
    assert len(re.findall("saved after step", log)) >= 2
    assert not [line for name in NODES for line in cluster.hosts[name].processes().values() if "distsent.train" in line]


def test_preemption_is_no_failure(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, "train.max_steps=60", RETRIES="0")
    job.wait_for_line(r"\bstep 8/60")
    urgent = cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null", "--wrap=sleep 1")
    log = job.end(restarts=1)
    saved = re.search(r"slurm: stopped: .*saved after step (\d+) of 60", log)
    assert saved and f"carrying on after step {saved[1]} of 60" in log
    assert job["Comment"] == "" and job.result("imdb")["steps"] == 60
    assert "JobState=COMPLETED" in cluster.run("scontrol", "show", "job", urgent.split()[-1])


def test_failures_are_counted_and_the_last_lines_name_the_cause(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, "train.max_steps=2000", RETRIES="1")
    job.wait_for_line(r"\bstep 8/2000")
    cluster.hosts["node2"].kill("distsent.train")
    job.wait_for_line(r"slurm: exit code .*rank 1 on node2 died at step \d+.*; failure 1, requeued")
    job.wait_for_line(r"carrying on after step")
    assert job["Comment"] == "failures=1"
    job.wait_for_line(r"carrying on after step[^$]*\bstep \d+/2000")
    cluster.hosts["node2"].kill("distsent.train")
    last = job.end("FAILED", restarts=1).splitlines()[-1]
    assert re.match(r"slurm: failed: exit code \d+, rank 1 on node2 died at step \d+", last), last


def test_a_node_cut_off_is_gone_on_without(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, "train.max_steps=40", "run.stall_seconds=12", options="--no-kill")
    job.wait_for_line(r"\bstep 8/40")
    cluster.connect("node2", False)
    log = job.end()
    assert "slurm: lost 1 of 2 nodes" in log
    assert re.search(r"carrying on after step \d+ of 40", log)
    assert job.result("imdb")["world_size"] == 1
    cluster.start_node("node2")
    wait_for("the cut-off workers have gone", lambda: "distsent.train" not in str(cluster.hosts["node2"].processes()), 30)


def test_a_node_without_slurmd_has_the_job_requeued(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, "train.max_steps=2000", RETRIES="0")
    job.wait_for_line(r"\bstep 8/2000")
    cluster.hosts["node1"].kill(r"^slurmd ")  # the node of the batch script, which cannot do a thing about it
    wait_for(job.tell("SLURM has not noticed"), lambda: job["Restarts"] == "1", 60)
    cluster.start_node("node1")
    job.wait_for_line(r"carrying on after step \d+ of 2000")
    assert "2 workers" in job.log and job["Comment"] == ""
    cluster.run("scancel", job.id)
    job.end("CANCELLED", restarts=1)


def test_array_tasks_stop_and_come_back_each_for_itself(cluster: Cluster) -> None:
    options = f"--array=0,2 --output={cluster.home}/%x-%A_%a-%j.log"
    job = Job(cluster, "emotion.sh", *DEMO, "train.max_steps=60", options=options)
    # The last task carries the number of the whole array: requeueing that number would requeue all of them.
    numbers = dict(line.split() for line in cluster.run("squeue", "--noheader", "--array", "--format=%K %A").splitlines())
    assert numbers["2"] == job.id
    last = Job.__new__(Job)
    last.cluster, last.id, last.runs = cluster, job.id, job.runs
    last.wait_for_line(r"\bstep 8/60")
    cluster.run("scancel", "--batch", "--signal=USR1", f"{job.id}_2")  # what --signal sends when time runs out
    last.wait_for_line(r"slurm: stopped: .*saved after step \d+")

    def states() -> dict[str, list[str]]:
        shown = cluster.run("scontrol", "show", "job", job.id).split("\n\n")
        fields = [dict(re.findall(r"(ArrayTaskId|JobState|Restarts)=(\S+)", text)) for text in shown if "ArrayTaskId" in text]
        return {each["ArrayTaskId"]: [each["JobState"], each["Restarts"]] for each in fields}

    wait_for("both have ended", lambda: all(state in ENDED for state, _ in states().values()), 120)
    assert states() == {"0": ["COMPLETED", "0"], "2": ["COMPLETED", "1"]}, last.log
    assert [job.result(f"emotion-{name}")["steps"] for name in ("distilbert", "roberta")] == [60, 60]


def test_horovodrun_over_ssh_where_slurm_has_no_pmi(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, "train.max_steps=60", LAUNCHER="horovodrun", MPI="none", RETRIES="0")
    job.wait_for_line(r"\bstep 8/60")
    cluster.run("scancel", "--batch", "--signal=USR1", job.id)
    log = job.end(restarts=1)
    assert re.search(r"slurm: stopped: .*saved after step \d+ of 60", log)
    assert job.result("imdb")["steps"] == 60 and job.result("imdb")["world_size"] == 2


def test_without_pmi_the_message_says_so(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", *DEMO, MPI="none")
    log = job.end("FAILED")
    assert "srun --mpi=pmix" in log and job["ExitCode"] == "2:0"


def test_the_doctor_asks_all_tasks_of_an_allocation(cluster: Cluster) -> None:
    home = cluster.home
    imports = "import json, pathlib, sys\nfrom distsent.run.allocation import examine\n"
    (home / "ask.py").write_text(f"{imports}print(json.dumps(examine(pathlib.Path(sys.argv[1]))))\n")
    script = ["#!/bin/bash", f"python -m distsent.doctor --json --run-dir {home}/runs >{home}/good.json; code=$?",
              f"MPI=none OMP_NUM_THREADS=4 python {home}/ask.py {home} >{home}/broken.json",
              f"HF_HOME=/tmp/{home.name} python {home}/ask.py /tmp >{home}/apart.json", "exit $code"]  # fmt: skip
    (home / "doctor.sh").write_text("\n".join(script))
    (home / "hf/hub/model").mkdir(parents=True)
    (cluster.hosts["node1"].private / "tmp" / home.name / "hub/model").mkdir(parents=True)  # node1's own disk
    job = Job(cluster, "", options=f"--nodes=2 --ntasks-per-node=2 {home}/doctor.sh", HF_HOME=f"{home}/hf")
    job.end()
    good = {each["what"]: each for each in json.loads((home / "good.json").read_text())}
    assert good["tasks"]["found"] == "4 on 2 nodes by srun --mpi=pmix; MPI sees 4"
    assert {good[what]["state"] for what in ("tasks", "versions", "cores a task", "storage", "shared disk", "hub cache")} == {"ok"}
    broken = {what: (state, found) for state, what, found, _ in json.loads((home / "broken.json").read_text())}
    assert broken["tasks"] == ("fail", "4 on 2 nodes by srun --mpi=none; MPI sees none: it aborts")
    assert broken["cores a task"][0] == "warn" and "node2 (4 threads, 1 cores)" in broken["cores a task"][1]
    apart = {what: (state, found) for state, what, found, _ in json.loads((home / "apart.json").read_text())}
    assert apart["shared disk"] == ("fail", "not there on node2")
    assert apart["hub cache"] == ("warn", "empty on node2")
