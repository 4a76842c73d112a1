"""Look for mistakes in a run's dataset:  python -m distsent.audit RUN [--folds 5]

Likely label errors, texts with two labels, and near duplicates, within and across splits, as JSON
lines in RUN/audit.jsonl, the likeliest first. Without --folds, labels are checked where the run
held rows out: validation and test. With --folds 5, also those of train: five runs of the same job,
each without a fifth of the rows, which it then scores. Under horovodrun, all workers train them.
The same command again resumes, or uses what is finished; for changed rows, it trains new runs. Of
several labels per text, and of numbers, only the texts are checked.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from distsent import cli
from distsent.distributed.launchers import init_world
from distsent.errors import FINISHED, UserError
from distsent.job import Job, load_saved_job
from distsent.job.resumable import RESUMABLE_KEYS
from distsent.job.schema import KEYS
from distsent.runtime.run_folder import RunFolder, disk_errors_as_user_errors, write_text
from distsent.runtime.signals import StopSignal, resumable

if TYPE_CHECKING:
    import numpy as np

    from distsent.data.dataset import Split
    from distsent.distributed.world import World
    from distsent.reporting.finished_run import FinishedRun, Predictions

SHOWN = 10  # findings on the console
ONE_LABEL = "single_label"  # the data.task whose labels are checked
KINDS = {
    "label": "likely label errors",
    "conflict": "equal texts with several labels",
    "duplicate": "near duplicates",
}


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    # Imported late: a wrong command line is answered without waiting for numpy and others.
    from distsent.reporting.finished_run import read_run

    run = read_run(options.run)
    job = audited_job(run)
    if options.folds and job.data.task != ONE_LABEL:
        problem = f"checks labels of data.task = {ONE_LABEL!r}, not of {job.data.task!r}"
        raise UserError(f"--folds {options.folds}: {problem}; without it, texts are checked")
    stop = StopSignal()
    world = init_world(job.run.transport, job.run.interface)
    with resumable(world, stop):
        folds = train_folds(run, job, options.folds, world, stop) if options.folds else []
        if world.is_main:
            report(run, job, folds, Path(options.out or run.folder.path / "audit.jsonl"))
    return FINISHED


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("audit", __doc__)
    add = parser.add_argument
    add("run", metavar="RUN", help="the folder of a finished run")
    add("--folds", metavar="K", type=int, default=0, help="runs that check the labels of train")
    add("--out", metavar="FILE", help="where the findings go (RUN/audit.jsonl)")
    options = parser.parse_args(arguments)
    if options.folds and options.folds < 2:
        raise UserError(f"--folds {options.folds}: expected 2 or more, e.g. 5; 0: no folds")
    if options.out:
        cli.check_output("--out", Path(options.out))
    return options


def audited_job(run: FinishedRun) -> Job:
    """The job of a run, with its folder where it is now."""
    tree = run.job
    tree["run"]["dir"] = str(run.folder.path.parent)
    return load_saved_job(tree, str(run.folder.result), [])


@dataclass(frozen=True)
class Fold:
    """A part of the train rows, int64 (n,), and the job that trains on the other parts."""

    rows: np.ndarray
    job: Job


def train_folds(
    run: FinishedRun, job: Job, count: int, world: World, stop: StopSignal
) -> list[Fold]:
    """Train a run without each of `count` parts of the train rows, on all workers."""
    import numpy as np

    from distsent.training.session import TrainingRun, train_all

    parts = world.on_main(lambda: write_folds(run, job, count), "audit.folds")
    folds = [Fold(np.array(rows), fold_job(run, job, name)) for name, rows in parts.items()]
    train_all([TrainingRun(fold.job, world, stop) for fold in folds])
    return folds


def fold_job(run: FinishedRun, job: Job, name: str) -> Job:
    """The job of one fold: only its dataset, its name and what it writes differ."""
    from distsent.data.folds import data_of_fold

    source = str(fold_folder(run, name).absolute())
    return replace(
        job,
        job=replace(job.job, name=f"{job.job.name}-audit-{name}"),
        run=replace(job.run, resume="auto"),
        data=data_of_fold(job.data, source, run.labels),
        train=replace(job.train, seed=job.seeds[0], patience=None, min_delta=0.0),
        eval=replace(job.eval, every="end", calibrate=False),
        log=replace(job.log, tensorboard=False, trackers=()),
    )


def fold_folder(run: FinishedRun, name: str) -> Path:
    path = run.folder.path
    return path.with_name(f"{path.name}-audit") / name


def write_folds(run: FinishedRun, job: Job, count: int) -> dict[str, list[int]]:
    """Write the dataset of each fold. Returns the rows of train that it scores, by its name.

    Equal texts stay together. Rows of classes that one fold would hold out whole are in none.
    """
    import numpy as np

    from distsent.data.folds import draw_folds, rows_as_json

    split = open_splits(run, job)["train"]
    labels, hashes = np.asarray(split.labels), np.asarray(split.hashes)
    folds = draw_folds(labels, hashes, count, f"--folds {count}")
    lines = [*rows_as_json([split], run.labels)]
    content = content_hash(fold_job(run, job, ""), lines)
    names = [f"{i + 1}of{count}-{content}" for i in range(count)]
    for i, fold in enumerate(names):
        folder = fold_folder(run, fold)
        with disk_errors_as_user_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, rows in (("train", folds != i), ("test", folds == i)):
                kept = "".join(lines[row] for row in np.flatnonzero(rows))
                write_text(folder / f"{name}.jsonl", kept)
    return {fold: np.flatnonzero(folds == i).tolist() for i, fold in enumerate(names)}


def content_hash(job: Job, lines: Iterable[str]) -> str:
    """8 digits, in the names of folds: others for other rows, or for a job that trains otherwise.

    A finished fold has scored the rows that it was trained for, in their order.
    """
    from xxhash import xxh3_64

    places = (*RESUMABLE_KEYS, "data.source", "job.name")
    # Keys that a later version adds change nothing where they are not set
    set_keys = [(k, x) for k, x in job.items() if k not in places and x != KEYS[k].default]
    digest = xxh3_64(repr(set_keys).encode())
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()[:8]


def open_splits(run: FinishedRun, job: Job) -> Mapping[str, Split]:
    """The rows of the run's dataset as they are now. Raises UserError for other classes."""
    from distsent.data.dataset import open_dataset

    dataset = open_dataset(job.data, job.seeds[0])
    if list(dataset.label_names) != run.labels:
        found = ", ".join(dataset.label_names)
        raise UserError(f"data.source: its classes are {found}; the run has other ones")
    return dataset.splits


