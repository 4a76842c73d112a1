"""The loop: step, tell, save, evaluate, until the last step - or until somebody asks to stop.

It can be left and entered again after any step: all that it needs stands in a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from distsent.batching.batch_plan import Batch, BatchPlan
from distsent.distributed.world import MembershipChanged, World
from distsent.errors import NonFinite, Stopped, UserError
from distsent.job.job import Job
from distsent.runtime.checkpoint import Checkpoint, Saver
from distsent.runtime.heartbeat import HeartbeatMonitor
from distsent.runtime.log import Log, duration
from distsent.runtime.signals import StopSignal
from distsent.training import optimizer as optimizers
from distsent.training import replica_check
from distsent.training.flat_parameters import FlatParameters
from distsent.training.train_state import Epoch, TrainState
from distsent.training.train_step import StepResult, StopRequests, TrainStep


@dataclass
class Loop:
    """Everything that one run of training needs, put together by the door."""

    world: World
    job: Job
    plan: BatchPlan
    update: TrainStep
    progress: TrainState
    evaluate: Callable[[], Mapping[str, Any]]  # scores of the split that the run is watched on
    chooses: bool  # whether that split may choose the best weights (the test split may not)
    saver: Saver | None  # the first worker's
    log: Log
    stop: StopSignal
    pulse: HeartbeatMonitor
    total_steps: int
    peak: float  # measured operations per second of all workers together

    def run(self) -> None:
        """Train to the end. Raises Stopped (saved), NonFinite or UserError, on all workers together."""
        try:
            self._run()
        except (Stopped, NonFinite, UserError):
            self.finish_saving()
            raise

    def _run(self) -> None:
        self.update.forward.model.train()
        p, saved_at = self.progress, time.monotonic()
        self.pulse.step = p.step
        fresh = Window(p)
        while not self._over():
            began = time.perf_counter()
            batch = self.plan.batch(p.step)
            result = self.update(batch, partial(self._wishes, saved_at))
            self._count(batch, result, time.perf_counter() - began)
            self.pulse.step = p.step
            if p.step % self.job.log.every == 0 or p.step == self.total_steps:
                fresh.tell(self, result)
            if p.step % replica_check.EVERY == 0:
                self._compare()
            due = self._evaluation_due()
            if result.stop or result.save or due or self._checkpoint_due():
                self.save()
                saved_at = time.monotonic()
            if result.stop:
                self._leave()
            if due:
                self._evaluate()
                fresh = Window(p)
            if result.rejoin:
                raise MembershipChanged("others wait to join, or are to leave")

    def resume(self, held: Checkpoint | None, state: Mapping[str, Any] | None, root: int) -> None:
        """Continue behind the checkpoint with this `state`, which worker `root` holds; the others get everything from it."""
        if state is None:
            self.world.broadcast(self.update.flat.values, "resume.weights")
            return
        self.progress, flat = TrainState.from_dict(state["progress"]), self.update.flat
        self.update.updates = state["updates"]
        self.update.scale.value, self.update.scale.good_steps = state["scale"]
        moments = {key: torch.zeros_like(flat.values) for key in ("exp_avg", "exp_avg_sq")}
        if held is not None and self.world.rank == root:
            flat.values.copy_(flat.join(held.tensors["weights"]))
            for key, moment in moments.items() if state["updates"] else ():
                pieces = held.tensors["optimizer"]
                moment.copy_(flat.join({name: pieces[f"{key}.{name}"] for name, _ in flat.named}))
        self.world.broadcast(flat.values, "resume.weights", root)
        for key, moment in moments.items():
            self.world.broadcast(moment, f"resume.{key}", root)
        if state["updates"]:
            optimizers.restore(self.update.optimizer, moments, state["updates"])

    def snapshot(self) -> Checkpoint:
        """This moment, complete; its tensors are views of the living ones."""
        flat, u, p = self.update.flat, self.update, self.progress
        moments = optimizers.moments(u.optimizer)
        tensors = {
            "weights": flat.split(flat.values),
            "optimizer": {
                f"{key}.{name}": x
                for key, m in moments.items()
                for name, x in flat.split(*m).items()
            },
        }
        state = {
            "progress": p.to_dict(),
            "updates": u.updates,
            "scale": [u.scale.value, u.scale.good_steps],
        }
        return Checkpoint(p.step, tensors, state)

    def save(self) -> None:
        """Begin a checkpoint of this moment; the first worker writes it while training goes on.

        Before, all hear whether the former one went well, and that they all hold what is to be saved.
        """
        self.finish_saving()
        self._compare()
        if self.saver is None:
            return
        now, best = self.snapshot(), self.progress.best
        self.saver.start(now.step, now.tensors, now.state, best=best["step"] if best else None)

    def _compare(self) -> None:
        replica_check.check_replicas(
            self.world,
            self.update.flat,
            optimizers.moments(self.update.optimizer),
            self.progress.step,
        )

    def _over(self) -> bool:
        """Whether training is done. An evaluation that an interruption swallowed is made up for first."""
        if self._evaluation_due() and self.progress.evaluated < self.progress.step:
            self._evaluate()
        return self.progress.step >= self.total_steps or self.progress.ended_early

    def _count(self, batch: Batch, result: StepResult, seconds: float) -> None:
        p = self.progress
        if not result.finite:
            self._bad_numbers(batch, result)
        if p.step % self.plan.order.steps_per_epoch == 0:
            p.epoch = Epoch()
        if result.finite:
            p.epoch.examples += len(batch)
            p.epoch.loss_sum += result.loss * len(batch)
            p.epoch.right += result.right
        p.step += 1
        p.samples += len(batch)
        p.tokens += int(batch.lengths.sum())
        p.work += self.plan.work.training(batch.lengths)
        p.sent += self.update.exchange.sent
        p.seconds += seconds

    def _bad_numbers(self, batch: Batch, result: StepResult) -> None:
        """fp16 skips by itself while a smaller scale may help; else a job must have allowed it."""
        if result.overflowed:
            self.progress.overflows += 1
            return
        self.progress.skipped += 1
        bad = sorted(
            row
            for rows in self.world.allgather_object(list(result.bad_rows), "bad.rows")
            for row in rows
        )
        rows = bad or batch.rows.tolist()
        source = ", ".join(str(int(self.plan.tokens.rows[row])) for row in rows[:8])
        what = (
            f"step {batch.step + 1}: the {'loss' if bad else 'gradient'} is not finite (loss {result.loss:g}, gradient norm "
            f"{result.grad_norm:g}); training rows {source}{', ...' if len(rows) > 8 else ''}"
        )
        if self.progress.skipped > self.job.train.skip_nonfinite:
            raise NonFinite(
                f"{what}; the last checkpoint is untouched; try a lower optim.lr, or train.skip_nonfinite=N"
            )
        self.log.info(f"skipped {what}")

    def _wishes(self, saved_at: float) -> StopRequests:
        """What this worker wants; it travels with the gradients, so that all agree. The first one's clock asks for saves."""
        late = (
            self.world.is_main and time.monotonic() - saved_at >= self.job.checkpoint.every_seconds
        )
        failed = self.saver is not None and self.saver.failed  # all shall hear of it now
        return StopRequests(
            stop=self.stop.requested is not None,
            save=late or failed,
            rejoin=self.world.membership_changed,
        )

    def _checkpoint_due(self) -> bool:
        every = self.job.checkpoint.every_steps
        return every is not None and self.progress.step % every == 0

    def _evaluation_due(self) -> bool:
        step, every = self.progress.step, self.job.eval.every
        if step == 0:
            return False
        if step >= self.total_steps:
            return True
        if every == "epoch":
            return step % self.plan.order.steps_per_epoch == 0
        return isinstance(every, int) and step % every == 0

    def _evaluate(self) -> None:
        p, job = self.progress, self.job
        train = {
            "train_loss": p.epoch.loss_sum / max(1, p.epoch.examples),
            "train_accuracy": p.epoch.right / max(1, p.epoch.examples),
        }
        scores = self.evaluate()
        record = {
            "step": p.step,
            "epoch": p.step / self.plan.order.steps_per_epoch,
            **scores,
            **train,
        }
        reached = value(scores, job.eval.metric)
        better = self.chooses and (p.best is None or reached > p.best["value"])
        if self.chooses:
            p.stale = (
                0
                if p.best is None or reached > p.best["value"] + job.train.min_delta
                else p.stale + 1
            )
            if better:
                p.best = {"step": p.step, "value": reached}
            p.ended_early = job.train.patience is not None and p.stale >= job.train.patience
        p.history.append(record)
        self.log.metrics(str(scores["split"]), record)
        told = (
            f"accuracy {scores['accuracy']:.4f}  loss {scores['loss']:.4f}  f1 {scores['f1']:.4f}"
        )
        trained = f"(train: loss {train['train_loss']:.4f}, accuracy {train['train_accuracy']:.4f})"
        remark = "  best so far" if better else ""
        self.log.info(
            f"epoch {record['epoch']:.2f}  step {p.step}  {scores['split']}: {told}  {trained}{remark}"
        )
        if p.ended_early:
            self.log.info(f"ended early: no better {job.eval.metric} in {p.stale} evaluations")

    def finish_saving(self) -> None:
        """Wait, all workers together, until the save under way is on disk: a launcher ends all when the first one leaves."""
        self.world.on_main(
            lambda: self.saver.wait() if self.saver is not None else None, "loop.saved"
        )

    def _leave(self) -> None:
        self.finish_saving()
        wishes = self.world.allgather_object(self.stop.requested, "loop.leave")
        whose = [
            wish if " on rank " in wish else f"{wish} on rank {rank}"
            for rank, wish in enumerate(wishes)
            if wish
        ]
        self.log.info(f"the wish to stop: {', '.join(dict.fromkeys(whose))}")
        raise Stopped(f"asked to stop; saved after step {self.progress.step} of {self.total_steps}")


