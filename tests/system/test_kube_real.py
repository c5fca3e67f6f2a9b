#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_kube_real.py: ambient-agent against a real kube-apiserver and etcd (no kubelet: pods are network namespaces,
and this program binds them to the node). Skipped without their binary (kube_server.py). Run as root."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from agent_lab import V2, main, test, until  # noqa: E402
from kube_api import serve, source  # noqa: E402
from kube_server import AGENT, Cluster, agent  # noqa: E402


def current(w):
    s = source(w)
    return s["synced"] and not s["stale"] and s["error"] == ""


@test
def real_api_server(w):
    """One cluster for everything: starting it is what takes time."""
    began = time.monotonic()
    c = Cluster(w)
    print("# etcd and kube-apiserver ready after %.1f s" % (time.monotonic() - began))
    for i in range(510):  # more than a page
        c.namespace("extra-%d" % i)
    p, q = c.pod(w, "app"), c.pod(w, "second")
    agent(w)
    s = source(w)
    assert s["pods"] == 2 and s["namespaces"] >= 511, s
    serve(w.ready_ztunnel(V2))
    for x in (p, q):
        status, a = w.cni(x.event())
        assert (status, a["outcome"]) == (200, "not-in-mesh"), a
    label_and_measure(w, c, p)
    namespace_label(w, c, p, q)
    restart(w, c, p, q)
    deleted(w, c, p)
    forbidden(w, c)


def label_and_measure(w, c, p):
    took = []
    for _ in range(5):
        at = c.label("/api/v1/namespaces/default/pods/app", "ambient")
        until("enrolled", lambda: w.state(p) == "enrolled")
        took.append(time.monotonic() - at)
        until("annotated", lambda: c.annotation("app") == "enabled")
        assert p.has_rules()
        c.label("/api/v1/namespaces/default/pods/app", None)
        until("released", lambda: w.state(p) == "not-in-mesh" and c.annotation("app") is None)
        assert p.clean(), p.rules()
    print("# answer to the label's patch until status says enrolled (polled every 20 ms): %s ms"
          % " ".join("%.0f" % (t * 1000) for t in took))


def namespace_label(w, c, p, q):
    c.label("/api/v1/namespaces/default", "ambient")
    until("both enrolled", lambda: w.state(p) == w.state(q) == "enrolled")
    until("both annotated", lambda: c.annotation("app") == c.annotation("second") == "enabled")


def restart(w, c, p, q):
    """API server and etcd killed; what changes while they are away is seen when they are back."""
    c.end("api")
    until("stale", lambda: source(w)["stale"])
    assert w.state(p) == w.state(q) == "enrolled"
    c.end("etcd")
    c.start_etcd()
    c.start_api()
    c.label("/api/v1/namespaces/default/pods/second", "none")
    until("current", lambda: current(w), 60)
    until("released", lambda: w.state(q) == "not-in-mesh" and c.annotation("second") is None, 60)
    assert w.state(p) == "enrolled"


def deleted(w, c, p):
    w.cni(p.event("DEL"))
    c.must("DELETE", "/api/v1/namespaces/default/pods/app?gracePeriodSeconds=0")
    until("gone", lambda: source(w)["pods"] == 1)


def forbidden(w, c):
    """Without the right to write annotations everything else goes on."""
    c.must("PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/ambient",
           {"rules": [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}]},
           kind="application/merge-patch+json")
    until("the API server goes by it", lambda: c.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {
        "spec": {"resourceAttributes": {"verb": "patch", "resource": "pods", "subresource": "status",
                                        "namespace": "default"}}}, token=AGENT)[1]["status"]["allowed"] is False)
    r = c.pod(w, "third")
    until("known", lambda: source(w)["pods"] == 2)
    status, a = w.cni(r.event())
    assert (status, a["outcome"]) == (200, "enrolled"), a
    until("said so", lambda: "patch on pods/status is needed" in w.logged(), 20)
    assert w.state(r) == "enrolled"


if __name__ == "__main__":
    sys.exit(main())
