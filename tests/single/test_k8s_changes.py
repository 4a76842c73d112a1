"""Lint: changes of our manifests by class, refused or ignored by a cluster, and those it accepts.

Each row is a class that one table or rule covers. Where the API server accepts a change, the
scheduler, the kubelet or Kueue ignores it, or no pod ever starts.
"""

from __future__ import annotations

from distsent.k8s.lint import lint
from tests.manifests import CLAIM, CONFIG, JOB, K8S, MPI, NET, RUNTIMES, SPACE, changed

Change = tuple[str, str, str]  # file, text, and its replacement


def after(place: str, *lines: str, file: str = JOB) -> Change:
    """Lines after a line, with its indentation."""
    indent = " " * (len(place) - len(place.lstrip()))
    return file, place + "\n", place + "\n" + "".join(f"{indent}{line}\n" for line in lines)


def add(kind: str, body: str, space: str = ", namespace: distsent", name: str = "x") -> Change:
    """One more manifest. `kind`: with its apiVersion."""
    version, kind = kind.split()
    head = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{space}}}\n{body}\n---\n"
    return NET, "# Network access", f"{head}# Network access"


def pod(*lines: str) -> Change:
    return after("          automountServiceAccountToken: false", *lines)


def env(*lines: str) -> Change:
    return after("                - {name: HOME, value: /home/mpiuser}", *lines)


def container(*lines: str) -> Change:
    return after("              imagePullPolicy: IfNotPresent", *lines)


def volume(text: str) -> Change:
    return JOB, "emptyDir: {sizeLimit: 1Gi}", text


def mount(text: str) -> Change:
    return JOB, "{name: tmp, mountPath: /tmp}", text


def limits(text: str) -> Change:
    return JOB, 'limits: {cpu: "4", memory: 8Gi}', f"limits: {{{text}}}"


def peer(text: str) -> Change:
    before = (
        'podSelector:\n            matchLabels:\n              distsent/tensorboard-client: "true"'
    )
    return NET, before, f"ipBlock: {{{text}}}"


def claim(line: str) -> Change:
    return after("  accessModes: [ReadWriteMany]", f"  {line}".strip(), file=CLAIM)


def image(name: str) -> Change:  # TensorBoard's: an MPIJob's two images must be the same
    return "50-tensorboard.yaml", "image: distsent:0.1.0", f"image: {name}"


def spread(selector: str) -> Change:
    head = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: "
    return pod(f"{head}DoNotSchedule{selector and f', labelSelector: {{{selector}}}'}}}]")


def nodes(term: str) -> Change:
    head = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
    return pod(f"{head}{{nodeSelectorTerms: [{{{term}}}]}}}}}}")


def child(line: str) -> Change:
    return after("            backoffLimit: 0", line, file=RUNTIMES)


ROLE, BINDING = "rbac.authorization.k8s.io/v1 Role", "rbac.authorization.k8s.io/v1 RoleBinding"
PRIORITY, BUDGET = "scheduling.k8s.io/v1 PriorityClass", "policy/v1 PodDisruptionBudget"
RULES = "Types: [Ingress]\n  ingress:\n    - from:\n        - podSelector:\n            m"
VIEW = "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n"
ENFORCE = "pod-security.kubernetes.io/enforce: restricted"


def role(rule: str) -> Change:
    return add(ROLE, f"rules: [{{{rule}}}]")


def secret(kind: str, data: str) -> Change:
    return add("v1 Secret", f"type: {kind}\n{data}")


def resource(name: str, divisor: str) -> Change:
    reference = f"{{resource: {name}, divisor: {divisor}}}"
    return env(f"- {{name: X, valueFrom: {{resourceFieldRef: {reference}}}}}")


def config(reference: str) -> Change:
    return env(f"- {{name: X, valueFrom: {{configMapKeyRef: {{{reference}}}}}}}")


