"""What is in an export's folder beside its model: tokenizer, names, thresholds, record, card."""

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from distsent.data.tokens.long_texts import CUT, WINDOWS
from distsent.evaluation.chosen_thresholds import FILE as THRESHOLDS
from distsent.evaluation.chosen_thresholds import hash_weights
from distsent.evaluation.exported import ONNX, Export, ExportedForward, hash_parts
from distsent.evaluation.saved_model import SavedModel
from distsent.exporting.timing import Speed, ratio
from distsent.reporting.finished_run import FinishedRun
from distsent.reporting.markdown import markdown_table
from distsent.storage import is_file
from distsent.versions import version_of, versions


@dataclass(frozen=True)
class About:
    """An export: of which run, how, what its check found, and lines about it."""

    run: FinishedRun
    saved: SavedModel
    format: str
    precision: str
    check: Mapping[str, Any]
    notes: Sequence[str]


def write(
    folder: Path,
    about: About,
    forward: ExportedForward,
    parts: str,
    speed: Mapping[str, Speed],
) -> list[str]:
    """Write all but the model. Returns lines about the export. `parts`: a table of its labels."""
    model, tokenizer, saved = about.run.folder.model, about.saved.tokenizer, about.saved
    shutil.copyfile(model / "config.json", folder / "config.json")
    tokenizer.save_pretrained(folder)
    _settle_lengths(folder / "tokenizer.json", tokenizer, forward.pad_id)
    if is_file(model / THRESHOLDS):
        thresholds = json.loads((model / THRESHOLDS).read_text(encoding="utf-8"))
        thresholds["weights"] = hash_weights(folder)  # which the run's curves are to be used with
        text = json.dumps(thresholds, ensure_ascii=False)
        (folder / THRESHOLDS).write_text(f"{text}\n", encoding="utf-8")
    seconds = {name: {"median": x.median, "rounds": x.rounds} for name, x in speed.items()}
    packages = ("onnx", "onnxruntime", "openvino", "nncf")
    Export(
        format=about.format, precision=about.precision, labels=list(saved.labels),
        task=str(about.run.job["data"].get("task", "single_label")), inputs=list(forward.inputs),
        pad_token_id=forward.pad_id, shortest=forward.shortest, token_limit=saved.token_limit,
        long_texts=saved.long_texts.to_dict(), text_template=saved.template,
        weights_sha256=about.run.result["weights_sha256"],
        files=hash_parts(folder), check={**about.check, "examples_per_second": seconds},
        versions=versions() | {name: found for name in packages if (found := version_of(name))},
    ).write(folder)  # fmt: skip
    summary = _summary(folder, about, speed)
    card = _card(about, forward.inputs, summary, parts, speed)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return [*summary, *about.notes]


def _settle_lengths(path: Path, tokenizer: Any, pad: int) -> None:
    """Let the tokenizer alone cut and pad: programs without transformers read only this file."""
    backend = Tokenizer.from_file(str(path))
    backend.enable_truncation(tokenizer.model_max_length, direction=tokenizer.truncation_side)
    token = backend.id_to_token(pad) or tokenizer.pad_token or "[PAD]"
    backend.enable_padding(pad_id=pad, pad_token=token)
    backend.save(str(path))


def _size(folder: Path, files: Sequence[str]) -> float:
    """Megabytes."""
    return sum((folder / name).stat().st_size for name in files) / 1e6


def _summary(folder: Path, about: About, speed: Mapping[str, Speed]) -> list[str]:
    check, (own, plain, *_) = about.check, speed
    this = list(speed)[-1]
    weights = [path.name for path in about.run.folder.model.glob("*.safetensors")]
    size = f"{_size(folder, list(hash_parts(folder))):,.1f} MB"
    before = f"{_size(about.run.folder.model, weights):,.1f} MB"

    def between(key: str) -> str:
        low, high = check[f"{key}_interval"]
        return f"{check[key]:.4f} [{low:.4f}, {high:.4f}]"

    rows = f"{check['n']:,} {check['split']} row{'s' * (check['n'] != 1)}"
    return [
        f"size: {size} (model/ has {before})",
        f"agreement with the run's model on {rows}: {between('agreement')}",
        f"{check['score']}: {check['before']:.4f} -> {check['after']:.4f}, loss {between('loss')}",
        f"logits: differ by up to {check['logits']:.3g}, scaled by {check['scale']:.4f}",
        f"speed: {ratio(speed[this], speed[plain])} of {plain}, "
        f"{ratio(speed[this], speed[own])} of {own}",
    ]


LONG = {
    CUT: "Texts are cut at {} tokens.",
    "head_tail": "Of texts with more than {} tokens, the model was trained on the beginning and "
    "the end. distsent reads them so; `tokenizer.json` alone cuts them.",
    WINDOWS: "Texts with more than {} tokens are read in overlapping windows, and the logits of a "
    "text are the mean of those of its windows. distsent does so; `tokenizer.json` alone cuts.",
}
TEMPLATE = (
    " The model reads each text inside data.template = {}; distsent fills it in, and cuts the text "
    "inside of it. Without distsent, fill it in first (Python's `str.format` does); "
    "`tokenizer.json` alone cuts the end of the template with that of a long text."
)
CARD = """# {name}: {title}

Exported by distsent from the run `{name}`. `python -m distsent.predict FOLDER` reads this
folder, and so does {library} without distsent: docs/export.md of distsent has an example.

{summary}

Intervals are 95 %. Speed: examples per second from tokens to logits, the same rows in batches of
similar lengths, {threads}, {rounds} rounds in turn, median (lowest - highest), {machine}:

{speed}
{parts}
{long}{template} Inputs: {inputs}. The calibration of the run is in the model;
`thresholds.json`, if there, has the thresholds of the run.
"""


def _card(
    about: About,
    inputs: Sequence[str],
    summary: Sequence[str],
    parts: str,
    speed: Mapping[str, Speed],
) -> str:
    rows = [[name, f"{x}"] for name, x in speed.items()]
    threads = torch.get_num_threads()
    length, template = about.saved.tokenizer.model_max_length, about.saved.template
    return CARD.format(
        name=about.run.name,
        title=f"{about.format}, {about.precision}",
        library="onnxruntime" if about.format == ONNX else "openvino",
        summary="\n".join(f"- {line}" for line in (*summary, *about.notes)),
        threads=f"{threads} thread{'s' * (threads != 1)}",
        rounds=len(next(iter(speed.values())).rounds),
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        speed=markdown_table(["system", "examples/s"], rows),
        parts=parts,
        long=LONG[about.saved.long_texts.long].format(length),
        template="" if template is None else TEMPLATE.format(f"`{template!r}`"),
        inputs=f"int64 [batch, length] {', '.join(inputs)}",
    )
