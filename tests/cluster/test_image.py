"""The image, run as the operator runs it: what the manifests promise, on pods of podman.

python -m pytest tests/cluster/test_image.py        as root; building the image takes minutes, once for its files
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import image_machine
import pytest
from image_machine import ROOT, Machine, wait_for
from image_pods import Cluster, Pod, load

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]
if reason := image_machine.missing():
    pytestmark.append(pytest.mark.skip(reason=reason))

# The demo job in miniature, long enough to be disturbed. Without cgroups nothing holds a pod to its CPU limit, so both
# workers get one thread each, as a plain run on two cores has.
TINY = ["train.max_steps=60", "checkpoint.every_steps=10", "log.every=1", "eval.every=30"]
THREADS = {"name": "OMP_NUM_THREADS", "value": "1"}


@pytest.fixture(scope="session")
def image() -> tuple[Path, str, float]:
    return image_machine.build()


@pytest.fixture(scope="module")
def machine(image: tuple[Path, str, float], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"), image[0])
    yield machine
    machine.close()


Make = Callable[..., Cluster]


@pytest.fixture
def cluster(machine: Machine, image: tuple[Path, str, float], tmp_path: Path) -> Iterator[Make]:
    """Makes the pods of k8s/jobs/demo.yaml, on 2 workers, with the job's keys overridden and the manifest changed."""
    made: list[Cluster] = []

    def make(*overrides: str, change: Callable[[dict[str, Any]], None] = lambda job: None, workers: int = 2) -> Cluster:
        documents = copy.deepcopy(load(ROOT / "k8s" / "jobs" / "demo.yaml"))
        job = documents["MPIJob", "demo"]
        roles = job["spec"]["mpiReplicaSpecs"]
        roles["Worker"]["replicas"] = workers
        launcher = roles["Launcher"]["template"]["spec"]["containers"][0]
        launcher["args"][launcher["args"].index("-np") + 1] = str(workers * job["spec"]["slotsPerWorker"])
        launcher["args"] += dict((word.partition("=")[0], word) for word in (*TINY, *overrides)).values()
        launcher["env"].append(THREADS)
        change(job)
        made.append(Cluster(machine, image[1], tmp_path / f"cluster{len(made)}", job, documents["ConfigMap", "demo-job"]))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the same job without pods."""
    folder = tmp_path_factory.mktemp("plain")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    words = [f"{sys.prefix}/bin/horovodrun", "-np", "2", sys.executable, "-m", "distsent.train", str(ROOT / "jobs/demo.toml")]
    done = subprocess.run(
        [*words, f"run.dir={folder}", *TINY],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads((folder / "demo" / "result.json").read_text())


def same(result: dict[str, Any], plain: dict[str, Any]) -> None:
    """The same training: every score, and the weights to the bit."""
    assert result["status"] == "finished" and result["world_size"] == 2 and result["steps"] == plain["steps"]
    for split, scores in plain["eval"].items():
        for name in ("n", "accuracy", "f1", "confusion"):
            assert result["eval"][split][name] == scores[name], (split, name)
        assert result["eval"][split]["loss"] == pytest.approx(scores["loss"], rel=1e-5)
    assert result["weights_sha256"] == plain["weights_sha256"]


# ---- the image -------------------------------------------------------------------------------------------------------


def test_the_image_has_a_user_and_no_tools(machine, image):
    def inside(*words: str) -> subprocess.CompletedProcess[str]:
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
        alone = ("--cgroups", "disabled", "--no-healthcheck", "--network", "none")
        return machine.podman("run", "--rm", *alone, *limits, image[1], *words, check=False)

    assert inside("id").stdout.startswith("uid=1000(mpiuser) gid=1000(mpiuser)")
    found = inside("bash", "-c", "type -P gcc g++ cc c++ make cmake ld pip; ls /etc/ssh/ssh_host_* /home/mpiuser/.ssh/*; true")
    assert not found.stdout, found.stdout
    doctor = inside("python", "-m", "distsent.doctor")
    assert "fail" not in doctor.stdout and re.search(r"Horovod +0\.28\.1 with MPI, Gloo", doctor.stdout), doctor.stdout
    assert "(Open MPI) 4.1" in doctor.stdout
    stated = json.loads(machine.podman("inspect", "--type", "image", image[1]).stdout)[0]
    assert "distsent.doctor" in str(stated.get("Healthcheck"))
    assert stated["Size"] < 2.2e9, f"{stated['Size'] / 1e9:.2f} GB"


# ---- a job -----------------------------------------------------------------------------------------------------------


def test_the_manifests_command_trains_to_the_result_of_a_plain_run(cluster, plain):
    demo = cluster()
    demo.start()
    assert demo.launcher.exit_code(180) == 0, demo.launcher.log()
    same(demo.result(), plain)
    assert all(pod.running() for pod in demo.workers), "sshd stays until the operator cleans up"
    hosts = {line for line in demo.launcher.log().splitlines() if "demo-worker-" in line}
    assert not [line for line in hosts if "waiting" in line], "ready means that ssh works"
    # Finished is finished, also for a launcher that is started again.
    demo.launcher.start()
    assert demo.launcher.exit_code(60) == 0 and "this run is finished" in demo.launcher.log()


def test_a_terminated_launcher_saves_and_its_restart_carries_on(cluster, plain):
    demo = cluster()
    demo.start()
    demo.wait_for_step(12)
    demo.launcher.terminate()
    assert demo.launcher.exit_code(60) == 75, demo.launcher.log()
    assert demo.status().startswith("stopped"), demo.status()
    before = demo.steps()
    assert before < 60
    demo.launcher.start()
    assert demo.launcher.exit_code(180) == 0, demo.launcher.log()
    assert re.search(rf"carrying on after step {before} of 60", demo.launcher.log()), demo.launcher.log()
    same(demo.result(), plain)


def test_an_evicted_worker_saves_before_it_leaves(cluster, plain):
    demo = cluster()
    demo.start()
    demo.wait_for_step(12)
    demo.workers[1].terminate()
    assert demo.workers[1].exit_code(60) == 0, demo.workers[1].log()
    assert "to save" in demo.workers[1].log() and "they have left" in demo.workers[1].log()
    assert demo.launcher.exit_code(60) == 75, demo.launcher.log()
    before = demo.steps()
    demo.workers[1].start()  # the operator makes a deleted worker anew
    demo.launcher.start()
    assert demo.launcher.exit_code(180) == 0, demo.launcher.log()
    assert f"carrying on after step {before}" in demo.launcher.log()
    same(demo.result(), plain)


def test_a_killed_worker_ends_the_launcher_and_a_checkpoint_takes_it_up(cluster, plain):
    demo = cluster()
    demo.start()
    demo.wait_for_step(22)
    start = time.monotonic()
    demo.workers[1].kill()
    code = demo.launcher.exit_code(90)
    assert code not in (0, 2, 3), demo.launcher.log()
    assert time.monotonic() - start < 60, "its GPUs would be held that long"
    demo.workers[1].start()  # restartPolicy: OnFailure, in place
    demo.launcher.start()
    assert demo.launcher.exit_code(180) == 0, demo.launcher.log()
    assert re.search(r"carrying on after step [234]0 of 60", demo.launcher.log()), demo.launcher.log()
    same(demo.result(), plain)


def test_a_late_worker_is_waited_for(cluster):
    demo = cluster("train.max_steps=5")
    demo.workers[0].start()
    demo.launcher.start()  # as after a suspended job is resumed: the operator does not wait then
    wait_for("it says for whom it waits", lambda: "waiting for" in demo.launcher.log(), 60)
    assert "demo-worker-1.demo.distsent.svc" in demo.launcher.log()
    demo.workers[1].start()
    assert demo.launcher.exit_code(120) == 0, demo.launcher.log()
    assert demo.result()["world_size"] == 2


def test_a_worker_that_never_comes_is_named(cluster):
    def hurry(job: dict[str, Any]) -> None:
        command = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["command"]
        command[-1:] = ["--wait", "5", "--"]

    demo = cluster(change=hurry)
    demo.workers[0].start()
    demo.launcher.start()
    assert demo.launcher.exit_code(60) == 1
    assert "demo-worker-1.demo.distsent.svc does not answer after 5 s" in demo.launcher.log()


def test_a_user_whom_the_image_does_not_know_cannot_be_a_worker(cluster):
    def stranger(job: dict[str, Any]) -> None:
        for role in job["spec"]["mpiReplicaSpecs"].values():
            role["template"]["spec"]["securityContext"]["runAsUser"] = 1234

    demo = cluster(change=stranger)
    demo.workers[0].start()
    demo.launcher.start()
    for pod in (demo.workers[0], demo.launcher):
        assert pod.exit_code(30) == 2
        assert "user 1234, whom the image does not know" in pod.log(), pod.log()


def test_a_read_only_claim_fails_once_and_lets_the_workers_go(cluster):
    def read_only(job: dict[str, Any]) -> None:
        for role in job["spec"]["mpiReplicaSpecs"].values():
            for volume in role["template"]["spec"]["volumes"]:
                volume.get("persistentVolumeClaim", {})["readOnly"] = True

    demo = cluster(change=read_only)
    demo.start()
    assert demo.launcher.exit_code(90) == 2, demo.launcher.log()
    assert "run.dir: cannot write to /shared/runs/demo" in demo.launcher.log(), demo.launcher.log()
    wait_for("workers are let go", lambda: not any(pod.running() for pod in demo.workers), 30)
    demo.launcher.start()  # the Job's restart
    assert demo.launcher.exit_code(20) == 2 and "not tried again" in demo.launcher.log()


def test_elastic_carries_on_with_more_workers(cluster):
    elastic = load_elastic()

    def scale(job: dict[str, Any]) -> None:
        container = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        container["command"] = [*elastic["command"][:-1], "--poll", "2", "--"]
        container["args"] = [word.replace("imdb", "demo") for word in elastic["args"]] + TINY

    demo = cluster(change=scale)
    demo.show(demo.workers[0])
    demo.workers[0].start()
    demo.launcher.start()
    demo.wait_for_step(3)
    demo.workers[1].start()
    wait_for("it is ready", lambda: demo.ready(demo.workers[1]))
    demo.show(*demo.workers)
    assert demo.launcher.exit_code(180) == 0, demo.launcher.log()
    assert "1 hosts have become 2" in demo.launcher.log() and "carrying on after step" in demo.launcher.log()
    assert demo.result()["world_size"] == 2 and demo.result()["steps"] == 60


def load_elastic() -> dict[str, Any]:
    """The launcher's container in the elastic overlay."""
    patches = {one["path"].rpartition("/")[2]: one["value"] for one in load_patches(ROOT / "k8s/elastic/mpijob.yaml")}
    return {"command": list(patches["command"]), "args": list(patches["args"])}


