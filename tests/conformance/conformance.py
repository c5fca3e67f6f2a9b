#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""conformance.py: the product on a real Kubernetes cluster, scenario by scenario; prints TAP.

    conformance.py --bin build/release/bin     makes a cluster of its own, and takes it down again
    conformance.py --kubeconfig FILE           uses a cluster that has the product and the tests' image

With --istiod the mesh state comes from a real istiod, and the scenarios are those of istiod/ and some of the others again.
With --networks there are two clusters, each a network of one mesh with an istiod of its own.
"""
import argparse
import concurrent.futures
import contextlib
import glob
import json
import os
import shutil
import sys
import tempfile

sys.path[0] = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..")

from cluster import build, install, istiod, layout, link  # noqa: E402
from cluster import main as cluster_main  # noqa: E402
from cluster import node as power  # noqa: E402
from conformance import enrolment, faults, harness_faults, scenario, traffic  # noqa: E402
from conformance.istiod import control_plane, gateways, mesh, networks, policies, roots, tools  # noqa: E402
from conformance.lab import Lab  # noqa: E402
from cri.daemon import wait_until  # noqa: E402

SCENARIOS = scenario.of(enrolment, traffic, faults, harness_faults)
# What is the same with any source of the mesh state is run again where istiod has a part in it.
WITH_ISTIOD = [
    enrolment.a_namespaces_label_captures_running_pods_and_releases_them, *scenario.of(traffic), *scenario.of(policies, mesh, tools, gateways),
    faults.no_connection_fails_while_ztunnel_is_rolled, *scenario.of(control_plane, roots),
    harness_faults.no_plaintext_leaves_a_node_that_is_rebooted]
WITH_NETWORKS = scenario.of(networks)


class Harness:
    """The cluster of our own, for what kubectl cannot do."""

    def __init__(self, folder, programs, nodes, with_istiod, network=None):
        self.cluster, self.programs, self.count = layout.Cluster(folder), programs, nodes
        self.with_istiod, self.network = with_istiod, network

    def up(self):
        cluster_main.up_with_product(self.cluster, self.count, self.programs, self.with_istiod, self.network)

    def explain(self):
        """The last lines of the logs, of pods as the nodes keep them and of daemons."""
        for node in self.cluster.nodes():
            paths = {}
            for path in glob.glob(node.folder + "/pods/istio-system_*/*/*.log") + [node.logs + "/init.log"]:
                with contextlib.suppress(OSError):  # it went with its pod
                    paths[path] = os.path.getmtime(path)
            for path in sorted(paths, key=paths.get)[-4:]:
                with contextlib.suppress(OSError), open(path, errors="replace") as f:
                    for line in f.readlines()[-15:]:
                        print("# %s %s: %s" % (node.name, "/".join(path.split("/")[-3:-1]), line.rstrip()[:400]))

    def node(self, name):
        return self.cluster.node(int(name[1:]))

    def kill(self, name, daemon):
        """Kills a daemon, which process 1 starts again; returns when it has."""
        node = self.node(name)
        old = node.daemon_pid(daemon)
        power.inside(node, "kill", "-KILL", str(old), check=True)
        wait_until(daemon + " to be another one", lambda: node.daemon_pid(daemon) not in (None, old), 120)

    @contextlib.contextmanager
    def held(self, name, daemon):
        """A daemon that is away for the time of the block."""
        node = self.node(name)
        hold = "%s/%s.hold" % (node.run, daemon)
        with open(hold, "w"):
            power.inside(node, "kill", "-KILL", str(node.daemon_pid(daemon)), check=True)
        try:
            wait_until(daemon + " to be gone", lambda: node.daemon_pid(daemon) is None, 60)
            yield
        finally:
            os.unlink(hold)

    def tester(self, name, *args):
        return power.inside(self.node(name), layout.BIN + "/tester", *args, capture_output=True, text=True, check=False)

    def agent_status(self, name):
        r = self.tester(name, "status")
        return json.loads(r.stdout) if r.returncode == 0 else {}

    def agent_state(self, name, uid):
        return {p["uid"]: p["state"] for p in self.agent_status(name).get("pods", [])}.get(uid)

    def ctr(self, name, *args):
        return power.inside(self.node(name), "ctr", "-n", "k8s.io", *args, capture_output=True, text=True, check=True).stdout

    def sandbox(self, name, pod, namespace):
        """The process of a pod's sandbox, as the node numbers it; None when none runs."""
        ids = self.ctr(name, "containers", "ls", "-q", 'labels."io.kubernetes.pod.name"==%s,labels."io.kubernetes.pod.namespace"==%s,'
                       'labels."io.cri-containerd.kind"==sandbox' % (pod, namespace)).split()
        for line in self.ctr(name, "tasks", "ls").splitlines()[1:]:
            task, pid, state = line.split()[:3]
            if task in ids and state == "RUNNING":
                return int(pid)
        return None

    def stop_sandbox(self, name, pid):
        power.inside(self.node(name), "kill", "-KILL", str(pid), check=True)

    def down(self):
        cluster_main.down(self.cluster)


