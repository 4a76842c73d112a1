"""A run's TensorBoard pages, through TensorBoard's own readers and in a browser."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from distsent.runtime.run_folder import RunFolder
from distsent.tracking.events import Metrics, Started
from distsent.tracking.tensorboard import TensorBoardFiles
from tests import fixtures

ALL = {"tensors": 0, "images": 0, "scalars": 0, "histograms": 0, "compressedHistograms": 0}
BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture
def events(finished: Path) -> EventAccumulator:
    return EventAccumulator(str(finished / "plain" / "tensorboard"), size_guidance=ALL).Reload()


def test_scalars_are_those_of_metrics_jsonl(events: EventAccumulator, finished: Path) -> None:
    for split, tag in ((None, "train"), ("validation", "validation")):
        lines = fixtures.metrics(finished / "plain", split)
        for key in ("loss", "lr", "grad_norm") if split is None else ("loss", "accuracy", "f1"):
            assert [(one.step, one.value) for one in events.Scalars(f"{tag}/{key}")] == [
                (line["step"], pytest.approx(line[key], rel=1e-6)) for line in lines
            ]


def test_final_scores_are_the_results(events: EventAccumulator, finished: Path) -> None:
    result = fixtures.result(finished / "plain")
    for split, scores in result["eval"].items():
        for key in ("accuracy", "f1", "f1_macro", "loss"):
            (one,) = events.Scalars(f"final/{split}/{key}")
            assert (one.step, one.value) == (result["steps"], pytest.approx(scores[key], rel=1e-6))


def test_confusion_matrices_are_pictures(events: EventAccumulator) -> None:
    images = events.Tags()["images"] or [
        tag for tag in events.Tags()["tensors"] if tag.startswith("confusion")
    ]
    assert set(images) == {"confusion/validation", "confusion/test", "reliability/test"}
    picture = events.Images("confusion/test")[0]
    assert (
        picture.encoded_image_string.startswith(b"\x89PNG")
        and min(picture.width, picture.height) > 200
    )


def test_every_class_has_its_curve_of_precision_over_recall(
    events: EventAccumulator, finished: Path
) -> None:
    from distsent.reporting.finished_run import read_run

    tags = {
        tag
        for tag in events.Tags()["tensors"]
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "pr_curves"
    }
    assert tags == {
        f"{split}/{label}" for split in ("validation", "test") for label in fixtures.LABELS
    }
    kept = read_run(finished / "plain").predictions("test")
    curve = events.Tensors("test/good")[0].tensor_proto
    true_positives = curve.float_val[: curve.tensor_shape.dim[1].size]
    assert (
        true_positives[0] == (kept.labels == 2).sum()
    )  # at threshold 0 everything counts as found


def test_mistakes_are_text(events: EventAccumulator, finished: Path) -> None:
    text = events.Tensors("mistakes/test/text_summary")[0].tensor_proto.string_val[0].decode()
    first = json.loads(
        (finished / "plain" / "predictions" / "test.mistakes.jsonl").read_text().splitlines()[0]
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in rows[2].split("|")[1:-1]] == [
        first["label"],
        first["predicted"],
        f"{first['score']:.3f}",
        "test.jsonl",
        str(first["row"]),
        first["text"],
    ]


def test_hparams_of_all_runs_stand_side_by_side(finished: Path) -> None:
    found = {}
    for name in ("plain", "seeds-seed1", "seeds-seed2"):
        events = EventAccumulator(str(finished / name / "tensorboard"), size_guidance=ALL).Reload()
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        data = plugin_data_pb2.HParamsPluginData.FromString(content)
        found[name] = {key: value for key, value in data.session_start_info.hparams.items()}
        experiment = plugin_data_pb2.HParamsPluginData.FromString(
            events.SummaryMetadata("_hparams_/experiment").plugin_data.content
        ).experiment
        assert {info.name.tag for info in experiment.metric_infos} >= {
            "final/test/accuracy",
            "final/validation/f1",
        }
        assert {info.name for info in experiment.hparam_infos} == set(found[name]), (
            "each run has the columns of all"
        )
    assert {run["train.seed"].number_value for run in found.values()} == {42, 1, 2}
    kinds = [
        {key: value.WhichOneof("kind") for key, value in run.items()} for run in found.values()
    ]
    assert kinds[0] == kinds[1] == kinds[2]  # or a column would not be one
    assert (
        found["plain"]["train.max_steps"].WhichOneof("kind") == "string_value"
    )  # a number, or unset
    assert found["plain"]["adapter.kind"].string_value == "none"


def test_a_run_restarted_at_its_first_step_shows_nothing_twice(tmp_path: Path) -> None:
    """It was killed before its first checkpoint."""
    folder = RunFolder(tmp_path)
    for loss in (0.9, 0.8):
        files = TensorBoardFiles(folder)
        files.hear(Started("it", str(tmp_path), "", 0, 0))
        for step in (10, 20):
            files.hear(Metrics({"step": step, "loss": loss}))
        files.close(0.0)
    shown = (
        EventAccumulator(str(folder.tensorboard), size_guidance=ALL).Reload().Scalars("train/loss")
    )
    assert [(one.step, round(one.value, 2)) for one in shown] == [(10, 0.8), (20, 0.8)]


def test_a_job_can_turn_tensorboard_off(finished: Path) -> None:
    assert not (finished / "lora" / "tensorboard").exists()


@pytest.fixture
def board(finished: Path):
    """A running TensorBoard over all runs: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(finished),
        "--port",
        str(port),
        "--load_fast",
        "false",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            try:
                if len(json.load(urlopen(f"{address}/data/runs", timeout=10))) == 3:
                    break
            except OSError:
                pass
            assert time.monotonic() < until and process.poll() is None, (
                "TensorBoard does not come up"
            )
            time.sleep(0.5)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_the_page_and_the_runs_scalars(board: str, tmp_path: Path) -> None:
    def page(path: str) -> str:
        command = [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}", "--window-size=1600,1400",
            "--virtual-time-budget=30000", "--dump-dom", f"{board}/{path}",
        ]  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
        return re.sub(r"<(script|style)\b.*?</\1>", "", shown, flags=re.DOTALL)

    # The page fills bit by bit, and on a busy machine the browser's patience may end before that.
    wanted = (
        "<title>TensorBoard</title>",
        "plain/tensorboard",
        "seeds-seed1/tensorboard",
        "final/test/accuracy",
    )
    for _ in range(5):
        text = page("#timeseries")
        missing = [word for word in wanted if word not in text]
        if not missing:
            return
    raise AssertionError(f"not on the page: {missing}")
