"""The end of a run: model folder, predictions, result.json, model card, and the table on the console."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from distsent import __version__
from distsent.data.token_store import TokenStore
from distsent.errors import FINISHED
from distsent.fsync import sync
from distsent.model import adapter
from distsent.reporting import finished_run, model_card, predictions, tensorboard
from distsent.reporting.table import format_result_table
from distsent.runtime.checkpoint import weights_sha256
from distsent.runtime.log import Log, duration
from distsent.runtime.model_folder import write_model_folder
from distsent.runtime.run_folder import RunFolder, write_json
from distsent.runtime.run_status import RunStatus
from distsent.training import memory
from distsent.training.loop import Loop

Final = Mapping[str, tuple[dict[str, Any], torch.Tensor]]  # scores and logits by split


def finish(
    folder: RunFolder,
    log: Log,
    loop: Loop,
    tokenizer: Any,
    store: TokenStore,
    final: Final,
    precision: str,
) -> None:
    """Write all that a finished run leaves. `result.json` comes last but for the card: where it stands, all stands."""
    job, model = loop.job, loop.update.forward.model
    for split, (_, logits) in final.items():
        predictions.write_predictions(folder.predictions, split, logits, store, tokenizer)
    write_model_folder(model, tokenizer, folder.model, job.data.max_length)
    for top in (folder.predictions, folder.model):
        for path in (*top.rglob("*"), top):
            sync(path)
    result = result_of(loop, store, final, precision)
    write_json(folder.result, result)
    complete(folder, log.info, job.log.tensorboard)
    log.info(
        f"finished: {loop.progress.step} steps in {duration(loop.progress.seconds)}; model in {folder.model}"
    )
    log.info(format_result_table(result))
    folder.write_status(RunStatus().ended(FINISHED, "finished"))


def result_of(loop: Loop, store: TokenStore, final: Final, precision: str) -> dict[str, Any]:
    """What `result.json` holds."""
    job, p, flat, seconds = (
        loop.job,
        loop.progress,
        loop.update.flat,
        max(loop.progress.seconds, 1e-9),
    )
    return {
        "job": job.to_dict(),
        "name": job.job.name,
        "status": "finished",
        "world_size": loop.world.size,
        "steps": p.step,
        "epochs": p.step / loop.plan.order.steps_per_epoch,
        "weights_sha256": weights_sha256(flat.split(flat.values)),
        "best": p.best,
        "ended_early": p.ended_early,
        "labels": list(store.label_names),
        "texts": {
            split: store.meta["splits"][split]["texts"] for split in final
        },  # equal for equal texts
        "parameters": {
            "all": adapter.count_parameters(loop.update.forward.model),
            "trained": flat.size,
        },
        "precision": precision,
        "versions": versions(),
        "history": p.history,
        "train": {
            "samples": p.samples,
            "tokens": p.tokens,
            "seconds": p.seconds,
            "samples_per_second": p.samples / seconds,
            "tokens_per_second": p.tokens / seconds,
            "mfu": p.work / seconds / loop.peak,
            "skipped": p.skipped,
            "overflows": p.overflows,
            "bytes_exchanged": p.sent,
            "peak_memory_bytes": memory.peak(),
        },
        "eval": {
            split: {k: v for k, v in scores.items() if k != "split"}
            for split, (scores, _) in final.items()
        },
    }


def complete(folder: RunFolder, say: Callable[[str], object], pages: bool) -> None:
    """Model card and TensorBoard's last pages, where there is no card. The run is finished: what goes wrong must not undo it."""
    if folder.card.exists():
        return
    try:
        done = finished_run.read_run(folder.path)
        if pages:
            tensorboard.write_summaries(done)
        model_card.write_model_card(done)
    except Exception as error:
        say(
            f"model card or TensorBoard pages could not be written ({type(error).__name__}: {error}); "
            f"python -m distsent.report {folder.path} --card tries again"
        )


def versions() -> dict[str, str]:
    """Of all that a result depends on."""
    found = {"python": platform.python_version(), "distsent": __version__}
    for package in ("torch", "transformers", "datasets", "tokenizers", "horovod"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
