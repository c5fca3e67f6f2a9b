# SPDX-License-Identifier: Apache-2.0
"""wire.py: records what crosses an interface and says what it was.

tcpdump writes the packets, this file reads them back: TCP flows put together by sequence number,
each then walked record by record as TLS. A flow is TLS only if every byte of it belongs to a
well-formed TLS record, not if its first byte looks like one.
"""
import collections
import mmap
import os
import re
import signal
import socket
import struct
import subprocess

from .daemon import wait_until

TLS_RECORDS = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
TLS_RECORD_MAX = 16384 + 256
ETHERTYPE_IPV4 = 0x0800
SYN, RST = 0x02, 0x04

Packet = collections.namedtuple("Packet", "src sport dst dport flags seq payload")


class Capture:
    """tcpdump on @interface into @path (a .pcap: Debian's AppArmor profile allows no other)."""

    def __init__(self, interface, path):
        self.interface, self.path = interface, path
        self.process, self.lost = None, 0

    def start(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        # A large kernel buffer, and no change of user: the file must be ours to read.
        self.process = subprocess.Popen(
            ["tcpdump", "-i", self.interface, "-w", self.path, "-U", "-B", "65536", "-Z", "root",
             "-n", "ip"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True)
        for line in self.process.stderr:
            if "listening on" in line:
                return self
        raise RuntimeError("tcpdump did not start on " + self.interface)

    def stop(self, address):
        """Ends the capture once everything before now is in the file: a datagram to @address, which
        must be reached through the interface, marks the end. Sets `lost`; returns self."""
        mark = os.urandom(16)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(mark, (address, 9))
        wait_until("the capture's end mark", lambda: count_text(self.path, mark), deadline=90, every=0.1)
        self.process.send_signal(signal.SIGINT)
        _out, err = self.process.communicate(timeout=60)
        self.lost = int(re.search(r"(\d+) packets? dropped by kernel", err).group(1))
        self.process = None
        return self

    def abandon(self):
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None


def count_text(path, text, limit=1000000):
    """How often the bytes @text are anywhere in the file; stops counting at @limit."""
    if os.path.getsize(path) == 0:
        return 0
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        n, at = 0, m.find(text)
        while at >= 0 and n < limit:
            n, at = n + 1, m.find(text, at + len(text))
        return n


def packets(path):
    """The TCP over IPv4 packets of a capture."""
    with open(path, "rb") as f:
        head = f.read(24)
        magic, = struct.unpack("<I", head[:4])
        if magic not in (0xa1b2c3d4, 0xa1b23c4d):
            raise ValueError("%s: not a pcap file of this machine's byte order" % path)
        link, = struct.unpack("<I", head[20:24])
        if link != 1:
            raise ValueError("%s: link type %d, expected Ethernet" % (path, link))
        while True:
            head = f.read(16)
            if len(head) < 16:
                return
            kept, = struct.unpack("<I", head[8:12])
            p = _tcp(f.read(kept))
            if p:
                yield p


def _tcp(frame):
    if len(frame) < 34 or struct.unpack("!H", frame[12:14])[0] != ETHERTYPE_IPV4:
        return None
    ip = frame[14:]
    ihl, total = (ip[0] & 15) * 4, struct.unpack("!H", ip[2:4])[0]
    if ip[9] != socket.IPPROTO_TCP or len(ip) < ihl + 20:
        return None
    # Segmentation offload leaves 0 in the length field of packets that grew over 64 KiB.
    tcp = ip[ihl:total or len(ip)]
    sport, dport, seq = struct.unpack("!HHI", tcp[:8])
    return Packet(socket.inet_ntoa(ip[12:16]), sport, socket.inet_ntoa(ip[16:20]), dport, tcp[13],
                  seq, tcp[(tcp[12] >> 4) * 4:])


class Stream:
    """One direction of one TCP connection, in order."""

    def __init__(self):
        self.first = None  # sequence number of the first byte
        self.parts = {}    # offset: payload
        self.packets = self.bytes = 0

    def add(self, p):
        self.packets += 1
        if p.flags & SYN:
            self.first = (p.seq + 1) & 0xffffffff
        if not p.payload:
            return
        if self.first is None:
            self.first = p.seq
        self.bytes += len(p.payload)
        at = (p.seq - self.first) & 0xffffffff
        if len(self.parts.get(at, b"")) < len(p.payload):
            self.parts[at] = p.payload

    def data(self):
        """All bytes in order; None when a part was not captured."""
        out, end = [], 0
        for at in sorted(self.parts):
            part = self.parts[at]
            if at > end:
                return None
            if at + len(part) > end:
                out.append(part[end - at:])
                end = at + len(part)
        return b"".join(out)


def streams(path):
    """{(src, sport, dst, dport): Stream} of a capture. Sequence numbers must not wrap (4 GiB)."""
    found = collections.defaultdict(Stream)
    for p in packets(path):
        found[p[:4]].add(p)
    return found


def tls_records(data, cut_ok=False):
    """Counter of the TLS record types in @data; raises ValueError at the first byte that is none.
    @cut_ok: the last record may be incomplete."""
    seen, at = collections.Counter(), 0
    while at < len(data):
        if len(data) - at < 5:
            if cut_ok:
                break
            raise ValueError("offset %d: %d bytes left over" % (at, len(data) - at))
        kind, major, length = data[at], data[at + 1], struct.unpack("!H", data[at + 3:at + 5])[0]
        if kind not in TLS_RECORDS or major != 3 or length > TLS_RECORD_MAX:
            raise ValueError("offset %d: no TLS record: %r" % (at, data[at:at + 16]))
        if at + 5 + length > len(data) and not cut_ok:
            raise ValueError("offset %d: record of %d bytes is cut off" % (at, length))
        seen[TLS_RECORDS[kind]] += 1
        at += 5 + length
    return seen


Summary = collections.namedtuple("Summary", "ports packets bytes records problems")


def summary(path, a, b, tls_port=15008, cut_ok=False):
    """What hosts @a and @b said to each other: destination ports (of the side that answered),
    packets, payload bytes, TLS records of connections to @tls_port, and problems: whatever is not
    whole TLS records on that port."""
    ports, npackets, nbytes = collections.Counter(), 0, 0
    records, problems = collections.Counter(), []
    for (src, sport, dst, dport), s in streams(path).items():
        if {src, dst} != {a, b}:
            continue
        npackets, nbytes = npackets + s.packets, nbytes + s.bytes
        port = sport if sport == tls_port else dport if dport == tls_port else min(sport, dport)
        ports[port] += s.packets
        name = "%s:%d > %s:%d" % (src, sport, dst, dport)
        if port != tls_port:
            if s.bytes:
                problems.append("%s: %d bytes outside port %d" % (name, s.bytes, tls_port))
            continue
        data = s.data()
        if data is None:
            problems.append(name + ": a part was not captured")
            continue
        try:
            records += tls_records(data, cut_ok)
        except ValueError as e:
            problems.append("%s: %s" % (name, e))
    return Summary(dict(ports), npackets, nbytes, dict(records), problems)
