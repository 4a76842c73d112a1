"""Starting workers on this machine alone."""

import sys
from collections.abc import Sequence
from pathlib import Path

from distsent.distributed.launchers import HOROVOD, TORCH, TRANSPORT
from distsent.errors import UserError
from distsent.storage import exists


def local_command(words: Sequence[str], workers: int, transport: str) -> list[str]:
    """The command that runs `python WORDS` as this many workers.

    `transport`: as run.transport; "auto" is Horovod if it is installed. Its horovodrun is that of
    this Python: PATH may have none, or another one's. Raises UserError if there is none.
    """
    horovodrun = Path(sys.executable).parent / "horovodrun"
    if transport != TORCH and exists(horovodrun):
        return [sys.executable, str(horovodrun), "-np", str(workers), sys.executable, *words]
    if transport == HOROVOD:
        asked = f"run.transport (or {TRANSPORT}) is {HOROVOD}, and there is no {horovodrun}"
        raise UserError(f'{asked}; make setup installs it, or set the transport to "auto"')
    return [sys.executable, "-m", "distsent.launch", f"--nproc-per-node={workers}", *words]
