"""The training of one run of a trial: watched, pruned, and recorded when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distsent.errors import FAILED, FINISHED, UserError
from distsent.exit_policy import Decision, decide
from distsent.search.process import Process
from distsent.search.sampling import should_prune
from distsent.search.sweep_folder import Sweep
from distsent.search.sweep_log import SweepLog
from distsent.search.trials import Claim, Trial, TrialFolder, TrialRun, best_of, read_trials

RETRIES = 2  # further starts of a trial that fails in a way that may pass


class Training:
    """A run that this controller trains, with its claim and its processes."""

    def __init__(
        self, sweep: Sweep, run: TrialRun, claim: Claim, process: Process, log: SweepLog
    ) -> None:
        self.run, self.process, self.claim = run, process, claim
        self._sweep, self._search, self._log = sweep, sweep.space.search, log
        self._folder: TrialFolder = sweep.folder.trial(run.name)
        self._seen, self._looked_at = 0, 0  # evaluations that the pruner knows; the file's state

    def _trials(self) -> list[Trial]:
        return read_trials(self._sweep.folder.path, self._search.folds)

    def watch(self) -> None:
        """Prune the run if it is worse than earlier trials at the same evaluation."""
        if self.run.ended:
            return self.process.stop()  # again, if it was not heard
        if self._search.pruner != "none" and (now := self._folder.changed()) != self._looked_at:
            self._looked_at = now
            self._judge()

    def _judge(self) -> None:
        """Have the pruner look at all evaluations but the last, in their order."""
        status, scores = self.process.status(), self._folder.scores(self._search.metric)
        if status is None or status.of is None:
            return
        for count in range(self._seen + 1, len(scores) + 1):
            self._seen = count
            if scores[count - 1][0] < status.of and self._is_worse(scores[:count]):
                return self._prune(scores[:count])

    def _is_worse(self, scores: Sequence[tuple[int, float]]) -> bool:
        before = [trial for trial in self._trials() if trial.number < self.run.trial]
        return should_prune(self._sweep.space, [score for _, score in scores], before)

    def _prune(self, scores: Sequence[tuple[int, float]]) -> None:
        """First on disk, then the stop: the verdict stays, also if the run is faster than that."""
        step, score = scores[-1]
        reason = f"{self._search.metric} {score:.4f} at step {step}"
        values = tuple(value for _, value in scores)
        self.record(replace(self.run, state="pruned", scores=values, reason=reason))
        if self.process.poll() is None:
            self.process.stop()
        self._log.info(f"{self.run.name}: pruned: {reason}")

    def finish(self, code: int, stopping: bool = False) -> None:
        """Record how the run ended, if it did: its processes have, with this exit code.

        `stopping`: whether the controller was asked to stop. Ctrl-C reaches the run as well.
        """
        if not self.run.ended and self._search.pruner != "none":
            self._judge()  # so that the verdict does not depend on how fast anybody was
        process, run = self.process, self.run
        if run.ended:
            return
        asked = process.asked or stopping
        decision = decide(code, process.status(), stop_requested=asked)
        if decision.action == "done":
            self._finished()
        elif decision.action == "give_up":
            self._failed(decision)
        elif asked:
            return  # it resumes when the sweep does
        elif run.failures >= RETRIES:
            self._failed(decision)
        else:
            reason = decision.message or process.last_line()
            self.record(replace(run, failures=run.failures + 1))
            self._log.info(f"{run.name}: exit code {code}, is started again: {reason}")

    def _finished(self) -> None:
        metric = self._search.metric
        try:
            value, rows = self._folder.value(metric)
            self._check_rows(rows)
        except UserError as error:
            return self._failed(Decision("give_up", FAILED, "failed", str(error)))
        scores = tuple(score for _, score in self._folder.scores(metric))
        end = replace(self.run, state="finished", value=value, code=FINISHED, scores=scores)
        self.record(replace(end, rows=rows))
        best = best_of(self._trials(), self._search.lower_is_better)
        is_best = best is not None and best.number == self.run.trial
        remark = "  best so far" if is_best else ""
        self._log.info(f"{self.run.name}: finished: {metric} {value:.4f}{remark}")

    def _check_rows(self, rows: str) -> None:
        """Raises UserError if the validation rows are others than an earlier trial had."""
        for trial in self._trials():
            for other in trial.runs:
                if other.fold == self.run.fold and other.rows not in (None, rows):
                    raise UserError(f"data.source: validation has other rows than in {other.name}")

    def _failed(self, decision: Decision) -> None:
        reason = " ".join((decision.message or self.process.last_line()).split())
        reason = reason or f"exit code {decision.code}"
        self.record(replace(self.run, state="failed", code=decision.code, reason=reason))
        self._log.info(f"{self.run.name}: failed (exit code {decision.code}): {reason}")

    def record(self, run: TrialRun) -> None:
        """Write it to disk, unless another controller has taken this run over."""
        self.run = run
        try:
            self.claim.write(self._folder.record, run.to_json())
        except UserError as error:
            self._log.info(f"{run.name}: {error}")
            self.process.stop()
