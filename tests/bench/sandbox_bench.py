#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""sandbox_bench.py: what the plugin costs a pod: RunPodSandbox of a real containerd, three ways.

Blocks of ten are interleaved, one sandbox at a time, each removed before the next, so that other work
on the machine hits all three ways alike. Then bursts: many sandboxes at once, three times each way in
turns; a sandbox that fails ends the program. Read the ratios.
"""
import argparse
import concurrent.futures
import os
import sys
import tempfile
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, TESTS)

from cri import lab, private, product  # noqa: E402
from cri.daemon import wait_until  # noqa: E402


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(p * len(values)))]


def timed(run):
    began = time.monotonic()
    run()
    return 1000 * (time.monotonic() - began)


def one(x, namespace, name):
    """(ms to create, ms to stop and remove) of one sandbox."""
    p = x.node.pod(name, namespace)
    x.manifests.pod(p)
    wait_until("the agent to read the manifest", lambda: known(x) >= 1)
    took = timed(p.run), timed(p.remove)
    x.manifests.remove(p)
    wait_until("the agent to forget the manifest", lambda: known(x) == 0)
    return took


def known(x):
    return x.agent.status()["source"]["pods"]


def set_chain(x, plugins):
    """Changes the chain and waits until containerd uses it: a sandbox then has our plugin's record
    in the agent, or has not."""
    x.node.set_chain(plugins)

    def used():
        p = x.node.pod("which-chain", "shop")
        x.manifests.pod(p)
        wait_until("the agent to read the manifest", lambda: known(x) == 1)
        p.run()
        seen = x.agent.state(p) != "absent"
        p.remove()
        x.manifests.remove(p)
        wait_until("the agent to forget the manifest", lambda: known(x) == 0)
        return seen == bool(plugins)
    wait_until("containerd to use the chain", used, every=0.1)


WAYS = [("no plugin in the chain", [], "legacy"),
        ("plugin, pod not in the mesh", [product.PLUGIN], "legacy"),
        ("plugin, pod enrolled", [product.PLUGIN], "shop")]


def measure(x, rounds):
    got = {w[0]: ([], []) for w in WAYS}
    for _ in range(rounds):
        for block in (WAYS[:1], WAYS[1:]):
            set_chain(x, block[0][1])
            for i in range(10 * len(block)):
                name, _plugins, namespace = block[i % len(block)]
                add, remove = one(x, namespace, "pod-%d" % time.monotonic_ns())
                got[name][0].append(add)
                got[name][1].append(remove)
    return got


def burst(x, plugins, namespace, count):
    """Seconds until @count sandboxes that are asked for at once are there."""
    set_chain(x, plugins)
    pods = [x.node.pod("b%d-%d" % (i, time.monotonic_ns()), namespace) for i in range(count)]
    for p in pods:
        x.manifests.pod(p)
    wait_until("the agent to read the manifests", lambda: known(x) == count)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        took = timed(lambda: list(pool.map(lambda p: p.run(), pods))) / 1000
        list(pool.map(lambda p: p.remove(), pods))
    for p in pods:
        x.manifests.remove(p)
    wait_until("the agent to forget the manifests", lambda: known(x) == 0)
    return took


def bursts(x, count):
    got = {w[0]: [] for w in WAYS}
    for _ in range(3):
        for name, plugins, namespace in WAYS:
            got[name].append(burst(x, plugins, namespace, count))
    base = percentile(got[WAYS[0][0]], 0.5)
    print("\n%d sandboxes at once (s)         median   least   most   ratio" % count)
    for name, times in got.items():
        print("%-30s %8.2f %7.2f %6.2f %7.2f" % (name, percentile(times, 0.5), min(times), max(times),
                                                 percentile(times, 0.5) / base))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--bin", required=True, help="folder with the built programs")
    p.add_argument("--rounds", type=int, default=4, help="of ten sandboxes each way")
    p.add_argument("--burst", type=int, default=50, help="sandboxes at once; 0 for none")
    a = p.parse_args()
    work = private.enter()
    x = lab.Lab(os.path.abspath(a.bin), tempfile.mkdtemp(dir=work))
    x.manifests.namespace("shop", "ambient")
    x.manifests.namespace("legacy")
    try:
        x.start()
        got = measure(x, a.rounds)
        if a.burst:
            bursts(x, a.burst)
    finally:
        x.close()
    base = percentile(got["no plugin in the chain"][0], 0.5)
    print("RunPodSandbox (ms)             n     p50    p90    p99   p50 ratio   remove p50")
    for name, (add, remove) in got.items():
        print("%-28s %3d %7.1f %6.1f %6.1f %10.2f %12.1f" % (
            name, len(add), percentile(add, 0.5), percentile(add, 0.9), percentile(add, 0.99),
            percentile(add, 0.5) / base, percentile(remove, 0.5)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
