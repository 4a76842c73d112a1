"""Ended after any step, or at any forward pass of training and evaluation, a run carries on to the bits of one that was let be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from distsent.distributed.world import World
from distsent.errors import Stopped, UserError
from distsent.job import load_job
from distsent.model.forward import PackedForward
from distsent.runtime import checkpoint
from distsent.training.session import TrainingRun
from distsent.training.train_step import TrainStep
from tests import fixtures, systems
from tests.parallel.conftest import but
from tests.parallel.driver import Deaf

STEPS = 9  # an epoch is 4, and the last batch of each is a small one; evaluated after 3, 6 and 9, saved after 2, 4, ...
KINDS = {
    "float32": [], "bf16": ["train.precision=bf16"], "lora": ["adapter.kind=lora", "adapter.dropout=0.2"],
    "lora on 4 bits": ["adapter.kind=lora", "adapter.bits=4"],
}  # fmt: skip


class Killed(BaseException):
    """The process is gone: nothing that handles errors may run on, so nothing catches it."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("parts")
    corpus = fixtures.corpus(folder / "corpus", train=45, validation=12, test=4)
    return [
        f"data.source={corpus}", f"data.store={folder / 'tokens'}", f"model.name={systems.encoder(folder / 'model', 'bert')}",
        "data.max_length=40", "train.batch_size=12", f"train.max_steps={STEPS}", "train.token_budget=120", "optim.lr=1e-2",
        "eval.every=3", "eval.metric=loss", "eval.batch_tokens=60", "checkpoint.every_steps=2", "log.every=1",
        "log.tensorboard=false",
    ]  # fmt: skip


def train(words: list[str], folder: Path, stop: Deaf | None = None) -> Path:
    asked = load_job(None, [*words, f"run.dir={folder}", "job.name=run"])
    with patch(
        "distsent.reporting.plots.available", return_value=False
    ):  # they take longer than the training
        TrainingRun(asked, World(), stop or Deaf()).train()
    return folder / "run"


def bits(run: Path) -> list[object]:
    """All that two runs of the same bits share."""
    result, last = (
        fixtures.result(run),
        checkpoint.load_newest(run / "checkpoints", lambda line: pytest.fail(line)),
    )
    assert last is not None
    scores = {split: [one["loss"], one["confusion"]] for split, one in result["eval"].items()}  # type: ignore[attr-defined]
    steps = [
        [line[key] for key in ("step", "loss", "lr", "grad_norm", "samples", "tokens")]
        for line in fixtures.metrics(run)
    ]
    evaluations = [[line["step"], line["loss"]] for line in fixtures.metrics(run, "validation")]
    state = {group: checkpoint.weights_sha256(tensors) for group, tensors in last.tensors.items()}
    return [result["weights_sha256"], result["best"], scores, steps, evaluations, last.step, state]


@contextmanager
def passes(fatal: int | None) -> Iterator[list[bool]]:
    """Count the model's forward passes, telling whether each is one of training; the `fatal`-th kills."""
    seen: list[bool] = []
    real = PackedForward.__call__

    def counted(self: PackedForward, stream: object) -> object:
        seen.append(self.model.training)
        if len(seen) - 1 == fatal:
            raise Killed
        return real(self, stream)  # type: ignore[arg-type]

    with patch.object(PackedForward, "__call__", counted):
        yield seen


@contextmanager
def asked_in_step(step: int, stop: Deaf) -> Iterator[None]:
    """A wish to stop arrives between the passes of a step."""
    real = TrainStep._backward

    def heard(self: TrainStep, batch: object) -> list[int]:
        bad = real(self, batch)  # type: ignore[arg-type]
        if batch.step == step:  # type: ignore[attr-defined]
            stop.requested = "SIGTERM"
        return bad

    with patch.object(TrainStep, "_backward", heard):
        yield


def stopped(words: list[str], folder: Path, steps: int) -> None:
    """Train until after so many steps somebody asks to stop."""
    stop = Deaf()
    with asked_in_step(steps - 1, stop), pytest.raises(Stopped):
        train(words, folder, stop)


ALL = [pytest.param(kind, 1, marks=pytest.mark.chaos) for kind in KINDS]


@pytest.mark.parametrize(
    ("kind", "every"), [("float32", 2), ("bf16", 5), ("lora", 5), ("lora on 4 bits", 5), *ALL]
)
def test_stopped_in_any_step_it_ends_with_the_same_bits(
    kind: str, every: int, parts: list[str], tmp_path: Path
) -> None:
    words = [*parts, *KINDS[kind]]
    with passes(None) as seen:
        whole = bits(train(words, tmp_path / "whole"))
    assert seen.count(True) > STEPS, "some batches take several passes"
    for step in range(0, STEPS, every):
        stop, folder = Deaf(), tmp_path / "stopped"
        with (
            asked_in_step(step, stop),
            pytest.raises(Stopped, match=f"saved after step {step + 1} of {STEPS}"),
        ):
            train(words, folder, stop)
        assert bits(train(words, folder)) == whole, f"stopped in step {step}"
        shutil.rmtree(folder)


