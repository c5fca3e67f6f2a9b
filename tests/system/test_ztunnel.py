#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ztunnel between pods of its own: the path, policy, state, identity, hostile peers, the agent's
socket, and the operator's surfaces."""
import argparse
import os
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hbone_peer as hb  # noqa: E402
from ztlab import (Lab, Root, Skip, Tagged, Wire, PORTS, ZDS_SNAPSHOT, double_echo, exact,  # noqa
                   field, http_hello, policy, tap, tls_context, wait_for, zds_add)

HELLO = b"hello world"
ARGS = argparse.Namespace()


class Site:
    """One lab for many tests: captured a and b, plain c; b answers on 8080 (echo) and 8081."""

    def __init__(self, version=2, **env):
        self.lab = Lab(ARGS.bin, version, env)
        try:
            self.a = self.lab.pod("a", 2)
            self.b = self.lab.pod("b", 3)
            self.c = self.lab.pod("c", 4, captured=False)
            self.b.serve(8080, double_echo)
            self.b.serve(8081, http_hello)
            self.c.serve(8080, double_echo)
            self.lab.state()
            self.zt = self.lab.start()
            self.root = self.lab.root()
        except BaseException:
            for zt in self.lab.zts:
                print("# " + zt.log()[-2000:].replace("\n", "\n# "))
            self.lab.close()
            raise

    def cert(self, pod="a", ns="default", td="cluster.local", **kw):
        return self.root.issue(self.lab, ["spiffe://%s/ns/%s/sa/%s" % (td, ns, pod)], **kw)

    def close(self):
        self.lab.close()


SITE = None


def site():
    global SITE
    if SITE is None:
        SITE = Site()
    return SITE


def echo_once(pod, addr, port=8080, data=HELLO):
    """What comes back for @data: twice the data when all is well, less when the way is cut."""
    got = b""
    try:
        with pod.net.connect((addr, port)) as s:
            s.sendall(data)
            while len(got) < 2 * len(data):
                d = s.recv(65536)
                if not d:
                    break
                got += d
    except ConnectionError:
        pass
    return got


def works(pod, addr, port=8080):
    return echo_once(pod, addr, port) == HELLO + HELLO


def refused(pod, addr, port=8080):
    return echo_once(pod, addr, port) == b""


def check(cond, *what):
    assert cond, " ".join(str(w) for w in what)


# --- the path ------------------------------------------------------------------------------------

def http_through_hbone():
    s = site()
    wire = Wire(s.lab)
    with s.a.net.connect((s.b.ip, 8081)) as c:
        c.sendall(b"GET /secret-path HTTP/1.1\r\nHost: b\r\n\r\n")
        data = b""
        while True:
            d = c.recv(4096)
            if not d:
                break
            data += d
    check(b"200 OK" in data and b"hello %s\n" % s.a.ip.encode() in data,
          "the server must see the client's address:", data)
    seen = wire.packets()
    wire.close()
    check(seen, "nothing was captured")
    for src, sport, dst, dport, payload in seen:
        check(15008 in (sport, dport), "port on the wire:", src, sport, dst, dport)
        check(b"secret-path" not in payload and b"hello" not in payload, "plaintext on the wire")
    check(any(p[4][:3] == b"\x16\x03\x01" for p in seen), "no ClientHello was seen")


def metrics_and_access_log():
    s = site()
    before = {(n, r): s.zt.metric("istio_tcp_" + n, reporter=r, destination_workload="b")
              for n in ("connections_opened_total", "connections_closed_total",
                        "received_bytes_total", "sent_bytes_total")
              for r in ("source", "destination")}
    check(works(s.a, s.b.ip), "echo")
    want = {"connections_opened_total": 1, "connections_closed_total": 1,
            "received_bytes_total": 11, "sent_bytes_total": 22}
    wait_for("both ends' counters", lambda: all(
        s.zt.metric("istio_tcp_" + n, reporter=r, destination_workload="b") - before[n, r] == v
        for n, v in want.items() for r in ("source", "destination")))
    check(s.zt.metric("istio_tcp_connections_opened_total", reporter="source",
                      connection_security_policy="mutual_tls", source_principal=s.a.identity,
                      destination_principal=s.b.identity, request_protocol="tcp",
                      response_flags="-") >= 1, "labels")
    out = s.zt.wait_line("connection complete", 'direction="outbound"', "bytes_sent=11",
                         "bytes_recv=22")
    shape = (r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\tinfo\taccess\tconnection complete\t'
             r'src\.addr=10\.77\.0\.2:\d+ src\.workload="a" src\.namespace="default" '
             r'src\.identity="spiffe://cluster\.local/ns/default/sa/a" src\.cluster="Kubernetes" '
             r'dst\.addr=10\.77\.0\.3:15008 dst\.hbone_addr=10\.77\.0\.3:8080 dst\.workload="b" '
             r'dst\.namespace="default" dst\.identity="spiffe://cluster\.local/ns/default/sa/b" '
             r'dst\.cluster="Kubernetes" direction="outbound" bytes_sent=11 bytes_recv=22 '
             r'duration="\d+ms"$')
    check(re.match(shape, out), "shape of:", out)
    s.zt.wait_line("connection complete", 'direction="inbound"', "bytes_sent=22", "bytes_recv=11",
                   'src.identity="%s"' % s.a.identity, "dst.addr=10.77.0.3:15008")


def openmetrics_is_well_formed():
    s = site()
    code, text = s.zt.http(15020, "/metrics", headers=[("Accept", "application/openmetrics-text")])
    check(code == 200 and text.endswith("# EOF\n"))
    types, seen = {}, set()
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            check(name not in types, "family twice:", name)
            types[name] = kind
        elif not line.startswith("# HELP "):
            m = re.match(r'^([a-z0-9_]+)(\{([a-z_]+="(?:[^"\\]|\\.)*"(,|(?=\})))+\})? (\d+(\.\d+)?|-1)$',
                         line)
            check(m, "bad sample:", line)
            key = line.rsplit(" ", 1)[0]
            check(key not in seen, "sample twice:", key)
            seen.add(key)
            name = m.group(1)
            base = name[:-6] if name.endswith("_total") else name
            check(types.get(base) == ("counter" if name.endswith("_total") else "gauge"), line)
    check(s.zt.http(15020, "/stats/prometheus")[0] == 200)
    check(s.zt.http(15020, "/other")[0] == 404)


def uncaptured_server():
    s = site()
    check(works(s.a, s.c.ip), "echo")
    line = s.zt.wait_line("connection complete", 'dst.workload="c"', 'direction="outbound"')
    check("src.identity" not in line and "dst.identity" not in line, line)


def uncaptured_client():
    s = site()
    check(works(s.c, s.b.ip), "echo")
    line = s.zt.wait_line("connection complete", 'src.workload="c"', 'direction="inbound"')
    check("identity" not in line, line)
    check(s.b.servers[0].peers[-1][0] == s.c.ip, "source address", s.b.servers[0].peers[-1])


