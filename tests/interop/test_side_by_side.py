#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_side_by_side.py: the same connections through two stock ztunnels, through two of ours, and through one of each in both
orders (ztunnel-spec 4, 5, 13.3, 13.4): what the client gets, each node's access log in both of its shapes, the metrics. Then
bytes, ends and orderly leaving between the two. STOCK_ZTUNNEL names Istio's program; without it all is skipped. Run as root."""
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time

from interop_lab import stock
from side_lab import (CLOSED, DENIED, EMPTY_VIP, FAR, HOST, LOST_VIP, NEAR, PROXY_PORT, VIP, WAYPOINT_VIP, Site, comparable,
                      comparable_metrics, differences, line_differences)
from agent_lab import Skip
from hbone_peer import Gateway, hbone_server
import ztlab
from ztlab import read_all, read_exact, reset, wait_for
from ztsite import ARGS, HELLO, check, echo_once, main

MIXED = [("stock", "ours"), ("ours", "stock")]
PAIRS = MIXED + [("ours", "ours")]
BULK = 24 << 20


def programs():
    try:
        return {"stock": stock("ztunnel"), "ours": os.path.join(os.path.abspath(ARGS.bin), "ztunnel")}
    except Skip as e:
        raise ztlab.Skip(str(e))


def ask(pod, addr, port):
    """"answered", or "cut": a stock ztunnel ends with FIN what ours resets."""
    return "answered" if echo_once(pod, addr, port) == 2 * HELLO else "cut"


# name: who asks, whom (a function of the site), what becomes of it
CASES = {
    "a pod": ("a", lambda s: (s.b.ip, 8080), "answered"),
    "a pod by IPv6": ("a", lambda s: (s.b.ip6, 8080), "answered"),
    "a service": ("a", lambda s: (VIP, 80), "answered"),
    "denied": ("a", lambda s: (s.b.ip, DENIED), "cut"),
    "nobody listens": ("a", lambda s: (s.b.ip, CLOSED), "cut"),
    "a pod of the node, nobody listens": ("a", lambda s: (s.lost.ip, CLOSED), "cut"),
    "outside the mesh": ("a", lambda s: (s.u.ip, 8080), "answered"),
    "outside the mesh by IPv6": ("a", lambda s: (s.u.ip6, 8080), "answered"),
    "outside the mesh, nobody listens": ("a", lambda s: (s.u.ip, CLOSED), "cut"),
    "a workload without HBONE": ("a", lambda s: (s.c.ip, 8080), "answered"),
    "a workload without HBONE, nobody listens": ("a", lambda s: (s.c.ip, CLOSED), "cut"),
    "plaintext comes in": ("c", lambda s: (s.b.ip, 8080), "answered"),
    "plaintext comes in by IPv6": ("c", lambda s: (s.b.ip6, 8080), "answered"),
    "plaintext comes in from outside": ("u", lambda s: (s.b.ip, 8080), "answered"),
    "plaintext comes in, denied": ("c", lambda s: (s.b.ip, DENIED), "cut"),
    "plaintext comes in, nobody listens": ("c", lambda s: (s.b.ip, CLOSED), "cut"),
    "a waypoint with the PROXY protocol": ("a", lambda s: (WAYPOINT_VIP, 80), "answered"),
    "a service without endpoints": ("a", lambda s: (EMPTY_VIP, 80), "cut"),
    "a port that the service has not": ("a", lambda s: (VIP, 81), "cut"),
    "a waypoint that nobody knows": ("a", lambda s: (LOST_VIP, 80), "cut"),
    "nobody serves HBONE": ("a", lambda s: ("10.77.0.8", 80), "cut"),
    "somebody else answers": ("a", lambda s: ("10.77.0.9", 80), "cut"),
    "our own HBONE port": ("a", lambda s: (s.b.ip, 15008), "cut"),
    "our own outbound port": ("a", lambda s: (s.b.ip, 15001), "cut"),
    "no TLS on the HBONE port": ("c", lambda s: (s.b.ip, 15008), "cut"),
}


class Proxied:
    """A server behind the PROXY protocol: keeps each header with who connected, answers as the others do."""

    def __init__(self):
        self.headers = []

    def __call__(self, c, peer):
        data, need = b"", 16
        while len(data) < need:
            d = c.recv(4096)
            if not d:
                return
            data += d
            if len(data) >= 16:
                need = 16 + struct.unpack("!H", data[14:16])[0] + len(HELLO)
        ports = data[24:26]  # of the client, another one each time
        self.headers.append((peer[0], data[:need].replace(ports, b"??", 1), data[need - len(HELLO):]))
        c.sendall(2 * HELLO)
        c.recv(1)


