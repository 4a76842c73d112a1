"""Trackers with their real libraries: `make trackers` builds an environment that has them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
# One start of a run, without the training: NAME, step it resumes at, whether SIGKILL ends it.
START = """
import json, os, sys, time
from distsent.runtime.ownership import Owner
from distsent.tracking.background import Background
from distsent.tracking.events import *

name, step, folder, killed = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "killed"
tracker = Background(name, Owner(), lambda line: print(line, flush=True))
values = {"optim.lr": 0.1, "data.labels": None, "train.token_budget": 100 + step}
logged = {"train": 30} if step else {}
tracker.hear(Started("it", folder, "0123abcd", step, 0, values, logged))
for at in range(step + 10, step + 31, 10):
    tracker.hear(Metrics({"step": at, "loss": 1 / at}))
tracker.hear(Evaluation("validation", {"step": step + 20, "loss": 0.5, "confusion": [[1]]}))
if killed:
    while tracker._waiting or tracker._sending:
        time.sleep(0.05)
    os.kill(os.getpid(), 9)
tracker.hear(Ended(0, "finished", step + 30, {"final/test/accuracy": 0.75}))
Listeners(tracker).close_within(300)
"""

pytestmark = pytest.mark.slow


def start(name: str, step: int, folder: Path, how: str = "finished", **env: str) -> str:
    """One start's lines of the log."""
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-c", START, name, str(step), str(folder), how]
    done = subprocess.run(
        command, env={**os.environ, **env, "PYTHONPATH": path}, cwd=folder, timeout=600,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == (-9 if how == "killed" else 0), done.stderr
    return done.stdout


def needs(name: str) -> pytest.MarkDecorator:
    why = f"{name} is not installed here: make trackers"
    return pytest.mark.skipif(find_spec(name) is None, reason=why)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """MLflow's own server on sqlite: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, store = f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path}/mlflow.sqlite"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with open(tmp_path / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 300
        while True:
            try:
                urlopen(f"{address}/health", timeout=10)
                break
            except OSError:
                assert time.monotonic() < until and process.poll() is None, "no server"
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


@needs("mlflow")
def test_mlflow_continues_the_run_of_a_killed_start(server: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    where = {"MLFLOW_TRACKING_URI": server}
    assert start("mlflow", 0, tmp_path, "killed", **where) == ""
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("distsent").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "RUNNING" and run.info.run_name == "it"
    assert start("mlflow", 20, tmp_path, **where) == ""
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED" and run.data.metrics["final/test/accuracy"] == 0.75
    assert run.data.params["train.token_budget"] == "100", "parameters are those of the first start"
    assert run.data.tags["resumed.train.token_budget"] == "120"
    for key, steps in (("train/loss", [10, 20, 30, 40, 50]), ("validation/loss", [20, 40])):
        assert [one.step for one in client.get_metric_history(run.info.run_id, key)] == steps


@needs("mlflow")
def test_mlflow_works_without_a_server_on_a_file_and_says_so_if_one_is_missing(
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/offline.sqlite"
    assert start("mlflow", 0, tmp_path, MLFLOW_TRACKING_URI=store) == ""
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("distsent").experiment_id])
    assert run.data.metrics["train/loss"] == 1 / 30
    with socket.socket() as closed:  # bound, and not listening
        closed.bind(("127.0.0.1", 0))
        address = f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}"
        first, last = start("mlflow", 0, tmp_path, MLFLOW_TRACKING_URI=address).splitlines()
    assert "Connection refused" in first and "secret" not in first
    assert last == "tracker mlflow: 6 events of this start not sent"


@needs("wandb")
def test_wandb_continues_the_run_offline(tmp_path: Path) -> None:
    offline = {"WANDB_MODE": "offline"}
    assert start("wandb", 0, tmp_path, "killed", **offline) == ""
    assert start("wandb", 20, tmp_path, **offline) == ""
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [file.name for file in files] == ["run-0123abcd.wandb"] * 2
    assert b"train/loss" in files[1].read_bytes()


@needs("wandb")
def test_wandb_without_a_key_asks_nobody(tmp_path: Path) -> None:
    keyless = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": "/none"}
    first, last = start("wandb", 0, tmp_path, **keyless).splitlines()
    assert first.startswith("tracker wandb: ") and "key" in first
    assert last == "tracker wandb: 6 events of this start not sent"


@needs("trackio")
def test_trackio_continues_the_run(tmp_path: Path) -> None:
    where = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    assert start("trackio", 0, tmp_path, "killed", **where) == ""
    assert start("trackio", 20, tmp_path, **where) == ""
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S; "
        "print(json.dumps([S.get_runs('distsent'), S.get_logs('distsent', 'it-0123abcd')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **where}, capture_output=True, text=True
    )
    runs, logs = json.loads(done.stdout.splitlines()[-1])
    assert runs == ["it-0123abcd"]
    assert [log["step"] for log in logs if "train/loss" in log] == [10, 20, 30, 40, 50]
