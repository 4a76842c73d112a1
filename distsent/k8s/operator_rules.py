"""Rules about what each operator adds to its jobs' pods, and about TrainJobs' runtimes."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from distsent.errors import NON_FINITE, STOPPED, USAGE_ERROR
from distsent.exit_policy import decide
from distsent.k8s import mpi_operator, trainer
from distsent.k8s.documents import Node, Problem
from distsent.k8s.jobs import DELETE_EVICTED, JOBS, Bundle, Pod, TrainJob

ENDS = (1, USAGE_ERROR, NON_FINITE, STOPPED, 137, 143)  # exit codes of pods
PARENTS = {"mpi": ("distsent.k8s", "launch", "--keep-workers"), "torch": ("distsent.launch",)}


def operator_problems(bundle: Bundle) -> Iterator[Problem]:
    for job in bundle.mpijobs:
        for role, pod in job.by_role.items():
            yield from additions(pod, mpi_operator.added(job, role)["container"])
    for manifest in bundle.manifests:
        if manifest.kind == "TrainingRuntime":
            yield from failure_policies(manifest)
        elif manifest.kind == "TrainJob" and not bundle.runtime_of(manifest):
            node = manifest.at("spec", "runtimeRef")
            if node["kind"].text == "TrainingRuntime":
                yield "exists", node, f"no manifest creates the TrainingRuntime {node['name'].text}"
    for trainjob in bundle.trainjobs:
        yield from policy_problems(trainjob)
        for pod in trainjob.pods:
            yield from additions(pod, trainer.TABLE["added"][trainjob.policy_name])


def additions(pod: Pod, added: dict[str, Any]) -> Iterator[Problem]:
    """What operators add to the first containers: two of it are refused, or one is replaced."""
    env, mounts = ({each["name"] for each in added[key]} for key in ("env", "volumeMounts"))
    paths = {each["mountPath"] for each in added["volumeMounts"]}
    for theirs, ours in ((env, pod.env), (mounts, pod.spec["volumes"])):
        for name in (each["name"] for each in ours):
            if name.text in theirs:
                yield "operator", name, f"{name.text} comes from the operator: leave it out"
    for path in (each["mountPath"] for each in pod.mounts):
        if path.text.rstrip("/") in paths:
            yield "operator", path, f"the operator mounts its own volume at {path.text}"


def failure_policies(runtime: Node) -> Iterator[Problem]:
    """They must follow the exit policy, or hopeless jobs go on and saved ones are counted."""
    jobset = runtime.at("spec", "template", "spec")
    ends = [(code, "", decide(code).action) for code in ENDS] + [
        (143, trainer.DISRUPTION, "requeue")
    ]
    for job in runtime.at(*JOBS):
        pod = job.at("template", "spec", "template", "spec")
        known = {each["name"].text for each in [*pod["initContainers"], *pod["containers"]]}
        for rule in job.at("template", "spec", "podFailurePolicy", "rules"):
            name = rule.at("onExitCodes", "containerName")
            if name and name.text not in known:
                yield "failure-policy", name, f"{job['name'].text}: no container {name.text}"
    for job, (code, condition, action) in product(runtime.at(*JOBS), ends):
        does = trainer.action_after(jobset.value, job.value, code, condition)
        if does != trainer.ACTIONS[action]:
            what = f"{job['name'].text}: {condition or f'exit code {code}'} leads to {does}"
            wanted = f"must lead to {trainer.ACTIONS[action]}, as in k8s/trainjob/runtimes.yaml"
            yield "failure-policy", job, f"{what}, {wanted}"


def policy_problems(job: TrainJob) -> Iterator[Problem]:
    """What a policy demands of a TrainJob and of its runtime."""
    parent, node = PARENTS[job.policy_name], job.launcher.command_node
    if "distsent.train" not in job.launcher.command:
        return
    if not {*parent} <= {*job.launcher.command}:
        # torchrun loses signals and exit codes; JobSet ends the workers, after the launcher.
        yield "parent", node, f"must start with python -m {' '.join(parent)}"
    if not job.uses_mpi:
        # `auto` is the number of CPUs, and that is one process for each.
        given = job.spec.at("trainer", "numProcPerNode")
        if not given:
            yield "slots", given, "spec.trainer.numProcPerNode is missing: Trainer would count CPUs"
        return
    if job.elastic:
        yield "hostfile", node, "a TrainJob has no script that prints hosts: leave --elastic out"
    if DELETE_EVICTED in job.launcher.command:
        yield "token", node, "a JobSet makes evicted pods again itself: leave --delete-evicted out"
    if job.worker.option("--left") != str(STOPPED):
        worker = job.worker.command_node
        yield "left", worker, f"serve needs --left {STOPPED}: an Indexed Job takes 0 for completed"
    resources = job.spec.at("trainer", "resourcesPerNode")
    if resources:
        text = "changes the launcher alone: set the workers' resources in the runtime"
        yield "launcher-only", resources, f"spec.trainer.resourcesPerNode {text}"