def everything(pair, reference=None, **env):
    """{case: what the client got, {node: lines}}, the header behind the waypoint, {node: samples}. Lines are waited for
    until there are as many as in @reference."""
    s = Site(*pair, programs(), **env)
    try:
        s.near.lab.node.ip("addr", "add", "10.77.0.8/32", "dev", "br0")
        other = s.near.lab.pod("imp", 9, captured=False)
        other.serve(15008, hbone_server(s.near.lab, s.near.lab.root().issue(
            s.near.lab, ["spiffe://cluster.local/ns/default/sa/liar"])))
        behind, out = Proxied(), {}
        s.wp.serve(PROXY_PORT, behind)
        wait_for("traffic", lambda: ask(s.a, s.b.ip, 8080) == "answered")
        time.sleep(0.3)
        for name, (who, whom, _) in CASES.items():
            s.mark()
            got = ask(getattr(s, who), *whom(s))
            want = {k: len(v) for k, v in reference[0][name][1].items()} if reference else {}
            out[name] = got, s.lines(**want)
        return out, behind.headers, {k: s.metrics(k) for k in (NEAR, FAR)}
    finally:
        s.close()


REFERENCE = {}


def reference(**env):
    key = repr(env)
    if key not in REFERENCE:
        REFERENCE[key] = everything(("stock", "stock"), **env)
    return REFERENCE[key]


def compare(pair, **env):
    want = reference(**env)
    got = everything(pair, want, **env)
    wrong = []
    for name, (_, _, outcome) in CASES.items():
        for who, (answer, lines) in (("stock", want[0][name]), (pair, got[0][name])):
            if answer != outcome:
                wrong.append("%s: %s: %s" % (name, who, answer))
        for node in (NEAR, FAR):
            a, b = (comparable(x[0][name][1][node]) for x in (want, got))
            wrong += ["%s, %s node: %s" % (name, node, x) for x in line_differences(a, b)]
    check(want[2][NEAR] and want[2][FAR], "no metrics")
    check(want[1] == got[1] and len(got[1]) == 1, "PROXY header", want[1], got[1])
    for node in (NEAR, FAR):
        wrong += ["%s node: %s" % (node, x) for x in differences(*(comparable_metrics(x[2][node]) for x in (want, got)))]
    check(not wrong, "\n".join(wrong))
    if pair[1] == "ours":  # the stock ztunnel does not, see comparable()
        check(any(("dst.service", '"%s"' % HOST) in f for _, _, f in got[0]["a service"][1][FAR]), got[0]["a service"])


def the_same_lines_and_metrics(pair):
    def go():
        compare(pair)
    go.__name__ = "the_same_lines_and_metrics,_%s_to_%s" % pair
    return go


def the_same_lines_as_json():
    compare(("ours", "ours"), LOG_FORMAT="json")


# --- bytes, ends, leaving -----------------------------------------------------------------------

def both_ways(s):
    """Random bytes each way at once, half-closes at both ends."""
    data = {k: random.Random(k).randbytes(BULK) for k in (1, 2)}
    got = {}

    def server(c, _peer):
        t = threading.Thread(target=lambda: got.update(server=read_all(c)))
        t.start()
        c.sendall(data[2])
        c.shutdown(socket.SHUT_WR)
        t.join()
    s.b.serve(9001, server)
    with s.a.net.connect((s.b.ip, 9001), timeout=60) as c:
        t = threading.Thread(target=lambda: (c.sendall(data[1]), c.shutdown(socket.SHUT_WR)))
        t.start()
        got["client"] = read_all(c)
        t.join(60)
    wait_for("the server's end", lambda: "server" in got)
    for end, sent in (("server", 1), ("client", 2)):
        check(got[end] == (data[sent], "eof"), end, len(got[end][0]), got[end][1])


def one_half_closed(s):
    """What the server sends after the client's FIN arrives, and no end comes before it."""
    def server(c, _peer):
        read_all(c)
        time.sleep(0.3)
        c.sendall(b"later" * 1000)
    s.b.serve(9002, server)
    with s.a.net.connect((s.b.ip, 9002)) as c:
        c.sendall(HELLO)
        c.shutdown(socket.SHUT_WR)
        check(read_all(c) == (b"later" * 1000, "eof"))


