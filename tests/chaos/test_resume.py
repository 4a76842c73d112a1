"""A run stopped in any step or killed at any forward pass resumes to the undisturbed run's bits."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from distsent.distributed.world import World
from distsent.errors import Stopped, UserError
from distsent.job import load_job
from distsent.job.check import to_word
from distsent.model.packed_forward import PackedForward
from distsent.runtime import checkpoint
from distsent.training.session import TrainingRun
from distsent.training.train_step import Losses, TrainStep
from tests import fixtures, systems
from tests.parallel.conftest import but
from tests.parallel.driver import NoSignals

# An epoch has 4 steps, the last one with a smaller batch. Evaluated after steps 3, 6 and 9, saved
# after 2, 4, ...
STEPS = 9
KINDS = {
    "float32": [],
    "bf16": ["train.precision=bf16"],
    "lora": ["adapter.kind=lora", "adapter.dropout=0.2"],
    "windows": ["data.long=windows", "data.max_length=12"],
    "lora on 4 bits": ["adapter.kind=lora", "adapter.bits=4"],
}


class Killed(BaseException):
    """Stands for SIGKILL: no error handler catches it."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("parts")
    dataset = fixtures.corpus(folder / "dataset", train=45, validation=12, test=4)
    encoder = systems.encoder(folder / "model", "bert")
    return [
        f"data.source={dataset}", f"data.store={folder / 'tokens'}", f"model.name={encoder}",
        "data.max_length=40", "train.batch_size=12", f"train.max_steps={STEPS}",
        "train.token_budget=120", "optim.lr=1e-2", "eval.every=3", "eval.metric=loss",
        "eval.batch_tokens=60", "checkpoint.every_steps=2", "log.every=1", "log.tensorboard=false",
    ]  # fmt: skip


def train(words: list[str], folder: Path, stop: NoSignals | None = None) -> Path:
    job = load_job(None, [*words, f"run.dir={folder}", "job.name=run"])
    # Plots would take longer than the training.
    with patch("distsent.reporting.plots.available", return_value=False):
        TrainingRun(job, World(), stop or NoSignals()).train()
    return folder / "run"


def bits(run: Path) -> list[object]:
    """Everything that two runs with the same bits share."""
    result = fixtures.result(run)
    last = checkpoint.load_newest(run / "checkpoints", lambda line: pytest.fail(line))
    assert last is not None
    evaluated = result["eval"].items()  # type: ignore[attr-defined]
    timed = ("seconds", "samples_per_second")
    scores = {split: {k: v for k, v in one.items() if k not in timed} for split, one in evaluated}
    keys = ("step", "loss", "lr", "grad_norm", "samples", "tokens")
    steps = [[line[key] for key in keys] for line in fixtures.metrics(run)]
    evaluations = [[line["step"], line["loss"]] for line in fixtures.metrics(run, "validation")]
    state = {group: checkpoint.weights_sha256(tensors) for group, tensors in last.tensors.items()}
    thresholds = run / "model" / "thresholds.json"
    confidence = [result.get(key) for key in ("calibration", "decisions", "thresholds")]
    confidence.append(thresholds.read_text() if thresholds.exists() else None)
    trained = [result["weights_sha256"], result["best"], scores, last.step, state]
    return [*trained, steps, evaluations, confidence]


