"""tests/cluster/hold.py, which the cluster tests use to pause runs, works with this training."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from distsent.runtime.run_status import read_status
from tests import fixtures, launcher
from tests.cluster.hold import Hold


def test_a_paused_run_waits_at_its_step_and_records_the_stop_request(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    hold, run = Hold(tmp_path / "hold"), tmp_path / "held"
    hold.at(3)
    words = [
        *parts,
        f"run.dir={tmp_path}",
        "job.name=held",
        "train.batch_size=8",
        "train.max_steps=6",
        "log.every=1",
    ]
    with launcher.start("-m", "distsent.train", *words, **hold.env) as started:
        started.until(
            lambda: run.joinpath("metrics.jsonl").exists() and len(fixtures.metrics(run)) == 3
        )
        assert not hold.heard()
        os.kill(started.process.pid, signal.SIGUSR1)
        started.until(hold.heard)
        assert len(fixtures.metrics(run)) == 3
        hold.free()
        assert started.wait().code == 75
    status = read_status(run / "status.json")
    assert status is not None and (status.state, status.code, status.step) == ("stopped", 75, 4)
    assert status.message == "stop requested; saved after step 4 of 6"
