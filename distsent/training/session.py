"""One run from job to result: the parts are put together here, in the order in which they are needed."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from distsent import __version__, fingerprint
from distsent.batching.batch_plan import BatchPlan
from distsent.batching.flops import count_flops
from distsent.batching.sampler import BatchSampler
from distsent.data.token_store import TokenStore, open_token_store
from distsent.distributed.world import MembershipChanged, WorkerLost, World
from distsent.errors import FAILED, STOPPED, NonFinite, Stopped, UserError, WorkerFailed
from distsent.evaluation.evaluate_split import evaluate_split
from distsent.job.job import Job
from distsent.model import adapter, classifier
from distsent.model.forward import PaddedForward, choose_forward
from distsent.model.tokenizer import load_tokenizer
from distsent.reporting.table import format_result_table
from distsent.runtime import checkpoint as checkpoints
from distsent.runtime import device as devices
from distsent.runtime.heartbeat import HeartbeatMonitor
from distsent.runtime.log import Log, RunLog
from distsent.runtime.run_folder import RunFolder, disk_errors_as_user_errors
from distsent.runtime.run_status import Cause, RunStatus
from distsent.runtime.signals import StopSignal
from distsent.training import memory, replica_check
from distsent.training.artifacts import complete, finish
from distsent.training.class_weights import class_weights
from distsent.training.flat_parameters import FlatParameters
from distsent.training.loop import Loop, check_fit, value
from distsent.training.reducer import GradientReducer
from distsent.training.resume import RunClaim
from distsent.training.train_state import TrainState
from distsent.training.train_step import TrainStep


class TrainingSession:
    """A job on a world of workers."""

    def __init__(self, job: Job, world: World, stop: StopSignal) -> None:
        self.job, self.world, self.stop = job, world, stop
        self.seed = job.seeds[0]
        self.folder = RunFolder(Path(job.run.dir) / job.job.name)
        self.log: Log = Log()
        self.pulse: HeartbeatMonitor | None = None
        self.claim = RunClaim(self.folder, job)
        self._begun = False  # whether this process has been in the run before, with other workers
        self._notes: list[
            str
        ] = []  # lines for the log, which opens once the run knows where it starts
        self._loop: Loop | None = None  # while it trains
        self._carried: checkpoints.Checkpoint | None = (
            None  # what the loop held when workers came or went
        )

    def train(self) -> None:
        """Train to the end, or from where the run stands. Raises UserError, Stopped or NonFinite on all workers together."""
        memory.begin()
        try:
            while True:
                try:
                    return self._train()
                except MembershipChanged as change:
                    self._meet_again(change)
        except (UserError, Stopped, NonFinite, WorkerFailed) as ending:
            self._say_status(f"{'stopped' if isinstance(ending, Stopped) else 'failed'}: {ending}")
            raise
        except BaseException as ending:  # of this worker alone
            self._say_status(f"failed: {type(ending).__name__}: {ending}")
            if self.pulse is not None and isinstance(ending, WorkerLost):
                self.pulse.wait_for_diagnosis()
            elif self.pulse is not None:
                self.pulse.report_failure(f"{type(ending).__name__}: {ending}")
            raise
        finally:
            self._close()

    def _close(self) -> None:
        self.log.close()
        if self.pulse is not None:
            self.pulse.close()
        self.folder.unlock()

    def _meet_again(self, change: MembershipChanged) -> None:
        """Workers came or went: keep what this one holds in memory, and start anew with those that are there."""
        if self._loop is not None:
            self._carried, saver, self._loop = self._loop.snapshot(), self._loop.saver, None
            self.log.info(f"the workers change after step {self._carried.step}: {change}")
            if saver is not None:
                saver.wait()
        self._close()
        self.log, self._notes = Log(), []
        self.world.rejoin()

    def _train(self) -> None:
        job, world = self.job, self.world
        software = {"version": __version__, "code": fingerprint(), "torch": torch.__version__}
        world.assert_equal_across_ranks(
            {"job": job.to_dict(), **software}, "the job or the software"
        )
        held = self._carried
        carried = max(world.allgather_object(held.step if held else -1, "run.carried")) >= 0
        self.pulse = HeartbeatMonitor(
            world, job.run.stall_seconds, on_failure=self._report_failure, stop=self.stop
        )
        living = any(world.allgather_object(self._begun, "run.begun"))
        if finished := world.on_main(lambda: self.claim.take(world.size, living), "run.claim"):
            if world.is_main:
                complete(self.folder, print, job.log.tensorboard)
                print(f"{self.folder.path}: this run is finished\n{format_result_table(finished)}")
            return
        self._begun = True
        threads, device = devices.share_cores(world), devices.select_device(world.local_rank)
        precision, remark = world.on_main(
            lambda: devices.resolve_precision(self.claim.precision, device), "run.precision"
        )

        tokenizer: Any = world.all_or_raise(self._load_tokenizer, "run.tokenizer")
        store = self._open_store(tokenizer)
        names = store.label_names
        world.on_main(lambda: self.claim.pin(store, precision), "run.pin")
        model: Any = world.all_or_raise(
            lambda: self._build(tokenizer, store, precision), "run.model"
        )
        model.to(device)
        replica_check.check_model(world, model)
        forward, padded = choose_forward(model, tokenizer, job.model.packed)

        train_tokens = store.splits["train"]
        watched = "validation" if "validation" in store.splits else "test"
        order = BatchSampler(len(train_tokens), job.train.batch_size, self.seed)
        total = total_steps(job, order)
        useful = count_flops(model.config, frozen=job.adapter.kind != "none")
        pads = (forward.pad,) if isinstance(forward, PaddedForward) else ()
        plan = BatchPlan(
            train_tokens,
            order,
            useful,
            world.rank,
            world.size,
            job.train.token_budget,
            device,
            pads,
        )
        flat = FlatParameters(model, classifier.token_embedding(model))
        exchange = GradientReducer(world, flat)
        update = TrainStep(
            forward, flat, exchange, plan, job.train, job.optim, precision, self.seed, total,
            class_weights(job, store, device),
        )  # fmt: skip

        def find() -> checkpoints.Checkpoint | None:
            found = held
            if world.is_main and not carried:
                found = checkpoints.load_newest(self.folder.checkpoints, self._notes.append)
            check_fit(found, flat)
            return found

        held = world.all_or_raise(find, "run.held")
        steps = world.allgather_object(held.step if held else 0, "run.steps")
        start, root = max(steps), steps.index(max(steps))
        state = world.allgather_object(
            held.state if held and world.rank == root else None, "run.state"
        )[root]
        peak = sum(world.allgather_object(devices.peak_flops(precision, device), "run.peak"))

        def open_log() -> None:
            evaluated = TrainState.from_dict(state["progress"]).evaluated if state else 0
            with disk_errors_as_user_errors(self.folder.path):
                self.log = RunLog(self.folder, start, evaluated, total, job.log.tensorboard)

        world.on_main(open_log, "run.log")
        for line in (*self._notes, remark, padded, *store.warnings):
            self.log.info(line) if line else None
        self.log.info(
            f"{job.job.name}: {job.model.name}, {flat.size:,} trained parameters, {len(train_tokens):,} examples, {total} steps of "
            f"{job.train.batch_size}; {world.size} worker{'s' * (world.size > 1)} x {threads} threads on {device.type}, {precision}"
        )

        def scores_of(split: str) -> tuple[dict[str, Any], torch.Tensor]:
            scores, logits = evaluate_split(
                world, forward, store.splits[split], names, batch_tokens=job.eval.batch_tokens, precision=precision,
                device=device, stop=lambda: self.stop.requested is not None,
            )  # fmt: skip
            return {"split": split, **scores}, logits

        last: list[
            Any
        ] = []  # the watched split's newest scores and logits: need not be computed again at the end

        def watch() -> dict[str, Any]:
            last[:] = [scores_of(watched)]
            return last[0][0]

        saver = (
            checkpoints.Saver(self.folder.checkpoints, job.checkpoint.keep, start)
            if world.is_main
            else None
        )
        loop = Loop(
            world, job, plan, update, TrainState(), watch, watched == "validation", saver,
            self.log, self.stop, self.pulse, total, peak,
        )  # fmt: skip
        loop.resume(held, state, root)
        self._loop, self._carried = loop, None
        if carried:
            loop.save()  # what was carried on in memory may not have got to the disk
        if start:
            self.log.info(f"carrying on after step {start} of {total}")
        self._say_status(f"running: step {start} of {total}")
        loop.run()
        loop.finish_saving()
        self._loop = None  # from here on the last step stands on disk, and the best weights may take its place in memory

        moved = self._take_best(loop)
        final = {
            split: last[0] if split == watched and last and not moved else scores_of(split)
            for split in store.splits
            if split != "train"
        }

        def leave() -> None:
            with disk_errors_as_user_errors(self.folder.path):
                finish(self.folder, self.log, loop, tokenizer, store, final, precision)

        world.on_main(leave, "run.finish")

    def _open_store(self, tokenizer: Any) -> TokenStore:
        """The token store: the first worker tokenises what is not there yet, the others open what it left."""
        job = self.job

        def tokenise() -> str:
            self._say_status("running: reading and tokenising the corpus")
            data, hear = job.data, lambda done, of: self.stop.raise_if_requested()
            return str(
                open_token_store(
                    data,
                    self.seed,
                    tokenizer,
                    data.max_length,
                    self._store_folder(),
                    workers=World(),
                    progress=hear,
                ).folder
            )

        folder = Path(self.world.on_main(tokenise, "run.tokenise"))
        store = self.world.all_or_raise(lambda: TokenStore.open(folder), "run.store")
        self.world.assert_equal_across_ranks(store.meta, "the token store")
        return store

    def _store_folder(self) -> Path:
        return Path(self.job.data.store or Path(self.job.run.dir) / ".tokens")

    def _load_tokenizer(self) -> Any:
        adapter.check_adapter(self.job)
        classifier.check_encoder(self.job.model.name, self.job.model.revision)
        return load_tokenizer(self.job.model.name, self.job.model.revision)

    def _build(self, tokenizer: Any, store: TokenStore, precision: str) -> Any:
        model = adapter.build_model(self.job, tokenizer, store.label_names, precision)
        self._check_fit(model, tokenizer, store)
        return model

    def _check_fit(self, model: Any, tokenizer: Any, store: TokenStore) -> None:
        limit = classifier.token_limit(model)
        if self.job.data.max_length > limit:
            raise UserError(
                f"data.max_length = {self.job.data.max_length}: {self.job.model.name} takes at most {limit} tokens"
            )
        if len(tokenizer) > (known := classifier.token_embedding(model).num_embeddings):
            raise UserError(
                f"model.name = {self.job.model.name!r}: its tokenizer has {len(tokenizer)} tokens, its encoder knows {known}: "
                "they do not belong together"
            )
        if self.job.train.patience is not None and "validation" not in store.splits:
            raise UserError(
                "train.patience: there is no validation split to watch; set data.validation_fraction, e.g. 0.1"
            )
        if "validation" not in store.splits and "test" not in store.splits:
            raise UserError(
                "data.source: neither a validation nor a test split; set data.validation_fraction, e.g. 0.1"
            )

    def _take_best(self, loop: Loop) -> bool:
        """Put the best weights into the model, where a validation split chose them. Whether they are not the last ones."""
        p, flat = loop.progress, loop.update.flat
        if p.best is None or p.best["step"] == p.step:
            return False
        path = self.folder.checkpoints / checkpoints.FOLDER.format(p.best["step"])

        def read() -> str | None:
            try:
                flat.values.copy_(flat.join(checkpoints.load(path).tensors["weights"]))
            except ValueError as error:
                return str(error)
            return None

        if damage := self.world.on_main(read, "run.best"):
            self.log.info(
                f"the best checkpoint is damaged, so the last weights become the model: {damage}"
            )
            p.best = {"step": p.step, "value": value(p.history[-1], self.job.eval.metric)}
            return False
        self.world.broadcast(flat.values, "run.best.weights")
        return True

    def _report_failure(self, message: str, cause: Cause | None) -> None:
        self._say_status(f"failed: {message}", cause)

    def _say_status(self, line: str, cause: Cause | None = None) -> None:
        if self.world.is_main and self.claim.holds:
            with suppress(OSError):  # a full disk must not hide what is to be said
                state, _, message = line.partition(": ")
                codes = {"stopped": STOPPED, "failed": FAILED}
                status = RunStatus.started(message)
                if state in codes:
                    status = status.ended(codes[state], message, cause)
                self.folder.write_status(status)
            if not line.startswith("running"):
                self.log.info(line)


def total_steps(job: Job, order: BatchSampler) -> int:
    """Steps of the whole run: `train.max_steps`, or the epochs, where a part of an epoch is rounded up to whole steps."""
    return job.train.max_steps or math.ceil(job.train.epochs * order.steps_per_epoch - 1e-9)