def calls_to_our_own_ports():
    s = site()
    for pod, addr in ((s.a, s.a.ip), (s.a, "127.0.0.1"), (s.a, s.b.ip), (s.c, s.b.ip)):
        for port in PORTS:
            try:
                with pod.net.connect((addr, port), timeout=12) as c:
                    c.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    got = c.recv(4096)
                    check(got[:1] in (b"", b"\x15"), "an answer came from", addr, port, got[:20])
            except ConnectionError:
                pass
    check(works(s.a, s.b.ip), "service continues")


def call_to_our_own_port_by_an_unlisted_address():
    """An address of the pod that the mesh does not know is passed through: on our own port that
    would be ourselves again, and again."""
    s = site()
    extra = "10.77.0.112"
    s.a.net.ip("addr", "add", extra + "/32", "dev", "eth0")
    try:
        before = s.zt.metric("istio_tcp_connections_opened_total")
        try:
            with s.a.net.connect((extra, PORTS[0]), timeout=5) as c:
                check(c.recv(1) == b"", "bytes from our own port")
        except ConnectionError:
            pass
        s.zt.wait_line("attempted recursive call to ourselves", "%s:%d" % (extra, PORTS[0]))
        check(s.zt.metric("istio_tcp_connections_opened_total") - before < 3, "a loop")
        check(works(s.a, s.b.ip), "service continues")
    finally:
        s.a.net.ip("addr", "del", extra + "/32", "dev", "eth0")


# --- policy --------------------------------------------------------------------------------------

def with_policies(s, *policies, **kw):
    s.lab.reload(s.zt, policies=policies, **kw)


def mutual_tls_by_policy():
    s = site()
    try:
        rows = [
            ("allow this principal", "Allow", dict(principals=[exact("cluster.local/ns/default/sa/a")]), 1),
            ("allow another principal", "Allow", dict(principals=[exact("cluster.local/ns/default/sa/x")]), 0),
            ("principals are case-sensitive", "Allow", dict(principals=[exact("cluster.local/ns/default/sa/A")]), 0),
            ("prefix", "Allow", dict(principals=[Tagged("Prefix", "cluster.local/ns/default/")]), 1),
            ("presence", "Allow", dict(principals=[Tagged("Presence", None)]), 1),
            ("deny this namespace", "Deny", dict(namespaces=[exact("default")]), 0),
            ("deny another namespace", "Deny", dict(namespaces=[exact("other")]), 1),
            ("allow the client's network", "Allow", dict(sourceIps=["10.77.0.2/32"]), 1),
            ("allow another network", "Allow", dict(sourceIps=["10.77.1.0/24"]), 0),
            ("deny the port", "Deny", dict(destinationPorts=[8080]), 0),
            ("deny another port", "Deny", dict(destinationPorts=[8081]), 1),
            ("deny all but this port", "Deny", dict(notDestinationPorts=[8080]), 1),
            ("service account", "Allow", dict(serviceAccounts=[dict(namespace="default", serviceAccount="a")]), 1),
        ]
        for title, action, match, ok in rows:
            with_policies(s, policy("p", action, match))
            check((works if ok else refused)(s.a, s.b.ip), title)
        with_policies(s, policy("p", "Allow", dict(principals=[exact("cluster.local/ns/default/sa/x")])))
        check(refused(s.a, s.b.ip))
        s.zt.wait_line("error", "connection complete", 'direction="inbound"',
                       'error="connection closed due to policy rejection: '
                       'allow policies exist, but none allowed"')
        with_policies(s, policy("d", "Deny", dict(namespaces=[exact("default")])))
        check(refused(s.a, s.b.ip))
        s.zt.wait_line('error="connection closed due to policy rejection: explicitly denied by: '
                       'default/d"')
        check(s.zt.metric("istio_tcp_connections_failed_total", reporter="destination",
                          response_flags="DENY") > 0, "flag DENY")
        client = hb.Client(s.lab, s.c, s.b.ip, s.cert("a"))
        check(client.answer(client.request("%s:8080" % s.b.ip)) == 401, "status")
        client.close()
    finally:
        s.lab.reload(s.zt)


def plaintext_by_policy():
    s = site()
    try:
        rows = [
            ("mutual TLS required: not this way", "Deny", dict(notPrincipals=[Tagged("Presence", None)]), 0),
            ("allow any principal", "Allow", dict(principals=[Tagged("Presence", None)]), 0),
            ("allow a network", "Allow", dict(sourceIps=["10.77.0.4"]), 1),
            ("deny a network", "Deny", dict(sourceIps=["10.77.0.0/24"]), 0),
            ("allow all but a network", "Allow", dict(notSourceIps=["10.77.0.4"]), 0),
            ("deny the port", "Deny", dict(destinationPorts=[8080]), 0),
        ]
        for title, action, match, ok in rows:
            with_policies(s, policy("p", action, match))
            check((works if ok else refused)(s.c, s.b.ip), title)
            if "notPrincipals" in match:
                check(works(s.a, s.b.ip), "mutual TLS passes:", title)
    finally:
        s.lab.reload(s.zt)


def policy_named_but_unknown_denies():
    s = site()
    try:
        loads = [p.workload() for p in s.lab.pods]
        loads[1]["authorizationPolicies"] = ["default/later"]
        with_policies(s, workloads=loads)
        check(refused(s.a, s.b.ip) and refused(s.c, s.b.ip), "denied")
        s.zt.wait_line("policy default/later is not known yet")
        with_policies(s, policy("later", "Deny", dict(destinationPorts=[1]), scope="WorkloadSelector"),
                      workloads=loads)
        check(works(s.a, s.b.ip), "allowed once it is known")
    finally:
        s.lab.reload(s.zt)


def policy_change_cuts_established():
    s = site()
    conns = {}
    try:
        for name, pod in (("mtls", s.a), ("plain", s.c)):
            conns[name] = pod.net.connect((s.b.ip, 8080))
            conns[name].sendall(b"x")
            check(conns[name].recv(2) == b"xx")
        with_policies(s, policy("d", "Deny", dict(sourceIps=[s.a.ip])))
        try:
            check(conns["mtls"].recv(1) == b"", "cut")
        except ConnectionError:
            pass
        conns["plain"].sendall(b"y")
        check(conns["plain"].recv(2) == b"yy", "the other one is left alone")
        s.zt.wait_line('error="connection closed due to policy change"')
    finally:
        for c in conns.values():
            c.close()
        s.lab.reload(s.zt)


# --- state ---------------------------------------------------------------------------------------

def reload_drops_nothing():
    s = site()
    with s.a.net.connect((s.b.ip, 8080)) as c:
        for i in range(5):
            c.sendall(b"%d" % i)
            check(c.recv(2) == b"%d%d" % (i, i))
            s.lab.reload(s.zt, services=[dict(name="s%d" % i, namespace="default", vips=[],
                                              hostname="s%d.example" % i, ports={80: 80})])
        c.sendall(b"z")
        check(c.recv(2) == b"zz", "the connection outlives reloads")
    s.lab.reload(s.zt)


