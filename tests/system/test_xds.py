#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""the mesh state from an istiod that does what a script says: subscription, changes, refusals, faults, reconnects."""
import os
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_istiod import ADDRESS, POLICY  # noqa: E402
from istiod_site import Site  # noqa: E402
from ztlab import double_echo, wait_for  # noqa: E402
from ztsite import check, main, refused  # noqa: E402

DENY, ALLOW = 1, 0


def subscribes():
    """Who we say we are, what we ask for, in which order; the state is used; both types are acknowledged."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        first, second = s.istiod.requests[:2]
        check(first.type_url == ADDRESS.encode() and second.type_url == POLICY.encode(), "order")
        for r in (first, second):
            check(r.node.id == b"ztunnel~10.1.2.3~ztunnel-x.istio-system~istio-system.svc.cluster.local", r)
            check(not r.subscribe and not r.unsubscribe and not r.initial_resource_versions, r)
            meta = {f.key.decode(): f.value for f in r.node.metadata.fields}
            for k, v in dict(NAME="ztunnel-x", NAMESPACE="istio-system", INSTANCE_IPS="10.1.2.3", NODE_NAME="node1",
                             CLUSTER_ID="c1").items():
                check(meta[k].string_value == v.encode(), k, meta[k])
            labels = meta["LABELS"].struct_value.fields[0]
            check(labels.key == b"a", labels)
            v = labels.value.list_value.values
            check(v[0].string_value == b"b" and v[1].number_value == 1 and v[2].bool_value
                  and v[3].WhichOneof("kind") == "null_value", v)
        h = s.istiod.headers
        check(h["authorization"] == "Bearer token-1" and h["clusterid"] == "c1" and h["x_tenant"] == "blue", h)
        wait_for("both to be acknowledged",
                 lambda: len([r for r in s.istiod.requests if r.response_nonce and not r.error_detail.message]) >= 2)
        check(s.zt.metric("istio_xds_message_total", url=ADDRESS) == 1)
        check(s.zt.metric("istio_xds_message_bytes_total", url=ADDRESS) > 50)
        check(s.zt.metric("ambient_xds_connected") == 1)
        check("localState" in s.zt.dump() and s.zt.dump()["localState"]["error"] == "", s.zt.dump()["localState"])
        s.end()
    finally:
        s.close()


def changes():
    """Policies and workloads come, change and go."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8080])
        check(s.istiod.push(POLICY, ["default/no"]) == "")
        wait_for("the denial", s.refused)
        s.istiod.put_policy("no", "default", DENY, destination_ports=[9999])
        check(s.istiod.push(POLICY, ["default/no"]) == "")
        wait_for("the change", s.works)
        check(s.istiod.push(POLICY, removed=["default/no", "default/never-there"]) == "")
        check(s.istiod.push(ADDRESS, removed=[s.uid_b]) == "")
        wait_for("the removal in the dump", lambda: "//Pod/default/b" not in str(s.zt.dump()["workloads"]))
        s.istiod.put_workload(s.b)
        check(s.istiod.push(ADDRESS, [s.uid_b]) == "")
        wait_for("traffic again", s.works)
        # a policy that a workload names and that is not there denies
        s.istiod.put_workload(s.b, authorization_policies=[b"default/later"])
        check(s.istiod.push(ADDRESS, [s.uid_b]) == "")
        wait_for("denied while the policy is missing", s.refused)
        s.istiod.put_policy("later", "default", ALLOW, scope=2, destination_ports=[8080])
        check(s.istiod.push(POLICY, ["default/later"]) == "")
        wait_for("allowed by it", s.works)
        s.end()
    finally:
        s.close()


def decisions_are_logged():
    """With AUTHZ_POLICY_INFO_LOGGING each decision is a line, and what dry-run policies would have done; without it
    they are debug."""
    s = Site(AUTHZ_POLICY_INFO_LOGGING="true")
    try:
        wait_for("traffic", s.works)
        who = ('src.workload="a"', 'src.identity="%s"' % s.a.identity, "dst.addr=%s:8080" % s.b.ip, 'dst.workload="b"')
        s.zt.wait_line("\tinfo\tstate\tno allow policies, allow", *who)
        s.istiod.put_policy("would", "default", DENY, dry_run=1, destination_ports=[8080])
        s.istiod.put_policy("not-this", "default", DENY, dry_run=1, destination_ports=[9])
        check(s.istiod.push(POLICY, ["default/would", "default/not-this"]) == "")

        def said(*what):
            check(s.works(), "dry-run changes nothing")
            return s.zt.lines(*what)
        wait_for("a dry-run decision", lambda: said("\tdry-run: deny policy match\t", 'policy="default/would"', *who))
        check(not s.zt.lines("not-this"))
        s.istiod.put_policy("let", "default", ALLOW, destination_ports=[8080])
        check(s.istiod.push(POLICY, ["default/let"]) == "")
        wait_for("the policy that lets in", lambda: said("\tallow policy match\t", 'policy="default/let"', *who))
        s.istiod.put_policy("let", "default", ALLOW, destination_ports=[9])
        check(s.istiod.push(POLICY, ["default/let"]) == "")
        wait_for("the denial", s.refused)
        s.zt.wait_line("\tno allow policies matched\t", *who)
        check(s.zt.http(15000, "/logging?level=info,state=off", "POST")[0] == 200)

        def quiet():
            before = len(s.zt.lines("no allow policies matched")), len(s.zt.lines("but none allowed"))
            check(s.refused())
            wait_for("the access log", lambda: len(s.zt.lines("but none allowed")) > before[1])
            return len(s.zt.lines("no allow policies matched")) == before[0]
        wait_for("no more of these lines", quiet)
        s.end()
    finally:
        s.close()


