#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy of ztunnel in real namespaces, with the rules that the agent makes and a resolver behind it that does as
its names say (ztunnel-spec 11): what the mesh answers, what is forwarded, and what clients, resolvers and ends of
processes can do to it."""
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dnslab  # noqa: E402
import ztsite  # noqa: E402
from dnslab import A, AAAA, CNAME, FORMERR, MX, NOERROR, NOTIMP, NXDOMAIN, SERVFAIL, SOA, ask, framed, query  # noqa: E402
from ztlab import Lab, wait_for  # noqa: E402
from ztsite import check, main  # noqa: E402

SERVICES = [
    dict(name="web", namespace="ns1", hostname="web.ns1.svc.cluster.local", vips=["/10.96.0.10", "/fd96::10"], ports={80: 80}),
    dict(name="db", namespace="ns2", hostname="db.ns2.svc.cluster.local", vips=["/10.96.0.11"], ports={80: 80}),
    dict(name="se", namespace="ns2", hostname="api.example.com", vips=["/240.0.0.1"], ports={443: 443}),
    dict(name="wild", namespace="ns2", hostname="*.wild.example", vips=["/240.0.0.2"], ports={443: 443}),
    dict(name="pods", namespace="ns1", hostname="pods.ns1.svc.cluster.local", vips=[], ports={80: 80}),
    dict(name="many", namespace="ns1", hostname="many.ns1.svc.cluster.local",
         vips=["/10.97.%d.%d" % (i // 250, i % 250 + 1) for i in range(256)], ports={80: 80}),
]
SITE = None


class Site:
    """A lab with two captured pods in ns1; both resolvers are on the node's bridge."""

    def __init__(self, version=2, workloads=True, servers=("10.77.0.1",), **env):
        self.lab = lab = Lab(ztsite.ARGS.bin, version, ipv6=True)
        lab.node.ip("addr", "add", "10.77.0.99/24", "dev", "br0")
        self.resolver = self.second = None
        try:
            self.conf = os.path.join(lab.dir, "resolv.conf")
            self.use(*servers)
            self.a, self.b = lab.pod("a", 2, ns="ns1"), lab.pod("b", 3, ns="ns1")
            for p in (self.a, self.b):
                dnslab.capture(p.net)
            self.resolver = dnslab.Resolver(lab.node, "10.77.0.1")
            self.second = dnslab.Resolver(lab.node, "10.77.0.99")
            self.write(workloads)
            self.env = dict(AMBIENT_DNS_RESOLV_CONF=self.conf, RUST_LOG="info,dns=debug", **env)
            self.zt = lab.start(**self.env)
        except BaseException:
            self.close()
            raise

    def write(self, workloads=True):
        pods = [self.a, self.b] if workloads else []
        self.lab.state([p.workload(services={"ns1/pods.ns1.svc.cluster.local": {80: 80}}) for p in pods], SERVICES)

    def use(self, *servers, options="timeout:3 attempts:2"):
        with open(self.conf + ".new", "w") as f:
            f.write("".join("nameserver %s\n" % s for s in servers) + "options %s\n" % options)
        os.rename(self.conf + ".new", self.conf)

    def close(self):
        for r in (self.resolver, self.second):
            if r is not None:
                r.close()
        self.lab.close()


def site():
    global SITE
    if SITE is None:
        SITE = Site()
    return SITE


def is_empty(a):
    return a.rcode == NOERROR and a.aa and a.records == []


