"""Hugging Face's Trainer under torchrun, attacked by the same kills and signals.

    python -m tests.chaos.baseline KILLS SEED LOG

It trains the same model on the same dataset with the same batch size and number of steps, saves as
often, and resumes with `resume_from_checkpoint` from its newest checkpoint. Nothing in it is
changed: its reaction to a signal is the one it ships with.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests import launcher
from tests.chaos.attacked_run import (
    LIMIT,
    SAVED,
    STEPS,
    AttackLog,
    AttackResult,
    model_and_dataset,
    send,
)
from tests.chaos.attacks import wait_while_running

NAME = "Trainer, torchrun"
ATTACKS = (
    "kill rank 0",
    "kill rank 1",
    "kill all ranks",
    "kill launcher",
    "SIGTERM rank 1",
    "SIGTERM launcher",
)


def train(folder: Path, model: str, dataset: str) -> None:
    """One worker."""
    import torch
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )
    from transformers.trainer_utils import get_last_checkpoint

    from distsent.runtime.checkpoint import weights_sha256

    class WriteStep(TrainerCallback):
        def on_step_end(self, args, state, control, **rest):  # type: ignore[no-untyped-def]
            if state.is_world_process_zero:
                (folder / "step").write_text(str(state.global_step))
            time.sleep(float(os.environ.get("STEP_DELAY", "0")))

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    labels = {"bad": 0, "fair": 1, "good": 2}

    def encode(row):  # type: ignore[no-untyped-def]
        ids = tokenizer(row["text"], truncation=True, max_length=40)
        return {**ids, "labels": labels[row["label"]]}

    files, cache = f"{dataset}/train.jsonl", str(folder / "cache")
    rows = load_dataset("json", data_files=files, split="train", cache_dir=cache).map(encode)
    arguments = TrainingArguments(
        output_dir=str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=4,
        learning_rate=1e-3, save_steps=SAVED, save_total_limit=2, logging_steps=1, use_cpu=True,
        seed=0, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(model),
        arguments,
        train_dataset=rows.remove_columns(["text", "label"]),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[WriteStep()],
    )
    (folder / "out").mkdir(exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder / "out")))
    if trainer.is_world_process_zero():
        state = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
        (folder / "result").write_text(weights_sha256(state))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class TrainerRun:
    """A folder in which the Trainer trains."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder

    def start(self, step_delay: float = 0.0) -> launcher.Started:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        worker = ["-m", "tests.chaos.baseline", "worker", str(self.folder)]
        command = [*torchrun, *worker, *model_and_dataset()]
        return launcher.start(*command, STEP_DELAY=str(step_delay))

    def read(self, name: str) -> str:
        with suppress(OSError):
            return (self.folder / name).read_text()
        return ""

    @property
    def step(self) -> int:
        return int(self.read("step") or 0)

    def newest(self) -> tuple[int, str]:
        """(step of the checkpoint that the Trainer would resume from, error of loading it)."""
        paths = (self.folder / "out").glob("checkpoint-*")
        found = sorted((int(path.name[11:]), path) for path in paths)
        if not found:
            return 0, ""
        import torch
        from safetensors.torch import load_file

        step, path = found[-1]
        try:
            load_file(path / "model.safetensors")
            for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"):
                torch.load(path / name, weights_only=False)
            json.loads((path / "trainer_state.json").read_text())
        except Exception as error:
            return step, f"checkpoint-{step}: {type(error).__name__}: {str(error)[:150]}"
        return step, ""

    def finish(self) -> str:
        """Resume until the end; the hash of the weights, or the reason that there is none."""
        with self.start() as started:
            try:
                done = started.wait(250)
            except TimeoutError:
                return "no end after 250 s"
        return self.read("result") if done.code == 0 else f"exit {done.code}"


def attack(run: TrainerRun, name: str, rng: random.Random) -> AttackResult:
    verb, _, target = name.partition(" ")
    before = run.step
    with run.start(step_delay=rng.choice((0.0, 0.02, 0.05))) as started:
        while started.process.poll() is None and run.step <= before:
            time.sleep(0.005)
        wait_while_running(started, rng.uniform(0, 1.5))
        now = time.monotonic()
        send(victims(started, target), signal.SIGKILL if verb == "kill" else signal.SIGTERM)
        while (left := started.processes()) and time.monotonic() - now < LIMIT:
            time.sleep(0.05)
        seconds = time.monotonic() - now
        for process in left:
            launcher.kill(process)
        code = started.wait(30).code
    newest, error = run.newest()
    name = name if verb == "kill" else f"SIGTERM training {target}"
    finished, lost = bool(run.read("result")), max(0, run.step - newest)
    damaged = (error,) if error else ()
    return AttackResult(
        NAME, name, round(seconds, 2), len(left), code, finished, newest, lost, damaged
    )


def victims(started: launcher.Started, target: str) -> list[int]:
    """Process IDs of a target; the launcher's in place of a worker that does not exist."""
    ranks, above = workers(started), [started.process.pid]
    if target == "all ranks":
        return list(ranks.values())
    if target == "launcher" or int(target[-1]) not in ranks:
        return above
    return [ranks[int(target[-1])]]


def workers(started: launcher.Started) -> dict[int, int]:
    """Process IDs of the workers by rank."""
    found = {}
    for process in started.processes():
        with suppress(OSError):
            rank = launcher.environment(process).get("LOCAL_RANK")
            if rank is not None and "worker" in launcher.arguments(process):
                found[int(rank)] = process
    return found


def main(kills: int, seed: int, log: AttackLog) -> None:
    rng, count, number = random.Random(seed), 0, 0
    folder = Path(tempfile.mkdtemp(prefix="baseline-"))
    expected = TrainerRun(folder / "undisturbed").finish()
    again = TrainerRun(folder / "again").finish()
    print(f"undisturbed: {expected}; once more: {again}", flush=True)
    while count < kills:
        number += 1
        run = TrainerRun(folder / f"run-{number}")
        for _ in range(min(4, kills - count)):
            result = log.add(attack(run, rng.choice(ATTACKS), rng))
            print(result, flush=True)
            count += 1
            if result.finished:
                break
        last = run.read("result") or run.finish()
        print(f"run {number}: {last}", flush=True)
        for attacked in ("killed", "signal while training"):
            log.note(system=NAME, attacked=attacked, equal=last == expected, seed=seed)
        shutil.rmtree(run.folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        train(Path(sys.argv[2]), *sys.argv[3:5])
    else:
        main(int(sys.argv[1]), int(sys.argv[2]), AttackLog(Path(sys.argv[3])))
