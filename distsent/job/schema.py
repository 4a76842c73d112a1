"""All keys of a job: type, default, accepted values, meaning. The defaults are the demo job."""

from dataclasses import dataclass, fields
from typing import Any

from distsent.job import metrics
from distsent.job.data_section import DataSection as DataSection
from distsent.job.keys import (
    Key,
    choice,
    either,
    integer,
    key,
    list_of,
)
from distsent.job.values import (
    JOB_NAME,
    SEED,
    TRACKER,
    boolean,
    count,
    fraction,
    non_negative,
    positive,
    text,
)

# fmt: off


@dataclass(frozen=True, kw_only=True)
class JobSection:
    """The run's name."""

    name: str = key("demo", JOB_NAME, "name of the run and of its folder")


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """Where results are written, and when a run resumes or ends."""

    dir: str = key("runs", text, "parent folder of the run folders")
    resume: str = key("auto", choice("auto", "changed", "never"),
        "`auto`: resume the same job on the same rows; `changed`: also if one of them has changed; "
        "`never`: start over at every start")
    stall_seconds: float = key(60.0, positive,
        "seconds without a heartbeat of a worker, or without progress of the run, after which it "
        "ends; at least ten median steps, and ten times as long outside of steps")
    transport: str = key("auto", choice("auto", "horovod", "torch"),
        "what connects the workers; `auto`: what the launcher is for")
    interface: str | None = key(None, text, "network interface between hosts", unset="found",
        example="ib0")


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The encoder."""

    name: str = key("demo", text, "a hub id, a local folder, or `demo`: a small encoder with "
        "random weights that knows the demo dataset's words; for other datasets the key must be "
        "set")
    revision: str | None = key(None, text, "revision of a hub model", unset="the newest",
        example="main")
    dropout: float | None = key(None, fraction, "every dropout rate of the model",
        unset="the model's own", example=0.1)
    packed: str = key("auto", choice("auto", "always", "never"),
        "concatenate examples instead of padding them: `auto` if, `always` only if scores stay "
        "equal")


@dataclass(frozen=True, kw_only=True)
class AdapterSection:
    """What is trained instead of the encoder's weights."""

    kind: str = key("none", choice("none", "lora"), "`lora`: low-rank updates of frozen weights")
    bits: int | None = key(None, choice(4, 16),
        "of the frozen weights; 4: quantized (NF4); 16: bfloat16, in which most large models are "
        "published", unset="float32", example=4)
    rank: int = key(8, count, "rank of the updates")
    alpha: float = key(16.0, positive, "updates are scaled by alpha / rank")
    dropout: float = key(0.0, fraction, "dropout before the updates")
    targets: tuple[str, ...] | None = key(None,
        list_of(text, "a list of distinct module names", distinct=True), "modules to update",
        unset="query and value of each layer", example=("query", "value"))


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """Length, batches, precision and loss of the training."""

    batch_size: int = key(64, count, "examples of a step, over all workers together")
    epochs: float = key(8.0, positive, "passes over the training rows", example=5.0, pretrained=3.0)
    max_steps: int | None = key(None, count, "steps of the run, instead of epochs",
        unset="set by epochs", example=1000)
    seed: int | tuple[int, ...] = key(42,
        either(SEED, list_of(SEED, "a list of distinct ones", distinct=True)),
        "seed of row order, dropout and new weights; a list makes one run of each")
    precision: str = key("float32", choice("float32", "bf16", "fp16", "auto"),
        "precision of the computation; `auto`: 16 bits on GPUs; on CPUs, `auto` and `fp16` take "
        "bf16 if it is faster")
    token_budget: int = key(16384, count, "tokens a worker processes at once; more are accumulated")
    recompute: bool = key(False, boolean,
        "keep each layer's input alone for backward, and compute the rest again: less memory, a "
        "third more time, the same weights")
    share_weights: bool = key(True, boolean,
        "if all workers are on the CPUs of one machine, they keep one copy of the weights, and "
        "each updates a part; not in elastic runs")
    label_smoothing: float = key(0.0, fraction,
        "share of each label spread over all classes; `multi_label`: moved to 1/2")
    class_weights: str | tuple[float, ...] = key("none",
        either(choice("none", "balanced"),
               list_of(positive, "a list of numbers > 0, one per class", least=2)),
        "weight of each class in the loss (`multi_label`: of the rows that have it); `balanced`: "
        "rare classes weigh more")
    patience: int | None = key(None, count,
        "evaluations without a better eval.metric before training stops", unset="no early stopping",
        example=3)
    min_delta: float = key(0.0, non_negative, "minimum improvement for train.patience")
    skip_nonfinite: int = key(0, integer(">= 0"),
        "steps with a non-finite loss or gradient that a run may skip")


