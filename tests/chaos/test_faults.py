"""Non-finite numbers, bad memory, bad disks: all workers report the fault and lose nothing good."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from distsent.runtime import checkpoint
from tests import fixtures, launcher
from tests.chaos.attacked_run import job
from tests.chaos.faults import FLIPPED, STEP
from tests.parallel.conftest import but
from tests.parallel.driver import Entry

pytestmark = pytest.mark.timeout(1800)  # the first test starts all runs

OWN_COPIES = "train.share_weights=false"  # of the weights, which may differ
RUNS = {  # job.name: (fault, overrides)
    "undisturbed": (None, []),
    "nan_1": ("nan_loss_on_rank_1", []),
    "gradient": ("infinite_gradient_on_rank_0", [OWN_COPIES]),
    "skipping": ("nan_loss_twice", ["train.skip_nonfinite=2"]),
    "skipping_copies": ("nan_loss_twice", ["train.skip_nonfinite=2", OWN_COPIES]),
    "bounded": ("nan_loss_twice", ["train.skip_nonfinite=1"]),
    "flipped": ("flipped_bit_on_rank_1", [OWN_COPIES]),
    "unsaved": (
        "flipped_bit_without_saves",
        ["checkpoint.every_steps=none", "eval.every=end", OWN_COPIES],
    ),
    "moment": ("flipped_moment_on_rank_1", [OWN_COPIES]),
    "frozen": ("other_frozen_weights_on_rank_1", ["adapter.kind=lora"]),
    "storeless": ("no_store_on_rank_1", []),
    "transformers": ("other_transformers_on_rank_1", []),
    "layers": ("other_layers_on_rank_1", []),
    "tokenizer": ("other_tokenizer_on_rank_1", []),
    "rounding": ("other_rounding_on_rank_1", ["optim.clip_norm=0.01", OWN_COPIES]),
    "full": ("full_disk", [OWN_COPIES]),
    "slow": ("slow_disk", []),
}
AGAIN = ("nan_1", "flipped", "full")  # resumed without the fault


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs in one start of two workers, then those in AGAIN once more."""
    folder = tmp_path_factory.mktemp("faults")
    words = but(job(folder), "train.max_steps=24")
    again = [(name, None, RUNS[name][1]) for name in AGAIN]
    plan = [
        Entry(overrides=but(words, *changes, f"job.name={name}"), mutant=fault)
        for name, fault, changes in [*((name, *RUNS[name]) for name in RUNS), *again]
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    done = launcher.run("-m", "tests.chaos.faults", str(folder / "plan.json"), np=2, timeout=1700)
    assert done.code == 0, done.output
    return folder


def raised(run: Path) -> str:
    return (run / "raised").read_text()


def log(run: Path) -> str:
    return (run / "train.log").read_text()


def hash_of(run: Path) -> list[object]:
    """Of the published weights, and of the weights and moments after the last step."""
    last = checkpoint.load_newest(run / "checkpoints", lambda line: pytest.fail(line))
    assert last is not None and last.step == 24
    return [
        fixtures.result(run)["weights_sha256"],
        *(checkpoint.weights_sha256(group) for group in last.tensors.values()),
    ]


@pytest.mark.parametrize(("name", "what"), [("nan_1", "loss"), ("gradient", "gradient")])
def test_a_non_finite_number_on_any_worker_ends_all_and_names_the_rows(
    runs: Path, name: str, what: str
) -> None:
    found = re.fullmatch(
        rf"NonFinite: step {STEP + 1}: the {what} is not finite \(loss \S+, gradient norm \S+\); "
        r"training rows ([\d, ]+); the last checkpoint is unaffected; try a lower optim\.lr, or "
        r"train\.skip_nonfinite=N",
        raised(runs / name),
    )
    assert found, raised(runs / name)
    rows = [int(row) for row in found[1].split(", ")]
    assert len(rows) == (1 if what == "loss" else 8) and all(0 <= row < 45 for row in rows)
    assert f"failed: step {STEP + 1}: the {what} is not finite" in log(runs / name)


def test_a_run_resumes_from_the_checkpoint_before_a_non_finite_number(runs: Path) -> None:
    # The save of step 12 was completed before the workers exited.
    assert "resumed at step 12 of 24" in log(runs / "nan_1")
    assert hash_of(runs / "nan_1") == hash_of(runs / "undisturbed")


def test_steps_with_non_finite_numbers_may_be_skipped_up_to_a_limit(runs: Path) -> None:
    assert fixtures.result(runs / "skipping")["train"]["skipped"] == 2  # type: ignore[index]
    assert hash_of(runs / "skipping") == hash_of(runs / "skipping_copies")
    assert log(runs / "skipping").count("skipped step ") == 2
    assert raised(runs / "bounded").startswith(f"NonFinite: step {STEP + 5}: ")
    assert log(runs / "bounded").count("skipped step ") == 1


@pytest.mark.parametrize("name", ["flipped", "unsaved"])
def test_a_flipped_bit_is_found_and_its_rank_and_tensor_are_named(runs: Path, name: str) -> None:
    step = {"flipped": 15, "unsaved": 20}[name]
    assert raised(runs / name).startswith(
        f"ReplicaMismatch: after step {step}, rank 1 holds different weights than rank 0 "
        f"in {FLIPPED}: suspect faulty memory or hardware on rank 1 or rank 0"
    ), raised(runs / name)


def test_a_flipped_bit_in_the_optimizers_state_is_found(runs: Path) -> None:
    assert raised(runs / "moment").startswith(
        f"ReplicaMismatch: after step 15, rank 1 holds different exp_avg than rank 0 in {FLIPPED}: "
    )


def test_workers_that_have_read_other_weights_do_not_start(runs: Path) -> None:
    assert raised(runs / "frozen").startswith(
        f"UserError: model.name: rank 1 loaded a different {FLIPPED} than rank 0; give all nodes "
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "transformers",
            r"the job or the software differs between workers: rank 1 on \S+ has "
            r'software.transformers = "0.1", rank 0 on \S+ has '
            r'software.transformers = "\d+\.[^"]+" \(1 of 2 differ',
        ),
        ("layers", r"model.name: rank 1 loaded a different code of transformers\.models\.bert\."),
        ("tokenizer", "the tokenizer of model.name differs between workers: rank 1 on "),
    ],
)
def test_workers_with_other_software_do_not_start(runs: Path, name: str, line: str) -> None:
    found = raised(runs / name)
    assert re.match(f"UserError: {line}", found) and "\n" not in found, found
    assert len(found) < 500


