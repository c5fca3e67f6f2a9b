#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_nft_paths: where packets go in an enrolled pod: the rows of cni-spec 5.4, IPv4 and IPv6, with plain sockets.

    remote R 10.2.0.2 ── host H ── pod P 10.1.0.2 ── br0 ── virtual machine V 10.3.0.2
"""
import contextlib
import os
import select
import socket
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nftlab import TIMEOUT_S, Ns, main  # noqa: E402

MARK, REPLY_MARK = 0x539, 0x111
IP_TRANSPARENT, IPV6_TRANSPARENT, SO_ORIGINAL_DST = 19, 75, 80
APP = 8080


class Family:
    def __init__(self, v6):
        self.v6 = v6
        self.af = socket.AF_INET6 if v6 else socket.AF_INET
        self.any, self.lo = ("::", "::1") if v6 else ("0.0.0.0", "127.0.0.1")
        net = (lambda n, h: f"fd00:{n}::{h}") if v6 else (lambda n, h: f"10.{n}.0.{h}")
        self.host, self.pod, self.remote, self.br0, self.vm = net(1, 1), net(1, 2), net(2, 2), net(3, 1), net(3, 2)
        self.remote_gw = net(2, 1)
        self.vip = "fd00:96::1" if v6 else "10.96.0.1"
        self.probe = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff" if v6 else "169.254.7.127"
        self.bits = 64 if v6 else 24

    def sock(self, ns, kind=socket.SOCK_STREAM, mark=0, bind=None, transparent=False, uid=0):
        """A socket in ns. uid: owner of the socket, as nf_tables sees it."""
        with ns:
            os.seteuid(uid)
            try:
                s = socket.socket(self.af, kind)
            finally:
                os.seteuid(0)
        s.settimeout(TIMEOUT_S)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.v6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if mark:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if transparent and self.v6:
            s.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        elif transparent:
            s.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        if bind:
            s.bind(bind)
        return s

    def original_dst(self, s):
        if self.v6:
            raw = s.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            return socket.inet_ntop(self.af, raw[8:24]), struct.unpack("!H", raw[2:4])[0]
        raw = s.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        return socket.inet_ntop(self.af, raw[4:8]), struct.unpack("!H", raw[2:4])[0]


V4, V6 = Family(False), Family(True)


def veth(a, a_name, b, b_name, number):
    a.ip("link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", b.name)
    for f in (V4, V6):
        for ns, name, end in ((a, a_name, 1), (b, b_name, 2)):
            addr = f"fd00:{number}::{end}/64" if f.v6 else f"10.{number}.0.{end}/24"
            ns.ip("addr", "add", addr, "dev", name, *(("nodad",) if f.v6 else ()))
    a.ip("link", "set", a_name, "up")
    b.ip("link", "set", b_name, "up")


class Lab:
    def __init__(self, ctl):
        self.ctl = ctl
        self.h, self.p, self.r, self.v = Ns("h"), Ns("p"), Ns("r"), Ns("v")
        for ns in (self.h, self.p):
            ns.write("/proc/sys/net/ipv4/ip_forward", "1")
            ns.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        veth(self.h, "to-p", self.p, "eth0", 1)
        veth(self.h, "to-r", self.r, "eth0", 2)
        veth(self.p, "br0", self.v, "eth0", 3)
        for ns, n in ((self.p, 1), (self.r, 2), (self.v, 3)):
            ns.ip("route", "add", "default", "via", f"10.{n}.0.1")
            ns.ip("-6", "route", "add", "default", "via", f"fd00:{n}::1")
        # the service's address leads to the remote: what is not captured arrives there
        self.r.ip("addr", "add", "10.96.0.1/32", "dev", "lo")
        self.r.ip("-6", "addr", "add", "fd00:96::1/128", "dev", "lo", "nodad")
        self.h.ip("route", "add", "10.96.0.1", "via", "10.2.0.2")
        self.h.ip("-6", "route", "add", "fd00:96::1", "via", "fd00:2::2")

    def enrol(self, *opts):
        self.ctl(self.p, "apply", *opts)


class Listeners:
    """Named listeners, TCP and UDP; says which one a connection or datagram reached."""

    def __init__(self, lab, f, stack):
        self.f, self.stack, self.by_name = f, stack, {}
        for port in (15001, 15006, 15008):
            self.tcp(str(port), lab.p, port, mark=MARK)
        # on the loopback address, which is what redirect in output rewrites to: answers come from it
        self.tcp("15053", lab.p, 15053, f.lo, mark=MARK)
        self.udp("15053u", lab.p, 15053, f.lo, mark=MARK)
        self.tcp("app", lab.p, APP)
        self.udp("app-udp", lab.p, 9999)
        self.tcp("remote", lab.r, APP)
        self.udp("remote-udp", lab.r, 9999)

    def add(self, name, s):
        self.stack.enter_context(s)
        self.by_name[name] = s
        return s

    def tcp(self, name, ns, port, addr=None, mark=0):
        s = self.add(name, self.f.sock(ns, mark=mark, bind=(addr or self.f.any, port)))
        s.listen(16)

    def udp(self, name, ns, port, addr=None, mark=0):
        self.add(name, self.f.sock(ns, socket.SOCK_DGRAM, mark=mark, bind=(addr or self.f.any, port)))

    def ready(self):
        r = select.select(list(self.by_name.values()), [], [], TIMEOUT_S)[0]
        assert len(r) == 1, f"{len(r)} listeners were reached"
        return next((n, s) for n, s in self.by_name.items() if s is r[0])

    def connect(self, ns, addr, port, want, **kw):
        """Connects; checks that listener `want` got it and that bytes go both ways. Returns (client, server)."""
        client = self.stack.enter_context(self.f.sock(ns, **kw))
        client.connect((addr, port))
        name, listener = self.ready()
        server, _ = listener.accept()
        self.stack.enter_context(server)
        server.settimeout(TIMEOUT_S)
        assert name == want, f"reached {name}, not {want}"
        talk(client, server)
        talk(server, client)
        return client, server

    def send(self, ns, addr, port, want, **kw):
        """The same for a datagram and its answer, which must come from where the question went."""
        client = self.stack.enter_context(self.f.sock(ns, socket.SOCK_DGRAM, **kw))
        client.connect((addr, port))
        client.send(b"question")
        name, s = self.ready()
        data, peer = s.recvfrom(100)
        assert (name, data) == (want, b"question"), f"reached {name}, not {want}"
        s.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
        return peer


def talk(a, b):
    a.sendall(b"x" * 5000)
    got = 0
    while got < 5000:
        n = len(b.recv(5000))
        assert n, "closed"
        got += n


def counts(ns, table, chain):
    """Packets counted by each rule of a chain that counts."""
    text = ns.nft("list", "chain", "inet", "istio-ambient-" + table, chain)
    return [int(x.split()[0]) for x in text.split("counter packets ")[1:]]


# Rows: fn(lab, family, listeners). "z" is ztunnel.

def row1(lab, f, ls):
    _, server = ls.connect(lab.p, f.vip, 80, "15001")
    assert f.original_dst(server) == (f.vip, 80)


def row1_other_pod(lab, f, ls):
    _, server = ls.connect(lab.p, f.remote, APP, "15001")
    assert f.original_dst(server) == (f.remote, APP)


def row2_3(lab, f, ls):
    client, server = ls.connect(lab.p, f.remote, APP, "remote", mark=MARK)
    assert server.getpeername()[:2] == client.getsockname()[:2] and client.getsockname()[0] == f.pod


def row4(lab, f, ls):
    ls.connect(lab.p, f.lo, APP, "app")


def row5_pod_ip(lab, f, ls):
    ls.connect(lab.p, f.pod, APP, "app")


def row5_other_loopback(lab, f, ls):
    lab.p.ip("addr", "add", "fd00:7::7/128" if f.v6 else "127.0.0.2/32", "dev", "lo")
    ls.connect(lab.p, "fd00:7::7" if f.v6 else "127.0.0.2", APP, "app")


def row6(lab, f, ls):
    """The pod's own service: before DNAT its address is not local."""
    _, server = ls.connect(lab.p, f.vip, APP, "15001")
    assert f.original_dst(server) == (f.vip, APP)


