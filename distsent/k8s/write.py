"""Writes the manifests that are generated from the jobs, and from the IMDB job's manifests.

30-imdb-job.yaml: jobs/imdb.toml as a ConfigMap. jobs/*.yaml: every other job, with the MPIJob of
40-imdb.yaml. base/: all files of k8s/ in one, because an overlay cannot build on its parent folder.
trainjob/: all job files, the TrainingRuntimes with the pods of 40-imdb.yaml, and the TrainJobs.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import yaml

from distsent.errors import UserError
from distsent.k8s.documents import manifest_files
from distsent.k8s.trainer import CONFIG_MAP, Object, runtimes, train_job

MAIN = "imdb"
TOP_COMMENT = re.compile(r"\A(#.*\n)+")
HEADER = "# Written by python -m distsent.k8s write from {}: change that, and write it again.\n"
HOW = "# After kubectl apply -f k8s/ (namespace, claim): kubectl apply -f k8s/jobs/{}.yaml\n"
START = "# After kubectl apply -f k8s/trainjob/: kubectl apply -f k8s/trainjob/{}/{}.yaml\n"
JOB_FILES = """apiVersion: v1
kind: ConfigMap
metadata:
  name: {}
  namespace: distsent
data:
{}"""


def stale_manifests(folder: Path) -> dict[Path, str]:
    """The generated files below the folder k8s that are missing or stale, with their new text."""
    jobs = sorted((folder.parent / "jobs").glob("*.toml"))
    if not jobs:
        raise UserError(f"{folder.parent / 'jobs'}: no jobs; name the folder k8s of a checkout")
    template = (folder / f"40-{MAIN}.yaml").read_text(encoding="utf-8")
    main = folder / f"30-{MAIN}-job.yaml"
    texts: dict[Path, str] = {}
    for job in jobs:
        name, source = job.stem, f"jobs/{job.name}"
        config = config_map(f"{name}-job", [job])
        if name == MAIN:
            texts[main] = HEADER.format(source) + config
            continue
        header = HEADER.format(f"{source} and k8s/40-{MAIN}.yaml") + HOW.format(name)
        texts[folder / "jobs" / f"{name}.yaml"] = f"{header}{config}---\n{mpijob(template, name)}"
    top = {path: path.read_text("utf-8") for path in manifest_files(folder)} | {main: texts[main]}
    parts = [TOP_COMMENT.sub("", top[path]) for path in sorted(top)]
    texts[folder / "base" / "all.yaml"] = HEADER.format("k8s/*.yaml") + "---\n".join(parts)
    texts |= trainjob_manifests(folder, template, jobs)
    stale = (path for path in texts if not path.exists() or path.read_text("utf-8") != texts[path])
    return {path: texts[path] for path in stale}


def trainjob_manifests(folder: Path, template: str, jobs: Sequence[Path]) -> dict[Path, str]:
    mpijob, source = yaml.safe_load(template), f"k8s/40-{MAIN}.yaml"
    made = runtimes(mpijob)
    texts = {"jobs": HEADER.format("jobs/") + config_map(CONFIG_MAP, jobs)}
    texts["runtimes"] = HEADER.format(source) + dump(made)
    for policy in (runtime["metadata"]["name"].rpartition("-")[2] for runtime in made):
        for name in (job.stem for job in jobs):
            text = HEADER.format(source) + START.format(policy, name)
            texts[f"{policy}/{name}"] = text + dump([train_job(mpijob, policy, name)])
    return {folder / "trainjob" / f"{name}.yaml": text for name, text in texts.items()}


def dump(objects: Sequence[Object]) -> str:
    """YAML with short lists and mappings on a line."""
    return yaml.safe_dump_all(objects, sort_keys=False, default_flow_style=None, width=100)


def config_map(name: str, jobs: Sequence[Path]) -> str:
    """Jobs' keys. Their comments hold times and scores, which change more often than the keys."""
    data = ""
    for path in jobs:
        job = path.read_text(encoding="utf-8")
        lines = [line for line in job.splitlines() if not line.lstrip().startswith("#")]
        keys = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
        assert tomllib.loads(keys) == tomllib.loads(job)
        indented = (f"    {line}".rstrip() + "\n" for line in keys.splitlines())
        data += f"  {path.name}: |\n{''.join(indented)}"
    return JOB_FILES.format(name, data)


def mpijob(template: str, name: str) -> str:
    """The IMDB job's MPIJob, for another job."""
    text = TOP_COMMENT.sub("", template)
    for pattern in ("  name: {}\n", "/jobs/{}.toml", "name: {}-job"):
        assert pattern.format(MAIN) in text, pattern
        text = text.replace(pattern.format(MAIN), pattern.format(name))
    return text
