"""horovodrun over Gloo ends with 1 whatever happened; `next_action` finds the run's own end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from distsent import next_action
from distsent.runtime.run_status import ATTEMPT
from tests import fixtures, launcher
from tests.parallel.conftest import but

GLOO = ("--gloo", "--network-interface", "lo")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("optim.lr=1e30", "give_up 3 non_finite step 2: "),
        ("train.max_steps=2", "done 0 finished finished"),
        ("data.max_length=999", "give_up 2 usage_error data.max_length = 999: "),
        ("train.max_steps=100000", "requeue 75 stopped stop requested; saved after step "),
    ],
    ids=["non-finite", "finished", "wrong", "stopped"],
)
def test_a_hidden_exit_code(
    change: str,
    line: str,
    parts: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "gloo"
    keys = [f"run.dir={tmp_path}", "job.name=gloo", "train.max_steps=9", "log.every=1"]
    words = ["-m", "distsent.train", *but([*parts, *keys, "eval.every=end"], change)]
    env = {ATTEMPT: "17", "WANDB_API_KEY": "w_hidden"}
    with launcher.Started(words, np=2, env=env, options=GLOO) as started:
        if line.startswith("requeue"):
            started.until(
                lambda: run.joinpath("metrics.jsonl").exists() and len(fixtures.metrics(run)) > 2
            )
            worker = next(
                process
                for process in started.processes()
                if launcher.environment(process).get("HOROVOD_RANK") == "1"
                and "distsent.train" in launcher.arguments(process)
            )
            os.kill(worker, signal.SIGUSR1)
        ended = started.wait()
    assert ended.output.count("`ps` shows WANDB_API_KEY to every user of this host: ") == 1
    assert "w_hidden" not in ended.output
    assert ended.code == (0 if line.startswith("done") else 1), ended.output
    # A run that has finished stays finished, even if its launcher fails after that.
    assert next_action.main([str(run), "--code", "1", "--attempt", "17"]) == 0
    assert capsys.readouterr().out.startswith(line)