def row7(lab, f, ls):
    lab.ctl(lab.h, "host-apply", "4711")
    try:
        lab.ctl(lab.h, "probe-add", f.pod, "uid-p")
        _, server = ls.connect(lab.h, f.pod, APP, "app", uid=4711)
        assert server.getpeername()[0] == f.probe
        ls.connect(lab.h, f.pod, APP, "15006", uid=4712)
        ls.connect(lab.h, f.pod, APP, "15006", uid=0)
        lab.ctl(lab.h, "probe-del", f.pod, "uid-p")
        ls.connect(lab.h, f.pod, APP, "15006", uid=4711)
    finally:
        lab.ctl(lab.h, "host-remove")


def row8(lab, f, ls):
    client, server = ls.connect(lab.r, f.pod, 15008, "15008")
    assert server.getpeername()[0] == f.remote and server.getsockname()[:2] == (f.pod, 15008)
    assert client.getpeername()[:2] == (f.pod, 15008)


def row9(lab, f, ls):
    client, server = ls.connect(lab.r, f.pod, APP, "15006")
    assert f.original_dst(server) == (f.pod, APP) and server.getpeername()[0] == f.remote
    assert client.getpeername()[:2] == (f.pod, APP)
    _, server = ls.connect(lab.r, f.pod, 9, "15006")  # nobody listens on it in the pod
    assert f.original_dst(server) == (f.pod, 9)


