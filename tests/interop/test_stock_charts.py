#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_stock_charts.py: Istio's own charts with our images, on a cluster of two nodes with a real istiod: traffic and tools;
Istio's agent in the place of ours and ours in its place again under running pods and new connections, the same of ztunnel where
Istio's is there; uninstalled.
Needs `make kube` and `make stock`; run as root."""
import argparse
import json
import os
import sys
import tempfile
import time
import traceback

import charts_lab
from cluster import node as power
from conformance.lab import MARK, PORT, Lab, Load, account, flows, pod, service
from cri import wire
from cri.daemon import wait_until

TESTS = []


class Skip(Exception):
    """What a test needs is not there."""


def test(fn):
    TESTS.append(fn)
    return fn


class Bench:
    """The stack and a namespace with a client on one node and a server on the other, both in the mesh."""

    def __init__(self, stack):
        self.stack, self.kubectl = stack, stack.kubectl
        self.lab = Lab(stack.cluster.kubeconfig).open()
        self.one, self.two = self.lab.names()[:2]

    def host(self, name, *args):
        r = power.inside(self.stack.cluster.node(int(name[1:])), *args, capture_output=True, text=True, check=True)
        return r.stdout

    def chain(self, name):
        """Types of the plugins in the node's configuration, as a runtime reads it: the first file."""
        files = self.host(name, "sh", "-c", "ls /etc/cni/net.d/*.conf* | head -1").strip()
        return [p["type"] for p in json.loads(self.host(name, "cat", files))["plugins"]]

    def program(self, name):
        return self.host(name, "sh", "-c", "ls -s /opt/cni/bin/istio-cni 2>/dev/null | cut -d/ -f1").strip()

    def left(self, node, *enter):
        """What of a mesh is in a network, the node's or that one enters: nftables as both agents make them, iptables as
        stock does, and its sets."""
        text = self.host(node, *enter, "sh", "-c", "nft list tables; iptables-legacy-save; ip6tables-legacy-save; "
                         "iptables-nft-save; ip6tables-nft-save; ipset list -n; true")
        return [w for w in ("istio-ambient", "ISTIO_PRERT", "ISTIO_OUTPUT", "ISTIO_POSTRT", "istio-inpod-probes") if w in text]

    def rules(self, space, name):
        return self.left(space.pod(name)["spec"]["nodeName"], "nsenter", "-t", self.pid_of(space, name), "-n")

    def pid_of(self, space, name):
        p = space.pod(name)
        cid = p["status"]["containerStatuses"][0]["containerID"].split("//")[1]
        for line in self.host(p["spec"]["nodeName"], "ctr", "-n", "k8s.io", "tasks", "ls").splitlines():
            if line.startswith(cid):
                return line.split()[1]
        raise AssertionError("no task of " + name)


@test
def the_charts_start_our_images(b):
    """Nothing of the manifests is ours but the images: both DaemonSets are ready, and the plugin has stock's name."""
    for n in (b.one, b.two):
        assert b.chain(n) == ["bridge", "portmap", "istio-cni"], b.chain(n)
        entry = json.loads(b.host(n, "cat", "/etc/cni/net.d/10-podnet.conflist"))["plugins"][-1]
        assert entry["agent_in_pod_network"] and entry["pod_namespace"] == charts_lab.NAMESPACE, entry
        assert "istio-cni-kubeconfig" not in b.host(n, "ls", "/run/istio-cni")
        status = b.lab.node(n).status()
        assert status["ready"] and status["install"]["state"] == "installed", status
        assert status["source"]["kind"] == "kubernetes", status
        assert "istio-inpod-probes-v4" in b.host(n, "nft", "list", "ruleset"), "no exemption of the kubelet's probes on the node"


@test
def pods_are_enrolled_and_speak_hbone_between_nodes(b):
    s = b.space = b.lab.space("ambient")
    s.apply(account("client"), account("server"))
    s.apply({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
             "spec": {"mtls": {"mode": "STRICT"}}})
    s.run(pod("client", node=b.one, serviceAccountName="client"), pod("server", node=b.two, serviceAccountName="server"),
          pod("out", node=b.one, mode="none"), service("web", app="server"))
    s.wait_annotated("client", "server")
    client, server = s.ip("client"), s.ip("server")
    b.url = "http://%s:%d/" % (server, PORT)
    wait_until("the client to reach the server", lambda: s.get("client", b.url)[0], 90, every=0.3)
    capture = b.lab.node(b.one).capture(b.lab.out + "/hbone.pcap")
    s.must_get("client", b.url, n=20)
    path = capture.finish()
    seen = wire.summary(path, client, server, cut_ok=True)
    assert seen.packets > 20 and set(seen.ports) == {15008} and not seen.problems, (seen, flows(path))
    assert wire.count_text(path, MARK) == 0, "a plaintext byte on the wire"
    # By name: the chart has DNS captured, so it is ztunnel that answers.
    wait_until("the service by name", lambda: s.get("client", "http://web.%s/" % s.name, n=3)[0], 90, every=0.3)
    # The server is probed by its kubelet though it takes nothing but mutual TLS.
    wait_until("plaintext to be refused", lambda: not s.get("out", b.url, limit="2s")[0], 90, every=0.3)
    assert s.pod("server")["status"]["containerStatuses"][0]["ready"]


