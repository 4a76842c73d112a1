"""The kinds that manifests here are made of, field by field.

A dict is a mapping with these keys and no others (`!`: required, `*`: any key); a list holds items of its one element;
a tuple is a choice; a string names one of schema.py's plain types. Not every field of Kubernetes: those that a job like
this may want. A field that is missing here is reported as unknown; add it then.
"""

from __future__ import annotations

from typing import Any

LABELS: Any = {"*": "text"}
PORT: Any = "int or name"

METADATA: Any = {
    "name!": "name",
    "namespace": "name",
    "labels": LABELS,
    "annotations": LABELS,
    "finalizers": ["text"],
}
TEMPLATE_METADATA: Any = {"name": "name", "labels": LABELS, "annotations": LABELS}

SELECTOR: Any = {
    "matchLabels": LABELS,
    "matchExpressions": [
        {"key!": "text", "operator!": ("In", "NotIn", "Exists", "DoesNotExist"), "values": ["text"]}
    ],
}

# ---- pods ------------------------------------------------------------------------------------------------------------

HANDLER: Any = {
    "exec": {"command!": ["text"]},
    "httpGet": {
        "path": "text",
        "port!": PORT,
        "host": "text",
        "scheme": ("HTTP", "HTTPS"),
        "httpHeaders": [{"name!": "text", "value!": "text"}],
    },
    "tcpSocket": {"port!": PORT, "host": "text"},
    "sleep": {"seconds!": "int"},
}
PROBE: Any = {
    **{name: HANDLER[name] for name in ("exec", "httpGet", "tcpSocket")},
    "grpc": {"port!": "int", "service": "text"},
    **dict.fromkeys(
        (
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
            "terminationGracePeriodSeconds",
        ),
        "int",
    ),
}
RESOURCES: Any = {"requests": {"*": "quantity"}, "limits": {"*": "quantity"}, "claims": "any"}
SECCOMP: Any = {"type!": ("RuntimeDefault", "Localhost", "Unconfined"), "localhostProfile": "text"}
ENV: Any = {
    "name!": "text",
    "value": "text",
    "valueFrom": {
        "fieldRef": {"fieldPath!": "text", "apiVersion": "text"},
        "resourceFieldRef": {"resource!": "text", "containerName": "text", "divisor": "quantity"},
        "configMapKeyRef": {"name!": "name", "key!": "text", "optional": "bool"},
        "secretKeyRef": {"name!": "name", "key!": "text", "optional": "bool"},
    },
}
SOURCE: Any = {"name!": "name", "optional": "bool"}
CONTAINER: Any = {
    "name!": "name",
    "image!": "text",
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "command": ["text"],
    "args": ["text"],
    "workingDir": "text",
    "env": [ENV],
    "envFrom": [{"prefix": "text", "configMapRef": SOURCE, "secretRef": SOURCE}],
    "ports": [{"containerPort!": "int", "name": "name", "protocol": ("TCP", "UDP", "SCTP"), "hostPort": "int", "hostIP": "text"}],
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "startupProbe": PROBE,
    "lifecycle": {"preStop": HANDLER, "postStart": HANDLER},
    "restartPolicy": ("Always",),
    "terminationMessagePath": "text",
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
    "resources": RESOURCES,
    "securityContext": {
        **dict.fromkeys(("runAsNonRoot", "allowPrivilegeEscalation", "readOnlyRootFilesystem", "privileged"), "bool"),
        "runAsUser": "int",
        "runAsGroup": "int",
        "capabilities": {"add": ["text"], "drop": ["text"]},
        "seccompProfile": SECCOMP,
        "seLinuxOptions": "any",
        "appArmorProfile": "any",
        "procMount": "text",
    },
    "volumeMounts": [
        {"name!": "name", "mountPath!": "text", "readOnly": "bool", "subPath": "text", "subPathExpr": "text",
         "mountPropagation": "text", "recursiveReadOnly": "text"}
    ],
    "volumeDevices": "any",
    "stdin": "bool",
    "tty": "bool",
}  # fmt: skip
ITEMS: Any = [{"key!": "text", "path!": "text", "mode": "int"}]
VOLUME: Any = {
    "name!": "name",
    "emptyDir": {"medium": ("", "Memory", "HugePages"), "sizeLimit": "quantity"},
    "persistentVolumeClaim": {"claimName!": "name", "readOnly": "bool"},
    "configMap": {"name!": "name", "items": ITEMS, "defaultMode": "int", "optional": "bool"},
    "secret": {"secretName!": "name", "items": ITEMS, "defaultMode": "int", "optional": "bool"},
    **dict.fromkeys(("hostPath", "nfs", "projected", "csi", "ephemeral", "downwardAPI"), "any"),
}
POD: Any = {
    "containers!": [CONTAINER],
    "initContainers": [CONTAINER],
    "volumes": [VOLUME],
    "restartPolicy": ("Always", "OnFailure", "Never"),
    **dict.fromkeys(("activeDeadlineSeconds", "terminationGracePeriodSeconds", "priority"), "int"),
    **dict.fromkeys(
        ("automountServiceAccountToken", "enableServiceLinks", "hostNetwork", "hostPID", "hostIPC", "hostUsers",
         "shareProcessNamespace", "setHostnameAsFQDN"), "bool",
    ),
    **dict.fromkeys(
        ("serviceAccountName", "priorityClassName", "runtimeClassName", "schedulerName", "nodeName", "hostname", "subdomain",
         "dnsPolicy", "preemptionPolicy"), "text",
    ),
    "nodeSelector": LABELS,
    "imagePullSecrets": [{"name!": "name"}],
    "securityContext": {
        "runAsNonRoot": "bool",
        **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), "int"),
        "fsGroupChangePolicy": ("OnRootMismatch", "Always"),
        "supplementalGroups": ["int"],
        "seccompProfile": SECCOMP,
        "sysctls": [{"name!": "text", "value!": "text"}],
        "seLinuxOptions": "any",
        "appArmorProfile": "any",
    },
    "tolerations": [{"key": "text", "operator": ("Exists", "Equal"), "value": "text",
                     "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"), "tolerationSeconds": "int"}],
    **dict.fromkeys(
        ("affinity", "topologySpreadConstraints", "dnsConfig", "hostAliases", "overhead", "readinessGates", "resourceClaims"), "any"
    ),
}  # fmt: skip
TEMPLATE: Any = {"metadata": TEMPLATE_METADATA, "spec!": POD}

