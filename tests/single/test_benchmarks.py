"""Benchmarks run, notice systems that compute something else, report failures, count correctly."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arithmetic, gpu, parity, scoring
from benchmarks.__main__ import RESULTS, main
from benchmarks.comparison import Comparison, ResultsDiffer, System
from benchmarks.comparisons import COMPARISONS
from benchmarks.curves import check_loss_curves
from benchmarks.table import format_table
from benchmarks.workload import Workload, override
from distsent.batching.flops import count_flops
from distsent.batching.packing import pack
from distsent.model.flops import measure_flops
from distsent.model.packed_forward import PackedForward
from tests import fixtures, systems, tiny_models

ROOT = Path(__file__).parents[2]
WORK = Workload("dataset", "encoder")
SPEED = {
    "examples_per_second": 10.0,
    "tokens_per_second": 200.0,
    "memory_bytes": 2**20,
    "bytes_per_step": 1e6,
}


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for seed, (split, n) in enumerate((("train", 60), ("test", 20))):
        rows = fixtures.rows(n, classes=2, seed=seed)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def returns(result: Any) -> System:
    """A system that returns `result`, or raises it."""

    def run_system(work: Workload, folder: Path) -> dict[str, Any]:
        if isinstance(result, Exception):
            raise result
        return dict(result)

    return run_system


def comparison(results: dict[str, Any]) -> Comparison:
    tiny = {name: returns(result) for name, result in results.items()}
    return Comparison("tiny", "Tiny", WORK, tiny, lambda *_: {"theirs": "checked"})


@pytest.mark.slow
def test_the_command_runs_a_comparison_and_writes_its_table(tmp_path: Path) -> None:
    dataset, encoder = parquet(tmp_path / "dataset"), systems.encoder(tmp_path / "encoder", "bert")
    fields = ["workers=1", "steps=4", "warmup=1", "batch_size=8", "max_length=32", "rows=60"]
    options = ["imdb", "--rounds", "1", "--out", str(tmp_path / "out"), "precision=float32"]
    inputs = [f"dataset={dataset}", f"encoder={encoder}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options, *inputs, *fields],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / "imdb.json").read_text())
    assert "within" in record["check"]["HF Trainer"]  # the same loss curve
    for result in record["rounds"][0]["results"].values():
        assert result["examples_per_second"] > 0
        assert result["tokens_per_second"] > 0
        assert result["memory_bytes"] > 0
    assert "| HF Trainer |" in (tmp_path / "out" / "imdb.md").read_text()


@pytest.mark.parametrize("word", ["setps=3", "tax", "roof"])
def test_a_word_that_is_neither_comparison_nor_field_is_an_error(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", word])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and f"{word}: neither a comparison" in error
    for name in ("scaling-overhead", "matmul-peak", "dataset", "warmup"):
        assert name in error


def test_fields_are_set_from_text() -> None:
    words = {"steps": "7", "dropout": "0.5", "precision": "float32", "lr": "1e-3"}
    assert override(WORK, words) == replace(
        WORK, steps=7, dropout=0.5, precision="float32", lr=1e-3
    )


def test_equal_curves_pass_and_others_do_not(tmp_path: Path) -> None:
    ours = {"losses": [0.7, 0.6, 0.5]}

    def check(theirs: Any) -> dict[str, str]:
        return check_loss_curves(comparison({"ours": ours, "theirs": theirs}), WORK, tmp_path)

    assert "within 2e-05 of ours" in check({"losses": [0.7, 0.60001, 0.5]})["theirs"]
    for wrong in ([0.7, 0.6, 0.51], [0.7, 0.6], [0.7, float("nan"), 0.5]):
        with pytest.raises(ResultsDiffer, match="theirs"):
            check({"losses": wrong})
    assert check(RuntimeError("no memory")) == {"theirs": "no loss curve: no memory"}


def test_the_curves_are_taken_over_the_same_batches_without_dropout(tmp_path: Path) -> None:
    works = []

    def run_system(work: Workload, folder: Path) -> dict[str, Any]:
        works.append((work.order, work.dropout, work.precision))
        return {"losses": [1.0]}

    both = replace(comparison({}), systems={"ours": run_system, "theirs": run_system})
    check_loss_curves(both, WORK, tmp_path)
    assert works == [("distsent", 0.0, "float32")] * 2


def test_scores_that_differ_are_noticed() -> None:
    logits = np.array([[0.0, 1.0], [2.0, 1.0]])
    assert scoring.difference(logits, np.array([[0.0, 1.00001], [2.0, 1.0]])) == pytest.approx(1e-5)
    assert scoring.difference(logits, logits[:, ::-1]) == np.inf


def test_a_failure_stays_in_the_table() -> None:
    half, failed = {**SPEED, "examples_per_second": 5.0}, {"failed": "out of memory"}
    last = {"failed": "y"}
    rounds = [
        {"date": "2026-01-01", "results": {"ours": SPEED, "theirs": half, "none": {"failed": "x"}}},
        {"date": "2026-01-02", "results": {"ours": SPEED, "theirs": failed, "none": last}},
    ]
    record = {"title": "T", "work": asdict(WORK), "machine": "m", "software": {"torch": "2"}}
    table = format_table({**record, "rounds": rounds})
    assert "| theirs (1 rounds failed) | 5.0 (5.0 - 5.0) | 2.00 (2.00 - 2.00) |" in table
    assert "| none | failed: y |" in table


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/parity.json")))
def test_the_record_of_seeds_renders_to_its_table(path: Path) -> None:
    made = parity.table(json.loads(path.read_text())).splitlines()
    kept = path.with_suffix(".md").read_text().splitlines()
    assert made[3:] == kept[3:]  # after the machine
    assert all("points" in line for line in made[-2:])


RECORDS = sorted(path for path in RESULTS.glob("*/*.json") if path.stem != "parity")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_stored_record_belongs_to_a_comparison_and_renders_to_its_table(path: Path) -> None:
    record = json.loads(path.read_text())
    assert format_table(record) == path.with_suffix(".md").read_text()
    today = COMPARISONS[path.stem]
    assert (today.title, asdict(today.work)) == (record["title"], record["work"])
    for turn in record["rounds"]:
        assert set(turn["results"]) == set(today.systems)


def test_rounds_add_to_the_record_until_the_work_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.materials.dataset", lambda work, folder: folder)
    monkeypatch.setattr("benchmarks.materials.encoder", lambda name, folder: folder)
    tiny = comparison({"ours": SPEED, "theirs": RuntimeError("no memory")})
    record = tmp_path / "tiny.json"
    tiny.measure(1, record)
    kept = tiny.measure(2, record)
    assert [turn["results"]["theirs"] for turn in kept["rounds"]] == [{"failed": "no memory"}] * 3
    other = replace(tiny, work=replace(WORK, steps=9))
    assert len(other.measure(1, record)["rounds"]) == 1


def test_a_system_that_fails_on_a_gpu_and_one_without_time_are_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.materials.dataset", lambda work, folder: folder)
    monkeypatch.setattr("benchmarks.materials.encoder", lambda name, folder: folder)
    half = {**SPEED, "examples_per_second": 5.0}
    arms = {"ours": returns({**SPEED, "mfu": 0.4}), "theirs": returns(half)}
    arms |= {"none": returns(RuntimeError("CUDA out of memory"))}
    left = iter([9.0, 6.0, 3.0, 0.0, -3.0, -6.0])
    found = list(gpu.measure(arms, gpu.WORKS[:2], tmp_path, lambda: next(left)))
    assert [place for place, _ in found] == list(range(6))
    rows = [row for _, row in found]
    setting = "| bert-base, imdb, bf16 |"
    assert rows[:3] == [
        f"{setting} ours | 10.0 | 1.00 | 200 | 0.40 | 1 MiB |",
        f"{setting} theirs | 5.0 | 2.00 | 200 | 0.20 | 1 MiB |",
        f"{setting} none | failed: CUDA out of memory | | | | |",
    ]
    assert all("not run: 8 minutes are over" in row for row in rows[3:]) and len(rows) == 6
    assert {row.count("|") for row in rows} == {8}


def test_systems_with_other_batches_run_last_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.with_files", lambda work, folder: work)
    arms = {name: returns(SPEED) for name in ("ours", "theirs, group_by_length", "theirs")}
    found = gpu.measure(arms, gpu.WORKS[:2], tmp_path, lambda: 1.0)
    assert [place for place, _ in found] == [0, 2, 3, 5, 1, 4]


def test_a_run_without_kernels_on_a_gpu_says_so_in_its_row(tmp_path: Path) -> None:
    assert gpu.slower_ways(tmp_path) == ""
    (tmp_path / "log").write_text("a line\npasses run kernel by kernel, not as CUDA graphs: why\n")
    (tmp_path / "output").write_text("attention runs without its compiled operators: why\n")
    assert gpu.slower_ways(tmp_path).count("why)") == 2


def test_each_setting_of_gpus_differs_from_another_in_one_thing() -> None:
    works = [asdict(work) for work in gpu.WORKS]
    for work in works:
        changed = [
            sum(work[key] != other[key] for key in ("dataset", "encoder", "precision"))
            for other in works
        ]
        assert sorted(changed)[:2] == [0, 1]
    assert gpu.FIRST.on_gpu and not WORK.on_gpu
    assert "HF Trainer, sdpa, group_by_length" in gpu.systems()


def test_counted_arithmetic_equals_the_formula() -> None:
    """By hand for BERT: width 32, inner width 64, two layers, three classes.

    The second layer is computed for first tokens only.
    """

    def forward(tokens: int, examples: int, pairs: int, keys: int) -> int:
        full = 4 * 2 * tokens * 32 * 32 + 2 * 2 * tokens * 32 * 64 + 2 * 2 * pairs * 32
        for_tokens, for_examples = 2 * 2 * tokens * 32 * 32, 2 * 2 * examples * 32 * (32 + 64)
        last = for_tokens + for_examples + 2 * 2 * keys * 32
        return full + last + examples * (2 * 32 * 32 + 2 * 32 * 3)

    def scores(pairs: int, keys: int) -> int:
        return 2 * pairs * 32 + 2 * keys * 32  # of attention: backward computes them again

    lengths, packed = (5, 8, 9), PackedForward(tiny_models.encoder("bert").train())
    # Backward takes two products for each of forward's.
    least = 3 * sum(forward(L, 1, L * L, L) for L in lengths)
    for even in (False, True):
        s = pack([np.full(L, 7) for L in lengths], np.zeros(3), round_shapes=even)
        assert arithmetic.needed(packed, s) == least + sum(scores(L * L, L) for L in lengths)
    assert measure_flops(packed).training(np.array(lengths)) == least
    assert measure_flops(packed, frozen=True).training(np.array(lengths)) == least * 2 / 3
    heads = 3 * (2 * 32 * 32 + 2 * 32 * 3)
    assert count_flops(packed.model.config).training(np.array(lengths)) == least - 3 * heads
    # Rounded up, and so are 22 tokens to 24.
    assert [(g.rows, g.longest) for g in s.groups] == [(2, 8), (1, 16)]
    pairs, keys = 2 * 8 * 8 + 16 * 16, 2 * 8 + 16
    assert arithmetic.executed(packed, s) == 3 * forward(24, 3, pairs, keys) + scores(pairs, keys)