def bad_state_keeps_the_last_good():
    s = site()
    errors = s.zt.metric("ambient_state_reload_errors_total")
    generation = s.lab.generation(s.zt)
    with open(s.lab.state_path) as f:
        good = f.read()
    try:
        s.lab.write_state(good.replace("protocol: HBONE", "protocl: HBONE", 1))
        wait_for("the refusal", lambda: s.zt.dump()["localState"]["error"])
        error = s.zt.dump()["localState"]["error"]
        line = 1 + good[:good.index("protocol: HBONE")].count("\n")
        check("workloads[0].protocl (line %d)" % line in error, error)
        check(s.zt.lines("error", "state", "protocl", "the last good state stays in use"))
        check(s.zt.metric("ambient_state_reload_errors_total") == errors + 1)
        check(s.lab.generation(s.zt) == generation, "generation")
        check(works(s.a, s.b.ip) and s.zt.ready(), "service and readiness")
        s.lab.write_state("")
        wait_for("the refusal", lambda: "empty" in s.zt.dump()["localState"]["error"])
        check(works(s.a, s.b.ip), "service")
        os.unlink(s.lab.state_path)
        wait_for("the refusal", lambda: "No such file" in s.zt.dump()["localState"]["error"])
        check(works(s.a, s.b.ip), "service")
    finally:
        s.lab.write_state(good)
        wait_for("recovery", lambda: s.zt.dump()["localState"]["error"] == "")


def half_a_state_is_not_read():
    """Written in place: the first half is a good document, without the policies."""
    s = site()
    try:
        with_policies(s, policy("p", "Deny", dict(namespaces=[exact("default")])))
        with open(s.lab.state_path) as f:
            parts = re.split(r"(?m)^(?=[a-z])", f.read())
        last = [p for p in parts if p.startswith("policies:")]
        first = [p for p in parts if not p.startswith("policies:")]
        check(len(last) == 1 and any(p.startswith("workloads:") for p in first), parts)
        generation = s.lab.generation(s.zt)
        with open(s.lab.state_path, "w") as f:
            f.write("".join(first))
            f.flush()
            until = time.monotonic() + 1
            while time.monotonic() < until:
                with open(s.lab.state_path + ".other", "w"):  # an event in the directory
                    pass
                check(refused(s.a, s.b.ip), "the policy was lost")
            check(s.lab.generation(s.zt) == generation, "half a state was read")
            f.write(last[0])
        wait_for("the new state", lambda: s.lab.generation(s.zt) > generation)
        check(refused(s.a, s.b.ip) and s.zt.dump()["localState"]["error"] == "", "policy")
    finally:
        with_policies(s)


def state_through_swapped_symlinks():
    s = site()
    base = os.path.join(s.lab.dir, "cm")
    for n in ("v1", "v2"):
        os.makedirs(os.path.join(base, n))
        s.lab.state(services=[dict(name=n, namespace="default", hostname=n + ".example", vips=[],
                                   ports={80: 80})])
        os.rename(s.lab.state_path, os.path.join(base, n, "state.yaml"))
    os.symlink("v1", os.path.join(base, "..data"))
    os.symlink("..data/state.yaml", os.path.join(base, "state.yaml"))

    def names():
        return [x["name"] for x in s.zt.dump()["services"]]
    os.symlink(os.path.join(base, "state.yaml"), s.lab.state_path + ".new")
    os.rename(s.lab.state_path + ".new", s.lab.state_path)
    try:
        wait_for("the file behind the symlinks", lambda: names() == ["v1"])
        os.symlink("v2", os.path.join(base, "..tmp"))
        os.rename(os.path.join(base, "..tmp"), os.path.join(base, "..data"))
        # two links away from the name that was given; well before the periodic look
        wait_for("the swapped directory", lambda: names() == ["v2"], 4)
    finally:
        s.lab.reload(s.zt)


def connection_waits_for_its_workload():
    s = site()
    others = [p.workload() for p in s.lab.pods if p is not s.a]
    s.lab.reload(s.zt, workloads=others)
    result = []
    t = threading.Thread(target=lambda: result.append(echo_once(s.a, s.b.ip)))
    t.start()
    time.sleep(0.3)  # not synchronisation: gives a wrong early refusal the time to show
    check(not result, "it must wait, not fail:", result)
    s.lab.reload(s.zt)
    t.join(10)
    check(result == [HELLO + HELLO], result)


# --- identity ------------------------------------------------------------------------------------

def tls_is_refused(s, cert):
    """True when the connection ends before any HTTP/2 frame of ztunnel arrives."""
    ctx = tls_context(s.lab, cert)
    try:
        c = ctx.wrap_socket(s.c.net.connect((s.b.ip, 15008)))
    except (ssl.SSLError, ConnectionError):
        return True
    with c:
        try:  # TLS 1.3: the client learns only now
            c.sendall(hb.PREFACE + hb.frame(hb.SETTINGS, 0, 0))
            return c.recv(1) == b""
        except (ssl.SSLError, ConnectionError):
            return True


def peers_without_the_right_certificate():
    s = site()
    failures = s.zt.metric("ambient_tls_handshake_failures_total")
    stranger = Root()
    rows = [
        ("no certificate", None),
        ("another root", stranger.issue(s.lab, [s.a.identity])),
        ("wrong trust domain", s.cert(td="clusterset.local")),
        ("expired", s.cert(start=-7200, end=-60)),
        ("not valid yet", s.cert(start=3600, end=7200)),
        ("no name", s.root.issue(s.lab, [])),
        ("two names", s.root.issue(s.lab, [s.a.identity, s.b.identity])),
        ("not SPIFFE", s.root.issue(s.lab, ["https://cluster.local/ns/default/sa/a"])),
        ("no service account", s.root.issue(s.lab, ["spiffe://cluster.local/ns/default"])),
        ("empty namespace", s.root.issue(s.lab, ["spiffe://cluster.local/ns//sa/a"])),
        ("trailing part", s.root.issue(s.lab, [s.a.identity + "/x"])),
    ]
    check(not tls_is_refused(s, s.cert("a")), "a proper peer must be accepted")
    for title, cert in rows:
        check(tls_is_refused(s, cert), "accepted:", title)
    check(s.zt.metric("ambient_tls_handshake_failures_total") >= failures + len(rows) - 1,
          "counted")
    check(works(s.a, s.b.ip), "service continues")