def held_out(
    run: FinishedRun, splits: Mapping[str, Split], folds: list[Fold]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(split, rows of it, logits) that models were not trained on.

    Raises UserError if the rows of the dataset have changed.
    """
    import numpy as np

    from distsent.reporting.finished_run import read_run

    for name, split in splits.items():
        kept = run.predictions(name) if name != "train" else None
        if kept is not None:
            rows = np.searchsorted(split.rows, kept.rows)
            # Rows of which the tokenizer leaves nothing are in the dataset alone
            complete = len(rows) == len(split) or run.job["data"].get("drop_bad_rows", False)
            there = complete and np.isin(kept.rows, split.rows).all()
            if not there or not are_those(rows, split, kept, run.texts(name)):
                raise UserError(f"data.source: its {name} rows are not those that the run scored")
            yield name, rows, kept.logits
    for fold in folds:
        found = read_run(RunFolder(Path(fold.job.run.dir) / fold.job.job.name).path)
        kept = found.predictions("test")
        if kept is None or found.labels != run.labels:
            raise UserError(f"{found.folder.path}: its predictions are missing, or of other labels")
        rows = fold.rows[kept.rows]
        if not are_those(rows, splits["train"], kept, found.texts("test")):
            problem = "its train rows have changed since the folds were drawn"
            raise UserError(f"data.source: {problem}; run the same command again")
        yield "train", rows, kept.logits


def are_those(rows: np.ndarray, split: Split, kept: Predictions, texts: str | None) -> bool:
    """Whether `rows` of the split have the labels and the texts that were predicted.

    `texts`: a hash of these; None if the run has none.
    """
    import numpy as np
    from xxhash import xxh3_128_hexdigest

    if rows.max(initial=-1) >= len(split):
        return False
    found = xxh3_128_hexdigest(np.asarray(split.hashes)[rows].data)
    same = np.array_equal(np.asarray(split.labels)[rows], kept.labels)
    return same and texts in (None, found)


def report(run: FinishedRun, job: Job, folds: list[Fold], out: Path) -> None:
    """Write the findings and print a summary."""
    from distsent.data.folds import not_scored
    from distsent.reporting.findings import label_findings, text_findings

    splits, scored = open_splits(run, job), job.data.task == ONE_LABEL
    judged = [*held_out(run, splits, folds)] if scored else []
    labels = label_findings(run.task, splits, judged)
    findings = [*labels, *text_findings(run.task, splits)]
    with disk_errors_as_user_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(one, ensure_ascii=False) for one in findings)
        write_text(out, "".join(f"{line}\n" for line in lines))
    counts = Counter(one["kind"] for one in findings)
    checked = sum(len(rows) for _, rows, _ in judged)
    print(f"{run.name}: labels of {checked:,} of {sum(map(len, splits.values())):,} rows checked")
    left = len(splits["train"]) - sum(len(fold.rows) for fold in folds)
    if folds and left:
        print(f"train: {not_scored(left)}")
    for kind, title in KINDS.items():
        print(f"{counts[kind]:>7,}  {title}")
    for one in findings[:SHOWN]:
        suggested = one["suggested_label"]
        what = "" if suggested is None else f"{one['label']} -> {suggested}"
        place = f"{one['file']}, row {one['row']}"
        print(f"  {one['kind']:<9} {one['score']:.4f}  {place}  {what}  {one['text'][:60]!r}")
    print(out)


if __name__ == "__main__":
    cli.run(main)
