"""No pickle is read anywhere: from no checkpoint, model or token store, and by no library."""

from __future__ import annotations

from pathlib import Path

from tests import launcher
from tests.chaos.attacked_run import job


def test_nothing_is_unpickled_from_the_first_step_to_the_last_prediction(tmp_path: Path) -> None:
    done = launcher.run("-m", "tests.chaos.unpickled", str(tmp_path / "chaos"), *job(tmp_path))
    assert done.code == 0, done.output
    assert done.output.partition("PICKLES\n")[2] == "", done.output
    assert "resumed at step " in done.output