# By class: changes that are findings, with a part of the message.
FOUND: dict[str, list[tuple[Change, str]]] = {
    "network": [
        (peer("cidr: 10.0.0.0/8, except: [192.168.0.0/16]"), "192.168.0.0/16 is no smaller part"),
        (peer("cidr: 10.0.0.0/8, except: [10.0.0.0/8]"), "no smaller part"),
        (peer("cidr: 10.0.0.0/8, except: [10.0.0.0/7]"), "no smaller part"),
        (peer("cidr: 10.0.0.0/8, except: ['fd00::/16']"), "no smaller part"),
        (peer("cidr: 10.0.0.0/8, except: [10.0.0.0.0/16]"), "a network such as"),
        ((NET, RULES, RULES.replace("[Ingress]", "[Egress]")), "with Ingress, or without"),
        ((NET, "{port: http,", "{port: htp,"), "its pods have no port htp"),
        ((NET, "/name: tensorboard", "/name: tensorbord"), "did you mean app.kubernetes.io/"),
    ],
    "keys": [
        ((CONFIG, "\ndata:\n", "\nbinaryData: {imdb.toml: eHl6}\ndata:\n"), "is in data, too"),
        (secret("Opaque", "stringData: {'a b': x}"), "a key of letters"),
        (secret("kubernetes.io/dockerconfigjson", "data: {config: YQ==}"), ".dockerconfigjson"),
        (secret("kubernetes.io/tls", "data: {tls.crt: YQ==}"), "tls.crt and tls.key"),
        (secret("kubernetes.io/basic-auth", "data: {a: YQ==}"), "username or password"),
        (secret("kubernetes.io/ssh-auth", "data: {key: YQ==}"), "ssh-privatekey"),
        (secret("kubernetes.io/service-account-token", "data: {}"), "service-account.name"),
        (volume("secret: {secretName: a, items: [{key: a b, path: a}]}"), "a key of letters"),
    ],
    "rights": [
        (role("nonResourceURLs: [/metrics], verbs: [get]"), "resources is missing"),
        (role("apiGroups: [v1], resources: [pods], verbs: [get]"), "without version"),
        (role("apiGroups: [batch/v1], resources: [jobs], verbs: [get]"), "without version"),
        (role("apiGroups: [''], resources: [Pods], verbs: [get]"), "plural and lower-case"),
        (role("apiGroups: [''], resources: [pod/log], verbs: [get]"), "plural and lower-case"),
        (role("apiGroups: [''], resources: [pods], verbs: [read]"), "one of get, list"),
        (add(BINDING, VIEW +
             "subjects: [{kind: ServiceAccount, name: gone, namespace: distsent}]"),
         "no manifest creates the ServiceAccount gone"),
    ],
    "references": [
        (config("name: imdb-job, key: gone.toml"), "the ConfigMap imdb-job has no gone.toml"),
        (config("name: gone, key: a"), "no manifest creates the ConfigMap gone"),
        (container("envFrom: [{configMapRef: {name: gone}}]"), "the ConfigMap gone"),
        (volume("projected: {sources: [{configMap: {name: gone}}]}"), "the ConfigMap gone"),
        ((JOB, "{name: imdb-job}", "{name: imdb-job, items: [{key: gone, path: a}]}"), "no gone"),
        (env("- {name: X, valueFrom: {resourceFieldRef: {resource: limits.cpu, "
             "containerName: gone}}}"), "no container gone"),
        (claim("volumeMode: Block"), "must be Filesystem"),
    ],
    "variables": [
        (env("- {name: X, value: $(LATER)/x}", "- {name: LATER, value: a}"), "$(LATER) is not set"),
        ((JOB, "run.dir=/shared/runs", "run.dir=/shared/$(RUNS)"), "$(RUNS) is not set before"),
        (mount("{name: tmp, mountPath: /tmp, subPathExpr: $(NO)/x}"), "$(NO) is not set"),
        (container("envFrom: [{prefix: 'a=', configMapRef: {name: imdb-job}}]"), "without ="),
        (resource("limits.cpu", "3"), "0, 1"),
        (resource("limits.memory", "1m"), "such as 1Mi"),
        (env("- {name: X, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: metadata.name}}}"),
         "one of v1"),
    ],
    "names": [
        (limits("cpu: 4, memory: 8Gi, kubernetes.io/gpu: 1"), "a name such as nvidia.com/gpu"),
        (limits("cpu: 4, memory: 8Gi, requests.nvidia.com/gpu: 1"), "a name such as nvidia.com"),
        (limits("cpu: 4, memory: 8Gi, hugepages-xMi: 2Mi"), "a name such as nvidia.com/gpu"),
        (after("    app.kubernetes.io/name: distsent", "a..b/c: d"), "after a domain and /"),
        ((CLAIM, "name: shared", "name: shared.-x"), "a name of lower-case letters"),
        (image("Distsent:0.1.0"), "a name such as registry:5000/"),
        (image("https://registry/distsent:0.1.0"), "a name such as registry:5000/"),
        (image("distsent@sha256:abc"), "a name such as registry:5000/"),
        (image("distsent:0.1.0:x"), "a name such as registry:5000/"),
        ((MPI, "    numNodes: 4", "    image: D:1\n    numNodes: 4"), "a name such as registry"),
    ],
    "placement": [
        (spread("matchLabels: {app: gone}"), "does not select this pod"),
        (spread("matchLabels: {training.kubeflow.org/job-name: other}"), "not select this pod"),
        (spread(""), "does not select this pod"),
        (nodes(""), "nodeSelectorTerms[0] = {}: must be"),
        (nodes("matchFields: [{key: metadata.labels, operator: In, values: [a]}]"), "metadata.n"),
        (nodes("matchFields: [{key: metadata.name, operator: In, values: [a, b]}]"), "one name"),
        (nodes("matchExpressions: [{key: a, operator: In, values: [a b]}]"), "letters, digits"),
        (pod("schedulerName: a b"), "a name"),
        (pod("nodeName: a b"), "a name"),
    ],
    "mounts": [
        (mount("{name: tmp, mountPath: /tmp}\n                - {name: tmp, mountPath: /tmp/}"),
         "/tmp appears a second time"),
        (after("            fsGroup: 1000", "sysctls: [{name: net.ipv4.tcp_rmem, value: '1'}, "
               "{name: net.ipv4.tcp_rmem, value: '2'}]"), "a second time"),
    ],
    "claims": [
        ((CLAIM, "storage: 100Gi", "memory: 100Gi"), "storage is missing"),
        (claim("volumeName: A_b"), "a name of"),
        (claim("dataSource: {kind: Pod, name: a}"), "PersistentVolumeClaim, VolumeSnapshot"),
    ],
    "jobs": [
        (child("successPolicy: {rules: [{}]}"), "successPolicy.rules[0] = {}"),
        (child("manualSelector: true"), "one of False"),
    ],
    "cluster": [
        (add(PRIORITY, "value: 2000000000", ""), "1000000000 or less"),
        (pod("preemptionPolicy: Never"), "one of PreemptLowerPriority"),
        (add("v1 ResourceQuota", "spec: {hard: {gpu: 1}}"), "a name such as limits.cpu"),
        (add("v1 LimitRange", "spec: {limits: [{type: container}]}"), "Pod, Container"),
        (add(PRIORITY, "value: 5", "", "system-x"), "does not begin with system-"),
        (add(PRIORITY, "value: 5\npreemptionPolicy: Sometimes", ""), "PreemptLowerPriority, Never"),
        (add(BUDGET, "spec: {minAvailable: 1, maxUnavailable: 1}"), "not both"),
        (add(BUDGET, "spec: {minAvailable: 150%}"), "at most 100%"),
        ((SPACE, ENFORCE, ENFORCE.replace("enforce", "enforced")), "enforce, warn or audit"),
    ],
}  # fmt: skip

