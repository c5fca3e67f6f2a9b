# SPDX-License-Identifier: Apache-2.0
"""bench.py: the figures of docs/performance.md, as ratios of two things in one run.

usage: bench.py --bin DIR --load MESHLOAD [--secs 3] [--minute 60] [--only throughput,connections,...] [--root DEBIAN]
Absolute figures belong to the machine and to what else runs on it: compare rows of one run."""
import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

from lab import Lab, wait_for

ROWS = []


def row(what, ours, control, ratio, note=""):
    ROWS.append((what, ours, control, ratio, note))
    print(f"| {what} | {ours} | {control} | {ratio} | {note} |", flush=True)


class Bench:
    def __init__(self, lab, args):
        self.lab, self.args = lab, args
        self.a, self.b = lab.nodes
        self.mesh = (self.a.add_pod("src"), self.b.add_pod("dst"))
        self.plain = (self.a.add_pod("psrc", mesh=False), self.b.add_pod("pdst", mesh=False))
        for src, _ in (self.mesh, self.plain):
            src.tune_client()

    def serve(self):
        self.servers = []
        for _, dst in (self.mesh, self.plain):
            p = dst.popen(self.args.load, "serve", "7000", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert p.stdout.readline().strip() == "ready"
            self.servers.append(p)

    def begin(self, pair, mode, *args, port=7000):
        src, dst = pair
        return src.popen(self.args.load, mode, dst.ip, str(port), *map(str, args), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def load(self, pair, mode, *args):
        before = [n.cpu() for n in self.lab.nodes]
        out, _ = self.begin(pair, mode, *args).communicate(timeout=300)
        r = json.loads(out)
        r["cpu"] = sum(n.cpu() - b for n, b in zip(self.lab.nodes, before))
        return r

    def both(self, mode, *args, key, reps=3):
        """Interleaved repetitions; medians by @key."""
        rs = {"mesh": [], "plain": []}
        for _ in range(reps):
            rs["mesh"].append(self.load(self.mesh, mode, *args))
            rs["plain"].append(self.load(self.plain, mode, *args))
        return tuple(sorted(rs[k], key=key)[reps // 2] for k in ("mesh", "plain"))

    def throughput(self):
        for flows in (1, 8, 64):
            m, p = self.both("bulk", flows, self.args.secs, key=lambda r: r["bytes"] / r["secs"])
            gm, gp = (r["bytes"] * 8e-9 / r["secs"] for r in (m, p))
            row(f"HBONE throughput, {flows} flows", f"{gm:.2f} Gbit/s, {m['cpu'] / (m['bytes'] / 1e9):.2f} CPU s/GB",
                f"{gp:.2f} Gbit/s plain TCP", f"{gm / gp:.2f}", "CPU of both proxies")

    def connections(self):
        for conns in (1, 16, 64):
            m, p = self.both("crr", conns, self.args.secs, key=lambda r: r["ok"] / r["secs"])
            rm, rp = (r["ok"] / r["secs"] for r in (m, p))
            row(f"new connections, {conns} at a time",
                f"{rm:.0f}/s, {1e6 * m['cpu'] / max(1, m['ok']):.0f} us CPU, p99 {m['p99_us']} us",
                f"{rp:.0f}/s, p99 {p['p99_us']} us plain TCP", f"{rm / rp:.2f}", f"failed {m['failed']}")

    def requests(self):
        for conns in (1, 16):
            m, p = self.both("rr", conns, self.args.secs, 64, key=lambda r: r["ok"])
            rm, rp = (r["ok"] / r["secs"] for r in (m, p))
            row(f"64 B ping-pong, {conns} connections",
                f"{rm:.0f}/s, p50 {m['p50_us']} us, {1e6 * m['cpu'] / max(1, m['ok']):.0f} us CPU",
                f"{rp:.0f}/s, p50 {p['p50_us']} us plain TCP", f"{rm / rp:.2f}")

    def paced(self):
        """What is asked at a steady rate, as users do, and not as fast as it goes."""
        m, p = self.both("rr", 10, self.args.secs, 1024, 1000, key=lambda r: r["p50_us"])
        row("1,000 requests/s, 1 KB each way, 10 connections",
            f"{m['cpu'] / m['secs']:.3f} cores for both proxies, p50 {m['p50_us']} us, p99 {m['p99_us']} us",
            f"p50 {p['p50_us']} us, p99 {p['p99_us']} us plain TCP", f"{m['p50_us'] / p['p50_us']:.1f}", "goal 0.09 cores")

    def beside(self):
        """One small exchange on the same HBONE connection as 64 flows that send all they can, and as eight that nobody reads."""
        for what, flows, port, goal in (("64 bulk flows", 64, 7000, "goal 10 ms at p99"),
                                        ("eight stalled readers", 8, 7001, "their buffers are kept, nobody else's wait")):
            found = {}
            for name, pair in (("mesh", self.mesh), ("plain", self.plain)):
                alone = self.load(pair, "rr", 1, self.args.secs, 64)
                before = [n.memory_kib("ztunnel")["RssAnon"] for n in self.lab.nodes]
                others = self.begin(pair, "bulk", flows, self.args.secs + 2, port=port)
                time.sleep(1)
                r = self.load(pair, "rr", 1, self.args.secs, 64)
                grown = [n.memory_kib("ztunnel")["RssAnon"] - b for n, b in zip(self.lab.nodes, before)]
                others.communicate(timeout=60)
                found[name] = r, alone, max(grown)
            (m, ma, grown), (p, pa, _) = found["mesh"], found["plain"]
            row(f"64 B ping-pong beside {what}",
                f"p50 {m['p50_us'] / 1e3:.2f} ms, p99 {m['p99_us'] / 1e3:.2f} ms (alone {ma['p50_us'] / 1e3:.2f}, {ma['p99_us'] / 1e3:.2f}); "
                f"ztunnel {grown / 1024:+.1f} MiB",
                f"p50 {p['p50_us'] / 1e3:.2f} ms, p99 {p['p99_us'] / 1e3:.2f} ms plain TCP (alone {pa['p50_us'] / 1e3:.2f}, "
                f"{pa['p99_us'] / 1e3:.2f})", f"{m['p99_us'] / max(1, p['p99_us']):.2f}", goal)

    def closed(self):
        """Memory with thousands of idle connections, and after their end."""
        count = 9000

        def own():
            return [n.memory_kib("ztunnel")["RssAnon"] for n in self.lab.nodes]
        for mode in ("bulk", "crr"):  # what any load brings in is there before
            self.load(self.mesh, mode, 64, 1)
        time.sleep(5)
        for turn in ("first", "second"):
            before = own()
            p = self.begin(self.mesh, "idle", count, 60)
            opened = json.loads(p.stdout.readline())
            time.sleep(2)
            held = own()
            p.communicate(timeout=60)
            time.sleep(5)
            after = own()
            each = [(h - b) * 1024 / max(1, opened["ok"]) for h, b in zip(held, before)]
            row(f"{opened['ok']} idle connections ({opened['failed']} failed), and 5 s after their end, {turn} time",
                f"{each[0]:.0f} and {each[1]:.0f} bytes each (source, destination); "
                f"{(after[0] - before[0]) / 1024:+.1f} and {(after[1] - before[1]) / 1024:+.1f} MiB after",
                f"{before[0] / 1024:.1f} and {before[1] / 1024:.1f} MiB before",
                f"{max(a / b for a, b in zip(after, before)):.2f}", "goals 1.5 kB each, and within 2 MiB after")

    def minute(self):
        slices, secs = [], max(6, self.args.minute // 10)
        for _ in range(max(1, self.args.minute // secs)):
            slices.append(self.load(self.mesh, "crr", 1, secs, 1000))
        cpu = [1e6 * r["cpu"] / max(1, r["ok"]) for r in slices]
        row(f"1,000 new connections/s for {self.args.minute} s, server pod with kernel defaults",
            f"{sum(r['ok'] for r in slices)} ok, {sum(r['failed'] for r in slices)} failed",
            f"CPU per connection {cpu[0]:.0f} us first, {cpu[-1]:.0f} us last {secs} s",
            f"{cpu[-1] / cpu[0]:.2f}", "flat is 1.0; stock stops after 12 s")

    def memory(self):
        time.sleep(31)
        idle = self.a.memory_kib("ztunnel")
        agent = self.a.memory_kib("ambient-agent")
        times = []
        pods = [self.a.add_pod(f"m{i}") for i in range(48)]
        self.lab.write_state()
        self.a.write_manifests()
        want = len(self.a.pods)
        wait_for("manifests", lambda: self.a.status()["source"]["pods"] >= want)
        for p in pods:
            t = time.perf_counter()
            self.a.enrol(p)
            times.append((time.perf_counter() - t) * 1e3)
        wait_for("50 pods", lambda: sum(p["state"] == "enrolled" for p in self.a.status()["pods"]) >= 49)
        time.sleep(31)  # at rest: both programs let go of unused text every 30 s
        for prog, before in (("ambient-agent", agent), ("ztunnel", idle)):
            m = self.a.memory_kib(prog)
            row(f"{prog} RSS with 50 pods", f"{m['VmRSS'] / 1024:.1f} MiB ({m['RssAnon'] / 1024:.1f} anonymous), {m['fds']} fds",
                f"{before['VmRSS'] / 1024:.1f} MiB ({before['RssAnon'] / 1024:.1f}) with 2",
                f"{m['VmRSS'] / before['VmRSS']:.2f}")
        times.sort()
        row("enrolment through the agent's socket (48 pods)", f"p50 {statistics.median(times):.2f} ms",
            f"p99 {times[int(len(times) * .99)]:.2f} ms", "", "rules, sockets, ztunnel's ack included")


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--bin", required=True)
    ap.add_argument("--load", required=True)
    ap.add_argument("--secs", type=float, default=3)
    ap.add_argument("--minute", type=int, default=60)
    ap.add_argument("--only", default="throughput,connections,requests,paced,closed,minute,beside,memory")
    ap.add_argument("--root", help="the agent and ztunnel were built in this root (make debian13)")
    args = ap.parse_args()
    with Lab(args.bin, args.root) as lab:
        b = Bench(lab, args)
        lab.start()
        b.serve()
        print(f"Kernel {platform.release()}, {platform.processor() or platform.machine()}, {lab.bin}\n")
        print("| what | ours | control in the same run | ratio | note |\n|---|---|---|---|---|")
        for name in args.only.split(","):
            getattr(b, name)()
        for s in b.servers:
            s.stdin.close()
            s.wait(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
