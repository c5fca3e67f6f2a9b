# SPDX-License-Identifier: Apache-2.0
"""install.py: puts the product on a cluster as docs/install.md tells a user to: images, namespace, development CA, manifests."""
import os
import subprocess
import sys

from cri.daemon import wait_until

from . import layout

NAMESPACE = "istio-system"
MANIFESTS = layout.TREE + "/install/manifests"
CA_FILES = ("dev-root.pem", "dev-root.key")
# Istio's kinds that the mesh state is made of, too; a cluster without istiod lacks them. Any fields: nobody here checks them.
KINDS = {"authorizationpolicies": "AuthorizationPolicy", "peerauthentications": "PeerAuthentication"}


def images(cluster, programs):
    """Builds the product's images from @programs, before the nodes start and import them."""
    with open(layout.TREE + "/Makefile") as f:
        version = next(line.split(":=")[1].strip() for line in f if line.startswith("VERSION :="))
    os.makedirs(cluster.images, exist_ok=True)
    subprocess.run([sys.executable, layout.TREE + "/install/image/build.py", "--bin", programs, "--hub", "localhost/ambient",
                    "--tag", version, "--version", version, "--out", cluster.images], check=True, stdout=subprocess.DEVNULL)


def _kind(plural, kind):
    group = "security.istio.io"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": plural + "." + group},
            "spec": {"group": group, "scope": "Namespaced",
                     "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": kind + "List"},
                     "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}}


def product(cluster, kubectl):
    """Applies it and waits until it is ready on every node."""
    kubectl.apply(*[_kind(p, k) for p, k in KINDS.items()])
    kubectl("apply", "-f", MANIFESTS + "/namespace.yaml")
    if not kubectl.get("-n", NAMESPACE, "secret", "ambient-dev-ca", missing_ok=True):
        ca = cluster.folder + "/ca"
        os.makedirs(ca, 0o700, exist_ok=True)
        pem, key = (os.path.join(ca, f) for f in CA_FILES)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "30", "-subj", "/CN=ambient development root",
                        "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0",
                        "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", key, "-out", pem],
                       check=True, capture_output=True)
        kubectl("-n", NAMESPACE, "create", "secret", "generic", "ambient-dev-ca", "--from-file=" + pem,
                "--from-file=" + key)
    kubectl("apply", "-f", MANIFESTS + "/ambient-cni.yaml", "-f", MANIFESTS + "/ztunnel.yaml")
    ready(kubectl)


def ready(kubectl, seconds=240):
    for name in ("istio-cni-node", "ztunnel"):
        wait_until("daemonset " + name, lambda n=name: kubectl.get("-n", NAMESPACE, "daemonset", n, missing_ok=True), 60)
        kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/" + name, "--timeout=%ds" % seconds, timeout=seconds + 20)
