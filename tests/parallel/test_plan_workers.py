"""plan measures with real workers, and leaves no trace but the token store."""

import json
from pathlib import Path

import pytest

from distsent import plan
from distsent.errors import UserError
from distsent.job import load_job
from distsent.planning import calibrate
from distsent.runtime.signals import StopSignal
from tests import fixtures, systems


def test_a_plan_measured_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    source = fixtures.corpus(tmp_path / "data", train=60, validation=20, test=40)
    encoder = systems.encoder(tmp_path / "encoder", "bert")
    words = [
        f"data.source={source}", f"model.name={encoder}", "data.max_length=40",
        "train.batch_size=16", f"run.dir={tmp_path / 'runs'}", "job.name=planned",
    ]  # fmt: skip
    monkeypatch.setattr(calibrate, "SECONDS", 1.0)
    monkeypatch.setattr(calibrate, "local_workers", lambda: 2)
    assert plan.main([*words, "--workers", "1,2,8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["machines"] for each in found] == [1, 1, 4]
    for each in found:
        assert each["measured"] and each["step_seconds"] > each["parts"]["compute"] > 0
        assert each["parts"]["update"] > 0 and each["samples_per_second"] > 0
        assert (each["parts"]["exchange"] > 0) == (each["workers"] > 1)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".tokens"]


def test_a_calibration_over_horovod(tmp_path: Path) -> None:
    pytest.importorskip("horovod")
    source = fixtures.corpus(tmp_path / "data", train=60, validation=20, test=40)
    encoder = systems.encoder(tmp_path / "encoder", "bert")
    words = [f"data.source={source}", f"model.name={encoder}", f"run.dir={tmp_path}"]
    job = load_job(None, [*words, "data.max_length=40", "run.transport=horovod"])
    order = calibrate.Order(job.to_dict(), [2], [4000.0, 40.0], 0.5, "")
    found = calibrate.run_workers(order, 2, StopSignal())
    assert "Horovod" in found.transport and found.shares
    assert {each.workers for each in found.exchanges} == {2} and len(found.exchanges) > 1
    assert found.shared is not None and 0 < found.shared.exchange < 1


def test_workers_that_fail_are_one_line() -> None:
    order = calibrate.Order(
        {"data": {"source": "./none"}, "run": {"transport": "auto"}}, [1], [], 1.0, ""
    )
    with pytest.raises(UserError) as caught:
        calibrate.run_workers(order, 1, StopSignal())
    assert len(caught.value.lines) == 1 and caught.value.code == 1
    assert "calibration with 1 workers failed" in str(caught.value)
