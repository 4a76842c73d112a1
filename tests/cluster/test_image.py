"""The image and the manifests, run with podman as the operator runs them.

python -m pytest tests/cluster/test_image.py     as root; building a changed image takes minutes
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

from image_jobs import MARKS, TINY, assert_same_training, plain_run
from image_machine import ROOT
from image_pods import load_patches
from patience import wait_for
from reviews import reviews

pytestmark = MARKS


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
    assert demo.launcher.exit_code() == 0, demo.launcher.log()
    assert_same_training(demo.result(), plain)
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
    assert imdb.launcher.exit_code() == 0, imdb.launcher.log()
    assert_same_training(
        imdb.result(),
        plain_run(tmp_path / "plain", "imdb", f"data.source={tmp_path}/reviews", *keys),
    )


def test_a_terminated_launcher_saves_and_its_restart_resumes(pods, plain):
    demo = pods()
    demo.start_and_hold(12)
    demo.launcher.terminate()
    demo.release_after_stop_request()
    assert demo.launcher.exit_code() == 75, demo.launcher.log()
    assert demo.status().startswith("stopped"), demo.status()
    before = demo.steps()
    assert before < 60
    demo.launcher.start()
    assert demo.launcher.exit_code() == 0, demo.launcher.log()
    assert re.search(rf"resumed at step {before} of 60", demo.launcher.log()), demo.launcher.log()
    assert_same_training(demo.result(), plain)


def test_an_evicted_worker_saves_before_it_leaves(pods, plain):
    demo = pods()
    demo.start_and_hold(12)
    demo.workers[1].terminate()
    demo.release_after_stop_request()
    assert demo.workers[1].exit_code() == 0, demo.workers[1].log()
    assert "to save" in demo.workers[1].log() and "the ranks have left" in demo.workers[1].log()
    ended = "the run ended with 75; starting it again"
    wait_for("the run has ended", lambda: ended in demo.launcher.log(), 120, demo.launcher.log)
    before = demo.steps()
    demo.workers[1].start()  # the operator recreates a deleted worker
    assert demo.launcher.exit_code() == 0, demo.launcher.log()
    assert demo.launcher.starts == 1, "the launcher itself started the run again"
    assert f"resumed at step {before}" in demo.launcher.log()
    assert_same_training(demo.result(), plain)


def test_a_killed_worker_ends_the_run_and_the_launcher_resumes_it(pods, plain):
    demo = pods()
    demo.start_and_hold(22)
    wait_for("the checkpoint is written", lambda: demo.checkpoint(20), 60)
    demo.workers[1].kill()
    demo.hold.free()
    ended = re.compile(r"the run ended with (?!(?:0|2|3);)\d+; starting it again")
    wait_for("the run has ended", lambda: ended.search(demo.launcher.log()), 300, demo.launcher.log)
    demo.workers[1].start()  # restartPolicy: OnFailure, in place
    assert demo.launcher.exit_code() == 0, demo.launcher.log()
    assert "resumed at step 20 of 60" in demo.launcher.log(), demo.launcher.log()
    assert_same_training(demo.result(), plain)


def test_the_launcher_waits_for_a_late_worker(pods):
    demo = pods("train.max_steps=5")
    demo.workers[0].start()
    demo.launcher.start()  # as after a suspended job is resumed: the operator does not wait then
    waiting = re.compile(r"waiting for \d of 2 workers: demo-worker-1\.demo\.distsent\.svc")
    log = demo.launcher.log
    wait_for("the log names the worker", lambda: waiting.search(log()), 120, log)
    demo.workers[1].start()
    assert demo.launcher.exit_code() == 0, demo.launcher.log()
    assert demo.result()["world_size"] == 2


def test_a_worker_that_never_answers_is_named(pods):
    def shorten_wait(job: dict[str, Any]) -> None:
        launcher = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        launcher["command"][-1:] = ["--wait", "5", "--"]

    demo = pods(change=shorten_wait)
    demo.workers[0].start()
    demo.launcher.start()
    assert demo.launcher.exit_code() == 1
    assert "demo-worker-1.demo.distsent.svc does not answer after 5 s" in demo.launcher.log()


def test_a_user_that_the_image_does_not_have_is_an_error(pods):
    def change_user(job: dict[str, Any]) -> None:
        for role in job["spec"]["mpiReplicaSpecs"].values():
            role["template"]["spec"]["securityContext"]["runAsUser"] = 1234

    demo = pods(change=change_user)
    demo.workers[0].start()
    demo.launcher.start()
    for pod in (demo.workers[0], demo.launcher):
        assert pod.exit_code() == 2
        assert "user 1234, which the image does not know" in pod.log(), pod.log()


def test_a_read_only_claim_fails_once_and_stops_the_workers(pods):
    def read_only(job: dict[str, Any]) -> None:
        for role in job["spec"]["mpiReplicaSpecs"].values():
            for volume in role["template"]["spec"]["volumes"]:
                volume.get("persistentVolumeClaim", {})["readOnly"] = True

    demo = pods(change=read_only)
    demo.start()
    assert demo.launcher.exit_code() == 2, demo.launcher.log()
    assert "run.dir: cannot write to /shared/runs/demo" in demo.launcher.log(), demo.launcher.log()
    wait_for("the workers have ended", lambda: not any(pod.running() for pod in demo.workers), 120)
    demo.launcher.start()  # the Job's restart
    assert demo.launcher.exit_code() == 2 and "not tried again" in demo.launcher.log()


def test_elastic_resumes_with_more_workers(pods):
    patches = {
        one["path"].rpartition("/")[2]: one["value"]
        for one in load_patches(ROOT / "k8s/elastic/mpijob.yaml")
    }

    def scale(job: dict[str, Any]) -> None:
        container = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
        container["command"] = [*patches["command"][:-1], "--poll", "1", "--"]
        container["args"] = [word.replace("imdb", "demo") for word in patches["args"]] + TINY

    demo = pods(change=scale)
    demo.show(demo.workers[0])
    demo.hold.at(3)
    demo.workers[0].start()
    demo.launcher.start()
    demo.wait_for_step(3)
    demo.workers[1].start()
    wait_for("the worker is ready", lambda: demo.ready(demo.workers[1]), 120, demo.workers[1].log)
    demo.show(*demo.workers)
    demo.release_after_stop_request()
    assert demo.launcher.exit_code() == 0, demo.launcher.log()
    assert "1 hosts have become 2" in demo.launcher.log()
    assert "resumed at step" in demo.launcher.log()
    assert demo.result()["world_size"] == 2 and demo.result()["steps"] == 60
