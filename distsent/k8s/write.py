"""Writes the manifests that are generated from the jobs, and from the IMDB job's manifests.

30-imdb-job.yaml: jobs/imdb.toml as a ConfigMap. jobs/*.yaml: every other job, with the MPIJob of
40-imdb.yaml. base/: all files of k8s/ in one, because an overlay cannot build on its parent folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from distsent.errors import UserError
from distsent.k8s.documents import manifest_files

MAIN = "imdb"
HEADER = "# Written by python -m distsent.k8s write from {}: change that, and write it again.\n"
HOW = "# After kubectl apply -f k8s/ has created namespace and claim: kubectl apply -f {}\n"
CONFIG_MAP = """apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}-job
  namespace: distsent
data:
  {name}.toml: |
{lines}"""


def generate_manifests(folder: Path) -> dict[Path, str]:
    """Every generated file below the folder k8s, with the text that it should have."""
    jobs = sorted((folder.parent / "jobs").glob("*.toml"))
    if not jobs:
        raise UserError(f"{folder.parent / 'jobs'}: no jobs; name the folder k8s of a checkout")
    template = (folder / f"40-{MAIN}.yaml").read_text(encoding="utf-8")
    texts: dict[Path, str] = {}
    for path in jobs:
        name, text = path.stem, path.read_text(encoding="utf-8")
        if name == MAIN:
            header = HEADER.format(f"jobs/{name}.toml")
            texts[folder / f"30-{name}-job.yaml"] = header + config_map(name, text)
            continue
        header = HEADER.format(f"jobs/{name}.toml and k8s/40-{MAIN}.yaml")
        header += HOW.format(f"k8s/jobs/{name}.yaml")
        parts = [config_map(name, text), mpijob(template, name)]
        texts[folder / "jobs" / f"{name}.yaml"] = header + "---\n".join(parts)
    top = {path: path.read_text(encoding="utf-8") for path in manifest_files(folder)}
    top |= {path: text for path, text in texts.items() if path.parent == folder}
    parts = [without_header(top[path]) for path in sorted(top)]
    texts[folder / "base" / "all.yaml"] = HEADER.format("k8s/*.yaml") + "---\n".join(parts)
    return texts


def stale_files(texts: Mapping[Path, str]) -> list[Path]:
    """The files that are missing or have another text."""
    return [p for p, text in texts.items() if not p.exists() or p.read_text("utf-8") != text]


def config_map(name: str, job: str) -> str:
    """A job's keys. Its comments hold times and scores, which change more often than the keys."""
    lines = [line for line in job.splitlines() if not line.lstrip().startswith("#")]
    keys = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    assert tomllib.loads(keys) == tomllib.loads(job)
    indented = "".join(f"    {line}".rstrip() + "\n" for line in keys.splitlines())
    return CONFIG_MAP.format(name=name, lines=indented)


def without_header(text: str) -> str:
    """A manifest without the comment at the top of its file."""
    return re.sub(r"\A(#.*\n)+", "", text)


def mpijob(template: str, name: str) -> str:
    """The IMDB job's MPIJob, for another job."""
    text = without_header(template)
    for pattern in ("  name: {}\n", "/jobs/{}.toml", "name: {}-job"):
        assert pattern.format(MAIN) in text, pattern
        text = text.replace(pattern.format(MAIN), pattern.format(name))
    return text
