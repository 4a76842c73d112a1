"""Every key of a job: its type, its default, what it accepts and what it means. The defaults are the demo job."""

from dataclasses import dataclass, field, fields
from typing import Any

from distsent.job.kinds import Kind, choice, either, flag, matching, number, several, text, whole


@dataclass(frozen=True)
class Key:
    """What the schema says of a key."""

    default: Any
    kind: Kind
    meaning: str
    none: str  # what leaving the key unset means; empty where it must have a value
    example: Any
    pretrained: Any  # the value in a job that names its own model and says nothing of this key

    def read(self, value: Any) -> Any:
        """The value as the job holds it; ValueError if the key does not accept it."""
        return (
            None if self.none and str(value).lower() in ("none", "null") else self.kind.read(value)
        )


def key(
    default: Any,
    kind: Kind,
    meaning: str,
    *,
    none: str = "",
    example: Any = None,
    pretrained: Any = None,
) -> Any:
    example = default if example is None else example
    return field(
        default=default, metadata={"key": Key(default, kind, meaning, none, example, pretrained)}
    )


@dataclass(frozen=True, kw_only=True)
class JobSection:
    """What the run is called."""

    name: str = key(
        "demo",
        matching(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", "a name of letters, digits, . _ and -"),
        "name of the run and of its folder",
    )


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """Where it leaves its results, and how long it waits for a silent worker."""

    dir: str = key("runs", text, "folder that holds the run folders")
    resume: str = key(
        "auto",
        choice("auto", "changed", "never"),
        "`auto`: carry on with the same job and rows; `changed`: also with changed ones; `never`: begin anew, at every start",
    )
    stall_seconds: float = key(60.0, number("> 0"), "a worker silent for so long ends the run")


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What it learns from."""

    source: str = key(
        "demo", text, "`demo`, `imdb`, `emotion`, `tweets`, a hub id, or a local path"
    )
    config: str | None = key(
        None, text, "configuration of a hub corpus", none="the source's own", example="split"
    )
    revision: str | None = key(
        None, text, "revision of a hub corpus", none="the newest", example="main"
    )
    text_column: str = key("text", text, "column of the text")
    pair_column: str | None = key(
        None, text, "column of a second text", none="single texts", example="question"
    )
    label_column: str = key("label", text, "column of the class")
    labels: tuple[str, ...] | None = key(
        None,
        several(text, "a list of two or more class names, none twice", least=2, distinct=True),
        "class names in the order of their numbers",
        none="read from the data",
        example=("negative", "positive"),
    )
    max_length: int = key(
        64,
        whole(">= 4"),
        "tokens of an example, special ones counted; the rest is cut off",
        pretrained=512,
    )
    max_rows: int | None = key(
        None, whole(">= 1"), "training rows kept, drawn with the seed", none="all", example=10000
    )
    max_eval_rows: int | None = key(
        None,
        whole(">= 1"),
        "rows kept of the validation and of the test part, each",
        none="all",
        example=2000,
    )
    validation_fraction: float = key(
        0.0,
        number(">= 0", "< 1"),
        "stratified share of the training rows, the validation part where there is none",
    )
    test_fraction: float = key(
        0.0,
        number(">= 0", "< 1"),
        "stratified share of the training rows, the test part where there is none",
    )
    pool_splits: bool = key(
        False, flag, "put the rows of all parts together and cut them anew by the two fractions"
    )
    drop_bad_rows: bool = key(
        False, flag, "leave out rows without text or label instead of stopping at them"
    )
    store: str | None = key(
        None, text, "folder of the token stores", none="`.tokens` in run.dir", example="tokens"
    )


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """What learns."""

    name: str = key("demo", text, "`demo`, a hub id, or a local folder")
    revision: str | None = key(
        None, text, "revision of a hub model", none="the newest", example="main"
    )
    dropout: float | None = key(
        None,
        number(">= 0", "< 1"),
        "every dropout rate of the model",
        none="the model's own",
        example=0.1,
    )
    packed: str = key(
        "auto",
        choice("auto", "always", "never"),
        "run texts end to end without padding; `auto`: where the model can",
    )


@dataclass(frozen=True, kw_only=True)
class AdapterSection:
    """What is trained in place of the weights."""

    kind: str = key(
        "none",
        choice("none", "lora"),
        "`lora` trains low-rank updates and leaves the weights as they are",
    )
    bits: int | None = key(
        None,
        choice(4),
        "4 keeps the weights below the adapter in 4 bits (NF4)",
        none="as they come",
        example=4,
    )
    rank: int = key(8, whole(">= 1"), "rank of the updates")
    alpha: float = key(16.0, number("> 0"), "updates are scaled by alpha / rank")
    dropout: float = key(0.0, number(">= 0", "< 1"), "dropout in front of the updates")
    targets: tuple[str, ...] | None = key(
        None,
        several(text, "a list of module names, none twice", distinct=True),
        "modules that get updates",
        none="query and value of each layer",
        example=("query", "value"),
    )


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """How much is trained, on what scale, with which loss."""

    batch_size: int = key(64, whole(">= 1"), "examples of one step, over all workers together")
    epochs: float = key(
        8.0, number("> 0"), "passes over the training rows", example=5.0, pretrained=3.0
    )
    max_steps: int | None = key(
        None,
        whole(">= 1"),
        "steps of the run, instead of epochs",
        none="epochs decide",
        example=1000,
    )
    seed: int | tuple[int, ...] = key(
        42,
        either(
            whole(">= 0", "<= 4294967295"),
            several(whole(">= 0", "<= 4294967295"), "a list of such, none twice", distinct=True),
        ),
        "seed of order, dropout and new weights; a list makes one run of each",
    )
    precision: str = key(
        "float32",
        choice("float32", "bf16", "fp16", "auto"),
        "numbers that the model computes in; `auto`: half width on GPUs, and on CPUs, like `fp16`, bf16 where faster",
    )
    token_budget: int = key(
        16384, whole(">= 1"), "tokens that a worker holds at once; more are accumulated"
    )
    label_smoothing: float = key(
        0.0, number(">= 0", "< 1"), "share of each label spread over all classes"
    )
    class_weights: str | tuple[float, ...] = key(
        "none",
        either(
            choice("none", "balanced"),
            several(number("> 0"), "a list of numbers > 0, one per class", least=2),
        ),
        "weight of each class in the loss; `balanced`: rare classes weigh more",
    )
    patience: int | None = key(
        None,
        whole(">= 1"),
        "evaluations without a better eval.metric that end training",
        none="train to the end",
        example=3,
    )
    min_delta: float = key(0.0, number(">= 0"), "what counts as better, for train.patience")
    skip_nonfinite: int = key(
        0, whole(">= 0"), "steps with a non-finite loss or gradient that may be skipped in a run"
    )


@dataclass(frozen=True, kw_only=True)
class OptimSection:
    """How the weights move."""

    name: str = key(
        "adamw", choice("adam", "adamw"), "optimizer; they differ by what weight decay does"
    )
    lr: float = key(
        7e-4, number("> 0"), "learning rate, at its peak", example=1e-3, pretrained=2e-5
    )
    betas: tuple[float, float] = key(
        (0.9, 0.999),
        several(number(">= 0", "< 1"), "a list of two numbers >= 0 and < 1", least=2, most=2),
        "decay of the two moments",
    )
    eps: float = key(1e-8, number("> 0"), "added to the root of the second moment")
    weight_decay: float = key(0.0, number(">= 0"), "weight decay")
    clip_norm: float = key(
        1.0, number(">= 0"), "longest gradient of a step, over all parameters; 0: any"
    )
    schedule: str = key(
        "linear", choice("linear", "cosine", "constant"), "learning rate after the warm-up"
    )
    warmup: float = key(
        0.1,
        number(">= 0"),
        "steps of rising learning rate; below 1: their share of all steps",
        pretrained=0.0,
    )


@dataclass(frozen=True, kw_only=True)
class EvalSection:
    """When the model is scored, and by what."""

    every: str | int = key(
        "epoch",
        either(choice("epoch", "end"), whole(">= 1")),
        "when to evaluate: after each epoch, only at the end, or after so many steps",
    )
    batch_tokens: int = key(32768, whole(">= 1"), "tokens that a worker evaluates at once")
    metric: str = key(
        "accuracy",
        choice("accuracy", "f1", "f1_macro", "precision", "recall", "loss"),
        "what the best checkpoint is best in",
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """When the run is saved."""

    every_steps: int | None = key(
        None,
        whole(">= 1"),
        "steps from one checkpoint to the next",
        none="at evaluations, and every_seconds",
        example=500,
    )
    every_seconds: float = key(
        300.0, number("> 0"), "seconds from one checkpoint to the next, at the most"
    )
    keep: int = key(2, whole(">= 1"), "newest checkpoints kept, beside the best")


@dataclass(frozen=True, kw_only=True)
class LogSection:
    """What can be seen of it on the way."""

    every: int = key(10, whole(">= 1"), "steps from one logged line to the next")
    tensorboard: bool = key(True, flag, "write TensorBoard files")


@dataclass(frozen=True, kw_only=True)
class Sections:
    """What a job holds, a section each."""

    job: JobSection = JobSection()
    run: RunSection = RunSection()
    data: DataSection = DataSection()
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
