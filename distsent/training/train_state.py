"""How far a run is, and its checkpoints: taken from the run's parts, checked, and loaded back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.runtime.checkpoint import Checkpoint, load_newest
from distsent.training.exchange import Exchange
from distsent.training.flat_parameters import MOMENTS, FlatParameters
from distsent.training.noise_scale import NoiseScale
from distsent.training.train_step import TrainStep

if TYPE_CHECKING:
    from distsent.training.session import Session


@dataclass
class Totals:
    """Sums over all steps of the run."""

    samples: int = 0
    tokens: int = 0
    work: float = 0.0  # useful floating-point operations
    sent: int = 0  # bytes that one worker sent in gradient exchanges
    seconds: float = 0.0  # spent in steps, without evaluations and checkpoints
    skipped: int = 0  # steps skipped because of a non-finite number
    overflows: int = 0  # fp16: steps skipped because the scaled gradient overflowed


@dataclass
class EpochSums:
    """Sums over the current epoch, for its training loss and accuracy."""

    examples: int = 0
    loss_sum: float = 0.0
    right: int = 0  # examples whose label was predicted


@dataclass
class TrainState:
    """Plain numbers, equal on all workers but for `totals.seconds`. Updated by the loop alone."""

    step: int = 0  # steps done; the next batch is number `step`
    totals: Totals = field(default_factory=Totals)
    epoch: EpochSums = field(default_factory=EpochSums)
    noise: NoiseScale = field(default_factory=NoiseScale)
    history: list[dict[str, Any]] = field(default_factory=list)  # numbers_of each evaluation
    best: dict[str, Any] | None = None  # {"step", "value"}, chosen on a validation split only
    stale: int = 0  # evaluations since the best one
    ended_early: bool = False

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation, 0 before the first."""
        return int(self.history[-1]["step"]) if self.history else 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON value in `state.json`: the totals stand beside the other fields."""
        values = asdict(self)
        return {"step": values.pop("step"), **values.pop("totals"), **values}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> TrainState:
        values = {**saved, "epoch": EpochSums(**saved["epoch"])}
        values["noise"] = NoiseScale(**saved.get("noise", {}))  # older versions kept none
        names = [item.name for item in fields(Totals) if item.name in saved]
        totals = Totals(**{name: values.pop(name) for name in names})
        # Older versions kept confusion matrices, and NaN as the best value.
        values["history"] = list(map(numbers_of, saved["history"]))
        if saved["best"] and math.isnan(saved["best"]["value"]):
            values["best"] = None
        return cls(totals=totals, **values)


def numbers_of(record: dict[str, Any]) -> dict[str, Any]:
    """The record of an evaluation without matrices and scores per class.

    Every later checkpoint holds it: a thousand classes would add 3 MB to each. `metrics.jsonl`
    keeps the whole record.
    """
    return {key: value for key, value in record.items() if not isinstance(value, list | dict)}


def restore(
    session: Session, kept: Checkpoint | None, rescored: dict[str, Any] | None
) -> TrainState:
    """Load the newest state into all workers, and open the log there.

    It comes from the newest intact checkpoint, or after a rejoin from the worker that `kept` the
    most steps in memory. Raises UserError if it does not fit the job. `rescored`: why earlier
    scores do not count, and up to which step, on the main worker (`RunClaim.rescored`).
    """
    world, step, report = session.world, session.train_step, session.report
    flat, total = step.flat, session.total_steps

    def find() -> Checkpoint | None:
        found = kept
        if world.is_main and not session.in_memory:
            found = load_newest(session.folder.checkpoints, report.info)
        if found is not None:
            check_checkpoint(found, flat)
        return found

    held = world.all_or_raise(find, "run.checkpoint")
    steps = world.allgather_object(held.step if held else 0, "run.steps")
    root = steps.index(max(steps))
    held = held if world.rank == root else None
    saved = world.allgather_object(held.state if held else None, "run.state")[root]
    state = TrainState.from_dict(saved["progress"]) if saved else TrainState()
    changed = next(filter(None, world.allgather_object(rescored, "run.rescored")), None)
    if changed is not None and 0 < state.step <= (changed["step"] or state.step):
        state.best, state.stale = None, 0
        report.info(
            f"{changed['what']} changed: the best weights are chosen among those from here on"
        )
    world.on_main(lambda: report.open_log(state.step, state.evaluated, total), "run.log")
    if saved is not None:
        step.scale.value, step.scale.good_steps = saved["scale"]
        step.optimizer.resume(saved["updates"])
    if held is not None:
        flat.values.copy_(flat.join(held.tensors["weights"]))
        for key, moment in flat.moments.items() if step.updates else ():
            moment.copy_(flat.join(held.tensors["optimizer"], f"{key}."))
    moments = flat.moments if saved is not None else {}
    send_from(root, world, flat, {"weights": flat.values, **moments}, "restore")
    if state.step:
        report.info(f"resumed at step {state.step} of {total}")
        if state.step > total:
            more = f"it was trained for {state.step} steps already, {state.step - total} more than"
            report.info(f"{more} this job asks for; run.resume=never starts over")
        if saved is not None and not world.elastic:
            report.info(changed_sums(saved, step.reducer))
    report.training(total, None if session.in_memory else state.step)
    return state


def send_from(
    root: int, world: World, flat: FlatParameters, tensors: Mapping[str, torch.Tensor], what: str
) -> None:
    """Give all workers the tensors of `flat` that rank `root` has written."""
    if flat.shared:
        world.barrier()
        return
    for key, tensor in tensors.items():
        world.broadcast(tensor, f"{what}.{key}", root)


def changed_sums(saved: dict[str, Any], now: Exchange) -> str | None:
    """A line for the log if gradients are now summed in another order, else None."""
    was, size = saved.get("transport"), saved.get("workers", now.workers)
    if was in (None, now.transport) and size == now.workers:  # None: of older versions
        return None
    return (
        f"saved by {size} workers (transport: {was}), continued by {now.workers} (transport: "
        f"{now.transport}): sums may differ in their last bits"
    )


def snapshot(step: TrainStep, state: TrainState) -> Checkpoint:
    """The complete current state. Its tensors are views of the live ones."""
    flat = step.flat
    optimizer: dict[str, torch.Tensor] = {}
    for key, moment in flat.moments.items() if step.updates else ():
        optimizer |= flat.split(moment, f"{key}.")
    tensors = {"weights": flat.split(flat.values), "optimizer": optimizer}
    scale = [step.scale.value, step.scale.good_steps]
    summed = {"transport": step.reducer.transport, "workers": step.reducer.workers}
    values = {"progress": state.to_dict(), "updates": step.updates, "scale": scale, **summed}
    if flat.frozen_hash:
        values["frozen"] = flat.frozen_hash
    return Checkpoint(state.step, tensors, values)


def check_checkpoint(held: Checkpoint, flat: FlatParameters) -> None:
    """Raises UserError if an intact checkpoint does not belong to this job's model."""
    try:
        TrainState.from_dict(held.state["progress"])
        flat.check_shapes(held.tensors["weights"])
        for key in MOMENTS if held.state["updates"] else ():
            flat.check_shapes(held.tensors["optimizer"], f"{key}.")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"does not fit this job ({type(error).__name__}: {error})"
        raise UserError(
            f"the checkpoint of step {held.step} {reason}; run.resume=never starts over"
        ) from None
    if held.state.get("frozen") not in (None, flat.frozen_hash):  # None: of older versions
        raise UserError(
            f"the checkpoint of step {held.step} updates other frozen weights: those of model.name "
            "have changed since, or distsent now keeps them in another precision; restore them, or "
            "run.resume=never starts over"
        )