# ---- what the operator makes pods of ---------------------------------------------------------------------------------

REPLICAS: Any = {"replicas": "int", "restartPolicy": ("Never", "OnFailure"), "template!": TEMPLATE}
MPIJOB: Any = {
    "slotsPerWorker": "int",
    "runLauncherAsWorker": "bool",
    "sshAuthMountPath": "text",
    "launcherCreationPolicy": ("AtStartup", "WaitForWorkersReady"),
    "mpiImplementation": ("OpenMPI", "Intel", "MPICH"),
    "runPolicy": {
        "cleanPodPolicy": ("None", "Running", "All"),
        **dict.fromkeys(("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit"), "int"),
        "suspend": "bool",
        "managedBy": "text",
        "schedulingPolicy": {"minAvailable": "int", "queue": "text", "minResources": {"*": "quantity"}, "priorityClass": "text",
                             "scheduleTimeoutSeconds": "int"},
    },
    "mpiReplicaSpecs!": {"Launcher!": REPLICAS, "Worker": REPLICAS},
}  # fmt: skip

# ---- the rest --------------------------------------------------------------------------------------------------------

CLAIM: Any = {
    "accessModes!": [("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")],
    "resources!": {"requests!": {"*": "quantity"}, "limits": {"*": "quantity"}},
    "storageClassName": "text",
    "volumeMode": ("Filesystem", "Block"),
    "volumeName": "text",
    "selector": SELECTOR,
    "dataSource": "any",
}
PEER: Any = {
    "podSelector": SELECTOR,
    "namespaceSelector": SELECTOR,
    "ipBlock": {"cidr!": "text", "except": ["text"]},
}
PORTS: Any = [{"port": PORT, "endPort": "int", "protocol": ("TCP", "UDP", "SCTP")}]
POLICY: Any = {
    "podSelector!": SELECTOR,
    "policyTypes": [("Ingress", "Egress")],
    "ingress": [{"from": [PEER], "ports": PORTS}],
    "egress": [{"to": [PEER], "ports": PORTS}],
}
SERVICE: Any = {
    "selector": LABELS,
    "ports": [
        {
            "port!": "int",
            "name": "name",
            "protocol": ("TCP", "UDP", "SCTP"),
            "targetPort": PORT,
            "nodePort": "int",
            "appProtocol": "text",
        }
    ],
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "clusterIP": "text",
    "publishNotReadyAddresses": "bool",
    "sessionAffinity": "text",
}
DEPLOYMENT: Any = {
    **dict.fromkeys(
        ("replicas", "minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit"), "int"
    ),
    "paused": "bool",
    "selector!": SELECTOR,
    "strategy": "any",
    "template!": TEMPLATE,
}
JOB: Any = {
    **dict.fromkeys(
        (
            "backoffLimit",
            "activeDeadlineSeconds",
            "ttlSecondsAfterFinished",
            "completions",
            "parallelism",
        ),
        "int",
    ),
    "suspend": "bool",
    "completionMode": ("NonIndexed", "Indexed"),
    "podFailurePolicy": "any",
    "template!": TEMPLATE,
}


