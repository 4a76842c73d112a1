"""A model of each kind: one curve at any number of workers, and the same bits after a stop."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pytest

from distsent.distributed.world import World
from tests import architectures, fixtures, launcher
from tests.parallel import model_kinds


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("kinds")
    fixtures.corpus(folder / "dataset", train=24, validation=0, test=6)
    for name, kind in model_kinds.KINDS.items():
        architectures.save(kind.architecture, folder / "models" / name, **kind.sizes)
    model_kinds.outcomes(folder, World())
    for np in (2, 3):
        ended = launcher.run("-m", "tests.parallel.model_kinds", str(folder), np=np)
        assert ended.code == 0, ended.output
    return {n: json.loads((folder / f"np{n}" / "outcomes.json").read_text()) for n in (1, 2, 3)}


@pytest.mark.parametrize("kind", model_kinds.KINDS)
def test_one_curve_at_any_number_of_workers_and_the_same_bits_after_a_stop(
    found: dict[int, Any], kind: str
) -> None:
    one = numpy.array(found[1][kind]["curve"])
    assert len(one) == model_kinds.STEPS
    for np in (1, 2, 3):
        this = found[np][kind]
        assert numpy.array(this["curve"]) == pytest.approx(one, rel=1e-5), np
        assert this["similar"] == (kind == "relative positions"), "the others run packed"
        assert this["resumed"] and this["stopped"] == this["undisturbed"], np