def value(scores: Mapping[str, Any], metric: str) -> float:
    """What the best weights have most of."""
    return float(scores[metric]) * (-1 if metric == "loss" else 1)


def check_fit(held: Checkpoint | None, flat: FlatParameters) -> None:
    """Raises UserError when a checkpoint, whole as it is, is not one of this job's model."""
    try:
        if held is not None:
            TrainState.from_dict(held.state["progress"])
            flat.check(held.tensors["weights"])
            for key in ("exp_avg", "exp_avg_sq") if held.state["updates"] else ():
                flat.check(held.tensors["optimizer"], f"{key}.")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the checkpoint of step {held.step if held else 0} does not fit this job ({type(error).__name__}: {error}); "
            "run.resume=never begins anew"
        ) from None


class Window:
    """The steps since the last logged line: speed is taken over these."""

    def __init__(self, p: TrainState) -> None:
        self._samples, self._tokens, self._work, self._seconds = (
            p.samples,
            p.tokens,
            p.work,
            p.seconds,
        )

    def tell(self, loop: Loop, result: StepResult) -> None:
        p = loop.progress
        seconds = max(1e-9, p.seconds - self._seconds)
        samples, tokens = (p.samples - self._samples) / seconds, (p.tokens - self._tokens) / seconds
        mfu = (p.work - self._work) / seconds / loop.peak
        left = (loop.total_steps - p.step) * p.seconds / max(1, p.step)
        record = {
            "step": p.step, "epoch": p.step / loop.plan.order.steps_per_epoch, "loss": result.loss, "lr": result.lr,
            "grad_norm": result.grad_norm, "samples": p.samples, "tokens": p.tokens, "seconds": p.seconds,
            "samples_per_second": samples, "tokens_per_second": tokens, "mfu": mfu,
        }  # fmt: skip
        loop.log.metrics("train", record)
        loop.log.progress(
            p.step,
            f"step {p.step}/{loop.total_steps}  loss {result.loss:.4f}  {samples:.0f} examples/s  {tokens:.0f} tokens/s"
            f"  {mfu:.0%} of peak  {duration(left)} left",
        )
        self.__init__(p)  # type: ignore[misc]
