"""Checks manifests as they would be applied: folder by folder, overlays as rendered."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from distsent.errors import UserError
from distsent.k8s.bundle import ROLES, Bundle
from distsent.k8s.documents import Finding, Node, Reader, manifest_files
from distsent.k8s.rules import field_problems, mpijob_problems, pod_problems
from distsent.k8s.rules_references import reference_problems
from distsent.k8s.schema import Kinds, check_schema

OVERLAY = "kustomization.yaml"
RENDERERS = (["kustomize", "build"], ["kubectl", "kustomize"])
RULES = (field_problems, mpijob_problems, pod_problems, reference_problems)


def lint(paths: Sequence[Path], crds: Kinds | None = None) -> tuple[list[Finding], int]:
    """All findings in files and folders (and those below), sorted, and the number of manifests."""
    findings: list[Finding] = []
    count = 0
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        context = manifests_around(path) if path.is_file() else []
        for where, read in bundles(path):
            count += len(read.manifests)
            findings += read.findings + check_together(read.manifests, context, crds or {})
            if where == path and not (path / OVERLAY).exists():
                context = read.manifests  # the folders below are applied after this one
    return sorted(set(findings)), count


def check_together(manifests: list[Node], context: list[Node], crds: Kinds) -> list[Finding]:
    """Findings in manifests that are applied together, after `context`."""
    found = {manifest: check_schema(manifest, crds) for manifest in manifests}
    # The rules rely on the shape of a kind, so they skip a manifest that does not have it.
    shapeless = ("kind", "type", "required")
    checked = [m for m in manifests if not any(each.rule in shapeless for each in found[m])]
    findings = [*chain.from_iterable(found.values())]
    bundle = Bundle(checked, [*manifests, *context])
    for rule, node, message in chain.from_iterable(rules(bundle) for rules in RULES):
        role = "".join(f", {name}" for name in node.path[2:3] if node.path[:2] == ROLES)
        title = f"{node.root.kind} {node.root.name}{role}"
        findings.append(node.finding(rule, f"{title}: {message}"))
    return findings


def bundles(path: Path) -> Iterator[tuple[Path, Reader]]:
    """Manifests that are applied together, and their folder or file.

    A folder's own files are, and so are those of an overlay. In folders below, a file is alone.
    """
    yield path, read_folder(path)
    for folder in sorted(below for below in path.rglob("*") if below.is_dir()):
        is_overlay = (folder / OVERLAY).exists()
        for each in [folder] if is_overlay else manifest_files(folder):
            yield each, read_folder(each)


def read_folder(path: Path) -> Reader:
    """The manifests of a file or folder, or what kustomize makes of an overlay."""
    if not (path / OVERLAY).exists():
        return read_manifests(manifest_files(path))
    reader = Reader()
    command = next((words for words in RENDERERS if shutil.which(words[0])), None)
    if command is None:
        raise UserError(f"{path}: rendering an overlay needs kubectl or kustomize; install one")
    done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    reader.read(done.stdout, f"<{' '.join(command)} {path}>")  # lines are the output's
    if done.returncode:
        message = (done.stderr.strip() or "kustomize failed").splitlines()[-1]
        reader.findings = [Finding(str(path / OVERLAY), 1, "kustomize", message)]
    return reader


def read_manifests(files: Iterable[Path]) -> Reader:
    reader = Reader()
    for file in files:
        try:
            reader.read(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: {error}") from None
    return reader


def manifests_around(file: Path) -> list[Node]:
    """The manifests beside a single file and above it, which it may refer to."""
    around = [*manifest_files(file.parent), *manifest_files(file.parent.parent)]
    others = (p for p in around if p.resolve() != file.resolve() and p.name != OVERLAY)
    return read_manifests(others).manifests
