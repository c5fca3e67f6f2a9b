# SPDX-License-Identifier: Apache-2.0
"""dns.py: installs CoreDNS, so that services have names."""
from . import layout

NAME, NAMESPACE = "coredns", "kube-system"
CONFIG = """.:53 {
    errors
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        ttl 5
    }
    cache 5
}
"""


def _meta(**more):
    return dict({"name": NAME, "namespace": NAMESPACE}, **more)


def manifests():
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta()},
        {"apiVersion": rbac + "/v1", "kind": "ClusterRole", "metadata": {"name": NAME}, "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]},
        {"apiVersion": rbac + "/v1", "kind": "ClusterRoleBinding", "metadata": {"name": NAME},
         "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": NAME},
         "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(), "data": {"Corefile": CONFIG}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _meta(), "spec": {
            "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
            "template": {"metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": {
                "serviceAccountName": NAME, "dnsPolicy": "Default", "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}], "nodeSelector": {"kubernetes.io/hostname": "n1"},
                "containers": [{"name": NAME, "image": layout.DNS_IMAGE, "imagePullPolicy": "Never",
                                "args": ["-conf", "/etc/coredns/Corefile"],
                                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1, "timeoutSeconds": 10},
                                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}]}],
                "volumes": [{"name": "config", "configMap": {"name": NAME}}]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": _meta(name="kube-dns"), "spec": {
            "clusterIP": layout.DNS, "selector": {"k8s-app": "kube-dns"},
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"},
                      {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}}]


def install(kubectl):
    kubectl.apply(*manifests())
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/" + NAME, "--timeout=240s", timeout=270)
