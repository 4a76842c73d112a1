"""Checks a cluster for jobs: operators, their rights, storage, GPUs, Kueue, images, admission.

Asks through kubectl what doctor.yaml lists, and changes nothing. Each check is a line with its fix.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distsent.k8s.cluster import CONNECTION, kubectl, last_line, output, refusals
from distsent.k8s.documents import fill, read_table
from distsent.k8s.jobs import DELETE_EVICTED, QUEUE, WITH_PODS, Bundle
from distsent.k8s.lint import read_manifests
from distsent.runtime.slurm_probe import Check

OK, FAIL = "ok", "fail"
CLAIM, MAY_NOT = "PersistentVolumeClaim", "ask as a user who may (kubectl config use-context)"


def check_cluster(folder: Path) -> Iterator[Check]:
    """All checks, for the manifests of `folder`. Raises UserError without a cluster."""
    output(*CONNECTION)
    manifests = read_manifests(folder).manifests
    targets = targets_of(Bundle(manifests, manifests))
    for row in read_table("doctor.yaml")["checks"]:
        for name, space in targets[row.get("each", "once")]:
            check = ask(row, name, space)
            yield check
            if check.state == FAIL and row.get("stop") and check.fix != MAY_NOT:
                return
    jobs = [each for each in manifests if each.kind in WITH_PODS]
    found = refusals([], jobs)
    for each in found:
        yield Check(FAIL, "admission", each.message, f"change {each.file}:{each.line}")
    if not found:
        counts = Counter(each.kind for each in jobs).items()
        what = ", ".join(f"{count} {kind}s" for kind, count in counts)
        yield Check(OK, "admission", f"{what or 'no jobs'} would be admitted", "")


def targets_of(bundle: Bundle) -> dict[str, list[tuple[str, str]]]:
    """What a row may ask about, as name and namespace."""
    of_mpi = [each for each in bundle.manifests if each.kind == "MPIJob"]
    of_trainer = [each for each in bundle.manifests if each.kind.startswith("Train")]
    jobs = of_mpi + of_trainer
    queues = {(job.at("metadata", "labels", QUEUE).text, job.namespace): None for job in jobs}
    return {
        "once": [("", "")],
        "mpi": [("", "")] if of_mpi else [],
        "trainer": [("", "")] if of_trainer else [],
        "operator": [(space, space) for space in sorted({job.namespace for job in of_mpi})],
        "namespace": [(space, space) for space in sorted({job.namespace for job in jobs})],
        "claim": [(m.name, m.namespace) for m in bundle.manifests if m.kind == CLAIM],
        "account": [
            (pod.spec["serviceAccountName"].text, pod.namespace)
            for pod in bundle.pods
            if DELETE_EVICTED in pod.command
        ],
        "queue": [each for each in queues if each[0]],
        "gpu": [(str(gpus), "") for gpus in sorted({pod.gpus or 0 for pod in bundle.pods}) if gpus],
    }


def ask(row: dict[str, Any], name: str, space: str) -> Check:
    row = fill(row, {"{name}": name, "{space}": space})
    done = kubectl(*row["ask"])
    answer = " ".join(done.stdout.split())
    is_right = re.search(row.get("want", "."), answer) is not None
    if "least" in row:
        is_right = any(int(each) >= int(row["least"]) for each in re.findall(r"\d+", answer))
    said = answer if done.returncode == 0 else last_line(done.stderr) if done.stderr else answer
    asked = " ".join(each for each in row["ask"] if not each.startswith("jsonpath"))
    found = f"{asked}: {said or 'nothing'}" if row["ask"][0] == "auth" or not said else said
    fix = MAY_NOT if " is forbidden: User " in done.stderr else row["fix"]
    return Check(OK if is_right else FAIL, row["what"], found, "" if is_right else fix)
