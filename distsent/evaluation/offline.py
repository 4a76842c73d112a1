"""Evaluate a saved model, on its own dataset or on another, on any number of workers."""

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distsent.data.files import ReadAs, Reading, recorded_reading
from distsent.data.labels.names import Naming
from distsent.data.layouts.find_files import find_files
from distsent.data.tokens import long_texts
from distsent.data.tokens.store import TokenStore, await_store, open_token_store, token_store_folder
from distsent.distributed.progress import phase_of
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.evaluate_split import evaluate_split
from distsent.evaluation.predictor import find_model_folder
from distsent.evaluation.saved_model import SavedModel, check_asked, load_saved_model
from distsent.evaluation.tasks.choose import choose_task, saved_task
from distsent.formats.records import first_few
from distsent.job import Job, load_job, load_saved_job
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection
from distsent.runtime import device as devices
from distsent.runtime.run_folder import read_json
from distsent.runtime.signals import StopSignal
from distsent.storage import exists
from distsent.versions import shared_software

# Keys that describe the dataset of the training run: they mean nothing for another dataset.
DATASET_KEYS = (
    "config", "revision", "train", "validation", "test", "labels", "max_rows", "max_eval_rows",
    "validation_fraction", "test_fraction", "pool_splits", "split_column", "store",
)  # fmt: skip
# Of which a model's own folder has a record
MODEL_KEYS = {"data.max_length", "data.long", "data.template"}
SPLIT_KEYS = {"data.validation_fraction", "data.test_fraction", "data.pool_splits"}


@dataclass(frozen=True)
class OtherDataset:
    """What the training says about a dataset that is not its own; None where it is not known.

    `label_values`: the class that each label had. `recorded`: how it read its files.
    `split_column`: the column that said which split a row is of, if nothing else does now.
    """

    label_values: Mapping[str, str] | None = None
    recorded: ReadAs | None = None
    split_column: str | None = None


@dataclass(frozen=True)
class EvaluationRequest:
    """A saved model, and the job whose `split` it is evaluated on.

    `single_split`: read the split as it is in the source, instead of splitting as for training.
    `own_keys`: of MODEL_KEYS, those that the model decides instead of the job.
    `other`: None for the dataset of the training itself.
    """

    folder: Path
    name: str
    job: Job
    split: str
    single_split: bool
    own_keys: Set[str] = frozenset()
    other: OtherDataset | None = None

    @property
    def only(self) -> str | None:
        """The split that is read alone; None: all of them are."""
        return self.split if self.single_split else None

    @property
    def recorded(self) -> ReadAs | None:
        """How the training read its files, for those of another dataset."""
        return self.other.recorded if self.other else None


def resolve_request(path: str, overrides: list[str], split: str) -> EvaluationRequest:
    """The model at `path` and its own job, if it has one, under overrides. Raises UserError."""
    folder = find_model_folder(path)
    keys = {override.partition("=")[0].strip() for override in overrides}
    other_dataset = "data.source" in keys
    single_split = other_dataset and keys.isdisjoint(SPLIT_KEYS)
    for word in overrides:
        key, _, value = word.partition("=")
        check_asked(folder, key.strip(), value)
    saved, task = folder.parent / "job.json", saved_task(folder)
    asked = [word for word in overrides if word.partition("=")[0].strip() == "data.task"]
    if any(word.partition("=")[2].strip(" '\"") != task for word in asked):
        raise UserError(f"{asked[-1]}: this model's task is {task!r}; leave data.task out")
    record = read_json(saved)
    if record is None:
        if not other_dataset:
            raise UserError(f"{path}: a model without a job; set data.source, e.g. to ./test.csv")
        job = load_job(None, [*overrides, f"data.task={task}"])
        known = MODEL_KEYS - keys, OtherDataset()
        return EvaluationRequest(folder, folder.name, job, split, single_split, *known)
    tree, other = record["job"], None
    if "precision" in tree.get("train", {}):  # the one of the training run, not the fastest here
        tree["train"]["precision"] = devices.pinned_precision(tree["train"]["precision"], record)
    if other_dataset:
        column = None if "data.split_column" in keys else tree["data"].get("split_column")
        other = OtherDataset(record.get("label_values"), recorded_reading(record), column)
        tree["data"] = {key: v for key, v in tree["data"].items() if key not in DATASET_KEYS}
    elif "run.dir" not in keys:
        tree["run"]["dir"] = str(saved.parent.parent)  # the token store moves along with the run
    job = load_saved_job(tree, str(saved), overrides)
    return EvaluationRequest(folder, tree["job"]["name"], job, split, single_split, other=other)


