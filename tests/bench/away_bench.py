#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""away_bench.py: what a slow istiod costs: a new pod's first byte when istiod tells of it late, and how fast the certificates
of many new pods come from a CA that takes its time. Beside a stock ztunnel where STOCK_ZTUNNEL names one.
usage: away_bench.py --bin DIR [--pods 5] [--delays 0.1,1,3] [--identities 100]"""
import argparse
import os
import statistics
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "system"))
from fake_istiod import ADDRESS, Istiod  # noqa: E402
from ztlab import Lab, double_echo, wait_for  # noqa: E402

CA_MS = 50


class Site:
    def __init__(self, program, version):
        self.lab = Lab(os.path.dirname(program), version, {})
        self.lab.bin = program
        self.istiod = Istiod(self.lab)
        self.issued = []
        self.sign, self.istiod.certificate = self.istiod.certificate, self.certificate
        self.istiod.down()
        self.istiod.up()
        self.b = self.lab.pod("b", 2)
        self.b.serve(8080, double_echo)
        self.istiod.put_workload(self.b)
        env = dict(self.istiod.env(), CA_ADDRESS="https://localhost:15012", PROXY_MODE="shared", XDS_ON_DEMAND="false",
                   ISTIO_META_DNS_CAPTURE="false", RUST_LOG="info")
        if version == 1:
            del env["LOCAL_XDS_PATH"]
            self.lab.env = lambda: {"PATH": os.environ["PATH"], "NODE_NAME": self.lab.node_name,
                                    "INPOD_UDS": self.lab.agent.path}
        self.zt = self.lab.start(**env)

    def certificate(self, stream):
        time.sleep(CA_MS / 1e3)
        self.sign(stream)
        self.issued.append(time.monotonic())

    def close(self):
        self.istiod.close()
        self.lab.close()


def first_byte(pod, addr):
    """Seconds until an echo came back; a refused connection is tried again, as applications do."""
    start = time.monotonic()
    while time.monotonic() - start < 30:
        try:
            with pod.net.connect((addr, 8080)) as s:
                s.sendall(b"x")
                if s.recv(1) == b"x":
                    return time.monotonic() - start
        except OSError:
            pass
        time.sleep(0.01)
    return 30


def new_pods(site, n, delay):
    took = []
    for _ in range(n):
        i = len(site.lab.pods)
        pod = site.lab.pod("p%d" % i, 10 + i)
        assert site.lab.agent.add(pod) == ""
        uid = site.istiod.put_workload(pod)
        t = threading.Timer(delay, lambda u=uid: site.istiod.push(ADDRESS, [u]))
        t.start()
        took.append(first_byte(pod, site.b.ip))
        t.join()
    return statistics.median(took), max(took)


class Alias:
    """One namespace under another pod's name: for many identities without as many namespaces."""

    def __init__(self, pod, i):
        self.net, self.name, self.ns, self.sa, self.ip, self.captured = pod.net, "m%d" % i, "many", "sa%d" % i, pod.ip, True
        self.uid, self.identity = "11111111-0000-0000-0000-%012d" % i, None
        self.make_listeners = pod.make_listeners


def many_identities(site, n):
    pods = [Alias(site.b, i) for i in range(n)]
    names = [site.istiod.put_workload(p) for p in pods]
    site.issued.clear()
    start = time.monotonic()
    site.istiod.push(ADDRESS, names)
    for p in pods:
        assert site.lab.agent.add(p) == ""
    wait_for("all certificates", lambda: len(site.issued) >= n, 120)
    return max(site.issued) - start


def measure(program, version, args):
    site, out = Site(program, version), {}
    try:
        wait_for("traffic", lambda: first_byte(site.b, site.b.ip) < 1)
        for delay in args.delays.split(","):
            out["istiod tells of a new pod after %s s: its first byte" % delay] = "%.2f s (slowest %.2f s)" % new_pods(
                site, args.pods, float(delay))
        took = many_identities(site, args.identities)
        out["certificates of %d new identities, CA takes %d ms for one" % (args.identities, CA_MS)] = (
            "%.1f s, %.0f/s" % (took, args.identities / took))
    except BaseException:
        print(site.zt.log()[-3000:])
        raise
    finally:
        site.close()
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    p.add_argument("--pods", type=int, default=5)
    p.add_argument("--delays", default="0.1,1,3")
    p.add_argument("--identities", type=int, default=100)
    args = p.parse_args()
    stock = os.environ.get("STOCK_ZTUNNEL", "")
    ours = measure(os.path.join(os.path.abspath(args.bin), "ztunnel"), 2, args)
    theirs = measure(stock, 1, args) if os.access(stock, os.X_OK) else {}
    print("| what | ours | stock ztunnel |\n|---|---|---|")
    for k, v in ours.items():
        print("| %s | %s | %s |" % (k, v, theirs.get(k, "STOCK_ZTUNNEL is not set")))


if __name__ == "__main__":
    main()
