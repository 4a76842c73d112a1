"""Copies of the project's manifests with one change, for tests of the lint."""

from __future__ import annotations

import shutil
from pathlib import Path

K8S = Path(__file__).parents[1] / "k8s"
SPACE, CLAIM, NET, CONFIG, JOB, TB = (
    "00-namespace.yaml",
    "10-shared-claim.yaml",
    "20-network.yaml",
    "30-imdb-job.yaml",
    "40-imdb.yaml",
    "50-tensorboard.yaml",
)
RUNTIMES, MPI, TORCH = "runtimes.yaml", "mpi.yaml", "torch.yaml"


def changed(folder: Path, file: str, before: str, after: str) -> Path:
    """A copy of the top of k8s/, with TrainJobs if `file` is one of theirs, and one change."""
    folder.mkdir(exist_ok=True)
    for path in K8S.glob("*.yaml"):
        shutil.copy(path, folder)
    if file in (RUNTIMES, MPI, TORCH):
        for path in (K8S / "trainjob").glob("*.yaml"):
            shutil.copy(path, folder)
        for policy in ("mpi", "torch"):
            text = (K8S / "trainjob" / policy / "imdb.yaml").read_text()
            (folder / f"{policy}.yaml").write_text(
                text.replace("name: imdb\n", f"name: {policy}\n")
            )
    text = (folder / file).read_text()
    assert before in text, before
    (folder / file).write_text(text.replace(before, after, 1))
    return folder