def test_gpus_that_round_in_two_ways_clip_by_one_norm(runs: Path) -> None:
    assert (runs / "rounding" / "result.json").exists(), raised(runs / "rounding")


def test_all_workers_report_a_file_that_only_one_is_missing(runs: Path) -> None:
    assert raised(runs / "storeless").startswith("UserError: rank 1: "), raised(runs / "storeless")
    assert "elsewhere" in raised(runs / "storeless")


def test_weights_that_differ_are_never_saved(runs: Path) -> None:
    assert "resumed at step 12 of 24" in log(runs / "flipped")
    assert hash_of(runs / "flipped") == hash_of(runs / "undisturbed")


def test_a_full_disk_ends_all_workers_with_one_line_and_nothing_good_is_lost(runs: Path) -> None:
    error = raised(runs / "full")
    assert re.fullmatch(
        r"UserError: \S+step-00000009: the checkpoint could not be written \(.*No space left on "
        r"device\); the earlier ones are intact: free some space, then run the same command again",
        error,
    ), error
    assert "resumed at step 6 of 24" in log(runs / "full")
    assert hash_of(runs / "full") == hash_of(runs / "undisturbed")
    # Nothing is left of the failed save.
    assert not list((runs / "full" / "checkpoints").glob(".*"))


def test_a_slow_disk_costs_time_but_no_step(runs: Path) -> None:
    assert hash_of(runs / "slow") == hash_of(runs / "undisturbed")