def deliver(lab, f, ls):
    return ls.connect(lab.p, f.pod, APP, "app", mark=MARK, bind=(f.remote, 0), transparent=True)


def row10_11(lab, f, ls):
    before = counts(lab.p, "mangle", "istio-output")
    _, server = deliver(lab, f, ls)
    assert server.getpeername()[0] == f.remote, server.getpeername()
    assert counts(lab.p, "mangle", "istio-output") > before, "replies did not take the reply mark"


def row11_needs_route(lab, f, ls):
    """Without the policy rule the replies leave the pod: this is what the rule is for."""
    lab.p.ip(*(("-6",) if f.v6 else ()), "rule", "del", "priority", "32764")
    z = ls.stack.enter_context(f.sock(lab.p, mark=MARK, bind=(f.remote, 0), transparent=True))
    z.settimeout(0.5)
    try:
        z.connect((f.pod, APP))
    except OSError:
        pass
    else:
        raise AssertionError("connected without the policy rule")
    finally:
        lab.enrol("-d")
    drain(ls)


def drain(ls):
    """Takes what a failed handshake may still deliver out of the application's queue."""
    ls.by_name["app"].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ls.by_name["app"].accept()[0].close()
    ls.by_name["app"].settimeout(TIMEOUT_S)


def row12(lab, f, ls):
    """A new connection with the reply mark is sent to lo and not redirected."""
    nat, before = ("nat", "istio-output"), counts(lab.p, "nat", "istio-output")
    s = ls.stack.enter_context(f.sock(lab.p, mark=REPLY_MARK, bind=(f.pod, 0)))
    s.setblocking(False)
    s.connect_ex((f.remote, APP))
    grown = [b - a for a, b in zip(before, counts(lab.p, *nat))]
    assert grown[5] == 1 and sum(grown) == 1, grown  # rule 6: tcp mark 0x111 accept
    s.close()
    drain(ls)


def row13(lab, f, ls):
    ls.send(lab.p, f.remote, 53, "15053u")


def row14(lab, f, ls):
    ls.udp("local-dns", lab.p, 53)
    ls.send(lab.p, f.lo, 53, "local-dns")
    ls.send(lab.p, f.pod, 53, "local-dns")


