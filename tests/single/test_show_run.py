"""`make train` looks like one program: clean lines, one bar, the exit code of the launcher."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

SHOW_RUN = [sys.executable, str(Path(__file__).parents[2] / "tools" / "show_run.py")]
BOX = "-" * 76
FAILED = f"echo '{BOX}' >&2; echo 'mpirun: a process returned 2' >&2; echo '{BOX}' >&2; exit 2"


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [*SHOW_RUN, "bash", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_prefixes_of_ranks_are_removed_and_streams_kept_apart() -> None:
    done = run("echo '[1,0]<stderr>:  step 1' >&2; echo '[1,3]<stdout>:{}'; echo '[0]<stdout>:x'")
    assert (done.stderr, done.stdout, done.returncode) == ("  step 1\n", "{}\nx\n", 0)


def test_mpirun_says_why_only_where_no_worker_did() -> None:
    told = run("echo '[1,0]<stderr>:distsent: the key is wrong' >&2; " + FAILED)
    assert (told.stderr, told.returncode) == ("distsent: the key is wrong\n", 2)
    silent = run(FAILED)
    assert "mpirun: a process returned 2" in silent.stderr and silent.returncode == 2


def test_the_code_comes_back_if_the_caller_ignores_ended_children() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    command = [*SHOW_RUN, "bash", "-c", "exit 3"]
    assert subprocess.Popen(command, preexec_fn=ignore).wait(60) == 3


def test_a_signal_reaches_the_launcher_and_its_code_comes_back() -> None:
    script = "trap 'echo saved; exit 75' TERM; echo ready; while true; do sleep 0.1; done"
    process = subprocess.Popen([*SHOW_RUN, "bash", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "saved\n" and process.returncode == 75


def test_a_terminal_gets_a_bar_and_a_log_does_not() -> None:
    progress = 'distsent-progress: {"step": 5, "of": 10, "text": "step 5/10  loss 0.5"}'
    last = progress.replace('"step": 5', '"step": 10')
    script = (
        f"echo asked=$DISTSENT_PROGRESS >&2; echo '[1,0]<stderr>:{progress}' >&2; sleep 0.5;"
        f"echo '[1,0]<stderr>:{last}' >&2; echo '[1,0]<stderr>:the table' >&2"
    )
    assert run(script).stderr.startswith("asked=\n")
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "100", "LINES": "30"}
        os.execv(SHOW_RUN[0], [*SHOW_RUN, "bash", "-c", f"stty rows 30 cols 100; {script}"])
    shown, until = b"", time.monotonic() + 60
    while time.monotonic() < until:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"asked=json" in shown and b"50%" in shown and b"loss 0.5" in shown
    assert shown.rstrip().endswith(b"the table")  # not the bar


def test_progress_that_was_cut_short_is_a_line() -> None:
    """Nobody would read what follows it, and the workers would wait for that."""
    cut = 'distsent-progress: {"step": 5, "of"'
    done = run(f"echo '{cut}' >&2; echo 'distsent-progress: 5' >&2; echo next >&2")
    assert done.stderr == f"{cut}\ndistsent-progress: 5\nnext\n"
