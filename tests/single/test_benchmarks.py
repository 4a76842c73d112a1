"""The benchmark tells the truth: it runs, it sees when contestants compute something else, it hides no failure, it counts right."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arithmetic, curves, scoring
from benchmarks.comparison import Comparison, Contestant, Unequal
from benchmarks.table import table
from benchmarks.workload import Workload, override
from distsent.batching.flops import count_flops
from distsent.batching.packing import pack
from distsent.model.forward import PackedForward
from tests import fixtures, systems, tiny_models

ROOT = Path(__file__).parents[2]


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for seed, (split, n) in enumerate((("train", 60), ("test", 20))):
        pq.write_table(
            pa.Table.from_pylist(fixtures.rows(n, classes=2, seed=seed)),
            folder / f"{split}.parquet",
        )
    return folder


def does(result: Any) -> Contestant:
    def compete(work: Workload, folder: Path) -> dict[str, Any]:
        if isinstance(result, Exception):
            raise result
        return dict(result)

    return compete


def contest(rivals: dict[str, Any], work: Workload | None = None) -> Comparison:
    contestants = {name: does(result) for name, result in rivals.items()}
    return Comparison(
        "toy",
        "Toy",
        work or Workload("corpus", "encoder"),
        contestants,
        lambda *_: {"rival": "checked"},
    )


SPEED = {
    "examples_per_second": 10.0,
    "tokens_per_second": 200.0,
    "memory_bytes": 2**20,
    "bytes_per_step": 1e6,
}


@pytest.mark.slow
def test_the_command_holds_a_contest_and_writes_its_table(tmp_path: Path) -> None:
    corpus, encoder = parquet(tmp_path / "corpus"), systems.encoder(tmp_path / "encoder", "bert")
    small = [
        "workers=1",
        "steps=4",
        "warm=1",
        "batch_size=8",
        "max_length=32",
        "rows=60",
        "precision=float32",
    ]
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "imdb",
        "--rounds",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [*command, f"corpus={corpus}", f"encoder={encoder}", *small],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / "imdb.json").read_text())
    assert "within" in record["check"]["HF Trainer"]  # the same loss curve, that is
    for result in record["rounds"][0]["results"].values():
        assert (
            result["examples_per_second"] > 0
            and result["tokens_per_second"] > 0
            and result["memory_bytes"] > 0
        )
    assert "| HF Trainer |" in (tmp_path / "out" / "imdb.md").read_text()


def test_a_word_that_is_neither_contest_nor_field_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "setps=3"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "setps=3: neither a contest" in done.stderr


def test_fields_are_set_from_text() -> None:
    work = override(
        Workload("a", "b"),
        {"steps": "7", "dropout": "0.5", "precision": "float32", "lr": "1e-3"},
    )
    assert work == replace(Workload("a", "b"), steps=7, dropout=0.5, precision="float32", lr=1e-3)


def test_equal_curves_pass_and_others_do_not(tmp_path: Path) -> None:
    ours = {"losses": [0.7, 0.6, 0.5]}
    said = curves.check(
        contest({"ours": ours, "theirs": {"losses": [0.7, 0.60001, 0.5]}}),
        Workload("a", "b"),
        tmp_path,
    )
    assert "within 2e-05 of ours" in said["theirs"]
    for wrong in ([0.7, 0.6, 0.51], [0.7, 0.6], [0.7, float("nan"), 0.5]):
        with pytest.raises(Unequal, match="theirs"):
            curves.check(
                contest({"ours": ours, "theirs": {"losses": wrong}}),
                Workload("a", "b"),
                tmp_path,
            )
    said = curves.check(
        contest({"ours": ours, "theirs": RuntimeError("no memory")}),
        Workload("a", "b"),
        tmp_path,
    )
    assert said == {"theirs": "no loss curve: no memory"}


def test_the_curves_are_taken_over_the_same_batches_without_dropout(tmp_path: Path) -> None:
    asked = []

    def compete(work: Workload, folder: Path) -> dict[str, Any]:
        asked.append((work.order, work.dropout, work.precision))
        return {"losses": [1.0]}

    both = replace(contest({}), contestants={"ours": compete, "theirs": compete})
    curves.check(both, Workload("a", "b"), tmp_path)
    assert asked == [("distsent", 0.0, "float32")] * 2


def test_scores_that_differ_are_seen() -> None:
    logits = np.array([[0.0, 1.0], [2.0, 1.0]])
    assert scoring.difference(logits, np.array([[0.0, 1.00001], [2.0, 1.0]])) == pytest.approx(1e-5)
    assert scoring.difference(logits, logits[:, ::-1]) == np.inf


def test_a_failure_stays_in_the_table() -> None:
    half = {**SPEED, "examples_per_second": 5.0}
    record = {
        "title": "T", "work": Workload("a", "b").__dict__, "machine": "m", "software": {"torch": "2"},
        "rounds": [
            {"date": "2026-01-01", "results": {"ours": SPEED, "theirs": half, "none": {"failed": "x"}}},
            {"date": "2026-01-02", "results": {"ours": SPEED, "theirs": {"failed": "out of memory"}, "none": {"failed": "y"}}},
        ],
    }  # fmt: skip
    text = table(record)
    assert "| theirs (1 rounds failed) | 5.0 (5.0 - 5.0) | 2.00 (2.00 - 2.00) |" in text
    assert "| none | failed: y |" in text


def test_rounds_add_to_the_record_until_the_work_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.materials.corpus", lambda work, folder: folder)
    monkeypatch.setattr("benchmarks.materials.encoder", lambda name, folder: folder)
    toy, record = (
        contest({"ours": SPEED, "theirs": RuntimeError("no memory")}),
        tmp_path / "toy.json",
    )
    toy.hold(1, record)
    kept = toy.hold(2, record)
    assert [turn["results"]["theirs"] for turn in kept["rounds"]] == [{"failed": "no memory"}] * 3
    assert (
        len(replace(toy, work=Workload("corpus", "encoder", steps=9)).hold(1, record)["rounds"])
        == 1
    )


def test_counted_arithmetic_is_the_formula_s() -> None:
    """By hand for BERT of width 32, inner width 64, two layers, the second for first tokens only, three classes."""

    def forward(tokens: int, examples: int, pairs: int, keys: int) -> int:
        full = 4 * 2 * tokens * 32 * 32 + 2 * 2 * tokens * 32 * 64 + 2 * 2 * pairs * 32
        last = (
            2 * 2 * tokens * 32 * 32
            + 2 * 2 * examples * 32 * 32
            + 2 * 2 * examples * 32 * 64
            + 2 * 2 * keys * 32
        )
        return full + last + examples * (2 * 32 * 32 + 2 * 32 * 3)

    lengths, packed = (5, 8, 9), PackedForward(tiny_models.encoder("bert").train())
    least = 3 * sum(
        forward(L, 1, L * L, L) for L in lengths
    )  # backward: two products for each of forward's
    for even in (False, True):
        s = pack([np.full(L, 7) for L in lengths], np.zeros(3), even=even)
        assert arithmetic.needed(packed, s) == least
    heads = 3 * (2 * 32 * 32 + 2 * 32 * 3)
    assert count_flops(packed.model.config).training(np.array(lengths)) == least - 3 * heads
    assert (
        count_flops(packed.model.config, frozen=True).training(np.array(lengths))
        == (least - 3 * heads) * 2 / 3
    )
    assert [(g.count, g.longest) for g in s.groups] == [
        (2, 8),
        (1, 16),
    ]  # rounded up, and so are 22 tokens to 24
    assert arithmetic.executed(packed, s) == 3 * forward(24, 3, 2 * 8 * 8 + 16 * 16, 2 * 8 + 16)
