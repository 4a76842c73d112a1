"""Trains the trials of a sweep: decides, starts, watches, prunes and records them.

Any number of controllers may work on one sweep. What one does, all see on disk: a trial is decided
by creating its folder, and trained by whoever holds its claim. Killed at any moment, a controller
leaves nothing that the next start does not find.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from distsent.errors import FAILED, Stopped, UserError
from distsent.runtime.signals import StopSignal
from distsent.search.machine import Slot
from distsent.search.process import Process, await_earlier_start, training_command
from distsent.search.report import in_words
from distsent.search.sampling import next_parameters
from distsent.search.sweep_folder import Sweep
from distsent.search.sweep_log import SweepLog
from distsent.search.training import Training
from distsent.search.trials import (
    Claim,
    Trial,
    TrialFolder,
    TrialRun,
    all_first_failed,
    read_runs,
    read_trials,
    trials_of,
    write_new_run,
)
from distsent.storage import exists

PAUSE = 0.1  # seconds between looks at the trials
LOOK_AGAIN = 30.0  # seconds until trials that others train are looked at again
SAVING = 60.0  # seconds for trials to save if the controller itself fails


class Controller:
    """Fills the slots of this machine with trials until there are none left."""

    def __init__(
        self, sweep: Sweep, labels: Sequence[str], slots: Sequence[Slot], workers: int,
        stop: StopSignal, log: SweepLog,
    ) -> None:  # fmt: skip
        self.sweep, self.labels, self.slots, self.workers = sweep, labels, slots, workers
        self.stop, self.log = stop, log
        self._running: dict[int, Training] = {}  # by slot
        self._look_again, self._looked_at_failures = 0.0, False

    def run(self) -> bool:
        """Whether all trials have ended; else others still train some.

        Raises Stopped on request, once all trials have saved; UserError if all first trials fail.
        """
        try:
            while True:
                self._collect()
                if self.stop.requested is not None:
                    self._stop_all()
                self._raise_if_all_failed()
                for training in self._running.values():
                    training.watch()
                with suppress(Stopped):  # while it waited for a claim
                    self._fill()
                if not self._running and self.stop.requested is None:
                    return all(trial.state != "running" for trial in self._trials())
                time.sleep(PAUSE)
        finally:
            self._abandon()

    def _trials(self) -> list[Trial]:
        """As they are on disk."""
        return read_trials(self.sweep.folder.path, self.sweep.space.search.folds)

    # ---- starting ----------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start a run in each free slot, as long as there are some."""
        for slot in sorted(set(range(len(self.slots))) - self._running.keys()):
            if time.monotonic() < self._look_again:
                return
            if not self._start_next(slot):
                self._look_again = time.monotonic() + LOOK_AGAIN
                return

    def _start_next(self, slot: int) -> bool:
        """Start the next run that nobody trains; False if there is none."""
        for run in self._open_runs():
            folder = self.sweep.folder.trial(run.name)
            claim = Claim.take(folder.own, self.stop.raise_if_requested)
            if claim is None:
                continue
            if (run := folder.read()).ended:  # since we looked
                claim.release()
                continue
            try:
                await_earlier_start(folder, self.stop.raise_if_requested)
                # What a start may change, such as run.dir, counts for earlier trials, too.
                claim.write(folder.job, self.sweep.job_of(run, self.labels).to_toml())
                transport = self.sweep.job.run.transport
                command = training_command(folder.job, self.workers, transport)
                process = Process(folder, command, self.slots[slot])
            except BaseException:
                claim.release()
                raise
            self._running[slot] = Training(self.sweep, run, claim, process, self.log)
            self.log.info(f"{run.name}: {self._verb(folder)} with {in_words(run.parameters)}")
            return True
        return False

    def _verb(self, folder: TrialFolder) -> str:
        return "resumes" if exists(folder.files.job) else "starts"

    def _open_runs(self) -> Iterator[TrialRun]:
        """Parts that have not ended and are not trained here; new ones are decided when it is time.

        They are looked up again after each: others decide and end trials meanwhile.
        """
        tried = {training.run.name for training in self._running.values()}
        while True:
            found = read_runs(self.sweep.folder.path)
            left = (run for run in found if not run.ended and run.name not in tried)
            run = next(left, None) or self._decide_next(found)
            if run is None:
                return
            tried.add(run.name)
            yield run

    def _decide_next(self, runs: Sequence[TrialRun]) -> TrialRun | None:
        """Decide the next run: a fold that a trial lacks, else a new trial; None at the end."""
        search = self.sweep.space.search
        trials = trials_of(runs, search.folds)
        for trial in trials:
            missing = set(range(1, search.folds + 1)) - {run.fold for run in trial.runs}
            if missing and trial.state != "failed":
                return self._new_run(TrialRun(trial.number, trial.parameters, min(missing)))
        numbers = {trial.number for trial in trials}
        number = next((n for n in range(search.trials) if n not in numbers), None)
        if number is None:
            return None
        parameters = next_parameters(self.sweep.space, number, trials)
        return self._new_run(TrialRun(number, parameters, fold=1 if search.folds else 0))

    def _new_run(self, run: TrialRun) -> TrialRun:
        """Write it to disk. Another controller may be faster: then its decision counts."""
        job = None
        try:
            job = self.sweep.job_of(run, self.labels)
        except UserError as error:  # keys that are wrong together, between those that were checked
            reason = "; ".join(error.lines)
            run = replace(run, state="failed", code=error.code, reason=reason)
            self.log.info(f"{run.name}: is not a job: {reason}")
        if write_new_run(self.sweep.folder.path, run, job):
            return run
        return self.sweep.folder.trial(run.name).read()

    # ---- ending ------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Record the runs whose processes have ended."""
        for slot, training in [*self._running.items()]:
            code = training.process.poll()
            if code is None:
                continue
            del self._running[slot]
            self._look_again, self._looked_at_failures = 0.0, False
            try:
                training.finish(code, self.stop.requested is not None)
            finally:
                training.claim.release()
            self.log.progress(self._trials())

    def _raise_if_all_failed(self) -> None:
        """Raises UserError if the first trials have all failed, once the others have saved."""
        if self._looked_at_failures:
            return
        self._looked_at_failures = True
        trials = self._trials()
        if not all_first_failed(trials, self.sweep.space.search.trials):
            return
        self._end_all()
        failed = [run for trial in trials for run in trial.runs if run.state == "failed"]
        codes = {run.code for run in failed}
        code = codes.pop() if len(codes) == 1 else FAILED
        which = f"all {len(failed)} trials so far" if len(failed) > 1 else "the only trial"
        fix = "fix that and run the same command again: failed trials are then tried anew"
        why = f"{failed[0].name}: {failed[0].reason}"
        raise UserError(f"{self.sweep.folder.path}: {which} failed; {why}; {fix}", code=code)

    def _stop_all(self) -> None:
        """Raises Stopped once all trials have saved and ended."""
        saved = [training.run.name for training in self._running.values()]
        self._end_all()
        what = f"saved {', '.join(saved)}" if saved else "no trial was running"
        raise Stopped(f"{self.stop}; {what}; run the same command again to resume")

    def _end_all(self) -> None:
        while self._running:
            for training in self._running.values():
                training.process.stop()
            time.sleep(PAUSE)
            self._collect()

    def _abandon(self) -> None:
        """Leave no process behind when the controller itself fails: its trials save and end."""
        left, until = [*self._running.values()], time.monotonic() + SAVING
        while (left := [one for one in left if one.process.poll() is None]) and (
            time.monotonic() < until
        ):
            for training in left:
                training.process.stop()
            time.sleep(PAUSE)
        for training in self._running.values():
            training.process.kill()
            training.claim.release()
