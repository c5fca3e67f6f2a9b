# SPDX-License-Identifier: Apache-2.0
"""dnslab.py: DNS messages, a resolver that does as its names say, and a client, for the tests of the DNS proxy."""
import os
import socket
import struct
import subprocess
import threading
import time

import ztlab

A, NS, CNAME, SOA, MX, AAAA, OPT = 1, 2, 5, 6, 15, 28, 41
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
DNS_RULES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nft", "dns.nft")

TTLS = {"zero": 0, "short": 1}  # of what the resolver says, by the first label; else 60


def name_bytes(name):
    return b"".join(bytes([len(x)]) + x.encode() for x in name.rstrip(".").split(".") if x) + b"\0"


def query(name, qtype=A, ident=0x1234, flags=0x0100, edns=0, options=b""):
    q = struct.pack(">HHHHHH", ident, flags, 1, 0, 0, 1 if edns else 0) + name_bytes(name) + struct.pack(">HH", qtype, 1)
    return q + (b"\0" + struct.pack(">HHIH", OPT, edns, 0, len(options)) + options if edns else b"")


def read_name(msg, at):
    labels, behind = [], None
    while msg[at]:
        if msg[at] >= 0xc0:
            behind = behind or at + 2
            at = (msg[at] & 0x3f) << 8 | msg[at + 1]
            continue
        labels.append(msg[at + 1:at + 1 + msg[at]].decode())
        at += 1 + msg[at]
    return ".".join(labels), behind or at + 1


class Answer:
    """A message taken apart: .records is [(name, type, TTL, value)]."""

    def __init__(self, msg):
        self.size = len(msg)
        self.ident, flags, qd, *counts = struct.unpack(">HHHHHH", msg[:12])
        self.rcode, self.aa, self.tc = flags & 15, bool(flags & 0x400), bool(flags & 0x200)
        self.rd, self.ra, self.qr = bool(flags & 0x100), bool(flags & 0x80), bool(flags & 0x8000)
        at, self.question, self.records, self.edns = 12, None, [], None
        for _ in range(qd):
            name, at = read_name(msg, at)
            self.question = (name, struct.unpack(">H", msg[at:at + 2])[0])
            at += 4
        for _ in range(sum(counts)):
            name, at = read_name(msg, at)
            rtype, rclass, ttl, n = struct.unpack(">HHIH", msg[at:at + 10])
            data = msg[at + 10:at + 10 + n]
            if rtype == OPT:
                self.edns = rclass
            else:
                self.records.append((name, rtype, ttl, self.value(msg, rtype, data, at + 10)))
            at += 10 + n
        assert at == len(msg), "%d bytes behind the message" % (len(msg) - at)

    @staticmethod
    def value(msg, rtype, data, at):
        if rtype in (A, AAAA):
            return socket.inet_ntop(socket.AF_INET if rtype == A else socket.AF_INET6, data)
        return read_name(msg, at)[0] if rtype in (CNAME, NS) else data

    def ips(self):
        return sorted(v for _, t, _, v in self.records if t in (A, AAAA))

    def __repr__(self):
        return "rcode %d aa %d tc %d %s %s" % (self.rcode, self.aa, self.tc, self.question, self.records[:4])


