"""The training loop: step, log, save, evaluate, until the last step or a stop request.

It can stop after any step and resume there: a checkpoint contains all of its state. How a stop
request reaches it is described in `runtime/signals.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from distsent.batching.batch_plan import Batch
from distsent.distributed.world import MembershipChanged
from distsent.errors import NonFinite, Stopped, UserError
from distsent.job.metrics import LOWER_IS_BETTER
from distsent.runtime.checkpoint import Saver
from distsent.runtime.log import duration
from distsent.tracking.events import Evaluation, Metrics
from distsent.training import replica_check
from distsent.training.train_state import EpochSums, TrainState, numbers_of, snapshot
from distsent.training.train_step import StepResult, StopRequests

if TYPE_CHECKING:
    from distsent.training.session import Session

Scored = tuple[dict[str, Any], torch.Tensor]  # scores and logits of a split


def fit(session: Session, state: TrainState) -> Scored | None:
    """Train from `state` to the end, as `Loop.run` describes."""
    return Loop(session, state).run()


class Loop:
    """Runs the steps of a session and keeps its `state`, the only thing that changes."""

    def __init__(self, session: Session, state: TrainState) -> None:
        self.session, self.state = session, state
        self.saver: Saver | None = None  # on the main worker
        if session.world.is_main:
            folder, keep = session.folder, session.job.checkpoint.keep
            done = session.report.saved
            self.saver = Saver(folder.checkpoints, keep, state.step, done, folder.owner)
        self.last_scored: Scored | None = None
        self._steps_per_epoch = session.plan.sampler.steps_per_epoch
        self._saved_at = time.monotonic()
        self._logged = replace(state.totals)  # at the last logged step

    def run(self) -> Scored | None:
        """Train to the end, updating `state`. Returns the last evaluation, if there was one.

        Raises Stopped (after saving), NonFinite or UserError on all workers together, and
        MembershipChanged on elastic workers, with state and weights as after the last full step.
        """
        session, state = self.session, self.state
        try:
            if session.in_memory:
                self.save()  # the steps in memory may not be on disk
            session.forward.model.train()
            session.world.progress.at_step(state.step)
            if self._evaluation_due() and state.evaluated < state.step:
                self._evaluate()  # it was interrupted
            while state.step < session.total_steps and not state.ended_early:
                self._step()
            self.finish_saving()
        except (Stopped, NonFinite, UserError):
            self.finish_saving()
            raise
        except MembershipChanged as change:
            session.report.info(f"workers joined or left after step {state.step}: {change}")
            if self.saver is not None:
                with session.world.progress.phase("save"):
                    self.saver.wait()
            raise
        finally:
            if self.saver is not None:
                with session.world.progress.phase("save"):
                    self.saver.close()  # it must not write when this start gives the folder up
        return self.last_scored

    def _step(self) -> None:
        session, state, start = self.session, self.state, time.perf_counter()
        batch = session.plan.batch(state.step)
        result = session.train_step(batch, self._requests)
        self._count(batch, result, time.perf_counter() - start)
        session.world.progress.at_step(state.step)
        if state.step % session.job.log.every == 0 or state.step == session.total_steps:
            self._log_step(result)
        if state.step % replica_check.EVERY == 0:
            replica_check.check_replicas(session.world, session.train_step.flat, state.step)
        requested, evaluation_due = result.requested, self._evaluation_due()
        every = session.job.checkpoint.every_steps
        save_due = every is not None and state.step % every == 0
        if requested.stop or requested.save or evaluation_due or save_due:
            self.save()
        if requested.stop:
            self._stop()
        if evaluation_due:
            self._evaluate()
        if requested.rejoin:
            raise MembershipChanged("the launcher has added or removed workers")

    def _requests(self) -> StopRequests:
        """This worker's requests. The main worker's clock decides about timed checkpoints."""
        session, save = self.session, False
        if self.state.step + 1 < session.total_steps:
            session.plan.prepare(self.state.step + 1)
        if self.saver is not None:
            elapsed = time.monotonic() - self._saved_at
            # After a failed save, the next one raises its error on all workers.
            save = self.saver.failed or elapsed >= session.job.checkpoint.every_seconds
        stop = session.stop.requested is not None
        return StopRequests(stop, save, rejoin=session.world.membership_changed)

    def _count(self, batch: Batch, result: StepResult, seconds: float) -> None:
        state, totals = self.state, self.state.totals
        if not result.finite:
            self._skip(batch, result)
        if state.step % self._steps_per_epoch == 0:
            state.epoch = EpochSums()
        if result.finite:
            state.epoch.examples += len(batch)
            state.epoch.loss_sum += result.loss * len(batch)
            state.epoch.right += result.right
            state.noise.add(batch.shares, result.own_square, result.grad_norm**2)
        state.step += 1
        totals.samples += len(batch)
        totals.tokens += int(batch.lengths.sum())
        totals.work += self.session.plan.flops.training(batch.window_lengths)
        totals.sent += self.session.train_step.reducer.sent
        totals.seconds += seconds

    def _skip(self, batch: Batch, result: StepResult) -> None:
        """Count a skipped step. Raises NonFinite if the job does not allow it.

        fp16 may always skip a step while a smaller loss scale may help.
        """
        totals, session = self.state.totals, self.session
        if result.overflowed:
            totals.overflows += 1
            return
        found = session.world.allgather_object(list(result.bad_rows), "loop.bad_rows")
        totals.skipped += 1  # elastic workers that have lost one do not get here: they repeat it
        bad = sorted(row for rows in found for row in rows)
        rows = bad or batch.rows.tolist()
        shown = [str(int(session.plan.tokens.rows[row])) for row in rows[:8]]
        shown += ["..."] if len(rows) > 8 else []
        event = (
            f"step {batch.step + 1}: the {'loss' if bad else 'gradient'} is not finite (loss "
            f"{result.loss:g}, gradient norm {result.grad_norm:g}); training rows "
            f"{', '.join(shown)}"
        )
        if totals.skipped > session.job.train.skip_nonfinite:
            fix = "try a lower optim.lr, or train.skip_nonfinite=N"
            raise NonFinite(f"{event}; the last checkpoint is unaffected; {fix}")
        session.report.info(f"skipped {event}")

    def _log_step(self, result: StepResult) -> None:
        """Log a step, with the speed since the last logged step."""
        session, step, of = self.session, self.state.step, self.session.total_steps
        totals, before = self.state.totals, self._logged
        seconds = max(1e-9, totals.seconds - before.seconds)
        samples = (totals.samples - before.samples) / seconds
        tokens = (totals.tokens - before.tokens) / seconds
        mfu = (totals.work - before.work) / seconds / session.peak_flops
        now = {"step": step, "epoch": step / self._steps_per_epoch, "loss": result.loss}
        now |= {"lr": result.lr, "grad_norm": result.grad_norm, "samples": totals.samples}
        now |= {"tokens": totals.tokens, "seconds": totals.seconds, "mfu": mfu}
        now |= {"samples_per_second": samples, "tokens_per_second": tokens}
        now |= {key: value for key, value in self.state.noise.values().items() if value is not None}
        session.report.tell(Metrics(now))
        left = duration((of - step) * totals.seconds / step)
        speed = f"{samples:.0f} examples/s  {tokens:.0f} tokens/s  {mfu:.0%} of peak"
        line = f"step {step}/{of}  loss {result.loss:.4f}  {speed}  {left} left"
        session.report.log.progress(step, line)
        self._logged = replace(totals)

    def _evaluation_due(self) -> bool:
        step, every = self.state.step, self.session.job.eval.every
        every = self._steps_per_epoch if every == "epoch" else every
        by_steps = isinstance(every, int) and step % every == 0
        return step > 0 and (by_steps or step >= self.session.total_steps)

    def _evaluate(self) -> None:
        state, session, split = self.state, self.session, self.session.watched
        examples, epoch = max(1, state.epoch.examples), state.step / self._steps_per_epoch
        trained = {"loss": state.epoch.loss_sum / examples}
        if session.task.right_score:
            trained[session.task.right_score] = state.epoch.right / examples
        self.last_scored = session.evaluate(split)
        scores, logits = self.last_scored
        if not logits.isfinite().any():
            fix = "start over with a lower optim.lr and run.resume=never"
            raise NonFinite(f"step {state.step}: no row of {split} has a finite score; {fix}")
        record = {"step": state.step, "epoch": epoch, "split": split, **scores}
        record |= {f"train_{key}": value for key, value in trained.items()}
        best_so_far = split == "validation" and self._choose(scores)
        state.history.append(numbers_of(record))
        session.report.tell(Evaluation(split, record))
        shown = "  ".join(f"{key} {scores[key]:.4f}" for key in session.task.logged)
        train = ", ".join(f"{key} {value:.4f}" for key, value in trained.items())
        session.report.info(
            f"epoch {epoch:.2f}  step {state.step}  {split}: {shown}  (train: {train})"
            f"{'  best so far' if best_so_far else ''}"
        )
        if remark := session.task.remark(scores):
            session.report.info(remark)
        if state.ended_early:
            several = "s" * (state.stale > 1)
            tried = f"{session.job.eval.metric} in {state.stale} evaluation{several}"
            session.report.info(f"stopped early: no improvement of {tried}")
        self._logged = replace(state.totals)

    def _choose(self, scores: Mapping[str, Any]) -> bool:
        """Update best weights and early stopping. Whether these are the best scores so far."""
        state, train = self.state, self.session.job.train
        value = metric_value(scores, self.session.job.eval.metric)
        best = -math.inf if state.best is None else state.best["value"]
        is_best = value > best  # never for NaN: nothing would be better than it
        state.stale = 0 if value > best + train.min_delta else state.stale + 1
        exhausted = train.patience is not None and state.stale >= train.patience
        # By the last step, nothing is left that could be stopped.
        state.ended_early = exhausted and state.step < self.session.total_steps
        if is_best:
            state.best = {"step": state.step, "value": value}
        return is_best

    def save(self) -> None:
        """Start a checkpoint, which the main worker writes while training continues.

        Before that, all workers learn how the last save went, and that their copies of the weights
        are equal.
        """
        self.finish_saving()
        step, state = self.session.train_step, self.state
        replica_check.check_replicas(self.session.world, step.flat, state.step)
        if not step.flat.finite:
            fix = "try a lower optim.lr, or a larger optim.eps"
            event = f"step {state.step}: the weights are not finite after the update"
            raise NonFinite(f"{event}; the last checkpoint is unaffected; {fix}")
        if self.saver is not None:
            now, best = snapshot(step, state), state.best
            self.saver.start(now.step, now.tensors, now.state, best=best["step"] if best else None)
        self._saved_at = time.monotonic()

    def finish_saving(self) -> None:
        """Wait on all workers for the current save: a launcher ends all when the first exits."""
        saver, world = self.saver, self.session.world
        with world.progress.phase("save"):
            world.on_main(lambda: saver.wait() if saver is not None else None, "loop.saved")

    def _stop(self) -> None:
        """Report the stop request and raise Stopped, on all workers."""
        self.finish_saving()
        session, step = self.session, self.state.step
        session.log_stop(f"checkpoint at step {step}")
        raise Stopped(f"stop requested; saved after step {step} of {session.total_steps}")


def metric_value(scores: Mapping[str, Any], metric: str) -> float:
    """The score that the best weights maximize, or its negative."""
    return float(scores[metric]) * (-1 if metric in LOWER_IS_BETTER else 1)
