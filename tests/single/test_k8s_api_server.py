"""Lint: values that the API server, JobSet or Trainer refuse, though the schemas allow them.

From the sources of Kubernetes 1.33, JobSet v0.12 and Kubeflow Trainer v2.3.
"""

from __future__ import annotations

from distsent.k8s.lint import lint
from tests.manifests import CLAIM, CONFIG, JOB, K8S, MPI, NET, RUNTIMES, SPACE, TB, TORCH, changed

Place = tuple[str, str, str]  # file, a text in it, and what replaces that: %s is the case's own


def after(file: str, line: str, deeper: str = "") -> Place:
    """A new line after a line, with its indentation or deeper."""
    indent = line[: len(line) - len(line.lstrip())] + deeper
    return file, f"{line}\n", f"{line}\n{indent}%s\n"


def instead(file: str, text: str) -> Place:
    return file, text, "%s"


POD = after(JOB, "          automountServiceAccountToken: false")
SECURITY = after(JOB, "            fsGroup: 1000")
CONTAINER = after(JOB, "              imagePullPolicy: IfNotPresent")
MOUNT = instead(JOB, "{name: tmp, mountPath: /tmp}")
VOLUME = instead(JOB, "emptyDir: {sizeLimit: 1Gi}")
LIMITS = instead(JOB, 'limits: {cpu: "4", memory: 8Gi}')
DEPLOYMENT = after(TB, "  replicas: 1")
PORTS = "    - {name: http, port: 80, targetPort: http, protocol: TCP}"
SERVICE = TB, PORTS, f"{PORTS}\n  %s"
PEER = instead(
    NET,
    'podSelector:\n            matchLabels:\n              distsent/tensorboard-client: "true"',
)
POLICY_PORT = instead(NET, "{port: http, protocol: TCP}")
JOBSET = after(RUNTIMES, "      ttlSecondsAfterFinished: 604800")
RUNTIME = after(RUNTIMES, "spec:", "  ")
CHILD = after(RUNTIMES, "            backoffLimit: 0")
RULE = after(RUNTIMES, "              rules:")
TRAINJOB = after(MPI, "spec:", "  ")

