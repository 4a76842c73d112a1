"""Rules about what manifests name: other objects and their keys, variables, containers, queues."""

import re
from collections.abc import Iterator
from itertools import product

from distsent.k8s.documents import Node, Problem
from distsent.k8s.jobs import DELETE_EVICTED, QUEUE, WITH_PODS, Bundle, Job, Pod

ACCOUNT, CLAIM, CONFIG_MAP = "ServiceAccount", "PersistentVolumeClaim", "ConfigMap"
# The fields of a pod that name such an object.
WITH_KEYS = {CONFIG_MAP: ("configMap", "configMapKeyRef", "configMapRef")}
WITH_KEYS |= {"Secret": ("secret", "secretKeyRef", "secretRef")}
DATA = ("data", "binaryData", "stringData")
# $(date) in a shell's command is the shell's; cluster and operators set variables of their own.
VARIABLE = re.compile(
    r"(?<!\$)\$\((?!PET_|OMPI_|K_|JOB_)([A-Z_][A-Z0-9_]*)(?<!_SERVICE_HOST)(?<!_SERVICE_PORT)\)"
)


def reference_problems(bundle: Bundle) -> Iterator[Problem]:
    pods = [*bundle.pods, *(pod for job in bundle.trainjobs for pod in job.pods)]
    for rules, pod in product((claims, keys, accounts, variables), pods):
        yield from rules(bundle, pod)
    for manifest in bundle.manifests:
        yield from bindings(bundle, manifest)
        yield from queues(bundle, manifest)
        for key in manifest["data"].mapping.keys() & manifest["binaryData"].mapping.keys():
            yield "keys", manifest["binaryData"][key], f"{key} is in data, too"
    for job in bundle.jobs:
        yield from queued(bundle, job)


def claims(bundle: Bundle, pod: Pod) -> Iterator[Problem]:
    for volume in pod.spec["volumes"]:
        name = volume.at("persistentVolumeClaim", "claimName").text
        found = bundle.find(CLAIM, pod.namespace, name)
        # A pod that names a missing claim is never scheduled.
        if name and not found:
            yield "exists", volume, f"no manifest creates the {CLAIM} {name}"
        elif found:
            # Pods of several nodes mount it: with another access mode only the first node can.
            modes, is_shared = found.at("spec", "accessModes"), pod.spec.root.kind in WITH_PODS
            if is_shared and "ReadWriteMany" not in modes.text:
                yield "shared", volume, f"the claim {name} must be ReadWriteMany ({modes.place})"


def keys(bundle: Bundle, pod: Pod) -> Iterator[Problem]:
    """Without its ConfigMap, Secret, or a key of it, a container is never created."""
    for kind, fields in WITH_KEYS.items():
        for reference in pod.spec.named(*fields):
            name = reference["name"].text or reference["secretName"].text
            found = bundle.find(kind, pod.namespace, name)
            if reference["optional"] or not name:
                continue
            if found is None and kind == CONFIG_MAP:  # Secrets are not kept with manifests
                yield "exists", reference, f"no manifest creates the {kind} {name}"
            for key in reference.named("key"):
                if found and not any(key.text in found[each].mapping for each in DATA):
                    yield "exists", key, f"the {kind} {name} has no {key.text} ({found.place})"


def accounts(bundle: Bundle, pod: Pod) -> Iterator[Problem]:
    """Without its account a pod is refused. Where no manifest makes any, somebody else does."""
    account, deletes = pod.spec["serviceAccountName"], DELETE_EVICTED in pod.command
    own = {(each.namespace, each.name) for each in bundle.known if each.kind == ACCOUNT}
    wrong = deletes or (own and account.text not in ("", "default"))
    if wrong and (pod.namespace, account.text) not in own:
        yield "exists", account, f"no manifest creates the {ACCOUNT} {account.text or '(none)'}"


def variables(_: Bundle, pod: Pod) -> Iterator[Problem]:
    """`$(NAME)` is replaced only by what is set, in `env` by what is set before."""
    names = {container["name"].text for container in pod.containers}
    for name in (each["containerName"] for each in pod.spec.named("resourceFieldRef")):
        if name and name.text not in names:
            yield "containers", name, f"no container {name.text}"
    known: set[str] = set()
    texts = [(each["value"], each["value"].text, each["name"].text) for each in pod.env]
    texts += [(pod.command_node, word, "") for word in pod.command]
    texts += [(mount["subPathExpr"], mount["subPathExpr"].text, "") for mount in pod.mounts]
    for node, text, name in texts:
        for variable in VARIABLE.findall(text):
            if variable not in known and not pod.main["envFrom"]:
                yield "variables", node, f"$({variable}) is not set before: it stays as it is"
        known.add(name)


def bindings(bundle: Bundle, manifest: Node) -> Iterator[Problem]:
    space = manifest.namespace
    named = [each for each in manifest["subjects"] if each["namespace"].text == space]
    for node in (manifest["roleRef"], *named):
        kind, name = node["kind"].text, node["name"].text
        is_ours = kind in ("Role", ACCOUNT) and name != "default"
        if is_ours and not bundle.find(kind, space, name):
            yield "exists", node, f"no manifest creates the {kind} {name}"


def queues(bundle: Bundle, manifest: Node) -> Iterator[Problem]:
    """What Kueue refuses, or never admits a job to."""
    named = [("ClusterQueue", manifest.at("spec", "clusterQueue"))]
    for group in manifest.at("spec", "resourceGroups"):
        covered = group["coveredResources"]
        for flavor in group["flavors"]:
            named.append(("ResourceFlavor", flavor["name"]))
            if [each["name"].text for each in flavor["resources"]] != covered.value:
                text = ", ".join(map(str, covered.value))
                yield "queue", flavor, f"its resources must be {text}, in this order"
    for kind, node in named:
        # Where no manifest makes one of its kind, somebody else does.
        names = [each.name for each in bundle.known if each.kind == kind]
        if node and names and node.text not in names:
            yield "exists", node, f"no manifest creates the {kind} {node.text}"


def queued(bundle: Bundle, job: Job) -> Iterator[Problem]:
    """A job that asks for what its queue lacks stays suspended for ever, without an event."""
    label = job.manifest.at("metadata", "labels", QUEUE)
    local = bundle.find("LocalQueue", job.manifest.namespace, label.text)
    queue = local and bundle.find("ClusterQueue", "", local.at("spec", "clusterQueue").text)
    if not queue:
        return
    covered = {each.text for names in queue.named("coveredResources") for each in names}
    for resources in (each["resources"] for pod in job.pods for each in pod.containers):
        asked = resources["limits"].mapping | resources["requests"].mapping
        for name in sorted(asked.keys() - covered):
            yield "queue", resources, f"the ClusterQueue {queue.name} has no {name} ({queue.place})"