class Resolver:
    """On port 53 of a namespace, UDP and TCP. What it does depends on the first label of the name."""

    def __init__(self, net, addr):
        self.net, self.addr, self.asked, self.lock, self.open = net, addr, [], threading.Lock(), True
        self.seen = set()  # names that were asked
        self.zone = {}  # names that are not by their first label: addresses, TTL, rcode
        self.others = None  # the rcode for all names that are not in the zone, instead of what their first label says
        family = socket.AF_INET6 if ":" in addr else socket.AF_INET
        self.udp = net.socket(family, socket.SOCK_DGRAM)
        self.tcp = net.socket(family)
        self.other = net.socket(family, socket.SOCK_DGRAM)
        for s in (self.udp, self.tcp):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((addr, 53))
        self.udp.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)  # SO_RCVBUFFORCE
        self.tcp.listen(64)
        for fn in (self.serve_udp, self.serve_tcp):
            threading.Thread(target=fn, daemon=True).start()

    def count(self, name):
        with self.lock:
            return sum(n == name for n, *_ in self.asked)

    def peers(self, name):
        with self.lock:
            return [p for n, _, p in self.asked if n == name]

    def answer(self, msg, tcp, reply, peer):
        q = Answer(msg)
        name, qtype = q.question
        with self.lock:
            self.asked.append((name, tcp, peer))
            first = name not in self.seen
            self.seen.add(name)
        what = name.split(".")[0].lower()
        question = name_bytes(name) + struct.pack(">HH", qtype, 1)

        def message(ident=q.ident, flags=0x8580, records=(), authority=(), rcode=0, ask=question, ttl=None):
            body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", t, 1, TTLS.get(what, 60) if ttl is None else ttl, len(d)) + d for t, d in (*records, *authority))
            return struct.pack(">HHHHHH", ident, flags | rcode, 1, len(records), len(authority), 0) + ask + body
        one = [(A, bytes([192, 0, 2, 1]))] if qtype == A else [(MX, b"\0\1\1x\0")] if qtype == MX else []
        soa = [(SOA, b"\0\0" + struct.pack(">IIIII", 1, 2, 3, 4, 5))]
        if name.lower() in self.zone:
            ips, ttl, rcode = self.zone[name.lower()]
            data = [socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip) for ip in ips]
            own = [(qtype, d) for d in data if len(d) == {A: 4, AAAA: 16}.get(qtype)]
            return reply(message(records=own, rcode=rcode, ttl=ttl))
        if self.others is not None:
            return reply(message(rcode=self.others))
        if what == "nx":
            return reply(message(authority=soa, rcode=NXDOMAIN))
        if what == "fail":
            return reply(message(rcode=SERVFAIL))
        if what == "bare":
            return reply(message())
        if what == "two":
            one += [(A, bytes([192, 0, 2, 2]))]
        if what in ("dead", "gone") or (what == "lost" and first):
            return None
        if what in ("slow", "late"):
            time.sleep(0.6 if what == "slow" else 3.5)
        if what == "big":
            many = [(A, bytes([10, 9, i // 250, i % 250])) for i in range(200)]
            room = 65535 if tcp else q.edns or 512
            fits = [r for i, r in enumerate(many) if len(question) + 12 + 16 * (i + 1) <= room]
            return reply(message(flags=0x8580 | (0x200 if len(fits) < len(many) else 0), records=fits))
        if what == "toobig":  # more than was asked for
            return reply(message(records=[(A, bytes([10, 9, 9, i])) for i in range(60)]))
        if what == "spoof" and not tcp:
            reply(message(ident=q.ident ^ 1, records=[(A, bytes([6, 6, 6, 1]))]))
            reply(message(records=[(A, bytes([6, 6, 6, 2]))], ask=name_bytes("other.test") + struct.pack(">HH", qtype, 1)))
            reply(message(flags=0x0580, records=[(A, bytes([6, 6, 6, 3]))]))
            reply(b"\0" * 5)
            self.other.sendto(message(records=[(A, bytes([6, 6, 6, 4]))]), peer)
            time.sleep(0.1)
        return reply(message(records=one))

    def serve_udp(self):
        while self.open:
            try:
                msg, peer = self.udp.recvfrom(65535)
            except OSError:
                return
            if not self.open:
                return

            def reply(m, peer=peer):
                try:
                    self.udp.sendto(m, peer)
                except OSError:
                    pass
            if msg[12:13] and msg[13:17].lower() in (b"slow", b"spoo", b"late"):
                threading.Thread(target=self.answer, args=(msg, False, reply, peer), daemon=True).start()
            else:
                self.answer(msg, False, reply, peer)

    def serve_tcp(self):
        while self.open:
            try:
                c, peer = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self.serve_conn, args=(c, peer), daemon=True).start()

    def serve_conn(self, c, peer):
        with c:
            try:
                while True:
                    msg = read_message(c)
                    if msg is None:
                        return
                    self.answer(msg, True, lambda m: c.sendall(struct.pack(">H", len(m)) + m), peer)
                    if b"\4gone" in msg:
                        return
            except OSError:
                pass

    def close(self):
        self.open = False
        for s in (self.udp, self.tcp):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()
        self.other.close()


def read_exactly(c, n):
    out = b""
    while len(out) < n:
        d = c.recv(n - len(out))
        if not d:
            return None
        out += d
    return out


def read_message(c):
    head = read_exactly(c, 2)
    return read_exactly(c, struct.unpack(">H", head)[0]) if head else None


def framed(msg):
    return struct.pack(">H", len(msg)) + msg


def udp(net, server, timeout=20, bind=None):
    s = net.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(timeout)
    if bind:
        s.bind(bind)
    s.connect((server, 53))
    return s


def ask(net, server, name, qtype=A, tcp=False, timeout=20, **kw):
    msg = query(name, qtype, **kw)
    if not tcp:
        with udp(net, server, timeout) as s:
            s.send(msg)
            return Answer(s.recv(65535))
    s = net.socket(socket.AF_INET6 if ":" in server else socket.AF_INET)
    with s:
        s.settimeout(timeout)
        s.connect((server, 53))
        s.sendall(framed(msg))
        return Answer(read_message(s))


def capture(net):
    """The agent's rules with DNS, instead of those without."""
    p = subprocess.run(["ip", "netns", "exec", net.name, "nft", "-f", DNS_RULES], text=True, capture_output=True)
    assert p.returncode == 0, p.stderr


def getent(net, server, *args):
    """The C library's own resolver in the namespace, told to ask @server."""
    conf = "/etc/netns/%s" % net.name
    os.makedirs(conf, exist_ok=True)
    try:
        with open(conf + "/resolv.conf", "w") as f:
            f.write("nameserver %s\nsearch ns1.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n" % server)
        with open(conf + "/nsswitch.conf", "w") as f:
            f.write("hosts: dns\n")
        p = subprocess.run(["ip", "netns", "exec", net.name, "getent", *args], text=True, capture_output=True)
        return p.returncode, p.stdout
    finally:
        for n in os.listdir(conf):
            os.unlink(os.path.join(conf, n))
        os.rmdir(conf)


class Net(ztlab.Namespace):
    """A namespace that the lab has made."""

    def __init__(self, name):
        self.name, self.path = name, "/var/run/netns/" + name
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self):
        os.close(self.fd)
