"""What kubectl 1.32.4 printed, asked by lint and doctor, with a real API server as its cluster.

Recorded 2026-11-27 with kube-apiserver 1.20.2 (built from Debian's sources) and etcd 3.4.23.
"""

RECORDED = {
    "no namespace": 'Error from server (NotFound): error when creating "STDIN": namespaces '
    '"distsent" not found',
    "may not create": 'Error from server (Forbidden): error when creating "STDIN": pods is '
    'forbidden: User "dev" cannot create resource "pods" in API group "" in the namespace '
    '"distsent"',
    "may not patch": 'Error from server (Forbidden): namespaces "distsent" is forbidden: User '
    '"dev" cannot patch resource "namespaces" in API group "" in the namespace "distsent"',
    "may not get": "Error from server (Forbidden): customresourcedefinitions.apiextensions.k8s.io "
    '"mpijobs.kubeflow.org" is forbidden: User "dev" cannot get resource '
    '"customresourcedefinitions" in API group "apiextensions.k8s.io" at the cluster scope',
    "quota": 'Error from server (Forbidden): error when creating "STDIN": pods "imdb-rp2k6" is '
    "forbidden: exceeded quota: small, requested: limits.cpu=4, used: limits.cpu=0, limited: "
    "limits.cpu=2",
    "no limits": 'Error from server (Forbidden): error when creating "STDIN": pods "imdb-stbsq" is '
    "forbidden: failed quota: small: must specify limits.cpu",
    "no priority class": 'Error from server (Forbidden): error when creating "STDIN": pods "imdb-" '
    "is forbidden: no PriorityClass with name gone was found",
    "no account": 'Error from server (Forbidden): error when creating "STDIN": pods "imdb-" is '
    "forbidden: error looking up service account distsent/default: serviceaccount "
    '"default" not found',
    "no definition": 'error: resource mapping not found for name: "imdb" namespace: "distsent" '
    'from "STDIN": no matches for kind "MPIJob" in version "kubeflow.org/v2beta1"\n'
    "ensure CRDs are installed first",
    "invalid": 'The Pod "imdb-6qmvw" is invalid: \n* spec.restartPolicy: Unsupported value: '
    '"Sometimes": supported values: "Always", "OnFailure", "Never"\n* spec.dnsPolicy: Unsupported '
    'value: "x": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"',
    # What the lint made of mpi-operator's Secret, with an empty key, before this was recorded.
    "empty key": 'The Secret "imdb-hh4ch" is invalid: data[%s][ssh-privatekey]: Required value',
    "older cluster": 'error: error validating "STDIN": error validating data: '
    'ValidationError(Job.spec): unknown field "suspend" in io.k8s.api.batch.v1.JobSpec; if you '
    "choose to ignore these errors, turn validation off with --validate=false",
    "wrong token": "error: You must be logged in to the server (Unauthorized)",
    "wrong context": 'error: context "none" does not exist',
    "gone": "Unable to connect to the server: unexpected EOF",
    "reset": 'error: Post "https://127.0.0.1:16443/api/v1/namespaces/distsent/pods?dryRun=All&field'
    'Manager=kubectl-create&fieldValidation=Strict": read tcp 127.0.0.1:42258->127.0.0.1:16443: '
    "read: connection reset by peer",
    "refused": "The connection to the server 127.0.0.1:16443 was refused - did you specify the "
    "right host or port?",
    "slow": 'error: error validating "STDIN": error validating data: failed to download openapi: '
    'Get "https://127.0.0.1:16443/openapi/v2?timeout=1ms": net/http: request canceled (Client.'
    "Timeout exceeded while awaiting headers); if you choose to ignore these errors, turn "
    "validation off with --validate=false",
}
