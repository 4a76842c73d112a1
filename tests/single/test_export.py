"""Exports: equal to the model, checked before they are called so, and used without distsent."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from distsent import evaluate, export, predict
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.exported import read_export
from distsent.evaluation.intervals import paired_interval
from distsent.evaluation.predictor import Predictor
from distsent.evaluation.tasks.choose import choose_task
from distsent.exporting import gate, graph, quantization, target
from distsent.exporting.rows import subset
from distsent.lock import try_lock
from tests import fixtures, systems, tiny_models
from tests.pages import blocks
from tests.parallel.driver import drive, entry

pytest.importorskip("onnxruntime", reason="pip install 'distsent[export]'")

TEXTS = ["w1", " ".join(fixtures.WORDS[:30]), "w3 w50 w7", "w90 w91 w92 w93 w94 w80 w81"]


@pytest.fixture(scope="module")
def runs(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs to export: copies of `plain` and `lora`, and one run of each other kind."""
    folder = tmp_path_factory.mktemp("export") / "runs"
    for name in ("plain", "lora"):
        shutil.copytree(finished / name, folder / name)
    encoder = systems.encoder(folder.parent / "encoder", "bert")
    tasks = fixtures.task_corpus(folder.parent / "tasks")
    long = fixtures.corpus(folder.parent / "long", train=30, validation=0, test=20)
    base = [f"model.name={encoder}", f"run.dir={folder}", "train.batch_size=8", "optim.lr=5e-3",
            "train.max_steps=8", "log.tensorboard=false"]  # fmt: skip
    kinds = {name: [f"data.source={tasks}", *keys] for name, keys in fixtures.TASKS.items()}
    for keys in kinds.values():
        keys.append("data.max_length=40")
    kinds["multi_label"].append("eval.calibrate=true")
    windows = "data.long=windows", "data.max_length=12", "data.window_overlap=2"
    kinds["windows"] = [f"data.source={long}", *windows]
    kinds["4-bit"] = [f"data.source={long}", "data.max_length=40",
                      "adapter.kind=lora", "adapter.bits=4"]  # fmt: skip
    drive([entry(name, [*base, *keys]) for name, keys in kinds.items()], World())
    return folder


def run(program: Any, *words: object) -> int:
    return program.main([str(word) for word in words])


def refused(program: Any, *words: object) -> UserError:
    with pytest.raises(UserError) as raised:
        run(program, *words)
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("name", ["plain", "lora", "4-bit", "multi_label", "regression", "windows"])
def test_an_export_is_the_model(name: str, runs: Path, tmp_path: Path, capsys: Any) -> None:
    """Logits, predictions and scores of both, of texts of very different lengths."""
    out = runs / name / "onnx"
    assert run(export, runs / name) == 0
    assert capsys.readouterr().out == f"{out}\n"
    one, other = Predictor(runs / name), Predictor(out)
    np.testing.assert_allclose(other.logits(TEXTS), one.logits(TEXTS), rtol=0, atol=1e-5)
    assert other.max_length == one.max_length
    found = []
    for folder in (runs / name, out):
        assert run(evaluate, folder) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0].keys() == found[1].keys()
    assert found[1]["n"] == found[0]["n"] and found[1]["computed_in"] == "float32"
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], abs=1e-5)
    card = (out / "README.md").read_text()
    assert "agreement with the run's model" in card and "distsent, packed, float32" in card
    assert ("average" in card or "mean of those of its windows" in card) == (name == "windows")