def impostor_gets_nothing():
    """The state says that 10.77.0.5 is pod d; who answers there is somebody else."""
    s = site()
    d = s.lab.pod("d", 5, captured=False)
    seen = []
    try:
        for title, cert in (("another pod's certificate", s.cert("c")),
                            ("another root", Root().issue(s.lab, [d.identity])),
                            ("wrong trust domain", s.cert("d", td="other.local")),
                            ("expired", s.cert("d", start=-7200, end=-60))):
            srv = d.serve(15008, hb.hbone_server(s.lab, cert, on_connect=seen.append))
            s.lab.reload(s.zt, workloads=[p.workload() for p in s.lab.pods[:3]] +
                         [d.workload(protocol="HBONE")])
            check(refused(s.a, d.ip), title)
            check(not seen, "the CONNECT reached:", title)
            srv.close()
        d.serve(15008, hb.hbone_server(s.lab, s.cert("d"), on_connect=seen.append))
        with s.a.net.connect((d.ip, 8080)) as c:
            c.sendall(HELLO)
            got = c.recv(100)
        check(seen and got == HELLO, "the right one is accepted:", got)
        h = seen[0]
        check(h[":method"] == "CONNECT" and h[":authority"] == "10.77.0.5:8080", h)
        check(h.get("baggage", "").startswith("k8s.cluster.name=Kubernetes,k8s.namespace.name=default"), h)
    finally:
        s.lab.pods.remove(d)
        d.close()
        s.lab.reload(s.zt)


# --- hostile peers -------------------------------------------------------------------------------

def plaintext_to_15008():
    s = site()
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100, hb.PREFACE):
        with s.c.net.connect((s.b.ip, 15008)) as c:
            try:
                c.sendall(data)
                got = c.recv(4096)
                while got and got[:1] == b"\x15":  # an alert is fine
                    got = c.recv(4096)
                check(got == b"", "answered with", got[:20])
            except ConnectionError:
                pass
    check(works(s.a, s.b.ip))


def connect_to_other_addresses():
    s = site()
    client = hb.Client(s.lab, s.c, s.b.ip, s.cert("a"))
    rows = [("%s:8080" % s.a.ip, 400), ("127.0.0.1:15000", 400), ("169.254.169.254:80", 400),
            ("[::1]:80", 400), ("[::ffff:127.0.0.1]:80", 400), ("10.77.0.3:0", 400),
            ("10.77.0.3:65536", 400), ("10.77.0.3.:80", 400), ("x@10.77.0.3:8080", 400),
            ("012.77.0.3:8080", 400), ("10.77.0.3:15008", 503), ("10.77.0.3:15006", 503),
            ("unknown.example:80", 503), ("nonsense", 400), ("10.77.0.3:8080", 200),
            ("10.77.0.3:9", 503)]
    for authority, want in rows:
        got = client.answer(client.request(authority))
        # newer libraries (nghttp2 1.64) reset a stream with user information by themselves
        check(got == want or (got is None and "@" in authority), authority, "got", got, "want",
              want)
    check(client.answer(client.request("10.77.0.3:8080", method="GET")) == 400, "GET")
    client.close()
    s.zt.wait_line("connection failed", "ip mismatch: 10.77.0.3 != 10.77.0.2")
    s.zt.wait_line("connection failed", "attempted recursive call to ourselves")


class Bystander:
    """Another pair of pods' connections while something hostile happens: must not suffer."""

    def __init__(self, s):
        self.s = s
        self.rss = s.zt.rss_kb()
        self.held = s.a.net.connect((s.b.ip, 8080))
        self.held.sendall(b"q")
        check(self.held.recv(2) == b"qq")

    def verify(self, grown_kb=24 << 10):
        self.held.sendall(b"r")
        check(self.held.recv(2) == b"rr", "an established connection")
        check(works(self.s.a, self.s.b.ip), "a new connection")
        self.held.close()
        grown = self.s.zt.rss_kb() - self.rss
        if "asan" not in ARGS.bin and "tsan" not in ARGS.bin:
            check(grown < grown_kb, "memory grew by", grown, "KiB")


def flood(title, attack, code=hb.ENHANCE_YOUR_CALM):
    s = site()
    by = Bystander(s)
    calm = s.zt.metric("ambient_h2_enhance_your_calm_total")
    raw = hb.Raw(s.lab, s.c, s.b.ip, s.cert("a"))
    result = raw.flood(attack)
    check(result, title, "was not stopped")
    got, frames, sent = result
    codes = code if isinstance(code, tuple) else (code,)
    # a reset that meets our own unread bytes can swallow the GOAWAY: the counter tells then
    calmed = s.zt.metric("ambient_h2_enhance_your_calm_total") > calm
    check(got in codes or calmed and hb.ENHANCE_YOUR_CALM in codes, title, "GOAWAY code", got,
          "frames", frames, "bytes sent", sent)
    raw.close()
    by.verify()


def rapid_reset():
    block = hb.connect_block("10.77.0.3:8080")

    def attack():
        for i in range(200):
            yield b"".join(hb.frame(hb.HEADERS, 4, 2 * k + 1, block) +
                           hb.frame(hb.RST, 0, 2 * k + 1, struct.pack("!I", 8))
                           for k in range(i * 50, i * 50 + 50))
    flood("rapid reset", attack())


def made_you_reset():
    """The peer makes ztunnel reset streams (window overflow): those count too."""
    block = hb.connect_block("10.77.0.3:8080")

    def attack():
        for i in range(100):
            yield b"".join(hb.frame(hb.HEADERS, 4, 2 * k + 1, block) +
                           hb.frame(hb.WINDOW, 0, 2 * k + 1, struct.pack("!I", 0))
                           for k in range(i * 20, i * 20 + 20))
    flood("made you reset", attack(), (hb.ENHANCE_YOUR_CALM, 1))


def continuation_flood():
    def attack():
        yield hb.frame(hb.HEADERS, 0, 1, hb.connect_block("10.77.0.3:8080"))
        for i in range(20000):
            yield hb.frame(hb.CONTINUATION, 0, 1, hb.literal(b"x%d" % i, b"y"))
    flood("CONTINUATION flood", attack(), (hb.ENHANCE_YOUR_CALM, 1, None))


def header_bomb():
    big = b"".join(hb.literal(b"x-%d" % i, b"v" * 100) for i in range(140))

    def attack():
        for i in range(600):
            yield hb.frame(hb.HEADERS, 4, 2 * i + 1, hb.connect_block("10.77.0.3:8080") + big)
    flood("header bomb", attack(), (hb.ENHANCE_YOUR_CALM, 1, None))


def settings_flood():
    def attack():
        for _ in range(400):
            yield hb.frame(hb.SETTINGS, 0, 0, struct.pack("!HI", 4, 65535)) * 500
    flood("settings flood", attack(), (hb.ENHANCE_YOUR_CALM, 1, None))


def ping_flood():
    def attack():
        for _ in range(400):
            yield hb.frame(hb.PING, 0, 0, b"12345678") * 500
    flood("ping flood", attack(), (hb.ENHANCE_YOUR_CALM, 1, None))