def bad_resources():
    """Each bad resource is refused by name, the good ones of the same response take effect, old versions stay."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        wl, sec = s.istiod.pb["workload"], s.istiod.pb["authorization"]
        addr = wl.Address
        s.istiod.put(ADDRESS, s.uid_b, addr(workload=s.istiod.workload(s.b, status=9)))
        s.istiod.put(ADDRESS, "one", addr(workload=wl.Workload(uid=b"other", namespace=b"n")))
        s.istiod.put(ADDRESS, "two", b"\xff\xff garbage")
        s.istiod.put(ADDRESS, "three", addr())
        s.istiod.put(ADDRESS, "four", addr(workload=wl.Workload(uid=b"four", namespace=b"n", addresses=[b"12345"])))
        s.istiod.put(ADDRESS, "five", addr(workload=wl.Workload(uid=b"five", namespace=b"a\0b")))
        s.istiod.put(ADDRESS, "six", addr(workload=wl.Workload(uid=b"six", namespace=b"n", tunnel_protocol=2)))
        s.istiod.put(ADDRESS, "n/h", addr(service=wl.Service(name=b"h", namespace=b"n", hostname=b"other")))
        s.istiod.put(ADDRESS, "good", addr(workload=wl.Workload(uid=b"good", namespace=b"n")))
        # a field that nobody knows yet does no harm
        s.istiod.put(ADDRESS, "newer", addr(workload=wl.Workload(uid=b"newer", namespace=b"n")).SerializeToString()
                     + b"\xfa\x3f\x03abc")
        names = [s.uid_b, "one", "two", "three", "four", "five", "six", "n/h", "good", "newer"]
        said = s.istiod.push(ADDRESS, names)
        for want in (s.uid_b + ": status: unknown value 9", "one: the resource is named differently than its uid other",
                     "two: not an istio.workload.Address", "three: neither a workload nor a service",
                     "four: addresses: an address of 5 bytes", "five: namespace: ", "six: tunnel_protocol: LEGACY",
                     "n/h: the resource is named differently"):
            check(want in said, want, said)
        check("good" not in said and "newer" not in said, said)
        wait_for("the good ones", lambda: {"good", "newer"} <= {w["uid"] for w in s.zt.dump()["workloads"]})
        check(s.works(), "the old version stays in use")
        check("four: addresses" in s.zt.dump()["localState"]["error"], s.zt.dump()["localState"])
        s.zt.wait_line("8 of 10 resources are refused", "four: addresses")
        check(s.zt.metric("ambient_xds_refused_total") == 8)
        s.istiod.put(POLICY, "default/p", sec.Authorization(name=b"p", namespace=b"default", scope=7))
        s.istiod.put(POLICY, "default/q", sec.Authorization(name=b"q", namespace=b"default", scope=1, action=5))
        m = sec.Authorization(name=b"r", namespace=b"default", scope=1, action=1)
        m.groups.add().rules.add().matches.add().source_ips.add(address=b"123", length=8)
        s.istiod.put(POLICY, "default/r", m)
        said = s.istiod.push(POLICY, ["default/p", "default/q", "default/r"])
        for want in ("default/p: scope: unknown value 7", "default/q: action: unknown value 5", "default/r: source_ips: "):
            check(want in said, want, said)
        s.end()
    finally:
        s.close()


def reconnects():
    """istiod goes and comes back: traffic goes on, we tell what we hold, and get what changed meanwhile."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        version = s.istiod.resources[ADDRESS][s.uid_a][0]
        s.istiod.down()
        s.zt.wait_line("no stream from istiod, the last state stays in use")
        wait_for("the gauge", lambda: s.zt.metric("ambient_xds_connected") == 0)
        wait_for("the state's error", lambda: "no stream from istiod for" in s.zt.dump()["localState"]["error"])
        check(s.works(), "without istiod")
        with open(s.istiod.token_path, "w") as f:
            f.write("token-2\n")
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8080])
        del s.istiod.resources[ADDRESS][s.uid_a]
        s.istiod.requests.clear()
        s.istiod.up()
        wait_for("the new policy", s.refused, 40)
        first = s.istiod.requests[0]
        have = {v.key.decode(): v.value.decode() for v in first.initial_resource_versions}
        check(have.get(s.uid_a) == version and s.uid_b in have, have)
        check(s.istiod.headers["authorization"] == "Bearer token-2", s.istiod.headers)
        wait_for("the removal", lambda: "//Pod/default/a" not in str(s.zt.dump()["workloads"]))
        check(s.zt.metric("istio_xds_connection_terminations_total") >= 1)
        s.end()
    finally:
        s.close()


