#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A workload on another network (ztunnel-spec 4.7, 5.6, 5.7): client pod -> our ztunnel -> a gateway -> our ztunnel of the
other network -> server pod. The gateway ends the outer HBONE only; what is inside is between the two ztunnels. And what a
pod with a PROXY application tunnel gets."""
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dnslab  # noqa: E402
from hbone_peer import Client, Gateway, hbone_server  # noqa: E402
from ztlab import Lab, Wire, double_echo, exact, join, policy, read_all, wait_for  # noqa: E402
from ztsite import ARGS, HELLO, check, echo_once, main  # noqa: E402

HOST, VIP, GW = "svc.default.svc.cluster.local", "10.96.0.10", "10.77.0.30"
GW6, FOREIGN = "2001:db8::30", "10.77.0.66"  # nobody's
VIP6 = "fd96::10"
MARK = b"PLAINTEXT-IS-VISIBLE"


class Site:
    """Two labs on one bridge, each with its own ztunnel: the client's network "" and the server's network "remote".
    With @ipv6 nothing has an IPv4 address that the mesh knows."""

    def __init__(self, ipv6=False):
        self.ipv6, self.vip = ipv6, VIP6 if ipv6 else VIP
        self.near, self.far = Lab(ARGS.bin, ipv6=ipv6), Lab(ARGS.bin, env={"NETWORK": "remote"}, ipv6=ipv6)
        self.far.ca_dir = self.near.ca_dir
        try:
            self.names()
            join(self.near, self.far)
            self.a = self.near.pod("a", 2)
            self.gwpod = self.near.pod("gw", 30, captured=False)
            self.b = self.far.pod("b", 3)
            self.b.serve(8080, double_echo, ipv6)
            self.near.state(*self.near_state())
            self.far.state(*self.far_state())
            self.zt = self.near.start()
            self.farzt = self.far.start()
            cert = self.near.root().issue(self.near, [self.gwpod.identity])
            self.gw = Gateway(self.near, self.gwpod, cert, {HOST + ":80": (self.ip(self.b), 15008)})
            self.gwserver = self.gwpod.serve(15008, self.gw, ipv6)
        except BaseException:
            self.close()
            raise

    def ip(self, pod):
        return pod.ip6 if self.ipv6 else pod.ip

    def workload(self, pod, **more):
        return pod.workload(**{"workloadIps": [self.ip(pod)], **more})

    def names(self, *lines, search=""):
        """What the near ztunnel's resolver knows; for all else its name server is away."""
        self.near.etc(hosts="127.0.0.1 localhost\n" + "".join(x + "\n" for x in lines),
                      resolv_conf="nameserver 127.0.0.1\noptions timeout:5 attempts:1\n" + ("search %s\n" % search if search else ""))

    def near_state(self, sans=None, gateway=None, **gw):
        beyond = dict(uid="far/SplitHorizonWorkload/istio/gw/%s/remote" % HOST, name="beyond", namespace="default",
                      workloadIps=[], network="remote", protocol="HBONE", clusterId="far", capacity=2,
                      services={"default/" + HOST: {80: 80}},
                      networkGateway={"destination": gateway or "remote/" + self.ip(self.gwpod), "hboneMtlsPort": 15008})
        gate = self.workload(self.gwpod, network="remote", **gw)
        service = dict(name="svc", namespace="default", hostname=HOST, vips=["/" + self.vip], ports={80: 8080},
                       subjectAltNames=[self.b.identity] if sans is None else sans)
        return [self.workload(self.a), gate, beyond], [service]

    def far_state(self, policies=()):
        return ([self.workload(self.b, network="remote", clusterId="far", locality={"region": "r2", "zone": "z2"},
                               services={"default/" + HOST: {80: 8080}})],
                [dict(name="svc", namespace="default", hostname=HOST, vips=["remote/" + self.vip], ports={80: 8080})], policies)

    def change_far(self, *policies):
        self.far.reload(self.farzt, *self.far_state(policies))

    def change(self, **kw):
        self.near.reload(self.zt, *self.near_state(**kw))

    def quiet(self):
        for zt in (self.zt, self.farzt):
            def idle():
                s = json.loads(zt.http(15000, "/debug/workers")[1])
                return s["connections"] == 0 and s["streams"] == 0 and s["buffersBytes"] == 0 \
                    and s["undeliveredBytes"] == 0
            wait_for("nothing to be left", idle)

    def ends(self):
        """Both ztunnels, with status 0, which includes what leak checkers find."""
        for zt in (self.zt, self.farzt):
            code = zt.stop()
            check(code == 0 and "Sanitizer" not in zt.log() and "bug:" not in zt.log(), "status", code, zt.log()[-4000:])

    def close(self):
        self.near.close()
        self.far.close()


