"""A run whose pods are preempted, drained and killed finishes with the weights of a plain run.

DISTSENT_TEST_DISRUPTIONS: how many of them `make chaos` tries (100).
"""

from __future__ import annotations

import os
import random
import re

import pytest
from image_cluster import Cluster
from image_jobs import MARKS, TINY, assert_same_training, plain_run
from image_pods import Pod

pytestmark = MARKS
MANY = int(os.environ.get("DISTSENT_TEST_DISRUPTIONS", "100"))
KILL_RANKS = "import os; from distsent.pods.serve import rank_pids as ranks"
KILL_RANKS += "; ended = [os.kill(pid, 9) for pid in ranks(first=1)]; assert ended"


def preempt(demo: Cluster, worker: Pod, step: int) -> None:
    """The scheduler deletes a worker: it saves before it leaves."""
    worker.delete()
    go_on_after_stop_request(demo, step)
    assert worker.exit_code() == 0, worker.log()
    assert "to save" in worker.log() and "the ranks have left" in worker.log()
    assert demo.launcher.running(), "the launcher itself starts the run again"


def drain(demo: Cluster, worker: Pod, step: int) -> None:
    """The node of the launcher and of a worker is drained."""
    demo.launcher.delete()
    worker.delete()
    go_on_after_stop_request(demo, step)
    assert demo.launcher.exit_code() == 75, demo.launcher.log()
    assert demo.status().startswith("stopped"), demo.status()


def kill(demo: Cluster, worker: Pod, step: int) -> None:
    """The container of a worker ends at once; the kubelet starts it again."""
    demo.until("the checkpoint is written", lambda: demo.checkpoint(step - 2), 60)
    worker.kill()
    demo.hold.at(step + 10)


def kill_ranks(demo: Cluster, worker: Pod, step: int) -> None:
    """The ranks of a worker end at once, and its sshd stays."""
    demo.until("the checkpoint is written", lambda: demo.checkpoint(step - 2), 60)
    worker.run("python", "-c", KILL_RANKS)
    demo.hold.at(step + 10)


def go_on_after_stop_request(demo: Cluster, step: int) -> None:
    demo.hear_stop_request()
    demo.hold.at(step + 10)


def series(count: int, launchers: int) -> list[tuple]:
    """Disruptions and workers' numbers. A Job bears as many lost launchers as `backoffLimit`."""
    if count == 3:
        return [(preempt, 1), (drain, 0), (kill, 1)]
    draw = random.Random(count)
    kinds = [draw.choice((preempt, preempt, kill, kill_ranks)) for _ in range(count)]
    for place in draw.sample(range(count), min(launchers, count)):
        kinds[place] = drain
    return [(kind, draw.randrange(2)) for kind in kinds]


@pytest.mark.parametrize(
    "count", [3, pytest.param(MANY, marks=[pytest.mark.chaos, pytest.mark.timeout(6 * 3600)])]
)
def test_a_run_outlasts_its_disruptions(pods, plain, tmp_path, count):
    steps = 30 + 10 * count
    keys = [] if steps == 60 else [f"train.max_steps={steps}", f"eval.every={steps}"]
    demo = pods(*keys)
    disruptions = series(count, launchers=demo.launcher_job.limit)
    demo.start_and_hold(12)
    for number, (disrupt, index) in enumerate(disruptions):
        step, before = 12 + 10 * number, demo.launcher.history()
        print(f"{number}: {disrupt.__name__} worker {index} at step {step}", flush=True)
        disrupt(demo, demo.workers[index], step)
        if number == count - 1:
            demo.hold.free()
            break
        demo.wait_for_step(step + 10)
        said = demo.launcher.history()[len(before) :]
        resumed = re.search(rf"resumed at step (\d+) of {steps}", said)
        # Workers agree on a stop a few steps after one of them was asked.
        saved = [step - 2] if disrupt in (kill, kill_ranks) else range(step, step + 10)
        assert resumed and int(resumed[1]) in saved, said
    assert demo.finish() == "Complete", demo.launcher.history()
    drains = sum(kind is drain for kind, _ in disruptions)
    assert demo.launcher_job.failed == drains and demo.launcher.starts == 1 + drains
    assert not demo.failure, "one MPIJob, which has not failed"
    lines = demo.launcher.history()
    assert lines.count("; starting it again") == count - drains, lines
    ends = [int(code) for code in re.findall(r"the run ended with (\d+)", lines)]
    assert not set(ends) & {0, 2, 3}, ends
    if keys:
        plain = plain_run(tmp_path / "plain", "demo", *TINY, *keys)
    assert_same_training(demo.result(), plain)
