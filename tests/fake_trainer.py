"""Trains nothing, as a trial of a sweep would:  python -S -E tests/fake_trainer.py JOB.toml

Milliseconds instead of seconds, and the same files: status.json, metrics.jsonl, result.json and the
exit code. It saves after each epoch, resumes there, and writes down each start and epoch. Some
values of optim.weight_decay make it fail, each in its way, and FAKE_FAILURE, a part of its name.
"""

import fcntl
import json
import math
import os
import signal
import sys
import time
import tomllib
from pathlib import Path

FAILURES = {0.2: 2, 0.3: 3, 0.1: 1}  # by optim.weight_decay; 0.9: killed, 0.4: not a number


def score(job, epoch):
    """Best at optim.lr = 1e-3; each epoch is better than the last."""
    distance = abs(math.log10(job["optim"]["lr"]) + 3)
    return round(1 - 0.2 * distance - 0.1 / epoch - job["train"]["batch_size"] / 1e4, 6)


class Run:
    def __init__(self, job):
        self.job = job
        self.folder = Path(job["run"]["dir"]) / job["job"]["name"]
        self.epochs = int(job["train"]["epochs"])
        self.saved = self.folder / "saved"
        self.asked = False

    def write(self, name, value):
        temporary = self.folder / f".{name}.fake"
        temporary.write_text(json.dumps(value))
        os.replace(temporary, self.folder / name)

    def status(self, state, code=None, message="", step=0):
        attempt = os.environ["DISTSENT_ATTEMPT"]
        values = {"state": state, "code": code, "message": message, "attempt": attempt}
        self.write("status.json", {**values, "of": 10 * self.epochs, "step": step})

    def note(self, line):
        with open(self.folder / "trained", "a") as file:
            file.write(f"{line}\n")

    def train(self):
        signal.signal(signal.SIGUSR1, lambda *_: setattr(self, "asked", True))
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.note("twice at once")
            return 1
        done = int(self.saved.read_text()) if self.saved.exists() else 0
        cores, gpus = len(os.sched_getaffinity(0)), os.environ.get("CUDA_VISIBLE_DEVICES")
        self.note(f"start {done} on {cores} cores, GPUs {gpus}")
        self.write("job.json", self.job)
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines(True) if metrics.exists() else []
        metrics.write_text("".join(lines[:done]))
        self.status("running", step=10 * done)
        for epoch in range(done + 1, self.epochs + 1):
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0.03")))
            if code := self.failure():
                return code
            with open(metrics, "a") as file:
                line = {
                    "step": 10 * epoch,
                    "split": "validation",
                    "accuracy": score(self.job, epoch),
                }
                file.write(json.dumps(line) + "\n")
            self.note(f"epoch {epoch}")
            self.write("saved", epoch)
            if self.asked:
                self.status("stopped", 75, "saved", 10 * epoch)
                return 75
        scores = {"accuracy": score(self.job, self.epochs)}
        if self.job["optim"]["weight_decay"] == 0.4:
            scores["accuracy"] = math.nan
        texts = {"validation": self.job["data"]["source"]}
        self.write("result.json", {"eval": {"validation": scores}, "texts": texts})
        self.status("finished", 0, "finished", 10 * self.epochs)
        return 0

    def failure(self):
        decay = self.job["optim"]["weight_decay"]
        if decay == 0.9:
            os.kill(os.getpid(), signal.SIGKILL)
        named = os.environ.get("FAKE_FAILURE", "?") in self.folder.name
        if code := 2 if named else FAILURES.get(decay, 0):
            self.status("failed", code, f"this is wrong with {decay}")
        return code


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        sys.exit(Run(tomllib.load(file)).train())
