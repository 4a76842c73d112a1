"""The policy that SLURM, Kubernetes and shell loops share, case by case."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distsent.errors import FAILED, FINISHED, NON_FINITE, STOPPED, USAGE_ERROR
from distsent.exit_policy import decide
from distsent.runtime.run_status import ATTEMPT, FILE, RunStatus, read_status

ROOT = Path(__file__).parents[2]

# What a start of a run left in status.json. It resumed at step 20 of 100.
RUNNING = RunStatus(message="training", step=20, of=100, resumed_from=20)
SAVED = replace(RUNNING, step=30)
STOPPED_RUN = SAVED.ended(STOPPED, "stop requested; saved after step 30 of 100")
NO_PROGRESS = RUNNING.ended(STOPPED, "stop requested: SIGTERM")
FAILED_RUN = SAVED.ended(FAILED, "out of memory")
DIED = SAVED.ended(FAILED, "rank 1 on node2 died at step 31", "worker_died")
SILENT = SAVED.ended(FAILED, "rank 1 on node2 has been silent for 60 s", "worker_lost")
WRONG = RUNNING.ended(USAGE_ERROR, "data.source: no rows")
NAN = SAVED.ended(NON_FINITE, "step 31: the loss is not finite")
DONE = replace(RUNNING, step=100).ended(FINISHED, "finished")

REQUESTED, LIMIT = {"stop_requested": True}, {"stop_requested": True, "out_of_time": True}


@pytest.mark.parametrize(
    ("code", "runs", "why", "action", "own_code", "cause"),
    [
        # The run's own code was passed on: nothing else matters, not even an older status.
        (0, [DONE], {}, "done", 0, "finished"),
        (0, [None], {}, "done", 0, "finished"),
        (0, [RUNNING], {}, "done", 0, "finished"),
        (2, [WRONG], {}, "give_up", 2, "usage_error"),
        (2, [None], {}, "give_up", 2, "usage_error"),
        (2, [DONE], REQUESTED, "give_up", 2, "usage_error"),
        (3, [NAN], {}, "give_up", 3, "non_finite"),
        (3, [RUNNING], LIMIT, "give_up", 3, "non_finite"),
        (1, [FAILED_RUN], {}, "retry", 1, "failed"),
        (1, [None], {}, "retry", 1, "failed"),
        # Stopped on request: not a failure, unless a time limit left no time to save a step.
        (75, [STOPPED_RUN], {}, "requeue", 75, "stopped"),
        (75, [STOPPED_RUN], REQUESTED, "requeue", 75, "stopped"),
        (75, [STOPPED_RUN], LIMIT, "requeue", 75, "stopped"),
        (75, [NO_PROGRESS], {}, "requeue", 75, "stopped"),
        (75, [NO_PROGRESS], REQUESTED, "requeue", 75, "stopped"),
        (75, [NO_PROGRESS], LIMIT, "retry", 75, "no_progress"),
        (75, [None], REQUESTED, "requeue", 75, "stopped"),
        (75, [None], LIMIT, "retry", 75, "no_progress"),
        (75, [], LIMIT, "retry", 75, "no_progress"),
        (75, [], REQUESTED, "requeue", 75, "stopped"),
        # Killed by the signal of the stop, before it could listen or before it had saved.
        (143, [None], REQUESTED, "requeue", 75, "stopped"),
        (138, [None], REQUESTED, "requeue", 75, "stopped"),
        (140, [None], REQUESTED, "requeue", 75, "stopped"),
        (143, [RUNNING], REQUESTED, "requeue", 75, "stopped"),
        (137, [SAVED], REQUESTED, "requeue", 75, "stopped"),
        (143, [None], LIMIT, "retry", 75, "no_progress"),
        (129, [SAVED], REQUESTED, "requeue", 75, "stopped"),
        (152, [SAVED], REQUESTED, "requeue", 75, "stopped"),
        (137, [RUNNING], LIMIT, "retry", 75, "no_progress"),
        (143, [SAVED], LIMIT, "requeue", 75, "stopped"),
        (143, [None], {}, "retry", 143, "failed"),
        (138, [None], {}, "retry", 138, "failed"),
        (137, [None], {}, "retry", 137, "failed"),
        # A launcher hides the code: horovodrun over Gloo and torchrun end with 1.
        (1, [DONE], {}, "done", 0, "finished"),
        (1, [WRONG], {}, "give_up", 2, "usage_error"),
        (1, [NAN], {}, "give_up", 3, "non_finite"),
        (1, [STOPPED_RUN], {}, "requeue", 75, "stopped"),
        (1, [STOPPED_RUN], LIMIT, "requeue", 75, "stopped"),
        (1, [NO_PROGRESS], LIMIT, "retry", 75, "no_progress"),
        # srun and mpirun may end with the code of a rank that was killed after another had ended.
        (137, [STOPPED_RUN], {}, "requeue", 75, "stopped"),
        (143, [STOPPED_RUN], REQUESTED, "requeue", 75, "stopped"),
        (143, [NAN], {}, "give_up", 3, "non_finite"),
        (137, [FAILED_RUN], {}, "retry", 1, "failed"),
        (143, [DONE], {}, "done", 0, "finished"),
        # Failures of workers and nodes. A run that could not report one has lost its main worker.
        (1, [DIED], {}, "retry", 1, "worker_died"),
        (137, [DIED], {}, "retry", 1, "worker_died"),
        (1, [SILENT], {}, "retry", 1, "worker_lost"),
        (137, [RUNNING], {}, "retry", 137, "worker_lost"),
        (1, [SAVED], {}, "retry", 1, "worker_lost"),
        (1, [SAVED], REQUESTED, "retry", 1, "worker_lost"),
        # A segmentation fault counts as one of the start only if the run left no status.
        (139, [None], {}, "retry", 139, "crashed_at_start"),
        (139, [], {}, "retry", 139, "crashed_at_start"),
        (139, [None], REQUESTED, "retry", 139, "failed"),
        (139, [RUNNING], {}, "retry", 139, "worker_lost"),
        # Several seeds train one after the other; the last one that left a status ended the start.
        (1, [DONE, DONE], {}, "done", 0, "finished"),
        (1, [DONE, None], {}, "retry", 1, "failed"),
        (1, [DONE, STOPPED_RUN], {}, "requeue", 75, "stopped"),
        (75, [DONE, NO_PROGRESS], LIMIT, "requeue", 75, "stopped"),
        (75, [DONE, None], LIMIT, "requeue", 75, "stopped"),
        (1, [NAN, None], {}, "give_up", 3, "non_finite"),
        (139, [DONE, None], {}, "retry", 139, "failed"),
    ],
)
def test_the_decision(code, runs, why, action, own_code, cause):
    decision = decide(code, *runs, **why)
    assert (decision.action, decision.code, decision.cause) == (action, own_code, cause)


def test_the_message_is_that_of_the_run():
    assert decide(1, DONE, NAN).message == "step 31: the loss is not finite"
    assert decide(137, SAVED).message == "ended without a report; saved up to step 30 of 100"
    assert decide(1, None).message == ""


def test_a_status_says_whether_the_same_command_may_get_further():
    retries = {run.state: run.retry for run in (RUNNING, STOPPED_RUN, FAILED_RUN, DONE)}
    assert retries == {"running": True, "stopped": True, "failed": True, "finished": False}
    assert not WRONG.retry and not NAN.retry
    assert WRONG.state == NAN.state == "failed" and (NAN.code, NAN.step, NAN.of) == (3, 30, 100)


def test_a_status_survives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / FILE
    assert read_status(path) is None
    path.write_text("finished\n")
    assert read_status(path) is None
    path.write_text("[1]\n")
    assert read_status(path) is None
    monkeypatch.setenv(ATTEMPT, "7-2")
    status = RunStatus.started("training", step=20, of=100)
    assert status.attempt == "7-2" and status.resumed_from == 20 and not status.progressed
    values = json.loads(status.to_json()) | {"a key of a later version": 1}
    path.write_text(json.dumps(values))
    assert read_status(path) == status
    assert {"state", "code", "step", "of", "message", "retry"} <= set(values)


def next_action(*words: str, env: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "distsent.next_action", *words]
    environment = os.environ | (env or {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / FILE).write_text(replace(STOPPED_RUN, attempt="2").to_json())
    return tmp_path


def test_the_program_prints_a_line_that_a_shell_can_read(run: Path):
    line = next_action(str(run), "--code", "1")
    assert line == "requeue 75 stopped stop requested; saved after step 30 of 100\n"
    assert json.loads(next_action(str(run), "--code", "1", "--json")) == {
        "action": "requeue", "code": 75, "cause": "stopped",
        "message": "stop requested; saved after step 30 of 100",
    }  # fmt: skip
    assert next_action(str(run / "absent"), "--code", "139") == "retry 139 crashed_at_start \n"
    assert next_action("--code", "143", "--stop-requested", "--out-of-time") == (
        "retry 75 no_progress \n"
    )


def test_a_status_of_an_earlier_attempt_is_ignored(run: Path):
    assert next_action(str(run), "--code", "1", "--attempt", "2").startswith("requeue 75 stopped")
    assert next_action(str(run), "--code", "1", "--attempt", "3") == "retry 1 failed \n"
    assert next_action(str(run), "--code", "1", env={ATTEMPT: "3"}) == "retry 1 failed \n"


def test_the_program_answers_at_once(run: Path):
    code = (
        "import sys; from distsent import next_action; next_action.main(sys.argv[1:]);"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    before = os.times().children_user
    subprocess.run([sys.executable, "-c", code, str(run), "--code", "1"], check=True)
    assert os.times().children_user - before < 1.0  # seconds of processor time


@pytest.mark.parametrize(
    ("left", "starts", "last"),
    [
        ("", 3, "retry: exit code 1"),
        (replace(STOPPED_RUN, attempt="ATTEMPT").to_json(), 1, "requeue: stop requested"),
        (replace(NAN, attempt="ATTEMPT").to_json(), 1, "give_up: step 31: the loss is not finite"),
    ],
    ids=["failed", "stopped", "not finite"],
)
def test_the_retry_loop_of_the_docs(left: str, starts: int, last: str, tmp_path: Path):
    """The third start succeeds. The launcher hides all codes."""
    text = (ROOT / "docs/reliability.md").read_text()
    block = text[text.index("    export DISTSENT_ATTEMPT") :].partition("\n\n")[0]
    launcher, run = tmp_path / "horovodrun", tmp_path / "runs/imdb"
    run.mkdir(parents=True)
    (tmp_path / "left").write_text(left)
    launcher.write_text(
        "#!/bin/bash\necho >>starts\n"
        '[ ! -s left ] || sed "s/ATTEMPT/$DISTSENT_ATTEMPT/" left >runs/imdb/status.json\n'
        "[ $(wc -l <starts) = 3 ]\n"
    )
    launcher.chmod(0o755)
    (tmp_path / "sleep").symlink_to("/bin/true")
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", block],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "" and len((tmp_path / "starts").read_text()) == starts
    assert done.stdout.splitlines()[-1].startswith(last)
