#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ztunnel between pods of its own: the path, policy, state, and the operator's surfaces."""
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hbone_peer as hb  # noqa: E402
from ztlab import Lab, Skip, Tagged, Wire, PORTS, double_echo, exact, policy, tls_context, wait_for  # noqa: E402
from ztsite import ARGS, HELLO, site, echo_once, works, refused, check, fresh, ends_cleanly, main  # noqa: E402


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
        s.zt.wait_line("error", "state", "protocl", "the last good state stays in use")
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
    t.join(20)
    check(result == [HELLO + HELLO], result)


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
        # the other worker may hear of it a moment later
        wait_for("the new identity", lambda: works(a, b.ip) and zt.lines(
            "connection complete", "ns/default/sa/other", 'direction="inbound"'))
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
        conn = d["workloadState"][s.b.uid]["connections"]["inbound"][0]
        check(conn["src"].startswith(s.a.ip + ":") and conn["actualDst"] == "%s:8080" % s.b.ip
              and conn["protocol"] == "HBONE", conn)
        check(works(s.a, "10.9.9.9", 80), "the service address")
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
    check(get(15000, "/logging?level=debug", "POST")[1] == "current log level is debug\n")
    check(get(15000, "/logging?level=access%3Doff", "POST")[1].endswith("access=off\n"))

    def settled():
        """How many lines there are, once those of earlier connections are written."""
        n = len(s.zt.lines("connection complete"))
        time.sleep(0.5)
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
    lab = Lab(ARGS.bin, 2, dict(SECRET_TTL="6s"))
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
            wait_for("two renewals", lambda: len(zt.lines("certificate renewed")) >= 4, 40)
            wait_for("other serial numbers", lambda: all(serial()[k] != v for k, v in first.items()))
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
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="60s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        zt.signal(signal.SIGTERM)
        zt.wait_line("shutting down")
        c.sendall(b"2")
        check(c.recv(2) == b"22", "established connections continue")
        check(zt.proc.poll() is None)
        c.close()
        check(zt.wait(30) == 0, "ends when the last connection does")
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="1s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        zt.signal(signal.SIGINT)
        check(zt.wait(30) == 0, "the limit cuts")
        c.close()
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="60s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        check(zt.http(15000, "/quitquitquit", "POST") == (200, "shutdown now\n"))
        zt.wait_line("reason=quitquitquit")
        zt.signal(signal.SIGINT)
        check(zt.wait(15) == 0, "an interrupt while draining ends at once")
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
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="60s")
        root, gate = lab.root(), threading.Event()
        server = hb.hbone_server(lab, root.issue(lab, [c.identity]))

        def late(sock, peer):
            gate.wait(60)
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
        check(zt.wait(30) == 0, "ends")
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
        (dict(CA_ADDRESS="http://istiod:15012"), "invalid env var CA_ADDRESS"),
        (dict(PACKET_MARK="x"), "invalid env var PACKET_MARK=x ("),
        (dict(ENABLE_ORIG_SRC="yes"), "invalid env var ENABLE_ORIG_SRC=yes (expected true or false)"),
        (dict(SECRET_TTL="soon"), "invalid env var SECRET_TTL=soon ("),
        (dict(ZTUNNEL_WORKER_THREADS="101%"), "invalid env var ZTUNNEL_WORKER_THREADS=101%"),
        (dict(LOCAL_XDS="{}"), "invalid env var LOCAL_XDS="),
        (dict(LOCAL_XDS_PATH=""), "invalid env var XDS_ADDRESS="),
        (dict(RUST_LOG="loud"), "invalid env var RUST_LOG=loud"),
        (dict(INPOD_ZDS_VERSION="4"), "invalid env var INPOD_ZDS_VERSION=4"),
    ]
    try:
        for env, want in rows:
            zt = lab.start(serve=False, **env)
            check(zt.wait(30) == 1, env, "exit status")
            check(want in zt.log(), want, "is not in", zt.log())
        busy = lab.node.socket()
        busy.bind(("127.0.0.1", 15000))
        busy.listen(1)
        zt = lab.start(serve=False)
        check(zt.wait(30) == 1 and "port 15000" in zt.log(), zt.log())
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


TESTS = [
    http_through_hbone, metrics_and_access_log, openmetrics_is_well_formed, uncaptured_server,
    uncaptured_client, calls_to_our_own_ports, call_to_our_own_port_by_an_unlisted_address,
    mutual_tls_by_policy, plaintext_by_policy, policy_named_but_unknown_denies,
    policy_change_cuts_established, reload_drops_nothing, bad_state_keeps_the_last_good,
    half_a_state_is_not_read, state_through_swapped_symlinks, connection_waits_for_its_workload,
    config_dump_shape, admin_endpoints, isolation, ends_cleanly, another_service_account,
    ipv6_path, certificates_are_renewed, graceful_drain, drain_finishes_what_has_begun,
    dump_while_leaving, start_errors, state_file_comes_late,
]


if __name__ == "__main__":
    sys.exit(main(TESTS))
