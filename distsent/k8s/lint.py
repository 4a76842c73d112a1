"""Checks manifests as they would be applied: folder by folder, overlays as rendered."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distsent.errors import UserError
from distsent.k8s import rules_mpijob, rules_pods, rules_references
from distsent.k8s.bundle import Bundle, title
from distsent.k8s.documents import Document, Finding, manifest_files, parse_manifests
from distsent.k8s.schema import Kinds, check_schema

OVERLAY = "kustomization.yaml"
RENDERERS = (["kustomize", "build"], ["kubectl", "kustomize"])
Manifests = tuple[list[Document], list[Finding]]


def lint(paths: Sequence[Path], crds: Kinds | None = None) -> tuple[list[Finding], int]:
    """All findings in files and folders (and those below), sorted, and the number of manifests."""
    findings: list[Finding] = []
    count = 0
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        context = manifests_around(path) if path.is_file() else []
        for where, (documents, broken) in bundles(path):
            count += len(documents)
            findings += broken + check_together(documents, context, crds or {})
            if where == path and not (path / OVERLAY).exists():
                context = documents  # the folders below are applied after this one
    return sorted(set(findings)), count


def check_together(
    documents: Sequence[Document], context: Sequence[Document], crds: Kinds
) -> list[Finding]:
    """Findings in documents that are applied together, after `context`."""
    found = {document: check_schema(document, crds) for document in documents}
    # The rules rely on the shape of a kind, so they skip a document that does not have it.
    shapeless = ("kind", "type", "required")
    checked = [d for d in documents if not any(each.rule in shapeless for each in found[d])]
    bundle = Bundle(checked, [*documents, *context])
    findings = [finding for some in found.values() for finding in some]
    for name, node, message in rules_pods.field_problems(bundle):
        findings.append(node.finding(name, f"{title(node)}: {message}"))
    for name, rule, objects in rules(bundle):
        for each in objects:
            findings += [node.finding(name, f"{title(node)}: {text}") for node, text in rule(each)]
    return findings


def rules(bundle: Bundle) -> Iterator[tuple[str, Callable[[Any], Any], Sequence[Any]]]:
    """Each rule with its name and the objects that it checks."""
    modules = (
        (rules_mpijob, bundle.mpijobs),
        (rules_pods, bundle.pods),
        (rules_references, [bundle]),
    )
    for module, objects in modules:
        for rule in module.RULES:
            yield rule.__name__.replace("_", "-"), rule, objects


def bundles(path: Path) -> Iterator[tuple[Path, Manifests]]:
    """Manifests that are applied together, and their folder or file.

    A folder's own files are, and so are those of an overlay. In folders below, a file is alone.
    """
    yield path, read_folder(path)
    for folder in sorted(below for below in path.rglob("*") if below.is_dir()):
        is_overlay = (folder / OVERLAY).exists()
        for each in [folder] if is_overlay else manifest_files(folder):
            yield each, read_folder(each)


def read_folder(path: Path) -> Manifests:
    """The manifests of a file or folder, or what kustomize makes of an overlay."""
    if not (path / OVERLAY).exists():
        return read_manifests(manifest_files(path))
    command = next((words for words in RENDERERS if shutil.which(words[0])), None)
    if command is None:
        raise UserError(f"{path}: rendering an overlay needs kubectl or kustomize; install one")
    done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    if done.returncode == 0:
        # Lines are those of the output.
        return parse_manifests(done.stdout, f"<{' '.join(command)} {path}>")
    message = (done.stderr.strip() or "kustomize failed").splitlines()[-1]
    return [], [Finding(str(path / OVERLAY), 1, "kustomize", message)]


def read_manifests(files: Iterable[Path]) -> Manifests:
    documents: list[Document] = []
    findings: list[Finding] = []
    for file in files:
        try:
            found, broken = parse_manifests(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: {error}") from None
        documents += found
        findings += broken
    return documents, findings


def manifests_around(file: Path) -> list[Document]:
    """The manifests beside a single file and above it, which it may refer to."""
    around = [*manifest_files(file.parent), *manifest_files(file.parent.parent)]
    others = (p for p in around if p.resolve() != file.resolve() and p.name != OVERLAY)
    return read_manifests(others)[0]
