"""An exported classifier (ONNX or OpenVINO): its record, and how it scores packed batches.

An export computes on the CPU, in the precision that it was exported in, and takes padded batches.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from xxhash import xxh3_128

from distsent.batching.packing import PackedBatch
from distsent.errors import UserError
from distsent.model.packed_forward import mean_of_windows
from distsent.runtime.run_folder import RunFolder, read_json
from distsent.storage import is_file

RECORD = "export.json"  # what makes a folder an export
ONNX, OPENVINO = "onnx", "openvino"
MODEL_FILES = {ONNX: "model.onnx", OPENVINO: "openvino_model.xml"}
PARTS = (*MODEL_FILES.values(), "model.onnx.data", "openvino_model.bin")  # of an exported model
EXTRAS = {ONNX: "export", OPENVINO: "openvino"}

Runner = Callable[[dict[str, np.ndarray]], np.ndarray]  # inputs [n, L] int64 -> logits [n, C]


@dataclass(frozen=True)
class Export:
    """The content of export.json.

    `weights_sha256`: of the run, as in its result.json. `files`: hashes of the model's files.
    `check`: what comparing it with the run's model found.
    """

    format: str
    precision: str  # "float32" or "int8"
    task: str
    labels: list[str]
    inputs: list[str]
    pad_token_id: int
    shortest: int  # tokens that it takes at least, padding included
    token_limit: int
    long_texts: dict[str, Any]
    text_template: str | None
    weights_sha256: str
    files: dict[str, str]
    check: dict[str, Any]
    versions: dict[str, str]

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")


def read_export(folder: Path) -> Export | None:
    """The record of an exported model; None for any other folder. Raises UserError."""
    record = read_json(folder / RECORD) if is_file(folder / RECORD) else None
    if record is None:
        return None
    known = {field.name for field in fields(Export)}
    if record.keys() != known or record["format"] not in MODEL_FILES:
        problem = "not what this version of distsent writes"
        raise UserError(f"{folder / RECORD}: {problem}; export the run again")
    return Export(**record)


def check_origin(folder: Path) -> None:
    """Raise UserError for an export in a run's folder that is of another training than the run.

    The run's job and dataset would be taken for those of the export.
    """
    export, run = read_export(folder), RunFolder(folder.parent)
    if export is None or not is_file(run.job):
        return
    result = read_json(run.result) or {}
    if result.get("weights_sha256") != export.weights_sha256:
        problem = f"exported from another training than the one in {run.path}"
        raise UserError(f"{folder}: {problem}; export it again, or move it out of there")


def hash_file(path: Path) -> str:
    digest = xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def hash_parts(folder: Path) -> dict[str, str]:
    """The files of an exported model, and their hashes."""
    return {name: hash_file(folder / name) for name in PARTS if is_file(folder / name)}


def require(package: str, extra: str, why: str) -> Any:
    """A package of an extra. Raises UserError with the command that installs it."""
    try:
        return import_module(package)
    except Exception as error:  # an installed package may be incompatible with another one
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = f" ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
        problem = f"{why}: needs {package}{'' if missing else reason}"
        raise UserError(f"{problem}; pip install 'distsent[{extra}]'") from None


class ExportedForward:
    """Runs an exported classifier on packed batches by padding them on the right.

    `model` stands for the module that other forwards have.
    """

    def __init__(self, run: Runner, inputs: Sequence[str], pad: int, shortest: int = 1) -> None:
        self.model, self._run = nn.Module(), run
        self.inputs, self.pad_id, self.shortest = inputs, pad, shortest

    @classmethod
    def open(cls, folder: Path, export: Export, threads: int) -> "ExportedForward":
        """Raises UserError if its files are not those that were checked, or cannot be loaded."""
        if hash_parts(folder) != export.files:
            problem = "its model is not the one that was exported: damaged or replaced"
            raise UserError(f"{folder}: {problem}; export the run again")
        run = load_runner(folder, export.format, threads)
        return cls(run, export.inputs, export.pad_token_id, export.shortest)

    def with_run(self, run: Runner) -> "ExportedForward":
        """The same for another model that takes these inputs."""
        return ExportedForward(run, self.inputs, self.pad_id, self.shortest)

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        logits = torch.from_numpy(self._run(self.pad(batch)))
        return logits if batch.windows_n is None else mean_of_windows(logits, batch.windows_n)

    def pad(self, batch: PackedBatch) -> dict[str, np.ndarray]:
        """The inputs [n, L] int64, padded to the longest example."""
        lengths = np.array(batch.lengths)
        mask = np.arange(max(self.shortest, lengths.max())) < lengths[:, None]

        def rows(values_T: torch.Tensor | None, fill: int) -> np.ndarray:
            out = np.full(mask.shape, fill, dtype=np.int64)
            if values_T is not None:
                out[mask] = values_T[: batch.tokens].numpy()
            return out

        made: Mapping[str, Callable[[], np.ndarray]] = {
            "input_ids": lambda: rows(batch.ids_T, self.pad_id),
            "attention_mask": lambda: mask.astype(np.int64),
            "token_type_ids": lambda: rows(batch.types_T, 0),
        }
        return {name: made[name]() for name in self.inputs}


def load_runner(folder: Path, kind: str, threads: int) -> Runner:
    """The exported model in a folder. Raises UserError if its library is missing or refuses it."""
    path = folder / MODEL_FILES[kind]
    library = require("onnxruntime" if kind == ONNX else "openvino", EXTRAS[kind], str(folder))
    try:
        return (_onnx if kind == ONNX else _openvino)(library, path, threads)
    except Exception as error:  # their exceptions are RuntimeErrors of their own
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: {library.__name__} cannot load it ({reason})") from None


def _onnx(library: Any, path: Path, threads: int) -> Runner:
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors: it warns about weights that it does not need
    # Idle threads of its pool otherwise keep a core busy: int8 took 1.2 times as long on 2 cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return session.run(["logits"], inputs)[0]

    return run


def _openvino(library: Any, path: Path, threads: int) -> Runner:
    # Its own default is bf16 on CPUs that have it.
    how = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = library.Core()
    compiled = core.compile_model(path, "CPU", {**how, "INFERENCE_NUM_THREADS": threads})

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return compiled(inputs)["logits"].copy()

    return run
