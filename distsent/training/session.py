"""One run, from job to result: open, restore, fit, publish.

Elastic workers may join or leave at any time. Then the workers form a new world, keep the training
state in memory, and go through the four phases again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distsent.batching.batch_plan import BatchPlan
from distsent.data.tokens.store import TokenStore
from distsent.distributed.progress import phase_of
from distsent.distributed.world import MembershipChanged, World
from distsent.errors import FAILED, STOPPED, Stopped
from distsent.evaluation.evaluate_split import evaluate_split
from distsent.evaluation.tasks.choose import choose_task
from distsent.evaluation.tasks.task import Task
from distsent.job.job import Job
from distsent.model.config import config_hash
from distsent.model.forward import Forward
from distsent.operators import library
from distsent.runtime import device as devices
from distsent.runtime.checkpoint import Checkpoint
from distsent.runtime.heap import free_models
from distsent.runtime.heartbeat.monitor import HeartbeatMonitor, Watched
from distsent.runtime.heartbeat.starting import Starting
from distsent.runtime.run_folder import RunFolder
from distsent.runtime.signals import StopSignal
from distsent.tracking.events import Ended
from distsent.training.build import build_plan, build_step, open_model
from distsent.training.inputs import (
    budget_notes,
    check_length,
    encoder_notes,
    prepare_store,
    prepare_tokenizer,
)
from distsent.training.loop import fit
from distsent.training.memory import expect, less_memory
from distsent.training.publish import print_finished, publish, reset_peak_memory
from distsent.training.run_record import RunClaim
from distsent.training.run_report import RunReport
from distsent.training.train_state import restore, snapshot
from distsent.training.train_step import TrainStep
from distsent.versions import shared_software

RESUME = "the last checkpoint is intact: run the same command again to resume"


class TrainingRun:
    """Trains a job on a world of workers. Handles rejoins and the ways in which a run ends."""

    def __init__(
        self, job: Job, world: World, stop: StopSignal, starting: Starting | None = None
    ) -> None:
        self.job, self.world, self.stop = job, world, stop
        self._starting = starting
        self.folder = RunFolder(Path(job.run.dir) / job.job.name)
        self.claim = RunClaim(self.folder, job)
        self.report = RunReport(world, self.claim)
        self._heartbeat: HeartbeatMonitor | None = None
        self._kept: Checkpoint | None = None  # the training state, during a rejoin

    def train(self) -> None:
        """Train to completion, resuming from where the run left off.

        Raises UserError, Stopped, NonFinite or WorkerFailed on all workers together.
        """
        reset_peak_memory()
        try:
            while True:
                with self.world.progress.phase("load"):
                    if self._train():
                        break
                self._rejoin()
        except BaseException as error:
            self.report.failed(error)
            if self._heartbeat is not None:
                self._heartbeat.failed(error)
            raise
        finally:
            self._close()

    def _train(self) -> bool:
        """The four phases. False if elastic workers joined or left: rejoin, then call it again."""
        job, world = self.job, self.world
        try:
            setup = {"job": job.to_dict(), "software": shared_software()}
            world.assert_equal_across_ranks(setup, "the job or the software")
            in_memory = any(world.allgather_object(self._kept is not None, "run.in_memory"))
            self._start_heartbeat()
            if result := self.claim.take(world, self.report.info, self._poll):
                print_finished(job, world, self.folder, result)
                return True
            session = open_session(self, in_memory)
            self.claim.begin(world)
            state = restore(session, self._kept, self.claim.rescored)
            world.on_main(lambda: self.claim.confirm(state.step), "run.confirm")
            self._kept = None
            try:
                with world.progress.phase("step"):
                    scored = fit(session, state)
            except MembershipChanged:
                self._kept = snapshot(session.train_step, state)
                raise
            with world.progress.phase("publish"):
                publish(session, state, scored)
        except MembershipChanged:
            return False
        return True

    def _start_heartbeat(self) -> None:
        """On all workers together."""
        run, on_failure = self.job.run, partial(self.report.ended, FAILED, patience=1.0)
        options = run.stall_seconds, run.interface or "", self.folder.stacks
        watched = Watched(*options, on_failure, self.report.info, RESUME)
        self._heartbeat = HeartbeatMonitor(self.world, watched, self.stop)
        self._heartbeat.connect()
        if self._starting is not None:
            self._starting.finish()

    def _poll(self) -> None:
        """While this worker waits for another process."""
        self.world.progress.worked()
        self.stop.raise_if_requested()

    def _rejoin(self) -> None:
        """The folder stays locked meanwhile: another start would take a run over that goes on."""
        self._disconnect()
        free_models()
        self.world.rejoin()
        self.folder.unlock()  # another worker may be the main one now

    def _close(self) -> None:
        self._disconnect()
        self.folder.unlock()

    def _disconnect(self) -> None:
        self.report.close_log()
        if self._heartbeat is not None:
            self._heartbeat.close()


def train_all(runs: Sequence[TrainingRun]) -> None:
    """Train them one after another. Each model leaves memory before the next one is loaded."""
    for i, run in enumerate(runs):
        if i > 0:
            free_models()
        run.train()


@dataclass(frozen=True)
class Session:
    """All parts of an opened run. None is replaced before the run ends or workers rejoin."""

    job: Job
    world: World
    stop: StopSignal
    folder: RunFolder
    report: RunReport
    in_memory: bool  # after a rejoin, a worker holds the training state in memory
    device: torch.device
    precision: str
    tokenizer: Any
    store: TokenStore
    task: Task
    forward: Forward
    new_weights: tuple[str, ...]  # names of weights that the encoder's files did not hold
    plan: BatchPlan
    train_step: TrainStep
    total_steps: int
    peak_flops: float  # measured, of all workers together

    @property
    def watched(self) -> str:
        """The split that is evaluated during training. Only validation may choose weights."""
        return "validation" if "validation" in self.store.splits else "test"

    def evaluate(self, split: str) -> tuple[dict[str, Any], torch.Tensor]:
        """(scores, logits) of a split, on all workers. Raises Stopped on request."""
        try:
            with self.world.progress.phase("evaluate"):
                return evaluate_split(
                    self.world,
                    self.forward,
                    self.store.splits[split],
                    self.task,
                    batch_tokens=self.job.eval.batch_tokens,
                    precision=self.precision,
                    device=self.device,
                    stop=lambda: self.stop.requested is not None,
                    free=self.train_step.free,
                )
        except Stopped:
            self.log_stop(f"the evaluation of {split} is not finished")
            raise

    def log_stop(self, consequence: str) -> None:
        """Log which rank requested the stop, and why. All workers call this."""
        reasons = self.world.allgather_object(self.stop.requested, "run.stop")
        # The main worker may repeat another's reason, which names that rank.
        own = {rank: r for rank, r in enumerate(reasons) if r and " on rank " not in r}
        named = ", ".join(f"{reason} on rank {rank}" for rank, reason in own.items())
        # mpirun may drop what a worker prints after this, on its way out.
        line = f"stop requested: {named}; {consequence}"
        self.report.info(line)
        # The others wait: a launcher ends the main worker soon after they have exited.
        with self.world.progress.phase("save"):
            end = partial(self.report.close_trackers, Ended(STOPPED, line))
            self.world.on_main(end, "run.trackers")


def open_session(run: TrainingRun, in_memory: bool) -> Session:
    """Build all parts, in the order in which they need each other. Raises UserError."""
    job, world, claim, report = run.job, run.world, run.claim, run.report
    report.starting()
    if world.size > 1:
        report.info(f"transport: {world.transport}, started by {world.why}")
    threads, device = devices.share_cores(world), devices.select_device(world.local_rank)
    with world.progress.phase(phase_of(job.model.name, "load")):
        tokenizer: Any = world.all_or_raise(lambda: prepare_tokenizer(job), "run.tokenizer")
    store = prepare_store(job, tokenizer, world, run.stop, claim.read_as)
    loaded, forward, precision = open_model(job, world, claim.precision, tokenizer, store, device)
    described = config_hash(forward.model.config)
    content = partial(claim.record_content, store, described, precision, library.used())
    changed = world.on_main(content, "run.content")

    plan = build_plan(job, store, forward, world, device, precision)
    total = plan.sampler.total_steps(job.train.epochs, job.train.max_steps)
    check_length(job, total)
    step = build_step(job, store, forward, world, device, precision, total, report.info)
    memory = expect(job, world, plan, step, precision)
    step.advice = f"{less_memory(job)}, and run the same command again to resume"
    if memory:
        step.advice = f"{memory}; {step.advice}"
    peak = sum(world.allgather_object(devices.peak_flops(precision, device), "run.peak"))

    workers = f"{world.size} worker{'s' * (world.size > 1)} x {threads} threads on {device.type}"
    summary = (
        f"{job.job.name}: {job.model.name}, {step.flat.size:,} trained parameters, "
        f"{len(plan.tokens):,} examples, {total} steps of {plan.sampler.batch_size}; {workers}, "
        f"{precision}"
    )
    notes = (*loaded.notes, changed, *store.label_table, *store.notes)
    notes += (*encoder_notes(job), *budget_notes(job, store))
    for line in (*notes, summary, memory):
        report.info(line)
    return Session(
        job=job,
        world=world,
        stop=run.stop,
        folder=run.folder,
        report=report,
        in_memory=in_memory,
        device=device,
        precision=precision,
        tokenizer=tokenizer,
        store=store,
        task=choose_task(job.data.task, store.label_names),
        forward=forward,
        new_weights=loaded.new_weights,
        plan=plan,
        train_step=step,
        total_steps=total,
        peak_flops=peak,
    )