def not_before_it_is_complete():
    """Readiness and the agent wait for both types, and for a first response without refusals."""
    s = Site(serve=False, prepare=lambda s: s.istiod.put_policy("bad", "default", 9))
    try:
        s.zt.wait_line("are refused", "default/bad: action: unknown value 9")
        check(not s.zt.ready(), "not ready")
        check("state manager" in s.zt.http(15021, "/healthz/ready")[1])
        s.istiod.put_policy("bad", "default", DENY)
        check(s.istiod.push(POLICY, ["default/bad"]) == "")
        s.lab.agent.serve([s.a])
        s.zt.wait_ready()
        s.zt.wait_line("the state is complete")
        s.end()
    finally:
        s.close()


def _faults(rows):
    """One stream after the other goes wrong: state and policies stay, the log says why, it is counted, nothing is left
    of it, and the one after the last is good. @rows: words of the log, reason of the metric, what istiod does."""
    def prepare(s):
        s.b.serve(8081, double_echo)
        s.istiod.put_policy("not-8081", "default", DENY, destination_ports=[8081])
    s = Site(prepare=prepare)
    try:
        wait_for("traffic", s.works)
        wait_for("the policy", lambda: refused(s.a, s.b.ip, 8081))
        left = [row[2] for row in rows]

        def wrong(stream):
            if not left:
                return False
            stream.recv()
            left.pop(0)(stream)
            return True

        def ends(reason):
            return s.zt.metric("istio_xds_connection_terminations_total", reason=reason)
        before = {reason: ends(reason) for reason in {row[1] for row in rows}}
        s.istiod.on_open = wrong
        s.istiod.streams[0].conn.drop()
        for want, _, _ in rows:
            s.zt.wait_line("no stream from istiod, the last state stays in use", want, timeout=30)
            check(s.works() and refused(s.a, s.b.ip, 8081), want)
        wait_for("a good stream", lambda: s.istiod.streams, 40)
        for reason, n in before.items():
            want = [row[1] for row in rows].count(reason)
            check(ends(reason) - n >= want, reason, ends(reason), n, want)
        # one for the stream, and one for certificates that is given up when it was idle
        wait_for("no connection to be left", lambda: sum(c.alive for c in s.istiod.server.conns) <= 2)
        # a good message, then the end of everything: it counts
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8080])
        stream = s.istiod.streams[0]
        stream.send(s.istiod.response(POLICY, ["default/no"]))
        stream.conn.drop()
        wait_for("what came last", s.refused)
        s.end()
    finally:
        s.close()


def faults_in_messages():
    _faults([
        ("no protobuf message", "Error", lambda st: st.send(b"\x12\xff\xff\xff\xff\x0f")),
        ("a message of 4294967295 bytes, the limit is 209715200", "Error", lambda st: st.raw(b"\0" + b"\xff" * 4)),
        ("no protobuf message", "Error", lambda st: st.send(b"\x07" * 64)),
        ("compressed", "Error", lambda st: st.raw(b"\1\0\0\0\1x")),
        ("in the middle of a message", "Error", lambda st: (st.raw(b"\0\0\0\1\0abc"), st.end())),
        ("HTTP status 502", "Reconnect", lambda st: (st.begin("502", "text/html"), st.raw(b"<html>"), st.end())),
        ("is no gRPC", "Reconnect", lambda st: (st.begin("200", "text/html"), st.raw(b"<html>"), st.end())),
    ])


def faults_of_the_stream():
    _faults([
        ("istiod ended the stream", "Complete", lambda st: st.end()),
        ("UNAUTHENTICATED: who are you", "Error", lambda st: st.end(16, "who%20are%20you")),
        ("RESOURCE_EXHAUSTED", "Error", lambda st: st.end(8)),
        ("INTERNAL: boom", "Error", lambda st: st.end(13, "boom")),
        ("reset the stream", "Reconnect", lambda st: st.reset()),
        ("closed the connection", "Reconnect", lambda st: st.conn.drop()),
        ("HTTP/2 error 7", "Reconnect", lambda st: st.conn.goaway(0)),
    ])