def row15(lab, f, ls):
    """z asks the real resolver, from the same port from which the application asked z."""
    ls.udp("remote-dns", lab.r, 53)
    out, back = counts(lab.p, "raw", "istio-output"), counts(lab.p, "raw", "istio-prerouting")
    peer = ls.send(lab.p, f.remote, 53, "15053u", bind=(f.pod, 40053))
    assert peer[1] == 40053
    got = ls.send(lab.p, f.remote, 53, "remote-dns", mark=MARK, bind=(f.pod, 40053))
    assert got[:2] == (f.pod, 40053), "the source port was changed: the tuples collided"
    assert counts(lab.p, "raw", "istio-output") > out and counts(lab.p, "raw", "istio-prerouting") > back


def row16(lab, f, ls):
    _, server = ls.connect(lab.p, f.remote, 53, "15053")
    assert f.original_dst(server) == (f.remote, 53)


def row17(lab, f, ls):
    ls.send(lab.p, f.remote, 9999, "remote-udp")
    ls.send(lab.r, f.pod, 9999, "app-udp")
    for ns, addr in ((lab.p, f.remote), (lab.r, f.pod)):
        ns.sh("ping", "-c", "1", "-W", str(TIMEOUT_S), addr)


def row18(lab, f, ls):
    lab.enrol("-i")
    try:
        _, server = ls.connect(lab.r, f.pod, APP, "app")
        assert server.getpeername()[0] == f.remote
        ls.connect(lab.r, f.pod, 15008, "15008")
        ls.connect(lab.p, f.vip, 80, "15001")
        deliver(lab, f, ls)
    finally:
        lab.enrol("-d")


def row19(lab, f, ls):
    lab.enrol("-d", "-n", "br0,nosuch0")
    try:
        _, server = ls.connect(lab.v, f.vip, 80, "15001")
        assert f.original_dst(server) == (f.vip, 80) and server.getpeername()[0] == f.vm
        ls.send(lab.v, f.br0, 9999, "app-udp")
    finally:
        lab.enrol("-d")
    _, server = ls.connect(lab.v, f.br0, APP, "15006")  # without the annotation: inbound as any


def both_ways(pairs):
    for a, b in pairs:
        talk(a, b)
        talk(b, a)


def row20(lab, f, ls):
    """The pod is running without rules (and without connection tracking), joins, leaves, joins again."""
    lab.ctl(lab.p, "remove")
    old = [ls.connect(lab.r, f.pod, APP, "app"), ls.connect(lab.p, f.remote, APP, "remote"),
           ls.connect(lab.p, f.pod, APP, "app"), ls.connect(lab.p, f.lo, APP, "app")]
    lab.enrol("-d")
    captured = [ls.connect(lab.r, f.pod, APP, "15006"), ls.connect(lab.p, f.remote, APP, "15001")]
    both_ways(old + captured)
    lab.ctl(lab.p, "release")
    free = [ls.connect(lab.r, f.pod, APP, "app"), ls.connect(lab.p, f.remote, APP, "remote")]
    both_ways(old + captured + free)
    for pair in captured:
        for s in pair:
            s.close()
    lab.ctl(lab.p, "remove")
    both_ways(old + free)
    free.append(ls.connect(lab.r, f.pod, APP, "app"))
    lab.enrol()
    lab.enrol("-d")
    both_ways(old + free)
    ls.connect(lab.r, f.pod, APP, "15006")
    ls.connect(lab.p, f.remote, APP, "15001")


def row20_idle_half_closed(lab, f, ls):
    """Half-closed connections and those of a client that only listens survive too."""
    lab.ctl(lab.p, "remove")
    c1, s1 = ls.connect(lab.r, f.pod, APP, "app")
    c2, s2 = ls.connect(lab.p, f.remote, APP, "remote")
    c1.shutdown(socket.SHUT_WR)
    assert s1.recv(1) == b""
    lab.enrol("-d")
    talk(s1, c1)
    talk(s2, c2)
    s2.close()
    assert c2.recv(1) == b""