def zero_window_stall():
    """A peer that opens tunnels to a talkative server and never gives window: bounded memory."""
    s = site()

    def talk(c, _peer):
        try:
            while True:
                c.sendall(b"t" * 65536)
        except OSError:
            pass
    srv = s.b.serve(8082, talk)
    by = Bystander(s)
    raw = hb.Raw(s.lab, s.c, s.b.ip, s.cert("a"), settings=struct.pack("!HI", 4, 0))
    for k in range(50):
        raw.send(hb.frame(hb.HEADERS, 4, 2 * k + 1, hb.connect_block("10.77.0.3:8082")))
    ok = 0
    while ok < 50:
        f = raw.read_frame()
        check(f is not None, "closed after", ok)
        check(f[0] != hb.DATA or len(f[3]) == 0, "data without window")
        ok += f[0] == hb.HEADERS
    by.verify()
    raw.close()
    srv.close()


def slow_handshakes_are_bounded():
    """Half a ClientHello and silence: the connection is closed, others pass."""
    s = site()
    socks = [s.c.net.connect((s.b.ip, 15008)) for _ in range(50)]
    for c in socks:
        c.sendall(b"\x16\x03\x01\x02\x00\x01")
        c.settimeout(20)
    check(works(s.a, s.b.ip), "service continues")
    start = time.monotonic()
    for c in socks:
        try:
            while c.recv(100):
                pass
        except ConnectionError:
            pass
        c.close()
    check(time.monotonic() - start < 16, "the handshake limit is 10 s")


def handshake_flood_of_one_pod():
    """More unfinished handshakes than there are places, all at one pod: another pod's goes on."""
    lab = Lab(ARGS.bin, 2)
    socks = []
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    try:
        a, b, c = lab.pod("a", 2), lab.pod("b", 3), lab.pod("c", 4, captured=False)
        lab.state()
        zt = lab.start(ZTUNNEL_WORKER_THREADS="1")
        ctx = tls_context(lab, lab.root().issue(lab, [b.identity]))
        slow = c.net.connect((a.ip, 15008))
        socks = [c.net.connect((b.ip, 15008)) for _ in range(1200)]
        zt.wait_line("too many connections without a finished handshake")
        with ctx.wrap_socket(slow) as t:
            check(t.version() == "TLSv1.3", "the other pod's handshake")
    finally:
        for s in socks:
            s.close()
        lab.close()


# --- the agent's socket --------------------------------------------------------------------------

def fresh(version):
    lab = Lab(ARGS.bin, version)
    return lab


def v1_exchange():
    """A stock agent: hello 1, namespaces only; ztunnel makes the sockets."""
    lab = fresh(1)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        check(lab.agent.peer_version == 1 and not lab.agent.held)
        check(works(a, b.ip), "echo")
        check(lab.agent.add(a) == "", "adding again is idempotent")
        check(works(a, b.ip), "echo")
        check(lab.agent.delete(b) == "")
        check(lab.agent.delete(b) == "", "deleting an unknown pod is fine")
        check(refused(a, b.ip), "a deleted pod is not served")
        check(lab.agent.add(b) == "")
        check(works(a, b.ip), "echo")
        check(zt.metric("workload_manager_active_proxy_count") == 2)
        # an upgrade: both serve (SO_REUSEPORT), the agent knows both
        old, lab.agent.conn = lab.agent.conn, None
        zt2 = lab.start(serve=False, AMBIENT_ADMIN_PORT="15100", AMBIENT_STATS_PORT="15120",
                        AMBIENT_READINESS_PORT="15121",
                        AMBIENT_ADMIN_SOCKET=os.path.join(lab.dir, "admin2.sock"))
        lab.agent.serve([a, b])
        wait_for("the new one", lambda: zt2.http(15121, "/healthz/ready")[0] == 200)
        check(zt.stop() == 0)
        old.close()
        check(works(a, b.ip), "the new one took over")
        check(zt2.stop() == 0)
    finally:
        lab.close()




def zds_bad_packets():
    lab = fresh(2)
    try:
        a = lab.pod("a", 2)
        b = lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        socks = [x.fileno() for x in a.make_listeners()]
        fds = [a.net.fd] + socks
        read, process = "failure to read message : ", "failure to process message : "
        rows = [
            ("no descriptor", zds_add(a), [], read),
            ("two descriptors", zds_add(a), fds[:2], read),
            ("fewer sockets than ports", zds_add(a, PORTS), fds[:3], read),
            ("more sockets than ports", zds_add(a, PORTS[:2]), fds, read),
            ("descriptor with a delete", field(2, field(2, a.uid)), fds[:1], read),
            ("garbage", b"\xff\xff\xff", [], read),
            ("no payload", b"\x20\x01", [], read),
            ("too long", field(5, field(1, "x" * 1100)), [], read),
            ("uid with NUL", field(5, field(1, "x\0y")), [], read),
            ("no workload info", field(1, field(1, a.uid)), fds[:1], process),
            ("keep after the snapshot", field(5, field(1, a.uid)), [], process),
            ("second snapshot", ZDS_SNAPSHOT, [], process),
            ("wrong port", zds_add(a, (15001, 15006, 80)), fds, process),
            ("port twice", zds_add(a, (15001, 15006, 15006)), fds, process),
            ("sockets in the wrong order", zds_add(a, (15006, 15001, 15008)), fds, process),
        ]
        for title, data, with_fds, want in rows:
            err = lab.agent.exchange(data, with_fds)
            check(err is not None and err.startswith(want), title, "answered", err)
            check(lab.agent.closed(), title, ": the connection must be closed")
            check(zt.proc.poll() is None, title, "ended the process")
            check(works(a, b.ip), title, ": pods are served on")
            lab.agent.serve([a, b])
        err = lab.agent.exchange(zds_add(a, PORTS), [os.open("/dev/null", os.O_RDONLY)] + socks)
        check(err.startswith("failure to start proxy : "), "not a namespace:", err)
        check(not zt.ready(), "not ready while one is pending")
        check(lab.agent.add(a) == "", "a good add clears it")
        wait_for("readiness", zt.ready)
    finally:
        lab.close()


def snapshot_semantics():
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(serve=False)
        wait_for("the readiness server", lambda: zt.http(15021, "/healthz/ready"))
        code, text = zt.http(15021, "/healthz/ready")
        check(code == 500 and "workload proxy manager" in text, code, text)
        lab.agent.accept()
        check(lab.agent.add(a) == "" and lab.agent.add(b) == "")
        check(not zt.ready(), "not ready before the snapshot")
        check(lab.agent.snapshot() == "")
        zt.wait_ready()
        with a.net.connect((b.ip, 8080)) as c:
            c.sendall(b"1")
            check(c.recv(2) == b"11")
            lab.agent.conn.close()  # an agent restart: running pods stay
            wait_for("not ready", lambda: not zt.ready())
            c.sendall(b"2")
            check(c.recv(2) == b"22", "served without an agent")
            lab.agent.accept()
            check(lab.agent.keep(a) == "" and lab.agent.keep(b) == "")
            lab.agent.exchange(field(5, field(1, "unknown-uid")))
            check(lab.agent.snapshot() == "")
            zt.wait_ready()
            c.sendall(b"3")
            check(c.recv(2) == b"33", "kept")
        lab.agent.conn.close()
        lab.agent.accept()
        check(lab.agent.keep(b) == "" and lab.agent.delete(a) == "")
        check(zt.metric("workload_manager_active_proxy_count") == 2, "until the snapshot")
        check(lab.agent.snapshot() == "")
        check(zt.metric("workload_manager_active_proxy_count") == 1, "a was not named")
    finally:
        lab.close()


