"""What the job of a saved model says about files of texts."""

from dataclasses import fields
from pathlib import Path

from distsent.data.files import recorded_reading
from distsent.errors import UserError
from distsent.evaluation.predictor import find_model_folder
from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs
from distsent.job import load_saved_job
from distsent.job.schema import DataSection
from distsent.runtime.run_folder import read_json

COLUMNS = ("text_column", "pair_column", "text_position", "pair_position")
FILE_KEYS = (*COLUMNS, "na_values", *(key.name for key in fields(FileOptions)))

NAMES = ", ".join(f"data.{key}" for key in FILE_KEYS)


def file_section(path: str | Path, overrides: list[str]) -> tuple[DataSection, ReadAs | None]:
    """The [data] keys for a file of texts, and how the files of the training run were read.

    The keys are those of the run whose model this is, under `overrides`. Raises UserError.
    """
    saved = find_model_folder(path).parent / "job.json"
    record = read_json(saved) or {}
    data = record.get("job", {}).get("data", {})
    kept = {key: value for key, value in data.items() if key in FILE_KEYS}
    job = load_saved_job({"data": kept}, str(saved), overrides)
    for word in overrides:
        name = word.partition("=")[0].strip().removeprefix("data.")
        if name not in FILE_KEYS and not name.startswith("label"):  # labels are not read
            problem = "does not change how a file is read; the model decides the rest"
            raise UserError(f"{word[:80]}: {problem}: leave it out, or set one of {NAMES}")
    return job.data, recorded_reading(record)