SITE = []


def site():
    if not SITE:
        SITE.append(Site())
    return SITE[0]


def works():
    return echo_once(site().a, VIP, 80) == HELLO * 2


def refused_with(*words):
    s = site()
    check(echo_once(s.a, VIP, 80) == b"", "refused")
    s.zt.wait_line('direction="outbound"', "error=", *words)
    s.quiet()


# --- across networks -----------------------------------------------------------------------------

def there_and_back():
    s = site()
    wire = Wire(s.near)
    try:
        check(echo_once(s.a, VIP, 80, MARK) == MARK * 2, s.zt.log()[-3000:], s.farzt.log()[-3000:])
        packets = wire.packets()
    finally:
        wire.close()
    check(len(packets) > 8 and all(15008 in (p[1], p[3]) for p in packets), "only HBONE on the wire")
    check(not any(MARK in p[4] for p in packets), "and nothing of it readable")
    ends = {frozenset((p[0], p[2])) for p in packets}
    check(ends == {frozenset((s.a.ip, GW)), frozenset((GW, s.b.ip))}, "by way of the gateway:", ends)
    line = s.zt.wait_line("connection complete", 'direction="outbound"', "dst.addr=%s:15008" % GW)
    for want in ('src.identity="%s"' % s.a.identity, "dst.hbone_addr=%s:80" % HOST, 'dst.service="%s"' % HOST,
                 'dst.workload="b"', 'dst.namespace="default"', 'dst.identity="%s"' % s.b.identity,
                 'dst.cluster="far"', "bytes_sent=20", "bytes_recv=40"):
        check(want in line, want, line)
    line = s.farzt.wait_line("connection complete", 'direction="inbound"')
    for want in ("src.addr=%s:" % GW, 'src.workload="a"', 'src.namespace="default"', 'src.identity="%s"' % s.a.identity,
                 'src.cluster="Kubernetes"', "dst.addr=%s:15008" % s.b.ip, "dst.hbone_addr=%s:80" % HOST,
                 'dst.service="%s"' % HOST, 'dst.workload="b"', 'dst.identity="%s"' % s.b.identity):
        check(want in line, want, line)
    s.quiet()


def over_ipv6():
    s = Site(ipv6=True)
    wire = Wire(s.near)
    try:
        check(echo_once(s.a, VIP6, 80, MARK) == MARK * 2, s.zt.log()[-3000:], s.farzt.log()[-3000:])
        packets = wire.packets()
        check(len(packets) > 8 and all(15008 in (p[1], p[3]) for p in packets), "only HBONE on the wire")
        check(not any(MARK in p[4] for p in packets), "and nothing of it readable")
        ends = {frozenset((p[0], p[2])) for p in packets}
        check(ends == {frozenset((s.a.ip6, s.gwpod.ip6)), frozenset((s.gwpod.ip6, s.b.ip6))}, "by way of the gateway:", ends)
        told = dict(s.gw.seen[0])
        check(told[":authority"] == HOST + ":80" and told["forwarded"].startswith('for="[%s]:' % s.a.ip6), told)
        line = s.zt.wait_line("connection complete", 'direction="outbound"', "dst.addr=[%s]:15008" % s.gwpod.ip6)
        for want in ("src.addr=[%s]:" % s.a.ip6, "dst.hbone_addr=%s:80" % HOST, 'dst.identity="%s"' % s.b.identity):
            check(want in line, want, line)
        line = s.farzt.wait_line("connection complete", 'direction="inbound"', "dst.addr=[%s]:15008" % s.b.ip6)
        for want in ("src.addr=[%s]:" % s.gwpod.ip6, 'src.identity="%s"' % s.a.identity, 'dst.workload="b"'):
            check(want in line, want, line)
        s.change_far(policy("nobody", "Allow", {"principals": [exact("cluster.local/ns/default/sa/x")]}))
        check(echo_once(s.a, VIP6, 80) == b"", "the far policy refuses")
        s.quiet()
        s.ends()
    finally:
        wire.close()
        s.close()