def custody_survives_kill():
    """SIGKILL: connections made while nobody serves wait in the kernel and then succeed."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        check(works(a, b.ip), "echo")
        zt.signal(signal.SIGKILL)
        zt.wait()
        waiting = []
        for _ in range(20):
            c = a.net.connect((b.ip, 8080), timeout=5)
            c.sendall(HELLO)
            waiting.append(c)
        zt = lab.start()
        for c in waiting:
            c.settimeout(15)
            got = b""
            while len(got) < 22:
                d = c.recv(100)
                check(d, "a waiting connection was lost")
                got += d
            c.close()
        check(works(a, b.ip), "echo")
    finally:
        lab.close()


def death_is_a_reset():
    """SIGKILL in the middle of an upload: neither end may take what it has for the whole."""
    lab = fresh(2)
    try:
        a, b, c = lab.pod("a", 2), lab.pod("b", 3), lab.pod("c", 4, captured=False)
        lab.state()
        zt = lab.start()
        ends = []
        for src, dst in ((a, b), (a, c), (c, b)):
            lst = dst.net.socket()
            lst.bind(("0.0.0.0", 9100 + len(ends)))
            lst.listen(4)
            lst.settimeout(15)
            client = src.net.connect((dst.ip, 9100 + len(ends)), timeout=15)
            server, _ = lst.accept()
            server.settimeout(15)
            client.sendall(b"half of it")
            check(server.recv(100) == b"half of it", "data")
            ends += [client, server]
            lst.close()
        zt.signal(signal.SIGKILL)
        zt.wait()
        for i, s in enumerate(ends):
            try:
                got = s.recv(100)
            except ConnectionResetError:
                continue
            finally:
                s.close()
            check(False, "socket", i, "ended in an orderly way:", got)
    finally:
        lab.close()


def held_sockets_are_offered():
    """An agent that lost its duplicates gets them back, and its add changes nothing."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        with a.net.connect((b.ip, 8080)) as c:
            c.sendall(b"1")
            check(c.recv(2) == b"11")
            for p in (a, b):
                for x in p.custody:
                    x.close()
                p.custody = []
            lab.agent.conn.close()
            lab.agent.accept()
            check(sorted(h[0] for h in lab.agent.held) == sorted([a.uid, b.uid]), lab.agent.held)
            for uid, ports, fds in lab.agent.held:
                check(len(fds) == 4, fds)
                pod = a if uid == a.uid else b
                check(os.fstat(fds[0]).st_ino == os.stat(pod.net.path).st_ino, "namespace")
                pod.custody = [socket.socket(fileno=f) for f in fds[1:]]
                check([x.getsockname()[1] for x in pod.custody] == list(PORTS), "ports")
                os.close(fds[0])
            check(lab.agent.add(a) == "" and lab.agent.add(b) == "" and lab.agent.snapshot() == "")
            c.sendall(b"2")
            check(c.recv(2) == b"22", "undisturbed")
        check(works(a, b.ip), "echo")
        check(zt.stop() == 0)
        with a.net.connect((b.ip, 8080), timeout=5):
            pass  # the agent's duplicates keep listening
    finally:
        lab.close()


def stock_agent_and_our_hello():
    """A stock agent takes any packet for an answer: it must never get an offer of sockets."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(serve=False)
        lab.agent.version = 1  # says hello 2, is served as stock does
        lab.agent.serve([a, b])
        check(lab.agent.peer_version == 2)
        zt.wait_ready()
        check(works(a, b.ip))
        for _ in range(2):
            lab.agent.serve([a, b])
            check(not lab.agent.held, "offered to a stock agent")
        lab.agent.version = 2
        lab.agent.serve([a, b])
        check(works(a, b.ip), "with our agent's sockets")
        lab.agent.accept()
        check(len(lab.agent.held) == 2, "offered to ours")
        for _, _, fds in lab.agent.held:
            for fd in fds:
                os.close(fd)
        lab.agent.version = 1  # a downgrade: the next one is a stock agent
        check(lab.agent.add(a) is None, "the first add tells")
        lab.agent.serve([a, b])
        check(not lab.agent.held)
        wait_for("readiness", zt.ready)
        check(works(a, b.ip) and zt.stop() == 0)
    finally:
        lab.close()


def same_uid_new_namespace():
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        again = lab.pod("b2", 6)
        again.uid, again.name, again.sa = b.uid, "b", "b"
        again.serve(8080, double_echo)
        check(lab.agent.add(again) == "")
        lab.reload(zt, workloads=[a.workload(), again.workload()])
        check(works(a, again.ip), "the new sandbox is served")
        check(zt.metric("workload_manager_active_proxy_count") == 2)
        again.name = "b2"
    finally:
        lab.close()


# --- operator's surfaces -------------------------------------------------------------------------

def another_service_account():
    """The agent says that a pod we serve has another one: its identity follows."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        c = lab.pod("c", 4, captured=False)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        check(works(a, b.ip), "echo")
        zt.wait_line("connection complete", "ns/default/sa/a", 'direction="inbound"')
        peer = hb.Client(lab, c, a.ip, lab.root().issue(lab, [b.identity]))
        a.sa = "other"
        lab.reload(zt)
        lab.agent.add(a)
        start, closed = time.monotonic(), hb.h2.connection.ConnectionState.CLOSED
        while peer.h2.state_machine.state != closed and peer.pump():
            pass  # who checked the old one is told to go
        check(time.monotonic() - start < 8, "the old session stayed")
        check(works(a, b.ip), "echo")
        zt.wait_line("connection complete", "ns/default/sa/other", 'direction="inbound"')
    finally:
        lab.close()


