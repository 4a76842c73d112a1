"""Asks a cluster, through kubectl, what it would say to manifests and to what the operator makes.

Only as a dry run: schema, validation, Pod Security, quotas, priority classes and webhooks of
exactly that cluster have their say, and nothing is created.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distsent.errors import FAILED, UserError
from distsent.k8s import mpi_operator, trainer
from distsent.k8s.documents import Finding, Node
from distsent.k8s.jobs import MPIJob, pods_of

Object = dict[str, Any]
# Objects that exist are changed, whoever made them. What the operator makes is always new.
APPLY = ("apply", "--server-side", "--force-conflicts", "--field-manager=distsent-lint")
DRY_RUN = ("--dry-run=server", "-o", "name", "-f", "-")
CONNECTION = ("no cluster to ask", "get", "--raw", "/version", "--request-timeout=20s")
NOISE = re.compile("Warning: |[EWI][0-9]{4} ")  # warnings, and kubectl's own log
UNANSWERED = re.compile(
    "to the server|download openapi|(dial|read) tcp|net/http|EOF|Unavailable|TooMany"
)
# Answers that are not about the manifest, by a part of them.
TROUBLES = {
    "(NotFound): namespaces ": "the namespace {1} does not exist yet: apply it first",
    " is forbidden: User ": "you may not ask the cluster about {0}",
    "no matches for kind ": "the cluster lacks its operator",
}


def kubectl(*words: str, text: str = "", timeout: int = 60) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", *words]
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout)
    except OSError as error:
        raise UserError(f"kubectl: {error.strerror}; install it", code=FAILED) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"kubectl {words[0]}: no answer in {timeout} s", code=FAILED) from None


def output(what: str, *words: str) -> str:
    """What kubectl prints. Raises UserError, with `what` first, if it fails."""
    done = kubectl(*words)
    if done.returncode:
        raise UserError(f"{what}: {last_line(done.stderr)}", code=FAILED)
    return done.stdout


def refusals(manifests: Iterable[Node], jobs: Sequence[Node]) -> list[Finding]:
    """What the cluster has against manifests, and against what operators make of `jobs`.

    `jobs`: MPIJobs, and the TrainingRuntimes of TrainJobs.
    """
    output(*CONNECTION)
    asked: list[tuple[Node, Object, Sequence[str]]]
    asked = [(each, each.value, APPLY) for each in manifests]
    whole = [job for job in jobs if all(pod.main for pod in pods_of(job))]
    asked += [(job, one, ("create",)) for job in whole for one in objects(job)]
    different = {json.dumps(one, sort_keys=True, default=str): (m, one, w) for m, one, w in asked}
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(lambda each: list(ask(*each)), different.values())
        return [finding for some in answers for finding in some]


def objects(job: Node) -> list[Object]:
    """What an operator makes of a job. The names are prefixes: a running job has such objects."""
    made = mpi_operator.objects(MPIJob(job)) if job.kind == "MPIJob" else trainer.objects(job)
    names = {"generateName": f"{job.name}-", "namespace": job.namespace}
    return [each | {"metadata": each.get("metadata", {}) | names} for each in made]


def ask(manifest: Node, one: Object, words: Sequence[str]) -> Iterator[Finding]:
    done = kubectl(*words, *DRY_RUN, text=json.dumps(one, default=str))
    title, host = f"{manifest.kind} {manifest.name}", one.get("spec", {}).get("hostname", "")
    what = "it" if one is manifest.value else f"the operator's {one['kind']} {host}".rstrip()
    warnings = [line[9:] for line in done.stderr.splitlines() if line.startswith("Warning: ")]
    said = [f"the cluster warns of {what}: {warning}" for warning in warnings]
    if done.returncode:
        reason = last_line(done.stderr)
        if UNANSWERED.search(reason):
            raise UserError(f"the cluster stopped answering: {reason}", code=FAILED)
        fits = [text for part, text in TROUBLES.items() if part in reason]
        text = (*fits, "the cluster refuses {0}")[0].format(what, manifest.namespace)
        said.append(f"{text}: {reason}")
    for text in said:
        yield manifest.finding("cluster", f"{title}: {text}")


def last_line(errors: str) -> str:
    """kubectl's error as one line."""
    lines = (line.strip() for line in errors.splitlines() if not NOISE.match(line))
    text = " ".join(line for line in lines if line) or "kubectl gave no reason"
    return text.replace('error when creating "STDIN": ', "").replace("Error from server ", "")
