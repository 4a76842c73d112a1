"""Writes those manifests that are made from something else: from the jobs, and from the manifests of the IMDB job.

30-imdb-job.yaml: jobs/imdb.toml as a ConfigMap. jobs/*.yaml: every other job, with the MPIJob of 40-imdb.yaml. base/:
all files on top in one, because an overlay cannot build on a folder that it lies in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from distsent.errors import UserError
from distsent.k8s.documents import files_of

MAIN = "imdb"
HEAD = "# Assignment by python -m distsent.k8s write from {}: change that, and write it again."


def manifests(folder: Path) -> dict[Path, str]:
    """Every generated file below the folder k8s, with the text that it should have."""
    jobs = sorted((folder.parent / "jobs").glob("*.toml"))
    if not jobs:
        raise UserError(
            f"{folder.parent / 'jobs'}: no jobs here; name the folder k8s of a checkout"
        )
    wanted: dict[Path, str] = {}
    template = (folder / f"40-{MAIN}.yaml").read_text(encoding="utf-8")
    for path in jobs:
        name = path.stem
        if name == MAIN:
            head = HEAD.format("jobs/imdb.toml")
            wanted[folder / f"30-{MAIN}-job.yaml"] = f"{head}\n{config_map(name, path)}"
        else:
            head = HEAD.format(f"jobs/{name}.toml and k8s/40-{MAIN}.yaml")
            how = f"# After kubectl apply -f k8s/ has made namespace and claim:  kubectl apply -f k8s/jobs/{name}.yaml"
            wanted[folder / "jobs" / f"{name}.yaml"] = (
                f"{head}\n{how}\n{config_map(name, path)}---\n{for_job(template, name)}"
            )
    top = {
        path: wanted.get(path) or path.read_text(encoding="utf-8")
        for path in {*files_of(folder), *wanted}
        if path.parent == folder
    }
    head, all_of_it = (
        HEAD.format("k8s/*.yaml"),
        "---\n".join(without_head(top[path]) for path in sorted(top)),
    )
    wanted[folder / "base" / "all.yaml"] = f"{head}\n{all_of_it}"
    return wanted


def differing(wanted: Mapping[Path, str]) -> list[Path]:
    """The files that are not there or have another text."""
    return [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def config_map(name: str, path: Path) -> str:
    text = without_comments(path.read_text(encoding="utf-8"))
    lines = "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}-job\n  namespace: distsent\ndata:\n  {name}.toml: |\n{lines}"


def without_comments(text: str) -> str:
    """The job's keys. What its comments tell, times and scores, changes more often than what is trained."""
    kept = re.sub(
        r"\n{3,}",
        "\n\n",
        "".join(f"{line}\n" for line in text.splitlines() if not line.lstrip().startswith("#")),
    ).lstrip("\n")
    assert tomllib.loads(kept) == tomllib.loads(text)
    return kept


def without_head(text: str) -> str:
    """A manifest without the comment that opens its file."""
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    return "".join(lines)


def for_job(template: str, name: str) -> str:
    """The IMDB job's MPIJob, for another job."""
    text = without_head(template)
    for before, after in (
        (f"  name: {MAIN}\n", f"  name: {name}\n"),
        (f"/jobs/{MAIN}.toml", f"/jobs/{name}.toml"),
        (f"name: {MAIN}-job", f"name: {name}-job"),
    ):
        assert before in text, before
        text = text.replace(before, after)
    return text