def names_of_the_mesh():
    """Over UDP and TCP, IPv4 and IPv6: whatever resolver the client means, the mesh's names are answered."""
    s = site()
    for tcp in (False, True):
        for server in ("10.77.0.1", "fd77::1", "192.0.2.53"):
            a = ask(s.a.net, server, "web", tcp=tcp)
            check(a.rcode == NOERROR and a.aa and a.ra and a.rd and a.ident == 0x1234, server, tcp, a)
            check(a.records == [("web", A, 30, "10.96.0.10")], a)
        one = lambda name, t=A: ask(s.a.net, "10.77.0.1", name, t, tcp=tcp)  # noqa: E731
        check(one("web.ns1", AAAA).ips() == ["fd96::10"])
        check(one("db.ns2.svc.cluster.local").ips() == ["10.96.0.11"])
        check(is_empty(one("db.ns2", AAAA)))
        check(one("api.example.com").ips() == ["240.0.0.1"])
        a = one("api.example.com.ns1.svc.cluster.local")
        check(a.records == [("api.example.com.ns1.svc.cluster.local", CNAME, 30, "api.example.com"),
                            ("api.example.com", A, 30, "240.0.0.1")], a)
        check(one("x.y.wild.example").ips() == ["240.0.0.2"])
        check(one("pods").ips() == ["10.77.0.2", "10.77.0.3"])
    check(s.resolver.asked == [], s.resolver.asked)
    check(ask(s.a.net, "10.77.0.1", "web", edns=1232).edns == 1232)


