#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Looks for lost events: many random connections at once, through two ztunnels, with a limit for each.

One thread drives both ends of every connection, so that only ztunnel can be the one that waits. What
a connection does (sizes, pauses, slow readers, who closes first, who resets and when) follows from
its seed; every received byte is compared with what was sent at that place. A connection that is not
over at its deadline is a stall: sockets of all namespaces, counters and connections of both ztunnels
are printed, with the seed that repeats the run.

  test_stress.py --bin DIR [--seconds 8] [--seed N] [--workers 1,2:65535] [--burn 2] [--legs out,in]

--workers lists pairs of ztunnels, as threads:stream window; --legs lists runs, each a mix (hbone+in).
"""
import argparse
import errno
import heapq
import json
import os
import random
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]
import ztlab  # noqa: E402
from cri.daemon import descriptors  # noqa: E402
from ztlab import reset, wait_for  # noqa: E402

LEGS = ("hbone", "out", "in")
HEAD = 8  # the client's first bytes: number of the connection
PATTERN = random.Random(7).randbytes(1 << 20)
PATTERN2 = memoryview(PATTERN + PATTERN)
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Node:
    """What ztlab.Ztunnel needs of a lab: a second node, with its own agent."""

    def __init__(self, lab):
        self.dir, self.next_log = lab.dir, lab.next_log
        self.node = ztlab.Namespace(lab.prefix + "-node2")
        self.agent = ztlab.Agent(os.path.join(lab.dir, "zds2.sock"), 2)

    def close(self):
        self.agent.close()
        self.node.close()


class Bench:
    """Pods a (node 1), b (node 2) and c (not in the mesh)."""

    def __init__(self, bin_dir, workers, window):
        self.lab, self.second, self.open = ztlab.Lab(bin_dir), None, True
        try:
            self.build(workers, window)
        except BaseException:
            self.drop()
            raise

    def build(self, workers, window):
        self.a = self.lab.pod("a", 11)
        self.b = self.lab.pod("b", 12)
        self.c = self.lab.pod("c", 13, captured=False)
        self.lab.state([self.a.workload(), self.b.workload(node="node2"), self.c.workload()])
        self.second = Node(self.lab)
        more = {"ZTUNNEL_WORKER_THREADS": workers, "HTTP2_STREAM_WINDOW_SIZE": window or "4194304"}
        self.zts = [self.start(self.lab, [self.a], more)]
        more.update(NODE_NAME="node2", INPOD_UDS=self.second.agent.path,
                    AMBIENT_ADMIN_SOCKET=os.path.join(self.lab.dir, "admin2.sock"))
        self.zts.append(self.start(self.second, [self.b], more))
        self.ends = {"hbone": (self.a, self.b), "out": (self.a, self.c), "in": (self.c, self.b)}
        self.listeners = {}
        for i, leg in enumerate(LEGS):
            pod = self.ends[leg][1]
            s = pod.net.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("0.0.0.0", 9000 + i))
            s.listen(2048)
            s.settimeout(ztlab.TIMEOUT)
            self.listeners[leg] = (s, (pod.ip, 9000 + i))

    def start(self, node, pods, more):
        env = self.lab.env()
        env.update(more)
        zt = ztlab.Ztunnel(node, self.lab.bin, env)
        self.lab.zts.append(zt)
        node.agent.serve(pods)
        zt.wait_ready()
        return zt

    def pair(self, leg):
        lst, addr = self.listeners[leg]
        c = self.ends[leg][0].net.connect(addr)
        s, _ = lst.accept()
        s.settimeout(ztlab.TIMEOUT)
        return c, s

    def stats(self):
        return [json.loads(z.http(15000, "/debug/workers")[1]) for z in self.zts]

    def quiet(self):
        def check():
            return all(s["connections"] == 0 and s["buffersBytes"] == 0 and
                       s["undeliveredBytes"] == 0 and s["streams"] == 0 for s in self.stats())
        try:
            wait_for("all connections to be gone", check)
        except AssertionError as e:
            self.explain()
            raise AssertionError("%s: %s" % (e, self.stats()))

    def explain(self):
        """Everything that tells where the bytes are."""
        for pod in (self.a, self.b, self.c):
            say("--- sockets of pod %s\n%s" % (pod.name, ztlab.run(
                "ip", "netns", "exec", pod.net.name, "ss", "-tnoim", "state", "all", "exclude",
                "time-wait", "exclude", "listening")))
        for i, z in enumerate(self.zts):
            say("--- ztunnel %d: %s" % (i + 1, z.http(15000, "/debug/workers")[1]))
            say(json.dumps(z.dump()["workloadState"], indent=1))
            for t in sorted(os.listdir("/proc/%d/task" % z.pid)):
                with open("/proc/%d/task/%s/stat" % (z.pid, t)) as f:
                    v = f.read().rsplit(")", 1)[1].split()
                with open("/proc/%d/task/%s/wchan" % (z.pid, t)) as f:
                    say("thread %s: %s, %s, cpu %s+%s" % (t, v[0], f.read(), v[11], v[12]))
            say("\n".join(z.log().splitlines()[-20:]))

    def close(self):
        self.open = False
        for s, _ in self.listeners.values():
            s.close()
        codes = [z.stop() for z in self.zts]
        logs = "".join(z.log() for z in self.zts)
        self.second.close()
        self.lab.close()
        assert codes == [0, 0], "ended with %s:\n%s" % (codes, logs[-4000:])
        assert "Sanitizer" not in logs and "bug:" not in logs, logs[-8000:]

    def drop(self):
        if self.open:
            if self.second:
                self.second.close()
            self.lab.close()


def say(text):
    for line in text.splitlines():
        print("# " + line, flush=True)


# --- one connection ---

def sizes(rnd):
    return rnd.choice((0, 1, 17, 1000, 8191, 65536, 65537, rnd.randrange(300000),
                       rnd.randrange(2 << 20), rnd.randrange(8 << 20) if rnd.random() < .3 else 5))


def stops(rnd, total, longest):
    """[(position, pause)], latest first."""
    if rnd.random() < .6:
        return []
    return sorted(((rnd.randrange(total + 1), rnd.random() * longest)
                   for _ in range(rnd.randrange(1, 4))), reverse=True)


class End:
    """One socket of a connection: writes its bytes, checks those of the other."""

    def __init__(self, tr, name, rnd, send, expect):
        self.tr, self.name, self.sock = tr, name, None
        self.send, self.expect = send, expect
        self.base = rnd.randrange(1 << 20)
        self.wpos = self.rpos = 0
        # small pieces of small things: this program must not be the slow one
        self.piece = max(rnd.choice((1 << 18, 1 << 16, 5000, 300)), send // 400)
        self.bite = max(rnd.choice((1 << 18, 1 << 16, 5000, 700)), expect // 400)
        self.wstops, self.rstops = stops(rnd, send, .5), stops(rnd, expect, .8)
        self.wait_r = self.wait_w = 0.0  # paused until
        self.fin = self.eof = self.dead = False
        self.fin_last = False  # FIN only after the other's
        self.reset_at = None  # after so many bytes, or when nothing is taken any more
        self.stuck_since = None
        self.mask = 0

    def text(self):
        return "%s: wrote %d/%d%s, read %d/%d%s%s" % (
            self.name, self.wpos, self.send, " fin" if self.fin else "", self.rpos, self.expect,
            " eof" if self.eof else "", " over" if self.dead else "")


class Transfer:
    def __init__(self, no, seed, leg):
        rnd = random.Random("%d/%d" % (seed, no))
        self.no, self.leg, self.rnd = no, leg, rnd
        up, down = HEAD + sizes(rnd), sizes(rnd)
        self.client = End(self, "client", rnd, up, down)
        self.server = End(self, "server", rnd, down, up)
        self.client.peer, self.server.peer = self.server, self.client
        self.resetter = None
        x = rnd.choice((self.client, self.server))
        kind = rnd.random()
        if kind < .3:
            x.fin_last = True
        elif kind < .5:  # one end resets before its FIN
            self.resetter = x
            x.reset_at = rnd.randrange(HEAD if x is self.client else 0, x.send + 1)
        elif kind < .55:  # the reader is asleep when the reset comes
            self.resetter = self.client
            self.client.send = self.server.expect = HEAD + (24 << 20)
            self.client.reset_at = self.client.send
            self.client.piece = self.server.bite = 1 << 17
            self.server.rstops = [(HEAD + rnd.randrange(200000), 1.5)]
        self.started = self.moved = time.monotonic()
        self.gap = 0.0  # longest time without a byte

    def touch(self):
        now = time.monotonic()
        self.gap, self.moved = max(self.gap, now - self.moved), now

    def text(self):
        return "connection %d (%s) after %.1f s: %s; %s%s" % (
            self.no, self.leg, time.monotonic() - self.started, self.client.text(),
            self.server.text(), "; %s resets at %d" % (self.resetter.name, self.resetter.reset_at)
            if self.resetter else "")


class Driver:
    def __init__(self, bench, seed, legs, concurrent, deadline):
        self.bench, self.seed, self.legs = bench, seed, legs
        self.concurrent, self.deadline = concurrent, deadline
        self.sel, self.timers = selectors.DefaultSelector(), []
        self.live, self.next, self.done, self.bytes, self.slowest = {}, 0, 0, 0, 0.0
        self.nameless, self.swept = {}, 0.0
        for leg in legs:
            s = bench.listeners[leg][0]
            s.setblocking(False)
            self.sel.register(s, READ, self.accept)

    def close(self):
        self.sel.close()
        for t in self.live.values():
            for e in (t.client, t.server):
                if e.sock:
                    e.sock.close()
        for s in self.nameless:
            s.close()
        for s, _ in self.bench.listeners.values():
            s.settimeout(ztlab.TIMEOUT)

    def start(self):
        t = Transfer(self.next, self.seed, random.Random(self.seed * 31 + self.next).choice(
            self.legs))
        self.next += 1
        src, _ = self.bench.ends[t.leg]
        s = src.net.socket()
        s.setblocking(False)
        r = s.connect_ex(self.bench.listeners[t.leg][1])
        assert r in (0, errno.EINPROGRESS), os.strerror(r)
        self.live[t.no] = t
        t.client.sock = s
        self.go(t.client)

    def accept(self, lst, _mask):
        try:
            s, _ = lst.accept()
        except BlockingIOError:
            return
        s.setblocking(False)
        self.nameless[s] = b""
        self.sel.register(s, READ, self.name)

    def name(self, s, _mask):
        """The first bytes of an accepted connection say whose it is."""
        try:
            d = s.recv(HEAD - len(self.nameless[s]))
        except OSError:
            d = b""
        self.nameless[s] += d
        if d and len(self.nameless[s]) < HEAD:
            return
        self.sel.unregister(s)
        head = self.nameless.pop(s)
        t = self.live.get(int.from_bytes(head, "big")) if len(head) == HEAD else None
        if t is None or t.server.sock:  # reset before its first bytes came
            s.close()
            return
        t.server.sock, t.server.rpos = s, HEAD
        if t.server.dead:
            s.close()
        else:
            self.go(t.server)

    def later(self, e, at):
        heapq.heappush(self.timers, (at, id(e), e))

    def over(self, e):
        if e.dead:
            return
        e.dead = True
        if e.mask:
            self.sel.unregister(e.sock)
            e.mask = 0
        if e.sock and e.sock.fileno() >= 0:
            e.sock.close()
        t = e.tr
        if t.client.dead and (t.server.dead or t.server.sock is None and t.resetter is t.client):
            t.touch()
            self.slowest = max(self.slowest, t.gap)
            if t.gap > 4:
                say("%.1f s without a byte: %s" % (t.gap, t.text()))
            self.done += 1
            self.bytes += t.client.rpos + t.server.rpos
            self.live.pop(t.no, None)

    def broken(self, e, why):
        """A reset is right when the other end did it."""
        if e.tr.resetter is not e.peer or not e.peer.dead:
            raise AssertionError("%s: %s has %s" % (e.tr.text(), e.name, why))
        self.over(e)

    def write(self, e):
        limit = e.send if e.reset_at is None else e.reset_at
        for _ in range(8):
            if e.wstops and e.wpos >= e.wstops[-1][0]:
                e.wait_w = time.monotonic() + e.wstops.pop()[1]
                self.later(e, e.wait_w)
                return
            n = min(limit - e.wpos, e.piece)
            if n <= 0:
                break
            if e.wpos < HEAD and e.name == "client":
                data = e.tr.no.to_bytes(HEAD, "big")[e.wpos:]
            else:
                at = (e.base + e.wpos) & 0xfffff
                data = PATTERN2[at:at + n]
            try:
                e.wpos += e.sock.send(data)
                e.stuck_since = None
                e.tr.touch()
            except BlockingIOError:
                if e.stuck_since is None:
                    e.stuck_since = time.monotonic()
                    self.later(e, e.stuck_since + .4)
                break
            except OSError as x:
                self.broken(e, x)
                return
        if e.reset_at is not None:
            stuck = e.stuck_since and time.monotonic() - e.stuck_since > .3
            if e.wpos >= e.reset_at or stuck and e.tr.server.sock:
                if e.mask:
                    self.sel.unregister(e.sock)
                    e.mask = 0
                reset(e.sock)
                self.over(e)
        elif e.wpos == e.send and not e.fin and (not e.fin_last or e.eof):
            e.fin = True
            e.tr.touch()
            try:
                e.sock.shutdown(socket.SHUT_WR)
            except OSError as x:
                self.broken(e, x)

    def read(self, e):
        for _ in range(8):
            if e.rstops and e.rpos >= e.rstops[-1][0]:
                e.wait_r = time.monotonic() + e.rstops.pop()[1]
                self.later(e, e.wait_r)
                return
            try:
                d = e.sock.recv(e.bite)
            except BlockingIOError:
                return
            except OSError as x:
                self.broken(e, x)
                return
            if not d:
                if e.tr.resetter is e.peer:
                    raise AssertionError("end instead of a reset: " + e.tr.text())
                assert e.rpos == e.expect, "the end came early: " + e.tr.text()
                e.eof = True
                return
            at = (e.peer.base + e.rpos) & 0xfffff
            assert PATTERN2[at:at + len(d)] == d, "other bytes after %d: %s" % (e.rpos, e.tr.text())
            e.rpos += len(d)
            e.tr.touch()

    def go(self, e, _mask=0):
        now = time.monotonic()
        if e.dead or e.sock is None:
            return
        if not e.eof and now >= e.wait_r:
            self.read(e)
        if not e.dead and not e.fin and now >= e.wait_w:
            self.write(e)
        if not e.dead and e.fin and e.eof:
            self.over(e)
        if e.dead:
            return
        now = time.monotonic()
        limit = e.send if e.reset_at is None else e.reset_at
        mask = (READ if not e.eof and now >= e.wait_r else 0) | \
            (WRITE if e.wpos < limit and now >= e.wait_w else 0)
        if mask == e.mask:
            return
        if not mask:
            self.sel.unregister(e.sock)
        elif not e.mask:
            self.sel.register(e.sock, mask, e)
        else:
            self.sel.modify(e.sock, mask, e)
        e.mask = mask

    def turn(self):
        now = time.monotonic()
        wait = min(.2, max(0, self.timers[0][0] - now)) if self.timers else .2
        for key, mask in self.sel.select(wait):
            if isinstance(key.data, End):
                self.go(key.data)
            else:
                key.data(key.fileobj, mask)
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            e = heapq.heappop(self.timers)[2]
            self.go(e)
        if now - self.swept > 1:
            self.swept = now
            for t in self.live.values():
                if now - t.moved >= self.deadline:
                    raise AssertionError("stalled: %s\nall:\n%s" % (
                        t.text(), "\n".join(x.text() for x in self.live.values())))

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.live:
            while len(self.live) < self.concurrent and time.monotonic() < end:
                self.start()
            self.turn()


def stress(bench, a, legs, seed):
    def go():
        d = Driver(bench, seed, legs, a.concurrent, a.deadline)
        try:
            d.run(a.seconds)
            say("%d connections, %d MiB, longest pause %.1f s" % (d.done, d.bytes >> 20, d.slowest))
        except AssertionError:
            say("seed %d" % seed)
            bench.explain()
            raise
        finally:
            d.close()
        bench.quiet()
    return go


def dead_writer(bench):
    """An application dies while its peer's window is open a little, with more to forward than that:
    its stream must go although nobody opens the window again. The ztunnels are stopped in turn, so
    that the first meets the window and the reset at once. Needs a small window."""
    c, s = bench.pair("hbone")
    c.setblocking(False)
    written, idle_since = 0, time.monotonic()
    while time.monotonic() - idle_since < .7:
        try:
            written += c.send(PATTERN[:65536])
            idle_since = time.monotonic()
        except BlockingIOError:
            time.sleep(.01)
    first, second = bench.zts

    def waiting():
        """Does the stopped one have something to read from its peer?"""
        out = ztlab.run("ip", "netns", "exec", bench.a.net.name, "ss", "-tnH", "dport", "=",
                        ":15008")
        return any(int(x.split()[1]) > 0 for x in out.splitlines())
    first.signal(signal.SIGSTOP)
    try:
        got = 0

        def read_on():
            nonlocal got
            got += len(s.recv(1 << 18))
            return waiting()
        wait_for("a WINDOW_UPDATE", read_on)
        second.signal(signal.SIGSTOP)
        reset(c)
        first.signal(signal.SIGCONT)
        wait_for("the dead one's connection to go", lambda: json.loads(
            first.http(15000, "/debug/workers")[1])["connections"] == 0)
    finally:
        first.signal(signal.SIGCONT)
        second.signal(signal.SIGCONT)
    try:
        while True:
            d = s.recv(1 << 18)
            assert d, "end instead of a reset"
            got += len(d)
    except ConnectionResetError:
        pass
    assert got <= written
    s.close()
    bench.quiet()


DROP = """
table inet loses {
  chain input {
    type filter hook input priority 0
    iifname lo tcp dport 9000-9002 ip length > 500 counter drop
  }
}
"""


def reset_behind_loss(bench, leg):
    """The server's side has not got all that was sent when the reset comes (full buffers drop; here a
    rule does): TCP ignores such a reset, so there must be another."""
    def nft(*args, **kw):
        return ztlab.run("ip", "netns", "exec", bench.b.net.name, "nft", *args, **kw)
    c, s = bench.pair(leg)
    s.settimeout(30)
    c.sendall(b"1")
    assert s.recv(10) == b"1"
    nft("-f", "-", input=DROP)
    try:
        c.sendall(b"y" * 1000)
        wait_for("a lost packet", lambda: "packets 0" not in nft("list", "table", "inet", "loses"))
        reset(c)
        wait_for("the end", lambda: all(x["connections"] == 0 for x in bench.stats()))
    finally:
        nft("delete", "table", "inet", "loses")
    got = b""
    try:
        while True:
            d = s.recv(1 << 16)
            assert d, "end instead of a reset"
            got += d
    except ConnectionResetError:
        pass
    assert (b"y" * 1000).startswith(got)
    s.close()
    bench.quiet()


def deleted_with_a_reset_waiting(bench):
    """A reset waits for what a server has not acknowledged; when the pod is deleted nobody will, and nothing stays."""
    def sockets():
        return {d for d in descriptors(bench.zts[1].pid) if d.startswith("socket:")}
    idle = sockets()
    c, s = bench.pair("hbone")
    c.sendall(b"1")
    assert s.recv(10) == b"1"
    ztlab.run("ip", "netns", "exec", bench.b.net.name, "nft", "-f", "-", input=DROP)
    c.sendall(b"y" * 1000)
    wait_for("a lost packet", lambda: "packets 0" not in ztlab.run(
        "ip", "netns", "exec", bench.b.net.name, "nft", "list", "table", "inet", "loses"))
    reset(c)
    wait_for("the end", lambda: all(x["connections"] == 0 for x in bench.stats()))
    waits = sockets() - idle
    assert waits, "the reset waits"
    bench.second.agent.delete(bench.b)
    wait_for("all sockets of the pod to go", lambda: not waits & sockets(), 8)
    s.close()


class Burners:
    """Processes that use the CPUs; they end by themselves as well."""

    def __init__(self, n, seconds):
        self.procs = [subprocess.Popen(
            [sys.executable, "-c", "import time\ne=time.monotonic()+%d\n"
             "while time.monotonic()<e:\n for i in range(100000): pass" % seconds])
            for _ in range(n)]

    def close(self):
        for p in self.procs:
            p.kill()
            p.wait()


def plan(a, benches):
    tests = []
    for n in a.workers.split(","):
        threads, _, window = n.partition(":")
        bench = Bench(a.bin, threads, window)
        benches.append(bench)
        for legs in a.legs.split(","):
            tests.append(("%s: random connections, workers and window: %s" % (legs, n),
                          stress(bench, a, tuple(legs.split("+")), a.seed)))
        tests += [("%s: a reset behind lost bytes" % leg,
                   lambda b=bench, g=leg: reset_behind_loss(b, g)) for leg in ("hbone", "in")]
        if window:
            tests.append(("a dead writer with a sleeping reader", lambda b=bench: dead_writer(b)))
    tests += [("a pod is deleted while a reset waits", lambda b=b: deleted_with_a_reset_waiting(b)) for b in benches]
    return tests + [("ztunnels end cleanly", b.close) for b in benches]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    ap.add_argument("--seconds", type=float, default=4)
    ap.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    ap.add_argument("--workers", default="1,2:65535")
    ap.add_argument("--legs", default="hbone+out+in")
    ap.add_argument("--concurrent", type=int, default=40)
    ap.add_argument("--deadline", type=float, default=20)
    ap.add_argument("--burn", type=int, default=0)
    a = ap.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    print("# seed %d" % a.seed, flush=True)
    benches, burners = [], None
    try:
        tests = plan(a, benches)
        burners = Burners(a.burn, int(a.seconds * len(tests) + 60))
        return ztlab.tap(tests)
    finally:
        if burners:
            burners.close()
        for b in benches:
            b.drop()


if __name__ == "__main__":
    sys.exit(main())
