"""What is wrong with a model that cannot be loaded, in one line: found, and how to fix it."""

import fnmatch
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import transformers
from safetensors import SafetensorError, safe_open

from distsent.errors import FAILED, MORE_MEMORY, UserError, exit_code, out_of_memory
from distsent.machine_errors import errno_of, is_out_of_memory, is_trouble
from distsent.storage import entries, is_file, is_folder

LFS_POINTER = b"version https://git-lfs"
INDEX = "model.safetensors.index.json"
# Weights in formats that distsent does not read, the likeliest first
FOREIGN = ("pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack", "*.gguf", "*.onnx", "*.ckpt",
           "*.pt", "*.pth", "*.bin")  # fmt: skip
QUANTIZED = ("I8", "U8", "F8_E4M3", "F8_E5M2")  # transformers would take them for numbers
CONVERT = "docs/jobs.md shows how to convert them once"
CHOOSE = "choose an encoder such as BERT, RoBERTa or ModernBERT"


def check_model_folder(name: str, key: str) -> None:
    """Raise UserError if `name` is a local folder that does not hold a complete model."""
    folder = Path(name)
    try:
        problem = folder_problem(folder) if is_folder(folder) else None
    except OSError as error:
        problem = f"{error.filename} cannot be read ({error.strerror})"
        raise UserError(f"{key} = {name!r}: {problem}") from error
    if problem:
        raise UserError(f"{key} = {name!r}: {problem}")


def folder_problem(folder: Path) -> str | None:
    """Why a folder is no model in Hugging Face's layout with weights in safetensors.

    Raises OSError.
    """
    if pointer := _lfs_pointer(folder):
        fix = "run git lfs pull in that folder"
        return f"{pointer} is a git-lfs pointer, not the file itself; {fix}"
    if not is_file(folder / "config.json"):
        return _without_config(folder)
    if is_file(folder / "adapter_config.json"):
        return f"holds an adapter beside the model (adapter_config.json); {_merge(folder)}"
    return _weights_problem(folder)