def many_addresses():
    """ztunnel-spec 15.3: 256 addresses: all over TCP; over UDP what fits, and TC."""
    s = site()
    a = ask(s.a.net, "10.77.0.1", "many", tcp=True)
    check(len(set(a.ips())) == 256 and not a.tc, a)
    for edns, room in ((0, 512), (1232, 1232)):
        a = ask(s.a.net, "10.77.0.1", "many", edns=edns)
        check(a.tc and a.size <= room and len(a.records) == (room - 12 - 10 - (11 if edns else 0)) // 16, a.size, a)
    first = {ask(s.a.net, "10.77.0.1", "many").records[0][3] for _ in range(8)}
    check(len(first) > 1, "always in the same order")


def other_names_are_forwarded():
    s = site()
    for tcp in (False, True):
        a = ask(s.a.net, "192.0.2.53", "ok.test", tcp=tcp, ident=0x4711)
        check(a.rcode == NOERROR and not a.aa and a.ra and a.ident == 0x4711 and a.ips() == ["192.0.2.1"], a)
        a = ask(s.a.net, "10.77.0.1", "nx.test%d" % tcp, tcp=tcp)
        check(a.rcode == NXDOMAIN and not a.aa and [r[1] for r in a.records] == [SOA], a)
        check([r[1] for r in ask(s.a.net, "10.77.0.1", "ok.test", MX, tcp=tcp).records] == [MX])
        check(ask(s.a.net, "10.77.0.1", "web.ns1", MX, tcp=tcp).rcode == NOERROR)  # other types of the mesh's names
    # from the pod's own namespace and address, over the client's transport, from ports that change
    check({p[0] for p in s.resolver.peers("ok.test")} == {"10.77.0.2"}, s.resolver.peers("ok.test"))
    check([(n, t) for n, t, _ in s.resolver.asked if n.startswith("nx.test")] == [("nx.test0", False), ("nx.test1", True)])
    a = ask(s.a.net, "fd77::1", "ok.test")
    check(a.ips() == ["192.0.2.1"], a)


def the_c_library_resolves():
    """getent: A and AAAA from one socket, the search list with ndots 5."""
    s = site()
    code, out = dnslab.getent(s.a.net, "10.77.0.1", "ahosts", "web")
    check(code == 0 and "10.96.0.10" in out and "fd96::10" in out, code, out)
    code, out = dnslab.getent(s.a.net, "10.77.0.1", "ahostsv4", "ok.test")
    check(code == 0 and "192.0.2.1" in out, code, out)
    code, out = dnslab.getent(s.a.net, "10.77.0.1", "hosts", "nx.test")
    check(code == 2 and out == "", code, out)
    code, out = dnslab.getent(s.a.net, "fd77::1", "ahosts", "db.ns2")
    check(code == 0 and "10.96.0.11" in out, code, out)


def big_answers():
    s = site()
    a = ask(s.a.net, "10.77.0.1", "big.test")
    check(a.tc and a.size <= 512, a)
    a = ask(s.a.net, "10.77.0.1", "big.test", edns=4096)
    check(not a.tc and len(a.ips()) == 200, a)
    a = ask(s.a.net, "10.77.0.1", "big.test", tcp=True)
    check(not a.tc and len(a.ips()) == 200, a)
    a = ask(s.a.net, "10.77.0.1", "toobig.test")  # a resolver that sends more than the client takes
    check(a.tc and a.records == [] and a.size <= 512, a)


def forged_answers_are_ignored():
    s = site()
    a = ask(s.a.net, "10.77.0.1", "spoof.test")
    check(a.ips() == ["192.0.2.1"], a)


def broken_messages():
    s = site()
    with dnslab.udp(s.a.net, "10.77.0.1") as c:
        for msg, rcode in ((query("ok.test")[:-1], FORMERR), (query("ok.test", flags=0x2800), NOTIMP),
                           (struct.pack(">HHHHHH", 0x1234, 0x100, 0, 0, 0, 0), FORMERR)):
            c.send(msg)
            a = dnslab.Answer(c.recv(512))
            check(a.rcode == rcode and a.ident == 0x1234, a)
        c.settimeout(0.3)
        for msg in (b"", b"\x12\x34", query("ok.test", flags=0x8180)):  # to an answer there is no answer
            c.send(msg)
            try:
                check(False, "answered", c.recv(512))
            except socket.timeout:
                pass
        c.settimeout(10)
        c.send(query("web"))
        check(dnslab.Answer(c.recv(512)).ips() == ["10.96.0.10"])


def tcp_connections():
    """Several at once on one connection, a byte at a time, half-closed; lengths that are none; idle ones."""
    s = site()

    def connect():
        return s.a.net.connect(("10.77.0.1", 53))
    with connect() as c:
        c.sendall(framed(query("web", ident=1)) + framed(query("slow.test", ident=2)) + framed(query("db.ns2", ident=3)))
        c.shutdown(socket.SHUT_WR)
        got = [dnslab.Answer(dnslab.read_message(c)) for _ in range(3)]
        check([a.ident for a in got] == [1, 2, 3] and got[1].ips() == ["192.0.2.1"], got)
        check(c.recv(1) == b"")
    with connect() as c:
        for b in framed(query("web")):
            c.sendall(bytes([b]))
            time.sleep(0.002)
        check(dnslab.Answer(dnslab.read_message(c)).ips() == ["10.96.0.10"])
        c.sendall(b"\xff\xff")  # more than a query can have
        check(c.recv(1) == b"")
    with connect() as c:
        c.sendall(framed(b"x"))
        check(c.recv(1) == b"")
    with connect() as c:
        before = time.monotonic()
        c.sendall(framed(query("web"))[:7])
        check(c.recv(1) == b"")
        check(4 < time.monotonic() - before < 12, time.monotonic() - before)
    many = [connect() for _ in range(200)]  # the oldest give way
    wait_for("the oldest to be closed", lambda: gone(many[0]))
    many[-1].sendall(framed(query("web")))
    check(dnslab.Answer(dnslab.read_message(many[-1])).ips() == ["10.96.0.10"])
    for c in many:
        c.close()


def gone(c):
    c.settimeout(0.1)
    try:
        return c.recv(1) == b""
    except socket.timeout:
        return False
    except ConnectionError:
        return True


def a_slow_resolver_holds_nobody_up():
    s = site()
    with dnslab.udp(s.a.net, "10.77.0.1") as slow:
        slow.send(query("slow.test", ident=9))
        for _ in range(20):
            check(ask(s.a.net, "10.77.0.1", "ok.test").ips() == ["192.0.2.1"])
        a = dnslab.Answer(slow.recv(512))
        check(a.ident == 9 and a.ips() == ["192.0.2.1"], a)
    # the answer to the first try counts, after the second has been sent
    before = time.monotonic()
    a = ask(s.a.net, "10.77.0.1", "late.test")
    check(a.ips() == ["192.0.2.1"] and 3.4 < time.monotonic() - before < 9, a, time.monotonic() - before)


def asked_anew(s, resolver, what, names=iter(range(1 << 30))):
    """One more name that no worker knows. How many of them @resolver was asked."""
    ask(s.b.net, "10.77.0.1", "%s.n%d" % (what, next(names)))
    with resolver.lock:
        return sum(n.startswith(what + ".n") for n, *_ in resolver.asked)


def a_dead_resolver():
    """SERVFAIL after all tries; a resolver that refuses the port is known at once; the next one is asked."""
    s = site()
    before = time.monotonic()
    a = ask(s.a.net, "10.77.0.1", "dead.test")
    check(a.rcode == SERVFAIL and 5.9 < time.monotonic() - before < 14, a, time.monotonic() - before)
    check(s.resolver.count("dead.test") == 2, s.resolver.count("dead.test"))
    check(ask(s.a.net, "10.77.0.1", "gone.test", tcp=True).rcode == SERVFAIL)
    check(ask(s.a.net, "10.77.0.1", "fail.test").rcode == SERVFAIL)
    s.use("10.77.0.2", "10.77.0.99", options="timeout:5 attempts:2")  # nobody listens at the first
    s.zt.wait_line("asked of 10.77.0.2:53,10.77.0.99:53")
    try:
        # every worker has heard of it
        wait_for("the second to be asked", lambda: asked_anew(s, s.second, "new") > 4)
        for tcp in (False, True):
            before = time.monotonic()
            check(ask(s.b.net, "10.77.0.1", "ok.next%d" % tcp, tcp=tcp).ips() == ["192.0.2.1"], s.zt.log()[-2000:])
            check(time.monotonic() - before < 4.9, time.monotonic() - before)
        check(s.second.count("ok.next0") == 1 and s.second.count("ok.next1") == 1, s.second.asked)
        s.use("10.77.0.1", "10.77.0.99", options="timeout:5 attempts:2")
        s.zt.wait_line("asked of 10.77.0.1:53,10.77.0.99:53")
        wait_for("the first to be asked", lambda: asked_anew(s, s.resolver, "old") > 4)
        check(ask(s.b.net, "10.77.0.1", "fail.both").rcode == SERVFAIL)
        check(s.resolver.count("fail.both") == 1 and s.second.count("fail.both") == 1, s.second.asked)
    finally:
        said = len(s.zt.lines("asked of 10.77.0.1:53 ("))
        s.use("10.77.0.1")
        wait_for("the first alone again", lambda: len(s.zt.lines("asked of 10.77.0.1:53 (")) > said)
        time.sleep(0.1)


def nobody_can_use_it_up():
    """A pod whose queries all wait gets SERVFAIL for more; another pod notices nothing."""
    s = site()
    with dnslab.udp(s.a.net, "10.77.0.1") as c:
        for i in range(4000):
            c.send(query("dead.flood", ident=i))
            if i % 250 == 0:
                check(any(ask(s.b.net, "10.77.0.1", "ok.test").ips() == ["192.0.2.1"] for _ in range(3)), s.zt.log()[-1000:])
        refused = [dnslab.Answer(c.recv(512)) for _ in range(200)]
        check(all(a.rcode == SERVFAIL for a in refused), refused[:3])
    s.zt.wait_line("too many DNS queries of ns1/a")
    wait_for("the rest to end", lambda: ask(s.a.net, "10.77.0.1", "ok.test").rcode == NOERROR)


def what_is_said_about_it():
    """ztunnel-spec 11.6 and 11.7; /config_dump."""
    s = site()
    labels = dict(request_query_type="a", request_protocol="udp", source_canonical_service="a", source_canonical_revision="v1")

    def counts():
        return [s.zt.metric("istio_dns_" + n, **labels) for n in
                ("requests_total", "upstream_requests_total", "upstream_failures_total",
                 "upstream_request_duration_seconds_count")]
    wait_for("what was asked to end", lambda: counts()[1] == counts()[3])
    before = counts()
    ask(s.a.net, "10.77.0.1", "web")
    ask(s.a.net, "10.77.0.1", "ok.metric")
    ask(s.a.net, "10.77.0.1", "dead.metric")
    wait_for("all to be counted", lambda: [b - a for a, b in zip(before, counts())] == [3, 2, 1, 2])
    check(s.zt.metric("istio_dns_requests_total", request_query_type="mx", request_protocol="tcp") > 0)
    text = s.zt.http(15020, "/metrics")[1]
    check('istio_dns_upstream_request_duration_seconds_bucket{request_query_type="a",request_protocol="udp",'
          'source_canonical_service="a",source_canonical_revision="v1",le="0.0005"}' in text)
    s.zt.wait_line('src.workload="a"', 'src.namespace="ns1"', 'query="web"', 'domain="web.ns1.svc.cluster.local"',
                   'result="success"', "endpoints=1")
    s.zt.wait_line('query="ok.test"', 'result="forwarded"')
    s.zt.wait_line('query="dead.metric"', 'result="forwarding failed (timeout)"')
    s.zt.wait_line('query="db.ns2"', 'result="no records"')
    config = s.zt.dump()["config"]
    check(config["dnsCacheBytes"] == 1 << 20)
    check(config["dnsProxy"] and config["dnsProxyAddr"] == "localhost:15053" and config["clusterDomain"] == "cluster.local")


def until_both_know(s, pod, name, qtype=A, **kw):
    """Asks until each of the two workers has the answer, or none keeps it: eight times the same count."""
    same, last = 0, -1
    for _ in range(60):
        a = ask(pod.net, "10.77.0.1", name, qtype, **kw)
        now = s.resolver.count(name)
        same, last = same + 1 if now == last else 0, now
        if same == 8:
            break
    return a, last


def answers_are_kept():
    """By the question and what changes its answer, for as long as it lives, and for the pod that has asked only."""
    s = site()
    names = ("hits", "misses", "joined", "evictions", "entries", "bytes")

    def counts():
        return {n: s.zt.metric("ambient_dns_cache_%s%s" % (n, "" if n in ("entries", "bytes") else "_total")) for n in names}
    before = counts()
    a, asked = until_both_know(s, s.a, "ok.kept")
    check(1 <= asked <= 2 and a.ips() == ["192.0.2.1"] and not a.aa and a.ra, asked, a)
    after = counts()
    shown = s.zt.dump()["dnsCache"]
    check(all(shown[n] == after[n] for n in names), shown, after)
    check(after["hits"] - before["hits"] >= 8 and after["misses"] - before["misses"] == asked, before, after)
    check(after["entries"] - before["entries"] <= asked and after["bytes"] > 0, before, after)
    # the letters and the id are those of who asks; over TCP too; what is left of the lifetime
    time.sleep(1.1)
    for tcp in (False, True):
        a = ask(s.a.net, "10.77.0.1", "oK.kEPt", tcp=tcp, ident=0x7777)
        check(a.question[0] == "oK.kEPt" and a.ident == 0x7777, a)
        wait_for("an answer that has aged", lambda: 40 < ask(s.a.net, "10.77.0.1", "ok.kept", tcp=tcp).records[0][2] < 60)
    check(s.resolver.count("ok.kept") + s.resolver.count("oK.kEPt") <= 2, s.resolver.asked[-5:])  # one for each worker
    # another pod is told what its own way leads to
    ask(s.b.net, "10.77.0.1", "ok.kept")
    check({p[0] for p in s.resolver.peers("ok.kept")} == {s.a.ip, s.b.ip}, s.resolver.peers("ok.kept"))
    # another type, other bits
    asked = s.resolver.count("ok.kept")
    ask(s.a.net, "10.77.0.1", "ok.kept", MX)
    ask(s.a.net, "10.77.0.1", "ok.kept", flags=0x0110)
    check(s.resolver.count("ok.kept") == asked + 2)
    # an option of EDNS (here a client's subnet), no recursion: each is asked
    for i in range(3):
        ask(s.a.net, "10.77.0.1", "ok.subnet", edns=1232, options=b"\0\x08\0\7\0\1\x18\0\xc0\0\2")
        ask(s.a.net, "10.77.0.1", "ok.bare", flags=0)
        check(s.resolver.count("ok.subnet") == i + 1 and s.resolver.count("ok.bare") == i + 1, i)


def what_is_not_kept():
    """Failures and what is cut; negative answers are, and all is for its lifetime only; addresses take turns; a name that becomes
    the mesh's is the mesh's at once."""
    s = site()
    # SOA's minimum is 5 s: negative answers are kept
    a, asked = until_both_know(s, s.a, "nx.kept")
    check(asked <= 2 and a.rcode == NXDOMAIN and a.records[0][1] == SOA and a.records[0][2] > 50, asked, a)
    for name in ("fail.kept", "zero.kept", "bare.kept"):  # SERVFAIL; TTL 0; nothing, and no SOA
        for i in range(3):
            a = ask(s.a.net, "10.77.0.1", name)
        check(s.resolver.count(name) >= 3, name, s.resolver.count(name))
    # one that was cut is not kept; the whole is, but who takes less gets what the resolver sends: as much as fits
    for _ in range(3):
        check(ask(s.a.net, "10.77.0.1", "big.kept").tc)
    check(s.resolver.count("big.kept") == 3)
    a, asked = until_both_know(s, s.a, "big.kept", tcp=True)
    check(len(a.ips()) == 200 and asked <= 5, asked)
    for _ in range(8):
        a = ask(s.a.net, "10.77.0.1", "big.kept")
        check(a.tc and a.size <= 512 and len(a.ips()) >= 25, a)
    check(s.resolver.count("big.kept") == asked + 8, s.resolver.count("big.kept"), asked)
    # it is over: asked again
    a, asked = until_both_know(s, s.a, "short.kept")
    time.sleep(1.2)
    ask(s.a.net, "10.77.0.1", "short.kept")
    check(s.resolver.count("short.kept") == asked + 1, asked)
    # addresses take turns
    first = {ask(s.a.net, "10.77.0.1", "two.kept").records[0][3] for _ in range(8)}
    check(first == {"192.0.2.1", "192.0.2.2"}, first)
    # a mesh name is the mesh's from the moment that it is one, whatever was kept
    a, _ = until_both_know(s, s.a, "ok.becomes.example")
    check(a.ips() == ["192.0.2.1"], a)
    s.lab.reload(s.zt, [p.workload(services={"ns1/pods.ns1.svc.cluster.local": {80: 80}}) for p in (s.a, s.b)],
                 SERVICES + [dict(name="now", namespace="ns2", hostname="ok.becomes.example", vips=["/240.0.0.9"], ports={443: 443})])
    check(ask(s.a.net, "10.77.0.1", "ok.becomes.example").ips() == ["240.0.0.9"])
    s.lab.reload(s.zt, [p.workload(services={"ns1/pods.ns1.svc.cluster.local": {80: 80}}) for p in (s.a, s.b)], SERVICES)


def equal_questions_are_asked_once():
    s = site()
    clients = [dnslab.udp(s.a.net, "10.77.0.1") for _ in range(30)]
    try:
        for i, c in enumerate(clients):
            c.send(query("slow.once" if i % 2 else "SLOW.once", ident=i))
        got = [dnslab.Answer(c.recv(512)) for c in clients]
        check([a.ident for a in got] == list(range(30)) and all(a.ips() == ["192.0.2.1"] for a in got), got[:3])
        check([a.question[0] for a in got] == ["SLOW.once", "slow.once"] * 15, got[:4])
        check(s.resolver.count("slow.once") + s.resolver.count("SLOW.once") <= 4, s.resolver.asked[-4:])  # by each worker, and a pause of the machine
    finally:
        for c in clients:
            c.close()


def only_the_pod_itself_can_ask():
    """Nothing answers on the pod's address: it is no open resolver."""
    s = site()
    c = s.b.net.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with c:
        c.settimeout(0.5)
        c.connect((s.a.ip, 15053))
        c.send(query("web"))
        try:
            check(False, "answered", c.recv(512))
        except (socket.timeout, ConnectionError):
            pass


def the_end_of_the_site():
    s = site()
    pending = dnslab.udp(s.a.net, "10.77.0.1")
    pending.send(query("slow.end"))
    wait_for("the query to be asked", lambda: s.resolver.count("slow.end"))
    before = time.monotonic()
    code = s.zt.stop()  # it is answered before
    check(code == 0, "status", code, s.zt.log()[-3000:])
    check(dnslab.Answer(pending.recv(512)).ips() == ["192.0.2.1"], time.monotonic() - before)
    pending.close()


def a_pod_leaves_while_it_waits():
    s = Site()
    try:
        with dnslab.udp(s.a.net, "10.77.0.1", 0.5) as c, s.a.net.connect(("10.77.0.1", 53)) as t:
            c.send(query("dead.test"))
            t.sendall(framed(query("dead.test")))
            wait_for("both to be asked", lambda: s.resolver.count("dead.test") >= 2)
            check(s.lab.agent.delete(s.a) == "")
            try:
                check(t.recv(1) == b"")
            except ConnectionError:
                pass
        check(ask(s.b.net, "10.77.0.1", "web").ips() == ["10.96.0.10"])
        check(s.lab.agent.add(s.a) == "")
        check(ask(s.a.net, "10.77.0.1", "web").ips() == ["10.96.0.10"])
        check(s.zt.stop() == 0)
    finally:
        s.close()


def the_workload_comes_late():
    """A query of a pod that the state does not know yet waits for it; without it there is SERVFAIL after 5 s."""
    s = Site(workloads=False)
    try:
        with dnslab.udp(s.a.net, "10.77.0.1") as c, s.a.net.connect(("10.77.0.1", 53)) as t:
            c.send(query("web", ident=1))
            c.send(query("ok.test", ident=2))
            t.sendall(framed(query("web.ns1", ident=3)))
            before = time.monotonic()
            check(ask(s.b.net, "10.77.0.1", "web").rcode == SERVFAIL and 4.5 < time.monotonic() - before < 12)
            first = {a.ident: a.rcode for a in (dnslab.Answer(c.recv(512)), dnslab.Answer(c.recv(512)))}
            check(first == {1: SERVFAIL, 2: SERVFAIL}, first)
            check(dnslab.Answer(dnslab.read_message(t)).rcode == SERVFAIL)
            c.send(query("web", ident=4))
            c.send(query("ok.test", ident=5))
            t.sendall(framed(query("web.ns1", ident=6)))
            time.sleep(0.2)
            s.write()
            got = {a.ident: a.ips() for a in (dnslab.Answer(c.recv(512)), dnslab.Answer(c.recv(512)))}
            check(got == {4: ["10.96.0.10"], 5: ["192.0.2.1"]}, got)
            check(dnslab.Answer(dnslab.read_message(t)).ips() == ["10.96.0.10"])
        check(s.zt.stop() == 0)
    finally:
        s.close()


def sockets_of_its_own():
    """A stock agent gives only the namespace. ztunnel is killed: the next one opens the port again."""
    s = Site(version=1)
    try:
        check(ask(s.a.net, "10.77.0.1", "web").ips() == ["10.96.0.10"])
        s.zt.kill()
        with dnslab.udp(s.a.net, "10.77.0.1", 2) as c:
            c.send(query("web"))
            try:
                check(False, "answered", c.recv(512))
            except ConnectionRefusedError:
                pass
        zt = s.lab.start(**s.env)
        check(ask(s.a.net, "10.77.0.1", "ok.test").ips() == ["192.0.2.1"])
        check(ask(s.a.net, "fd77::1", "web", tcp=True).ips() == ["10.96.0.10"])
        check(zt.stop() == 0)
        with dnslab.udp(s.a.net, "10.77.0.1", 2) as c:  # no socket is left
            c.send(query("web"))
            try:
                check(False, "answered", c.recv(512))
            except ConnectionRefusedError:
                pass
    finally:
        s.close()


def switched_off():
    s = Site(ISTIO_META_DNS_CAPTURE="false")
    try:
        with dnslab.udp(s.a.net, "10.77.0.1", 2) as c:
            c.send(query("web"))
            try:
                check(False, "answered", c.recv(512))
            except ConnectionRefusedError:
                pass
        check("istio_dns" not in s.zt.http(15020, "/metrics")[1])
        check(s.zt.dump()["config"]["dnsProxy"] is False and "dnsCache" not in s.zt.dump())
        check(s.zt.stop() == 0)
    finally:
        s.close()


def no_cache():
    s = Site(AMBIENT_DNS_CACHE_BYTES="0")
    try:
        for i in range(4):
            check(ask(s.a.net, "10.77.0.1", "ok.test").ips() == ["192.0.2.1"] and s.resolver.count("ok.test") == i + 1)
        check(s.zt.dump()["config"]["dnsCacheBytes"] == 0)
        check(s.zt.metric("ambient_dns_cache_hits_total") == 0 and s.zt.metric("ambient_dns_cache_misses_total") == 0)
        check(s.zt.stop() == 0)
    finally:
        s.close()


def again_at_once(c, name):
    """The resolver does not answer the first packet: a client that tries again has its answer before ours do."""
    c.send(query(name))
    time.sleep(0.6)
    before = time.monotonic()
    c.send(query(name))
    check(dnslab.Answer(c.recv(512)).ips() == ["192.0.2.1"])
    return time.monotonic() - before < 1.5


def queued(net):
    """Bytes that wait in the UDP sockets of ztunnel there."""
    def read():
        out = ""
        for n in ("udp", "udp6"):
            with open("/proc/thread-self/net/" + n) as f:
                out += "".join(f.readlines()[1:])
        return [line.split() for line in out.splitlines()]
    return sum(int(w[4].split(":")[1], 16) for w in net.call(read) if w[1].endswith(":3ACD"))


def of_one_worker():
    """A query that comes again is asked again, though an equal one waits. And when the worker can take no more: for a newcomer one
    query of the busiest pod ends, not all that wait for the same answer."""
    s = Site(ZTUNNEL_WORKER_THREADS="1")
    clients = []
    try:
        with dnslab.udp(s.a.net, "10.77.0.1") as c:
            check(again_at_once(c, "lost.once"), "the first packet's loss holds up")
        s.use("10.77.0.1", options="timeout:20 attempts:2")
        s.zt.wait_line("asked of 10.77.0.1:53", "timeout=20000ms")
        pods = [s.lab.pod("hog%d" % i, 10 + i, ns="ns1") for i in range(4)]
        s.lab.state([p.workload() for p in [s.a, s.b, *pods]], SERVICES)
        for p in pods:
            check(s.lab.agent.add(p) == "")
            dnslab.capture(p.net)
            wait_for("it to be served", lambda p=p: ask(p.net, "10.77.0.1", "ok.test").ips() == ["192.0.2.1"])
            c = dnslab.udp(p.net, "10.77.0.1")
            clients.append(c)
            for i in range(1024):
                c.send(query("dead.hog", ident=i))
                if i % 128 == 127:
                    wait_for("them to be taken", lambda p=p: not queued(p.net))
        check(ask(s.a.net, "10.77.0.1", "ok.newcomer").ips() == ["192.0.2.1"], s.zt.log()[-1000:])
        ended = 0
        for c in clients:
            c.settimeout(0.3)
            try:
                while True:
                    check(dnslab.Answer(c.recv(512)).rcode == SERVFAIL)
                    ended += 1
            except TimeoutError:
                pass
        check(1 <= ended <= 3, ended)
        check(s.zt.stop() == 0)
    finally:
        for c in clients:
            c.close()
        s.close()


def a_resolver_of_the_node():
    """127.0.0.53 is the node's, not the pod's: asked from ztunnel's own namespace."""
    s = Site(servers=("127.0.0.53",))
    local = None
    try:
        local = dnslab.Resolver(s.lab.node, "127.0.0.53")
        for tcp in (False, True):
            check(ask(s.a.net, "10.77.0.1", "ok.test%d" % tcp, tcp=tcp).ips() == ["192.0.2.1"])
        check(local.count("ok.test0") == 1 and local.count("ok.test1") == 1)
        check(s.zt.stop() == 0)
    finally:
        if local:
            local.close()
        s.close()


TESTS = [
    names_of_the_mesh, many_addresses, other_names_are_forwarded, the_c_library_resolves, big_answers,
    forged_answers_are_ignored, broken_messages, tcp_connections, a_slow_resolver_holds_nobody_up, a_dead_resolver,
    answers_are_kept, what_is_not_kept, equal_questions_are_asked_once,
    nobody_can_use_it_up, what_is_said_about_it, only_the_pod_itself_can_ask, the_end_of_the_site,
    a_pod_leaves_while_it_waits, the_workload_comes_late, sockets_of_its_own, switched_off, no_cache, of_one_worker,
    a_resolver_of_the_node,
]


if __name__ == "__main__":
    try:
        status = main(TESTS)
    finally:
        if SITE is not None:
            SITE.close()
    sys.exit(status)
