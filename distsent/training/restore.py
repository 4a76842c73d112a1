"""Checkpoints of a run: taken from its parts, checked, and loaded back into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from distsent.errors import UserError
from distsent.runtime.checkpoint import Checkpoint, load_newest
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import MOMENTS, moments, restore_moments
from distsent.training.train_state import TrainState
from distsent.training.train_step import TrainStep

if TYPE_CHECKING:
    from distsent.training.session import Session


def restore(session: Session, kept: Checkpoint | None) -> TrainState:
    """Load the newest state into all workers, and open the log there.

    It comes from the newest intact checkpoint, or after a rejoin from the worker that `kept` the
    most steps in memory. Raises UserError if it does not fit the job.
    """
    world, step, report = session.world, session.train_step, session.report

    def find() -> Checkpoint | None:
        found = kept
        if world.is_main and not session.in_memory:
            found = load_newest(session.folder.checkpoints, report.info)
        check_checkpoint(found, step.flat)
        return found

    held = world.all_or_raise(find, "run.checkpoint")
    steps = world.allgather_object(held.step if held else 0, "run.steps")
    root = steps.index(max(steps))
    own = held.state if held and world.rank == root else None
    saved = world.allgather_object(own, "run.state")[root]
    state = TrainState.from_dict(saved["progress"]) if saved else TrainState()
    total, tensorboard = session.total_steps, session.job.log.tensorboard
    world.on_main(
        lambda: report.open_log(state.step, state.evaluated, total, tensorboard), "run.log"
    )
    if saved is None:
        world.broadcast(step.flat.values, "restore.weights")
    else:
        broadcast_state(session, held if world.rank == root else None, saved, root)
    if state.step:
        report.info(f"resumed at step {state.step} of {total}")
    report.training(total, None if session.in_memory else state.step)
    return state


def broadcast_state(
    session: Session, held: Checkpoint | None, saved: Mapping[str, Any], root: int
) -> None:
    """Load what rank `root` holds, tensors and `saved` values, into all workers' train steps."""
    world, step, flat = session.world, session.train_step, session.train_step.flat
    step.updates = saved["updates"]
    step.scale.value, step.scale.good_steps = saved["scale"]
    flat_moments = {key: torch.zeros_like(flat.values) for key in MOMENTS}
    if held is not None:
        flat.values.copy_(flat.join(held.tensors["weights"]))
        if step.updates:
            for key, moment in flat_moments.items():
                moment.copy_(flat.join(held.tensors["optimizer"], f"{key}."))
    world.broadcast(flat.values, "restore.weights", root)
    for key, moment in flat_moments.items():
        world.broadcast(moment, f"restore.{key}", root)
    if step.updates:
        restore_moments(step.optimizer, flat_moments, step.updates)


def snapshot(step: TrainStep, state: TrainState) -> Checkpoint:
    """The complete current state. Its tensors are views of the live ones."""
    optimizer = {
        f"{key}.{name}": tensor
        for key, parts in moments(step.optimizer).items()
        for name, tensor in step.flat.split(*parts).items()
    }
    tensors = {"weights": step.flat.split(step.flat.values), "optimizer": optimizer}
    scale = [step.scale.value, step.scale.good_steps]
    values = {"progress": state.to_dict(), "updates": step.updates, "scale": scale}
    return Checkpoint(state.step, tensors, values)


def check_checkpoint(held: Checkpoint | None, flat: FlatParameters) -> None:
    """Raises UserError if an intact checkpoint does not belong to this job's model."""
    if held is None:
        return
    try:
        TrainState.from_dict(held.state["progress"])
        flat.check_shapes(held.tensors["weights"])
        for key in MOMENTS if held.state["updates"] else ():
            flat.check_shapes(held.tensors["optimizer"], f"{key}.")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the checkpoint of step {held.step} does not fit this job "
            f"({type(error).__name__}: {error}); run.resume=never starts over"
        ) from None
