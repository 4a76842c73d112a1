"""On a real GPU: kernels against torch, masks and curves of the CPU, CUDA graphs, resumed bits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distsent import train
from distsent.errors import UserError
from distsent.training import build
from distsent.training.passes import Pass
from distsent.training.recorded_passes import Graphs, Run
from tests import fixtures, interpreted_kernels, interpreted_rows, systems

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
OPTIONS = [
    "train.batch_size=8", "log.every=1", "eval.every=end",
    "checkpoint.every_steps=6", "optim.warmup=0", "data.max_length=32",
]  # fmt: skip


@pytest.mark.parametrize("name", interpreted_kernels.CASES)
def test_kernels_agree_with_torch(name: str) -> None:
    case = interpreted_kernels.CASES[name]
    found = interpreted_kernels.errors(case, interpreted_kernels.FILLER.get(name, 0), "cuda")
    assert max(found.values()) <= interpreted_kernels.TOLERANCE[case.dtype], found


@pytest.mark.parametrize(("length", "rate"), interpreted_kernels.MASKS)
def test_kernels_drop_what_a_cpu_drops(length: int, rate: float) -> None:
    assert not any(interpreted_kernels.wrong_masks(length, rate, "cuda").values())


def test_kernels_of_rows_agree_with_their_references() -> None:
    for name, errors, tolerance in interpreted_rows.run("cuda"):
        assert all(error <= tolerance for error in errors.values()), (name, errors)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    data = fixtures.corpus(folder / "data", train=90, validation=0, test=30, classes=2)
    return [f"data.source={data}", f"model.name={systems.encoder(folder / 'encoder', 'bert')}"]


def run(folder: Path, words: list[str], steps: int = 12) -> list[float]:
    """The loss of each step of a training in this process."""
    words = [*words, f"train.max_steps={steps}"]
    assert train.main([*OPTIONS, *words, f"run.dir={folder}", "job.name=run"]) == 0
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "lr" in line]


def test_a_training_follows_the_curve_of_a_cpu(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is on: the masks must be the same."""
    on_gpu = run(tmp_path / "gpu", [*inputs, "model.dropout=0.1"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = run(tmp_path / "cpu", [*inputs, "model.dropout=0.1"])
    assert on_gpu == pytest.approx(on_cpu, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_training_repeats_its_bits_and_resumes_with_them(
    inputs: list[str], tmp_path: Path, precision: str
) -> None:
    words = [*inputs, f"train.precision={precision}"]
    for name in ("one", "two"):
        run(tmp_path / name, words)
    last = tmp_path / "two" / "run" / "checkpoints"
    for folder in sorted(last.iterdir())[1:]:
        folder.rename(tmp_path / folder.name)
    (tmp_path / "two" / "run" / "result.json").unlink()
    run(tmp_path / "two", words)
    results = [
        json.loads((tmp_path / name / "run" / "result.json").read_text()) for name in ("one", "two")
    ]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_passes_that_are_replayed_have_the_bits_of_passes_as_they_come(
    inputs: list[str], tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*inputs, f"train.precision={precision}", "model.dropout=0.1"]
    replays = 0

    class Counted(Graphs):
        def record(self, run: Run) -> tuple[Callable[[], Any], torch.Tensor]:
            replay, out = super().record(run)

            def counted() -> None:
                nonlocal replays
                replays += 1
                replay()

            return counted, out

    monkeypatch.setattr(build, "Graphs", Counted)
    run(tmp_path / "replayed", words, steps=60)
    assert replays > 20

    def no_graph(self: Graphs, run: Run) -> Any:
        raise RuntimeError("not here")

    monkeypatch.setattr(Counted, "record", no_graph)
    run(tmp_path / "as-they-come", words, steps=60)
    results = [
        json.loads((tmp_path / name / "run" / "result.json").read_text())["weights_sha256"]
        for name in ("replayed", "as-they-come")
    ]
    assert results[0] == results[1]


def test_a_pass_that_waits_for_the_gpu_is_not_recorded(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plain = run(tmp_path / "plain", inputs, steps=30)
    real = Pass.__call__

    def waits(self: Pass, packed: Any, factor_n: torch.Tensor) -> torch.Tensor:
        losses_n = real(self, packed, factor_n)
        assert losses_n.sum().item() > 0
        return losses_n

    monkeypatch.setattr(Pass, "__call__", waits)
    assert run(tmp_path / "waits", inputs, steps=30) == plain
    assert "passes run kernel by kernel" in "".join(capsys.readouterr())


def test_without_memory_a_run_ends_with_one_line(inputs: list[str], tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(UserError, match="memory"):
            run(tmp_path, inputs)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