def test_int8_is_calibrated_and_close(runs: Path, capsys: Any) -> None:
    out = runs / "plain" / "onnx-int8"
    with patch.object(quantization, "quantize", wraps=quantization.quantize) as quantize:
        assert run(export, runs / "plain", "--int8") == 0
    rows = sum(len(batch["input_ids"]) for batch in quantize.call_args.args[1])
    assert rows == 60  # all training texts
    near, model = Predictor(out).logits(TEXTS), Predictor(runs / "plain").logits(TEXTS)
    assert 0 < abs(near - model).max() < 0.1 * abs(model).max()
    # A text gets the same logits in any batch.
    alone = np.concatenate([Predictor(out).logits([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, near, rtol=0, atol=1e-5)
    record = read_export(out)
    assert record and record.precision == "int8" and record.check["n"] == 40
    assert record.check["agreement"] >= gate.AGREEMENT
    capsys.readouterr()


@pytest.mark.parametrize("int8", [[], ["--int8"]])
def test_openvino(int8: list[str], runs: Path, tmp_path: Path, capsys: Any) -> None:
    for package in ("openvino", "nncf"):
        pytest.importorskip(package, reason="pip install 'distsent[openvino]'")
    out = tmp_path / "it"
    assert run(export, runs / "plain", "--format", "openvino", "--out", out, *int8) == 0
    assert capsys.readouterr().out == f"{out}\n"
    near, model = Predictor(out).logits(TEXTS), Predictor(runs / "plain").logits(TEXTS)
    assert abs(near - model).max() < (0.1 if int8 else 1e-5) * max(1, abs(model).max())


def test_the_example_needs_neither_distsent_nor_torch(runs: Path, tmp_path: Path) -> None:
    """The example of docs/export.md, in a Python that cannot import them."""
    out = tmp_path / "it"
    assert run(export, runs / "plain", "--out", out) == 0
    (code,) = (text for language, text in blocks("export.md") if language == "python")
    texts = [*TEXTS, " ".join(fixtures.WORDS)]  # the last one is cut
    code = code.replace("runs/mail/onnx-int8", str(out))
    code = re.sub(r"encode_batch\(\[.*\]\)", f"encode_batch({texts!r})", code)
    hidden = "distsent", "torch", "transformers"
    start = f"import sys\nfor name in {hidden}: sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, check=True
    )
    labels = [one["label"] for one in Predictor(out)(texts)]
    assert done.stdout == f"{labels}\n"


def test_thresholds_are_those_of_the_run(runs: Path, capsys: Any) -> None:
    out = runs / "multi_label" / "onnx"
    if not out.exists():
        assert run(export, runs / "multi_label") == 0
    capsys.readouterr()
    said = []
    for folder in (runs / "multi_label", out):
        assert run(predict, folder, *TEXTS, "--best-f1") == 0
        said.append([json.loads(line)["labels"] for line in capsys.readouterr().out.splitlines()])
    assert said[0] == said[1]


# What an export may get wrong: how it changes the logits, and what the check says.
def flipped(logits: np.ndarray, n: int) -> np.ndarray:
    out = logits.copy()
    out[:n] = out[:n, ::-1]
    return out


WRONG: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str, str]] = {
    "equal": ("single_label", lambda x: x, "float32", ""),
    "99 %": ("single_label", lambda x: flipped(x, 10), "int8", "loss of 0.01"),
    "98.9 %": ("single_label", lambda x: flipped(x, 11), "int8", "agreement 0.9890"),
    "permuted labels": ("single_label", lambda x: x[:, ::-1], "float32", "agreement 0.0000"),
    "temperature": ("single_label", lambda x: x / 2, "float32", "logits differ"),
    "temperature, int8": ("single_label", lambda x: x / 2, "int8", "scaled by 0.500"),
    "a constant": ("single_label", lambda x: x + 1, "int8", ""),
    "not a number": ("single_label", lambda x: x * np.nan, "int8", "not finite"),
    "one label": ("multi_label", lambda x: x * [1, -1], "int8", "agreement of b 0.0000"),
    "its temperature": ("multi_label", lambda x: x * 2, "int8", "scaled by 2.000"),
    "a tenth of the spread": ("regression", lambda x: x + 0.19, "int8", "RMSE / spread"),
    "more than that": ("regression", lambda x: x + 0.21, "int8", "agreement of a 0.0000"),
    "near": ("regression", lambda x: x * 1.0001, "int8", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_the_check_sees(case: str) -> None:
    name, change, precision, problem = WRONG[case]
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=(1000, 2)).astype(np.float32)
    labels: Any = {
        "single_label": logits.argmax(1), "multi_label": logits > 0, "regression": logits,
    }[name]  # fmt: skip
    exported = np.asarray(change(logits), dtype=np.float32)
    rows = gate.Rows(choose_task(name, ("a", "b")), logits, exported, labels, np.full(2, 2.0))
    said = "; ".join(gate.judge(rows, precision).problems)
    assert problem in said and bool(said) == bool(problem)


@pytest.mark.parametrize("n", [1, 3, 400])
def test_few_rows_are_checked_and_said_to_be_few(n: int) -> None:
    logits = np.eye(2, dtype=np.float32)[np.arange(n) % 2]
    rows = gate.Rows(choose_task("single_label", "ab"), logits, logits, np.zeros(n), np.ones(1))
    verdict = gate.judge(rows, "float32")
    assert not verdict.problems and bool(verdict.notes) == (n < 100)
    low, high = verdict.check["loss_interval"]
    assert low < 0 < high and (high > 0.2) == (n < 100)


def test_intervals_of_paired_differences() -> None:
    """Agresti and Min (2005), and their symmetry."""
    low, high = paired_interval(12, 2, 100)
    assert (low, high) == (-paired_interval(2, 12, 100)[1], -paired_interval(2, 12, 100)[0])
    assert 0.02 < low < 0.1 < high < 0.18
    assert paired_interval(0, 0, 10**6)[1] < 1e-5


def test_a_failed_check_leaves_what_was_there(runs: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "it"
    with patch.object(gate, "AGREEMENT", 2.0):
        error = refused(export, runs / "plain", "--out", out)
        assert error.code == 4 and "not exported" in str(error) and not out.exists()
        table = capsys.readouterr().out
        assert all(f"| {label} " in table for label in fixtures.LABELS)
        assert table.count("\n| ") > 12  # the most different texts
    assert run(export, runs / "plain", "--out", out) == 0
    before = (out / "export.json").read_bytes()
    with patch.object(gate, "LOSS", -1.0):
        assert refused(export, runs / "plain", "--out", out, "--rows", "3").code == 4
    assert (out / "export.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it"]


def test_a_graph_that_ignores_the_padding_is_refused(runs: Path, tmp_path: Path) -> None:
    forward = graph.Logits.forward

    def without_mask(self: Any, *inputs: torch.Tensor) -> torch.Tensor:
        return forward(self, inputs[0], 0 * inputs[1] + 1, *inputs[2:])

    with patch.object(graph.Logits, "forward", without_mask):
        error = refused(export, runs / "plain", "--out", tmp_path / "it")
    assert error.code == 2 and "padded to a common length" in str(error)
    assert not [*tmp_path.iterdir()]


def test_wrong_commands(runs: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(runs / "plain", stopped)
    (stopped / "result.json").unlink()
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    plain = runs / "plain"
    for words, said in {
        (tmp_path / "none",): "not a run folder",
        (stopped,): "not finished",
        (plain, "--out", other): "no export, so it is not replaced",
        (plain, "--out", other / "notes.txt" / "x"): "notes.txt is not a folder; give another one",
        (plain, "--rows", 0): "expected 1 or more",
        (plain, "--format", "tflite"): "--help lists all arguments",
    }.items():
        error = refused(export, *words)
        assert said in str(error) and error.code == 2
    assert (other / "notes.txt").read_text() == "mine"
    with patch.dict(sys.modules, {"onnx": None}):
        assert "pip install 'distsent[export]'" in str(refused(export, plain))


def test_what_an_export_does_not_do(runs: Path, tmp_path: Path) -> None:
    out = runs / "plain" / "onnx"
    if not out.exists():
        assert run(export, runs / "plain") == 0
    for program, words in (
        (evaluate, ["train.precision=bf16"]), (evaluate, ["model.packed=always"]),
        (predict, ["w1", "--precision", "bf16"]),
    ):  # fmt: skip
        assert "is an export, which" in str(refused(program, out, *words))
    alone = tmp_path / "alone"
    shutil.copytree(out, alone)
    assert run(predict, alone, "w1", "--precision", "float32") == 0
    assert "set data.source" in str(refused(evaluate, alone))
    with (alone / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "damaged or replaced" in str(refused(predict, alone, "w1"))
    moved = runs / "lora" / "stale"
    shutil.copytree(out, moved)
    assert "exported from another training" in str(refused(evaluate, moved))
    shutil.rmtree(moved)


def test_killed_exports_leave_nothing_at_the_target(tmp_path: Path) -> None:
    out = tmp_path / "it"
    code = (
        "import os, sys; from pathlib import Path; from distsent.exporting.target import new_folder"
        "\nwith new_folder(Path(sys.argv[1])) as f: (f / 'model.onnx').touch(); os.kill(0 or "
        "os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)])
    assert done.returncode == -signal.SIGKILL and not out.exists()
    (left,) = tmp_path.iterdir()
    busy = left.with_name(f"{left.name.removesuffix('.tmp')}-2.tmp")
    shutil.copytree(left, busy)
    lock = try_lock(busy / target.LOCK)
    assert lock is not None
    with pytest.raises(KeyboardInterrupt), target.new_folder(out):
        assert not left.exists() and busy.exists()  # another export is writing it
        raise KeyboardInterrupt
    lock.close()
    with target.new_folder(out) as folder:
        (folder / "export.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


MOMENTS = {
    "graph.check_graph": False, "quantization.quantize": False,
    "quantization._finish": False, "gate.judge": False, "content.write": False,
    "target.check_target": False,
    "target.sync": False, "target.Owner.publish_folder": False, "export.print": True,
}  # fmt: skip
KILLED = """
import os, sys
from unittest.mock import patch
from distsent import export
from distsent.exporting import content, exporter, gate, graph, quantization, target

run, out, *moments = sys.argv[1:]

def kill(*_, **__):
    os.kill(os.getpid(), 9)

for moment in moments:
    if child := os.fork():
        status = os.waitpid(child, 0)[1]
        print(moment, os.waitstatus_to_exitcode(status), os.path.exists(out), flush=True)
        continue
    names = moment.split(".")
    owner = globals()[names[0]]
    for name in names[1:-1]:
        owner = getattr(owner, name)
    with patch.object(owner, names[-1], kill, create=True):
        export.main([run, "--out", out, "--int8"])
    os._exit(0)
"""


def test_an_export_killed_at_any_moment_is_complete_or_not_there(
    runs: Path, tmp_path: Path
) -> None:
    """At the last moment it is there; the next export removes what the others left."""
    out = tmp_path / "it"
    words = [str(runs / "plain"), str(out), *MOMENTS]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], capture_output=True, text=True, check=True
    )
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert found == {moment: f"-9 {there}" for moment, there in MOMENTS.items()}
    assert len(Predictor(out)(TEXTS)) == len(TEXTS)
    assert run(export, runs / "plain", "--out", out) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_rows_of_windows() -> None:
    tokens = tiny_models.windowed(6)
    few = subset(tokens, np.array([1, 4]))
    assert len(few) == 2 and np.array_equal(few[1], tokens[4])
    assert np.array_equal(few.counts(np.arange(2)), tokens.counts(np.array([1, 4])))
