"""Start one node's workers:  python -m distsent.launch --nproc-per-node 4 -m distsent.train

torchrun in small, for where exit codes and signals must get through, as in a container: it takes
the same options or PET_* variables, passes on every signal that asks for a stop, also one that
comes before the workers start, and ends with the run's own exit code. On several nodes, start it
once per node with --nnodes, --node-rank, --master-addr and --master-port.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial

from distsent import cli
from distsent.distributed.launchers import TORCHRUN
from distsent.errors import FAILED, FINISHED, STOPPED, UserError
from distsent.runtime.cgroup import killed_for_memory, kills
from distsent.runtime.heartbeat.stacks import within
from distsent.runtime.signals import SIGNALS

Worker = subprocess.Popen[bytes]
# Workers leave together by themselves. Seconds after the first failure at which the rest is killed.
PATIENCE = 60.0


def main(arguments: list[str]) -> int:
    # Blocked, not handled: what arrives from now on waits for sigwait, even in a container, where
    # the kernel drops signals that its first process does not handle.
    awaited = {*SIGNALS, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    options = parse(arguments)
    workers, killed = list[Worker](), kills()
    try:
        for worker in start(options, before):
            workers.append(worker)  # each at once: if a later one fails, it must be killed
        code = watch(workers)
        if any(worker.poll() == -signal.SIGKILL for worker in workers):
            say(killed_for_memory(killed))
        return code
    finally:
        for worker in workers:
            worker.kill()


def parse(arguments: list[str], env: Mapping[str, str] = os.environ) -> argparse.Namespace:
    """The options, as torchrun has them. Raises UserError."""
    parser = cli.Parser("launch", __doc__)

    def add(name: str, default: str, about: str) -> None:
        other = name.replace("-", "_")  # torchrun's older spelling
        value = env.get(f"PET_{other.upper()}", default)
        spellings = dict.fromkeys((f"--{name}", f"--{other}"))
        parser.add_argument(*spellings, default=value, help=f"{about} ({value or 'none'})")

    add("nnodes", "1", "number of nodes")
    add("nproc-per-node", "1", "workers of this node: a number, or auto: GPUs, else cores")
    add("node-rank", "0", "number of this node, from 0")
    add("master-addr", "", "host of node 0; not needed with one node")
    add("master-port", "", "a free port there")
    parser.add_argument("-m", "--module", action="store_true", help="PROGRAM is a Python module")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="PROGRAM ARGUMENT")
    options = parser.parse_args(arguments)
    for name in ("nnodes", "nproc_per_node", "node_rank"):
        setattr(options, name, number_of(name, getattr(options, name), parser))
    if not options.command:
        parser.error("which program? -m distsent.train")
    if not 0 <= options.node_rank < options.nnodes or options.nproc_per_node < 1:
        parser.error(
            f"--node-rank {options.node_rank} of --nnodes {options.nnodes} with --nproc-per-node "
            f"{options.nproc_per_node}: ranks are 0 to nnodes - 1, and each node has a worker"
        )
    if options.master_port:
        port = number_of("master_port", options.master_port, parser)
        if not 1 <= port <= 65535:
            parser.error(f"--master-port {port}: expected a port, 1 to 65535")
    if options.nnodes > 1 and not (options.master_addr and options.master_port):
        parser.error("several nodes: set --master-addr to the host of node 0, and --master-port")
    return options


def number_of(name: str, text: str, parser: cli.Parser) -> int:
    if name == "nproc_per_node" and text in ("auto", "gpu", "cpu"):
        # A process of its own: torch takes hundreds of megabytes.
        count = "import torch; print(torch.cuda.device_count())"
        gpus = "0"
        if text != "cpu":
            gpus = subprocess.run(
                [sys.executable, "-c", count], stdout=subprocess.PIPE, text=True
            ).stdout
        return int(gpus or 0) or len(os.sched_getaffinity(0))
    if not text.isascii() or not text.isdigit():
        option = f"--{name.replace('_', '-')} {text[:80]}"
        # Ranges are torchrun's way to let workers come and go.
        others = "; workers that come and go need horovodrun" if ":" in text else ""
        parser.error(f"{option}: expected a number{others}")
    return int(text)


def start(options: argparse.Namespace, mask: set[int]) -> Iterator[Worker]:
    """Start this node's workers with the variables that torchrun sets. Raises UserError."""
    count, alone = options.nproc_per_node, options.nnodes == 1
    address = options.master_addr or "127.0.0.1"
    port = options.master_port or (free_port() if alone else "")
    shared = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "DISTSENT_LAUNCH": "1"}
    command = [sys.executable, *(["-m"] if options.module else []), *options.command]
    for local_rank in range(count):
        rank = options.node_rank * count + local_rank
        numbers = rank, options.nnodes * count, local_rank, count
        world = dict(zip(TORCHRUN, map(str, numbers), strict=True))
        try:
            yield subprocess.Popen(
                command,
                env={**os.environ, **shared, **world},
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask) and None,
            )
        except OSError as error:
            problem = f"worker {local_rank + 1} of {count} cannot be started ({error.strerror})"
            fix = "use a smaller --nproc-per-node, or allow more processes and memory (ulimit -a)"
            raise UserError(f"{problem}; {fix}", code=FAILED) from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def watch(workers: list[Worker]) -> int:
    """Pass on signals until all workers have ended. Returns the exit code of the run."""
    codes: list[int] = []  # of those that have ended, the first one first
    running, asked, deadline = list(workers), 0, float("inf")
    while running:
        number = signal.sigtimedwait({*SIGNALS, signal.SIGCHLD}, min(1.0, PATIENCE))
        if number is not None and number.si_signo != signal.SIGCHLD:
            asked = number.si_signo
            for worker in running:
                with suppress(ProcessLookupError):
                    worker.send_signal(asked)
        ended = [worker for worker in running if worker.poll() is not None]
        running = [worker for worker in running if worker not in ended]
        codes += [int(worker.returncode) for worker in ended]
        if any(code != FINISHED for code in codes):
            deadline = min(deadline, time.monotonic() + PATIENCE)
        # The signal came before a worker could handle it: the run has not begun.
        unborn = bool(asked) and -asked in codes
        if running and (unborn or time.monotonic() > deadline):
            for worker in running:
                worker.kill()
            for worker in running:
                worker.wait()
            return STOPPED if unborn else code_of(codes, asked)
    return code_of(codes, asked)


def say(line: str | None) -> None:
    if line:
        text = f"distsent: {line}\n".encode()
        within(1.0, partial(os.write, 2, text))  # it may be full


def code_of(codes: list[int], asked: int) -> int:
    """The run's exit code: that of the first worker that ended itself, not finished.

    What kills one worker makes the others end with the code that the run has.
    """
    if asked and -asked in codes:
        return STOPPED
    failed = [code for code in codes if code != FINISHED]
    own = [code for code in failed if code > 0] or [128 - code for code in failed]
    for code in failed:
        if code < 0:
            say(f"a worker was killed by {signal.Signals(-code).name}")
    return own[0] if own else FINISHED


if __name__ == "__main__":
    cli.run(main)
