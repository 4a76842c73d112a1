"""TensorBoard's pod, asked over HTTP and looked at in a browser."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import image_machine
from image_jobs import MARKS
from image_machine import ROOT, Machine
from image_pods import Pod, load
from patience import wait_for

pytestmark = MARKS


def test_its_pod_serves_the_curves_of_the_runs_in_the_claim(pods, machine, image, tmp_path):
    demo = pods("train.max_steps=20")
    demo.start()
    assert demo.launcher.exit_code() == 0, demo.launcher.log()
    template = load(ROOT / "k8s" / "50-tensorboard.yaml")["Deployment", "tensorboard"]["spec"][
        "template"
    ]
    board = Pod(machine, "tensorboard", f"{image_machine.NETWORK}.40", template, image[1], tmp_path)
    board.sources = {"shared": demo.claim}
    board.start()
    address = f"http://{board.address}:6006"

    def ask(path: str) -> Any:
        fetch = "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1], timeout=30).read())"
        done = machine.run(sys.executable, "-c", fetch, address + path, check=False)
        return (
            json.loads(done.stdout)
            if done.returncode == 0 and done.stdout.startswith(("{", "["))
            else None
        )

    wait_for("it knows the run", lambda: ask("/data/plugin/scalars/tags"), 240, board.log)
    tags = ask("/data/plugin/scalars/tags")
    run = next(iter(tags))
    tag = next(name for name in tags[run] if "loss" in name)
    points = ask(
        f"/data/plugin/scalars/scalars?tag={tag.replace('/', '%2F')}&run={run.replace('/', '%2F')}"
    )
    assert len(points) >= 1 and points[-1][1] >= 19, points[-3:]
    if shutil.which("chromium"):
        wait_for(
            "curves are drawn",
            lambda: drawn(machine, address, tmp_path / "tensorboard.png"),
            300,
            board.log,
        )
    machine.podman("rm", "--force", "--time", "0", "tensorboard")


def drawn(machine: Machine, address: str, path: Path) -> bool:
    """Look at it: a page that draws its curves is not white, and is no error page."""
    machine.run("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000",
                "--virtual-time-budget=30000", f"--user-data-dir={path.parent}/chromium", f"--screenshot={path}",
                f"{address}/#timeseries", timeout=300, check=False)  # fmt: skip
    if not path.exists():
        return False
    from PIL import Image

    shades = Image.open(path).convert("L").resize((140, 100)).histogram()
    return sum(count for shade, count in enumerate(shades) if shade < 200) > 300