FINE: dict[str, list[Change]] = {
    "network": [
        peer("cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.3.0/24]"),
        peer("cidr: 'fd00::/8', except: ['fd00:1::/32']"),
        peer("cidr: 0.0.0.0/0, except: [169.254.169.254/32]"),
        (NET, "{port: http,", "{port: 9999,"),
        (NET, "{port: http, protocol: TCP}", "{protocol: TCP}"),
        (NET, "/name: tensorboard", "/name: database"),
        add("networking.k8s.io/v1 NetworkPolicy", "spec: {podSelector: {}, policyTypes: [Egress], "
            "egress: [{ports: [{port: 53, protocol: UDP}], to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}"),
    ],
    "keys": [
        (CONFIG, "\ndata:\n", "\nbinaryData: {vocab: eHl6}\ndata:\n"),
        secret("kubernetes.io/dockerconfigjson", "stringData: {.dockerconfigjson: '{}'}"),
        secret("kubernetes.io/tls", "data: {tls.crt: '', tls.key: ''}"),
        secret("example.com/mine", "data: {token: ''}\nstringData: {token: b}"),
    ],
    "rights": [
        add("rbac.authorization.k8s.io/v1 ClusterRole",
            "rules: [{nonResourceURLs: [/metrics], verbs: [get]}]", ""),
        role("apiGroups: ['', batch], resources: [pods/log, jobs], verbs: [get, list, watch]"),
        role("apiGroups: ['*'], resources: ['*'], verbs: ['*']"),
        add(BINDING, VIEW +
            "subjects: [{kind: User, name: a@b.c}, {kind: Group, name: 'system:nodes'}, "
            "{kind: ServiceAccount, name: default, namespace: distsent}, "
            "{kind: ServiceAccount, name: a, namespace: b}]"),
    ],
    "references": [
        pod("serviceAccountName: default", "imagePullSecrets: [{name: registry}]"),
        pod("serviceAccountName: made-by-somebody-else"),
        config("name: imdb-job, key: imdb.toml"),
        config("name: gone, key: a, optional: true"),
        env("- {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}"),
        container("envFrom: [{secretRef: {name: a}}, {configMapRef: {name: x, optional: true}}]"),
        claim("volumeMode: Filesystem"),
    ],
    "variables": [
        env("- {name: X, value: $(HOME)/x $$(NO) $(date)}", "- {name: Y, value: $(X)}"),
        mount("{name: tmp, mountPath: /tmp, subPathExpr: $(HOME)}"),
        env("- {name: X, value: $(KUBERNETES_SERVICE_HOST)}"),
        resource("limits.cpu", "1m"),
        resource("requests.memory", "1Mi"),
    ],
    "names": [
        limits("cpu: 4000m, memory: 8192Mi, ephemeral-storage: 10Gi, nvidia.com/mig-1g.10gb: 1"),
        limits("cpu: +4, memory: 8Gi"),
        limits("cpu: 4., memory: 1e10"),
        limits("cpu: 4000000u, memory: 8Gi"),
        limits("cpu: 4000000000n, memory: 8Gi"),
        after("    app.kubernetes.io/name: distsent", "a.b-c.d/E_f-g.h: x"),
        image("r.io:5000/team/a__b/distsent:0.1.0_x"),
        image(f"r.io/distsent@sha256:{'0f' * 32}"),
    ],
    "placement": [
        spread("matchLabels: {training.kubeflow.org/job-name: imdb}"),
        spread("matchExpressions: [{key: training.kubeflow.org/replica-index, operator: Exists}]"),
        nodes("matchFields: [{key: metadata.name, operator: In, values: [node-1.example.com]}]"),
        pod("schedulerName: volcano", "nodeName: node-1.example.com"),
    ],
    "mounts": [volume("image: {reference: 'r.io/data:1'}")],
    "claims": [
        claim("volumeName: pv-1"),
        claim("dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: a}"),
    ],
    "jobs": [child("manualSelector: false")],
    "cluster": [
        pod("preemptionPolicy: Never", "priorityClassName: low"),
        add("v1 ResourceQuota", "spec: {hard: {requests.nvidia.com/gpu: 8, pods: 20, "
            "limits.memory: 100Gi, persistentvolumeclaims: 3, count/jobs.batch: 5}}"),
        add("v1 LimitRange", "spec: {limits: [{type: Container, default: {cpu: 0.5}}]}"),
        add(PRIORITY, "value: -5\nglobalDefault: false\npreemptionPolicy: Never", ""),
        add(BUDGET, "spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}"),
        (SPACE, ENFORCE, f"{ENFORCE}\n    team: nlp"),
    ],
}  # fmt: skip


