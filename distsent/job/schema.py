"""All keys of a job: type, default, accepted values, meaning. The defaults are the demo job."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from distsent.job import metrics
from distsent.job.keys import (
    Key,
    character,
    choice,
    either,
    encoding,
    integer,
    key,
    list_of,
    matching,
    number,
    table_of,
)

text = matching(r".*\S.*", "text")
boolean = choice(True, False)
count = integer(">= 1")
position = integer(">= 0")
positive = number("> 0")
non_negative = number(">= 0")
fraction = number(">= 0", "< 1")
words = list_of(text, "a list of words")
by_class = table_of(text, "a table from classes, or from `text` and `label`, to paths")
files = either(text, either(list_of(text, "a list of paths"), by_class))
JOB_NAME = matching(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", "a name of letters, digits, . _ and -")
TRACKER = choice("mlflow", "wandb", "trackio")
SEED = integer(">= 0", "<= 4294967295")
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
class DataSection:
    """The dataset."""

    source: str = key("demo", text, "`demo`, `imdb`, `emotion`, `tweets`, a hub id or a local path")
    config: str | None = key(None, text, "configuration of a hub dataset",
        unset="the dataset's own", example="split")
    revision: str | None = key(None, text, "revision of a hub dataset", unset="the newest",
        example="main")
    train: str | tuple[str, ...] | Mapping[str, str] | None = key(None, files,
        "training files or patterns, in data.source if it is a folder; splits of a hub dataset",
        unset="found by name", example="train*.csv")
    validation: str | tuple[str, ...] | Mapping[str, str] | None = key(None, files,
        "the same for validation", unset="found by name", example="dev.csv")
    test: str | tuple[str, ...] | Mapping[str, str] | None = key(None, files,
        "the same for test", unset="found by name", example="test.csv")
    text_column: str = key("text", text, "column of the text")
    pair_column: str | None = key(None, text, "column of a second text", unset="single texts",
        example="question")
    label_column: str = key("label", text, "column of the label")
    text_position: int | None = key(None, position, "column of the text, counted from 0",
        unset="text_column", example=0)
    pair_position: int | None = key(None, position, "column of a second text, counted from 0",
        unset="pair_column", example=1)
    label_position: int | None = key(None, position, "column of the label, counted from 0",
        unset="label_column", example=1)
    split_column: str | None = key(None, text,
        "column that says which split each row is of: `train`, `dev`, `test`, ...",
        unset="files are of one split", example="partition")
    task: str = key("single_label", choice("single_label", "multi_label", "regression"),
        "what a text is labeled with: one class, any number of classes, or numbers")
    label_columns: tuple[str, ...] | None = key(None,
        list_of(text, "a list of distinct columns", distinct=True),
        "one column per class, with 0 or 1 (`multi_label`), or per number (`regression`)",
        unset="label_column", example=("anger", "joy"))
    label_delimiter: str | None = key(None, character(most=16),
        "text between the labels of a row, where these are written as text", unset="lists",
        example=",")
    allow_empty_labels: bool = key(False, boolean,
        "whether a row may have an empty list of labels (an empty text, with label_delimiter)")
    labels: tuple[str, ...] | Mapping[str, str] | str | None = key(None,
        either(list_of(text, "a list of two or more distinct class names", least=2, distinct=True),
               either(table_of(either(text, number()),
                               "a table from values to distinct names or numbers"),
                      matching(r".*\S.*", "a file of class names"))),
        "class names in the order of their values, a table that names the values (`regression`: "
        "the number of each), or a file of either", unset="read from the data",
        example=("negative", "positive"))
    fold_labels: str | bool = key("auto", choice("auto", True, False),
        "labels that differ in white space, case, Unicode form or leading zeros alone are: `true`: "
        "one class; `false`: different classes; `auto`: an error")
    drop_labels: tuple[str, ...] | None = key(None, list_of(text, "a list of labels"),
        "labels whose rows are left out, as the data has them or by the names of their classes",
        unset="none", example=("-",))
    format: str = key("auto",
        choice("auto", "csv", "lines", "label_text", "fasttext", "json", "parquet", "arrow",
               "excel"),
        "format of the files; `auto`: by name and content; `label_text`: label, blank, text")
    names: tuple[str, ...] | None = key(None, words, "column names of files without a header",
        unset="the first row", example=("label", "text"))
    header: str | bool = key("auto", choice("auto", True, False),
        "whether the first row is a header")
    delimiter: str = key("auto", character("auto", most=16), "text between the columns of a row",
        example=";")
    quoting: str = key("auto", character("auto", "csv", "none"),
        "`csv`: fields may stand in double quotes; `none`: quotes are letters; or another quote")
    escapechar: str | None = key(None, character(), "character before an escaped quote",
        unset="detected", example="\\")
    encoding: str = key("auto", encoding("auto"), "encoding of text files", example="cp1252")
    encoding_errors: str = key("strict", choice("strict", "replace"),
        "`replace`: U+FFFD for bytes that are not in the encoding")
    compression: str = key("auto", choice("auto", "none", "gzip", "bz2", "xz", "zstd", "zip"),
        "compression of the files; `auto`: by content")
    na_values: tuple[str, ...] | None = key(None, list_of(text, "a list of texts", least=0),
        "texts that mean that there is none, as `NULL`; `[]`: none does",
        unset="an error or a line names them", example=("NULL",))
    sheet_name: str | None = key(None, text, "sheet of a spreadsheet", unset="the only one",
        example="Sheet1")
    max_length: int = key(64, integer(">= 4"),
        "maximum tokens that an encoder reads at once, including special tokens", pretrained=512)
    long: str = key("cut", choice("cut", "head_tail", "windows"),
        "what is read of longer texts: `cut`: the beginning; `head_tail`: the beginning, for a "
        "quarter of the tokens, and the end; `windows`: all, in overlapping windows whose logits "
        "are averaged")
    window_overlap: int | None = key(None, position, "tokens that neighboring windows share",
        unset="a quarter of a window", example=32)
    max_rows: int | None = key(None, count, "training rows to keep, drawn with the seed",
        unset="all", example=10000)
    max_eval_rows: int | None = key(None, count, "rows to keep in each evaluation split",
        unset="all", example=2000)
    validation_fraction: float = key(0.0, fraction,
        "stratified share of the training rows for a missing validation split")
    test_fraction: float = key(0.0, fraction,
        "stratified share of the training rows for a missing test split")
    pool_splits: bool = key(False, boolean,
        "pool the rows of all splits and split them again by the two fractions")
    drop_bad_rows: bool = key(False, boolean, "skip rows without text or label instead of stopping")
    store: str | None = key(None, text, "folder of the token stores", unset="`.tokens` in run.dir",
        example="tokens")


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The encoder."""

    name: str = key("demo", text, "`demo`, a hub id, or a local folder")
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
    bits: int | None = key(None, choice(4), "4: quantize the frozen weights (NF4)",
        unset="not quantized", example=4)
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
