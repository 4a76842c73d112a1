"""An API server with prepared answers, over TLS, for what a pod asks with its token.

python tests/api_server.py FOLDER ADDRESS     serve there, at PORT, until killed
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT = 6443
TOKEN = "the-token-of-this-pod"
JOB, ROLE = "training.kubeflow.org/job-name", "training.kubeflow.org/job-role"
# As Kubernetes 1.33 answers, without the Role.
FORBIDDEN = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": 'pods is forbidden: User "system:serviceaccount:distsent:distsent-launcher" cannot '
    'list resource "pods" in API group "" in the namespace "distsent"',
    "reason": "Forbidden",
    "details": {"kind": "pods"},
    "code": 403,
}


def worker(name: str, job: str, reason: str | None, phase: str = "Failed") -> dict[str, Any]:
    labels = {JOB: job, ROLE: "worker"}
    status = {"phase": phase} | ({"reason": reason} if reason else {})
    return {
        "metadata": {"name": name, "namespace": "distsent", "uid": f"uid-{name}", "labels": labels},
        "status": status,
    }


def pod_list(*items: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [*items]}


class ApiServer:
    """`account`: the folder that a pod sees as its service account."""

    def __init__(self, folder: Path, *addresses: str) -> None:
        self.folder, self.account = folder, folder / "account"
        self.account.mkdir(parents=True)
        names = ",".join(f"IP:{each}" for each in addresses)
        words = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=kubernetes"]
        words += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        words += ["-addext", f"subjectAltName={names}"]
        words += ["-keyout", str(folder / "key"), "-out", str(self.account / "ca.crt")]
        subprocess.run(words, check=True, capture_output=True)
        (self.account / "token").write_text(TOKEN + "\n")
        (self.account / "namespace").write_text("distsent")
        self.answer(403, FORBIDDEN)

    def answer(self, code: int, body: dict[str, Any] | str) -> None:
        """What it says to every request that lists pods."""
        new = self.folder / "answer.new"
        new.write_text(json.dumps([code, body]))
        new.replace(self.folder / "answer")

    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        """All requests: method and path, and the body."""
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(json.loads(line)) for line in lines]

    def deleted(self) -> list[str]:
        words = [line.split() for line, _ in self.asked()]
        return [path.rpartition("/")[2] for method, path in words if method == "DELETE"]


def serve(folder: Path, address: str, port: int = PORT) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.note({})
            self.say(*json.loads((folder / "answer").read_text()))

        def do_DELETE(self) -> None:
            size = int(self.headers["Content-Length"])
            self.note(json.loads(self.rfile.read(size)))
            self.say(200, {"kind": "Pod"})

        def note(self, body: dict[str, Any]) -> None:
            assert self.headers["Authorization"] == f"Bearer {TOKEN}"
            with (folder / "asked").open("a") as file:
                file.write(json.dumps([f"{self.command} {self.path}", body]) + "\n")

        def say(self, code: int, body: dict[str, Any] | str) -> None:
            is_text = isinstance(body, str)
            data = (body if is_text else json.dumps(body)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if is_text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "account" / "ca.crt", folder / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2]).serve_forever()
