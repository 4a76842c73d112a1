"""The job scripts on a real SLURM cluster of two nodes: successful runs and mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from patience import PATIENCE
from reviews import common_words, reviews
from slurm_cluster import NODES, ROOT, Cluster
from slurm_job import DEMO, MARKS, Job

from tests import fixtures, systems

pytestmark = MARKS
WEIGHTS = f"hub/models--distilbert-base-uncased/snapshots/{systems.COMMIT}"


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "grad_norm" in record]


def contents(folder: Path) -> dict[str, bytes]:
    """Names and bytes of the files in a folder, without links."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink()
    }


def test_a_run_over_two_nodes_equals_that_of_horovodrun(cluster: Cluster, tmp_path: Path) -> None:
    folder = cluster.home / "reviews"
    keys = [
        *reviews(folder),
        "optim.lr=1e-3",
        "train.epochs=2",
        "train.batch_size=32",
        "log.every=1",
    ]
    hub = systems.hub(
        cluster.home / "hf", common_words(folder, len(fixtures.WORDS))
    )  # with the encoder of the job file
    first = Job(
        cluster,
        "prepare.sh",
        "jobs/imdb.toml",
        *keys,
        options="--ntasks-per-node=2",
        HF_HOME=str(hub),
    )
    options = f"--ntasks-per-node=2 --gres=gpu:2 --dependency=afterok:{first.id}"
    job = Job(cluster, "imdb.sh", *keys, options=options, HF_HOME=str(hub), LOCAL_DISK="/tmp")
    assert "token store: " in first.end()
    log = job.end()
    assert "4 workers" in log and "no copies on" not in log
    # Each node had its own complete copy of tokens and weights. Only rank 0 wrote to the folder.
    for name in NODES:
        own = cluster.hosts[name].private / f"tmp/distsent-{job.id}"
        (tokens,) = (own / "tokens").iterdir()
        assert tokens.name in first.log
        for mine, shared in (
            (tokens, job.runs / ".tokens" / tokens.name),
            (own / WEIGHTS, hub / WEIGHTS),
        ):
            assert contents(mine) == contents(shared) != {}
    writers = {
        re.sub(r".*tfevents\.\d+\.(.*)\.\d+$", r"\1", path.name)
        for path in (job.runs / "imdb/tensorboard").iterdir()
    }
    assert len(writers) == 1 and writers.pop().startswith("node1.")
    plain = [
        "horovodrun",
        "-np",
        "4",
        "python",
        "-m",
        "distsent.train",
        "jobs/imdb.toml",
        *keys,
        "train.share_weights=false",  # else four workers of one machine add in another order
        f"run.dir={tmp_path}/plain",
    ]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(hub),
    }
    subprocess.run(
        plain, cwd=ROOT, env=env, check=True, capture_output=True, timeout=290 * PATIENCE
    )
    other = json.loads((tmp_path / "plain/imdb/result.json").read_text())
    mine = job.result("imdb")
    assert mine["world_size"] == other["world_size"] == 4
    assert losses(job.runs / "imdb") == pytest.approx(losses(tmp_path / "plain/imdb"), rel=1e-5)
    assert mine["eval"]["test"]["confusion"] == other["eval"]["test"]["confusion"]
    assert mine["weights_sha256"] == other["weights_sha256"]


def test_a_mistake_fails_at_once_and_is_not_requeued(cluster: Cluster) -> None:
    job = Job(cluster, "imdb.sh", "train.batch_size=many", "optim.lrr=1")
    log = job.end("FAILED")
    assert job["ExitCode"] == "2:0"
    # At once: a worker would have printed the lines again.
    assert [line.split(":")[0] for line in log.splitlines()] == ["distsent", "distsent"]
    assert "train.batch_size" in log and "optim.lr" in log.splitlines()[-1]


def test_a_time_too_short_for_a_checkpoint_counts_as_failure(cluster: Cluster) -> None:
    # slurm/imdb.sh, with the signal of --signal before the first worker has started.
    early = cluster.home / "early.sh"
    early.write_text('#!/bin/bash\nsource slurm/run.sh\nkill -USR1 $$\ntrain jobs/imdb.toml "$@"\n')
    job = Job(cluster, str(early), *DEMO, options="--nodes=2 --time=5", RETRIES="0")
    log = job.end("FAILED")
    assert job["ExitCode"] == "75:0" and "too short for a single checkpoint" in log.splitlines()[-1]


