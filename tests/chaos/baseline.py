"""Hugging Face's Trainer under torchrun, given the same kills:  python -m tests.chaos.baseline KILLS SEED RECORD

The same model, corpus, batch and number of steps, saved as often; carried on with `resume_from_checkpoint` from its newest
checkpoint. Nothing of it is changed: what it does about a signal is what it ships with.
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
from tests.chaos.life import LIMIT, SAVED, STEPS, Record, StepResult, parts, send

NAME = "Trainer, torchrun"
ATTACKS = (
    "kill rank 0",
    "kill rank 1",
    "kill all ranks",
    "kill launcher",
    "SIGTERM rank 1",
    "SIGTERM launcher",
)


def train(folder: Path, model: str, corpus: str) -> None:
    """One worker's part."""
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

    class Tell(TrainerCallback):
        def on_step_end(self, args, state, control, **rest):  # type: ignore[no-untyped-def]
            if state.is_world_process_zero:
                (folder / "step").write_text(str(state.global_step))
            time.sleep(float(os.environ.get("PAUSE", "0")))

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    labels = {"bad": 0, "fair": 1, "good": 2}
    rows = load_dataset(
        "json", data_files=f"{corpus}/train.jsonl", split="train", cache_dir=str(folder / "cache")
    )
    rows = rows.map(
        lambda row: {
            **tokenizer(row["text"], truncation=True, max_length=40),
            "labels": labels[row["label"]],
        }
    )
    arguments = TrainingArguments(
        output_dir=str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-3, save_steps=SAVED,
        save_total_limit=2, logging_steps=1, use_cpu=True, seed=0, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(model), arguments, train_dataset=rows.remove_columns(["text", "label"]),
        data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Tell()],
    )  # fmt: skip
    (folder / "out").mkdir(exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder / "out")))
    if trainer.is_world_process_zero():
        state = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
        (folder / "result").write_text(weights_sha256(state))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Life:
    """A folder in which the Trainer trains."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder

    def start(self, pause: float = 0.0) -> launcher.Started:
        return launcher.start(
            "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.chaos.baseline", "worker",
            str(self.folder), *parts(), PAUSE=str(pause),
        )  # fmt: skip

    def read(self, name: str) -> str:
        with suppress(OSError):
            return (self.folder / name).read_text()
        return ""

    @property
    def step(self) -> int:
        return int(self.read("step") or 0)

    def newest(self) -> tuple[int, str]:
        """(step of the checkpoint that the Trainer would carry on from, what is wrong with it)."""
        found = sorted(
            (int(path.name[11:]), path) for path in (self.folder / "out").glob("checkpoint-*")
        )
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
        """Carry on until it ends by itself; the hash of its weights, or what keeps it from ending."""
        with self.start() as started:
            try:
                ended = started.wait(250)
            except TimeoutError:
                return "no end after 250 s"
        return self.read("result") if ended.code == 0 else f"exit {ended.code}"


def attack(life: Life, what: str, chance: random.Random) -> StepResult:
    verb, _, whom = what.partition(" ")
    came = life.step
    with life.start(pause=chance.choice((0.0, 0.02, 0.05))) as started:
        while started.process.poll() is None and life.step <= came:
            time.sleep(0.005)
        until = time.monotonic() + chance.uniform(0, 1.5)
        while started.process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        now, ranks = time.monotonic(), workers(started)
        victims = {"all ranks": list(ranks.values()), "launcher": [started.process.pid]}
        chosen = (
            victims[whom]
            if whom in victims
            else [ranks[int(whom[-1])]]
            if int(whom[-1]) in ranks
            else [started.process.pid]
        )
        send(chosen, signal.SIGKILL if verb == "kill" else signal.SIGTERM)
        while (left := started.processes()) and time.monotonic() - now < LIMIT:
            time.sleep(0.05)
        seconds = time.monotonic() - now
        for process in left:
            launcher.end(process)
        code = started.wait(30).code
    newest, wrong = life.newest()
    return StepResult(
        NAME, what if verb == "kill" else f"SIGTERM training {whom}", round(seconds, 2), len(left), code,
        bool(life.read("result")), newest, max(0, life.step - newest), (wrong,) if wrong else (),
    )  # fmt: skip


def workers(started: launcher.Started) -> dict[int, int]:
    """Process ids of the workers by rank."""
    found = {}
    for process in started.processes():
        with suppress(OSError):
            path = Path(f"/proc/{process}")
            variables = dict(
                word.partition(b"=")[::2] for word in (path / "environ").read_bytes().split(b"\0")
            )
            if b"LOCAL_RANK" in variables and b"worker" in (path / "cmdline").read_bytes().split(
                b"\0"
            ):
                found[int(variables[b"LOCAL_RANK"])] = process
    return found


def main(kills: int, seed: int, record: Record) -> None:
    chance, folder, count = random.Random(seed), Path(tempfile.mkdtemp(prefix="rival-")), 0
    whole = Life(folder / "whole").finish()
    again = Life(folder / "again").finish()
    print(f"let be: {whole}; once more: {again}", flush=True)
    number = 0
    while count < kills:
        number += 1
        life = Life(folder / f"life-{number}")
        for _ in range(min(4, kills - count)):
            outcome = record.add(attack(life, chance.choice(ATTACKS), chance))
            print(outcome, flush=True)
            count += 1
            if outcome.finished:
                break
        last = life.read("result") or life.finish()
        print(f"life {number}: {last}", flush=True)
        for attacked in ("killed", "asked while training"):
            record.note(system=NAME, life=attacked, equal=last == whole, seed=seed)
        shutil.rmtree(life.folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        train(Path(sys.argv[2]), *sys.argv[3:5])
    else:
        main(int(sys.argv[1]), int(sys.argv[2]), Record(Path(sys.argv[3])))