def what_the_gateway_is_told():
    s = site()
    s.gw.seen.clear()
    with s.a.net.connect((VIP, 80)) as c:
        port = c.getsockname()[1]
        c.sendall(HELLO)
        c.recv(1)
    h = dict(s.gw.seen[0])
    check(h[":method"] == "CONNECT" and h[":authority"] == HOST + ":80", h)
    check(h["forwarded"] == 'for="%s:%d";host=%s' % (s.a.ip, port, HOST), h)
    check("k8s.namespace.name=default" in h["baggage"] and "k8s.deployment.name=a" in h["baggage"], h)
    check(len(h["traceparent"]) == 55, h)
    check("x-forwarded-network" not in h, "that is for the other end of the inner one only")
    s.quiet()


def what_the_other_end_is_told():
    """The inner CONNECT, as an impostor of the gateway's choice sees it that has the right identity."""
    s = site()
    seen = []
    cert = s.near.root().issue(s.near, [s.b.identity])
    srv = s.gwpod.serve(15009, hbone_server(s.near, cert, seen.append))
    s.gw.routes[HOST + ":80"] = GW, 15009
    s.gw.seen.clear()
    try:
        with s.a.net.connect((VIP, 80)) as c:
            c.sendall(HELLO)
            check(c.recv(100) == HELLO, "answered")
    finally:
        s.gw.routes[HOST + ":80"] = s.b.ip, 15008
        srv.close()
    outer = dict(s.gw.seen[0])
    check({k: v for k, v in seen[0].items() if k != "x-forwarded-network"} == outer, "as outside", seen, outer)
    check(seen[0]["x-forwarded-network"] == "", seen)
    line = s.zt.wait_line("connection complete", 'dst.identity="%s"' % s.b.identity, 'dst.workload="gw"')
    check(line, "it says nothing about itself: the gateway's workload")
    s.quiet()


def metrics():
    s = site()
    opened = "istio_tcp_connections_opened_total"
    before = s.zt.metric(opened, destination_principal=s.b.identity), \
        s.farzt.metric(opened, source_principal=s.a.identity)
    check(works())
    check(s.zt.metric(opened, reporter="source", source_workload="a", destination_workload="b",
                      destination_cluster="far", destination_service=HOST, destination_principal=s.b.identity,
                      destination_region="r2", connection_security_policy="mutual_tls") == before[0] + 1,
          s.zt.http(15020, "/metrics")[1][-3000:])
    check(s.farzt.metric(opened, reporter="destination", source_workload="a", source_canonical_service="a",
                         source_cluster="Kubernetes", source_principal=s.a.identity,
                         destination_workload="b") == before[1] + 1, s.farzt.http(15020, "/metrics")[1][-3000:])
    s.quiet()


def every_byte_and_half_close():
    s = site()
    size = 12 << 20
    block = os.urandom(1 << 20)
    got = {}

    def serve(c, _peer):
        h, n = hashlib.sha256(), 0
        while True:
            d = c.recv(1 << 18)
            if not d:
                break
            h.update(d)
            n += len(d)
        got["up"] = n, h.hexdigest()
        for _ in range(size >> 20):  # after the client's end
            c.sendall(block)
    srv = s.b.serve(8081, serve)
    s.far.reload(s.farzt, [s.b.workload(network="remote", services={"default/" + HOST: {80: 8081}})],
                 [dict(name="svc", namespace="default", hostname=HOST, vips=["remote/" + VIP], ports={80: 8081})])
    try:
        with s.a.net.connect((VIP, 80), timeout=60) as c:
            for _ in range(size >> 20):
                c.sendall(block)
            c.shutdown(socket.SHUT_WR)
            back, how = read_all(c)
        want = hashlib.sha256(block * (size >> 20)).hexdigest()
        check(got["up"] == (size, want), got)
        check((len(back), how, hashlib.sha256(back).hexdigest()) == (size, "eof", want), len(back), how)
        s.quiet()
    finally:
        srv.close()
        s.change_far()
        check(works(), "the old state")