def _lfs_pointer(folder: Path) -> str | None:
    for path in entries(folder):
        if is_file(path) and path.stat().st_size < 1024:
            with open(path, "rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    return path.name
    return None


def _without_config(folder: Path) -> str:
    if is_file(folder / "adapter_config.json"):
        parent = is_file(folder.parent / "config.json")
        fix = f"did you mean {folder.parent}?" if parent else _merge(folder)
        return f"an adapter alone, without its model; {fix}"
    models = [path for path in entries(folder) if is_file(path / "config.json")]
    saved = [path for path in models if path.name.startswith("checkpoint-")]
    if saved:
        last = max(saved, key=lambda path: int("0" + re.sub(r"\D", "", path.name)))
        return f"holds checkpoints of a training, not a model; did you mean {last}?"
    hint = f"; did you mean {models[0]}?" if models else ""
    return f"neither a run nor a saved model (no config.json){hint}"


def _merge(folder: Path) -> str:
    try:
        base = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        base = str(base["base_model_name_or_path"])[:80]
    except (ValueError, KeyError, TypeError, OSError):
        base = "its base model"
    fix = "merge it with peft's merge_and_unload(), and save the result"
    return f"it belongs to {base}: {fix}"


def _weights_problem(folder: Path) -> str | None:
    index = folder / INDEX
    names = [path.name for path in entries(folder) if path.suffix == ".safetensors"]
    if is_file(index) and not is_file(folder / "model.safetensors"):
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{INDEX} is damaged; copy or download it again"
        missing = [name for name in names if not is_file(folder / name)]
        if missing:
            found = f"{len(missing)} of {len(names)} files of its weights are missing"
            return f"{found} ({missing[0]}); copy or download them again"
    for name in names:
        try:
            with safe_open(folder / name, framework="pt") as file:
                keys = file.keys()
                kinds = {key: file.get_slice(key).get_dtype() for key in keys}
        except SafetensorError as error:
            if number := errno_of(error):
                raise OSError(number, os.strerror(number), str(folder / name)) from error
            size = (folder / name).stat().st_size
            reason = str(error).removeprefix("Error while deserializing header: ")
            found = f"{name} is damaged or cut short ({size:,} bytes: {reason})"
            return f"{found}; copy or download it again"
        for key, kind in kinds.items():
            if kind in QUANTIZED and key.endswith("weight"):
                return f"its weights are quantized ({key} is {kind}); use the original weights"
    if not names:
        return _foreign_weights(folder)
    if not is_file(index) and "model.safetensors" not in names:
        return f"there is no model.safetensors, only {names[0]}: rename it if it holds the weights"
    return None


def _foreign_weights(folder: Path) -> str:
    names = [path.name for path in entries(folder)]
    found = [name for pattern in FOREIGN for name in fnmatch.filter(names, pattern)]
    if not found:
        return "no weights in it: there is no model.safetensors"
    if found[0].endswith((".bin", ".pt", ".pth", ".ckpt")):
        return f"its only weights are a pickle ({found[0]}), which distsent never reads; {CONVERT}"
    return f"its only weights are in {found[0]}; save it with transformers as model.safetensors"


@contextmanager
def explain_load_errors(name: str, key: str) -> Iterator[None]:
    """Convert the errors of loading from the hub or a folder into one line with the key."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers raises any kind for a file it does not expect
        if is_out_of_memory(error):
            raise out_of_memory(error, f"loading {key} = {name!r}", MORE_MEMORY) from None
        lines = str(error).strip().splitlines() or [""]
        lines = [" ".join(lines[:2])] if lines[0].endswith(":") else lines
        text = lines[0][:300] or type(error).__name__
        number = errno_of(error) if exit_code(error) == FAILED else _trouble_in(Path(name))
        if number is not None:
            problem = f"{key} = {name!r}: cannot be read now ({os.strerror(number)})"
            fix = "fix that, and run the same command again"
            if number < 0:  # a resolver's, not the system's: no host of that name is found
                problem = f"{key} = {name!r}: cannot be downloaded (the hub is not reachable)"
                fix = "connect to the network, or use a local folder, e.g. ./NAME"
            raise UserError(f"{problem}; {fix}", code=FAILED) from error
        if "use_safetensors" in str(error):  # on the hub
            problem = (
                "its only weights are a pickle (pytorch_model.bin), which distsent never reads"
            )
            fix = CONVERT
        elif "tiktoken" in text and find_spec("sentencepiece") is None:
            # transformers tries that last, and names only that.
            problem = "its tokenizer is a sentencepiece model, which needs sentencepiece"
            fix = "pip install 'distsent[sentencepiece]'"
        elif found := _known_cause(Path(name), text):
            problem, fix = found
        else:
            if not isinstance(error, OSError | ValueError | SafetensorError):
                text = f"{type(error).__name__}: {text}"
            problem = f"cannot be loaded ({text})"
            fix = "use a local folder, or a hub id if the hub or its cache (HF_HOME) is available"
            if is_folder(name):
                fix = f"transformers {transformers.__version__} must be able to read its files"
        raise UserError(f"{key} = {name!r}: {problem}; {fix}") from error


def _trouble_in(folder: Path) -> int | None:
    """The system's number of what makes files of a folder unreadable now: transformers hides it."""
    try:
        for path in entries(folder):
            if is_file(path):
                with open(path, "rb") as file:
                    file.read(1)
    except OSError as error:
        return error.errno if is_trouble(error) else None
    return None


def _known_cause(folder: Path, text: str) -> tuple[str, str] | None:
    """Problem and fix behind an error that does not name them. `text`: of transformers' error."""
    if "custom code" in text:
        problem = "it needs its own code (auto_map in its config.json), which distsent never runs"
        return problem, CHOOSE
    if unknown := re.search(r"model type `(.*?)` but Transformers does not recognize", text):
        kind, version = unknown[1][:80], transformers.__version__
        return f"transformers {version} has no architecture {kind!r}", CHOOSE
    for path in [path for path in entries(folder) if path.suffix == ".json"]:
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            return f"{path.name} is not JSON ({str(error)[:80]})", "copy or download it again"
        if path.name == "config.json" and not (isinstance(content, dict) and content):
            return "config.json is no JSON object", "copy or download it again"
        if path.name == "config.json" and "model_type" not in content:
            return "its config.json has no model_type", 'add its architecture, e.g. "bert"'
    if "backend tokenizer" in text:
        return "it has no tokenizer (tokenizer.json)", "copy that of its base model"
    return None
