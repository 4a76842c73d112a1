"""Writes the manifests that are generated from the jobs, and from the IMDB job's manifests.

30-imdb-job.yaml: jobs/imdb.toml as a ConfigMap. jobs/*.yaml: every other job, with the MPIJob of
40-imdb.yaml. base/: all files of k8s/ in one, because an overlay cannot build on its parent folder.
"""

import re
import tomllib
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


def stale_manifests(folder: Path) -> dict[Path, str]:
    """The generated files below the folder k8s that are missing or stale, with their new text."""
    jobs = sorted((folder.parent / "jobs").glob("*.toml"))
    if not jobs:
        raise UserError(f"{folder.parent / 'jobs'}: no jobs; name the folder k8s of a checkout")
    template = (folder / f"40-{MAIN}.yaml").read_text(encoding="utf-8")
    texts: dict[Path, str] = {}
    for path in jobs:
        name, source, config = path.stem, f"jobs/{path.name}", config_map(path)
        if name == MAIN:
            texts[folder / f"30-{name}-job.yaml"] = HEADER.format(source) + config
            continue
        header = HEADER.format(f"{source} and k8s/40-{MAIN}.yaml") + HOW.format(
            f"k8s/jobs/{name}.yaml"
        )
        texts[folder / "jobs" / f"{name}.yaml"] = f"{header}{config}---\n{mpijob(template, name)}"
    top = {path: path.read_text(encoding="utf-8") for path in manifest_files(folder)}
    top |= {path: text for path, text in texts.items() if path.parent == folder}
    parts = [without_header(top[path]) for path in sorted(top)]
    texts[folder / "base" / "all.yaml"] = HEADER.format("k8s/*.yaml") + "---\n".join(parts)
    stale = (path for path in texts if not path.exists() or path.read_text("utf-8") != texts[path])
    return {path: texts[path] for path in stale}


def config_map(path: Path) -> str:
    """A job's keys. Its comments hold times and scores, which change more often than the keys."""
    job = path.read_text(encoding="utf-8")
    lines = [line for line in job.splitlines() if not line.lstrip().startswith("#")]
    keys = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    assert tomllib.loads(keys) == tomllib.loads(job)
    indented = "".join(f"    {line}".rstrip() + "\n" for line in keys.splitlines())
    return CONFIG_MAP.format(name=path.stem, lines=indented)


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
