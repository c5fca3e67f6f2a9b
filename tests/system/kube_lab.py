# SPDX-License-Identifier: Apache-2.0
"""kube_lab.py: what the tests of the agent with the scripted API server share: a small cluster, and an agent on it."""
from agent_lab import Pod, namespace
from kube_api import NODE, Api, Pki, kubeconfig, source


def object_of(p, mode=None, node=NODE, **more):
    labels = {"istio.io/dataplane-mode": mode} if mode else {}
    doc = p.manifest(labels=labels)
    doc["spec"]["nodeName"] = node
    doc["metadata"].update(more)
    return doc


def cluster(w, start=True, **api_options):
    pki = Pki(w.dir)
    api = Api(pki, w.host)
    for k, v in api_options.items():
        setattr(api, k, v)
    w.peers.append(api)
    api.put("namespaces", namespace("default"))
    api.put("namespaces", namespace("kube-system"))
    if start:
        api.start()
    return api


def config(w, api, **more):
    with open(w.dir + "/token", "w") as f:
        f.write((api.token or "") + "\n")
    options = {"token_file": w.dir + "/token"} if api.token else {}
    options.update(more)
    return kubeconfig(w.dir + "/kubeconfig", "https://127.0.0.1:%d" % api.port, w.dir + "/ca.crt", **options)


def agent(w, api, *args, **more):
    w.start("--source", "kubernetes", "--kubeconfig", config(w, api, **more), "--node-name", NODE, *args)
    return w


def current(w, api):
    """All trouble is over and both watches are established."""
    s = source(w)
    return (all(t["left"] == 0 for t in api.trouble) and len(api.watching()) == 1 and
            len(api.watching("namespaces")) == 1 and s["synced"] and not s["stale"] and s["error"] == "")


def running(w, api, mode=None, name="app"):
    """A pod that the API knows, started, with a ztunnel that agrees."""
    p = Pod(w, name)
    api.put("pods", object_of(p, mode))
    return p
