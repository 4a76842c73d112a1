"""Tokenize a dataset once:  [mpirun -np 4] python -m distsent.prepare [JOB.toml] [key=value ...]

The tokens go to the job's token store, where `train` finds them. Under mpirun, srun or torchrun
the ranks share the work, which needs a data.store that all nodes see, and under mpirun mpi4py.

`--describe` shows what a dataset contains and how to train on it: columns, classes, problems, and
the command. A file or folder in place of JOB.toml is data.source.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsent import cli
from distsent.distributed.launchers import TORCH, find_launch, init_world
from distsent.distributed.mpi import MpiWorld
from distsent.distributed.world import World
from distsent.errors import FINISHED, USAGE_ERROR, Stopped, UserError
from distsent.job import Job, load_job, load_job_to_train
from distsent.job.rules import PRETRAINED, has_own_texts
from distsent.job.schema import DataSection, JobSection
from distsent.runtime.run_folder import write_text
from distsent.runtime.signals import StopSignal, grace
from distsent.storage import is_file

if TYPE_CHECKING:
    from distsent.data.tokens.store import TokenStore


def main(arguments: list[str]) -> int:
    parser = cli.Parser("prepare", __doc__)
    parser.add_job()
    help = "write the folder of each token store to FILE, one per line (one store per seed)"
    parser.add_argument("--store-list", type=Path, metavar="FILE", help=help)
    about = "show what the dataset contains and how to train on it, and exit"
    parser.add_argument("--describe", action="store_true", help=about)
    options = parser.parse_intermixed_args(arguments)
    load = load_job if options.describe else load_job_to_train
    asked, stop = load(*parser.job_of(options.words)), StopSignal(grace())
    check_store_list(options)
    if options.describe:
        return print_description(asked, options.words)
    world = join_workers(asked.run.transport, asked.run.interface, lambda: stop.requested)
    try:
        folders = tokenize(asked, world, stop)
    except Stopped as error:
        raise Stopped(f"{error}; run the same command again") from None
    finally:
        stop.grace = None
    if world.is_main and options.store_list:
        options.store_list.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.store_list, "".join(f"{folder}\n" for folder in folders))
    world.shutdown()
    return FINISHED


def check_store_list(options: argparse.Namespace) -> None:
    """Raises UserError if the list cannot be written, or would replace something else."""
    path = options.store_list
    if path is None:
        return
    if options.describe:
        raise UserError(f"--store-list {path}: --describe writes no token store; leave one out")
    cli.check_output("--store-list", path)
    # Such as JOB.toml: `--store-list jobs/imdb.toml` without the name of a list
    if is_file(path):
        with open(path, "rb") as file:
            begin = file.read(1)
        if begin not in (b"", b"/"):
            problem = "is there and is no list of token stores, so it is not replaced"
            raise UserError(f"--store-list {path}: {problem}; give another file, or delete it")


def tokenize(asked: Job, world: World, stop: StopSignal) -> list[Path]:
    """Write the token stores of the job, one per seed, and print what is in them.

    Raises Stopped on all ranks at a stop request on any of them.
    """
    # Heavy imports, only for a valid job
    from distsent.data.tokens.store import open_token_store, token_store_folder
    from distsent.model.forward import check_windows
    from distsent.model.tokenizer import load_tokenizer
    from distsent.versions import shared_software

    setup = {"job": asked.to_dict(), "software": shared_software()}
    world.assert_equal_across_ranks(setup, "the job or the software")
    data, model, folder = asked.data, asked.model, token_store_folder(asked)
    length = data.max_length
    world.on_main(lambda: check_windows(asked), "windows")
    tokenizer = world.all_or_raise(lambda: load_tokenizer(model.name, model.revision), "tokenizer")
    folders: list[Path] = []
    for seed in asked.seeds:
        with Progress(world.is_main, stop) as progress:
            store = open_token_store(
                data, seed, tokenizer, length, folder, workers=world, progress=progress
            )
        folders.append(store.folder.resolve())
        if world.is_main:
            print(format_store(store), flush=True)
    return folders


def print_description(job: Job, words: list[str]) -> int:
    """Print a screen about the dataset."""
    from distsent.data.describe import describe, name_of, to_lines

    default = DataSection()
    given = [word.partition("=")[0].strip() for word in words]
    given += [f"data.{k}" for k, value in vars(job.data).items() if value != getattr(default, k)]
    found = describe(job.data, given)
    name = job.job.name if job.job.name != JobSection().name else name_of(job.data.source)
    own_texts = job.model.name == "demo" and has_own_texts(job.data)
    encoder = PRETRAINED if own_texts else job.model.name
    print("\n".join(to_lines(found, name, encoder)))
    return FINISHED if found.ready else USAGE_ERROR


def join_workers(
    transport: str = "auto",
    interface: str | None = None,
    stop: Callable[[], str | None] = lambda: None,
) -> World:
    """The processes that the launcher started: over torch, by mpi4py, or this process alone."""
    launch = find_launch(asked=transport)
    if launch.transport == TORCH:
        world = init_world(transport, interface, stop=stop)
        share_cores(world.local_size)
        return world
    if launch.size == 1:
        return World()
    promise = f"{launch.promise} promises {launch.size} ranks"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        fix = "pip install mpi4py, or start without a launcher, or with torchrun"
        raise UserError(f"{promise}, but mpi4py cannot be imported ({error}): {fix}") from None
    communicator = MPI.COMM_WORLD
    if launch.size != communicator.size:
        fix = "start with mpirun, or srun --mpi=pmix"
        raise UserError(f"{promise}, MPI sees {communicator.size}: {fix}")
    share_cores(communicator.Split_type(MPI.COMM_TYPE_SHARED).size)
    return MpiWorld(communicator)


def share_cores(local_size: int) -> None:
    """Ranks of a host share its cores; mpirun may have bound each to some of them already."""
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // local_size if cores == os.cpu_count() else cores)
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))


class Progress:
    """Rows tokenized: a bar on a terminal, otherwise a line every few seconds.

    `shown`: whether this rank shows it. Raises Stopped on request, on any rank.
    """

    def __init__(self, shown: bool, stop: StopSignal, seconds: float = 5.0) -> None:
        self._bar: Any = None
        self._is_shown, self._stop = shown, stop
        self._seconds, self._last = seconds, time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        self._stop.raise_if_requested()
        if not total or not self._is_shown:  # without a total, another process builds the store
            return
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, unit="row", dynamic_ncols=True, desc="tokenizing")
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            print(f"tokenizing: {done:,} of {total:,} rows", file=sys.stderr, flush=True)


def format_store(store: TokenStore) -> str:
    """The content of a store as a table, with its warnings and its folder."""
    heads = ("split", "rows", "classes", "tokens", "mean", "longest", "truncated")
    lines = ["{:10} {:>10} {:>7} {:>14} {:>6} {:>7} {:>9}".format(*heads)]
    for name, split in store.meta["splits"].items():
        rows, tokens = split["rows"], split["tokens"]
        classes = sum(1 for count in split.get("classes", ()) if count)
        lines.append(
            f"{name:10} {rows:>10,} {classes:>7} {tokens:>14,} {tokens / rows:>6.1f} "
            f"{split['longest']:>7} {split['truncated'] / rows:>9.1%}"
        )
    notes = [f"note: {line}" for line in store.notes]
    return "\n".join([*lines, "", *store.label_table, "", *notes, f"token store: {store.folder}"])


if __name__ == "__main__":
    cli.run(main)