def test_each_class_of_changes_that_a_cluster_refuses_or_ignores_is_found(tmp_path):
    cases = [(kind, *case) for kind, some in FOUND.items() for case in some]
    missed = []
    for number, (kind, change, says) in enumerate(cases):
        found = [each.message for each in lint([changed(tmp_path / str(number), *change)])[0]]
        missed += [] if any(says in each for each in found) else [(kind, change[2], says, found)]
    assert not missed and len(cases) > 60


def test_changes_of_these_classes_that_a_cluster_accepts_are_no_findings(tmp_path):
    cases = [(kind, change) for kind, some in FINE.items() for change in some]
    alarms = []
    for number, (kind, change) in enumerate(cases):
        found = lint([changed(tmp_path / str(number), *change)])[0]
        alarms += [(kind, change[2], found[0].message)] if found else []
    assert not alarms and FINE.keys() == FOUND.keys()


def test_queues_and_the_jobs_in_them(tmp_path):
    """Kueue refuses such a queue, or never admits the job, which stays suspended."""
    queues, gpu = (K8S / "kueue/queues.yaml").read_text(), "limits: {nvidia.com/gpu: 1, cpu: "
    for before, after, says in (
        ("", "", ""),
        ("{name: cpu,", "{name: gpu,", "in this order"),
        ("coveredResources: [cpu", "coveredResources: [nvidia.com/gpu, cpu", "in this order"),
        ("        - name: any-node", "        - name: other", "creates the ResourceFlavor other"),
        ("clusterQueue: ", "clusterQueue: x-", "no manifest creates the ClusterQueue x-"),
        ("GPU", "", "has no nvidia.com/gpu"),
    ):
        text = queues if before == "GPU" else queues.replace(before, after, 1)
        assert text != queues or before in ("GPU", ""), before
        folder = changed(tmp_path, JOB, "  runPolicy:\n", "  runPolicy:\n    suspend: true\n")
        job = (folder / JOB).read_text().replace("  labels:\n", "  labels:\n    kueue.x-k8s.io/"
                                                 "queue-name: training\n", 1)  # fmt: skip
        job = job.replace('limits: {cpu: "4"', f'{gpu}"4"') if before == "GPU" else job
        (folder / JOB).write_text(job)
        (folder / "queues.yaml").write_text(text)
        found = [each.message for each in lint([folder])[0]]
        assert any(says in each for each in found) if says else not found, (before, found)
