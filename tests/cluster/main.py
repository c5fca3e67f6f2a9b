#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""main.py: a real Kubernetes cluster on this machine, as root, without Docker (README.md).

    main.py up [--nodes 2] [--bin FOLDER [--istiod]]   builds what is missing, starts the nodes, installs the product
    main.py down               ends everything and removes every trace, but for the build in .cache/kube
    main.py reboot NODE        power off and on, on kept state
    main.py kubectl ARGUMENT...
    main.py enter NODE [COMMAND...]   a shell on a node
"""
import argparse
import os
import shutil
import subprocess
import sys
import time

sys.path[0] = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..")

from cluster import build, dns, images, install, istiod, layout, node, pki  # noqa: E402
from cluster.kubectl import Kubectl  # noqa: E402
from cri.daemon import wait_until  # noqa: E402

NEEDED = {"containerd": "containerd", "runc": "runc", "ctr": "containerd", "ip": "iproute2", "nft": "nftables",
          "mount": "mount", "/usr/lib/cni/bridge": "containernetworking-plugins",
          "/bin/busybox": "busybox-static"}


def missing():
    return sorted({p for f, p in NEEDED.items() if not (os.path.exists(f) or shutil.which(f, path=os.environ["PATH"]
                                                                                          + ":/usr/sbin:/sbin"))})


def up(cluster, nodes):
    """Returns a Kubectl of the cluster, whose nodes are ready."""
    if os.geteuid() != 0:
        raise SystemExit("cluster: needs root: it makes namespaces")
    if missing():
        raise SystemExit("cluster: install first: " + " ".join(missing()))
    for program in build.PROGRAMS:
        os.makedirs(build.BIN, exist_ok=True)
        build.build(program)
    os.makedirs(cluster.folder, exist_ok=True)
    facts = cluster.facts()
    facts["nodes"] = max(nodes, facts["nodes"])
    cluster.save(facts)
    pki.make(cluster)
    images.make(cluster)
    for n in cluster.nodes():
        node.up(n)
    kubectl = Kubectl(cluster.kubeconfig)
    wait_until("the nodes to be ready", lambda: sorted(ready_nodes(kubectl)) == [n.name for n in cluster.nodes()], 180,
               every=0.1)
    dns.install(kubectl)
    return kubectl


def up_with_product(cluster, nodes, programs, with_istiod, network=None):
    """The same with the product of the folder @programs; its mesh state comes from the API, or from an istiod; then @network may be
    an istiod.Network. Returns a Kubectl."""
    if with_istiod and istiod.missing():
        raise SystemExit("cluster: " + "; ".join("no %s: %s" % m for m in istiod.missing()))
    install.images(cluster, programs)
    if with_istiod:
        istiod.images(cluster)
    kubectl = up(cluster, nodes)
    if with_istiod:
        istiod.product(kubectl, network)
    else:
        install.product(cluster, kubectl)
    return kubectl


def ready_nodes(kubectl):
    found = kubectl.get("nodes", missing_ok=True)
    return [n["metadata"]["name"] for n in (found or {}).get("items", [])
            if any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", []))]


def down(cluster):
    """The cluster's folder goes with it."""
    for n in reversed(cluster.nodes()):
        node.down(n)
    for n in cluster.nodes():
        wait_until("the cgroups of " + n.name + " to be empty", lambda m=n: node.remove_cgroups(m), 120)
    shutil.rmtree(cluster.folder, ignore_errors=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--dir", default=os.path.join(layout.TREE, "build", "cluster"), help="the cluster's folder")
    verbs = p.add_subparsers(dest="verb", required=True)
    v = verbs.add_parser("up")
    v.add_argument("--nodes", type=int, default=1, choices=range(1, layout.MAX_NODES + 1))
    v.add_argument("--bin", help="install the product, with the programs of this folder")
    v.add_argument("--istiod", action="store_true", help="with an istiod")
    verbs.add_parser("down")
    v = verbs.add_parser("reboot")
    v.add_argument("node")
    for name in ("kubectl", "enter"):
        v = verbs.add_parser(name)
        v.add_argument("rest", nargs=argparse.REMAINDER)
    a = p.parse_args()
    cluster = layout.Cluster(a.dir)
    named = {n.name: n for n in cluster.nodes()}
    if a.verb == "up":
        start = time.monotonic()
        if a.bin:
            up_with_product(cluster, a.nodes, a.bin, a.istiod)
        else:
            up(cluster, a.nodes)
        print("cluster: up in %.1f s; export KUBECONFIG=%s" % (time.monotonic() - start, cluster.kubeconfig))
        print("cluster: kubectl is %s/kubectl" % build.BIN)
    elif a.verb == "down":
        down(cluster)
    elif a.verb == "reboot":
        if a.node == "n1" or a.node not in named:
            raise SystemExit("cluster: one of %s (n1 carries the others' network)" % [n for n in named if n != "n1"])
        node.down(named[a.node])
        node.up(named[a.node])
    elif a.verb == "kubectl":
        return subprocess.run([build.BIN + "/kubectl", "--kubeconfig", cluster.kubeconfig, *a.rest],
                              check=False).returncode
    elif a.verb == "enter":
        if not a.rest or a.rest[0] not in named:
            raise SystemExit("cluster: name a node: " + " ".join(named))
        return node.inside(named[a.rest[0]], *(a.rest[1:] or ["bash"]), check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
