"""The image and the TrainJobs, run with podman as Kubeflow Trainer runs them, over MPI and torch.

python -m pytest tests/cluster/test_trainjob.py     as root; building a changed image takes minutes
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from image_jobs import (
    CPUS,
    MARKS,
    THREADS,
    TINY,
    WORKERS,
    assert_same_training,
    shorten_keepalive,
)
from image_jobset import TrainJob
from image_machine import ROOT
from image_pods import load

pytestmark = MARKS


@pytest.fixture
def trainjob(machine, image, tmp_path: Path) -> Iterator[Callable[..., TrainJob]]:
    """The demo job with two workers, after overriding keys; its pods end with the test."""
    made: list[TrainJob] = []
    folders = (tmp_path / str(number) for number in count())

    def make(policy: str, *overrides: str) -> TrainJob:
        job = copy.deepcopy(load(ROOT / f"k8s/trainjob/{policy}/demo.yaml")["TrainJob", "demo"])
        runtimes = load(ROOT / "k8s/trainjob/runtimes.yaml")
        runtime = copy.deepcopy(runtimes["TrainingRuntime", f"distsent-{policy}"])
        job["spec"]["trainer"]["numNodes"] = WORKERS
        job["spec"]["trainer"]["args"] += {
            w.partition("=")[0]: w for w in (*TINY, *overrides)
        }.values()
        for one in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
            container = one["template"]["spec"]["template"]["spec"]["containers"][0]
            container["resources"]["limits"]["cpu"] = CPUS
            shorten_keepalive(container)
            if not machine.has_limits:
                container.setdefault("env", []).append(THREADS)
        made.append(TrainJob(machine, image[1], next(folders), job, runtime))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("policy", ["mpi", "torch"])
def test_a_suspended_drained_and_evicted_trainjob_with_a_silent_node_ends_with_the_same_weights(
    trainjob, plain, policy
):
    demo = trainjob(policy)
    demo.start_and_hold(12)
    demo.suspend()
    assert {pod.last_code for pod in demo.pods} == {75}, demo.history()
    before = demo.steps()
    assert before < 60
    demo.resume()
    demo.start_and_hold(22)
    demo.drain(demo.nodes[1])
    demo.release_after_stop_request()
    demo.until("the JobSet starts anew", lambda: demo.saved_restarts)
    demo.start_and_hold(42)
    demo.until("the checkpoint is written", lambda: demo.checkpoint(40))
    demo.nodes[1].evict()  # by the kubelet, for its sizeLimit
    demo.until("the JobSet starts anew", lambda: demo.restarts)
    # The ranks need not wait a minute for the silent node. All pods have this template.
    demo.trains[0].container["args"].append("run.stall_seconds=15")
    demo.start_and_hold(52)
    demo.nodes[1].silence()
    demo.hold.free()
    demo.until("the others have noticed", lambda: noticed(demo))
    demo.lose_node(demo.nodes[1])
    assert demo.finish() == "Complete", demo.history()
    # The launcher waits for a worker, until its loss is a disruption; over torch the ranks end.
    assert (demo.restarts, demo.saved_restarts) == ((1, 2) if policy == "mpi" else (2, 1))
    log = demo.trains[0].history()
    assert f"resumed at step {before} of 60" in log and "resumed at step 40 of 60" in log
    assert_same_training(demo.result(), plain)
    if policy == "mpi":
        demo.until("the workers are gone", lambda: not any(pod.exists for pod in demo.nodes))


def noticed(demo: TrainJob) -> bool:
    waiting = "waiting for 1 of 2 workers: demo-node-0-1.demo"
    return demo.restarts == 2 or waiting in demo.trains[0].log()


@pytest.mark.parametrize("policy", ["mpi", "torch"])
def test_a_wrong_job_fails_at_once_and_its_pod_keeps_the_reason(trainjob, policy):
    demo = trainjob(policy, "optim.lrr=1")
    assert demo.finish() == "Failed" and (demo.restarts, demo.saved_restarts) == (0, 0)
    ended = [pod for pod in demo.trains if pod.exists and not pod.running()]
    # The Job stops the others as soon as one has failed.
    failed = [pod for pod in ended if pod.exit_code() == 2]
    assert failed, demo.history()
    for text in (failed[0].log(), failed[0].message()):
        assert "optim.lrr" in text and "did you mean" in text, text
    demo.until("nothing runs", lambda: not any(pod.running() for pod in demo.pods))
    assert "kill" not in demo.trains[0].history(), "the workers were left to the JobSet"
