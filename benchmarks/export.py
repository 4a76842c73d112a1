"""Exports of one run, side by side with distsent's own scoring, and recipes of int8 that lost.

    python -m benchmarks export

Trains MiniLM on emotion for a few hundred steps, then exports it in each format and precision. The
numbers are those that an export's own check and timing write to export.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks import materials
from benchmarks.comparison import about
from benchmarks.launch import PYTHON, run
from benchmarks.workload import Workload
from distsent import export
from distsent.errors import NOT_EXPORTED, UserError
from distsent.reporting.markdown import markdown_table

WORK = Workload("emotion", "minilm", "float32", max_length=64, batch_size=32, rows=16_000)
STEPS = 1000
KINDS = [
    (kind, int8)
    for kind in ("onnx", "openvino")
    for int8 in ([], ["--int8"])
    if kind == "onnx" or find_spec("openvino")
]


def report() -> str:
    """The table of export.md."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trained = train(Path(folder))
        for kind, int8 in KINDS:
            rows.append(row(trained, kind, int8))
    head = ["export", "size MB", "agreement", "loss of accuracy", "logits", "against float32 ONNX"]
    return f"# Exports\n\n{about()}\n\n{markdown_table([*head, 'against distsent'], rows)}"


def train(folder: Path) -> Path:
    """The run that is exported."""
    keys = {
        "data.source": materials.dataset(WORK, folder / "dataset"), "data.max_length": 64,
        "model.name": materials.encoder("minilm", folder / "encoder"), "train.batch_size": 32,
        "train.max_steps": STEPS, "optim.lr": 2e-4, "optim.warmup": 0.1, "eval.every": "end",
        "run.dir": folder, "job.name": "run", "log.tensorboard": "false",
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in keys.items()]
    run([*PYTHON, "distsent.train", *words], WORK, folder)
    return folder / "run"


def row(trained: Path, kind: str, int8: list[str]) -> list[str]:
    name = f"{kind}{' int8' * bool(int8)}"
    try:
        with redirect_stdout(StringIO()) as printed:
            export.main([str(trained), "--format", kind, *int8])
    except UserError as error:
        if error.code != NOT_EXPORTED:
            raise
        return [name, "-", f"not exported: {str(error).partition(': not exported: ')[2]}", *"-----"]
    out = Path(printed.getvalue().strip())
    check: dict[str, Any] = json.loads((out / "export.json").read_text())["check"]
    speeds = [one["rounds"] for one in check["examples_per_second"].values()]
    own, plain, this = speeds[0], speeds[1], speeds[-1]  # float32 ONNX is its own measure
    parts = ("model.onnx", "openvino_model.xml", "openvino_model.bin")
    size = sum((out / part).stat().st_size for part in parts if (out / part).exists())
    low, high = check["loss_interval"]

    def against(other: list[float]) -> str:
        ratios = [a / b for a, b in zip(this, other, strict=True)]
        return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} - {max(ratios):.2f})"

    return [
        name, f"{size / 1e6:.1f}", f"{check['agreement']:.4f}",
        f"{check['loss']:.4f} [{low:.4f}, {high:.4f}]", f"{check['logits']:.2g}",
        against(plain), against(own),
    ]  # fmt: skip
