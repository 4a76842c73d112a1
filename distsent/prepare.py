"""Tokenise a job's corpus once:  [mpirun -np 4] python -m distsent.prepare [JOB.toml] [section.key=value ...]

The tokens land in the job's token store, where `train` finds them. Under mpirun or srun the ranks share the work (that
needs mpi4py, and a data.store that all nodes see); without a launcher one process does it all.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from distsent import comm, door, job
from distsent.corpus.ranks import Alone, Ranks
from distsent.errors import FINISHED, UserError

if TYPE_CHECKING:
    from distsent.corpus.store import Store


def main(arguments: list[str]) -> int:
    parser = door.Parser("prepare", __doc__)
    parser.add_job()
    asked = job.load(*parser.job_of(parser.parse_args(arguments).words))
    ranks = join()
    from distsent.corpus.store import folder_of, open_store  # heavy: only for a job that is right
    from distsent.model.tokenizer import load_tokenizer

    tokenizer = ranks.all(lambda: load_tokenizer(asked.model.name, asked.model.revision))
    for seed in asked.seeds:
        progress = Progress() if ranks.rank == 0 else None
        store = open_store(asked.data, seed, tokenizer, asked.data.max_length, folder_of(asked), progress=progress, ranks=ranks)
        if ranks.rank == 0:
            print(table(store), flush=True)
    return FINISHED


def join() -> Alone:
    """The ranks that the launcher started, or this process alone."""
    promise = comm.promised()
    if promise is None or promise[1] == 1:
        return Alone()
    name, count = promise
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{name}={count} promises {count} ranks, but mpi4py cannot be imported ({error}): pip install mpi4py, or "
            "start without a launcher"
        ) from None
    world = MPI.COMM_WORLD
    if count != world.size:
        raise UserError(f"{name}={count} promises {count} ranks, MPI sees {world.size}: start with mpirun, or srun --mpi=pmix")
    # Ranks of one host share its cores; mpirun may have bound each to some of them already.
    neighbours = world.Split_type(MPI.COMM_TYPE_SHARED).size
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, cores // neighbours if cores == os.cpu_count() else cores)))
    return Ranks(world)


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


def table(store: Store) -> str:
    """What the store holds, for people."""
    lines = [f"{'split':10} {'rows':>10} {'classes':>7} {'tokens':>14} {'mean':>6} {'longest':>7} {'truncated':>9}"]
    for name, split in store.meta["splits"].items():
        rows, classes = split["rows"], sum(1 for count in split["classes"] if count)
        lines.append(
            f"{name:10} {rows:>10,} {classes:>7} {split['tokens']:>14,} {split['tokens'] / rows:>6.1f} "
            f"{split['longest']:>7} {split['truncated'] / rows:>9.1%}"
        )
    return "\n".join([*lines, *(f"note: {line}" for line in store.warnings), f"token store: {store.folder}"])


if __name__ == "__main__":
    door.enter(main)
