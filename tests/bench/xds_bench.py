#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""xds_bench.py: a push of many workloads from a scripted istiod: time until acknowledged and in use, memory per workload,
and how long ztunnel's control thread makes others wait meanwhile (its readiness port is asked all the time).
usage: xds_bench.py --bin DIR [--sizes 1000,10000,100000]"""
import argparse
import os
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "system"))
from fake_istiod import ADDRESS, POLICY, Istiod  # noqa: E402
from ztlab import Lab, wait_for  # noqa: E402


class Asker(threading.Thread):
    """Asks for readiness without pause; keeps the longest waits."""

    def __init__(self, zt):
        super().__init__(daemon=True)
        self.zt, self.on, self.took = zt, True, []

    def run(self):
        while self.on:
            t = time.monotonic()
            self.zt.http(15021, "/healthz/ready")
            self.took.append((time.monotonic() - t) * 1000)

    def worst(self):
        self.on = False
        self.join()
        took = sorted(self.took)
        return "n=%d p50=%.1f p99=%.1f max=%.1f ms" % (len(took), took[len(took) // 2], took[len(took) * 99 // 100], took[-1])


def make(istiod, n):
    wl = istiod.pb["workload"]
    names = []
    for i in range(n):
        uid = "c1//Pod/ns%d/deployment-%d-7c5ddbdf54-%05d" % (i % 100, i % 1000, i)
        w = wl.Workload(uid=uid.encode(), name=uid.rsplit("/", 1)[1].encode(), namespace=b"ns%d" % (i % 100),
                        service_account=b"sa-%d" % (i % 1000), node=b"node-%d" % (i % 500), tunnel_protocol=1,
                        addresses=[struct.pack(">I", 0x0b000000 + i)], workload_name=b"deployment-%d" % (i % 1000),
                        workload_type=2, canonical_name=b"deployment-%d" % (i % 1000), canonical_revision=b"latest",
                        cluster_id=b"c1", trust_domain=b"cluster.local")
        w.locality.region, w.locality.zone = b"region", b"zone-%d" % (i % 3)
        istiod.put(ADDRESS, uid, wl.Address(workload=w))
        names.append(uid)
    return names


def cpu_ms(zt):
    with open("/proc/%d/stat" % zt.pid) as f:
        t = f.read().rsplit(")", 1)[1].split()
    return (int(t[11]) + int(t[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def one_by_one(istiod, zt, name, changes=20):
    """One workload changes, again and again: a pod comes or goes."""
    cpu, start = cpu_ms(zt), time.monotonic()
    for _ in range(changes):
        gen = generation(zt)
        istiod.push(ADDRESS, [name])
        wait_for("the change", lambda: generation(zt) > gen, 60)
    took = (time.monotonic() - start) * 1000 / changes
    print("        one workload changes: in use after %.1f ms, %.1f ms of CPU each" % (took, (cpu_ms(zt) - cpu) / changes))


def generation(zt):
    return zt.metric("ambient_state_reloads_total")


def run(bin_dir, n):
    lab = Lab(bin_dir, 2, {})
    istiod = Istiod(lab)
    try:
        istiod.put_workload(lab.pod("a", 2))
        zt = lab.start(**istiod.env())
        names = make(istiod, n)
        rss, gen = zt.rss_kb(), generation(zt)
        asker = Asker(zt)
        asker.start()
        start = time.monotonic()
        error = istiod.push(ADDRESS, names)
        acked = time.monotonic() - start
        wait_for("the snapshot", lambda: generation(zt) > gen, 120)
        used = time.monotonic() - start
        waits = asker.worst()
        after = zt.rss_kb()
        assert error == "", error
        print("%7d workloads: acknowledged %.2f s, in use %.2f s, RSS %+.1f MiB = %d bytes each; readiness %s"
              % (n, acked, used, (after - rss) / 1024, (after - rss) * 1024 // n, waits))
        gen, asker = generation(zt), Asker(zt)
        asker.start()
        start = time.monotonic()
        istiod.put_policy("p", "default", 1, destination_ports=[1])
        istiod.push(POLICY, ["default/p"])
        wait_for("the policy", lambda: generation(zt) > gen, 60)
        print("        one policy then: in use %.2f s; readiness %s" % (time.monotonic() - start, asker.worst()))
        one_by_one(istiod, zt, names[n // 2])
        asker = Asker(zt)
        asker.start()
        start = time.monotonic()
        with istiod.lock:
            istiod.requests.clear()
            streams = list(istiod.streams)
        for s in streams:
            s.conn.drop()
        wait_for("the reconnect", lambda: len([r for r in istiod.requests if r.response_nonce]) == 2, 60)
        print("        reconnect with versions: %.2f s; readiness %s" % (time.monotonic() - start, asker.worst()))
        zt.stop()
    finally:
        istiod.close()
        lab.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    p.add_argument("--sizes", default="1000,10000,100000")
    args = p.parse_args()
    for n in args.sizes.split(","):
        run(args.bin, int(n))


if __name__ == "__main__":
    main()