@dataclass(frozen=True, kw_only=True)
class OptimSection:
    """The optimizer."""

    name: str = key("adamw", choice("adam", "adamw"), "optimizer; they differ in weight decay")
    lr: float = key(7e-4, positive, "peak learning rate", example=1e-3, pretrained=2e-5)
    betas: tuple[float, float] = key((0.9, 0.999),
        list_of(fraction, "a list of two numbers >= 0 and < 1", least=2, most=2),
        "decay rates of the two moments")
    eps: float = key(1e-8, positive, "added to the root of the second moment")
    weight_decay: float = key(0.0, non_negative, "weight decay")
    clip_norm: float = key(1.0, non_negative,
        "maximum gradient norm of a step, over all parameters; 0: no clipping")
    schedule: str = key("linear", choice("linear", "cosine", "constant"),
        "learning rate after the warmup")
    warmup: float = key(0.1, non_negative,
        "steps with a rising learning rate; below 1: their share of all steps", pretrained=0.0)


@dataclass(frozen=True, kw_only=True)
class EvalSection:
    """When and by which metric the model is evaluated."""

    every: str | int = key("epoch", either(choice("epoch", "end"), count),
        "when to evaluate: after each epoch, only at the end, or after this many steps")
    batch_tokens: int = key(32768, count, "tokens that a worker evaluates at once")
    metric: str = key("accuracy", choice(*metrics.ALL),
        "metric of data.task that selects the best checkpoint",
        by_task={"multi_label": "f1_micro", "regression": "rmse"})
    calibrate: bool = key(False, boolean,
        "divide the logits of the saved model by the temperature that fits validation best")


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """When the run is saved."""

    every_steps: int | None = key(None, count, "steps between checkpoints",
        unset="at evaluations, and every_seconds", example=500)
    every_seconds: float = key(300.0, positive, "maximum seconds between checkpoints")
    keep: int = key(2, count, "newest checkpoints to keep, besides the best")


@dataclass(frozen=True, kw_only=True)
class LogSection:
    """What a run logs."""

    every: int = key(10, count, "steps between log lines")
    tensorboard: bool = key(True, boolean, "write TensorBoard files")
    trackers: tuple[str, ...] = key((),
        list_of(TRACKER, f"a list of {TRACKER.allowed}", least=0, distinct=True),
        "trackers that the main worker reports the run to: docs/trackers.md", example=("mlflow",))
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Sections:
    """All sections of a job."""

    job: JobSection = JobSection()
    run: RunSection = RunSection()
    data: DataSection = DataSection()  # noqa: RUF009 - frozen
    model: ModelSection = ModelSection()
    adapter: AdapterSection = AdapterSection()
    train: TrainSection = TrainSection()
    optim: OptimSection = OptimSection()
    eval: EvalSection = EvalSection()
    checkpoint: CheckpointSection = CheckpointSection()
    log: LogSection = LogSection()


SECTIONS: dict[str, Any] = {section.name: type(section.default) for section in fields(Sections)}
KEYS: dict[str, Key] = {
    f"{name}.{item.name}": item.metadata["key"]
    for name, section in SECTIONS.items()
    for item in fields(section)
}