def leaves_slowly():
    """A GOAWAY that lets the stream go on: it does, until it ends; then there is another one, on another connection."""
    with Site() as s:
        wait_for("traffic", s.works)
        stream = s.istiod.streams[0]
        stream.conn.announce()
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8080])
        check(s.istiod.push(POLICY, ["default/no"]) == "", "still answered")
        wait_for("the denial", s.refused)
        stream.conn.drop()
        wait_for("another stream", lambda: [x for x in s.istiod.streams if x is not stream], 40)
        check(s.istiod.push(POLICY, removed=["default/no"]) == "")
        wait_for("traffic again", s.works)
        s.end()


def in_pieces():
    """A message that comes byte by byte; a type that nobody asked for; duplicates: the last one counts."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        wl = s.istiod.pb["workload"]
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8080])
        data = s.istiod.response(POLICY, ["default/no"])
        raw = b"\0" + struct.pack(">I", len(data)) + data
        for i in range(len(raw)):
            s.istiod.streams[0].raw(raw[i:i + 1])
        check(s.istiod.answer_to(b"%d" % s.istiod.nonce) == "")
        wait_for("the denial", s.refused)
        s.istiod.resources["type.googleapis.com/other"] = {}
        check(s.istiod.push("type.googleapis.com/other") == "")
        s.zt.wait_line("a type that nobody asked for")
        s.istiod.put(ADDRESS, "x", wl.Address(workload=wl.Workload(uid=b"x", namespace=b"n", name=b"old")))
        one = s.istiod.response(ADDRESS, ["x"])
        s.istiod.put(ADDRESS, "x", wl.Address(workload=wl.Workload(uid=b"x", namespace=b"n", name=b"new")))
        s.istiod.streams[0].send(one + s.istiod.response(ADDRESS, ["x"]))
        check(s.istiod.answer_to(b"%d" % s.istiod.nonce) == "")
        wait_for("the last one", lambda: [w["name"] for w in s.zt.dump()["workloads"] if w["uid"] == "x"] == ["new"])
        s.end()
    finally:
        s.close()


def other_names_and_roots():
    """ALT_XDS_HOSTNAME; a server that is not trusted gets no token; new roots are seen at the next connection."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        wait_for("both answers", lambda: len([r for r in s.istiod.requests if r.response_nonce]) == 2)
        s.istiod.down()
        before = len(s.istiod.requests)
        s.istiod.up(names=("elsewhere",))
        s.zt.wait_line("ostname mismatch", timeout=30)
        check(len(s.istiod.requests) == before, "no request")
        s.end()
        zt = s.lab.start(serve=False, **dict(s.env, ALT_XDS_HOSTNAME="elsewhere", ALT_CA_HOSTNAME="elsewhere"))
        s.lab.agent.serve([s.a, s.b])
        zt.wait_ready()
        wait_for("traffic", s.works)
        s.zt = zt
        s.end()
    finally:
        s.close()


def many():
    """A push of 20,000 workloads: other work goes on meanwhile, and a small change is quick afterwards."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        wl = s.istiod.pb["workload"]
        names = []
        for i in range(20000):
            uid = "c1//Pod/many/p%d" % i
            s.istiod.put(ADDRESS, uid, wl.Address(workload=wl.Workload(
                uid=uid.encode(), name=b"p%d" % i, namespace=b"many", service_account=b"sa%d" % (i % 50), node=b"n%d" % (i % 200),
                addresses=[struct.pack(">I", 0x0b000000 + i)], tunnel_protocol=1, workload_name=b"w%d" % (i % 500),
                canonical_name=b"w%d" % (i % 500), canonical_revision=b"latest", cluster_id=b"c1")))
            names.append(uid)
        start = time.time()
        check(s.istiod.push(ADDRESS, names) == "")
        acked = time.time() - start
        wait_for("all of them", lambda: s.zt.lines("workloads=20002") or
                 len(s.zt.http(15000, "/config_dump")[1]) > 4000000, 60)
        print("# 20,000 workloads: acknowledged after %.2f s, ztunnel %d KiB" % (acked, s.zt.rss_kb()))
        check(s.works())
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8080])
        check(s.istiod.push(POLICY, ["default/no"]) == "")
        wait_for("the denial", s.refused)
        check(s.istiod.push(ADDRESS, removed=names) == "")
        wait_for("all gone", lambda: len(s.zt.dump()["workloads"]) == 2, 60)
        s.end()
    finally:
        s.close()


if __name__ == "__main__":
    sys.exit(main([subscribes, changes, decisions_are_logged, bad_resources, reconnects, not_before_it_is_complete, faults_in_messages,
                   faults_of_the_stream, leaves_slowly, in_pieces,
                   other_names_and_roots, many]))
