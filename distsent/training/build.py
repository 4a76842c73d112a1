"""The parts of a training that know nothing of its run folder: model, batch plan, training step."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from distsent.batching.batch_plan import BatchPlan
from distsent.batching.flops import FlopCounter
from distsent.batching.sampler import BatchSampler
from distsent.data.tokens.long_texts import WINDOWS
from distsent.data.tokens.store import TokenStore
from distsent.distributed.progress import phase_of
from distsent.distributed.shared_memory import NotShared
from distsent.distributed.world import World
from distsent.evaluation.tasks.choose import choose_task
from distsent.job.job import Job
from distsent.model import classifier
from distsent.model.determinism import strict_or_note
from distsent.model.flops import measure_flops
from distsent.model.forward import Forward, build_forward, choose_ways
from distsent.model.half_precision import usable_precision
from distsent.model.kernel_check import check_kernels
from distsent.model.light_layers import lighten_layers
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import PaddedForward
from distsent.model.pooling import FIRST
from distsent.model.recompute import recompute_layers
from distsent.model.weights import Loaded
from distsent.operators import fused_attention, gpu, library
from distsent.runtime import device as devices
from distsent.runtime.heap import trim_between_layers, trim_heap
from distsent.training import half_weights, replica_check
from distsent.training.exchange import Exchange
from distsent.training.flat_parameters import FlatParameters
from distsent.training.inputs import class_weights, prepare_model
from distsent.training.optimizer import Schedule
from distsent.training.passes import Pass, TrainingLoss
from distsent.training.recorded_passes import Graphs, RecordedPasses
from distsent.training.reducer import GradientReducer
from distsent.training.shared_reducer import SharedReducer, shares_weights
from distsent.training.train_step import TrainStep


def open_model(
    job: Job, world: World, requested: str, tokenizer: Any, store: TokenStore, device: torch.device
) -> tuple[Loaded, Forward, str]:
    """The model on the device, how it runs, and the precision in which it computes.

    `requested`: the job's precision, or what an earlier start of the run made of it.
    """
    resolve = partial(devices.resolve_precision, requested, device)
    precision, note = world.on_main(resolve, "run.precision")
    prepare = partial(prepare_model, job, tokenizer, store, precision)
    with world.progress.phase(phase_of(job.model.name, "load")):
        loaded: Any = world.all_or_raise(prepare, "run.model")
    model = loaded.model
    model.to(device)
    replica_check.check_loaded_model(world, model)
    windows = job.data.long == WINDOWS
    choose = partial(choose_ways, model, job.model.packed, True, windows)
    ways = world.on_main(choose, "run.ways")
    forward, padding_note = build_forward(model, tokenizer, job.model.packed, ways)
    if job.train.recompute:
        recompute_layers(model, forward.again)
    else:
        lighten_layers(model)
    key = "train.precision" if note is None else None
    usable = partial(usable_precision, forward, tokenizer, precision, key)
    precision, fault = world.all_or_raise(usable, "run.usable")
    slow = None if fault else devices.slow_precision(precision, device)
    notes = [fault or note, slow, padding_note, choose_operators(world, forward, precision)]
    if device.type == "cuda":
        strict = partial(strict_or_note, forward, tokenizer, precision)
        notes.append(world.all_or_raise(strict, "run.determinism"))
    else:
        trim_between_layers(model)
    trim_heap()  # of what loading took
    return loaded.with_notes(*notes), forward, precision


def choose_operators(world: World, forward: Forward, precision: str) -> str | None:
    """Use the compiled operators if all workers have them, and GPUs compute what torch does.

    Else returns a log line.
    """
    library.use(library.REFERENCE)
    version, reason, device = "", "", forward.model.device
    try:
        on_cpu = device.type == "cpu"
        version = library.version() if on_cpu else gpu.version(device)
        if not on_cpu:
            check_kernels(forward, precision, version)
    except library.Unavailable as error:
        reason = f"{error} on rank {world.rank}"
    versions, reasons = zip(
        *world.allgather_object((version, reason), "run.operators"), strict=True
    )
    if any(reasons):
        return f"attention runs without its compiled operators: {next(filter(None, reasons))}"
    library.use(", ".join(sorted(set(versions))))
    return None


def build_plan(
    job: Job,
    store: TokenStore,
    forward: Forward,
    world: World,
    device: torch.device,
    precision: str,
) -> BatchPlan:
    """All batches of the job, as this worker sees them."""
    tokens = store.splits["train"]
    sampler = BatchSampler(len(tokens), job.train.batch_size, job.seeds[0])
    count = partial(measure_flops, forward, precision, frozen=job.adapter.kind != "none")
    flops = FlopCounter(**world.on_main(lambda: asdict(count()), "run.flops"))
    added_ids = forward.added_ids if isinstance(forward, PaddedForward) else ()
    rank, size, budget = world.rank, world.size, job.train.token_budget
    # Recorded passes copy a whole batch to the GPU at once.
    packs_on = torch.device("cpu") if records_passes(job, forward) else None
    return BatchPlan(tokens, sampler, flops, rank, size, budget, device, added_ids, packs_on)


def build_step(
    job: Job,
    store: TokenStore,
    forward: Forward,
    world: World,
    device: torch.device,
    precision: str,
    total_steps: int,
    log: Callable[[str], None] = lambda line: None,
) -> TrainStep:
    """The training step. It takes over the model's parameters. `log`: gets a line."""
    flat = FlatParameters(forward.model, classifier.token_embedding(forward.model))
    recorded = records_passes(job, forward)
    reducer = build_reducer(job, world, flat, precision, recorded, log)
    schedule = Schedule.from_job(job.optim, total_steps)
    task = choose_task(job.data.task, store.label_names)
    weights_C = class_weights(job, store, task, device)
    loss = TrainingLoss(task, job.train.label_smoothing, weights_C)
    run, passes = Pass(forward, flat, loss, precision), None
    if recorded:
        passes = RecordedPasses(run, Graphs(device), device, log)
    return TrainStep(run, reducer, job.optim, schedule, passes)


