"""What Kubeflow Trainer (v2.3, with JobSet v0.12) makes of a TrainJob, and its runtimes.

A pod's exit code decides what happens next: a rule of its Job's podFailurePolicy fails the Job with
a message, and a rule of the JobSet's failurePolicy recognizes the message. Both follow from the
exit policy. What no rule names is a failure that counts, as are evictions for a pod's own limits.
"""

import copy
import re
from contextlib import suppress
from typing import Any

from distsent.errors import STOPPED
from distsent.exit_policy import decide
from distsent.k8s.documents import Node, fill, read_table
from distsent.k8s.jobs import JOBS

Object = dict[str, Any]
CONTAINER = "node"  # Trainer gives its volumes and variables to containers of this name only
CONFIG_MAP = "jobs"  # all job files, as one runtime serves all jobs
INDEXED = {"completionMode": "Indexed", "completions": 1, "parallelism": 1}
TABLE = read_table("trainer.yaml")
DISRUPTION = "DisruptionTarget"  # drained, preempted, or evicted because its node is short
FAIL, GO_ON, COUNT = "FailJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJobSet"
ACTIONS = {"give_up": FAIL, "requeue": GO_ON, "retry": COUNT}  # by those of the exit policy


def exit_codes(action: str) -> list[int]:
    """The exit codes after which the exit policy takes an action, whatever else is known."""
    return [code for code in range(1, 256) if decide(code).action == action]


def action_after(jobset: Object, job: Object, code: int, condition: str = "") -> str:
    """What a JobSet does when a pod of one of its jobs has ended, by its policies."""
    policy = job["template"].get("spec", {}).get("podFailurePolicy", {})
    for index, rule in enumerate(policy.get("rules", ())):
        exits, pod, text = rule.get("onExitCodes", {}), f"pod a/{job['name']}", ""
        is_ours = exits and exits.get("containerName", CONTAINER) == CONTAINER
        if is_ours and (code in exits["values"]) == (exits["operator"] == "In"):
            text = f"Container {CONTAINER} for {pod} failed with exit code {code}"
        elif condition in (each["type"] for each in rule.get("onPodConditions", ())):
            text = f"{pod.capitalize()} has condition {condition}"
        if text:
            message = f"{text} matching {rule['action']} rule at index {index}"
            if rule["action"] == "FailJob":
                return jobset_action(jobset, job["name"], "PodFailurePolicy", message)
            if rule["action"] == "Ignore":
                return "Ignore"
            break  # Count: as without a rule
    return jobset_action(jobset, job["name"], "BackoffLimitExceeded", "")


def jobset_action(jobset: Object, job: str, reason: str, message: str) -> str:
    """That of the first rule that fits. What a rule leaves out fits anything."""
    for rule in jobset.get("failurePolicy", {}).get("rules", ()):
        patterns = rule.get("onJobFailureMessagePatterns") or [""]
        is_reason = reason in (rule.get("onJobFailureReasons") or [reason])
        if is_reason and job in (rule.get("targetReplicatedJobs") or [job]):
            with suppress(re.error):
                if any(re.search(pattern, message) for pattern in patterns):
                    return str(rule["action"])
    return COUNT


def objects(runtime: Node) -> list[Object]:
    """The Jobs and pods of a runtime, for the API server."""
    made: list[Object] = []
    for job in runtime.at(*JOBS):
        spec = job.at("template", "spec").mapping
        made.append({"apiVersion": "batch/v1", "kind": "Job", "spec": spec | INDEXED})
        made.append({"apiVersion": "v1", "kind": "Pod", **spec["template"]})
    return made


def runtimes(mpijob: Object) -> list[Object]:
    """A TrainingRuntime for each policy, with the pods of an MPIJob."""
    codes: Object = {action.upper(): exit_codes(action) for action in ("give_up", "requeue")}
    patterns = ("|".join(map(str, each)) for each in codes.values())
    words = dict(zip(("HOPELESS", "SAVED"), patterns, strict=True)) | codes
    found: dict[str, Object] = fill(TABLE["runtimes"], words)
    for policy, runtime in found.items():
        for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
            job["template"]["spec"]["template"] = pod_template(mpijob, policy, job["name"])
    return list(found.values())


def pod_template(mpijob: Object, policy: str, name: str) -> Object:
    roles = copy.deepcopy(mpijob["spec"]["mpiReplicaSpecs"])
    template: Object = roles["Launcher" if name == "launcher" else "Worker"]["template"]
    container = template["spec"]["containers"][0]
    container.pop("args", None)  # those of the TrainJob
    container["name"] = CONTAINER
    if policy == "torch":
        del container["readinessProbe"], container["ports"]
        container["command"] = ["python", "-m", "distsent.launch"]
        env = roles["Launcher"]["template"]["spec"]["containers"][0]["env"]
        container["env"] = [each for each in env if not each["name"].startswith("OMPI_")]
    elif name == "launcher":
        container["command"][-1:] = ["--keep-workers", "--"]
    else:
        container["command"] += ["--left", str(STOPPED)]  # for an Indexed Job 0 is for ever
    for volume in template["spec"]["volumes"]:
        if "configMap" in volume:
            volume["configMap"]["name"] = CONFIG_MAP
    # A podFailurePolicy needs it; OnFailure is accepted, and then no pod comes.
    template["spec"] = {"restartPolicy": "Never", **template["spec"]}
    return template


def train_job(mpijob: Object, policy: str, name: str) -> Object:
    """The TrainJob that trains what an MPIJob trains, with the job file of `name`."""
    spec, roles = mpijob["spec"], mpijob["spec"]["mpiReplicaSpecs"]
    args = roles["Launcher"]["template"]["spec"]["containers"][0]["args"]
    size, job = args.index("-np"), mpijob["metadata"]["name"]
    args = [word.replace(f"/{job}.toml", f"/{name}.toml") for word in args]
    # The launcher counts the slots of the hostfile; the torch policy has variables.
    args = args[args.index("-m") :] if policy == "torch" else args[:size] + args[size + 2 :]
    words = {"WORKERS": roles["Worker"]["replicas"], "SLOTS": spec["slotsPerWorker"]}
    words |= {"METADATA": mpijob["metadata"] | {"name": name}, "POLICY": policy, "ARGS": args}
    made: Object = fill(TABLE["train_job"], words)
    return made
