"""Which signals are stop requests, and which second signal exits at once."""

from __future__ import annotations

import json
import subprocess
import sys

# Each case in a process of its own, with a clock of its own.
CODE = """
import json, os, signal, sys, time, types
from distsent.runtime import signals

def say(values):  # one write: the processes share a pipe
    os.write(1, (json.dumps(values) + chr(10)).encode())

def act(words):
    now, handled, handle = 0.0, [], signals.StopSignal._handle
    signals.time = types.SimpleNamespace(monotonic=lambda: now)
    signals.StopSignal._handle = lambda *call: (handle(*call), handled.append(call))
    if "nohup" in words:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = signals.StopSignal()
    for word in words:
        if word == "pause":
            now += 3.0
        elif word == "other":  # as the heartbeat does for another worker's signal
            stop.request("SIGTERM on rank 1")
        elif word == "end":
            stop.ignore_further()
        elif word != "nohup":
            number, before = signal.Signals["SIG" + word], len(handled)
            os.kill(os.getpid(), number)
            while signal.getsignal(number) != signal.SIG_IGN and len(handled) == before:
                time.sleep(0.01)
    say([words, stop.requested])

children = {}
for words in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        act(words)
        os._exit(0)
    children[child] = words
for child, words in children.items():
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        say([words, code])
"""

CASES = {  # what a process goes through: its reason to stop, or the code that it exits with at once
    "": None,
    "TERM": "SIGTERM",
    "HUP": "SIGHUP",
    "XCPU": "SIGXCPU",
    "TERM TERM": "SIGTERM",  # a duplicate
    "HUP HUP": "SIGHUP",  # from the terminal and from its shell
    "TERM pause TERM": 75,
    "HUP pause HUP": 75,
    "INT pause HUP": 75,
    "USR1 pause USR1": "SIGUSR1",
    "USR1 pause USR2 pause USR1": "SIGUSR1",
    "USR1 pause TERM": "SIGUSR1",  # the first urgent one: it still saves
    "USR1 pause TERM pause TERM": 75,
    "TERM pause USR1 pause USR2": "SIGTERM",
    "XCPU pause XCPU pause XCPU": "SIGXCPU",  # one a second
    "XCPU pause TERM": "SIGXCPU",
    "other pause TERM": "SIGTERM on rank 1",  # this process's first signal
    "other pause TERM pause TERM": 75,
    "TERM pause end TERM XCPU HUP": "SIGTERM",  # while Python exits
    "nohup HUP pause HUP": None,
    "nohup HUP pause TERM": "SIGTERM",
}


def test_which_signals_stop_a_run_and_which_end_it_at_once() -> None:
    cases = json.dumps([words.split() for words in CASES])
    done = subprocess.run(
        [sys.executable, "-c", CODE, cases], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = {" ".join(words): end for words, end in map(json.loads, done.stdout.splitlines())}
    assert found == CASES
