"""The end of a run: best weights, final scores, model folder, predictions, result.json, card."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distsent.distributed.world import World
from distsent.evaluation.confidence import Confidence, assess
from distsent.job.job import Job
from distsent.model import adapter
from distsent.reporting import finished_run, model_card, predictions, tensorboard
from distsent.reporting.table import format_result_table, next_commands
from distsent.runtime.checkpoint import FOLDER, load, weights_sha256
from distsent.runtime.heap import trim_heap
from distsent.runtime.log import duration
from distsent.runtime.model_folder import write_model_folder
from distsent.runtime.run_folder import RunFolder, disk_errors_as_user_errors
from distsent.storage import exists, sync, walk
from distsent.training.loop import Scored, metric_value
from distsent.training.train_state import TrainState, send_from
from distsent.versions import versions

if TYPE_CHECKING:
    from distsent.training.session import Session

PROCESS = Path("/proc/self")


def publish(session: Session, state: TrainState, scored: Scored | None) -> None:
    """Evaluate the final weights on all splits, and write everything that a finished run leaves.

    `scored`: the watched split with the last weights, if it has been evaluated already.
    """
    if load_best_weights(session, state):
        scored = None
    final = {
        split: scored if scored and split == session.watched else session.evaluate(split)
        for split in session.store.splits
        if split != "train"
    }
    trim_heap()  # of what steps took: merging the weights of an adapter takes as much as they do
    session.world.on_main(lambda: write_artifacts(session, state, final), "run.publish")


def load_best_weights(session: Session, state: TrainState) -> bool:
    """Load the best weights if validation chose earlier ones than the last. Whether it did."""
    flat, best = session.train_step.flat, state.best
    if best is None or best["step"] == state.step:
        return False

    def read() -> str | None:
        try:
            found = load(session.folder.checkpoints / FOLDER.format(best["step"]))
            flat.values.copy_(flat.join(found.tensors["weights"]))
        except ValueError as error:
            return str(error)
        return None

    if damage := session.world.on_main(read, "run.best"):
        fallback = "the best checkpoint is damaged, so the last weights become the model"
        session.report.info(f"{fallback}: {damage}")
        value = metric_value(state.history[-1], session.job.eval.metric)
        state.best = {"step": state.step, "value": value}
        return False
    send_from(0, session.world, flat, {"weights": flat.values}, "run.best")
    return True


def write_artifacts(session: Session, state: TrainState, final: Mapping[str, Scored]) -> None:
    """Write all files. If `result.json` exists, all others exist but perhaps the card."""
    folder, report, job, tokenizer = session.folder, session.report, session.job, session.tokenizer
    with disk_errors_as_user_errors(folder.path):
        top = folder.owner.temporary(folder.predictions)
        for split, (_, logits) in final.items():
            predictions.write_predictions(top, split, logits, session.store, tokenizer)
        folder.owner.publish_folder(top, folder.predictions)
        confidence = assess_final(session, final)
        for line in confidence.lines:
            report.info(line)
        write_model_folder(
            session.forward.model,
            tokenizer,
            folder.model,
            job.data.max_length,
            folder.owner,
            temperature=confidence.temperature,
            add=confidence.write_thresholds,
        )
        for top in (folder.predictions, folder.model):
            for path in walk(top):
                sync(path)
        result = {**make_result(session, state, final), **confidence.result}
        folder.write_json(folder.result, result)
        write_card(folder, report.info, job.log.tensorboard)
    took = f"{state.step} steps in {duration(state.totals.seconds)}"
    report.finished(result)
    report.info(f"finished: {took}; model in {folder.model}")
    if padding := session.forward.padding:
        report.info(f"padding: {padding:.1%} of the tokens that the encoder computed")
    report.info(format_result_table(result))
    report.info(next_commands(folder.path, job.data.has_pairs))


def assess_final(session: Session, final: Mapping[str, Scored]) -> Confidence:
    """What the logits of the final weights say about their scores."""
    splits = {
        split: (logits.numpy(), np.asarray(session.store.splits[split].labels[:]))
        for split, (_, logits) in final.items()
    }
    return assess(session.task, splits, session.job.eval.calibrate, session.precision)


def make_result(session: Session, state: TrainState, final: Mapping[str, Scored]) -> dict[str, Any]:
    """The content of `result.json`."""
    job, store, flat = session.job, session.store, session.train_step.flat
    totals, seconds = state.totals, max(state.totals.seconds, 1e-9)
    sums = {"samples": totals.samples, "tokens": totals.tokens, "seconds": totals.seconds}
    speed = {f"{key}_per_second": sums[key] / seconds for key in ("samples", "tokens")}
    mfu = totals.work / seconds / session.peak_flops
    # Padding: of this worker, since this start.
    found = {"padding": session.forward.padding, **state.noise.values()}
    skips = {"skipped": totals.skipped, "overflows": totals.overflows}
    use = {"bytes_exchanged": totals.sent, "peak_memory_bytes": peak_memory()}
    parameters = adapter.count_parameters(session.forward.model)
    return {
        "job": job.to_dict(),
        "name": job.job.name,
        "status": "finished",
        "world_size": session.world.size,
        "steps": state.step,
        "epochs": state.step / session.plan.sampler.steps_per_epoch,
        "weights_sha256": weights_sha256(flat.split(flat.values)),
        "best": state.best,
        "ended_early": state.ended_early,
        "labels": list(store.label_names),
        # Equal hashes mean equal texts.
        "texts": {split: store.meta["splits"][split]["texts"] for split in final},
        "parameters": {"all": parameters, "trained": flat.size},
        "newly_initialized": list(session.new_weights),
        "precision": session.precision,
        "versions": versions(),
        "history": state.history,
        "train": {**sums, **speed, "mfu": mfu, **found, **skips, **use},
        "eval": {split: scores for split, (scores, _) in final.items()},
    }


def reset_peak_memory() -> None:
    """Start measuring: several runs may share a process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")  # "reset the peak resident set size" (proc(5))


def peak_memory() -> int:
    """Bytes since `reset_peak_memory`: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, IndexError):
        return 1024 * int((PROCESS / "status").read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_card(folder: RunFolder, report: Callable[[str], object], pages: bool) -> None:
    """Write model card and TensorBoard summaries if there is no card yet.

    The run is finished, so an error here must not make it fail.
    """
    folder.owner.check()
    try:
        if exists(folder.card):
            return
        run = finished_run.read_run(folder.path)
        if pages:
            tensorboard.write_summaries(run)
        model_card.write_model_card(run)
    except Exception as error:
        failure = "model card or TensorBoard summaries could not be written"
        retry = f"retry with python -m distsent.report {folder.path} --card"
        report(f"{failure} ({type(error).__name__}: {error}); {retry}")


def print_finished(job: Job, world: World, folder: RunFolder, result: dict[str, Any]) -> None:
    """Report a run that was finished before, on the main worker."""
    if world.is_main:
        write_card(folder, print, job.log.tensorboard)
        print(f"{folder.path}: this run is finished\n{format_result_table(result)}")
        print(next_commands(folder.path, job.data.has_pairs))
