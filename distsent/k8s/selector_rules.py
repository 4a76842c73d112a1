"""Rules about label selectors: what selects no pod is accepted, and ignored."""

from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from ipaddress import ip_network

from distsent.k8s.documents import Node, Problem
from distsent.k8s.jobs import Bundle, Pod, pods_of

# Labels that pods have only in a cluster begin with these.
ADDED = ("training.kubeflow.org/", "jobset.sigs.k8s.io/", "batch.kubernetes.io/", "controller-")


def selector_problems(bundle: Bundle) -> Iterator[Problem]:
    pods = [pod for manifest in bundle.known for pod in pods_of(manifest)]
    for manifest in bundle.manifests:
        node = manifest.at("spec", "selector")
        near = [pod for pod in pods if pod.namespace == manifest.namespace]
        # The API server refuses a Deployment that does not select its own pods.
        if manifest.kind == "Deployment" and not selects(node, pods_of(manifest)[0]):
            yield "selector", node, "does not select its own pods"
        elif manifest.kind == "Service":
            chosen = [pod for pod in near if node.mapping.items() <= pod.labels.items()]
            if node and not chosen:
                yield "selector", node, "selects no pod"
            yield from unknown_ports(chosen, *manifest.at("spec", "ports"))
        elif manifest.kind == "NetworkPolicy":
            yield from policy_problems(manifest, near)
    # Without a policy every pod of the cluster can connect to sshd, Horovod and TensorBoard.
    policies = [manifest for manifest in bundle.known if manifest.kind == "NetworkPolicy"]
    for pod in bundle.pods:
        yield from spread_problems(pod)
        some = [policy for policy in policies if policy.namespace == pod.namespace]
        if not any(selects(policy.at("spec", "podSelector"), pod) for policy in some):
            yield "network", pod.spec, "no NetworkPolicy says which pods may connect to it"


def unknown_ports(pods: list[Pod], *ports: Node) -> Iterator[Problem]:
    """Ports, by name or of a Service, that no container of pods has."""
    known = [port for pod in pods for each in pod.containers for port in each["ports"]]
    values = [port[key].value for port in known for key in ("name", "containerPort")]
    for port in ports:
        target = port["targetPort"].value or port["port"].value
        if pods and target not in values:
            yield "selector", port, f"its pods have no port {target}"


def policy_problems(policy: Node, near: list[Pod]) -> Iterator[Problem]:
    """A policy may be for other pods; but a value like that of these pods' labels is a mistake."""
    selector = policy.at("spec", "podSelector")
    chosen = [pod for pod in near if selects(selector, pod)]
    for key, value in selector["matchLabels"].mapping.items() if not chosen else ():
        known = [str(pod.labels[key]) for pod in near if key in pod.labels]
        for close in get_close_matches(str(value), {*known} - {value}, 1, 0.8):
            yield "selector", selector, f"selects no pod; did you mean {key}: {close}?"
    for rule in policy.at("spec", "ingress"):  # a number needs no port of a container
        names = [each for each in rule["ports"] if not each["port"].text.isdigit()]
        yield from unknown_ports(chosen, *(each for each in names if each["port"]))
    for block, part in (
        (each, part) for each in policy.named("ipBlock") for part in each["except"]
    ):
        with suppress(ValueError):  # another finding names what is no network
            whole, less = (ip_network(each.text, strict=False) for each in (block["cidr"], part))
            bits = whole.prefixlen
            if less.prefixlen <= bits or less.supernet(new_prefix=bits) != whole:
                yield "selector", part, f"{part.text} is no smaller part of cidr {whole}"


def spread_problems(pod: Pod) -> Iterator[Problem]:
    for constraint in pod.spec["topologySpreadConstraints"]:
        selector = constraint["labelSelector"]
        keys = [*selector["matchLabels"].mapping, *(each.text for each in selector.named("key"))]
        is_known = not any(key.startswith(ADDED) and key not in pod.labels for key in keys)
        if is_known and (selector.value is None or not selects(selector, pod)):
            yield "selector", constraint, "its labelSelector does not select this pod: no effect"


def selects(selector: Node, pod: Pod) -> bool:
    """Whether a label selector matches."""
    matches = [selector["matchLabels"].mapping.items() <= pod.labels.items()]
    for expression in selector["matchExpressions"]:
        known = expression["key"].text in pod.labels
        among = pod.labels.get(expression["key"].text) in (expression["values"].value or ())
        results = {"Exists": known, "DoesNotExist": not known, "In": among, "NotIn": not among}
        matches.append(results.get(expression["operator"].text, False))
    return all(matches)