@pytest.mark.parametrize(("kind", "every"), [("float32", 7), ("lora on 4 bits", 17), *ALL])
def test_killed_at_any_pass_it_ends_with_the_same_bits(
    kind: str, every: int, parts: list[str], tmp_path: Path
) -> None:
    words = [*parts, *KINDS[kind]]
    with passes(None) as seen:
        whole = bits(train(words, tmp_path / "whole"))
    assert seen.count(False) > 6, "some evaluations take several passes"
    for number in range(every // 2, len(seen), every):
        folder = tmp_path / "killed"
        with passes(number), pytest.raises(Killed):
            train(words, folder)
        assert bits(train(words, folder)) == whole, f"killed at pass {number}"
        shutil.rmtree(folder)


def test_killed_at_every_other_pass_of_one_run_it_ends_with_the_same_bits(
    parts: list[str], tmp_path: Path
) -> None:
    whole = bits(train(parts, tmp_path / "whole"))
    for number in (3, 9, 2, 12, 7, 1):
        with passes(number), suppress(Killed):
            train(parts, tmp_path / "killed")
    assert bits(train(parts, tmp_path / "killed")) == whole


@pytest.mark.parametrize(
    "harm",
    [lambda path: path.unlink(), lambda path: path.write_bytes(b"")],
    ids=["missing", "empty"],
)
def test_without_its_best_checkpoint_a_run_ends_with_its_last_weights(
    parts: list[str], tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    words = but(
        parts, "optim.lr=0.2", "eval.metric=accuracy", "checkpoint.keep=1"
    )  # such a rate teaches nothing
    stop = Deaf()
    with asked_in_step(STEPS - 1, stop), pytest.raises(Stopped):
        train(words, tmp_path, stop)
    found = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [int(path.name[5:]) for path in found] == [3, STEPS]
    harm(found[0] / "weights.safetensors")
    run = train(words, tmp_path)
    result = fixtures.result(run)
    assert (
        "the best checkpoint is damaged, so the last weights become the model: "
        in (run / "train.log").read_text()
    )
    assert result["best"] == {
        "step": STEPS,
        "value": fixtures.metrics(run, "validation")[-1]["accuracy"],
    }
    last = checkpoint.load_newest(run / "checkpoints")
    assert (
        last is not None
        and checkpoint.weights_sha256(last.tensors["weights"]) == result["weights_sha256"]
    )
    assert (
        f"step {STEPS}, chosen on the validation split" in (run / "model" / "README.md").read_text()
    )


def test_rows_that_have_changed_are_no_rows_to_carry_on_with(tmp_path: Path) -> None:
    """Another number of rows is another order: some examples would be skipped, and others trained twice."""
    corpus = fixtures.corpus(tmp_path / "corpus", train=45, validation=12, test=4)
    words = but(
        [f"data.source={corpus}", f"model.name={systems.encoder(tmp_path / 'model', 'bert')}", "data.max_length=40"],
        "train.batch_size=12", "train.max_steps=6", "checkpoint.every_steps=2", "log.tensorboard=false",
    )  # fmt: skip
    stopped(words, tmp_path, 3)
    with open(corpus / "train.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "w1 w2", "label": "good"}\n')
    with pytest.raises(
        UserError,
        match=r"data\.source has other rows than when this run was started; restore the original ones",
    ):
        train(words, tmp_path)
    assert fixtures.metrics(train([*words, "run.resume=changed"], tmp_path))[-1]["step"] == 6


@pytest.mark.parametrize("asked", ["auto", "fp16"])
def test_a_precision_that_was_measured_stays_what_it_was(
    asked: str, parts: list[str], tmp_path: Path
) -> None:
    words = [*parts, f"train.precision={asked}"]
    with patch("distsent.runtime.device.faster_precision", return_value="bf16"):
        stopped(words, tmp_path, 3)
    with patch(
        "distsent.runtime.device.faster_precision", return_value="float32"
    ):  # other work keeps the machine busy
        train(words, tmp_path)
    assert fixtures.result(tmp_path / "run")["precision"] == "bf16"


def test_begun_anew_means_once(parts: list[str], tmp_path: Path) -> None:
    """A run that goes on with other workers is not begun again: the first worker's memory may be gone, the folder is not."""
    train(parts, tmp_path)
    asked = load_job(None, [*parts, f"run.dir={tmp_path}", "job.name=run", "run.resume=never"])
    stop = Deaf()
    run = TrainingRun(asked, World(), stop)
    with asked_in_step(2, stop), pytest.raises(Stopped):
        run.train()
    assert [
        path.name for path in checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    ] == [
        "step-00000002",
        "step-00000003",
    ]
    stop.requested = None
    run.train()
    assert "resumed at step 3 of 9" in (tmp_path / "run" / "train.log").read_text()


def test_begun_anew_means_once_for_all_starts_of_a_batch_job(
    parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*parts, "run.resume=never"]
    for name, steps, carried in (("17", 3, False), ("17", 5, True), ("18", 4, False)):
        monkeypatch.setenv("DISTSENT_START", name)
        stopped(words, tmp_path, steps)
        assert ("resumed at" in (tmp_path / "run" / "train.log").read_text()) == carried


def test_a_path_that_was_kept_without_its_dot_is_the_same_path(
    parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace(f"={parts[0].partition('=')[2]}", "=corpus") for word in parts]
    (tmp_path / "corpus").symlink_to(parts[0].partition("=")[2])
    stopped(words, tmp_path, 3)
    kept = tmp_path / "run" / "job.json"
    kept.write_text(kept.read_text().replace('"./corpus"', '"corpus"'))
    assert fixtures.metrics(train(words, tmp_path))[-1]["step"] == STEPS