def counts_sockets(lab, f, ls):
    """What decides whether a pod is running already: any TCP socket but the mesh's own listeners."""
    ns = Ns("c")
    try:
        def count():
            return int(lab.ctl(ns, "flows").stdout)
        assert count() == 0
        for port in (15001, 15006, 15008):
            ls.tcp(f"c{port}", ns, port)
        assert count() == 0
        ls.tcp("capp", ns, APP)
        assert count() == 1
        ls.connect(ns, f.lo, APP, "capp")
        assert count() == 3
        ls.connect(ns, f.lo, 15001, "c15001")
        assert count() == 5
    finally:
        ns.delete()


def row21(lab, f, ls):
    for port in (15001, 15006, 15053):
        _, server = ls.connect(lab.r, f.pod, port, "15006")
        assert f.original_dst(server) == (f.pod, port)


def dns_off(lab, f, ls):
    lab.enrol()
    try:
        ls.udp("remote-dns", lab.r, 53)
        ls.send(lab.p, f.remote, 53, "remote-dns")
        _, server = ls.connect(lab.p, f.remote, 53, "15001")
        assert f.original_dst(server) == (f.remote, 53)
    finally:
        lab.enrol("-d")


def no_gap(lab, f, ls):
    """While the rules are replaced over and over, not one connection gets around them."""
    ls.tcp("leak", lab.r, 80, f.vip)
    script = 'i=0; while [ $i -lt 60 ]; do "$0" -d apply "$1" && "$0" apply "$1" || exit 1; i=$((i+1)); done'
    busy = subprocess.Popen(["sh", "-c", script, lab.ctl.program, lab.p.path])
    n = 0
    try:
        while busy.poll() is None:
            client, server = ls.connect(lab.p, f.vip, 80, "15001")
            client.close()
            server.close()
            n += 1
    finally:
        busy.wait()
        lab.enrol("-d")
    assert busy.returncode == 0 and n >= 60, (busy.returncode, n)


ROWS = [
    ("1 app to a service: outbound listener", row1), ("1 app to another pod: outbound listener", row1_other_pod),
    ("2, 3 z to a remote: direct, pod's address", row2_3), ("4 app to loopback: untouched", row4),
    ("5 app to the pod's own address: untouched", row5_pod_ip),
    ("5 app to another address of lo: untouched", row5_other_loopback),
    ("6 app to its own service: captured", row6), ("7 probe of the kubelet: exempt, others not", row7),
    ("8 HBONE: straight to its listener", row8), ("9 plaintext from outside: inbound listener", row9),
    ("10, 11 z delivers with the client's address", row10_11),
    ("11 fails without the policy rule", row11_needs_route),
    ("12 reply mark on a new connection: not redirected", row12),
    ("13 DNS over UDP: DNS listener", row13), ("14 DNS to a local resolver: untouched", row14),
    ("15 z to the resolver, same source port: zone of its own", row15), ("16 DNS over TCP: DNS listener", row16),
    ("17 other UDP and ICMP: untouched", row17), ("18 ingress mode", row18),
    ("19 virtual interface: outbound listener", row19),
    ("20 established connections survive enrolment and removal", row20),
    ("20 half-closed and one-way connections survive enrolment", row20_idle_half_closed),
    ("20 a running pod is told from one being set up", counts_sockets),
    ("21 z's ports from outside: inbound listener", row21), ("DNS capture off", dns_off),
    ("no gap while rules are replaced", no_gap),
]


def one_row(lab, f, fn):
    with contextlib.ExitStack() as stack:
        fn(lab, f, Listeners(lab, f, stack))


def tests(tap, ctl):
    lab = Lab(ctl)
    lab.enrol("-d")
    for f in (V4, V6):
        for name, fn in ROWS:
            tap.case(f"IPv{6 if f.v6 else 4} {name}", one_row, lab, f, fn)
    state = ctl.state(lab.p, "-d")
    tap.case("the rules are as they should be at the end", lambda: state == ("present", []) or sys.exit(str(state)))


main(tests)
