#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""agent_bench.py: how soon the agent does what the Kubernetes API says, and how much memory it needs.

usage: agent_bench.py --bin DIR [--reps 30] [--only labels,memory]
The real agent, pods that are network namespaces, an API server and a ztunnel that are scripts (tests/system). Time is
counted from the moment at which the API server has written the watch event. A pod is captured when its Add reaches
ztunnel: its sockets and rules are in place by then. A second process is ztunnel, so that the API server's thread does
not disturb it. While pods go in and out, a request that needs no work is made over and over: its longest
answer says how long the agent's loop was busy with one thing."""
import argparse
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "system"))

import agent_lab  # noqa: E402
import kube_api  # noqa: E402
from agent_lab import V2, World, fields, namespace, until  # noqa: E402
from kube_lab import agent, cluster, current, running  # noqa: E402

MANY = 100
NAMESPACES = 5000


def at(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def ms(seconds):
    return "%.1f" % (seconds * 1e3)


class Conn(kube_api.Conn):
    """Notes when bytes were written."""

    def flush(self):
        with self.cond:
            pending = bool(self.h2._data_to_send)  # pylint: disable=protected-access
        super().flush()
        if pending:
            self.api.sent.append(time.monotonic())


class Ztunnel:
    """A process that takes every request and says when its Adds came."""

    def __init__(self, w):
        z = w.ready_ztunnel(V2)
        z.s.settimeout(None)
        self.out = multiprocessing.Queue()
        self.process = multiprocessing.Process(target=self.work, args=(z,), daemon=True)
        self.process.start()

    def work(self, z):
        while True:
            data, fds = z.recv()
            now = time.monotonic()
            for fd in fds:
                os.close(fd)
            z.fds.clear()
            z.ack()
            if fields(data)[0][0] == 1:
                self.out.put(now)

    def adds(self, n):
        return [self.out.get(timeout=60) for _ in range(n)]

    def close(self):
        self.process.terminate()
        self.process.join()


class Knocking:
    """Asks for what is not there, all the time; the longest answer."""

    def __init__(self, w):
        self.w, self.worst, self.end = w, 0.0, False

    def __enter__(self):
        self.thread = threading.Thread(target=self.work)
        self.thread.start()
        return self

    def work(self):
        while not self.end:
            began = time.monotonic()
            self.w.request("GET", "/nothing")
            self.worst = max(self.worst, time.monotonic() - began)
            time.sleep(0.002)

    def __exit__(self, *exc):
        self.end = True
        self.thread.join()


def state_is(w, state, n):
    return sum(p["state"] == state for p in w.status()["pods"]) == n


def arrived(api, after):
    """When the first bytes after @after were written: the event."""
    return until("event written", lambda: [t for t in list(api.sent) if t >= after])[0]


def released(w, n, since):
    """Seconds after @since (wall clock) at which the agent's log says of each pod that it was released."""
    def read():
        found = re.findall(r"^(\S+)Z\tinfo\tenrol\treleased pod=", w.logged(), re.M)
        times = [stamp(t) - since for t in found]
        times = [t for t in times if t >= 0]
        return times if len(times) >= n else None
    return until("%d released" % n, read, 60)


def stamp(text):
    whole, _, part = text.partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone + float("0." + part)


def start(pods):
    kube_api.Conn = Conn
    w = World()
    api = cluster(w, sent=[])
    all_pods = [running(w, api, name="p%03d" % i) for i in range(pods)]
    agent(w, api)
    until("current", lambda: current(w, api))
    z = Ztunnel(w)
    for p in all_pods:
        status, a = w.cni(p.event())
        assert (status, a["outcome"]) == (200, "not-in-mesh"), a
    return w, api, z, all_pods


def labels(reps):
    w, api, z, pods = start(MANY)
    one_in, one_out, all_in, last_in, all_out, stall_in, stall_out, cpu_in, cpu_out = ([] for _ in range(9))
    try:
        for _ in range(reps):
            api.label("pods", "default", pods[0].name, "ambient")
            t = time.monotonic()
            event = arrived(api, t - 0.05)
            one_in.append(z.adds(1)[0] - event)
            until("in", lambda: state_is(w, "enrolled", 1))
            wall, mono = time.time(), time.monotonic()
            api.label("pods", "default", pods[0].name, None)
            event = arrived(api, mono)
            one_out.append(released(w, 1, wall + event - mono)[0])
            until("out", lambda: state_is(w, "not-in-mesh", MANY))
        for _ in range(5):
            with Knocking(w) as k:
                mono, cpu = time.monotonic(), cpu_ms(w)
                api.label("namespaces", "", "default", "ambient")
                event = arrived(api, mono)
                times = [t - event for t in z.adds(MANY)]
                cpu_in.append((cpu_ms(w) - cpu) / MANY)
            all_in += times
            last_in.append(max(times))
            stall_in.append(k.worst)
            until("in", lambda: state_is(w, "enrolled", MANY), 30)
            with Knocking(w) as k:
                wall, mono, cpu = time.time(), time.monotonic(), cpu_ms(w)
                api.label("namespaces", "", "default", None)
                event = arrived(api, mono)
                all_out.append(max(released(w, MANY, wall + event - mono)))
                cpu_out.append((cpu_ms(w) - cpu) / MANY)
            stall_out.append(k.worst)
            until("out", lambda: state_is(w, "not-in-mesh", MANY), 30)
    finally:
        z.close()
        w.close()
    med = statistics.median
    print("| from the watch event's arrival | p50 ms | p99 ms | agent's CPU per pod, ms | longest answer to another "
          "request meanwhile, ms |\n|---|---:|---:|---:|---:|")
    print(f"| a running pod captured (pod's label, {len(one_in)} times) | {ms(med(one_in))} | {ms(at(one_in, .99))} | | |")
    print(f"| each of {MANY} running pods captured (namespace's label, 5 times) | {ms(med(all_in))} | {ms(at(all_in, .99))} | "
          f"{med(cpu_in):.2f} | {ms(med(stall_in))} |")
    print(f"| the last of {MANY} captured | {ms(med(last_in))} | | | |")
    print(f"| a running pod released, its rules removed (served on for 1 s: --release-limit) | {ms(med(one_out))} | {ms(at(one_out, .99))} | | |")
    print(f"| the last of {MANY} released | {ms(med(all_out))} | | {med(cpu_out):.2f} | {ms(med(stall_out))} |\n")


def cpu_ms(w):
    """The agent's own, in steps of a nanosecond."""
    with open("/proc/%d/schedstat" % w.pid(), encoding="ascii") as f:
        return int(f.read().split()[0]) / 1e6


def resident(w):
    out = {}
    with open("/proc/%d/status" % w.pid(), encoding="ascii") as f:
        for line in f:
            if line.startswith(("VmRSS", "RssAnon")):
                out[line.split(":")[0]] = int(line.split()[1]) / 1024
    return out


def at_rest(w):
    """Twelve seconds without work but the pings to the API server: least and most."""
    time.sleep(5)
    looks = []
    for _ in range(60):
        looks.append(resident(w))
        time.sleep(0.2)
    least = min(looks, key=lambda x: x["VmRSS"])
    return "%.1f | %.1f | %.1f" % (least["VmRSS"], least["RssAnon"], max(x["VmRSS"] for x in looks))


def memory():
    w, api, z, _ = start(0)
    pods = 0
    try:
        api.label("namespaces", "", "default", "ambient")
        print("| resident memory of the agent, MiB | least at rest | of it its own | most, at a ping to the API |\n"
              "|---|---:|---:|---:|")
        for n in (1, 50, 110):
            while pods < n:
                p = running(w, api, name="p%03d" % pods)
                status, a = w.cni(p.event())
                assert (status, a["outcome"]) == (200, "enrolled"), a
                pods += 1
            print(f"| {n} pod{'s' if n > 1 else ''} of the mesh | {at_rest(w)} |", flush=True)
        api.stop()
        for i in range(NAMESPACES):  # as large as real ones, with what their managers noted
            doc = namespace("ns-%04d" % i)
            doc["metadata"]["managedFields"] = [
                {"manager": "m%d" % j, "fieldsV1": {"f:" + "x" * 40 + str(k): {} for k in range(6)}} for j in range(3)]
            api.put("namespaces", doc)
        api.compact()
        api.start()
        until("listed", lambda: kube_api.source(w)["namespaces"] == NAMESPACES + 2 and current(w, api), 60)
        print("| right after reading %d namespaces more | %.1f | %.1f | |" % (
            NAMESPACES, resident(w)["VmRSS"], resident(w)["RssAnon"]))
        print(f"| 110 pods and {NAMESPACES} namespaces | {at_rest(w)} |\n", flush=True)
    finally:
        z.close()
        w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", required=True)
    ap.add_argument("--reps", type=int, default=30)
    ap.add_argument("--only", default="labels,memory")
    args = ap.parse_args()
    os.environ["TZ"] = "UTC"
    time.tzset()
    tempfile.tempdir = "/run"  # in memory, as the agent's run directory is on a node
    agent_lab.BIN[0] = os.path.abspath(args.bin)
    if "labels" in args.only.split(","):
        labels(args.reps)
    if "memory" in args.only.split(","):
        memory()
    return 0


if __name__ == "__main__":
    sys.exit(main())
