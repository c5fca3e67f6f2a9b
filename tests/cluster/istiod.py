# SPDX-License-Identifier: Apache-2.0
"""istiod.py: a real istiod as a Deployment of Istio's own chart, in place of the state that the product reads from the API.

istiod and istioctl are built by `make stock`, helm by `make helm`; nothing of them is changed.
"""
import json
import os
import subprocess

import yaml

from cri import images as archive

from . import build, install, layout

BIN = layout.TREE + "/.cache/istio/bin"
GATEWAY_API = layout.TREE + "/.cache/istio/gateway-api.yaml"
ISTIOCTL = os.environ.get("ISTIOCTL", BIN + "/istioctl")
PILOT, AGENT = BIN + "/pilot-discovery", BIN + "/pilot-agent"
ENVOY, BOOTSTRAP = layout.TREE + "/.cache/envoy/envoy", layout.TREE + "/.cache/istio/envoy_bootstrap.json"
FILTER = layout.BIN + "/xds-filter"
HELM = os.environ.get("HELM", layout.TREE + "/.cache/helm/bin/helm")
HUB, TAG = "ambient.test", "stock"
# Where istiod runs: the node that is never switched off.
NODE = "n1"
# The agent and ztunnel are ours.
VALUES = {"components.cni.enabled": "false", "components.ztunnel.enabled": "false", "hub": HUB, "tag": TAG,
          "values.global.variant": "", "values.global.imagePullPolicy": "Never", "values.pilot.autoscaleEnabled": "false",
          "values.pilot.resources.requests.cpu": "50m", "values.pilot.resources.requests.memory": "128Mi",
          # A gateway that is told to end goes on until nobody is sent to it, which takes its time on a busy machine; usual is 5 s.
          "meshConfig.defaultConfig.terminationDrainDuration": "15s",
          "values.pilot.nodeSelector.kubernetes\\.io/hostname": NODE}


class Network:
    """A cluster that is one of several, each a network of its own, whose istiods sign under one root."""

    def __init__(self, name, cert, key):
        """@cert, @key: PEM of the root, which signs itself and for all."""
        self.name, self.cert, self.key = name, cert, key

    def values(self):
        return {"values.global.multiCluster.clusterName": self.name, "values.global.network": self.name,
                "values.pilot.env.AMBIENT_ENABLE_MULTI_NETWORK": "true"}

    def apply(self, kubectl):
        """What istiod has to find when it starts: its authority, and which network this is."""
        kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": install.NAMESPACE},
                       "stringData": {"ca-cert.pem": self.cert, "ca-key.pem": self.key, "cert-chain.pem": self.cert,
                                      "root-cert.pem": self.cert}})
        kubectl("label", "namespace", install.NAMESPACE, "topology.istio.io/network=" + self.name)


def missing():
    """What has to be built first: [(path, how)]."""
    stock = [(p, "make stock") for p in (PILOT, AGENT, ISTIOCTL, GATEWAY_API, ENVOY, BOOTSTRAP)]
    return [(p, how) for p, how in stock + [(HELM, "make helm")] if not os.path.exists(p)]


def run(*argv):
    """What a program printed."""
    r = subprocess.run(argv, capture_output=True, text=True, check=False)
    if r.returncode != 0:
        raise SystemExit("cluster: %s: %s" % (" ".join(argv[:2]), r.stderr.strip()))
    return r.stdout


def libraries(program):
    """The shared libraries of a program, as (path in an image, path here)."""
    return [(w.lstrip("/"), w) for line in run("ldd", program).splitlines() for w in line.split() if w.startswith("/")]


def images(cluster):
    """The images of istiod and of its gateways, before the nodes start and import them. Neither may be root."""
    build.build("xds-filter")
    proxy = [("usr/local/bin/pilot-agent", AGENT), ("usr/local/bin/envoy", FILTER), ("usr/local/bin/envoy.real", ENVOY),
             ("var/lib/istio/envoy/envoy_bootstrap_tmpl.json", BOOTSTRAP), *libraries(ENVOY)]
    for node, name, programs, files, entry in ((NODE, "pilot", [PILOT], (), "/bin/pilot-discovery"),
                                               (".", "proxyv2", [], proxy, "/usr/local/bin/pilot-agent")):
        path = "%s/%s/%s.tar" % (cluster.images, node, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        newest = max(os.path.getmtime(f) for f in programs + [source for _, source in files])
        if not os.path.exists(path) or os.path.getmtime(path) < newest:
            archive.write_archive(path + ".new", "%s/%s:%s" % (HUB, name, TAG), archive.busybox_layer(programs, files), [entry],
                                  user="1337:1337")
            os.rename(path + ".new", path)


def manifests(more):
    """What `istioctl install --set profile=ambient` applies, less agent and ztunnel. @more: values beside VALUES."""
    args = [a for k, v in dict(VALUES, **more).items() for a in ("--set", "%s=%s" % (k, v))]
    return [d for d in yaml.safe_load_all(run(ISTIOCTL, "manifest", "generate", "--set", "profile=ambient", *args)) if d]


def apply(kubectl, documents):
    """Server-side, as they are too long for an annotation. The kinds come first, or the API does not know them."""
    first = [d for d in documents if d["kind"] in ("CustomResourceDefinition", "Namespace")]
    for group in (first, [d for d in documents if d not in first]):
        if group:
            kubectl("apply", "--server-side", "--force-conflicts", "-f", "-",
                    stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": group}))
    names = ["crd/" + d["metadata"]["name"] for d in first if d["kind"] == "CustomResourceDefinition"]
    if names:
        kubectl("wait", "--for=condition=Established", "--timeout=180s", *names, timeout=200)


def product(kubectl, network=None):
    """Applies istiod, then the product's charts with istiod as their source; waits until all is ready. @network: a Network."""
    with open(GATEWAY_API) as f:
        apply(kubectl, [d for d in yaml.safe_load_all(f) if d])
    kubectl("apply", "-f", install.MANIFESTS + "/namespace.yaml")
    ztunnel = ["--set", "meshState.source=istiod"]
    if network:
        network.apply(kubectl)
        ztunnel += ["--set", "network=%s,multiCluster.clusterName=%s" % (network.name, network.name)]
    apply(kubectl, manifests(network.values() if network else {}))
    for chart, values in (("ambient-cni", ()), ("ztunnel", ztunnel)):
        text = run(HELM, "template", chart, "%s/install/helm/%s" % (layout.TREE, chart), "--namespace", install.NAMESPACE,
                   "--kube-version", build.KUBERNETES, *values)
        kubectl("apply", "-f", "-", stdin=text)
    kubectl("-n", install.NAMESPACE, "rollout", "status", "deployment/istiod", "--timeout=300s", timeout=330)
    install.ready(kubectl)