def resets_end_both(s):
    """A reset at either end ends the other; nothing of them stays in ours."""
    ends = []

    def server(c, _peer):
        if c.recv(100) == b"reset me":
            reset(c)
        else:
            ends.append(read_all(c)[1])
    s.b.serve(9003, server)
    with s.a.net.connect((s.b.ip, 9003)) as c:
        c.sendall(b"reset me")
        check(read_all(c)[0] == b"")
    c = s.a.net.connect((s.b.ip, 9003))
    c.sendall(HELLO)
    time.sleep(0.2)
    reset(c)
    wait_for("the end at the server", lambda: ends)
    for node in s.nodes().values():
        if node.kind == "ours":
            wait_for("both to be gone", lambda z=node.zt: json.loads(z.http(15000, "/debug/workers")[1])["connections"] == 0)


def many_at_once(s):
    """More than one HTTP/2 connection carries (100 streams)."""
    socks = [s.a.net.connect((s.b.ip, 8080)) for _ in range(150)]
    for c in socks:
        c.sendall(HELLO)
    for c in socks:
        check(read_exact(c, 2 * len(HELLO)) == 2 * HELLO)
        c.close()


def far_one_leaves(s):
    """SIGTERM at the server's ztunnel: what is open goes on until it ends, then the process ends."""
    with s.a.net.connect((s.b.ip, 8080)) as c:
        c.sendall(HELLO)
        read_exact(c, 2 * len(HELLO))
        s.far.zt.signal(signal.SIGTERM)
        for _ in range(8):
            time.sleep(0.2)
            c.sendall(HELLO)
            check(read_exact(c, 2 * len(HELLO)) == 2 * HELLO, "cut while it drains")
    s.far.zt.wait(10)
    check(s.far.zt.proc.returncode == 0, s.far.zt.log()[-2000:])
    s.far.zt = s.far.lab.start(**s.far.env)
    wait_for("the next one to be used", lambda: ask(s.a, s.b.ip, 8080) == "answered")


def far_one_is_killed(s):
    s.far.zt.kill()
    s.far.zt = s.far.lab.start(**s.far.env)
    wait_for("the next one to be used", lambda: ask(s.a, s.b.ip, 8080) == "answered")


def between_the_two(pair):
    def go():
        s = Site(*pair, programs())
        try:
            wait_for("traffic", lambda: ask(s.a, s.b.ip, 8080) == "answered")
            for fn in (both_ways, one_half_closed, resets_end_both, many_at_once, far_one_leaves, far_one_is_killed):
                try:
                    fn(s)
                except Exception as e:
                    raise AssertionError("%s: %s\n%s\n%s" % (fn.__name__, e, s.near.zt.log()[-1500:], s.far.zt.log()[-1500:])) from e
        finally:
            s.close()
    go.__name__ = "bytes,_ends_and_leaving,_%s_to_%s" % pair
    return go


# --- across networks ----------------------------------------------------------------------------

def through_a_gateway(pair, want=None):
    """{node: lines} and what the gateway was asked, of one connection by HBONE within HBONE."""
    s = Site(*pair, programs(), network="remote")
    try:
        lab = s.near.lab
        gw = Gateway(lab, s.gw, lab.root().issue(lab, [s.gw.identity]), {HOST + ":80": (s.b.ip, 15008)})
        s.gw.serve(15008, gw)
        wait_for("traffic", lambda: ask(s.a, VIP, 80) == "answered")
        time.sleep(0.3)
        s.mark()
        gw.seen.clear()
        check(ask(s.a, VIP, 80) == "answered")
        lines = s.lines(**({k: len(v) for k, v in want[0].items()} if want else {}))
        asked = [[(k, v.split(";")[1] if k == "forwarded" else "-" if k == "traceparent" else v) for k, v in h] for h in gw.seen]
        return lines, asked
    finally:
        s.close()


def across_networks():
    want = through_a_gateway(("stock", "stock"))
    check(want[0][NEAR] and want[0][FAR] and len(want[1]) == 1, want)
    wrong = []
    for pair in PAIRS:
        got = through_a_gateway(pair, want)
        for k in (NEAR, FAR):
            wrong += ["%s, %s node: %s" % (pair, k, x) for x in line_differences(comparable(want[0][k]), comparable(got[0][k]))]
        if [sorted(h) for h in want[1]] != [sorted(h) for h in got[1]]:
            wrong.append("%s asked of the gateway:\n  stock %s\n  ours  %s" % (pair, want[1], got[1]))
    check(not wrong, "\n".join(wrong))


if __name__ == "__main__":
    sys.exit(main([the_same_lines_and_metrics(p) for p in PAIRS] + [the_same_lines_as_json] +
                  [between_the_two(p) for p in MIXED] + [across_networks]))