def evaluate_saved_model(
    request: EvaluationRequest, world: World, stop: StopSignal
) -> dict[str, Any]:
    """The split's scores, with 95 % confidence intervals; equal on all workers.

    Raises Stopped on all workers at a stop request on any of them.
    """
    job = request.job
    setup = {"job": job.to_dict(), "split": request.split, "software": shared_software()}
    world.assert_equal_across_ranks(setup, "the request or the software")
    devices.share_cores(world)
    device = devices.select_device(world.local_rank)
    precision, note = world.on_main(
        lambda: devices.resolve_precision(job.train.precision, device), "evaluate.precision"
    )
    model = world.all_or_raise(lambda: load_saved_model(request.folder, device), "evaluate.model")
    data = _resolve_lengths(request, model)
    if data.max_length > model.token_limit:
        problem = f"data.max_length = {data.max_length}: this model takes at most"
        raise UserError(f"{problem} {model.token_limit} tokens")
    job = replace(job, data=data)
    request = replace(request, job=job)
    store = open_store(request, world, model, stop)
    order = order_note(data, model.labels, store.label_names)
    for line in filter(None, (*model.notes, *store.notes, order)) if world.is_main else ():
        print(f"distsent: {line}", file=sys.stderr)
    windows, key = job.data.long == long_texts.WINDOWS, "train.precision" if note is None else None
    build = partial(model.build, job.model.packed, windows, precision, key)
    forward, precision = world.all_or_raise(build, "evaluate.usable")
    split = store.splits[request.split]
    options: Any = {"batch_tokens": job.eval.batch_tokens, "precision": precision}
    options["device"] = model.device
    options["stop"] = lambda: stop.requested is not None
    task = choose_task(job.data.task, model.labels)
    with world.progress.phase("evaluate"):
        scores, logits = evaluate_split(world, forward, split, task, **options)
    check_finite(logits, request.folder, precision)
    if world.is_main and (remark := task.remark(scores)):
        print(f"distsent: {remark}", file=sys.stderr)
    source = {"name": request.name, "source": job.data.source, "split": request.split}
    how = {"labels": model.labels, "computed_in": precision, "world_size": world.size}
    intervals = task.intervals(scores, logits.numpy(), split.labels[:])
    return {"model": str(request.folder), **source, **scores, "intervals": intervals, **how}


def check_finite(logits_nC: torch.Tensor, folder: Path, precision: str) -> None:
    """Raise UserError for rows without finite logits: they would count as the first class."""
    if lost := int((~logits_nC.isfinite().all(1)).sum()):
        problem = f"the logits of {lost:,} of {len(logits_nC):,} rows are not finite in {precision}"
        fix = "; train.precision=float32 may score them" if precision in devices.HALF else ""
        raise UserError(f"{folder}: {problem}: they have no scores{fix}")


def _resolve_lengths(request: EvaluationRequest, model: SavedModel) -> DataSection:
    """The job's [data], with what the model decides."""
    data = request.job.data
    if "data.max_length" in request.own_keys:
        data = replace(data, max_length=model.max_length)
    if "data.long" in request.own_keys:
        own = model.long_texts
        data = replace(data, long=own.long, window_overlap=own.window_overlap)
    if "data.template" in request.own_keys:
        data = replace(data, template=model.template)
    return data


def model_naming(request: EvaluationRequest, names: Sequence[str]) -> Naming | None:
    """What names the labels of another dataset: the model; None if its names say nothing."""
    data, other = request.job.data, request.other
    if other is None or data.labels is not None or is_unnamed(names):
        return None
    of_task = Naming.of_numbers if data.task == "regression" else Naming.of_model
    return of_task(names, other.label_values)


def is_unnamed(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers gives classes without any."""
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))


def order_note(data: DataSection, names: Sequence[str], classes: Sequence[str]) -> str | None:
    """A line where words are compared with classes without names: their order may be another."""
    numbers = [str(i) for i in range(len(names))]
    sure = data.labels or data.label_columns or data.task == "regression"
    if sure or not is_unnamed(names) or list(classes) in (list(names), numbers):
        return None
    pairs = first_few([f"{name} = {word}" for name, word in zip(names, classes, strict=True)])
    fix = "data.labels names them in the model's order, if that is another one"
    return f"{pairs}: the model does not name its classes, so this is the dataset's order; {fix}"


def with_split_column(request: EvaluationRequest) -> DataSection:
    """The job's [data], with the split column of the training if another dataset has it, too.

    Rows of other splits may be those that the model was trained on.
    """
    data, column = request.job.data, request.other.split_column if request.other else None
    path = Path(data.source).expanduser()
    if column is None or not exists(path):
        return data
    try:
        files = find_files(data, path, Reading.of(data, request.recorded), request.only)
        columns = [names for split in files.splits for _, names in files.columns(split)]
    except UserError:  # which is raised again, explained, when the rows are read
        return data
    if not any(column in names for names in columns):
        return data
    rows = f"only rows of the {request.split} split are scored, as it says which these are"
    key = f"data.split_column = {to_toml_value(column)}"
    print(f"distsent: {key}: {rows}; data.split_column=none scores all", file=sys.stderr)
    return replace(data, split_column=column)


def open_store(
    request: EvaluationRequest, world: World, model: SavedModel, stop: StopSignal
) -> TokenStore:
    """The token store of the split. Raises UserError unless its classes are the model's."""
    data, names, tokenizer = request.job.data, model.labels, model.tokenizer
    store_folder, seed = token_store_folder(request.job), request.job.seeds[0]

    def moved(done: int, total: int) -> None:
        world.progress.worked()
        stop.raise_if_requested()

    def build() -> str:
        workers = World()
        store = open_token_store(
            with_split_column(request),
            seed,
            tokenizer,
            data.max_length,
            store_folder,
            workers=workers,
            progress=moved,
            only=request.only,
            naming=model_naming(request, names),
            recorded=request.recorded,
        )
        return str(store.folder)

    with world.progress.phase(phase_of(data.source, "tokenize")):
        folder = Path(world.on_main(build, "evaluate.store"))
    store = world.all_or_raise(lambda: await_store(folder), "evaluate.open")
    if request.split not in store.splits:
        found = ", ".join(store.splits)
        raise UserError(f"data.source: no {request.split} split; it has {found}: set --split")
    classes = list(store.label_names)
    counted = is_unnamed(names) or data.task == "regression"  # columns may have any name
    if len(classes) != len(names) if counted else classes != names:
        raise UserError(
            f"data.source: its classes are {', '.join(classes)}, not the model's: "
            f"{', '.join(names)}; data.labels names them in the model's order"
        )
    return store
