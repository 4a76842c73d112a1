"""What every pod here must have: an image one can name, bounds, no rights that it does not use."""

from __future__ import annotations

from collections.abc import Iterator

from distsent.k8s.bundle import Bundle, as_dict, as_list, rule
from distsent.k8s.documents import Finding
from distsent.k8s.schema import quantity


@rule("image")
def image(bundle: Bundle) -> Iterator[Finding]:
    """What `latest` means changes between two restarts of one job; all its workers must run the same."""
    for pod in bundle.pods():
        for where, container in pod.containers():
            name = str(container.get("image"))
            tag = name.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in name and tag in ("", "latest"):
                yield pod.finding("image", f"{name}: name a version", *where, "image")


@rule("resources")
def resources(bundle: Bundle) -> Iterator[Finding]:
    """Without requests the scheduler packs blindly, without a memory limit one pod takes its node down."""
    for pod in bundle.pods():
        for where, container in pod.containers():
            stated = as_dict(container.get("resources"))
            for side in ("requests", "limits"):
                for what in ("cpu", "memory"):
                    if what not in as_dict(stated.get(side)):
                        yield pod.finding(
                            "resources",
                            f"{container.get('name')}: resources.{side}.{what} is missing",
                            *where,
                            "resources",
                        )
            for what, most in as_dict(stated.get("limits")).items():
                least = as_dict(stated.get("requests")).get(what)
                if (quantity(least) or 0) > (quantity(most) or 0):
                    yield pod.finding(
                        "resources",
                        f"{container.get('name')}: requests more {what} than its limit",
                        *where,
                        "resources",
                    )


@rule("security")
def security(bundle: Bundle) -> Iterator[Finding]:
    """What the pod security standard `restricted` asks for, and a root file system that nobody changes."""
    for pod in bundle.pods():
        own = as_dict(pod.get("securityContext"))
        if own.get("runAsNonRoot") is not True:
            yield pod.finding(
                "security", "securityContext.runAsNonRoot must be true", "securityContext"
            )
        if own.get("runAsUser") != 1000:
            yield pod.finding(
                "security",
                "securityContext.runAsUser must be 1000: sshd and ssh need a user whom the image knows",
                "securityContext",
            )
        if as_dict(own.get("seccompProfile")).get("type") not in ("RuntimeDefault", "Localhost"):
            yield pod.finding(
                "security",
                "securityContext.seccompProfile.type must be RuntimeDefault",
                "securityContext",
            )
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(field):
                yield pod.finding("security", f"{field} shares the node's own", field)
        for where, container in pod.containers():
            mine, name = as_dict(container.get("securityContext")), container.get("name")
            if mine.get("allowPrivilegeEscalation") is not False:
                yield pod.finding(
                    "security",
                    f"{name}: allowPrivilegeEscalation must be false",
                    *where,
                    "securityContext",
                )
            if mine.get("readOnlyRootFilesystem") is not True:
                yield pod.finding(
                    "security",
                    f"{name}: readOnlyRootFilesystem must be true",
                    *where,
                    "securityContext",
                )
            if "ALL" not in as_list(as_dict(mine.get("capabilities")).get("drop")) or as_dict(
                mine.get("capabilities")
            ).get("add"):
                yield pod.finding(
                    "security",
                    f"{name}: capabilities must drop ALL and add none",
                    *where,
                    "securityContext",
                )
            for field, allowed in (
                ("privileged", False),
                ("runAsNonRoot", True),
                ("runAsUser", 1000),
            ):
                if mine.get(field, allowed) != allowed:
                    yield pod.finding(
                        "security",
                        f"{name}: {field} must be {allowed}",
                        *where,
                        "securityContext",
                        field,
                    )


@rule("token")
def token(bundle: Bundle) -> Iterator[Finding]:
    """Nothing in a pod here talks to the API server; a token would only be one more thing to steal."""
    for pod in bundle.pods():
        if pod.get("automountServiceAccountToken") is not False:
            yield pod.finding(
                "token",
                "automountServiceAccountToken must be false",
                "automountServiceAccountToken",
            )


@rule("volumes")
def volumes(bundle: Bundle) -> Iterator[Finding]:
    """A mount without its volume is refused by the API server, for an MPIJob only when its pods are made."""
    for pod in bundle.pods():
        names = [as_dict(volume).get("name") for volume in as_list(pod.get("volumes"))]
        used = set()
        for where, container in pod.containers():
            for index, mount in enumerate(as_list(container.get("volumeMounts"))):
                used.add(as_dict(mount).get("name"))
                if as_dict(mount).get("name") not in names:
                    yield pod.finding(
                        "volumes",
                        f"no volume {as_dict(mount).get('name')} for this mount",
                        *where,
                        "volumeMounts",
                        index,
                    )
        for index, name in enumerate(names):
            if name in names[:index]:
                yield pod.finding("volumes", f"two volumes are called {name}", "volumes", index)
            elif name not in used:
                yield pod.finding("volumes", f"nothing mounts the volume {name}", "volumes", index)


@rule("ports")
def ports(bundle: Bundle) -> Iterator[Finding]:
    """A probe of a port by a name that no port has: the pod is never ready."""
    for pod in bundle.pods():
        for where, container in pod.containers():
            names = [as_dict(port).get("name") for port in as_list(container.get("ports"))]
            for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
                for handler in ("tcpSocket", "httpGet"):
                    port = as_dict(as_dict(container.get(probe)).get(handler)).get("port")
                    if isinstance(port, str) and port not in names:
                        yield pod.finding(
                            "ports",
                            f"{probe} asks port {port}, which no port is called",
                            *where,
                            probe,
                        )
