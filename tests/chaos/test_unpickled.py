"""No pickle is read on any path: not from a checkpoint, a model or a token store, and not by a library on our behalf."""

from __future__ import annotations

from pathlib import Path

from tests import launcher
from tests.chaos.life import job


def test_nothing_is_unpickled_from_the_first_step_to_the_last_prediction(tmp_path: Path) -> None:
    ended = launcher.run("-m", "tests.chaos.unpickled", str(tmp_path / "chaos"), *job(tmp_path))
    assert ended.code == 0, ended.output
    assert ended.output.partition("PICKLES\n")[2] == "", ended.output
    assert "resumed at step " in ended.output
