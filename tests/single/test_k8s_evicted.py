"""The launcher deletes evicted workers of its own job, and nothing else; it goes on without."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from distsent.pods import evicted
from tests.api_server import FORBIDDEN, ApiServer, pod_list, serve, worker

POD = "/api/v1/namespaces/distsent/pods"


@pytest.fixture
def api(tmp_path, monkeypatch) -> Iterator[ApiServer]:
    if shutil.which("openssl") is None:
        pytest.skip("certificates need openssl")
    api = ApiServer(tmp_path / "api", "127.0.0.1")
    server = serve(api.folder, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    monkeypatch.setattr(evicted, "ACCOUNT", api.account)
    yield api
    server.shutdown()
    server.server_close()


def test_only_evicted_workers_of_the_own_job_are_deleted(api):
    ours, theirs = worker("my-launcher-1-worker-1", "my-launcher-1", "Evicted"), "my-launcher-1"
    launcher = worker("my-launcher-1-launcher", theirs, "Evicted")
    launcher["metadata"]["labels"]["training.kubeflow.org/job-role"] = "launcher"
    others = [
        worker("my-launcher-1-worker-2", theirs, None),  # failed by itself: it restarts in place
        worker("my-launcher-1-worker-3", theirs, "NodeLost"),
        worker("my-launcher-1-worker-4", theirs, "Evicted", "Running"),
        worker("my-worker-1", "my", "Evicted"),  # a server that ignores the selector
        launcher,
    ]
    api.answer(200, pod_list(*others, ours))
    assert list(evicted.delete_evicted("my-launcher-1-launcher")) == ["my-launcher-1-worker-1"]
    (listed, _), (deleted, options) = api.asked()
    assert listed == (
        f"GET {POD}?labelSelector=training.kubeflow.org/job-name%3Dmy-launcher-1%2C"
        "training.kubeflow.org/job-role%3Dworker&fieldSelector=status.phase%3DFailed"
    )
    assert deleted == f"DELETE {POD}/my-launcher-1-worker-1"
    assert options["preconditions"] == {"uid": "uid-my-launcher-1-worker-1"}


def test_each_failure_is_a_line_once_and_the_launcher_goes_on(api, monkeypatch, capfd):
    monkeypatch.setattr(evicted, "EVERY", 0.02)
    monkeypatch.setattr(socket, "gethostname", lambda: "demo-launcher.demo.distsent.svc")

    def wait_for(text: str) -> str:
        said, end = "", time.monotonic() + 60
        while text not in said:
            assert time.monotonic() < end, said
            said += capfd.readouterr().out
            time.sleep(0.05)
        return said

    evicted.keep_deleting()
    assert wait_for(str(FORBIDDEN["message"])).count("forbidden") == 1
    time.sleep(0.3)
    assert capfd.readouterr().out == "", "said once"
    token = api.account / "token"
    cases = [
        (lambda: api.answer(500, "<html>"), "500 Internal Server Error"),
        (lambda: api.answer(200, "ok"), "KeyError: 'items'"),
        (lambda: api.answer(200, pod_list({"metadata": {}, "status": None})), "KeyError: 'labels'"),
        (lambda: token.rename(api.folder / "token"), "No such file or directory: '"),
        (lambda: (api.folder / "token").rename(token), "KeyError: 'labels'"),
        (lambda: api.account.rename(api.folder / "x"), "no token: see k8s/evicted/mpijob.yaml"),
    ]
    for change, says in cases:
        change()
        said = wait_for(says)
        assert "the-token" not in said and all(
            line.startswith("distsent: evicted workers stay: ") for line in said.splitlines()
        ), said
    (api.folder / "x").rename(api.account)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    wait_for("refused")


def test_another_certificate_or_host_is_refused(api, tmp_path, monkeypatch):
    other = ApiServer(tmp_path / "other", "127.0.0.1")
    monkeypatch.setattr(evicted, "ACCOUNT", other.account)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        list(evicted.delete_evicted("demo-launcher"))
    assert not api.asked(), "the token stays here"
    with pytest.raises(OSError, match="demo-launcher-0-0 is not the launcher of an MPIJob"):
        list(evicted.delete_evicted("demo-launcher-0-0"))
