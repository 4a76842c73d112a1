"""What Job and JobSet make of a pod's end, by the policies of a TrainingRuntime."""

from __future__ import annotations

import re
from typing import Any

# As the Job controller writes them (Kubernetes 1.33.4).
EXITED = "Container {} for pod distsent/{} failed with exit code {} matching {} rule at index {}"
DISRUPTED = "Pod distsent/{} has condition {} matching {} rule at index {}"
COUNTS = "RestartJobSet"  # JobSet's own, where no rule fits
FAILS, SAVED = "FailJobSet", "RestartJobSetAndIgnoreMaxRestarts"


def action_after(runtime: dict[str, Any], job: str, code: int, *conditions: str) -> str:
    """The action of the JobSet after a pod of `job` has ended with a code and conditions."""
    jobset = runtime["spec"]["template"]["spec"]
    message = job_failure(jobset, job, code, conditions)
    for rule in jobset["failurePolicy"]["rules"] if message else ():
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        if any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"]):
            return str(rule["action"])
    return COUNTS


def job_failure(jobset: dict[str, Any], job: str, code: int, conditions: tuple[str, ...]) -> str:
    """The message of the first rule of the Job's podFailurePolicy that fits; empty without one."""
    (spec,) = (one["template"]["spec"] for one in jobset["replicatedJobs"] if one["name"] == job)
    pod = f"demo-{job}-0-0-x7k2p"
    for index, rule in enumerate(spec["podFailurePolicy"]["rules"]):
        exits = rule.get("onExitCodes", {"values": ()})
        if code in exits["values"]:
            return EXITED.format(exits["containerName"], pod, code, rule["action"], index)
        for pattern in rule.get("onPodConditions", ()):
            if pattern["type"] in conditions:
                return DISRUPTED.format(pod, pattern["type"], rule["action"], index)
    return ""
