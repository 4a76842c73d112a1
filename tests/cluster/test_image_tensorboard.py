"""TensorBoard's pod: requests over HTTP, and a screenshot of a browser."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from image_jobs import MARKS
from image_machine import ROOT, Machine
from image_pods import Pod, load
from patience import wait_for

pytestmark = MARKS


def test_its_pod_serves_the_curves_of_the_runs_in_the_claim(pods, machine, image, tmp_path):
    demo = pods("train.max_steps=20")
    demo.start()
    assert demo.finish() == "Complete", demo.launcher.history()
    deployment = load(ROOT / "k8s" / "50-tensorboard.yaml")["Deployment", "tensorboard"]
    template, domain = deployment["spec"]["template"], "tensorboard.distsent.svc.cluster.local"
    board = Pod(machine, "tensorboard", domain, template, image[1], tmp_path)
    board.sources = {"shared": demo.claim}
    board.create()
    address = f"http://{board.address}:6006"

    def get(path: str) -> Any:
        fetch = "import sys, urllib.request as u; page = u.urlopen(sys.argv[1], timeout=30).read()"
        fetch += "; sys.stdout.buffer.write(page)"
        done = machine.run(sys.executable, "-c", fetch, address + path, check=False)
        is_json = done.returncode == 0 and done.stdout.startswith(("{", "["))
        return json.loads(done.stdout) if is_json else None

    wait_for("TensorBoard lists the run", lambda: get("/data/plugin/scalars/tags"), 240, board.log)
    tags = get("/data/plugin/scalars/tags")
    run = next(iter(tags))
    tag = next(name for name in tags[run] if "loss" in name)
    query = f"tag={tag.replace('/', '%2F')}&run={run.replace('/', '%2F')}"
    points = get(f"/data/plugin/scalars/scalars?{query}")
    assert len(points) >= 1 and points[-1][1] >= 19, points[-3:]
    if shutil.which("chromium"):
        picture = tmp_path / "tensorboard.png"
        wait_for("curves are drawn", lambda: drawn(machine, address, picture), 300, board.log)
    board.remove()


def drawn(machine: Machine, address: str, path: Path) -> bool:
    """Whether a screenshot shows curves: an empty page or an error page is almost white."""
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]
    words += ["--disable-dev-shm-usage", "--window-size=1400,1000", "--virtual-time-budget=30000"]
    words += [f"--user-data-dir={path.parent}/chromium", f"--screenshot={path}"]
    machine.run(*words, f"{address}/#timeseries", timeout=300, check=False)
    if not path.exists():
        return False
    from PIL import Image

    shades = Image.open(path).convert("L").resize((140, 100)).histogram()
    return sum(count for shade, count in enumerate(shades) if shade < 200) > 300