@test
def istioctl_reads_our_ztunnel(b):
    s = b.space
    out = b.stack.istioctl("ztunnel-config", "workloads", "--node", b.one)
    for name in ("client", "server"):
        line = next(l for l in out.splitlines() if l.split()[:2] == [s.name, name])
        assert line.split()[-1] == "HBONE", line
    out = b.stack.istioctl("ztunnel-config", "all", "--node", b.one)
    assert "spiffe://cluster.local/ns/%s/sa/client" % s.name in out and "kube-dns" in out, out
    out = b.stack.istioctl("proxy-status")
    assert out.count("ztunnel-") == 2, out


@test
def agents_follow_each_other_under_running_pods(b):
    """Ours, Istio's, ours: no connection fails, pods of each time are in the mesh, and leave it through the last agent."""
    s = b.space
    first = {n: b.program(n) for n in (b.one, b.two)}
    load = Load(s, "client", b.url, 50, seconds=300)
    b.stack.agent_image(b.stack.stock_agent)
    for n in (b.one, b.two):
        wait_until("Istio's plugin to be installed on " + n, lambda n=n: b.program(n) != first[n], 90)
        wait_until("its configuration on " + n, lambda n=n: b.chain(n) == ["bridge", "portmap", "istio-cni"], 90)
        assert "agent_in_pod_network" not in b.host(n, "sh", "-c", "cat /etc/cni/net.d/*"), "our entry is still there"
        assert "istio-cni-kubeconfig" in b.host(n, "ls", "/run/istio-cni")
    s.run(pod("between", node=b.two))
    s.wait_annotated("between")
    s.must_get("client", "http://%s:%d/" % (s.ip("between"), PORT), n=3)
    b.stack.agent_image(b.stack.ours["ambient-agent"])
    for n in (b.one, b.two):
        wait_until("our plugin to be installed on " + n, lambda n=n: b.program(n) == first[n], 90)
        wait_until("our configuration on " + n, lambda n=n: b.chain(n) == ["bridge", "portmap", "istio-cni"], 90)
        assert "istio-cni-kubeconfig" not in b.host(n, "ls", "/run/istio-cni"), "Istio's token is still on the node"
    s.run(pod("after", node=b.two))
    s.wait_annotated("client", "server", "between", "after")
    for name in ("client", "server", "between", "after"):
        node = b.lab.node(s.pod(name)["spec"]["nodeName"])
        uid = s.pod(name)["metadata"]["uid"]
        wait_until("%s to be enrolled by our agent" % name, lambda n=node, u=uid: n.record(u).get("state") == "enrolled", 120)
    for name in ("between", "after"):
        s.must_get("client", "http://%s:%d/" % (s.ip(name), PORT), n=3)
    load.faultless(400)
    # Whoever put the rules in, ours takes all of them out.
    s.kubectl("delete", "peerauthentication", "default")
    s.mode(None)
    s.wait_released("client", "server", "between", "after")
    for name in ("client", "server", "between", "after"):
        wait_until("no rule to be left in " + name, lambda n=name: b.rules(s, n) == [], 90)
    for name in ("server", "between", "after"):
        s.must_get("client", "http://%s:%d/" % (s.ip(name), PORT), n=3)


@test
def ztunnels_follow_each_other_under_running_pods(b):
    """Beside our agent: ours, Istio's, ours: no new connection fails, pods of each time are served, between two of a kind and
    one of each."""
    why = charts_lab.missing(ztunnel=True)
    if why:
        raise Skip(why)
    s = b.space
    s.mode("ambient")
    s.wait_annotated("client", "server")
    wait_until("the client to reach the server", lambda: s.get("client", b.url)[0], 90, every=0.3)
    load, start = Load(s, "client", b.url, 50, seconds=600), time.monotonic()
    for image, name in ((b.stack.stock_ztunnel, "with-stock"), (b.stack.ours["ztunnel"], "with-ours")):
        b.stack.ztunnel_image(image)
        s.run(pod(name, node=b.two))
        s.wait_annotated(name)
        s.must_get("client", "http://%s:%d/" % (s.ip(name), PORT), n=5)
        s.must_get("client", b.url, n=5)
    load.faultless(int(20 * (time.monotonic() - start)))  # it went on all the time
    s.mode(None)
    s.wait_released("client", "server", "with-stock", "with-ours")


