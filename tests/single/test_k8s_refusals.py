"""Lint: changes of a manifest that a real cluster refuses or ignores, and some that it accepts.

From reports of such a cluster (Kubernetes 1.33.4, mpi-operator v0.8.2), and from their sources.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest

from distsent.errors import FAILED, UserError
from distsent.k8s import cluster
from distsent.k8s.__main__ import main
from distsent.k8s.cluster import objects
from distsent.k8s.lint import lint, read_files
from tests.kubectl_answers import RECORDED
from tests.manifests import CLAIM, CONFIG, JOB, K8S, NET, SPACE, TB, changed

# Places in the IMDB job's manifest at which a case below inserts text.
POD = "          automountServiceAccountToken: false\n"
SECURITY = "            fsGroup: 1000\n"
CONTAINER = "              imagePullPolicy: IfNotPresent\n"
PRIVILEGES = "                allowPrivilegeEscalation: false\n"
ENV = "                - {name: HOME, value: /home/mpiuser}\n"
MOUNT = "                - {name: tmp, mountPath: /tmp}\n"
VOLUME = "emptyDir: {sizeLimit: 1Gi}"
PORT = "- {name: ssh, containerPort: 2222"
POLICY = "  runPolicy:\n"
LABEL = "    app.kubernetes.io/name: distsent\nspec"
SERVICE = "- {name: http, port: 80, targetPort: http"


def after(place: str, *lines: str) -> tuple[str, str]:
    """The change that adds lines after a line, with its indentation."""
    indent = " " * (len(place) - len(place.lstrip()))
    return place, place + "".join(f"{indent}{line}\n" for line in lines)


# rule, change, a part of the message, file
REFUSED: list[tuple[str, tuple[str, str], str, str]] = [
    ("duplicate", after(ENV, "- {name: HF_HOME, value: x}"), "HF_HOME appears", JOB),
    ("duplicate", after(MOUNT, "- {name: jobs, mountPath: /tmp}"), "/tmp appears", JOB),
    (
        "duplicate",
        (PORT, f"{PORT}}}\n                - {{name: b, containerPort: 2222"),
        "2222 TCP",
        JOB,
    ),
    (
        "duplicate",
        (PORT, f"{PORT}}}\n                - {{name: ssh, containerPort: 22"),
        "ssh app",
        JOB,
    ),
    ("duplicate", ("            - name: jobs\n", "            - name: tmp\n"), "tmp appears", JOB),
    (
        "duplicate",
        (SERVICE, f"{SERVICE}}}\n    - {{name: http, port: 81, targetPort: http"),
        "http",
        TB,
    ),
    (
        "required",
        (SERVICE, "- {port: 80, targetPort: http}\n    - {port: 81, targetPort: http"),
        "name",
        TB,
    ),
    (
        "containers",
        (
            "          containers:\n            - name: launcher\n",
            "          initContainers: [{name: launcher, image: a:1}]\n"
            "          containers:\n            - name: launcher\n",
        ),
        "an init container",
        JOB,
    ),
    ("value", ("backoffLimit: 6", "backoffLimit: -1"), "0 or more", JOB),
    ("value", ("backoffLimit: 6", "backoffLimit: 99999999999"), "2147483647 or less", JOB),
    ("value", ("ttlSecondsAfterFinished: 604800", "ttlSecondsAfterFinished: -1"), "0 or more", JOB),
    ("value", ("activeDeadlineSeconds: 604800", "activeDeadlineSeconds: -5"), "0 or more", JOB),
    ("limits", ("activeDeadlineSeconds: 604800", "activeDeadlineSeconds: 0"), "1 or more", JOB),
    ("value", ("replicas: 4", "replicas: -4"), "0 or more", JOB),
    ("value", ("PeriodSeconds: 180", "PeriodSeconds: -180"), "0 or more", JOB),
    ("value", ("periodSeconds: 5", "periodSeconds: -5"), "0 or more", JOB),
    (
        "value",
        (
            "readinessProbe:",
            "livenessProbe: {tcpSocket: {port: ssh}, successThreshold: 2}\n"
            "              readinessProbe:",
        ),
        "1 or less",
        JOB,
    ),
    (
        "value",
        ("tcpSocket: {port: ssh}", "tcpSocket: {port: ssh}\n                exec: {command: [a]}"),
        "exactly one",
        JOB,
    ),
    ("value", ("containerPort: 2222", "containerPort: 0"), "1 or more", JOB),
    ("value", ("port: http, protocol", "port: 70000, protocol"), "a port number", NET),
    ("value", ("{name: ssh,", "{name: sshsshsshsshsshs,"), "at most 15", JOB),
    ("value", ("port: 80", "port: 0"), "1 or more", TB),
    ("value", ("  replicas: 1", "  replicas: -1"), "0 or more", TB),
    ("value", ("      automount", "      restartPolicy: Never\n      automount"), "Always", TB),
    ("value", ("fsGroup: 1000", "fsGroup: -1"), "0 or more", JOB),
    ("value", ("runAsGroup: 1000", "runAsGroup: 3000000000"), "or less", JOB),
    ("value", after(SECURITY, "supplementalGroups: [-1]"), "0 or more", JOB),
    ("volumes", after(CONTAINER, "volumeDevices: [{name: disk, devicePath: /dev/x}]"), "disk", JOB),
    ("value", after(POD, "activeDeadlineSeconds: 0"), "1 or more", JOB),
    ("managed-by", after(POLICY, "  managedBy: me"), "kubeflow.org/mpi-operator", JOB),
    ("value", (LABEL, '    app.kubernetes.io/name: "dist sent"\nspec'), "letters, digits", JOB),
    ("value", (LABEL, f"    x: {'a' * 64}\nspec"), "at most 63", JOB),
    ("value", (LABEL, '    "a b": x\nspec'), '"a b"', JOB),
    (
        "value",
        ("            app.kubernetes.io/name: distsent", "            x: -x"),
        "letters",
        JOB,
    ),
    (
        "value",
        after('            sidecar.istio.io/inject: "false"\n', '"a/b/c": x'),
        '"a/b/c"',
        JOB,
    ),
    ("value", after(POD, 'nodeSelector: {disk: "a b"}'), "letters, digits", JOB),
    ("value", ("enforce: restricted", "enforce: restrictd"), "privileged", SPACE),
    ("value", ("  imdb.toml: |", '  "im db.toml": |'), "a key", CONFIG),
    ("value", ("storage: 100Gi", "storage: 0"), "more than 0", CLAIM),
    ("value", ("- name: launcher\n", f"- name: {'a' * 64}\n"), "63", JOB),
    ("value", (MOUNT, MOUNT.replace("/tmp", '"tmp:x"')), "absolute path", JOB),
    ("value", (MOUNT, MOUNT.replace("}", ", subPath: ../x}")), "relative path", JOB),
    ("value", (MOUNT, MOUNT.replace("}", ", mountPropagation: x}")), "HostToContainer", JOB),
    ("value", ("{name: imdb-job}", "{name: imdb-job, defaultMode: 1000}"), "511", JOB),
    (
        "value",
        (VOLUME, f"{VOLUME}\n              configMap: {{name: imdb-job}}"),
        "one source",
        JOB,
    ),
    ("value", after(ENV, '- {name: "a=b", value: x}'), "without =", JOB),
    (
        "value",
        after(ENV, "- {name: X, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}"),
        "not both",
        JOB,
    ),
    (
        "value",
        after(ENV, "- {name: X, valueFrom: {fieldRef: {fieldPath: metadata.nam}}}"),
        "status.podIP",
        JOB,
    ),
    ("value", after(ENV, "- {name: X, valueFrom: {}}"), "one source", JOB),
    ("value", after(CONTAINER, "lifecycle: {preStop: {}}"), "one source", JOB),
    ("value", ("image: distsent:0.1.0\n", 'image: "distsent:0.1.0 "\n'), "without blanks", JOB),
    (
        "value",
        after(POD, "tolerations: [{key: a, operator: Exists, value: x}]"),
        "without value",
        JOB,
    ),
    ("value", after(POD, "tolerations: [{effect: NoSchedule}]"), "key is missing", JOB),
    ("value", after(POD, "dnsPolicy: x"), "ClusterFirst", JOB),
    ("value", after(POD, "hostAliases: [{ip: x, hostnames: [a]}]"), "an IP address", JOB),
    (
        "value",
        after(
            POD,
            "topologySpreadConstraints: [{maxSkew: 0, topologyKey: a, whenUnsatisfiable: "
            "DoNotSchedule}]",
        ),
        "1 or more",
        JOB,
    ),
    (
        "value",
        after(
            POD,
            "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
            "{nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is, values: [x]}]}]}}}",
        ),
        "NotIn",
        JOB,
    ),
    ("required", ("type: RuntimeDefault", "type: Localhost"), "localhostProfile", JOB),
    ("value", ('limits: {cpu: "4"', 'limits: {gpu: 1, cpu: "4"'), "nvidia.com/gpu", JOB),
    (
        "resources",
        ('requests: {cpu: "4"', 'requests: {nvidia.com/gpu: 1, cpu: "4"'),
        "needs a limit",
        JOB,
    ),
    (
        "resources",
        ('limits: {cpu: "4"', 'limits: {nvidia.com/gpu: 500m, cpu: "4"'),
        "whole number",
        JOB,
    ),
    ("resources", ("memory: 8Gi}", "memory: 8}"), "less than 1Mi", JOB),
    (
        "operator",
        after(ENV, "- {name: OMPI_MCA_orte_default_hostfile, value: x}"),
        "leave it out",
        JOB,
    ),
    ("operator", after(ENV, "- {name: K_MPI_JOB_ROLE, value: x}"), "leave it out", JOB),
    (
        "operator",
        ("            - name: tmp\n", "            - name: ssh-auth\n"),
        "leave it out",
        JOB,
    ),
    ("operator", after(MOUNT, "- {name: tmp, mountPath: /etc/mpi/}"), "/etc/mpi", JOB),
    ("operator", after(MOUNT, "- {name: tmp, mountPath: /home/mpiuser/.ssh}"), ".ssh", JOB),
    (
        "operator",
        (
            "            app.kubernetes.io/name: distsent",
            "            training.kubeflow.org/job-name: a",
        ),
        "to the operator",
        JOB,
    ),
    ("operator", after(POD, "hostname: x"), "from the operator", JOB),
    ("operator", after(POD, "subdomain: x"), "from the operator", JOB),
    ("operator", after(POD, "restartPolicy: OnFailure"), "beside `template`", JOB),
    ("security", (VOLUME, "hostPath: {path: /tmp}"), "forbids", JOB),
    ("security", (VOLUME, "nfs: {server: a, path: /x}"), "forbids", JOB),
    ("security", (PORT, f"{PORT}, hostPort: 2222"), "on the node", JOB),
    ("security", after(SECURITY, 'sysctls: [{name: kernel.msgmax, value: "1"}]'), "sysctls", JOB),
    ("security", after(SECURITY, "seLinuxOptions: {type: spc_t}"), "seLinuxOptions", JOB),
    ("security", after(SECURITY, "windowsOptions: {hostProcess: true}"), "hostProcess", JOB),
    ("security", after(PRIVILEGES, "seccompProfile: {type: Unconfined}"), "RuntimeDefault", JOB),
    ("security", after(PRIVILEGES, "procMount: Unmasked"), "procMount", JOB),
    ("security", after(PRIVILEGES, "appArmorProfile: {type: Unconfined}"), "appArmor", JOB),
]

ACCEPTED: list[tuple[tuple[str, str], str]] = [
    (after(POD, "schedulingGates: [{name: example.com/gate}]"), JOB),
    (("                requests: {cpu: 500m, memory: 512Mi}\n", ""), JOB),  # limits are requests
    (after(SECURITY, 'sysctls: [{name: net.ipv4.tcp_keepalive_time, value: "9"}]'), JOB),
    (after(SECURITY, "supplementalGroups: [5]"), JOB),
    (after(POD, "hostUsers: false", "priorityClassName: high", "nodeSelector: {a.b/c: D_1}"), JOB),
    (
        after(
            POD,
            "tolerations: [{operator: Exists}, {key: a, effect: NoExecute, tolerationSeconds: -1}]",
        ),
        JOB,
    ),
    (
        after(
            ENV,
            "- {name: a-b.c, value: ''}",
            "- {name: X, valueFrom: {fieldRef: {fieldPath: status.podIP}}}",
        ),
        JOB,
    ),
    (('                - -np\n                - "4"\n', ""), JOB),  # the launcher counts slots
    (("backoffLimit: 6", "backoffLimit: 0"), JOB),
    (("ttlSecondsAfterFinished: 604800", "ttlSecondsAfterFinished: 0"), JOB),
    ((POLICY, f"{POLICY}    managedBy: kubeflow.org/mpi-operator\n"), JOB),
    ((LABEL, '    app.kubernetes.io/name: ""\nspec'), JOB),
    (('limits: {cpu: "4", memory: 8Gi}', "limits: {cpu: 4, memory: 9e9, nvidia.com/gpu: 1}"), JOB),
    (("requests: {cpu: 500m,", "requests: {ephemeral-storage: 1Gi, cpu: 500m,"), JOB),
    ((SERVICE, f"{SERVICE}}}\n    - {{name: b, port: 81, targetPort: http"), TB),
]


def test_what_a_cluster_refuses_or_ignores_is_found(tmp_path):
    missed = []
    for number, (rule, change, says, file) in enumerate(REFUSED):
        folder = changed(tmp_path / str(number), file, *change)
        found = [each for each in lint([folder])[0] if each.rule == rule and says in each.message]
        missed += [] if found else [(rule, change[1][-80:], says)]
    assert not missed


def test_what_a_cluster_accepts_is_no_finding(tmp_path):
    for number, (change, file) in enumerate(ACCEPTED):
        assert not lint([changed(tmp_path / str(number), file, *change)])[0], change


# ---- the cluster itself --------------------------------------------------------------------------

# What Kubernetes answers, by its sources, to a pod with a hostPath under `restricted`.
FORBIDDEN = (
    'Error from server (Forbidden): error when creating "STDIN": pods "imdb-x7k2p" is forbidden: '
    'violates PodSecurity "restricted:latest": restricted volume types (volume "tmp" uses '
    'restricted volume type "hostPath")'
)
NO_NAMESPACE = (
    'Error from server (NotFound): error when creating "STDIN": namespaces "distsent" not found'
)
WARNING = 'Warning: spec.template.spec.containers[0].env[3]: hides previous definition of "A"'
UNREACHABLE = (
    "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?"
)


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Put a kubectl first that records what it is asked, and answers by the kind of the object."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "asked").mkdir()
    program = tmp_path / "bin" / "kubectl"
    program.write_text(
        f"#!/bin/sh\n[ $1 = get ] && {{ cat {tmp_path}/down >&2 2>/dev/null && exit 1; exit 0; }}\n"
        f'file=$(mktemp {tmp_path}/asked/XXXXXX); echo "$@" >$file; cat >>$file\n'
        f'kind=$(sed -n \'s/.*"kind": "\\([A-Za-z]*\\)".*/\\1/p\' $file | tail -1)\n'
        "for each in Pod Job MPIJob Service; do\n"
        '  grep -q "\\"kind\\": \\"$each\\"" $file && kind=$each\ndone\n'
        f"[ -e {tmp_path}/$kind ] || exit 0\n"
        f"cat {tmp_path}/$kind >&2; grep -q ^Warning {tmp_path}/$kind\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def test_the_cluster_is_asked_about_the_operators_objects_and_changes_nothing(kubectl, capsys):
    assert main(["lint", "--cluster", str(K8S / JOB)]) == 0, capsys.readouterr().out
    asked = [path.read_text().split("\n", 1) for path in (kubectl / "asked").iterdir()]
    assert all("--dry-run=server" in words.split() for words, _ in asked)
    sent = [json.loads(text) for _, text in asked]
    assert sorted(one["kind"] for one in sent) == sorted(
        ["MPIJob", "Service", "ConfigMap", "Secret", "Job", "Pod", "Pod"]
    )
    (kubectl / "Pod").write_text(FORBIDDEN)
    (kubectl / "Job").write_text(WARNING)
    found = lint([K8S / JOB], ask_cluster=True)[0]
    said = [each.message for each in found]
    for pod in ("imdb-launcher", "imdb-worker-0"):
        text = f"MPIJob imdb: the cluster refuses the operator's Pod {pod}: (Forbidden): pods"
        assert any(line.startswith(text) and "hostPath" in line for line in said), said
    assert any("the cluster warns of the operator's Job: spec.template" in line for line in said)
    assert all(each.line > 1 and each.rule == "cluster" for each in found) and len(found) == 3


def test_a_missing_namespace_and_a_missing_cluster_are_one_line_each(kubectl):
    for kind in ("Pod", "Job", "MPIJob", "Service", "ConfigMap", "Secret"):
        (kubectl / kind).write_text(NO_NAMESPACE)
    found = lint([K8S / JOB], ask_cluster=True)[0]
    assert len(found) == 1 and "the namespace distsent does not exist yet" in found[0].message
    (kubectl / "down").write_text(UNREACHABLE)
    with pytest.raises(
        UserError, match=r"^no cluster to ask: The connection .* was refused"
    ) as error:
        lint([K8S / JOB], ask_cluster=True)
    assert error.value.code == FAILED


# What the lint makes of recorded answers: a finding, or no answer at all.
FINDINGS = {
    "no namespace": "the namespace distsent does not exist yet: apply it first: (NotFound)",
    "may not create": "you may not ask the cluster about the operator's Pod imdb-worker-0: (Forb",
    "may not patch": "you may not ask the cluster about it: (Forbidden): namespaces",
    "quota": 'refuses the operator\'s Pod imdb-worker-0: (Forbidden): pods "imdb-rp2k6" is forb',
    "no limits": "is forbidden: failed quota: small: must specify limits.cpu",
    "no priority class": "is forbidden: no PriorityClass with name gone was found",
    "no account": 'Pod imdb-launcher: (Forbidden): pods "imdb-" is forbidden: error looking up',
    "no definition": "the cluster lacks its operator: error: resource mapping not found for name",
    "invalid": 'The Pod "imdb-6qmvw" is invalid: * spec.restartPolicy: Unsupported value',
    "older cluster": "error validating data: ValidationError(Job.spec): unknown field",
}
NO_ANSWERS = ("wrong token", "gone", "reset", "refused", "slow")


def test_each_recorded_answer_of_a_cluster_is_one_line(kubectl, monkeypatch):
    for name, line in FINDINGS.items():
        for kind in ("Pod", "MPIJob"):
            (kubectl / kind).write_text(RECORDED[name])
        found = [each.message for each in lint([K8S / JOB], ask_cluster=True)[0]]
        assert any(line in each for each in found) and not any("\n" in each for each in found), (
            found
        )
    for name in NO_ANSWERS:  # the manifests are not to blame
        (kubectl / "Pod").write_text(RECORDED[name])
        with pytest.raises(UserError, match=r"^the cluster stopped answering: [^\n]*$") as error:
            lint([K8S / JOB], ask_cluster=True)
        assert error.value.code == FAILED
    (kubectl / "down").write_text(RECORDED["wrong context"])
    with pytest.raises(UserError, match=r'^no cluster to ask: error: context "none" does not'):
        lint([K8S / JOB], ask_cluster=True)

    def run(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(cluster.subprocess, "run", run)
    with pytest.raises(UserError, match=r"^kubectl get: no answer in 60 s$"):
        lint([K8S / JOB], ask_cluster=True)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(kubectl))
    with pytest.raises(UserError, match=r"^kubectl: No such file or directory; install it$"):
        lint([K8S / JOB], ask_cluster=True)


def test_a_manifest_with_wrong_types_is_sent_but_not_rendered(kubectl, tmp_path):
    change = "          containers:\n", "          containers: 3\n          x:\n"
    folder = changed(tmp_path / "k8s", JOB, *change)
    assert lint([folder / JOB], ask_cluster=True)[0]
    assert len([*(kubectl / "asked").iterdir()]) == 1


def test_the_operators_objects_have_what_the_operator_adds():
    manifest = next(each for each in read_files([K8S / JOB]).manifests if each.kind == "MPIJob")
    before = json.dumps(manifest.value)
    made = {one["kind"]: one for one in objects(manifest)}
    assert json.dumps(manifest.value) == before, "the manifest itself stays as it is"
    pods = [one for one in objects(manifest) if one["kind"] == "Pod"]
    for role, pod in zip(("launcher", "worker"), pods, strict=True):
        container, spec = pod["spec"]["containers"][0], pod["spec"]
        env = {each["name"]: each["value"] for each in container["env"]}
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert pod["metadata"]["labels"]["training.kubeflow.org/job-role"] == role
        assert env["K_MPI_JOB_ROLE"] == role and mounts["/home/mpiuser/.ssh"] == "ssh-auth"
        assert spec["restartPolicy"] == "OnFailure" and spec["subdomain"] == "imdb"
        assert ("/etc/mpi" in mounts) == (role == "launcher")
    assert made["Job"]["spec"]["backoffLimit"] == 6
    # A real API server refuses a Secret of this type without a key, even as a dry run.
    assert all(made["Secret"]["stringData"].values())
    assert all(one["metadata"]["generateName"] == "imdb-" for one in made.values())
