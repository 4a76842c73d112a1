"""Tokenise a job's corpus once:  [mpirun -np 4] python -m distsent.prepare [JOB.toml] [section.key=value ...]

The tokens land in the job's token store, where `train` finds them. Under mpirun or srun the ranks share the work (that
needs mpi4py, and a data.store that all nodes see); without a launcher one process does it all.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsent import cli
from distsent.distributed.launchers import launcher_world_size
from distsent.distributed.mpi import MpiWorld
from distsent.distributed.world import World
from distsent.errors import FINISHED, UserError
from distsent.job import load_job

if TYPE_CHECKING:
    from distsent.data.token_store import TokenStore


def main(arguments: list[str]) -> int:
    parser = cli.Parser("prepare", __doc__)
    parser.add_job()
    help = "write the folder of each token store to FILE, one per line (one store per seed)"
    parser.add_argument("--store-list", type=Path, metavar="FILE", help=help)
    options = parser.parse_intermixed_args(arguments)
    asked = load_job(*parser.job_of(options.words))
    world = join_mpi()
    from distsent.data.token_store import (  # heavy: only for a job that is right
        open_token_store,
        token_store_folder,
    )
    from distsent.model.tokenizer import load_tokenizer

    load = partial(load_tokenizer, asked.model.name, asked.model.revision)
    tokenizer = world.all_or_raise(load, "prepare.tokenizer")
    folders: list[str] = []
    for seed in asked.seeds:
        progress = Progress() if world.is_main else None
        store = open_token_store(
            asked.data,
            seed,
            tokenizer,
            asked.data.max_length,
            token_store_folder(asked),
            progress=progress,
            workers=world,
        )
        if world.is_main:
            print(table(store), flush=True)
            folders.append(f"{store.folder.resolve()}\n")
    if world.is_main and options.store_list:
        options.store_list.write_text("".join(folders), encoding="utf-8")
    return FINISHED


def join_mpi() -> World:
    """The processes that the launcher started, connected by mpi4py, or this process alone."""
    promised = launcher_world_size()
    if promised is None or promised[1] == 1:
        return World()
    name, count = promised
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{name}={count} promises {count} ranks, but mpi4py cannot be imported ({error}): pip "
            "install mpi4py, or start without a launcher"
        ) from None
    communicator = MPI.COMM_WORLD
    if count != communicator.size:
        raise UserError(
            f"{name}={count} promises {count} ranks, MPI sees {communicator.size}: start with "
            "mpirun, or srun --mpi=pmix"
        )
    # Ranks of one host share its cores; mpirun may have bound each to some of them already.
    local_size = communicator.Split_type(MPI.COMM_TYPE_SHARED).size
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // local_size if cores == os.cpu_count() else cores)
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    return MpiWorld(communicator)


class Progress:
    """Rows tokenised: a bar on a terminal, else a line every few seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        self._bar: Any = None
        self._seconds, self._told = seconds, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if not total:  # another process is at it
            return
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, unit="row", dynamic_ncols=True, desc="tokenising")
            self._bar.update(done - self._bar.n)
            if done == total:
                self._bar.close()
        elif time.monotonic() - self._told >= self._seconds:
            self._told = time.monotonic()
            print(f"tokenising: {done:,} of {total:,} rows", file=sys.stderr, flush=True)


def table(store: TokenStore) -> str:
    """What the store holds, for people."""
    lines = [
        f"{'split':10} {'rows':>10} {'classes':>7} {'tokens':>14} {'mean':>6} {'longest':>7} {'truncated':>9}"
    ]
    for name, split in store.meta["splits"].items():
        rows, classes = split["rows"], sum(1 for count in split["classes"] if count)
        lines.append(
            f"{name:10} {rows:>10,} {classes:>7} {split['tokens']:>14,} {split['tokens'] / rows:>6.1f} "
            f"{split['longest']:>7} {split['truncated'] / rows:>9.1%}"
        )
    return "\n".join(
        [*lines, *(f"note: {line}" for line in store.warnings), f"token store: {store.folder}"]
    )


if __name__ == "__main__":
    cli.run(main)
