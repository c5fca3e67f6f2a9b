#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""dns_bench.py: 5,000 queries a second through ztunnel, beside the same resolver asked directly, in turns: what is answered,
how long that takes, and what it costs ztunnel. One resolver in the node's namespace; two pods, one with DNS capture. Names
outside the mesh are one that is kept, and new ones, each asked once. With --stock PROGRAM a stock ztunnel serves the captured
pod instead; run both, one after the other.
"""
import argparse
import os
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "interop"))
from interop_lab import ca, end, stock_env  # noqa: E402, sets the path of tests/system
import dnslab  # noqa: E402
from ztlab import Lab, wait_for  # noqa: E402

RATE, RESOLVER = 5000, "10.77.0.1"


def cpu_s(pid):
    with open("/proc/%d/stat" % pid) as f:
        user, system = f.read().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ask(load, pod, name, seconds):
    out = subprocess.run(["ip", "netns", "exec", pod.net.name, load, "ask", RESOLVER, name, str(RATE), str(seconds)],
                         capture_output=True, text=True, check=True).stdout
    return [int(x) for x in out.split()]


def start_stock(lab, program):
    """It needs a CA that speaks Istio's protocol, and opens the pods' sockets itself."""
    lab.bin = program
    lab.etc(resolv_conf="nameserver %s\n" % RESOLVER)
    return ca(lab.node.name, lab.dir), lab.start(**stock_env(lab.dir))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    p.add_argument("--load", required=True)
    p.add_argument("--secs", type=int, default=5)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--stock", help="a stock ztunnel, instead of ours")
    a = p.parse_args()
    lab = Lab(a.bin, 1 if a.stock else 2)
    server = authority = None
    try:
        conf = os.path.join(lab.dir, "resolv.conf")
        with open(conf, "w") as f:
            f.write("nameserver %s\n" % RESOLVER)
        pod, plain = lab.pod("a", 2), lab.pod("b", 3, captured=False)
        dnslab.capture(pod.net)
        lab.state(services=[dict(name="web", namespace="default", hostname="web.default.svc.cluster.local", vips=["/10.96.0.9"],
                                 ports={80: 80})])
        if a.stock:
            authority, zt = start_stock(lab, a.stock)
        else:
            zt = lab.start(AMBIENT_DNS_RESOLV_CONF=conf)
        server = subprocess.Popen(["ip", "netns", "exec", lab.node.name, a.load, "serve", RESOLVER])
        wait_for("the resolver", lambda: dnslab.ask(plain.net, RESOLVER, "up.test", timeout=0.2).ips())
        rows = {"directly": (plain, "x.test"), "through ztunnel": (pod, "x.test"), "new names directly": (plain, "*.test"),
                "new names through it": (pod, "*.test"), "a name of the mesh": (pod, "web")}
        got = {k: [] for k in rows}
        for _ in range(a.rounds):  # in turns
            for k, (who, name) in rows.items():
                before = cpu_s(zt.pid)
                sent, answered, p50, p99 = ask(a.load, who, name, a.secs)
                got[k].append((100 * answered / sent, p50, p99, (cpu_s(zt.pid) - before) / sent * 1e6))
        print("%d queries/s for %d s, %d rounds in turns, median of rounds" % (RATE, a.secs, a.rounds))
        print("%-20s %10s %10s %10s %22s" % ("", "answered", "p50 us", "p99 us", "ztunnel's CPU/query us"))
        mid = {k: [statistics.median(x) for x in zip(*v)] for k, v in got.items()}
        for k, (answered, p50, p99, cpu) in mid.items():
            print("%-20s %9.2f%% %10.0f %10.0f %22.1f" % (k, answered, p50, p99, cpu))
        base = mid["directly"][1]
        print("p50 against asking directly: " + ", ".join("%s %.2f" % (k, v[1] / base) for k, v in mid.items()))
    finally:
        if server is not None:
            server.kill()
            server.wait()
        if authority is not None:
            end(authority)
        lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
