"""A whole run with a tracker, in the process of the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distsent.distributed.world import World
from distsent.errors import STOPPED, Stopped
from distsent.training import run_report
from distsent.training.loop import Loop
from tests import fixtures
from tests.parallel.driver import drive, entry
from tests.single.test_tracking import calls, fake  # noqa: F401


def job(folder: Path) -> list[str]:
    """Overrides for a run of eight steps."""
    return [
        f"data.source={fixtures.corpus(folder / 'corpus', 24, 12, 12)}",
        f"model.name={fixtures.model(folder / 'model')}", f"run.dir={folder / 'runs'}",
        "data.max_length=40", "train.batch_size=4", "train.max_steps=8", "log.every=1",
        "eval.every=4", "log.tensorboard=false",
    ]  # fmt: skip


def test_a_run_tells_its_tracker_what_metrics_jsonl_has(
    fake: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through a crash and a resume, and with the weights of a run without a tracker."""
    file, step = fake(), Loop._step
    base = job(tmp_path)
    told = [*base, "log.trackers=[trackio]"]

    def crash(loop: Loop) -> None:
        if loop.state.step == 6:
            raise RuntimeError("crash")
        step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", crash)
        with pytest.raises(RuntimeError, match="crash"):
            drive([entry("told", told)], World())
    drive([entry("told", told), entry("silent", base)], World())
    run = tmp_path / "runs" / "told"
    record = json.loads((run / "tracker.json").read_text())
    starts = [options for name, *rest in calls(file) if name == "init" for options in rest]
    assert [one["name"] for one in starts] == [f"told-{record['id']}"] * 2
    assert starts[0]["config"]["world_size"] == 1 and starts[0]["config"]["optim.lr"] > 0
    lines = [*fixtures.metrics(run), *fixtures.metrics(run, "validation")]
    logs = [(step, values) for name, values, step in (c for c in calls(file) if c[0] == "log")]
    final = [values for _, values in logs if "final/test/accuracy" in values]
    assert final[0]["final/test/accuracy"] == fixtures.result(run)["eval"]["test"]["accuracy"]
    for tag in ("train", "validation"):
        found = [(at, v[f"{tag}/loss"]) for at, v in logs if f"{tag}/loss" in v]
        split = None if tag == "train" else tag
        assert found == [(x["step"], x["loss"]) for x in lines if x.get("split") == split]
    silent = fixtures.result(tmp_path / "runs" / "silent")
    assert silent["weights_sha256"] == fixtures.result(run)["weights_sha256"]
    assert not (tmp_path / "runs" / "silent" / "tracker.json").exists()


def test_a_stop_does_not_wait_for_a_tracker_that_hangs(
    fake: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake("time.sleep(1000)")
    monkeypatch.setitem(run_report.PATIENCE, STOPPED, 0.5)
    step = Loop._step

    def request(loop: Loop) -> None:
        loop.session.stop.requested = "SIGTERM" if loop.state.step == 2 else None
        step(loop)

    monkeypatch.setattr(Loop, "_step", request)
    with pytest.raises(Stopped):
        drive([entry("it", [*job(tmp_path), "log.trackers=[trackio]"])], World())
    run = tmp_path / "runs" / "it"
    lines = [line[20:] for line in (run / "train.log").read_text().splitlines()]
    assert lines[-1] == "stopped: stop requested; saved after step 3 of 8"
    assert [line for line in lines if line.startswith("tracker")] == [
        "tracker trackio: does not answer; 6 events of this start not sent"
    ]
    assert json.loads((run / "status.json").read_text())["code"] == STOPPED