def test_horovodrun_over_ssh_where_slurm_has_no_pmi(cluster: Cluster) -> None:
    """Over Gloo; over MPI: test_preemption_does_not_count_as_a_failure."""
    cluster.hold.at(8)
    job = Job(
        cluster, "imdb.sh", *DEMO, LAUNCHER="horovodrun", MPI="none", RETRIES="0", CONTROLLER="gloo"
    )
    job.wait_for_line(r"\bstep 8/40")
    job.stop(lambda: cluster.run("scancel", "--batch", "--signal=USR1", job.id))
    log = job.end(restarts=1)
    assert re.search(r"slurm: stopped: .*saved after step \d+ of 40", log)
    assert job.result("imdb")["steps"] == 40 and job.result("imdb")["world_size"] == 2


def test_without_pmi_torch_connects_the_workers(cluster: Cluster) -> None:
    """Stopped, requeued and resumed; with LAUNCHER=torch or a SLURM that has no PMI, the same."""
    cluster.hold.at(8)
    job = Job(cluster, "imdb.sh", *DEMO, LAUNCHER="torch", RETRIES="0")
    job.wait_for_line(r"\bstep 8/40")
    job.stop(lambda: cluster.run("scancel", "--batch", "--signal=USR1", job.id))
    log = job.end(restarts=1)
    why = "srun without PMI (SLURM_STEP_NUM_TASKS=2), DISTSENT_TRANSPORT"
    assert f"transport: torch over Gloo, started by {why}" in log
    assert re.search(r"slurm: stopped: .*saved after step \d+ of 40", log)
    assert job.result("imdb")["steps"] == 40 and job.result("imdb")["world_size"] == 2
    # In its own run folder, so that it trains anew
    wrong = Job(cluster, "imdb.sh", *DEMO, "run.transport=horovod", MPI="none", RETRIES="0")
    assert "srun --mpi=pmix" in wrong.end("FAILED") and wrong["ExitCode"] == "2:0"


def test_the_doctor_asks_all_tasks_of_an_allocation(cluster: Cluster) -> None:
    home, (node1, node2) = cluster.home, (cluster.hosts[name] for name in NODES)
    imports = (
        "import json, pathlib, sys\nfrom distsent.runtime.slurm_probe import check_allocation\n"
    )
    (home / "ask.py").write_text(
        f"{imports}print(json.dumps(check_allocation(pathlib.Path(sys.argv[1]))))\n"
    )
    script = [
        "#!/bin/bash",
        f"python -m distsent.doctor --json --run-dir {home}/runs >{home}/good.json; code=$?",
        f"LAUNCHER=torch python {home}/ask.py {home} >{home}/torch.json",
        f"MPI=pmi2 OMP_NUM_THREADS=4 python {home}/ask.py {home} >{home}/broken.json",
        f"HF_HOME=/tmp/{home.name} python {home}/ask.py /tmp >{home}/apart.json",
        f"PYTHONPATH=/tmp/packages python {home}/ask.py {home}/closed >{home}/mixed.json",
        "exit $code",
    ]
    (home / "doctor.sh").write_text("\n".join(script))
    (home / "hf/hub/model").mkdir(parents=True)
    (node1.private / "tmp" / home.name / "hub/model").mkdir(parents=True)  # node1's own disk
    # On node2 another package comes first, and a shared disk is read-only.
    other = node2.private / "tmp/packages/tokenizers-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Name: tokenizers\nVersion: 0.0.1\n")
    (home / "closed").mkdir()
    node2.run("mount", "--bind", str(home / "closed"), str(home / "closed"))
    node2.run("mount", "-o", "remount,bind,ro", str(home / "closed"))
    job = Job(
        cluster, f"{home}/doctor.sh", options="--nodes=2 --ntasks-per-node=2", HF_HOME=f"{home}/hf"
    )
    job.end()
    good = {each["what"]: each for each in json.loads((home / "good.json").read_text())}
    assert good["tasks"]["found"] == "4 on 2 nodes by srun --mpi=pmix; MPI sees 4"
    assert {
        good[what]["state"]
        for what in ("tasks", "versions", "cores per task", "storage", "shared disk", "hub cache")
    } == {"ok"}

    def bad(name: str) -> dict[str, tuple[str, str]]:
        lines = json.loads((home / f"{name}.json").read_text())
        return {what: (state, found) for state, what, found, _ in lines if state != "ok"}

    broken = bad("broken")
    assert broken["tasks"][0] == "fail" and "srun --mpi=pmi2; MPI sees" in broken["tasks"][1]
    assert "tasks" not in bad("torch")
    assert (
        broken["cores per task"][0] == "warn"
        and "node2 (4 threads, 1 cores)" in broken["cores per task"][1]
    )
    assert bad("apart") == {
        "shared disk": ("fail", "not there on node2"),
        "hub cache": ("warn", "empty on node2"),
    }
    assert bad("mixed") == {
        "versions": ("fail", f"tokenizers {version('tokenizers')} on node1, 0.0.1 on node2"),
        "storage": ("fail", "not writable on node2"),
    }