def build_reducer(
    job: Job,
    world: World,
    flat: FlatParameters,
    precision: str,
    recorded: bool,
    log: Callable[[str], None],
) -> Exchange:
    """How workers exchange gradients. It may move `flat` into memory that they share."""
    device = flat.values.device
    own = devices.arithmetic(device), device.type, recorded
    kinds, types, records = zip(*world.allgather_object(own, "run.devices"), strict=True)
    if shares_weights(job, world, types):
        try:
            return SharedReducer(world, flat, half_weights.DTYPES.get(precision))
        except NotShared as problem:
            log(f"each worker keeps a copy of the weights: {problem}")
    # All workers send their gradients in the same order.
    mixed, overlap = len(set(kinds)) > 1, not any(records)
    return GradientReducer(world, flat, mixed, overlap)


def records_passes(job: Job, forward: Forward) -> bool:
    """Whether passes are recorded as CUDA graphs, which needs attention's kernels.

    Not with a pooling that reads how many tokens there are, nor with recomputation. Gradients then
    leave after backward, also between machines: a pass as it comes takes longer than that saves.
    """
    on_gpu = forward.model.device.type == "cuda" and library.used() != library.REFERENCE
    packed = isinstance(forward, PackedForward) and forward.pooling is FIRST
    simple = job.data.long != WINDOWS and not job.train.recompute
    return on_gpu and packed and simple and has_kernel(forward.model.config)


def has_kernel(config: Any) -> bool:
    """Whether heads are narrow enough for attention's kernels."""
    text = config.get_text_config()
    hidden, heads = (getattr(text, each, None) for each in ("hidden_size", "num_attention_heads"))
    width = getattr(text, "head_dim", None) or (hidden // heads if hidden and heads else None)
    return width is not None and width <= fused_attention.MAX_WIDTH
