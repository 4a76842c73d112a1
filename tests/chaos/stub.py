"""Stands in a launcher's place for a worker of the nursery:  python stub.py SOCKET [arguments of the worker]"""

import contextlib
import json
import os
import signal
import socket
import sys

line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
what = {
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "arguments": sys.argv[2:],
    "stub": os.getpid(),
}
text = json.dumps(what).encode() + b"\n"
sent = socket.send_fds(line, [text], [1, 2])
line.sendall(text[sent:])
answers = line.makefile("r")
worker = int(answers.readline())


def pass_on(number: int, frame: object) -> None:
    with contextlib.suppress(
        ProcessLookupError
    ):  # ended and reaped already, its status on the way to here
        os.kill(worker, number)


for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, pass_on)
status = int(answers.readline() or signal.SIGKILL)
if os.WIFSIGNALED(status):
    signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(
        status
    ) != signal.SIGKILL else None
    os.kill(os.getpid(), os.WTERMSIG(status))
sys.exit(os.WEXITSTATUS(status))