class Networks:
    """Two clusters of one node, each a network, with a cable between them. The first is the one that `Lab` is about."""

    def __init__(self, folder, programs):
        authority = roots.new_root("networks")
        self.sides = [Harness("%s/%s" % (folder, n), programs, 1, True, istiod.Network(n, *authority)) for n in ("near", "far")]
        self.cluster = self.sides[0].cluster

    def up(self):
        for program in (*build.PROGRAMS, *build.WITH_ISTIOD):
            build.build(program)
        with concurrent.futures.ThreadPoolExecutor(len(self.sides)) as pool:
            list(pool.map(Harness.up, self.sides))
        link.plug(*[s.cluster for s in self.sides])

    def peers(self):
        return [Lab(s.cluster.kubeconfig, s.network.name).open() for s in self.sides[1:]]

    def explain(self):
        for s in self.sides:
            s.explain()

    def down(self):
        for s in self.sides:
            s.down()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--bin", help="the programs under test; a cluster is made for them")
    p.add_argument("--nodes", type=int, default=2)
    p.add_argument("--kubeconfig", help="an existing cluster instead")
    p.add_argument("--dir", help="folder of the cluster to make; it is used as it is when it is up, and stays")
    p.add_argument("--istiod", action="store_true", help="the mesh state comes from a real istiod")
    p.add_argument("--networks", action="store_true", help="two clusters with an istiod each")
    p.add_argument("only", nargs="*", help="scenarios whose names contain one of these")
    a = p.parse_args()
    if not a.bin and not a.kubeconfig:
        p.error("--bin or --kubeconfig")
    if a.networks and not a.bin:
        p.error("--networks: the clusters are made here: --bin")
    chosen = scenario.choose(WITH_NETWORKS if a.networks else WITH_ISTIOD if a.istiod else SCENARIOS, a.only)
    if not chosen:
        print("1..0 # SKIP no scenario has a name with " + " or ".join(a.only))
        return 0
    harness = None
    if a.bin:
        if os.geteuid() != 0:
            print("1..0 # SKIP needs root")
            return 0
        if (a.istiod or a.networks) and istiod.missing():
            print("1..0 # SKIP no " + ", no ".join("%s (%s)" % m for m in istiod.missing()))
            return 0
        folder, programs = a.dir or tempfile.mkdtemp(prefix="ambient-cluster-"), os.path.abspath(a.bin)
        harness = Networks(folder, programs) if a.networks else Harness(folder, programs, a.nodes, a.istiod)
    lab = None
    try:
        if harness:
            harness.up()
        lab = Lab(a.kubeconfig or harness.cluster.kubeconfig).open()
        if a.networks:
            lab.peers = harness.peers()
        good = scenario.run(lab, harness, chosen)
    except BaseException:
        if harness:
            harness.explain()
        raise
    finally:
        for each in [lab, *lab.peers] if lab else []:
            shutil.rmtree(each.out, ignore_errors=True)
        if harness and not a.dir:
            harness.down()
        elif lab and not harness:
            lab.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
