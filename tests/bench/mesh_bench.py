#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mesh_bench.py: a mesh as users have it, ours beside stock, in turns on one cluster: Istio's charts and istiod on two nodes, where
agent and ztunnel are images of ours or Istio's. What an idle node costs, how long the first answer of a new pod takes, and
how long a policy takes to be in force. Needs `make kube`, `make stock` and a stock ztunnel beside what that builds; run as root."""
import argparse
import os
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "../interop")]
import charts_lab  # noqa: E402
from conformance.istiod.policies import authorization, principal  # noqa: E402
from conformance.lab import Changes, Lab, account, pod, service  # noqa: E402
from cri.daemon import wait_until  # noqa: E402

WHOSE = ("ours", "stock")
# Name, VmRSS and RssAnon of the two, in kB; the chart starts either agent under stock's name.
MEMORY = ("for p in /proc/[0-9]*; do n=$(cat $p/comm 2>/dev/null); case $n in install-cni|ztunnel) "
          "echo $n $(awk '/^RssAnon|^VmRSS/ {print $2}' $p/status);; esac; done")


class Bench:
    def __init__(self, stack):
        self.stack, self.lab = stack, Lab(stack.cluster.kubeconfig).open()
        self.got = {}

    def install(self, which):
        images = (self.stack.ours["ambient-agent"], self.stack.ours["ztunnel"]) if which == "ours" else (
            self.stack.stock_agent, self.stack.stock_ztunnel)
        self.stack.agent_image(images[0])
        self.stack.ztunnel_image(images[1])

    def note(self, which, what, value):
        self.got.setdefault(what, {}).setdefault(which, []).append(value)

    def memory(self, which):
        for node in self.lab.nodes.values():
            found = {}
            for line in node.run("sh", "-c", MEMORY).stdout.splitlines():
                name, rss, anonymous = line.split()
                found[name] = (int(rss) / 1024, int(anonymous) / 1024)
            for what, name in (("agent", "install-cni"), ("ztunnel", "ztunnel")):
                self.note(which, what + " of a node at rest: RSS, MiB", found[name][0])
                self.note(which, what + " of a node at rest: of it its own, MiB", found[name][1])

    def first_answers(self, which, space, count):
        """Pods with a new identity each; the first thing they do is to ask a service on the other node."""
        url = "http://%s/" % self.lab.kubectl.get("-n", space.name, "service", "web")["spec"]["clusterIP"]
        for n in range(count):
            name = "new-%s-%d" % (which, n)
            space.apply(account(name), pod(name, "get", "-n", "2", "-t", "10s", url, node=self.lab.names()[0],
                                           serviceAccountName=name, restartPolicy="Never"))
            wait_until(name + " to end", lambda p=name: space.pod(p)["status"]["phase"] in ("Succeeded", "Failed"), 60, every=0.1)
            lines = space.kubectl("logs", name).splitlines()
            answers = [float(line.split()[1].rstrip("ms")) for line in lines if line.startswith("200 ")]
            if lines and not lines[0].startswith("200 "):
                print("# %s: the first request of %s: %s" % (which, name, lines[0]), flush=True)
            self.note(which, "new pods whose first request failed", 0 if lines and lines[0].startswith("200 ") else 1)
            if answers:
                self.note(which, "first answer of a new pod, ms", answers[0])
            space.kubectl("delete", "pod", name, "--wait=false", "--grace-period=0", "--force")

    def policies(self, which, space, count):
        changes = Changes(space, "client", "http://web.%s/" % space.name)
        changes.until(True)
        for _ in range(count):
            for works, change in ((False, lambda: space.apply(authorization("p", "DENY", principal(space, "client"), "web"))),
                                  (True, lambda: space.kubectl("delete", "authorizationpolicy/p"))):
                change()
                answered = time.time()
                self.note(which, "policy made or deleted, to its effect, s", max(0.0, changes.until(works) - answered))
        changes.close()

    def round(self, which, pods, changes, rest):
        self.install(which)
        space = self.lab.space("ambient")
        space.apply(account("client"))
        one, two = self.lab.names()[:2]
        space.run(pod("client", node=one, serviceAccountName="client"), pod("web", node=two), service("web"))
        wait_until("the client to reach the server", lambda: space.get("client", "http://web.%s/" % space.name)[0], 60, every=0.3)
        time.sleep(rest)
        self.memory(which)
        self.first_answers(which, space, pods)
        self.policies(which, space, changes)
        self.lab.clean()

    def report(self):
        print("%-58s %22s %22s %8s" % ("median (least, most)", "ours", "stock", "ratio"))
        for what, by in self.got.items():
            cells = {w: "%.2f (%.2f, %.2f)" % (statistics.median(v), min(v), max(v)) for w, v in by.items()}
            ours, stock = (statistics.median(by.get(w, [0])) for w in ("ours", "stock"))
            print("%-58s %22s %22s %8s" % (what, cells.get("ours", ""), cells.get("stock", ""), "%.2f" % (ours / stock) if stock else ""))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    ap.add_argument("--bin", required=True)
    ap.add_argument("--rounds", type=int, default=2)
    ap.add_argument("--pods", type=int, default=8)
    ap.add_argument("--changes", type=int, default=5)
    ap.add_argument("--rest", type=float, default=35, help="seconds before memory is read")
    a = ap.parse_args()
    why = "needs root" if os.geteuid() != 0 else charts_lab.missing(ztunnel=True)
    if why:
        print("mesh_bench: not run: %s" % why)
        return 0
    stack = charts_lab.Stack(tempfile.mkdtemp(prefix="ambient-mesh-bench-"), os.path.abspath(a.bin))
    try:
        stack.apply("values.cni.image=" + stack.ours["ambient-agent"])
        stack.ready()
        bench = Bench(stack)
        for _ in range(a.rounds):
            for which in WHOSE:
                bench.round(which, a.pods, a.changes, a.rest)
        bench.report()
    finally:
        stack.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