def kind(spec: Any, **more: Any) -> Any:
    return {"apiVersion!": "text", "kind!": "text", "metadata!": METADATA, "spec!": spec, **more}


def flat(**fields: Any) -> Any:
    return {"apiVersion!": "text", "kind!": "text", "metadata!": METADATA, **fields}


KINDS: dict[tuple[str, str], Any] = {
    ("v1", "Namespace"): flat(spec="any"),
    ("v1", "ConfigMap"): flat(data=LABELS, binaryData=LABELS, immutable="bool"),
    ("v1", "Secret"): flat(data=LABELS, stringData=LABELS, type="text", immutable="bool"),
    ("v1", "ServiceAccount"): flat(automountServiceAccountToken="bool", imagePullSecrets=[{"name!": "name"}]),
    ("v1", "PersistentVolumeClaim"): kind(CLAIM),
    ("v1", "Service"): kind(SERVICE),
    ("v1", "Pod"): kind(POD),
    ("v1", "ResourceQuota"): kind({"hard": {"*": "quantity"}, "scopes": ["text"]}),
    ("apps/v1", "Deployment"): kind(DEPLOYMENT),
    ("batch/v1", "Job"): kind(JOB),
    ("networking.k8s.io/v1", "NetworkPolicy"): kind(POLICY),
    ("scheduling.k8s.io/v1", "PriorityClass"): flat(
        **{"value!": "int", "globalDefault": "bool", "description": "text", "preemptionPolicy": "text"}
    ),
    ("kubeflow.org/v2beta1", "MPIJob"): kind(MPIJOB),
    # Kueue, as far as the example uses it.
    ("kueue.x-k8s.io/v1beta1", "ResourceFlavor"): flat(spec={"nodeLabels": LABELS, "nodeTaints": "any", "tolerations": "any"}),
    ("kueue.x-k8s.io/v1beta1", "LocalQueue"): kind({"clusterQueue!": "name"}),
    ("kueue.x-k8s.io/v1beta1", "ClusterQueue"): kind(
        {
            "namespaceSelector": SELECTOR,
            "cohort": "text",
            "queueingStrategy": ("StrictFIFO", "BestEffortFIFO"),
            "preemption": {"withinClusterQueue": "text", "reclaimWithinCohort": "text", "borrowWithinCohort": "any"},
            "resourceGroups!": [
                {
                    "coveredResources!": ["text"],
                    "flavors!": [
                        {"name!": "name",
                         "resources!": [{"name!": "text", "nominalQuota!": "quantity",
                                         "borrowingLimit": "quantity", "lendingLimit": "quantity"}]}
                    ],
                }
            ],
        }
    ),
}  # fmt: skip
