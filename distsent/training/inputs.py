"""What a run starts from: tokenizer, token store, model, weights of the classes."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from distsent.data.files import ReadAs
from distsent.data.tokens.batch_tokenizer import BatchTokenizer
from distsent.data.tokens.long_texts import LongTexts
from distsent.data.tokens.store import TokenStore, await_store, open_token_store, token_store_folder
from distsent.distributed.progress import phase_of
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.tasks.task import Task
from distsent.job.job import Job
from distsent.job.rules import PRETRAINED, has_own_texts
from distsent.model import adapter, classifier, head
from distsent.model.forward import check_windows
from distsent.model.tokenizer import load_tokenizer
from distsent.model.weights import Loaded
from distsent.runtime.signals import StopSignal


def prepare_tokenizer(job: Job) -> Any:
    """Raises UserError if the model or the packages of an adapter are not available.

    Also if the model cannot do what the job asks of its architecture.
    """
    adapter.check_adapter(job)
    check_windows(job)
    return load_tokenizer(job.model.name, job.model.revision)


def prepare_store(
    job: Job, tokenizer: Any, world: World, stop: StopSignal, recorded: ReadAs | None
) -> TokenStore:
    """The token store, which the main worker writes first if it is missing.

    `recorded`: how this run read its files before. It decides what changed files leave open.
    """
    data, seed, parent = job.data, job.seeds[0], token_store_folder(job)

    def progress(done: int, total: int) -> None:
        world.progress.worked()
        stop.raise_if_requested()

    def tokenize() -> str:
        content = (data, seed, tokenizer, data.max_length, parent)
        read = partial(open_token_store, *content, workers=World(), progress=progress)
        try:
            return str(read().folder)
        except UserError:
            if recorded is None:
                raise
            return str(read(recorded=recorded).folder)

    with world.progress.phase(phase_of(data.source, "tokenize")):
        folder = Path(world.on_main(tokenize, "run.tokenize"))
    store = world.all_or_raise(lambda: await_store(folder), "run.store")
    world.assert_equal_across_ranks(store.meta, "the token store")
    encode = BatchTokenizer.of(tokenizer, data, data.max_length)
    world.assert_equal_across_ranks({"digest": encode.digest}, "the tokenizer of model.name")
    return store


def check_length(job: Job, total_steps: int) -> None:
    """Raises UserError if the run ends before what its job asks for can happen.

    Where train.max_steps is set, the job itself has been checked.
    """
    warmup, every, lines = job.optim.warmup, job.eval.every, []
    length = f"train.epochs = {job.train.epochs:g} takes {total_steps} steps"
    if warmup >= 1 and warmup > total_steps:
        lines.append(f"optim.warmup = {int(warmup)} steps is longer than the run: {length}")
    if job.train.patience and isinstance(every, int) and every >= total_steps:
        problem = f"needs evaluations before the end; eval.every = {every} runs none: {length}"
        lines.append(f"train.patience = {job.train.patience}: {problem}")
    if lines:
        raise UserError(*lines)


def encoder_notes(job: Job) -> list[str]:
    """A line if the demo's encoder learns from other texts than the demo's."""
    if job.model.name != "demo" or not has_own_texts(job.data):
        return []
    return [
        "model.name = 'demo' is a small encoder with random weights, which knows only the words of "
        f"the demo dataset; for your own texts name a pretrained one, e.g. model.name={PRETRAINED}"
    ]


def budget_notes(job: Job, store: TokenStore) -> list[str]:
    """A line for a batch larger than the training split, and for texts longer than a batch.

    Only the windows of a text (data.long) can have more tokens than a batch. They are never parted.
    """
    lines, rows = [], len(store.splits["train"])
    if job.train.batch_size > rows:
        asked = f"train.batch_size = {job.train.batch_size}"
        lines.append(f"{asked}: each step takes all {rows:,} training rows, as there are no more")
    for name, tokens in store.splits.items():
        key = "train.token_budget" if name == "train" else "eval.batch_tokens"
        budget = job.train.token_budget if name == "train" else job.eval.batch_tokens
        longest = store.meta["splits"][name]["longest"]
        if longest > budget:
            count, rows = int((tokens.lengths() > budget).sum()), len(tokens)
            lines.append(
                f"{name}: {count:,} of {rows:,} texts ({count / rows:.1%}) have more tokens in "
                f"their windows than {key} = {budget}, up to {longest:,}: each is a batch of its "
                "own, which takes the memory of all its tokens; if that is too much, set "
                'data.long = "head_tail"'
            )
    return lines


def prepare_model(job: Job, tokenizer: Any, store: TokenStore, precision: str) -> Loaded:
    """Raises UserError if job, model, tokenizer and dataset do not fit together."""
    loaded = adapter.build_model(job, tokenizer, store.label_names, precision)
    if known := LongTexts.of(job.data).to_dict():
        loaded.model.config.long_texts = known  # in model/, for predict and evaluate
    if job.data.template is not None:
        loaded.model.config.text_template = job.data.template
    limit, length, name = classifier.token_limit(loaded.model), job.data.max_length, job.model.name
    if length > limit:
        raise UserError(f"data.max_length = {length}: {name} takes at most {limit} tokens")
    classifier.check_vocabulary(loaded.model, tokenizer, f"model.name = {name!r}")
    fix = "set data.validation_fraction, e.g. 0.1"
    if job.eval.calibrate:
        head.check_head(loaded.model)
    if "validation" not in store.splits and job.train.patience is not None:
        raise UserError(f"train.patience: there is no validation split to watch; {fix}")
    if not {"validation", "test"} & set(store.splits):
        raise UserError(f"data.source: neither a validation nor a test split; {fix}")
    return loaded


def class_weights(
    job: Job, store: TokenStore, task: Task, device: torch.device
) -> torch.Tensor | None:
    """`train.class_weights` as a tensor, None for equal weights."""
    weights, names = job.train.class_weights, store.label_names
    if weights == "none":
        return None
    if weights == "balanced":
        return task.balanced_weights(store.splits["train"].labels[:]).float().to(device)
    if len(weights) != len(names):
        found = f"{len(weights)} weights for {len(names)} classes ({', '.join(names)})"
        raise UserError(f"train.class_weights: {found}")
    return torch.tensor(weights, dtype=torch.float32, device=device)
