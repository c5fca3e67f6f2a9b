#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ztunnel's log: the fields of each kind of connection; when nobody reads it; when its levels are changed often."""
import fcntl
import os
import re
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ztlab import double_echo, policy, wait_for  # noqa: E402
from ztsite import check, echo_once, fresh, main, site, works  # noqa: E402

POSTS = 3000
VIP, HOST = "10.96.0.10", "web.default.svc.cluster.local"
DENIED, CLOSED = 8082, 8099

# ztunnel-spec 13.4: what each kind of connection has of the fields, which come in this order
FIELDS = ("src.addr src.workload src.namespace src.identity src.cluster dst.addr dst.hbone_addr dst.service dst.workload "
          "dst.namespace dst.identity dst.cluster direction bytes_sent bytes_recv duration error").split()
BARE = {"src.addr", "dst.addr", "dst.hbone_addr", "bytes_sent", "bytes_recv"}  # without quotes
TLS, SERVICE = {"src.identity", "dst.identity", "dst.hbone_addr"}, {"dst.service"}
ENDED = {"bytes_sent", "bytes_recv", "duration"}
KINDS = [  # from, to, port, and of the lines in both directions: fields that are not there
    ("a", VIP, 80, {"outbound": {"error"}, "inbound": {"error"}}),
    ("a", "b", 8080, {"outbound": SERVICE | {"error"}, "inbound": {"error"}}),
    ("a", "b", DENIED, {"outbound": SERVICE, "inbound": SERVICE}),
    ("a", "c", 8080, {"outbound": TLS | SERVICE | {"error"}}),
    ("c", "b", 8080, {"inbound": TLS | {"error"}}),
    ("c", "b", DENIED, {"inbound": TLS | SERVICE}),
    ("a", "b", CLOSED, {"outbound": SERVICE, "inbound": SERVICE}),
    ("a", "c", CLOSED, {"outbound": TLS | SERVICE}),
    ("c", "b", CLOSED, {"inbound": TLS | SERVICE}),
]
# ztunnel-spec 4.10, as a stock ztunnel was seen to write them (tests/interop/test_side_by_side.py)
REFUSED = "Connection refused (os error 111)"
ERRORS = {
    ("a", "b", DENIED, "outbound"): "http status: 401 Unauthorized",
    ("a", "b", CLOSED, "outbound"): "http status: 503 Service Unavailable",
    ("a", "b", CLOSED, "inbound"): "connection failed: " + REFUSED,
    ("a", "c", CLOSED, "outbound"): "io error: " + REFUSED,
    ("c", "b", CLOSED, "inbound"): "connection failed: " + REFUSED,
}


def fields_of(line):
    """[(key, value)] in their order; the value as it is written."""
    return re.findall(r'([a-z_.]+)=("(?:[^"\\]|\\.)*"|\S+)', line.split("\t", 4)[4])


def fields_of_each_kind():
    """As stock writes them: which, in which order, quoted or not; "connection opened" at debug has those known by then."""
    s = site()
    s.lab.reload(s.zt, [p.workload(services={"default/" + HOST: {80: 8080}} if p is s.b else {}) for p in s.lab.pods], [
        {"name": "web", "namespace": "default", "hostname": HOST, "vips": ["/" + VIP], "ports": {80: 8080}}], [
        policy("closed", "Deny", {"destinationPorts": [DENIED]})])
    check(works(s.a, s.b.ip), "before")
    for direction in ("outbound", "inbound"):
        s.zt.wait_line("connection complete", 'direction="%s"' % direction)
    check(not s.zt.lines("connection opened"), "not at info")
    check(s.zt.http(15000, "/logging?level=info,access=debug", "POST")[0] == 200)
    for who, to, port, directions in KINDS:
        before = len(s.zt.log())
        address = getattr(s, to).ip if hasattr(s, to) else to
        got = echo_once(getattr(s, who), address, port)
        check(bool(got) == (port not in (DENIED, CLOSED)), who, to, port, got)

        def line(message, direction):
            found = [x for x in s.zt.log()[before:].rpartition("\n")[0].splitlines()
                     if "\taccess\tconnection %s\t" % message in x and 'direction="%s"' % direction in x]
            check(len(found) < 2, "one line each", found)
            return found[0] if found else None
        for direction, absent in directions.items():
            for message, without in ("complete", set()), ("opened", ENDED | {"error"}):
                text = wait_for("the line %s %s %s" % (message, direction, (who, to, port)), lambda: line(message, direction))
                level = "debug" if message == "opened" else "info" if "error" in absent else "error"
                check(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\t%s\t" % level, text), text)
                have = fields_of(text)
                if message == "complete" and "error" not in absent:
                    want = ERRORS.get((who, to, port, direction),
                                      "connection closed due to policy rejection: explicitly denied by: default/closed")
                    check(have[-1] == ("error", '"%s"' % want), text)
                check([k for k, _ in have] == [f for f in FIELDS if f not in absent | without], text)
                check(all((v[0] != '"') == (k in BARE) for k, v in have), "quotes", text)
        other = {"inbound": "outbound", "outbound": "inbound"}
        check(not any(line("complete", other[d]) for d in directions if other[d] not in directions), "no other line")
    check(s.zt.http(15000, "/logging?reset", "POST")[0] == 200)
    s.lab.reload(s.zt)


def nobody_reads_the_log():
    """Standard error is a full pipe: every part goes on, and what was lost is counted."""
    lab = fresh(2)
    rd, wr = os.pipe()
    try:
        fcntl.fcntl(wr, fcntl.F_SETPIPE_SZ, 4096)
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(stderr=wr)
        os.close(wr)
        wr = -1

        def dropped():
            for _ in range(20):
                check(works(a, b.ip), "a connection")
            return zt.metric("ambient_log_lines_dropped_total") > 0
        wait_for("lines to be dropped", dropped, 60)
        check(zt.ready(), "the control thread waits for the log")
        lab.reload(zt)
        got = []

        def read():
            while True:
                d = os.read(rd, 65536)
                if not d:
                    return
                got.append(d)
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        note = wait_for("the line that says so", lambda: re.search(
            rb"standard error was not read: lines dropped=(\d+)\n", b"".join(got)))
        lost = int(note[1])
        check(zt.metric("ambient_log_lines_dropped_total") == lost, "all are told", lost)
        check(zt.stop() == 0)
        reader.join(15)
        lines = b"".join(got).split(b"\n")
        check(lines[-1] == b"" and all(x.count(b"\t") >= 3 for x in lines[:-1]), "lines are whole")
    finally:
        os.close(rd)
        if wr >= 0:
            os.close(wr)
        lab.close()


def levels_stay_small():
    """Changing levels again and again costs no memory, and the filter shown does not grow."""
    zt = site().zt

    def change(n):
        for i in range(n):
            text = zt.http(15000, "/logging?level=info,zds%%3D%s" % ("debug", "info")[i % 2],
                           "POST")[1]
        return text
    first = change(500)
    before = zt.rss_kb()
    check(change(POSTS) == first == "current log level is info,zds=info\n", first)
    grown = zt.rss_kb() - before
    print("# %d changes: %d KiB" % (POSTS, grown))
    sanitized = b"__asan_init" in open("/proc/%d/exe" % zt.pid, "rb").read()
    check(grown < 1024 or sanitized, "grew by", grown, "KiB")  # freed memory rests in quarantine
    check(zt.http(15000, "/logging?reset", "POST")[1] == "current log level is info\n")


TESTS = [fields_of_each_kind, nobody_reads_the_log, levels_stay_small]


if __name__ == "__main__":
    sys.exit(main(TESTS))
