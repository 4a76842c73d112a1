"""The training loop: step, log, save, evaluate, until the last step or a stop request.

It can stop after any step and resume there: a checkpoint contains all of its state. How a stop
request reaches it is described in `runtime/signals.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from distsent.batching.batch_plan import Batch
from distsent.distributed.world import MembershipChanged
from distsent.errors import NonFinite, Stopped, UserError
from distsent.runtime.checkpoint import Saver
from distsent.runtime.log import duration
from distsent.training import replica_check
from distsent.training.optimizer import moments
from distsent.training.restore import snapshot
from distsent.training.train_state import EpochSums, TrainState
from distsent.training.train_step import StepResult, StopRequests

if TYPE_CHECKING:
    from distsent.training.session import Session

Scored = tuple[dict[str, Any], torch.Tensor]  # scores and logits of a split


def fit(session: Session, state: TrainState) -> Scored | None:
    """Train to the end, updating `state`. Returns the last evaluation, if there was one.

    Raises Stopped (after saving), NonFinite or UserError on all workers together, and
    MembershipChanged on elastic workers, with `state` and weights as after the last complete step.
    """
    loop = Loop(session, state)
    try:
        loop.run()
        loop.finish_saving()
    except MembershipChanged as change:
        session.report.info(f"workers joined or left after step {state.step}: {change}")
        if loop.saver is not None:
            loop.saver.wait()
        raise
    return loop.last_scored


class Loop:
    """Runs the steps of a session and keeps its `state`, the only thing that changes."""

    def __init__(self, session: Session, state: TrainState) -> None:
        self.session, self.state = session, state
        self.saver: Saver | None = None  # on the main worker
        if session.world.is_main:
            folder, keep = session.folder.checkpoints, session.job.checkpoint.keep
            self.saver = Saver(folder, keep, state.step, session.report.saved)
        self.last_scored: Scored | None = None
        self._saved_at = time.monotonic()
        self._logged = replace(state)  # the counters at the last logged step

    @property
    def _epoch(self) -> float:
        return self.state.step / self.session.plan.sampler.steps_per_epoch

    def run(self) -> None:
        """All remaining steps, evaluations and checkpoints."""
        try:
            if self.session.in_memory:
                self.save()  # the steps in memory may not be on disk
            self.session.forward.model.train()
            self.session.heartbeat.step = self.state.step
            while not self._is_over():
                self._step()
        except (Stopped, NonFinite, UserError):
            self.finish_saving()
            raise

    def _is_over(self) -> bool:
        """Whether training is done. First makes up for an evaluation that was interrupted."""
        state = self.state
        if self._evaluation_due() and state.evaluated < state.step:
            self._evaluate()
        return state.step >= self.session.total_steps or state.ended_early

    def _step(self) -> None:
        session, state, start = self.session, self.state, time.perf_counter()
        batch = session.plan.batch(state.step)
        result = session.train_step(batch, self._requests)
        self._count(batch, result, time.perf_counter() - start)
        session.heartbeat.step = state.step
        if state.step % session.job.log.every == 0 or state.step == session.total_steps:
            self._log_step(result)
        if state.step % replica_check.EVERY == 0:
            self._compare_replicas()
        requested, evaluation_due = result.requested, self._evaluation_due()
        if requested.stop or requested.save or evaluation_due or self._checkpoint_due():
            self.save()
        if requested.stop:
            self._stop()
        if evaluation_due:
            self._evaluate()
        if requested.rejoin:
            raise MembershipChanged("the launcher has added or removed workers")

    def _requests(self) -> StopRequests:
        """This worker's requests. The main worker's clock decides about timed checkpoints."""
        session, failed = self.session, False
        limit, elapsed = session.job.checkpoint.every_seconds, time.monotonic() - self._saved_at
        if self.saver is not None:
            failed = self.saver.failed  # the next save raises the error on all workers
        return StopRequests(
            stop=session.stop.requested is not None,
            save=(session.world.is_main and elapsed >= limit) or failed,
            rejoin=session.world.membership_changed,
        )

    def _count(self, batch: Batch, result: StepResult, seconds: float) -> None:
        state, plan = self.state, self.session.plan
        if not result.finite:
            self._skip(batch, result)
        if state.step % plan.sampler.steps_per_epoch == 0:
            state.epoch = EpochSums()
        if result.finite:
            state.epoch.examples += len(batch)
            state.epoch.loss_sum += result.loss * len(batch)
            state.epoch.right += result.right
        state.step += 1
        state.samples += len(batch)
        state.tokens += int(batch.lengths.sum())
        state.work += plan.flops.training(batch.lengths)
        state.sent += self.session.train_step.reducer.sent
        state.seconds += seconds

    def _skip(self, batch: Batch, result: StepResult) -> None:
        """Count a skipped step. Raises NonFinite if the job does not allow it.

        fp16 may always skip a step while a smaller loss scale may help.
        """
        state, session = self.state, self.session
        if result.overflowed:
            state.overflows += 1
            return
        state.skipped += 1
        found = session.world.allgather_object(list(result.bad_rows), "loop.bad_rows")
        bad = sorted(row for rows in found for row in rows)
        rows = bad or batch.rows.tolist()
        shown = ", ".join(str(int(session.plan.tokens.rows[row])) for row in rows[:8])
        what = (
            f"step {batch.step + 1}: the {'loss' if bad else 'gradient'} is not finite (loss "
            f"{result.loss:g}, gradient norm {result.grad_norm:g}); training rows {shown}"
            f"{', ...' if len(rows) > 8 else ''}"
        )
        if state.skipped > session.job.train.skip_nonfinite:
            raise NonFinite(
                f"{what}; the last checkpoint is unaffected; try a lower optim.lr, or "
                "train.skip_nonfinite=N"
            )
        session.report.info(f"skipped {what}")

    def _log_step(self, result: StepResult) -> None:
        """Log a step, with the speed since the last logged one."""
        state, session, before = self.state, self.session, self._logged
        seconds = max(1e-9, state.seconds - before.seconds)
        samples = (state.samples - before.samples) / seconds
        tokens = (state.tokens - before.tokens) / seconds
        mfu = (state.work - before.work) / seconds / session.peak_flops
        total = session.total_steps
        left = (total - state.step) * state.seconds / max(1, state.step)
        sums = {"samples": state.samples, "tokens": state.tokens, "seconds": state.seconds}
        speed = {"samples_per_second": samples, "tokens_per_second": tokens, "mfu": mfu}
        step = {"loss": result.loss, "lr": result.lr, "grad_norm": result.grad_norm}
        record = {"step": state.step, "epoch": self._epoch, **step, **sums, **speed}
        session.report.log.metrics("train", record)
        line = (
            f"step {state.step}/{total}  loss {result.loss:.4f}  {samples:.0f} examples/s  "
            f"{tokens:.0f} tokens/s  {mfu:.0%} of peak  {duration(left)} left"
        )
        session.report.log.progress(state.step, line)
        self._logged = replace(state)

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self.session.job.eval.every
        if step == 0:
            return False
        if step >= self.session.total_steps:
            return True
        if every == "epoch":
            every = self.session.plan.sampler.steps_per_epoch
        return isinstance(every, int) and step % every == 0

    def _evaluate(self) -> None:
        state, session, job = self.state, self.session, self.session.job
        examples = max(1, state.epoch.examples)
        train_loss, train_accuracy = state.epoch.loss_sum / examples, state.epoch.right / examples
        self.last_scored = session.evaluate(session.watched)
        scores = self.last_scored[0]
        trained = {"train_loss": train_loss, "train_accuracy": train_accuracy}
        record = {"step": state.step, "epoch": self._epoch, **scores, **trained}
        is_best = session.watched == "validation" and self._choose(scores)
        state.history.append(record)
        session.report.log.metrics(session.watched, record)
        session.report.info(
            f"epoch {self._epoch:.2f}  step {state.step}  {session.watched}: accuracy "
            f"{scores['accuracy']:.4f}  loss {scores['loss']:.4f}  f1 {scores['f1']:.4f}  (train: "
            f"loss {train_loss:.4f}, accuracy {train_accuracy:.4f})"
            f"{'  best so far' if is_best else ''}"
        )
        if state.ended_early:
            tried = f"{job.eval.metric} in {state.stale} evaluations"
            session.report.info(f"stopped early: no improvement of {tried}")
        self._logged = replace(state)

    def _choose(self, scores: Mapping[str, Any]) -> bool:
        """Update best weights and early stopping. Whether these are the best scores so far."""
        state, train = self.state, self.session.job.train
        value = metric_value(scores, self.session.job.eval.metric)
        best = state.best["value"] if state.best is not None else None
        improved = best is None or value > best + train.min_delta
        state.stale = 0 if improved else state.stale + 1
        state.ended_early = train.patience is not None and state.stale >= train.patience
        if best is None or value > best:
            state.best = {"step": state.step, "value": value}
            return True
        return False

    def _checkpoint_due(self) -> bool:
        every = self.session.job.checkpoint.every_steps
        return every is not None and self.state.step % every == 0

    def save(self) -> None:
        """Start a checkpoint, which the main worker writes while training continues.

        Before that, all workers learn how the last save went, and that they hold equal weights.
        """
        self.finish_saving()
        self._compare_replicas()
        if self.saver is not None:
            now, best = snapshot(self.session.train_step, self.state), self.state.best
            self.saver.start(now.step, now.tensors, now.state, best=best["step"] if best else None)
        self._saved_at = time.monotonic()

    def finish_saving(self) -> None:
        """Wait on all workers until the current save is on disk.

        A launcher ends all workers when the first one exits.
        """
        saver, world = self.saver, self.session.world
        world.on_main(lambda: saver.wait() if saver is not None else None, "loop.saved")

    def _compare_replicas(self) -> None:
        step = self.session.train_step
        held = moments(step.optimizer)
        replica_check.check_replicas(self.session.world, step.flat, held, self.state.step)

    def _stop(self) -> None:
        """Report the stop request and raise Stopped, on all workers."""
        self.finish_saving()
        session, state = self.session, self.state
        reasons = session.world.allgather_object(session.stop.requested, "loop.stop")
        # The main worker may repeat another's reason, which names that rank.
        own = {rank: r for rank, r in enumerate(reasons) if r and " on rank " not in r}
        named = ", ".join(f"{reason} on rank {rank}" for rank, reason in own.items())
        session.report.info(f"stop requested: {named}")
        raise Stopped(f"stop requested; saved after step {state.step} of {session.total_steps}")


def metric_value(scores: Mapping[str, Any], metric: str) -> float:
    """The score that the best weights maximize."""
    return float(scores[metric]) * (-1 if metric == "loss" else 1)
