"""The image and the manifests, run with podman as the operator runs them.

python -m pytest tests/cluster/test_image.py     as root; building a changed image takes minutes
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml
from image_jobs import MARKS, TINY, assert_same_training, plain_run, shorten_keepalive
from image_machine import GATEWAY, ROOT
from patience import wait_for
from reviews import reviews

from tests.api_server import PORT, ApiServer, pod_list, worker

pytestmark = MARKS
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PODS = "/api/v1/namespaces/distsent/pods"


# ---- the image ---------------------------------------------------------------------------------


def test_the_image_has_a_user_and_no_tools(machine, image):
    def inside(*words: str) -> subprocess.CompletedProcess[str]:
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
        alone = ("--cgroups", "disabled", "--no-healthcheck", "--network", "none")
        return machine.podman("run", "--rm", *alone, *limits, image[1], *words, check=False)

    assert inside("id").stdout.startswith("uid=1000(mpiuser) gid=1000(mpiuser)")
    tools, keys = "gcc g++ cc c++ make cmake ld pip", "/etc/ssh/ssh_host_* /home/mpiuser/.ssh/*"
    found = inside("bash", "-c", f"type -P {tools}; ls {keys}; true")
    assert not found.stdout, found.stdout
    doctor = inside("python", "-m", "distsent.doctor")
    assert "fail" not in doctor.stdout, doctor.stdout
    assert re.search(r"Horovod +0\.28\.1 with MPI, Gloo", doctor.stdout), doctor.stdout
    assert "(Open MPI) 4.1" in doctor.stdout
    stated = json.loads(machine.podman("inspect", "--type", "image", image[1]).stdout)[0]
    assert "distsent.doctor" in str(stated.get("Healthcheck"))
    assert stated["Size"] < 2.2e9, f"{stated['Size'] / 1e9:.2f} GB"


# ---- a job -------------------------------------------------------------------------------------


def test_the_manifests_command_trains_to_the_result_of_a_plain_run(pods, plain):
    demo = pods()
    demo.start()
    assert demo.finish() == "Complete", demo.launcher.history()
    assert_same_training(demo.result(), plain)
    assert "2 workers x 1 threads" in demo.launcher.log(), "the pods' CPU limit is 1"
    assert all(pod.running() for pod in demo.workers), "sshd stays until the operator cleans up"
    hosts = {line for line in demo.launcher.log().splitlines() if "demo-worker-" in line}
    assert not [line for line in hosts if "waiting" in line], "ready means that ssh works"
    # A finished run stays finished when the launcher is started again.
    demo.launcher.start()
    assert demo.launcher.exit_code() == 0 and "this run is finished" in demo.launcher.log()


def test_the_imdb_job_trains_on_reviews_in_the_claim(pods, tmp_path):
    keys = reviews(tmp_path / "reviews")[1:]  # without data.source
    keys += ["model.name=demo", "train.batch_size=32", "train.epochs=2", "log.every=1"]
    imdb = pods("data.source=/shared/reviews", name="imdb", base=keys)
    shutil.copytree(tmp_path / "reviews", imdb.claim / "reviews")
    imdb.start()
    assert imdb.finish() == "Complete", imdb.launcher.history()
    assert_same_training(
        imdb.result(),
        plain_run(tmp_path / "plain", "imdb", f"data.source={tmp_path}/reviews", *keys),
    )


def test_the_launcher_waits_for_a_late_worker(pods):
    demo = pods("train.max_steps=5")
    demo.workers[1].has_room = False
    demo.resume()  # a suspended job: the operator does not wait for workers then
    waiting = re.compile(r"waiting for \d of 2 workers: demo-worker-1\.demo\.distsent\.svc")
    demo.until("the log names the worker", lambda: waiting.search(demo.launcher.log()), 120)
    assert "Could not resolve hostname demo-worker-1" in demo.launcher.log(), "not ready: no name"
    demo.workers[1].has_room = True
    assert demo.finish() == "Complete", demo.launcher.history()
    assert demo.result()["world_size"] == 2


def test_a_worker_that_never_answers_is_named(pods):
    def shorten_wait(job: dict[str, Any]) -> None:
        launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        launcher["command"][-1:] = ["--wait", "5", "--"]

    demo = pods(change=shorten_wait)
    demo.workers[1].has_room = False
    demo.resume()
    assert demo.launcher.exit_code() == 1
    assert "demo-worker-1.demo.distsent.svc does not answer after 5 s" in demo.launcher.log()


def test_a_user_that_the_image_does_not_have_is_an_error(pods):
    def change_user(job: dict[str, Any]) -> None:
        for role in job["spec"]["mpiReplicaSpecs"].values():
            role["template"]["spec"]["securityContext"]["runAsUser"] = 1234

    demo = pods(change=change_user)
    demo.workers[0].create()
    demo.launcher.create()
    for pod in (demo.workers[0], demo.launcher):
        assert pod.exit_code() == 2
        assert "user 1234, which the image does not know" in pod.log(), pod.log()


# ---- failures that recur -----------------------------------------------------------------------


def test_a_read_only_claim_fails_once_and_stops_the_workers(pods):
    def read_only(job: dict[str, Any]) -> None:
        for role in job["spec"]["mpiReplicaSpecs"].values():
            for volume in role["template"]["spec"]["volumes"]:
                volume.get("persistentVolumeClaim", {})["readOnly"] = True

    demo = pods(change=read_only)
    demo.start()
    assert demo.launcher.exit_code() == 2, demo.launcher.log()
    reason = "run.dir: cannot write to /shared/runs/demo"
    assert reason in demo.launcher.log() and reason in demo.launcher.message()
    wait_for("the workers have ended", lambda: not any(pod.running() for pod in demo.workers), 120)
    # The kubelet's restarts end in the same way, until the Job deletes the pod with its logs.
    demo.until("the fifth restart has ended", lambda: demo.launcher.starts == 6, 60)
    assert demo.launcher.exit_code() == 2 and "not tried again" in demo.launcher.log()
    assert reason in demo.launcher.log() and reason in demo.launcher.message()
    assert demo.finish() == "Failed" and demo.failure == "BackoffLimitExceeded"
    assert demo.launcher.log() == "" and "training on" not in demo.launcher.history()


def test_a_claim_that_fs_group_does_not_change_is_an_error(pods):
    demo = pods()
    demo.ignore_fs_group()
    demo.start()
    assert demo.launcher.exit_code() == 2, demo.launcher.log()
    assert "run.dir: cannot write to /shared/runs/demo" in demo.launcher.message()
    assert "Permission denied" in demo.launcher.message()


def test_a_worker_without_enough_memory_is_named(pods, machine):
    if not machine.has_limits:
        pytest.skip("no cgroups can be made here")

    def shrink(job: dict[str, Any]) -> None:
        worker = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
        worker["resources"]["limits"]["memory"] = "150Mi"

    demo = pods(change=shrink)
    demo.start()
    assert demo.launcher.exit_code() not in (0, 2, 3), demo.launcher.log()
    killed = (
        r"demo-worker-\d\S*: out of memory: \d+ processes killed \(limit 0\.1 GiB, peak 0\.1 GiB"
    )
    assert re.search(killed, demo.launcher.log()), demo.launcher.log()


# ---- pods that come and go ---------------------------------------------------------------------


def values(overlay: str) -> dict[str, Any]:
    """What an overlay puts into the MPIJob, by the last part of its path."""
    patches = yaml.safe_load((ROOT / "k8s" / overlay / "mpijob.yaml").read_text())
    return {one["path"].rpartition("/")[2]: one["value"] for one in patches}


def test_evicted_pods_and_those_of_a_silent_node_are_not_made_again_until_deleted(
    pods, plain, machine, tmp_path
):
    def change(job: dict[str, Any]) -> None:
        launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        launcher["command"] = values("evicted")["command"]
        shorten_keepalive(launcher)

    demo = pods(change=change)
    first, second = demo.workers
    api = ApiServer(tmp_path / "api", GATEWAY)
    machine.start(sys.executable, str(ROOT / "tests/api_server.py"), str(api.folder), GATEWAY)
    demo.launcher.mounts.append((api.account, ACCOUNT, True))
    demo.launcher.env |= {
        "KUBERNETES_SERVICE_HOST": GATEWAY,
        "KUBERNETES_SERVICE_PORT": str(PORT),
    }
    demo.start_and_hold(12)
    second.evict()  # by the kubelet
    demo.hold.at(22)
    way_out = "if it is Evicted, kubectl -n distsent delete pod demo-worker-1"
    demo.until("the launcher names the pod", lambda: way_out in demo.launcher.log(), 120)
    assert demo.failure == "MPIJobEvicted" and second.pods == 1
    # Without the Role this is a line, and somebody else deletes the pod; with it the launcher does.
    assert (
        f"evicted workers stay: OSError: GET {PODS}: 403 pods is forbidden" in demo.launcher.log()
    )
    api.answer(200, pod_list(worker("demo-worker-1", "demo", "Evicted")))
    demo.until("the launcher deletes the pod", api.deleted, 60)
    api.answer(200, pod_list())
    assert {*api.deleted()} == {"demo-worker-1"}
    second.delete()
    demo.wait_for_step(22)
    first.silence()
    demo.hold.free()
    waiting = re.compile(r"waiting for 1 of 2 workers: demo-worker-0\.demo\.distsent\.svc")
    demo.until("mpirun has noticed", lambda: waiting.search(demo.launcher.log()), 120)
    first.delete()  # by the cluster, five minutes after the node's last word
    demo.reconcile()
    assert first.exists and first.pods == 1, "Terminating"
    demo.delete_node(first)
    assert demo.finish() == "Complete", demo.launcher.history()
    assert demo.launcher.starts == 1 and first.pods == second.pods == 2
    assert_same_training(demo.result(), plain)


def test_elastic_resumes_with_more_workers(pods):
    patches = values("elastic")

    def scale(job: dict[str, Any]) -> None:
        container = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        container["command"] = [*patches["command"][:-1], "--poll", "1", "--"]
        container["args"] = [word.replace("imdb", "demo") for word in patches["args"]] + TINY

    demo = pods(change=scale)
    demo.workers[1].has_room = False
    demo.hold.at(3)
    demo.resume()
    demo.wait_for_step(3)
    demo.workers[1].has_room = True
    wait_for_hosts = "1 hosts have become 2"
    demo.until("the hosts have changed", lambda: wait_for_hosts in demo.launcher.log(), 120)
    demo.release_after_stop_request()
    assert demo.finish() == "Complete", demo.launcher.history()
    assert "resumed at step" in demo.launcher.log()
    assert demo.result()["world_size"] == 2 and demo.result()["steps"] == 60