ALLOWED = "limits: {cpu: 1, memory: 1Gi}}, securityContext: {allowPrivilegeEscalation: false, "
ALLOWED += "readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}"
INIT = f"initContainers: [{{name: i, image: 'a:1', resources: {{{ALLOWED}, "
CONSTRAINT = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: "
NODE = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {"
NODE += "nodeSelectorTerms: [%s]}}}"
NEAR = "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{%s}]}}"
EXITS = "containerName: node, operator: In, values: [9]"

# For each place: the text, and a part of the message.
REFUSED: dict[Place, list[tuple[str, str]]] = {
    POD: [
        (INIT + "readinessProbe: {tcpSocket: {port: 1}}}]", "without probes"),
        (INIT + "restartPolicy: OnFailure}]", "one of Always"),
        ("hostAliases: [{ip: 10.0.0.1, hostnames: [a_b]}]", "hostnames[0]"),
        ("hostAliases: [{ip: 10.0.0.999, hostnames: [a]}]", "an IP address"),
        ("dnsPolicy: None", "dnsConfig is missing"),
        ("dnsConfig: {nameservers: [dns.example]}", "an IP address"),
        ("dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}", "one to three"),
        ("dnsConfig: {searches: [a_b!]}", "a domain"),
        ("dnsConfig: {options: [{value: a}]}", "name is missing"),
        (CONSTRAINT + "ScheduleAnyway, minDomains: 2}]", "one of DoNotSchedule"),
        (CONSTRAINT + "ScheduleAnyway, nodeTaintsPolicy: Yes}]", "Honor"),
        (CONSTRAINT + "DoNotSchedule, matchLabelKeys: [a]}]", "labelSelector is missing"),
        (NODE % "", "not empty"),
        (NODE % "{matchExpressions: [{key: a, operator: In}]}", "values is missing"),
        (NODE % "{matchExpressions: [{key: a, operator: Exists, values: [x]}]}", "missing for"),
        (NODE % "{matchExpressions: [{key: a, operator: Gt, values: [x]}]}", "a whole number"),
        (NEAR % "topologyKey: ''", "topologyKey"),
        (NEAR % "topologyKey: a, namespaces: [A_b]", "namespaces[0]"),
        ("os: {name: windows}", "one of linux"),
        ("runtimeClassName: N_V", "a name"),
        ("priority: 5", "priorityClassName sets it"),
        ("overhead: {cpu: 1}", "runtimeClassName sets it"),
        ("nodeName: a\n          schedulingGates: [{name: a.b/c}]", "without nodeName"),
        ("tolerations: [{key: a b, operator: Exists}]", "a name as of a label"),
        ("tolerations: [{key: a, value: a b}]", "letters, digits"),
        ("readinessGates: [{conditionType: a b}]", "conditionType"),
        ("resourceClaims: [{name: x}]", "exactly one of resourceClaimName"),
    ],
    SECURITY: [
        ("supplementalGroupsPolicy: Merged", "Merge, Strict"),
        ("seLinuxChangePolicy: recursive", "Recursive, MountOption"),
    ],
    CONTAINER: [
        ("restartPolicy: Always", "without restartPolicy"),
        ("envFrom: [{prefix: A_}]", "exactly one of configMapRef"),
        ("lifecycle: {preStop: {sleep: {seconds: 500}}}", "more than the 180 s"),
        ("livenessProbe: {exec: {command: []}}", "not empty"),
        ("livenessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 0}", "1 or more"),
        (
            "readinessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 9}",
            "without termination",
        ),
        ("readinessProbe: {httpGet: {port: 1, httpHeaders: [{name: a b, value: x}]}}", "digits"),
        ("ports: [{containerPort: 1, hostIP: x}]", "an IP address"),
        ("resizePolicy: [{resourceName: gpu, restartPolicy: NotRequired}]", "cpu, memory"),
    ],
    MOUNT: [
        ("{name: tmp, mountPath: /tmp, subPath: a, subPathExpr: b}", "without subPathExpr"),
        ("{name: tmp, mountPath: /tmp, mountPropagation: Bidirectional}", "HostToContainer"),
        ("{name: tmp, mountPath: /tmp, recursiveReadOnly: Enabled}", "readOnly is missing"),
    ],
    VOLUME: [
        ("projected: {sources: [{}]}", "exactly one source"),
        ("projected: {sources: [{configMap: {name: a}, secret: {name: b}}]}", "exactly one source"),
        ("downwardAPI: {items: [{path: a, fieldRef: {fieldPath: spec.nodeName}}]}", "a field such"),
        ("downwardAPI: {items: [{path: a}]}", "exactly one of fieldRef"),
        ("ephemeral: {}", "volumeClaimTemplate is missing"),
        ("emptyDir: {medium: memory}", "Memory, HugePages"),
    ],
    LIMITS: [
        ("limits: {cpu: 4, memory: 8Gi, hugepages-2Mi: 3Mi}", "a multiple of 2Mi"),
        ("limits: {cpu: 4, memory: 8Gi, storage: 1Gi}", "ephemeral-storage"),
    ],
    instead(JOB, 'requests: {cpu: "4",'): [
        ("requests: {hugepages-2Mi: 2Mi, cpu: 4,", "needs a limit")
    ],
    instead(JOB, "type: RuntimeDefault"): [
        ("type: Localhost\n              localhostProfile: /a", "a relative path"),
    ],
    after(JOB, "  namespace: distsent"): [("finalizers: [abc]", "a name with a domain")],
    instead(CONFIG, "  imdb.toml: |"): [('  "..a": x\n  imdb.toml: |', "a key of letters")],
    instead(CONFIG, "\ndata:\n"): [("\nbinaryData: {x: '*!'}\ndata:\n", "must be base64")],
    instead(SPACE, "enforce: restricted"): [
        ("enforce-version: '1.33'", "a version such as v1.33"),
    ],
    instead(CLAIM, "accessModes: [ReadWriteMany]"): [
        ("accessModes: []", "not empty"),
        ("accessModes: [ReadWriteMany, ReadWriteOncePod]", "ReadWriteOncePod alone"),
        ("storageClassName: A_b\n  accessModes: [ReadWriteMany]", "storageClassName"),
    ],
    SERVICE: [
        ("clusterIP: any", "None or an IP address"),
        ("type: ExternalName", "externalName is missing"),
        ("type: LoadBalancer\n  clusterIP: None", "or type ClusterIP"),
        ("externalTrafficPolicy: Local", "type NodePort or LoadBalancer"),
        ("internalTrafficPolicy: local", "Cluster, Local"),
        ("ipFamilyPolicy: Dual", "PreferDualStack"),
        ("sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}", "sessionAffinity ClientIP"),
        ("externalIPs: [x]", "an IP address"),
        ("trafficDistribution: Near", "PreferClose"),
    ],
    instead(TB, "targetPort: http,"): [("targetPort: http, nodePort: 30000,", "type NodePort")],
    DEPLOYMENT: [
        ("strategy: {type: Rolling}", "RollingUpdate, Recreate"),
        ("strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}", "without rollingUpdate"),
        ("strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}", "above 0"),
        ("strategy: {rollingUpdate: {maxSurge: many}}", "a percentage"),
        ("strategy: {rollingUpdate: {maxUnavailable: 101%}}", "at most 100%"),
        ("minReadySeconds: 600", "599 or less"),
        ("progressDeadlineSeconds: 0", "1 or more"),
    ],
    PEER: [
        ("{}", "with podSelector"),
        ("podSelector: {}\n          ipBlock: {cidr: 10.0.0.0/8}", "ipBlock alone"),
        ("ipBlock: {cidr: 10.0.0.0}", "a network such as"),
    ],
    POLICY_PORT: [
        ("{port: 80, endPort: 70}", "in increasing order"),
        ("{port: http, endPort: 7000}", "a whole number"),
    ],
    instead(NET, "operator: Exists}"): [
        ("operator: In}", "values is missing"),
        ("operator: Exists, values: [a]}", "missing for its operator"),
    ],
    # JobSet and Trainer.
    JOBSET: [
        ("network: {subdomain: A_b}", "letter first"),
        ("startupPolicy: {startupPolicyOrder: InOrder}", "AnyOrder"),
    ],
    CHILD: [
        ("maxFailedIndexes: 1", "backoffLimitPerIndex is missing"),
        ("managedBy: me", "a name with a domain"),
        ("selector: {matchLabels: {a: b}}", "the controller makes it"),
    ],
    RULE: [
        ("- {action: Count}", "exactly one of onExitCodes"),
        (f"- {{action: Count, onExitCodes: {{{EXITS}}}, onPodConditions: [{{type: A}}]}}", "one"),
        (f"- {{action: FailIndex, onExitCodes: {{{EXITS}}}}}", "FailJob, Ignore, Count"),
        (f"- {{action: Count, onExitCodes: {{{EXITS.replace('node', 'x')}}}}}", "no container x"),
        (f"- {{action: Count, onExitCodes: {{{EXITS.replace('In', 'Is')}}}}}", "In, NotIn"),
        (f"- {{action: Count, onExitCodes: {{{EXITS.replace('9', '0, 9')}}}}}", "1 or more"),
        (f"- {{action: Count, onExitCodes: {{{EXITS.replace('9', '9, 8')}}}}}", "increasing"),
        (f"- {{action: Count, onExitCodes: {{{EXITS.replace('9', '9, 9')}}}}}", "each once"),
        ("- {action: Count, onPodConditions: [{type: A, status: 'yes'}]}", "Unknown"),
    ],
    instead(RUNTIMES, "        replicas: 1\n"): [("        replicas: 2\n", "one of 1")],
    instead(RUNTIMES, "groupName: default"): [("groupName: Default_1", "letter first")],
    instead(RUNTIMES, "- name: saved"): [
        ("- name: is-saved", "letters, digits and _"),
        ("- name: hopeless", "a second time"),
        ("- name: saved\n          targetReplicatedJobs: [worker]", "node, launcher"),
    ],
    instead(RUNTIMES, "    torch: {}"): [("    torch: {numProcPerNode: 4}", "no such field")],
    instead(RUNTIMES, "numProcPerNode: 1"): [("numProcPerNode: 0", "1 or more")],
    instead(RUNTIMES, "Reasons: [PodFailurePolicy]"): [("Reasons: [Failed]", "MaxFailedIndexes")],
    RUNTIME: [("podGroupPolicy: {gang: {}}", "coscheduling, volcano")],
    TRAINJOB: [
        ("activeDeadlineSeconds: 0", "1 or more"),
        ("runtimePatches: [{manager: a}, {manager: a}]", "a second time"),
    ],
    instead(MPI, "numProcPerNode: 1"): [("numProcPerNode: 0", "1 or more")],
}

ACCEPTED: dict[Place, list[str]] = {
    POD: [
        INIT + "restartPolicy: Always, readinessProbe: {tcpSocket: {port: 1}}}]",
        "dnsPolicy: None\n          dnsConfig: {nameservers: [1.1.1.1, 'fd::1'], searches: [a.b]}",
        CONSTRAINT + "DoNotSchedule, minDomains: 2, nodeTaintsPolicy: Honor, labelSelector: {}}]",
        NODE % "{matchExpressions: [{key: a, operator: Gt, values: ['5']}, {key: b, operator: "
        "DoesNotExist}]}",
        "os: {name: linux}\n          runtimeClassName: nvidia\n          schedulerName: volcano",
        "tolerations: [{key: nvidia.com/gpu, value: present}]",  # operator: Equal is the default
        "shareProcessNamespace: true\n          imagePullSecrets: [{name: registry}]",
    ],
    SECURITY: ["supplementalGroupsPolicy: Strict"],
    CONTAINER: [
        "envFrom: [{prefix: A_, configMapRef: {name: imdb-job}}]",
        "lifecycle: {preStop: {sleep: {seconds: 5}}}",
        "livenessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 9}",
    ],
    MOUNT: [
        "{name: tmp, mountPath: /tmp, subPathExpr: $(HOME)}",
        "{name: tmp, mountPath: /tmp, readOnly: true, recursiveReadOnly: IfPossible}",
    ],
    VOLUME: [
        "emptyDir: {medium: HugePages-2Mi, sizeLimit: 1Gi}",
        "projected: {sources: [{configMap: {name: imdb-job}}, {serviceAccountToken: {path: t}}, "
        "{downwardAPI: {items: [{path: a, fieldRef: {fieldPath: metadata.labels}}]}}]}",
        "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: "
        "{requests: {storage: 1Gi}}}}}",
        "secret: {secretName: hf, optional: true, items: [{key: a, path: b/c, mode: 0400}]}",
        "csi: {driver: secrets-store.csi.k8s.io, readOnly: true}",
    ],
    LIMITS: [
        "limits: {cpu: '4.5', memory: 8.5Gi, hugepages-2Mi: 4Mi, rdma/hca_shared: 1}",
    ],
    instead(CONFIG, "\ndata:\n"): ["\nimmutable: true\nbinaryData: {x: eHl6}\ndata:\n"],
    instead(CONFIG, "  imdb.toml: |"): ["  .env: x\n  imdb.toml: |"],
    instead(CLAIM, "accessModes: ["): ['storageClassName: ""\n  accessModes: ['],
    SERVICE: [
        "clusterIP: None\n  ipFamilyPolicy: PreferDualStack",
        "type: LoadBalancer\n  externalTrafficPolicy: Local\n"
        "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}\n"
        "  loadBalancerSourceRanges: [10.0.0.0/8]",
    ],
    DEPLOYMENT: [
        "strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}\n  minReadySeconds: 5",
        "strategy: {type: Recreate}\n  revisionHistoryLimit: 0",
    ],
    PEER: [
        "ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}\n        - namespaceSelector: {}",
    ],
    POLICY_PORT: ["{port: 6006, endPort: 6010}"],
    JOBSET: ["network: {subdomain: demo}\n      startupPolicy: {startupPolicyOrder: AnyOrder}"],
    CHILD: ["completionMode: Indexed\n            activeDeadlineSeconds: 3600"],
    RUNTIME: ["podGroupPolicy: {coscheduling: {scheduleTimeoutSeconds: 100}}"],
    RULE: [f"- {{action: Count, onExitCodes: {{{EXITS}}}}}"],
    TRAINJOB: [
        "suspend: true\n  activeDeadlineSeconds: 3600\n  managedBy: kueue.x-k8s.io/multikueue",
        "runtimePatches: [{manager: a.b/c, trainingRuntimeSpec: {template: {spec: {}}}}]",
    ],
    instead(TORCH, "    numProcPerNode: 1\n"): [
        "    numProcPerNode: 4\n    resourcesPerNode: {limits: {cpu: 32, memory: 64Gi, "
        "nvidia.com/gpu: 4}}\n",
    ],
}


def test_what_the_api_server_refuses_is_found(tmp_path):
    whole = changed(tmp_path / "all", RUNTIMES, "\n", "\n")  # copies of all files
    missed = []
    cases = [(place, *case) for place, some in REFUSED.items() for case in some]
    for (file, before, template), new, says in cases:
        text = (whole / file).read_text()
        assert before in text, before
        alone = tmp_path / f"only-{file}" / file
        alone.parent.mkdir(exist_ok=True)
        alone.write_text(text.replace(before, template.replace("%s", new), 1))
        found = [each.message for each in lint([alone])[0]]
        missed += [] if any(says in each for each in found) else [(new, says, found)]
    assert not missed and len(cases) > 100


def test_what_the_api_server_accepts_is_no_finding(tmp_path):
    cases = [(place, text) for place, some in ACCEPTED.items() for text in some]
    for number, (place, text) in enumerate(cases):
        folder = changed(tmp_path / str(number), *place[:2], place[2].replace("%s", text))
        assert not lint([folder / place[0]])[0], text


GRANT, QUEUES = K8S / "evicted/grant.yaml", K8S / "kueue/queues.yaml"


def test_grants_and_queues(tmp_path):
    """Other files of k8s/, each changed and checked on its own."""
    (tmp_path / SPACE).write_text((K8S / SPACE).read_text())
    for path, before, new, says in (
        (GRANT, "[list, delete]", "[]", "not empty"),
        (GRANT, '  - apiGroups: [""]\n    resources', "  - resources", "apiGroups is missing"),
        (GRANT, "resources: [pods]", "resources: []", "not empty"),
        (GRANT, "kind: Role\n  name", "kind: role\n  name", "ClusterRole"),
        (GRANT, "-launcher\nsubjects", "\nsubjects", "no manifest creates the Role distsent"),
        (GRANT, ", namespace: distsent}", "}", "namespace is missing"),
        (GRANT, "{kind: ServiceAccount", "{kind: Serviceaccount", "ServiceAccount, User, Group"),
        (GRANT, "[list, delete]", '["*"]', ""),
        (QUEUES, "Queue: LowerPriority", "Queue: lowerPriority", "Never, LowerPriority"),
        (QUEUES, "BestEffortFIFO", "FIFO", "StrictFIFO"),
        (QUEUES, "  namespaceSelector: {}", "  namespaceSelector: {}\n  stopPolicy: Hold", ""),
    ):
        text = path.read_text()
        assert before in text
        (tmp_path / "x.yaml").write_text(text.replace(before, new, 1))
        found = [each.message for each in lint([tmp_path / "x.yaml"])[0]]
        assert any(says in each for each in found) if says else not found, (new, found)
