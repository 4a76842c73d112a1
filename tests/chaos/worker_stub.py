"""Runs in place of a forked worker:  python worker_stub.py SOCKET [arguments of the worker]"""

import contextlib
import json
import os
import signal
import socket
import sys

connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
message = {
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "arguments": sys.argv[2:],
    "stub": os.getpid(),
}
text = json.dumps(message).encode() + b"\n"
sent = socket.send_fds(connection, [text], [1, 2])
connection.sendall(text[sent:])
answers = connection.makefile("r")
worker = int(answers.readline())


def forward(number: int, frame: object) -> None:
    with contextlib.suppress(ProcessLookupError):  # already reaped, its status not yet received
        os.kill(worker, number)


for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, forward)
status = int(answers.readline() or signal.SIGKILL)
if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
sys.exit(os.WEXITSTATUS(status))
