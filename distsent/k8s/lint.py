"""Checks manifests as they would be applied: folder by folder, overlays as rendered."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from distsent.errors import UserError
from distsent.k8s.cluster import refusals
from distsent.k8s.documents import Finding, Node, Reader, manifest_files
from distsent.k8s.jobs import ROLES, WITH_PODS, Bundle
from distsent.k8s.rules import RULES
from distsent.k8s.schema import Kinds, check_schema

OVERLAY = "kustomization.yaml"
RENDERERS = (["kustomize", "build"], ["kubectl", "kustomize"])
SHAPELESS = ("kind", "type", "required")  # the rules skip a manifest without its kind's shape


def lint(
    paths: Sequence[Path], crds: Kinds | None = None, ask_cluster: bool = False
) -> tuple[list[Finding], int]:
    """All findings in files and folders (and those below), sorted, and the number of manifests."""
    findings: list[Finding] = []
    manifests: list[Node] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        folders = sorted(below for below in path.rglob("*") if below.is_dir())
        # A folder's own files are applied together, and so are those of an overlay below it.
        parts = ([each] if is_overlay(each) else manifest_files(each) for each in folders)
        for where in chain([path], *parts):
            read = read_manifests(where)
            manifests += read.manifests
            context = manifests_around(where)
            findings += read.findings + check_bundle(read.manifests, context, crds or {})
    if ask_cluster:
        wrong = {finding.file for finding in findings if finding.rule in SHAPELESS}
        jobs = [each for each in manifests if each.kind in WITH_PODS and each.file not in wrong]
        findings += refusals(manifests, jobs)
    return sorted(set(findings)), len(manifests)


def check_bundle(manifests: list[Node], context: list[Node], crds: Kinds) -> list[Finding]:
    """Findings in manifests that are applied together, after `context`."""
    runtimes = [manifest for manifest in context if manifest.kind == "TrainingRuntime"]
    schemas = {manifest: check_schema(manifest, crds) for manifest in [*manifests, *runtimes]}
    shapeless = {m for m in schemas if any(each.rule in SHAPELESS for each in schemas[m])}
    findings = [finding for manifest in manifests for finding in schemas[manifest]]
    checked = [manifest for manifest in manifests if manifest not in shapeless]
    bundle = Bundle(checked, [*manifests, *context], shapeless)
    for rule, node, message in chain.from_iterable(rules(bundle) for rules in RULES):
        role = "".join(f", {name}" for name in node.path[2:3] if node.path[:2] == ROLES)
        title = f"{node.root.kind} {node.root.name}{role}"
        findings.append(node.finding(rule, f"{title}: {message}"))
    return findings


def is_overlay(path: Path) -> bool:
    return (path / OVERLAY).exists()


def read_manifests(path: Path) -> Reader:
    """Those of a file, of a folder's files, or of an overlay as rendered."""
    return read_overlay(path) if is_overlay(path) else read_files(manifest_files(path))


def read_overlay(path: Path) -> Reader:
    """What kustomize renders. The lines of its findings are those of the output."""
    command = next((words for words in RENDERERS if shutil.which(words[0])), None)
    if command is None:
        raise UserError(f"{path}: rendering an overlay needs kubectl or kustomize; install one")
    done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    reader = Reader()
    reader.read(done.stdout, f"<{' '.join(command)} {path}>")
    if done.returncode:
        message = (done.stderr.strip() or "kustomize failed").splitlines()[-1]
        reader.findings = [Finding(str(path / OVERLAY), 1, "kustomize", message)]
    return reader


def read_files(files: Iterable[Path]) -> Reader:
    reader = Reader()
    for file in files:
        try:
            reader.read(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: {error}") from None
    return reader


def manifests_around(path: Path) -> list[Node]:
    """The manifests beside a file, and above a file or folder: they are applied before it."""
    found: list[Path] = []
    own = path.resolve()
    for folder in (own, *own.parents) if own.is_dir() else own.parents:
        files = manifest_files(folder)
        if is_overlay(folder) or not files:
            break
        found += [each for each in files if own not in (each, folder)]
    return read_files(found).manifests