def config_dump_shape():
    s = site()
    with s.a.net.connect((s.b.ip, 8080)) as c:
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        s.lab.reload(s.zt, services=[dict(name="svc", namespace="default", hostname="svc.example",
                                          vips=["/10.9.9.9"], ports={80: 8080})],
                     workloads=[p.workload(services={"default/svc.example": {80: 8080}}
                                           if p is not s.a else {}) for p in s.lab.pods],
                     policies=[policy("p", "Deny", dict(principals=[exact("td/ns/x/sa/y")]))])
        d = s.zt.dump()
        for key in ("certificates", "config", "policies", "services", "version", "workloadState",
                    "workloads"):
            check(key in d, key)
        w = {x["name"]: x for x in d["workloads"]}["b"]
        check(w["protocol"] == "HBONE" and w["workloadIps"] == [s.b.ip] and w["status"] == "Healthy", w)
        svc = d["services"][0]
        check(svc["vips"] == ["/10.9.9.9"] and svc["ports"] == {"80": 8080} and
              len(svc["endpoints"]) == 2, svc)
        check(d["policies"][0]["rules"] == [[[{"principals": [{"Exact": "td/ns/x/sa/y"}]}]]], d["policies"])
        certs = {x["identity"]: x for x in d["certificates"]}
        check(certs[s.a.identity]["state"] == "Available", certs)
        leaf = certs[s.a.identity]["certChain"][0]
        check(leaf["serialNumber"].isdigit() and leaf["expirationTime"].endswith("Z"), leaf)
        st = d["workloadState"][s.a.uid]
        check(st["info"]["name"] == "a" and st["info"]["serviceAccount"] == "a", st)
        conn = st["connections"]["outbound"][0]
        check(conn["originalDst"] == "%s:8080" % s.b.ip and conn["actualDst"] == "%s:15008" % s.b.ip
              and conn["protocol"] == "HBONE", conn)
        # the dump is the control thread's; a busy machine lets a worker see the state a moment later
        wait_for("the service address", lambda: works(s.a, "10.9.9.9", 80))
        s.zt.wait_line('dst.service="svc.example"', 'direction="outbound"')
        for pod in s.b, s.c:  # both endpoints are chosen, one by tunnel, one in plaintext
            wait_for(pod.name, lambda: works(s.a, "10.9.9.9", 80) and s.zt.lines(
                'dst.service="svc.example"', 'dst.workload="%s"' % pod.name))
    s.lab.reload(s.zt)