@test
def uninstalled_the_nodes_are_as_they_were(b):
    """The DaemonSet goes, as with `helm uninstall`, and with it the plugin; pods start."""
    b.kubectl("-n", charts_lab.NAMESPACE, "delete", "daemonset", "istio-cni-node", "--wait=true")
    for n in (b.one, b.two):
        wait_until("the plugin to be gone from " + n, lambda n=n: b.program(n) == "", 120)
        assert b.chain(n) == ["bridge", "portmap"], b.chain(n)
        assert b.left(n) == [], b.left(n)
    s = b.space
    s.run(pod("plain", node=b.two))
    s.must_get("client", "http://%s:%d/" % (s.ip("plain"), PORT), n=3)


@test
def the_way_back_to_istios_agent_with_nftables(b):
    """Ours in the node's network (a value of the chart), then Istio's agent with nftables: no connection fails, and it takes out
    what ours put in."""
    b.stack.apply("values.cni.image=" + b.stack.ours["ambient-agent"], "unvalidatedValues.cni.ambient.shareHostNetworkNamespace=true",
                  "values.global.nativeNftables=true")
    b.stack.ready()
    s = b.space
    for n in (b.one, b.two):
        wait_until("the plugin to be back on " + n, lambda n=n: b.chain(n) == ["bridge", "portmap", "istio-cni"], 90)
        assert "agent_in_pod_network" not in b.host(n, "sh", "-c", "cat /etc/cni/net.d/*")
    s.mode("ambient")
    s.wait_annotated("client", "server", "plain")
    wait_until("the client to reach the server", lambda: s.get("client", b.url)[0], 90, every=0.3)
    load = Load(s, "client", b.url, 50, seconds=300)
    b.stack.agent_image(b.stack.stock_agent)
    s.run(pod("last", node=b.two))
    s.wait_annotated("client", "server", "plain", "last")
    load.faultless(200)
    s.mode(None)
    s.wait_released("client", "server", "plain", "last")
    for name in ("client", "server", "plain", "last"):
        wait_until("no rule to be left in " + name, lambda n=name: b.rules(s, n) == [], 90)
    s.must_get("client", "http://%s:%d/" % (s.ip("last"), PORT), n=3)


def explain(stack):
    for name in ("istio-cni-node", "ztunnel", "istiod"):
        out = stack.kubectl.run("-n", charts_lab.NAMESPACE, "logs", "-l", {"istio-cni-node": "k8s-app=istio-cni-node"}.get(
            name, "app=" + name), "--tail=25", "--prefix", check=False).stdout
        for line in out.splitlines():
            print("# " + line[:300])
    out = stack.kubectl.run("get", "pods", "-A", "-o", "wide", check=False).stdout
    out += stack.kubectl.run("get", "events", "-A", "--field-selector=type=Warning", check=False).stdout[-4000:]
    for line in out.splitlines():
        print("# " + line[:300])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    ap.add_argument("--dir", help="folder of a cluster that stays")
    a = ap.parse_args()
    why = "needs root" if os.geteuid() != 0 else charts_lab.missing()
    if why:
        print("1..0 # SKIP %s" % why)
        return 0
    stack, bench, failed = None, None, 0
    try:
        stack = charts_lab.Stack(a.dir or tempfile.mkdtemp(prefix="ambient-charts-"), os.path.abspath(a.bin))
        stack.apply("values.cni.image=" + stack.ours["ambient-agent"])
        stack.ready()
        bench = Bench(stack)
        for n, fn in enumerate(TESTS, 1):
            name = fn.__name__.replace("_", " ")
            try:
                fn(bench)
                print("ok %d - charts: %s" % (n, name), flush=True)
            except Skip as e:
                print("ok %d - charts: %s # SKIP %s" % (n, name, e), flush=True)
            except Exception:
                failed += 1
                for line in traceback.format_exc().splitlines():
                    print("# " + line)
                print("not ok %d - charts: %s" % (n, name), flush=True)
                if failed == 1:
                    explain(stack)
                if n == 2:
                    raise
        print("1..%d" % len(TESTS))
    except BaseException:
        if stack:
            explain(stack)
        raise
    finally:
        if stack and not a.dir:
            stack.down()
        elif bench:
            bench.lab.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
