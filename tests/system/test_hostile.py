#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""peers that ztunnel must not believe, and peers that want to harm it."""
import os
import resource
import ssl
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hbone_peer as hb  # noqa: E402
from ztlab import Lab, Root, double_echo, tls_context, wait_for  # noqa: E402
from ztsite import ARGS, HELLO, site, works, refused, check, ends_cleanly, main  # noqa: E402

IDLE_PEER = 64  # LIMIT_IDLE_PEER


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
    wait_for("all to be counted",
             lambda: s.zt.metric("ambient_tls_handshake_failures_total") >= failures + len(rows) - 1)
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
        for _ in range(5):
            began = time.monotonic()
            slow = c.net.connect((a.ip, 15008))
            socks += [c.net.connect((b.ip, 15008)) for _ in range(1200)]
            zt.wait_line("too many connections without a finished handshake")
            if time.monotonic() - began < 8:  # the limit of a handshake is 10 s
                break
            while socks:
                socks.pop().close()
            slow.close()
        with ctx.wrap_socket(slow) as t:
            check(t.version() == "TLSv1.3", "the other pod's handshake")
    finally:
        for s in socks:
            s.close()
        lab.close()


def idle_connections_of_one_peer():
    """A peer that hoards connections: the oldest idle ones go, what is in use and what others have stays."""
    lab = Lab(ARGS.bin, 2)
    conns = []
    try:
        a, b, c = lab.pod("a", 2), lab.pod("b", 3), lab.pod("c", 4, captured=False)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(ZTUNNEL_WORKER_THREADS="1")
        cert, target = lab.root().issue(lab, [a.identity]), b.ip + ":8080"

        def client(certificate=cert, src=c):
            conns.append(hb.Client(lab, src, b.ip, certificate))
            return conns[-1]

        def opened():
            return int(zt.http(15000, "/debug/workers")[1].split('"tlsAccepted":')[1].split(",")[0])
        busy, other = client(), client(lab.root().issue(lab, [c.identity]))
        sid = busy.request(target)
        check(busy.answer(sid) == 200)
        silent = [hb.Raw(lab, c, b.ip, cert) for _ in range(3)]
        conns += silent
        polite = [client() for _ in range(3)]
        wait_for("these to be the oldest", lambda: opened() == 8)
        rest = [client() for _ in range(IDLE_PEER)]
        wait_for("all", lambda: opened() == 8 + IDLE_PEER)
        began = time.monotonic()
        for x in polite:
            try:
                while x.pump():  # answers the ping
                    check(time.monotonic() - began < 15, "not told to go")
            except ConnectionError:
                pass  # it has a second for that
        zt.wait_line("too many idle HBONE connections of one peer", a.identity)
        began = time.monotonic()
        for x in silent:
            while x.read_frame() is not None:
                check(time.monotonic() - began < 15, "kept until the next keepalive")
        for x in (rest[0], rest[-1], other):
            check(x.answer(x.request(target)) == 200, "within the limit")
        busy.send(sid, HELLO)
        check(busy.read(sid, 22) == HELLO + HELLO, "in use, although older than all")
        check(works(a, b.ip), "the way from the pod itself")
    finally:
        for x in conns:
            x.close()
        lab.close()


TESTS = [
    peers_without_the_right_certificate, impostor_gets_nothing, plaintext_to_15008,
    connect_to_other_addresses, rapid_reset, made_you_reset, continuation_flood, header_bomb,
    settings_flood, ping_flood, zero_window_stall, slow_handshakes_are_bounded, ends_cleanly,
    handshake_flood_of_one_pod, idle_connections_of_one_peer,
]


if __name__ == "__main__":
    sys.exit(main(TESTS))
