"""A namespace with one MPIJob: what the MPI operator (v2beta1) and the Job controller would do.

Controllers act only in `reconcile`, so a test decides when: `until` and `finish` call it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hold import Hold
from image_machine import Machine
from image_pods import Document, Pod, pause
from image_volumes import Files, Projected, new_key, share
from patience import wait_for

OPERATOR_LAUNCHER = {
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
    "NVIDIA_VISIBLE_DEVICES": "",
    "NVIDIA_DRIVER_CAPABILITIES": "",
}


class LauncherJob:
    """The Job of the launcher. `state`: "", Complete or Failed.

    Restarts of a container count against `backoffLimit`, and so do pods that failed or were
    deleted; these are made again after growing pauses.
    """

    def __init__(self, pod: Pod, limit: int) -> None:
        self.pod, self.limit = pod, limit
        self.state, self.failed, self._due = "", 0, 0.0

    def reconcile(self, before: Callable[[], None]) -> None:
        """Create the pod (after `before`), count its failures, and end when it has ended."""
        if self.state:
            return
        had_pod = self.pod.exists
        if had_pod:
            self.pod.reconcile()
            if self.pod.exists and self.pod.phase == "Succeeded":
                self.state = "Complete"
            elif self.pod.exists and self.pod.restarts >= self.limit:
                self._fail()
        if had_pod and not self.pod.exists and not self.state:  # deleted: a failure, except at 0
            self.failed += 1
            self._due = time.monotonic() + pause(self.failed, 600)
            is_over = self.failed > self.limit
            self.state = "Failed" if is_over else "Complete" if self.pod.last_code == 0 else ""
        if not self.pod.exists and not self.state and time.monotonic() >= self._due:
            before()
            self.pod.create()

    def _fail(self) -> None:
        self.state = "Failed"
        self.pod.remove()


class Cluster:
    """A namespace with one MPIJob, run as the operator runs it."""

    def __init__(
        self, machine: Machine, image: str, folder: Path, job: Document, config: Document
    ) -> None:
        self.machine, self.folder, self.job = machine, folder, job
        folder.mkdir(parents=True, exist_ok=True)
        spec, self.name = job["spec"], job["metadata"]["name"]
        roles = spec["mpiReplicaSpecs"]
        self._group = roles["Worker"]["template"]["spec"]["securityContext"]["fsGroup"]
        self.claim = folder / "claim"
        self.claim.mkdir()
        share(self.claim, self._group, 0o2775)
        files = {name: (text, 0o644) for name, text in config["data"].items()}
        self._config = Projected(folder / "config", files)
        key = Projected(folder / "secret", new_key(folder / "key"), self._group)
        sources = {"shared": self.claim, config["metadata"]["name"]: self._config.folder}
        self._where = f"{self.name}.{job['metadata']['namespace']}.svc"

        def new_pod(role: str, name: str) -> Pod:
            template, domain = roles[role]["template"], f"{self._where}.cluster.local"
            pod = Pod(machine, f"{self.name}-{name}", domain, template, image, folder)
            pod.sources, pod.env = sources, {"K_MPI_JOB_ROLE": "worker"}
            pod.mounts.append((key.folder, spec["sshAuthMountPath"], True))
            return pod

        count = roles["Worker"]["replicas"]
        self.workers = [new_pod("Worker", f"worker-{index}") for index in range(count)]
        self.launcher = new_pod("Launcher", "launcher")
        self.launcher_job = LauncherJob(self.launcher, spec["runPolicy"]["backoffLimit"])
        self.hold = Hold(self.claim / ".hold", seen_as="/shared/.hold")
        slots = {"OMPI_MCA_orte_set_default_slots": str(spec["slotsPerWorker"])}
        self.launcher.env = {**OPERATOR_LAUNCHER, **slots, **self.hold.env}
        self._running: list[str] = []
        self.etc = Projected(folder / "etc-mpi", self._hosts())
        self.launcher.mounts.append((self.etc.folder, "/etc/mpi", True))
        self.failure = ""  # the reason of the MPIJob's condition Failed, once it has one

    def ignore_fs_group(self) -> None:
        """A volume that fsGroup does not touch (hostPath, plain NFS), with root's empty folder."""
        os.chown(self.claim, 0, 0)
        self.claim.chmod(0o755)

    # ---- the controllers -----------------------------------------------------------------------

    def reconcile(self) -> None:
        """One look of the controllers at everything."""
        for pod in self.workers:
            pod.reconcile()
            if pod.reason:
                self.failure = f"MPIJob{pod.reason}"
            if not pod.exists and pod.has_room:  # an evicted pod exists, and one on a dead node
                pod.create()
        if self.launcher.pods or all(pod.ready() for pod in self.workers):
            self.launcher_job.reconcile(before=lambda: self.etc.write(self._hosts()))
        if self.launcher_job.state == "Failed":
            self.failure = "BackoffLimitExceeded"
        running = [pod.name for pod in self.workers if pod.running() and not pod.deleted]
        if running != self._running:
            self._running = running
            self.etc.update(self._hosts())

    def _hosts(self) -> Files:
        """The operator's ConfigMap: all hosts with slots, and a script that prints running ones."""
        slots = self.job["spec"]["slotsPerWorker"]
        hosts = "".join(f"{pod.name}.{self._where} slots={slots}\n" for pod in self.workers)
        script = "#!/bin/sh\n" + "".join(f"echo {name}.{self._where}\n" for name in self._running)
        return {"hostfile": (hosts, 0o444), "discover_hosts.sh": (script, 0o555)}

    def until(
        self, what: str, true: Callable[[], object], seconds: float = 300, every: float = 0.3
    ) -> None:
        """Let the controllers act until `true()`."""

        def reconciled() -> bool:
            self.reconcile()
            return bool(true())

        wait_for(what, reconciled, seconds, self.launcher.history, every)

    def start(self) -> None:
        """Apply the MPIJob: workers, and the launcher when they are ready (WaitForWorkersReady)."""
        self.until("the launcher runs", lambda: self.launcher.pods, 120)

    def resume(self) -> None:
        """End a suspension: the operator then makes the launcher without waiting for workers."""
        self.reconcile()
        if not self.launcher.pods:
            self.launcher_job.reconcile(before=lambda: self.etc.write(self._hosts()))

    def finish(self, seconds: float = 300) -> str:
        """Let the controllers act until the launcher's Job has ended. Returns how."""
        self.until("the Job has ended", lambda: self.launcher_job.state, seconds)
        return self.launcher_job.state

    def delete_node(self, pod: Pod) -> None:
        """`kubectl delete node`: its pods are gone, whatever still runs there."""
        pod.remove()

    def close(self) -> None:
        self.etc.close()
        for pod in (self.launcher, *self.workers):
            if pod.exists:
                pod.remove()

    # ---- the run -------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        return json.loads((self.claim / "runs" / self.name / "result.json").read_text())

    def status(self) -> str:
        path = self.claim / "runs" / self.name / "status.json"
        found = json.loads(path.read_text()) if path.exists() else None
        return f"{found['state']}: {found['message']}" if found else ""

    def steps(self) -> int:
        """The last step in the run's metrics."""
        path = self.claim / "runs" / self.name / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line).get("step", 0) for line in lines), default=0)

    def checkpoint(self, step: int) -> bool:
        return (self.claim / "runs" / self.name / "checkpoints" / f"step-{step:08d}").is_dir()

    def wait_for_step(self, step: int, seconds: float = 300) -> None:
        def is_over() -> bool:
            return self.steps() >= step or bool(self.launcher_job.state)

        self.until(f"step {step}", is_over, seconds)
        assert self.steps() >= step, self.launcher.history()

    def start_and_hold(self, step: int) -> None:
        """Start the job, and pause the run after so many steps."""
        self.hold.at(step)
        self.start()
        self.wait_for_step(step)

    def hear_stop_request(self) -> None:
        """Wait until a worker of the held run has received a stop request."""
        wait_for("a worker has received a stop request", self.hold.heard, 120, self.launcher.log)

    def release_after_stop_request(self) -> None:
        """Wait until a worker has received a stop request, and release all workers."""
        self.hear_stop_request()
        self.hold.free()
