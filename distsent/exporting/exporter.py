"""From a finished run to an export: graph, quantization, check, speed, content."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from distsent.batching.batch_plan import collate
from distsent.data.tokens.long_texts import WINDOWS
from distsent.data.tokens.store import Tokens
from distsent.distributed.world import World
from distsent.errors import NOT_EXPORTED, UserError
from distsent.evaluation.evaluate_split import evaluate_split
from distsent.evaluation.exported import (
    EXTRAS,
    MODEL_FILES,
    ONNX,
    ExportedForward,
    load_runner,
    require,
)
from distsent.evaluation.offline import open_store, resolve_request
from distsent.evaluation.predictor import find_model_folder
from distsent.evaluation.saved_model import AnyForward, SavedModel, load_saved_model
from distsent.evaluation.tasks.choose import choose_task
from distsent.exporting import content, gate, graph, losses, openvino_model, quantization, timing
from distsent.exporting.rows import CPU, different_lengths, draw, padded, subset
from distsent.exporting.target import check_target, new_folder
from distsent.model import classifier
from distsent.model.tokenizer import padding_id
from distsent.reporting.finished_run import FinishedRun, read_run
from distsent.runtime.signals import StopSignal

CALIBRATION_ROWS = 256
SPLITS = "test", "validation", "train"  # the first one that there is, is the one to check
OWN, PLAIN = "distsent, packed, float32", "ONNX, float32"


@dataclass(frozen=True)
class Exporter:
    """A run, its model and its rows. `precision`: "float32" or "int8".

    `model`: what is exported. `saved`: the same model as distsent scores with it.
    """

    run: FinishedRun
    saved: SavedModel
    model: PreTrainedModel
    splits: Mapping[str, Tokens]
    format: str
    precision: str
    stop: StopSignal

    @classmethod
    def open(cls, path: Path, kind: str, precision: str, stop: StopSignal) -> Exporter:
        """Raises UserError if the run is not finished, or a package is missing."""
        run = read_run(path)
        for package in ("onnx", "onnxruntime"):
            require(package, EXTRAS[kind], f"--format {kind}")
        if kind != ONNX:
            require("openvino", EXTRAS[kind], f"--format {kind}")
            if precision == "int8":
                openvino_model.require_nncf()
        saved = load_saved_model(find_model_folder(path), CPU)
        model = classifier.load_classifier(str(run.folder.model)).model.eval()
        model.set_attn_implementation("eager")  # plain products instead of an operator of torch
        store = open_store(resolve_request(str(path), [], "train"), World(), saved, stop)
        return cls(run, saved, model, store.splits, kind, precision, stop)

    def export(self, target: Path, most_rows: int | None) -> list[str]:
        """Write the export to `target`. Returns lines about it.

        Raises UserError with code 4 if it does not do what the model does, and with code 2 if its
        architecture cannot be exported. Then `target` is as it was before.
        """
        check_target(target)
        split = next(name for name in SPLITS if name in self.splits)
        rows = subset(self.splits[split], draw(len(self.splits[split]), most_rows))
        with new_folder(target) as folder:
            made = self.write_model(folder)
            reference, compared, expected = self.score(made[self.name], rows)
            verdict = gate.judge(compared, self.precision)
            if verdict.problems:
                sys.stdout.write(losses.table(compared, rows, self.saved.tokenizer))
                what = f"{target}: not exported: {'; '.join(verdict.problems)}"
                raise UserError(what, code=NOT_EXPORTED)
            systems = {OWN: reference, PLAIN: made[PLAIN], self.name: made[self.name]}
            speed = timing.measure(systems, rows, expected)
            shutil.rmtree(folder / "float32")
            notes = [*verdict.notes, *losses.lines(compared)]
            if split != "test":
                notes.insert(0, f"no test split: checked on {split}")
            check = {"split": split, **verdict.check}
            about = content.About(self.run, self.saved, self.format, self.precision, check, notes)
            lines = content.write(folder, about, self.forward, losses.table(compared), speed)
        return lines

    @property
    def name(self) -> str:
        return f"{'ONNX' if self.format == ONNX else 'OpenVINO'}, {self.precision}"

    @property
    def forward(self) -> ExportedForward:
        """The model itself, run as its export is."""
        names = ["input_ids", "attention_mask"]
        if "token_type_ids" in self.saved.tokenizer.model_input_names:
            names.append("token_type_ids")
        pad = padding_id(self.model.config, self.saved.tokenizer)
        shortest = classifier.shortest_input(self.model.config)
        return ExportedForward(graph.runner(self.model), names, pad, shortest)

    def write_model(self, folder: Path) -> dict[str, ExportedForward]:
        """Write the model. Returns it, and the graph in float32, by name."""
        forward, train, threads = self.forward, self.splits["train"], torch.get_num_threads()
        path = self.write_graph(folder / "float32")
        made = {PLAIN: forward.with_run(load_runner(path.parent, ONNX, threads))}
        graph.check_graph(self.model, made[PLAIN], train)
        batches = None
        if self.precision == "int8":
            some = subset(train, draw(len(train), CALIBRATION_ROWS))
            batches = list(padded(some, forward.pad))
        final = folder / MODEL_FILES[self.format]
        if self.format != ONNX:
            openvino_model.convert(path, batches, final)
        elif batches is None:
            for part in path.parent.iterdir():
                shutil.copy(part, folder)
        else:
            quantization.quantize(path, batches, final)
        self.stop.raise_if_requested()
        made[self.name] = forward.with_run(load_runner(folder, self.format, threads))
        return made

    def write_graph(self, folder: Path) -> Path:
        """Write the model as an ONNX graph, in a folder of its own."""
        self.stop.raise_if_requested()
        folder.mkdir()
        few = subset(self.splits["train"], different_lengths(self.splits["train"]))
        rows = np.resize(np.arange(len(few)), max(2, len(few)))  # one alone would be a special case
        example = self.forward.pad(collate(few, rows, None, CPU))
        graph.write_graph(self.model, example, folder / MODEL_FILES[ONNX])
        return folder / MODEL_FILES[ONNX]

    def score(self, exported: ExportedForward, rows: Tokens) -> tuple[AnyForward, gate.Rows, float]:
        """distsent's own way to score, both logits of the rows, and its examples per second."""
        task = choose_task(str(self.run.job["data"].get("task", "single_label")), self.saved.labels)
        windows = self.saved.long_texts.long == WINDOWS
        reference, _ = self.saved.build("auto", windows, "float32", None)
        options: Any = {"batch_tokens": self.run.job["eval"]["batch_tokens"], "device": CPU}
        options |= {"precision": "float32", "stop": lambda: self.stop.requested is not None}
        scores, before = evaluate_split(World(), reference, rows, task, **options)
        _, after = evaluate_split(World(), exported, rows, task, **options)
        labels = np.asarray(self.splits["train"].labels, dtype=np.float64)
        spread = np.atleast_1d(labels.std(0))
        pair, spread = (before.numpy(), after.numpy()), np.where(spread == 0, 1.0, spread)
        compared = gate.Rows(task, *pair, np.asarray(rows.labels), spread)
        return reference, compared, float(scores["samples_per_second"])
