"""Texts -> labels and scores, from a finished run or any saved classifier."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distsent.batching.balance import split_by_tokens
from distsent.batching.packing import PackedBatch, pack
from distsent.data.tokens import long_texts
from distsent.data.tokens.batch_tokenizer import BatchTokenizer, flat, flat_ids
from distsent.data.tokens.content import NO_TEXT
from distsent.data.tokens.template import shorten
from distsent.errors import UserError, out_of_memory
from distsent.evaluation.evaluate_split import batch_tokens_for
from distsent.evaluation.exported import check_origin
from distsent.evaluation.saved_model import check_asked, load_saved_model
from distsent.evaluation.tasks.choose import choose_task, saved_task
from distsent.evaluation.tasks.task import Task
from distsent.formats.records import first_few
from distsent.model.forward import autocast
from distsent.model.load_errors import explain_load_errors, folder_problem
from distsent.runtime.checkpoint import list_checkpoints
from distsent.runtime.device import HALF
from distsent.runtime.run_folder import RunFolder
from distsent.runtime.run_status import read_status
from distsent.storage import entries, is_file, is_folder

SHORTER = "set --max-length lower, or use a machine with more memory"
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # neither code nor pickles


def find_model_folder(path: str | Path) -> Path:
    """The folder of a saved model: `path`, `model/` of a run folder, or its copy from the hub.

    Raises UserError if there is none.
    """
    path = Path(path)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)) and not is_folder(path.parent):
        from huggingface_hub import snapshot_download

        with explain_load_errors(str(path), "model"):
            return Path(snapshot_download(str(path), allow_patterns=HUB_FILES))
    for folder in (path / "model", path):
        if is_file(folder / "config.json"):
            check_origin(folder)
            return folder
    run = RunFolder(path)
    if is_file(run.job):
        status = read_status(run.status)
        if status and status.state == "finished":
            kept = list_checkpoints(run.checkpoints)
            fix = "run its training command again" + ("" if kept else " with run.resume=never")
            raise UserError(f"{path}: finished, but its model folder is gone; {fix}")
        state = f"{status.state}: {status.message}" if status else "status unknown"
        raise UserError(f"{path}: no model yet ({state}); run its training command again to resume")
    if is_folder(path) and (problem := folder_problem(path)):
        raise UserError(f"{path}: {problem}")
    raise UserError(f"{path}: no such run, and no such saved model{_similar_runs(path)}")


def _similar_runs(path: Path) -> str:
    """The end of a line about a path without a run: the runs beside it that it may mean."""
    runs: list[str] = []
    with suppress(OSError):  # the line itself says enough
        runs = [one.name for one in entries(path.parent) if is_file(RunFolder(one).job)]
    near = [name for name in runs if name.startswith(f"{path.name}-seed")]
    near = near or get_close_matches(path.name, runs)
    return f"; there are runs {first_few(near)}" if near else ""


class Predictor:
    """A classifier that labels texts. Those longer than the model takes are read as in training.

    `thresholds`: the least score of each label, or one for all; below it, it is not given.
    `poll`: called before each batch; what it raises ends the call. `precision`: float32 if unset,
    or that of an export.
    """

    def __init__(
        self,
        path: str | Path,
        precision: str | None = None,
        max_length: int | None = None,
        thresholds: float | Sequence[float] | None = None,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        folder = find_model_folder(path)
        check_asked(folder, "--precision", precision)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_saved_model(folder, device)
        self.tokenizer, self.device, self.notes = model.tokenizer, model.device, model.notes
        self.long_texts, self.template = model.long_texts, model.template
        if self.template is not None:
            self.notes += (f"texts are put into data.template = {shorten(self.template)}",)
        self._windows = self.long_texts.long == long_texts.WINDOWS
        options = "auto", self._windows, precision or "float32", "--precision"
        self.forward, self.precision = model.build(*options)
        self.task = choose_task(saved_task(folder), model.labels)
        self.labels = list(self.task.names)
        self.thresholds = _thresholds_of(self.task, thresholds)
        limit = model.token_limit
        if max_length is not None and not 3 <= max_length <= limit:
            raise UserError(f"max_length = {max_length}: this model takes 3 to {limit} tokens")
        self.max_length = max_length or model.max_length
        self.long = 0  # texts that were longer, so far
        self._tokenizers: dict[bool, BatchTokenizer] = {}  # of pairs, and of single texts
        self._poll = poll
        self._batch_tokens = batch_tokens_for(self.device, 8192)

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """Logits [n, C] float32 of n texts (or pairs of texts), in their order.

        NaN for a text of which the tokenizer leaves nothing; where the model overflows, not finite.
        Raises UserError for a value that is not a text.
        """
        return self._logits(texts, pairs)[0]

    @torch.inference_mode()
    def _logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The logits, and which texts have none, bool [n]."""
        _check_texts("texts", texts)
        _check_texts("pairs", pairs or ())
        if not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32), np.zeros(0, dtype=bool)
        encode = self._tokenizer(pairs is not None)
        encoded = encode(texts, pairs)
        self.long += sum(one.long for one in encoded)
        ids, lengths = flat_ids(encoded, np.int64)
        empty = encode.content.find_empty(encoded, ids, lengths)
        order = np.argsort(lengths, kind="stable")
        order = order[~empty[order]]
        logits = np.full((len(encoded), len(self.labels)), np.nan, dtype=np.float32)
        for rows in split_by_tokens(order, lengths, self._batch_tokens) if len(order) else ():
            self._poll()
            try:
                batch = self._pack([encoded[i] for i in rows], "types" in encode.streams)
                with autocast(self.device, self.precision):
                    logits[rows] = self.forward(batch).float().cpu().numpy()
            except (MemoryError, RuntimeError) as error:
                what = f"labeling {len(rows)} texts of up to {int(lengths[rows].max())} tokens"
                raise out_of_memory(error, what, SHORTER) from None
        return logits, empty

    def _tokenizer(self, pairs: bool) -> BatchTokenizer:
        if pairs not in self._tokenizers:
            options = self.max_length, pairs, self.long_texts, self.template
            self._tokenizers[pairs] = BatchTokenizer(self.tokenizer, *options)
        return self._tokenizers[pairs]

    def _pack(self, encoded: Sequence[long_texts.Windows], has_types: bool) -> PackedBatch:
        ends = np.cumsum(flat((one.lengths for one in encoded), np.int64))[:-1]
        ids = np.split(flat_ids(encoded, np.int64)[0], ends)
        types, counts = None, None
        if has_types:
            types = np.split(flat((one.type_ids for one in encoded), np.int64), ends)
        if self._windows:
            counts = np.array([len(one.lengths) for one in encoded])
        return pack(ids, np.zeros(len(encoded)), types, device=self.device, windows_n=counts)

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """What the task says about each text.

        {"label": "pos", "score": 0.98, "scores": {"neg": 0.02, "pos": 0.98}};
        of several labels {"labels": ["joy"], "scores": {"joy": 0.9, "fear": 0.1}};
        below the threshold the label is None, and of several labels is not in the list;
        of a number {"value": 3.2}, of several {"values": {"joy": 3.2, "fear": 1.0}};
        {"error": ...} for a text of which the tokenizer leaves nothing, or without finite logits.
        """
        logits, empty = self._logits(texts, pairs)
        finite = np.isfinite(logits).all(axis=1)  # and not empty
        answers = iter(self.task.answers(logits[finite], self.thresholds))
        no_logits = {"error": self._not_finite()}
        return [
            next(answers) if good else {"error": NO_TEXT} if nothing else dict(no_logits)
            for good, nothing in zip(finite, empty, strict=True)
        ]

    def _not_finite(self) -> str:
        """What is said of a text with such logits: float16 holds no number above 65,504."""
        problem = f"the model's logits are not finite in {self.precision}"
        return f"{problem}; use --precision float32" if self.precision in HALF else problem


def _thresholds_of(task: Task, thresholds: float | Sequence[float] | None) -> np.ndarray | None:
    """A threshold for each of the task's decisions. Raises UserError."""
    if thresholds is None:
        return None
    if not task.decisions:
        raise UserError(f"thresholds: are for labels; this model's task is {task.name!r}")
    found, n = np.asarray(thresholds, dtype=np.float64), len(task.decisions)
    if found.ndim and found.shape != (n,):
        raise UserError(f"thresholds: {found.size} for a model that takes {n}")
    if np.isnan(found).any():
        raise UserError("thresholds: nan is no threshold")
    return np.broadcast_to(found, n)


def _check_texts(name: str, values: Sequence[str]) -> None:
    if isinstance(values, str):
        raise UserError(f"{name}: a single text; expected a list of texts: [{values[:40]!r}]")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"{name}[{i}] = {value!r} is not text")
