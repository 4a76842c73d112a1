"""Starts workers with torch's variables, as torchrun does:  python start_ranks.py N COMMAND ...

It imports nothing heavy. When one fails, it ends the others, and exits with a code of theirs.
"""

import os
import subprocess
import sys
import time

from tests.launcher import free_port

size, *command = sys.argv[1:]
shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
workers = []
for rank in map(str, range(int(size))):
    env = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
    workers.append(subprocess.Popen([sys.executable, *command], env=env))
while all(worker.poll() in (None, 0) for worker in workers):
    if all(worker.poll() == 0 for worker in workers):
        sys.exit(0)
    time.sleep(0.05)
for worker in workers:  # one has failed
    worker.terminate()
until = time.monotonic() + 10.0  # to report and exit, which a frozen one never does
while time.monotonic() < until and any(worker.poll() is None for worker in workers):
    time.sleep(0.05)
for worker in workers:
    worker.kill()
codes = [worker.wait() for worker in workers]
sys.exit(next(code if code >= 0 else 128 - code for code in codes if code))
