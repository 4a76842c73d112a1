"""Checks manifests as they would be applied: a folder at a time, overlays as kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from distsent.errors import UserError
from distsent.k8s import rules_mpijob, rules_pods, rules_references, schema
from distsent.k8s.bundle import RULES, Bundle
from distsent.k8s.documents import Document, Finding, files_of, read

assert rules_mpijob and rules_pods and rules_references  # importing them fills RULES
OVERLAY = "kustomization.yaml"


def lint(paths: Sequence[Path]) -> tuple[list[Finding], int]:
    """All findings in files and folders (with those below), in order, and how many manifests were read."""
    findings: list[Finding] = []
    count = 0
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        context = token_store_folder(path) if path.is_file() else []
        for documents, broken, is_overlay in bundles(path):
            count += len(documents)
            findings += broken
            findings += check(documents, context)
            if (
                path.is_dir()
                and not is_overlay
                and documents
                and Path(documents[0].file).parent == path
            ):
                context = documents  # what is below is applied after what is on top
    return sorted(set(findings)), count


def check(documents: Sequence[Document], context: Sequence[Document] = ()) -> list[Finding]:
    """Findings in what is applied together, when `context` has been applied before."""
    findings = [finding for document in documents for finding in schema.check(document)]
    # A rule may count on the shape that the schema asks for, so a document that lacks it is left at that.
    shapeless = {
        id(document)
        for document in documents
        if any(f.rule in ("kind", "type", "required") for f in schema.check(document))
    }
    bundle = Bundle(
        [document for document in documents if id(document) not in shapeless],
        [*documents, *context],
    )
    for rule in RULES.values():
        findings += rule(bundle)
    return findings


def bundles(path: Path) -> Iterator[tuple[list[Document], list[Finding], bool]]:
    """What is applied together: the files of the folder, then one by one the files and overlays of folders below."""
    if path.is_file():
        yield *read_files([path]), False
        return
    if (path / OVERLAY).exists():
        yield *read_overlay(path), True
    else:
        yield *read_files(files_of(path)), False
    for folder in sorted(below for below in path.rglob("*") if below.is_dir()):
        if (folder / OVERLAY).exists():
            yield *read_overlay(folder), True
        else:
            for file in files_of(folder):
                yield *read_files([file]), False


def read_files(files: Sequence[Path] | Iterator[Path]) -> tuple[list[Document], list[Finding]]:
    documents: list[Document] = []
    findings: list[Finding] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: {error}") from None
        some, broken = read(text, str(file))
        documents += some
        findings += broken
    return documents, findings


def read_overlay(folder: Path) -> tuple[list[Document], list[Finding]]:
    """What kustomize makes of an overlay; lines are those of its output."""
    program = next(
        (
            words
            for words in (["kustomize", "build"], ["kubectl", "kustomize"])
            if shutil.which(words[0])
        ),
        None,
    )
    if program is None:
        raise UserError(
            f"{folder}: an overlay is checked as kustomize renders it; install kubectl or kustomize"
        )
    done = subprocess.run([*program, str(folder)], capture_output=True, text=True)
    name = f"{' '.join(program)} {folder}"
    if done.returncode != 0:
        return [], [
            Finding(
                str(folder / OVERLAY),
                1,
                "kustomize",
                (done.stderr.strip() or "kustomize failed").splitlines()[-1],
            )
        ]
    return read(done.stdout, f"<{name}>")


def token_store_folder(file: Path) -> list[Document]:
    """What lies around a single file, and above it: it may refer to that."""
    around = [
        other
        for folder in (file.parent, file.parent.parent)
        for other in files_of(folder)
        if folder.exists()
    ]
    return read_files(
        other for other in around if other.resolve() != file.resolve() and other.name != OVERLAY
    )[0]