def admin_endpoints():
    s = site()
    get = s.zt.http
    check(get(15000, "/")[0] == 200 and get(15000, "/nope")[0] == 404)
    check(get(15000, "/logging")[0] == 405)
    check(get(15000, "/logging", "POST")[1] == "current log level is info\n")
    check(get(15000, "/logging?level=debug", "POST")[1] == "current log level is info,debug\n")
    check(get(15000, "/logging?level=access%3Doff", "POST")[1].endswith("access=off\n"))

    def settled():
        """How many lines there are, once those of earlier connections are written."""
        n = len(s.zt.lines("connection complete"))
        time.sleep(0.2)
        return n if n == len(s.zt.lines("connection complete")) else 0
    lines = wait_for("the log to be quiet", settled)
    check(works(s.a, s.b.ip))
    code, text = get(15000, "/logging?level=nonsense", "POST")
    check(code == 400 and text.startswith("Invalid level provided: nonsense"), text)
    check(len(s.zt.lines("connection complete")) == lines, "access=off")
    check(get(15000, "/logging?reset", "POST")[1] == "current log level is info\n")
    check(get(15000, "/quitquitquit")[0] == 405)
    check(get(15021, "/healthz/ready") == (200, "ready\n"))
    check(get(15021, "/healthz/ready", "POST")[0] == 405 and get(15021, "/x")[0] == 404)
    c = socket.socket(socket.AF_UNIX)
    c.connect(os.path.join(s.lab.dir, "admin.sock"))
    c.sendall(b"GET /config_dump HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    check(c.recv(15) == b"HTTP/1.1 200 OK", "unix socket")
    c.close()
    check(os.stat(os.path.join(s.lab.dir, "admin.sock")).st_mode & 0o777 == 0o600, "mode")
    try:
        s.a.net.connect((s.lab.gateway, 15000), timeout=3).close()
        # captured: the connect itself succeeds at ztunnel; nothing may answer behind it
        check(echo_once(s.a, s.lab.gateway, 15000) == b"", "admin is reachable from a pod")
    except OSError:
        pass


def isolation():
    s = site()
    with open("/proc/%d/status" % s.zt.pid) as f:
        st = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    want = 1 << 12 | 1 << 21 | 1 << 13
    for key in ("CapEff", "CapPrm"):
        check(int(st[key], 16) == want, key, st[key])
    for key in ("CapBnd", "CapInh", "CapAmb"):
        check(int(st[key], 16) == 0, key, st[key])
    check(st["NoNewPrivs"].strip() == "1")
    soft, hard = re.search(r"Max open files +(\d+) +(\d+)",
                           open("/proc/%d/limits" % s.zt.pid).read()).groups()
    check(soft == hard, "open files", soft, hard)
    if "release" in ARGS.bin:
        check(st["Seccomp"].strip() == "2", "seccomp", st["Seccomp"])


def certificates_are_renewed():
    lab = Lab(ARGS.bin, 2, dict(SECRET_TTL="3s"))
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()

        def serial():
            return {c["identity"]: c["certChain"][0]["serialNumber"]
                    for c in zt.dump()["certificates"]}
        first = serial()
        with a.net.connect((b.ip, 8080)) as c:
            c.sendall(b"1")
            check(c.recv(2) == b"11")
            wait_for("two renewals", lambda: len(zt.lines("certificate renewed")) >= 4, 20)
            check(all(serial()[k] != v for k, v in first.items()), "serial numbers")
            c.sendall(b"2")
            check(c.recv(2) == b"22", "an established connection stays")
            check(works(a, b.ip), "new connections use the new one")
        check(zt.stop() == 0)
    finally:
        lab.close()


def graceful_drain():
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="20s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        zt.signal(signal.SIGTERM)
        zt.wait_line("shutting down")
        c.sendall(b"2")
        check(c.recv(2) == b"22", "established connections continue")
        check(zt.proc.poll() is None)
        c.close()
        check(zt.wait(10) == 0, "ends when the last connection does")
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="1s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        zt.signal(signal.SIGINT)
        check(zt.wait(10) == 0, "the limit cuts")
        c.close()
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="60s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        check(zt.http(15000, "/quitquitquit", "POST") == (200, "shutdown now\n"))
        zt.wait_line("reason=quitquitquit")
        zt.signal(signal.SIGINT)
        check(zt.wait(5) == 0, "an interrupt while draining ends at once")
        c.close()
    finally:
        lab.close()


def drain_finishes_what_has_begun():
    """SIGTERM in the middle of handshakes: whoever has connected is still served."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        c = lab.pod("c", 4, captured=False)
        lab.state(workloads=[a.workload(), b.workload(), c.workload(protocol="HBONE")])
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="20s")
        root, gate = lab.root(), threading.Event()
        server = hb.hbone_server(lab, root.issue(lab, [c.identity]))

        def late(sock, peer):
            gate.wait(15)
            server(sock, peer)

        srv = c.serve(15008, late)
        client = tls_context(lab, root.issue(lab, [a.identity], tag="a"))
        silent = c.net.connect((b.ip, 15008))  # does not hold the end up
        shaking = c.net.connect((b.ip, 15008))
        out = a.net.connect((c.ip, 8080))
        out.sendall(HELLO)
        wait_for("our own way out", lambda: srv.peers)
        zt.signal(signal.SIGTERM)
        zt.wait_line("shutting down")
        with client.wrap_socket(shaking) as t:
            check(t.version() == "TLSv1.3", "handshake")
        gate.set()
        got = out.recv(100)
        check(got == HELLO, "the connection was cut:", got)
        out.close()
        check(zt.wait(10) == 0, "ends")
        silent.close()
    finally:
        lab.close()


def dump_while_leaving():
    """Answers of the workers that arrive when they are gone already."""
    lab = fresh(2)
    try:
        lab.pod("a", 2)
        lab.state()
        for _ in range(2):
            zt = lab.start()

            def ask():
                conns = [socket.create_connection(("127.0.0.1", 15000)) for _ in range(30)]
                for i, c in enumerate(conns):
                    what = "GET /config_dump" if i else "POST /quitquitquit"
                    c.sendall((what + " HTTP/1.1\r\nHost: x\r\n\r\n").encode())
                return conns

            conns = lab.node.call(ask)
            code = zt.wait()
            check(code == 0, "status", code, zt.log()[-3000:])
            for c in conns:
                c.close()
    finally:
        lab.close()


def start_errors():
    lab = fresh(2)
    rows = [
        (dict(XDS_ADDRESS="https://istiod:15012"), "invalid env var XDS_ADDRESS=https://istiod:15012"),
        (dict(CA_ADDRESS="https://istiod:15012"), "invalid env var CA_ADDRESS"),
        (dict(PACKET_MARK="x"), "invalid env var PACKET_MARK=x ("),
        (dict(ENABLE_ORIG_SRC="yes"), "invalid env var ENABLE_ORIG_SRC=yes (expected true or false)"),
        (dict(SECRET_TTL="soon"), "invalid env var SECRET_TTL=soon ("),
        (dict(ZTUNNEL_WORKER_THREADS="101%"), "invalid env var ZTUNNEL_WORKER_THREADS=101%"),
        (dict(LOCAL_XDS="{}"), "invalid env var LOCAL_XDS="),
        (dict(LOCAL_XDS_PATH=""), "invalid env var LOCAL_XDS_PATH="),
        (dict(RUST_LOG="loud"), "invalid env var RUST_LOG=loud"),
        (dict(INPOD_ZDS_VERSION="3"), "invalid env var INPOD_ZDS_VERSION=3"),
    ]
    try:
        for env, want in rows:
            zt = lab.start(serve=False, **env)
            check(zt.wait(10) == 1, env, "exit status")
            check(want in zt.log(), want, "is not in", zt.log())
        busy = lab.node.socket()
        busy.bind(("127.0.0.1", 15000))
        busy.listen(1)
        zt = lab.start(serve=False)
        check(zt.wait(10) == 1 and "port 15000" in zt.log(), zt.log())
        busy.close()
        out = subprocess.run([lab.bin, "version"], capture_output=True, text=True)
        check(out.returncode == 0 and out.stdout.startswith("version.BuildInfo{Version:"))
        check(subprocess.run([lab.bin, "--help"], capture_output=True).returncode == 0)
        bad = subprocess.run([lab.bin, "nonsense"], capture_output=True, text=True)
        check(bad.returncode == 1 and "usage" in bad.stderr)
    finally:
        lab.close()


def state_file_comes_late():
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        zt = lab.start(serve=False)
        zt.wait_line("error", "state", "No such file")
        wait_for("the readiness server", lambda: zt.http(15021, "/healthz/ready"))
        check("state manager" in zt.http(15021, "/healthz/ready")[1])
        lab.state()
        lab.agent.serve([a, b])
        zt.wait_ready()
        check(works(a, b.ip))
        check(zt.stop() == 0)
    finally:
        lab.close()


def ipv6_path():
    """Dual-stack pods: IPv6 end to end, with the client's address, in both modes and with policy."""
    if not os.path.exists("/proc/sys/net/ipv6"):
        raise Skip("the kernel has no IPv6")
    lab = Lab(ARGS.bin, 1, ipv6=True)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        c = lab.pod("c", 4, captured=False)
        b.serve(8080, double_echo, ipv6=True)
        b.serve(8080, double_echo)

        def loads():
            return [p.workload(workloadIps=[p.ip, p.ip6],
                               services={"default/svc.example": {80: 8080}} if p is b else {})
                    for p in lab.pods]
        svc = dict(name="svc", namespace="default", hostname="svc.example", ports={80: 8080},
                   vips=["/fd99::1", "/10.99.0.1"])
        lab.state(loads(), [svc])
        zt = lab.start()
        check(works(a, b.ip6) and works(a, b.ip), "both families")
        check(b.servers[0].peers[-1][0] == a.ip6, "source address", b.servers[0].peers[-1])
        zt.wait_line("connection complete", "dst.addr=[fd77::3]:15008",
                     "dst.hbone_addr=[fd77::3]:8080", "src.addr=[fd77::2]:")
        check(works(a, "fd99::1", 80), "service by its IPv6 address")
        check(b.servers[0].peers[-1][0] == a.ip6, "the family follows the client")
        check(works(c, b.ip6), "plaintext from outside")
        check(b.servers[0].peers[-1][0] == c.ip6, "source address")
        lab.reload(zt, loads(), policies=[policy("p", "Deny", dict(sourceIps=["fd77::/64"]))])
        check(refused(a, b.ip6) and refused(c, b.ip6) and works(a, b.ip), "policy by IPv6 network")
        check(zt.stop() == 0)
    finally:
        lab.close()


def ends_cleanly():
    """The shared site's own end: status 0, which includes what leak checkers find."""
    s = site()
    code = s.zt.stop()
    check(code == 0, "status", code, s.zt.log()[-3000:])


TESTS = [
    http_through_hbone, metrics_and_access_log, openmetrics_is_well_formed, uncaptured_server,
    uncaptured_client, calls_to_our_own_ports, call_to_our_own_port_by_an_unlisted_address,
    mutual_tls_by_policy, plaintext_by_policy,
    policy_named_but_unknown_denies, policy_change_cuts_established, reload_drops_nothing,
    bad_state_keeps_the_last_good, half_a_state_is_not_read, state_through_swapped_symlinks,
    connection_waits_for_its_workload, peers_without_the_right_certificate, impostor_gets_nothing,
    plaintext_to_15008, connect_to_other_addresses, rapid_reset, made_you_reset,
    continuation_flood, header_bomb, settings_flood, ping_flood, zero_window_stall,
    slow_handshakes_are_bounded, handshake_flood_of_one_pod, config_dump_shape, admin_endpoints, isolation, ends_cleanly,
    v1_exchange, zds_bad_packets, snapshot_semantics, custody_survives_kill, death_is_a_reset,
    held_sockets_are_offered, stock_agent_and_our_hello,
    same_uid_new_namespace, another_service_account, ipv6_path, certificates_are_renewed,
    graceful_drain,
    drain_finishes_what_has_begun, dump_while_leaving,
    start_errors, state_file_comes_late,
]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    p.add_argument("--only", help="regular expression of test names")
    p.parse_args(namespace=ARGS)
    tests = [(f.__name__.replace("_", " "), f) for f in TESTS
             if not ARGS.only or re.search(ARGS.only, f.__name__)]
    try:
        return tap(tests)
    finally:
        if SITE is not None:
            SITE.close()


if __name__ == "__main__":
    sys.exit(main())