@pytest.mark.parametrize("kind", ["float32", "lora on 4 bits"])
@pytest.mark.parametrize("task", fixtures.TASKS)
def test_a_task_stopped_or_killed_ends_with_the_same_bits(
    task: str, kind: str, parts: list[str], tmp_path: Path
) -> None:
    dataset = fixtures.task_corpus(tmp_path / "dataset")
    metric = "eval.metric=" + {"multi_label": "map"}.get(task, "rmse")
    words = but(parts, f"data.source={dataset}", metric, *fixtures.TASKS[task], *KINDS[kind])
    with forward_passes() as seen:
        undisturbed = bits(train(words, tmp_path / "undisturbed"))
    stop, folder = NoSignals(), tmp_path / "stopped"
    with stop_requested_in_step(4, stop), pytest.raises(Stopped):
        train(words, folder, stop)
    assert bits(train(words, folder)) == undisturbed
    with forward_passes(2 * len(seen) // 3), pytest.raises(Killed):
        train(words, tmp_path / "killed")
    assert bits(train(words, tmp_path / "killed")) == undisturbed


@contextmanager
def forward_passes(fatal: int | None = None) -> Iterator[list[bool]]:
    """List the forward passes: True if of training. Number `fatal` (from 0) kills."""
    seen: list[bool] = []
    real = PackedForward.__call__

    def forward(self: PackedForward, packed: object) -> object:
        seen.append(self.model.training)
        if len(seen) - 1 == fatal:
            raise Killed
        return real(self, packed)  # type: ignore[arg-type]

    with patch.object(PackedForward, "__call__", forward):
        yield seen


@contextmanager
def stop_requested_in_step(step: int, stop: NoSignals) -> Iterator[None]:
    """A stop request arrives between the forward passes of a step."""
    real = TrainStep._backward

    def backward(self: TrainStep, batch: object) -> Losses:
        losses = real(self, batch)  # type: ignore[arg-type]
        if batch.step == step:  # type: ignore[attr-defined]
            stop.requested = "SIGTERM"
        return losses

    with patch.object(TrainStep, "_backward", backward):
        yield


def stopped(words: list[str], folder: Path, steps: int) -> None:
    """Train and stop after `steps` steps."""
    stop = NoSignals()
    with stop_requested_in_step(steps - 1, stop), pytest.raises(Stopped):
        train(words, folder, stop)


ALL = [pytest.param(kind, 1, marks=pytest.mark.chaos) for kind in KINDS]


@pytest.mark.parametrize(
    ("kind", "every"),
    [("float32", 2), ("bf16", 5), ("lora", 5), ("lora on 4 bits", 5), ("windows", 5), *ALL],
)
def test_stopped_in_any_step_it_ends_with_the_same_bits(
    kind: str, every: int, parts: list[str], tmp_path: Path
) -> None:
    words = but(parts, *KINDS[kind])
    with forward_passes() as seen:
        undisturbed = bits(train(words, tmp_path / "undisturbed"))
    assert seen.count(True) > STEPS, "some batches take several passes"
    for step in range(0, STEPS, every):
        stop, folder = NoSignals(), tmp_path / "stopped"
        with (
            stop_requested_in_step(step, stop),
            pytest.raises(Stopped, match=f"saved after step {step + 1} of {STEPS}"),
        ):
            train(words, folder, stop)
        assert bits(train(words, folder)) == undisturbed, f"stopped in step {step}"
        shutil.rmtree(folder)


@pytest.mark.parametrize(("kind", "every"), [("float32", 7), ("lora on 4 bits", 17), *ALL])
def test_killed_at_any_pass_it_ends_with_the_same_bits(
    kind: str, every: int, parts: list[str], tmp_path: Path
) -> None:
    words = but(parts, *KINDS[kind])
    with forward_passes() as seen:
        undisturbed = bits(train(words, tmp_path / "undisturbed"))
    assert seen.count(False) > 6, "some evaluations take several passes"
    for number in range(every // 2, len(seen), every):
        folder = tmp_path / "killed"
        with forward_passes(number), pytest.raises(Killed):
            train(words, folder)
        assert bits(train(words, folder)) == undisturbed, f"killed at pass {number}"
        shutil.rmtree(folder)


def test_killed_at_every_other_pass_of_one_run_it_ends_with_the_same_bits(
    parts: list[str], tmp_path: Path
) -> None:
    undisturbed = bits(train(parts, tmp_path / "undisturbed"))
    for number in (3, 9, 2, 12, 7, 1):
        with forward_passes(number), suppress(Killed):
            train(parts, tmp_path / "killed")
    assert bits(train(parts, tmp_path / "killed")) == undisturbed


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(b"")],
    ids=["missing", "empty"],
)
def test_without_its_best_checkpoint_a_run_ends_with_its_last_weights(
    parts: list[str], tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    # With this rate nothing is learned, so the first evaluation stays the best.
    words = but(parts, "optim.lr=0.2", "eval.metric=accuracy", "checkpoint.keep=1")
    stop = NoSignals()
    with stop_requested_in_step(STEPS - 1, stop), pytest.raises(Stopped):
        train(words, tmp_path, stop)
    found = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [int(path.name[5:]) for path in found] == [3, STEPS]
    damage(found[0] / "weights.safetensors")
    run = train(words, tmp_path)
    result, last = fixtures.result(run), checkpoint.load_newest(run / "checkpoints")
    line = "the best checkpoint is damaged, so the last weights become the model: "
    assert line in (run / "train.log").read_text()
    accuracy = fixtures.metrics(run, "validation")[-1]["accuracy"]
    assert result["best"] == {"step": STEPS, "value": accuracy}
    assert last is not None
    assert checkpoint.weights_sha256(last.tensors["weights"]) == result["weights_sha256"]
    card = (run / "model" / "README.md").read_text()
    assert f"step {STEPS}, chosen on the validation split" in card


def test_a_run_does_not_resume_with_other_rows(tmp_path: Path) -> None:
    """With another number of rows some examples would be skipped, and others trained on twice."""
    dataset = fixtures.corpus(tmp_path / "dataset", train=45, validation=12, test=4)
    words = [
        f"data.source={dataset}", f"model.name={systems.encoder(tmp_path / 'model', 'bert')}",
        "data.max_length=40", "train.batch_size=12", "train.max_steps=6",
        "checkpoint.every_steps=2", "log.tensorboard=false",
    ]  # fmt: skip
    stopped(words, tmp_path, 3)
    with open(dataset / "train.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "w1 w2", "label": "good"}\n')
    line = r"data\.source has other rows than when this run was started; restore the original ones"
    with pytest.raises(UserError, match=line):
        train(words, tmp_path)
    assert fixtures.metrics(train([*words, "run.resume=changed"], tmp_path))[-1]["step"] == 6


def test_a_run_resumes_with_the_same_rows_from_files_that_are_written_otherwise(tmp_path: Path):
    """How files are read is recorded. Keys decide what they leave open now, with equal rows."""
    dataset = tmp_path / "dataset"
    rows = {"train": range(30), "validation": range(30, 38)}

    def write(form: str, header: str = "") -> None:
        dataset.mkdir(exist_ok=True)
        for split, numbers in rows.items():
            lines = (form.format(f"w{n} w{n % 7} é", ("bad", "good")[n % 2]) for n in numbers)
            text = header + "".join(f"{line}\n" for line in lines)
            (dataset / f"{split}.csv").write_text(text, encoding="utf-8")

    words = [
        f"data.source={dataset}", f"model.name={systems.encoder(tmp_path / 'model', 'bert')}",
        "data.max_length=40", "train.batch_size=12", "train.max_steps=6", "log.tensorboard=false",
        "checkpoint.every_steps=2",
    ]  # fmt: skip
    write("{},{}", "text,label\n")
    undisturbed = bits(train(words, tmp_path / "undisturbed"))
    stopped(words, tmp_path, 3)
    record = json.loads((tmp_path / "run" / "job.json").read_text())
    assert record["read_as"]["train.csv"]["options"]["delimiter"] == ","
    write("{1};{0}")
    with pytest.raises(UserError, match="the first row looks like data") as error:
        train(words, tmp_path)
    keys = [to_word(key, value) for key, value in error.value.fix.items()]
    keys = [word for key in keys for word in shlex.split(key)]
    with pytest.raises(UserError, match="other rows than when this run was started"):
        train([*words, *keys, "data.header=true"], tmp_path)
    with pytest.raises(UserError, match=r"different values of data\.drop_bad_rows"):
        train([*words, *keys, "data.drop_bad_rows=true"], tmp_path)
    assert bits(train([*words, *keys], tmp_path)) == undisturbed
    record = json.loads((tmp_path / "run" / "job.json").read_text())
    assert record["read_as"]["train.csv"]["options"]["delimiter"] == ";"


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_a_precision_that_was_chosen_by_measurement_stays(
    precision: str, parts: list[str], tmp_path: Path
) -> None:
    words = [*parts, f"train.precision={precision}"]
    with patch("distsent.runtime.device.faster_precision", return_value="bf16"):
        stopped(words, tmp_path, 3)
    # Other work on the machine makes the measurement come out differently.
    with patch("distsent.runtime.device.faster_precision", return_value="float32"):
        train(words, tmp_path)
    assert fixtures.result(tmp_path / "run")["precision"] == "bf16"


def test_resume_never_restarts_a_run_only_once(parts: list[str], tmp_path: Path) -> None:
    """A run that continues with other workers does not restart: its new rank 0 reads the folder."""
    train(parts, tmp_path)
    job = load_job(None, [*parts, f"run.dir={tmp_path}", "job.name=run", "run.resume=never"])
    stop = NoSignals()
    run = TrainingRun(job, World(), stop)
    with stop_requested_in_step(2, stop), pytest.raises(Stopped):
        run.train()
    found = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in found] == ["step-00000002", "step-00000003"]
    stop.requested = None
    run.train()
    assert "resumed at step 3 of 9" in (tmp_path / "run" / "train.log").read_text()


def test_resume_never_restarts_once_for_all_starts_of_a_batch_job(
    parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*parts, "run.resume=never"]
    for name, steps, resumed in (("17", 3, False), ("17", 5, True), ("18", 4, False)):
        monkeypatch.setenv("DISTSENT_START", name)
        stopped(words, tmp_path, steps)
        assert ("resumed at" in (tmp_path / "run" / "train.log").read_text()) == resumed


@pytest.mark.parametrize("run_id", ["none", "nightly"])
def test_resume_never_restarts_once_for_all_restarts_of_torchrun(
    run_id: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, logs = [*parts, "run.resume=never"], tmp_path / "logs"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
    starts = [("a", 0, 3, False), ("a", 1, 5, True), ("b", 0, 3, False)]
    if run_id == "none":  # the first start of this command failed before it replaced that run
        starts.append(("c", 1, 4, False))
    for command, attempt, steps, resumed in starts:
        file = logs / f"{run_id}_{command}" / f"attempt_{attempt}" / "0" / "error.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        stopped(words, tmp_path, steps)
        assert ("resumed at" in (tmp_path / "run" / "train.log").read_text()) == resumed


def test_a_path_stored_without_its_dot_is_the_same_path(
    parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = parts[0].partition("=")[2]
    words = [word.replace(f"={dataset}", "=dataset") for word in parts]
    (tmp_path / "dataset").symlink_to(dataset)
    stopped(words, tmp_path, 3)
    stored = tmp_path / "run" / "job.json"
    stored.write_text(stored.read_text().replace('"./dataset"', '"dataset"'))
    assert fixtures.metrics(train(words, tmp_path))[-1]["step"] == STEPS
