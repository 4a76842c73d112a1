"""Deletes the job's workers that the kubelet evicted: the MPI operator does not make those again.

Off by default. It asks the API server with the token of the launcher's pod: see k8s/evicted/.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.client import HTTPSConnection
from os import environ
from pathlib import Path
from typing import Any
from urllib.parse import quote

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # token, ca.crt, namespace
JOB, ROLE = "training.kubeflow.org/job-name", "training.kubeflow.org/job-role"
LAUNCHER = "-launcher"  # the operator gives it the host name JOB-launcher
EVERY, TIMEOUT = 10.0, 10.0  # seconds


def keep_deleting() -> None:
    """Look for evicted workers from now on, beside whatever else this process does."""
    threading.Thread(target=look_again_and_again, daemon=True).start()


def look_again_and_again() -> None:
    """A failure is a line, once in a row: the run goes on without this."""
    last = ""
    while True:
        error = ""
        try:
            for name in delete_evicted(socket.gethostname().partition(".")[0]):
                line = f"deleted the evicted pod {name}, so a new one can come"
                print(f"distsent: {line}", flush=True)
        except Exception as caught:  # whatever comes as an answer
            error = " ".join(f"{type(caught).__name__}: {caught}".split())[:400]
        if error not in ("", last):
            print(f"distsent: evicted workers stay: {error}", flush=True)
        last = error
        time.sleep(EVERY)


def delete_evicted(host: str) -> Iterator[str]:
    """Delete the evicted workers of the job whose launcher has this host name. Yields their names.

    Raises OSError if the API server refuses, and whatever an answer of another shape leads to.
    """
    if not host.endswith(LAUNCHER):
        raise OSError(f"{host} is not the launcher of an MPIJob")
    if not ACCOUNT.is_dir():
        raise OSError("this pod has no token: see k8s/evicted/mpijob.yaml")
    wanted = {JOB: host.removesuffix(LAUNCHER), ROLE: "worker"}
    pods = f"/api/v1/namespaces/{(ACCOUNT / 'namespace').read_text().strip()}/pods"
    labels = quote(",".join(f"{key}={value}" for key, value in wanted.items()))
    failed = request("GET", f"{pods}?labelSelector={labels}&fieldSelector=status.phase%3DFailed")
    for pod in failed["items"]:
        metadata, status = pod["metadata"], pod["status"]
        is_ours = wanted.items() <= metadata["labels"].items()
        if is_ours and (status["phase"], status.get("reason")) == ("Failed", "Evicted"):
            # This very pod: another one of the same name may have come since.
            only = {"preconditions": {"uid": metadata["uid"]}}
            options = {"apiVersion": "v1", "kind": "DeleteOptions"} | only
            request("DELETE", f"{pods}/{metadata['name']}", options)
            yield metadata["name"]


def request(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The API server's answer. Raises OSError with its reason if it refuses."""
    server, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    token = "".join((ACCOUNT / "token").read_text().split())  # a new one comes every hour
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    connection = HTTPSConnection(server, int(port), timeout=TIMEOUT, context=context)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    is_json = answer.headers.get_content_type() == "application/json"
    said: dict[str, Any] = json.loads(text) if is_json else {}
    if answer.status >= 300:
        reason = said.get("message") or answer.reason
        raise OSError(f"{method} {path.partition('?')[0]}: {answer.status} {reason}")
    return said