def many_at_once():
    s = site()
    bad = []

    def one():
        if not works():
            bad.append(1)
    threads = [threading.Thread(target=one) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(not bad, len(bad), s.zt.log()[-2000:])
    s.quiet()


def a_reset_stays_a_reset():
    s = site()
    linger = struct.pack("ii", 1, 0)
    ended, started = [], threading.Event()

    def one(c, _peer):
        d = c.recv(100)
        if d == b"reset me":
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return
        started.set()
        ended.append(read_all(c)[1])
    server = s.b.servers[0]
    handler, server.handler = server.handler, one
    try:
        with s.a.net.connect((VIP, 80)) as c:
            c.sendall(b"reset me")
            check(read_all(c)[1] == "reset", "the server's")
        c = s.a.net.connect((VIP, 80))
        c.sendall(HELLO)
        check(started.wait(15))
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        c.close()
        wait_for("the end at the server", lambda: ended)
        check(ended == ["reset"], "the client's", ended)
    finally:
        server.handler = handler
    s.quiet()


def what_is_cut_does_not_look_complete():
    """The gateway ends the outer stream, in an orderly way or not, while the inner one goes on."""
    s = site()

    def flood(c, _peer):
        while True:
            c.sendall(b"x" * 65536)
    handler, s.b.servers[0].handler = s.b.servers[0].handler, flood
    s.gw.cut_after = 300000
    try:
        for s.gw.cut_how in ("end", "reset"):
            with s.a.net.connect((VIP, 80)) as c:
                got, how = read_all(c)
            check(how == "reset", s.gw.cut_how, len(got), how)
            check(got == b"x" * len(got), "and before that nothing but what was sent")
    finally:
        s.gw.cut_after = None
        s.b.servers[0].handler = handler
    s.quiet()


def wrong_peers():
    s = site()
    try:
        s.change(sans=["spiffe://cluster.local/ns/default/sa/other"])
        refused_with("peer did not present the expected SAN (spiffe://cluster.local/ns/default/sa/other), got %s"
                     % s.b.identity)
        s.change(serviceAccount="other-gateway")
        refused_with("peer did not present the expected SAN (spiffe://cluster.local/ns/default/sa/other-gateway), got %s"
                     % s.gwpod.identity)
        s.change(sans=[])
        check(echo_once(s.a, VIP, 80) == b"")
        s.zt.wait_line("connection failed", "no service says who may answer there")
        s.change(gateway="remote/10.77.0.99")
        check(echo_once(s.a, VIP, 80) == b"")
        s.zt.wait_line("connection failed", "unknown network gateway: remote/10.77.0.99")
    finally:
        s.change()
    check(works())


def refusals():
    s = site()
    s.gw.status = "503"
    try:
        refused_with("http status: 503 Service Unavailable")
    finally:
        s.gw.status = "200"
    s.gwserver.close()
    s.gw.cut()  # the pooled one
    try:
        refused_with("io error: Connection refused (os error 111)")
    finally:
        s.gwserver = s.gwpod.serve(15008, s.gw)
    wait_for("the gateway is used again", works)
    s.change_far(policy("nobody", "Allow", {"principals": [exact("cluster.local/ns/default/sa/x")]}))
    try:
        check(not works())
        s.zt.wait_line('direction="outbound"', "http status: 401 Unauthorized")
        s.farzt.wait_line('direction="inbound"', 'src.workload="a"', "allow policies exist, but none allowed")
    finally:
        s.change_far()
    check(works(), "allowed again")
    s.quiet()


def cut_by_policy_change():
    s = site()
    with s.a.net.connect((VIP, 80)) as c:
        c.sendall(HELLO)
        c.recv(100)
        s.change_far(policy("no-a", "Deny", {"principals": [exact("cluster.local/ns/default/sa/a")]}))
        try:
            check(read_all(c)[1] == "reset", "cut")
        finally:
            s.change_far()
    check(works(), "allowed again")
    s.quiet()


def gateway_dies_under_a_connection():
    s = site()
    with s.a.net.connect((VIP, 80)) as c:
        c.sendall(HELLO)
        c.recv(100)
        s.gw.cut()
        check(read_all(c)[1] == "reset", "the application sees it")
    wait_for("a new one", works)
    s.quiet()


# --- workloads that have a hostname only ----------------------------------------------------------

def by_name(protocol="TCP", host="db.example"):
    """The mesh of a ServiceEntry that is resolved by DNS."""
    s = site()
    return ([s.a.workload(), dict(uid="db", name="db", namespace="default", hostname=host, workloadIps=[],
                                  protocol=protocol, serviceAccount="gw", services={"default/db.example": {80: 8080}})],
            [dict(name="db", namespace="default", hostname="db.example", vips=["/10.96.0.11"], ports={80: 8080})])


def a_workload_that_has_a_name_only():
    s = site()
    s.gwpod.serve(8080, double_echo)
    counted = s.zt.metric("istio_on_demand_dns_total")
    s.names("%s db.example" % GW)
    s.near.reload(s.zt, *by_name())
    try:
        for _ in range(2):
            check(echo_once(s.a, "10.96.0.11", 80) == HELLO * 2, s.zt.log()[-2000:])
        check(s.zt.metric("istio_on_demand_dns_total") == counted + 2, "each connection is counted")
        line = s.zt.wait_line("connection complete", "dst.addr=%s:8080" % GW, 'dst.workload="db"')
        check("dst.identity" not in line, line)
        conns = [s.a.net.connect(("10.96.0.11", 80)) for _ in range(20)]  # they share look-ups
        for c in conns:
            c.sendall(HELLO)
        for c in conns:
            check(c.recv(100)[:1] == HELLO[:1])
            c.close()
        s.near.reload(s.zt, *by_name("HBONE"))
        s.gw.routes["%s:8080" % GW] = GW, 8080
        check(echo_once(s.a, "10.96.0.11", 80) == HELLO * 2, s.zt.log()[-2000:])
        s.zt.wait_line("dst.addr=%s:15008" % GW, "dst.hbone_addr=%s:8080" % GW, 'dst.identity="%s"' % s.gwpod.identity)
    finally:
        s.change()
    s.quiet()


def a_name_that_nobody_knows():
    s = site()
    s.names()
    s.near.reload(s.zt, *by_name(host="later.example"))
    try:
        check(echo_once(s.a, "10.96.0.11", 80) == b"")
        s.zt.wait_line("connection failed", "no ip addresses were resolved for workload: db (later.example: ")
        s.names("%s later.example" % GW)
        wait_for("the name to be looked up again", lambda: echo_once(s.a, "10.96.0.11", 80) == HELLO * 2)
    finally:
        s.change()
    s.quiet()


def names_live_as_long_as_their_records():
    """The resolver is scripted: its TTL counts, whatever the family; while it fails the last addresses stand; a name that is gone is."""
    s = site()
    s.names()
    resolver = dnslab.Resolver(s.near.node, "127.0.0.1")
    one, host = dict(s=2, long=600), "%s.live.example"
    try:
        for k, ttl in one.items():
            resolver.zone[host % k] = [GW], ttl, 0

        def asked(k):
            return resolver.count(host % k)

        def ok():
            return echo_once(s.a, "10.96.0.11", 80) == HELLO * 2
        s.near.reload(s.zt, *by_name(host=host % "s"))
        check(ok() and 2 <= asked("s") <= 4, resolver.asked)  # A and AAAA
        start, conns = time.monotonic(), 0
        while time.monotonic() - start < 3 or conns < 13:
            check(ok(), s.zt.log()[-2000:])
            conns += 1
        # by each worker every two seconds
        most = 4 * (2 + (time.monotonic() - start) // 2)
        check(4 <= asked("s") <= most, asked("s"), most)
        resolver.zone[host % "s"] = [], 0, dnslab.SERVFAIL
        before = asked("s")
        start = time.monotonic()
        while time.monotonic() - start < 3:
            check(ok(), s.zt.log()[-2000:])
        most = 4 * (1 + (time.monotonic() - start) // 2)
        check(before < asked("s") <= before + most, before, asked("s"), most)
        s.zt.wait_line("s.live.example: ", "its last addresses stand")
        resolver.zone[host % "s"] = [], 0, dnslab.NXDOMAIN
        wait_for("it to be gone", lambda: echo_once(s.a, "10.96.0.11", 80) == b"")
        s.near.reload(s.zt, *by_name(host=host % "long"))
        for _ in range(12):
            check(ok())
        before = asked("long")
        check(before <= 4, before)
        s.names("%s other.example" % GW)
        time.sleep(1.5)
        for _ in range(6):
            check(ok())
        check(asked("long") <= 4, asked("long"))
    finally:
        resolver.close()
        s.change()
    s.quiet()


def both_families_are_of_one_name():
    """A name that has one family only does not get the other from the search list, where somebody may own any name."""
    s = site()
    s.names(search="none.example wild.example")
    resolver = dnslab.Resolver(s.near.node, "127.0.0.1")
    try:
        for name, ips in (("db.one.example", [GW6]), ("db.one.example.wild.example", [FOREIGN]), ("short.wild.example", [GW]),
                          ("other.none.example", [GW6]), ("other.wild.example", [FOREIGN])):
            resolver.zone[name] = ips, 60, 0
        resolver.zone["short.none.example"] = [], 0, dnslab.SERVFAIL  # one domain's servers are out of order
        resolver.others = dnslab.NXDOMAIN
        def dials():
            return len(s.zt.lines("dst.addr=[%s]:8080" % GW6))
        for n, host in enumerate(("db.one.example", "other"), 1):  # no address of the client's family: that of the other
            s.near.reload(s.zt, *by_name(host=host))
            check(echo_once(s.a, "10.96.0.11", 80) == b"")
            wait_for("its line", lambda n=n: dials() == n)
        check(resolver.count("db.one.example.wild.example") == 0 and resolver.count("other.wild.example") == 0, resolver.asked)
        s.near.reload(s.zt, *by_name(host="short"))
        check(echo_once(s.a, "10.96.0.11", 80) == HELLO * 2, s.zt.log()[-2000:])
        check(resolver.count("short.none.example") >= 1, resolver.asked)
        s.near.reload(s.zt, *by_name(host="nobody.example"))
        check(echo_once(s.a, "10.96.0.11", 80) == b"")
        s.zt.wait_line("nobody.example: Name or service not known")
        check(resolver.count("nobody.example.wild.example") >= 1, resolver.asked)
    finally:
        resolver.close()
        s.names()
        s.change()
    s.quiet()


def a_gateway_that_has_a_name_only():
    s = site()
    s.names("%s lb.example" % GW)
    s.change(gateway="default/lb.example", hostname="lb.example", workloadIps=[])
    try:
        check(works(), s.zt.log()[-2000:])
    finally:
        s.change()
    s.quiet()


# --- source attribution and application tunnels --------------------------------------------------

def claims_are_only_names():
    """A peer of our own network is known by its address, whatever it claims; the certificate decides in any case."""
    s = site()
    cert = s.near.root().issue(s.near, [s.a.identity])
    claim = [("baggage", "k8s.namespace.name=kube-system,k8s.deployment.name=liar,service.name=liar")]
    s.far.reload(s.farzt, [s.b.workload(network="remote", services={"default/" + HOST: {80: 8080}}),
                           s.gwpod.workload(network="remote", protocol="TCP")])
    try:
        for extra, name in (([], "gw"), ([("x-forwarded-network", "REMOTE")], "gw"),
                            ([("x-forwarded-network", "else")], "liar")):
            c = Client(s.near, s.gwpod, s.b.ip, cert)
            sid = c.request("%s:8080" % s.b.ip, extra=claim + extra)
            check(c.answer(sid) == 200)
            c.close()
            line = s.farzt.wait_line('src.workload="%s"' % name, 'direction="inbound"')
            check('src.identity="%s"' % s.a.identity in line, line)
    finally:
        s.change_far()
    check(works(), "the old state")
    s.quiet()


def proxy_header(data):
    """(source, destination, {TLV: value}, what follows) of a PROXY v2 header; None while it is not complete"""
    if len(data) < 16 or len(data) < 16 + struct.unpack("!H", data[14:16])[0]:
        return None
    check(data[:12] == b"\r\n\r\n\0\r\nQUIT\n" and data[12] == 0x21, data[:16])
    n = struct.unpack("!H", data[14:16])[0]
    body, rest = data[16:16 + n], data[16 + n:]
    check(data[13] == 0x11, "TCP over IPv4")
    src = socket.inet_ntoa(body[:4]), struct.unpack("!H", body[8:10])[0]
    dst = socket.inet_ntoa(body[4:8]), struct.unpack("!H", body[10:12])[0]
    tlvs, at = {}, 12
    while at < n:
        size = struct.unpack("!H", body[at + 1:at + 3])[0]
        tlvs[body[at]] = body[at + 3:at + 3 + size]
        at += 3 + size
    return src, dst, tlvs, rest


def application_tunnel():
    """A sandwiched waypoint: HBONE ends in ztunnel, and the application gets the PROXY protocol on loopback."""
    s = site()
    got = {}

    def serve(c, peer):
        data = b""
        while proxy_header(data) is None or not proxy_header(data)[3]:
            d = c.recv(4096)
            if not d:
                break
            data += d
        got["peer"], got["header"] = peer, proxy_header(data)
        c.sendall(b"ok")
    srv = s.b.serve(15088, serve)
    tunnel = dict(applicationTunnel={"protocol": "PROXY", "port": 15088}, network="remote")
    services = [dict(name="svc", namespace="default", hostname=HOST, vips=["remote/" + VIP], ports={80: 8080})]
    s.far.reload(s.farzt, [s.b.workload(**tunnel)], services)
    cert = s.near.root().issue(s.near, [s.a.identity])
    try:
        for authority, target in ((HOST + ":80", (VIP, 80)), ("10.1.2.3:99", ("10.1.2.3", 99)),
                                  ("%s:8080" % s.b.ip, (s.b.ip, 8080))):
            c = Client(s.near, s.gwpod, s.b.ip, cert)
            sid = c.request(authority)
            check(c.answer(sid) == 200, authority)
            c.send(sid, b"data")
            check(c.read(sid, 2) == b"ok")
            src, dst, tlvs, rest = got["header"]
            check(src == c.sock.getsockname() and dst == target and rest == b"data", got)
            check(tlvs == {0xd0: s.a.identity.encode()}, tlvs)
            check(got["peer"][0] == "127.0.0.1", "on loopback, from loopback:", got["peer"])
            c.close()
        c = Client(s.near, s.gwpod, s.b.ip, cert)
        check(c.answer(c.request("unknown.example:80")) == 503)
        c.close()
        s.far.reload(s.farzt, [s.b.workload(**tunnel)], services,
                     [policy("port", "Deny", {"destinationPorts": [15088]})])
        c = Client(s.near, s.gwpod, s.b.ip, cert)
        check(c.answer(c.request(HOST + ":80")) == 401, "authorization sees the tunnel's port")
        c.close()
    finally:
        srv.close()
        s.change_far()
    check(works(), "the old state")
    s.quiet()


def ends_cleanly():
    site().ends()


if __name__ == "__main__":
    try:
        code = main([there_and_back, over_ipv6, what_the_gateway_is_told, what_the_other_end_is_told, metrics, every_byte_and_half_close, many_at_once,
                     a_reset_stays_a_reset, what_is_cut_does_not_look_complete, wrong_peers, refusals,
                     cut_by_policy_change, gateway_dies_under_a_connection, a_workload_that_has_a_name_only,
                     a_name_that_nobody_knows, names_live_as_long_as_their_records, both_families_are_of_one_name,
                     a_gateway_that_has_a_name_only, claims_are_only_names, application_tunnel,
                     ends_cleanly])
    finally:
        for one in SITE:
            one.close()
    sys.exit(code)
