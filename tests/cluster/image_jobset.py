"""A namespace with one TrainJob: what Trainer, JobSet and the Job controller would do.

Controllers act only in `reconcile`, so a test decides when: `until` and `finish` call it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hold import Hold
from image_machine import ROOT, Machine
from image_pods import Document, Pod, load
from image_volumes import Projected, new_key, share
from patience import wait_for

from tests.jobset import COUNTS, FAILS, action_after

KILLED = 137  # 128 + SIGKILL
MPI_LAUNCHER = {
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
}


class TrainJob:
    """`state`: "", Complete or Failed. `restarts`: of the JobSet, those that count, and others."""

    def __init__(
        self, machine: Machine, image: str, folder: Path, job: Document, runtime: Document
    ) -> None:
        self.name, self.runtime = job["metadata"]["name"], runtime
        self.trainer = job["spec"]["trainer"]
        self.state, self.suspended, self.restarts, self.saved_restarts = "", False, 0, 0
        self._is_recreating = False
        self._drained: set[Pod] = set()
        self.domain = f"{self.name}.{job['metadata']['namespace']}.svc.cluster.local"
        self.claim = folder / "claim"
        self.claim.mkdir(parents=True)
        self.hold = Hold(self.claim / ".hold", seen_as="/shared/.hold")
        jobs = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        templates = {one["name"]: one["template"]["spec"]["template"] for one in jobs}
        trains = "launcher" if "launcher" in templates else "node"
        self.jobs: dict[str, list[Pod]] = {}
        for name, template in templates.items():
            changed = copy.deepcopy(template)
            if name == trains:
                changed["spec"]["containers"][0]["args"] = self.trainer["args"]
            count = self.trainer["numNodes"] if name == "node" else 1
            names = [f"{self.name}-{name}-0-{index}" for index in range(count)]
            self.jobs[name] = [
                Pod(machine, each, self.domain, changed, image, folder) for each in names
            ]
        self.nodes, self.trains = self.jobs["node"], self.jobs[trains]
        self.pods = [pod for pods in self.jobs.values() for pod in pods]
        group = self.pods[0].spec["securityContext"]["fsGroup"]
        share(self.claim, group, 0o2775)
        self.mount(folder, group)

    def mount(self, folder: Path, group: int) -> None:
        """Volumes and variables that Trainer adds by the runtime's policy."""
        data = load(ROOT / "k8s/trainjob/jobs.yaml")["ConfigMap", "jobs"]["data"]
        files = Projected(folder / "jobs", {name: (text, 0o644) for name, text in data.items()})
        for pod in self.pods:
            pod.sources = {"shared": self.claim, "jobs": files.folder}
        policy, slots = self.runtime["spec"]["mlPolicy"], self.trainer["numProcPerNode"]
        short = self.domain.split(".")[0]  # resolved through the search list
        if "mpi" in policy:
            key = Projected(folder / "secret", new_key(folder / "key"), group).folder
            lines = "".join(f"{pod.name}.{short} slots={slots}\n" for pod in self.nodes)
            hosts = Projected(folder / "etc-mpi", {"hostfile": (lines, 0o444)}).folder
            for pod in self.pods:
                pod.mounts.append((key, policy["mpi"]["sshAuthMountPath"], True))
            (launcher,) = self.trains
            launcher.mounts.append((hosts, "/etc/mpi", True))
            launcher.env = MPI_LAUNCHER | {"OMPI_MCA_orte_set_default_slots": str(slots)}
        for rank, pod in enumerate(self.trains):
            pod.env |= self.hold.env
            if "torch" in policy:
                pod.env |= {
                    "PET_NNODES": str(len(self.nodes)),
                    "PET_NPROC_PER_NODE": str(slots),
                    "PET_NODE_RANK": str(rank),
                    "PET_MASTER_ADDR": f"{self.nodes[0].name}.{short}",
                    "PET_MASTER_PORT": "29500",
                }

    # ---- the controllers -----------------------------------------------------------------------

    def reconcile(self) -> None:
        """One look of the controllers at everything."""
        for pod in self.pods:
            if pod.deleted or pod.running():  # restartPolicy: Never
                pod.reconcile()
        if self.state or self.suspended:
            return
        if not self._is_recreating:
            self._judge()
        if self._is_recreating and not any(pod.exists for pod in self.pods):  # BlockingRecreate
            self._is_recreating = False
            self._drained.clear()
            for pod in self.pods:
                pod.pods = 0
        if not self._is_recreating and not self.state:
            self._create()

    def _create(self) -> None:
        for name, pods in self.jobs.items():
            if name == "node" or all(pod.ready() for pod in self.nodes):  # dependsOn
                for pod in pods:
                    if not pod.pods:
                        pod.create()

    def _judge(self) -> None:
        """End or restart the JobSet by the ends of its pods."""
        codes = {pod: end_of(pod) for pod in self.pods}
        for name, pods in self.jobs.items():
            for pod in pods:
                if codes[pod]:
                    self._fail(name, pod, codes[pod] or 0)
                    return
        targets = self.runtime["spec"]["template"]["spec"]["successPolicy"]["targetReplicatedJobs"]
        if all(codes[pod] == 0 for name in targets for pod in self.jobs[name]):
            self._end("Complete")

    def _fail(self, job: str, pod: Pod, code: int) -> None:
        conditions = ["DisruptionTarget"] if pod in self._drained else []
        action = action_after(self.runtime, job, code, *conditions)
        jobset = self.runtime["spec"]["template"]["spec"]
        if action == FAILS or self.restarts >= jobset["failurePolicy"]["maxRestarts"]:
            return self._end("Failed")
        self.restarts += action == COUNTS
        self.saved_restarts += action != COUNTS
        self._is_recreating = True
        for each in self.pods:
            if each.exists:
                each.delete()

    def _end(self, state: str) -> None:
        """JobSet deletes the pods that still run; those that have ended stay."""
        self.state = state
        for pod in self.pods:
            if pod.running():
                pod.delete()

    def until(self, what: str, true: Callable[[], object], seconds: float = 300) -> None:
        """Let the controllers act until `true()`."""

        def reconciled() -> bool:
            self.reconcile()
            return bool(true())

        wait_for(what, reconciled, seconds, self.history, 0.3)

    def history(self) -> str:
        return "\n".join(f"== {pod.name}\n{pod.history()[-1500:]}" for pod in self.pods)

    # ---- what users do ---------------------------------------------------------------------------

    def start_and_hold(self, step: int) -> None:
        """Let the run get to a step, and pause it there."""
        self.hold.at(step)
        self.until(f"step {step}", lambda: self.state or self.steps() >= step)
        assert not self.state, self.history()

    def release_after_stop_request(self) -> None:
        wait_for("a worker has received a stop request", self.hold.heard, 120, self.history)
        self.hold.free()

    def suspend(self) -> None:
        """`spec.suspend: true`: Jobs delete their pods."""
        self.suspended = True
        for pod in self.pods:
            pod.delete()
        self.release_after_stop_request()
        self.until("all pods are gone", lambda: not any(pod.exists for pod in self.pods))

    def resume(self) -> None:
        self.suspended = False
        for pod in self.pods:
            pod.pods = 0

    def drain(self, pod: Pod) -> None:
        """The eviction API: the pod gets the condition DisruptionTarget, and SIGTERM."""
        self._drained.add(pod)
        pod.delete()

    def lose_node(self, pod: Pod) -> None:
        """A silent node: after five minutes the cluster deletes its pod, which stays until
        `kubectl delete node`.
        """
        self.drain(pod)
        self.reconcile()
        assert pod.exists and pod.pods == 1, "Terminating"
        pod.remove()
        pod.last_code = KILLED

    def finish(self) -> str:
        """Let the controllers act until the JobSet has ended. Returns how."""
        self.hold.free()
        self.until("the JobSet has ended", lambda: self.state)
        return self.state

    def close(self) -> None:
        for pod in self.pods:
            if pod.exists:
                pod.remove()

    # ---- the run -------------------------------------------------------------------------------

    @property
    def _run(self) -> Path:
        return self.claim / "runs" / self.name

    def result(self) -> dict[str, Any]:
        return json.loads((self._run / "result.json").read_text())

    def steps(self) -> int:
        """The last step in the run's metrics."""
        path = self._run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line).get("step", 0) for line in lines), default=0)

    def checkpoint(self, step: int) -> bool:
        return (self._run / "checkpoints" / f"step-{step:08d}").is_dir()


def end_of(pod: Pod) -> int | None:
    """The exit code of a pod that has ended or is gone; None of one that runs or never was."""
    if not pod.pods or pod.running():
        return None
    return pod.exit_code() if pod.exists else pod.last_code