def load_patches(path: Path) -> list[dict[str, Any]]:
    import yaml

    return list(yaml.safe_load(path.read_text()))


# ---- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboards_pod_serves_the_curves(cluster, machine, image, tmp_path):
    demo = cluster("train.max_steps=20")
    demo.start()
    assert demo.launcher.exit_code(120) == 0, demo.launcher.log()
    template = load(ROOT / "k8s" / "50-tensorboard.yaml")["Deployment", "tensorboard"]["spec"]["template"]
    board = Pod(machine, "tensorboard", f"{image_machine.NETWORK}.40", template, image[1], tmp_path)
    board.sources = {"shared": demo.claim}
    board.start()
    address = f"http://{board.address}:6006"

    def ask(path: str) -> Any:
        fetch = "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1], timeout=10).read())"
        done = machine.run(sys.executable, "-c", fetch, address + path, check=False)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.startswith(("{", "[")) else None

    wait_for("it knows the run", lambda: ask("/data/plugin/scalars/tags"), 90, board.log)
    tags = ask("/data/plugin/scalars/tags")
    run = next(iter(tags))
    tag = next(name for name in tags[run] if "loss" in name)
    points = ask(f"/data/plugin/scalars/scalars?tag={tag.replace('/', '%2F')}&run={run.replace('/', '%2F')}")
    assert len(points) >= 1 and points[-1][1] >= 19, points[-3:]
    picture(machine, address, tmp_path / "tensorboard.png")
    machine.podman("rm", "--force", "--time", "0", "tensorboard")


def picture(machine: Machine, address: str, path: Path) -> None:
    """Look at it: a page that draws its curves is not white, and is no error page."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return
    machine.run(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000",
                "--virtual-time-budget=30000", f"--user-data-dir={path.parent}/chromium", f"--screenshot={path}",
                f"{address}/#timeseries", timeout=180, check=False)  # fmt: skip
    assert path.exists(), "chromium took no picture"
    from PIL import Image

    shades = Image.open(path).convert("L").resize((140, 100)).histogram()
    assert sum(count for shade, count in enumerate(shades) if shade < 200) > 300, "hardly anything is drawn"
