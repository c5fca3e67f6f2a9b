# SPDX-License-Identifier: Apache-2.0
"""Peers of ztunnel's 15008 that the tests drive by hand: a raw HTTP/2 client, a server, a network gateway."""
import select
import socket
import ssl
import struct
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from ztlab import TIMEOUT, tls_context

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
CONNECT_ERROR, ENHANCE_YOUR_CALM = 10, 11


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(
        "!I", stream) + payload


def literal(name, value):
    """An HPACK field, never indexed, no Huffman."""
    def text(s):
        out, n = b"", len(s)
        if n < 127:
            out = bytes([n])
        else:
            n -= 127
            out = b"\x7f"
            while n > 127:
                out += bytes([n & 127 | 128])
                n >>= 7
            out += bytes([n])
        return out + s
    return b"\x10" + text(name) + text(value)


def connect_block(authority):
    return literal(b":method", b"CONNECT") + literal(b":authority", authority.encode())


class Raw:
    """TLS and bytes: for what a well-behaved library refuses to send."""

    def __init__(self, lab, pod, addr, cert, preface=True, settings=b""):
        self.sock = tls_context(lab, cert).wrap_socket(pod.net.connect((addr, 15008)))
        self.buf = b""
        if preface:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        self.sock.sendall(data)

    def read_frame(self):
        """(kind, flags, stream, payload), or None at the end of the connection."""
        while True:
            if len(self.buf) >= 9:
                n = int.from_bytes(self.buf[:3], "big")
                if len(self.buf) >= 9 + n:
                    f = self.buf[:9 + n]
                    self.buf = self.buf[9 + n:]
                    return f[3], f[4], int.from_bytes(f[5:9], "big"), f[9:]
            try:
                d = self.sock.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return None
            if not d:
                return None
            self.buf += d

    def flood(self, chunks, timeout=60):
        """Sends all chunks as fast as they are taken, reading meanwhile, then waits for the end.
        (GOAWAY code or None, frames, bytes sent), or None when the peer never ended it."""
        self.sock.setblocking(False)
        end = time.monotonic() + timeout
        chunks, out = iter(chunks), b""
        code, frames, sent, broken = None, 0, 0, False
        while time.monotonic() < end:
            try:
                d = self.sock.recv(65536)
                if not d:
                    return code, frames, sent
                self.buf += d
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except (ConnectionError, ssl.SSLError, OSError):
                return code, frames, sent
            while len(self.buf) >= 9 and len(self.buf) >= 9 + int.from_bytes(self.buf[:3], "big"):
                n = 9 + int.from_bytes(self.buf[:3], "big")
                if self.buf[3] == GOAWAY:
                    code = int.from_bytes(self.buf[13:17], "big")
                self.buf, frames = self.buf[n:], frames + 1
            out = out or next(chunks, b"")
            try:
                if out and not broken:
                    n = self.sock.send(out)
                    sent, out = sent + n, out[n:]
                    continue
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except (ConnectionError, ssl.SSLError, OSError):
                broken = True  # what was sent to us before may still be read
            select.select([self.sock], [self.sock] if out and not broken else [], [], 0.2)
        return None

    def close(self):
        self.sock.close()


class Client:
    """A proper HBONE client."""

    def __init__(self, lab, pod, addr, cert, bind=None):
        self.sock = tls_context(lab, cert).wrap_socket(
            pod.net.connect((addr, 15008), bind=bind))
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False,
            normalize_outbound_headers=False))
        self.h2.initiate_connection()
        self.flush()
        self.status, self.data, self.ended = {}, {}, set()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def request(self, authority, method="CONNECT", extra=()):
        sid = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":authority", authority)]
        if method != "CONNECT":
            head += [(":scheme", "https"), (":path", "/")]
        self.h2.send_headers(sid, head + list(extra), end_stream=method != "CONNECT")
        self.data[sid] = b""
        self.flush()
        return sid

    def pump(self):
        """Reads once; False at the end of the connection."""
        d = self.sock.recv(65536)
        if not d:
            return False
        for e in self.h2.receive_data(d):
            if isinstance(e, h2.events.ResponseReceived):
                self.status[e.stream_id] = int(dict(e.headers)[":status"])
            elif isinstance(e, h2.events.DataReceived):
                self.data[e.stream_id] += e.data
                self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            elif isinstance(e, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended.add(e.stream_id)
        self.flush()
        return True

    def answer(self, sid):
        """The status of the response; None when the stream or the connection ended without one."""
        while sid not in self.status:
            if sid in self.ended or not self.pump():
                return None
        return self.status[sid]

    def send(self, sid, data, end=False):
        self.h2.send_data(sid, data, end_stream=end)
        self.flush()

    def read(self, sid, n):
        while len(self.data[sid]) < n and sid not in self.ended:
            if not self.pump():
                break
        return self.data[sid]

    def close(self):
        self.sock.close()


def hbone_server(lab, cert, on_connect=None, banner=b""):
    """A handler for Server: terminates HBONE, answers 200 and echoes. Used to play an impostor."""
    ctx = tls_context(lab, cert, server=True)

    def handle(c, _peer):
        c.settimeout(TIMEOUT)
        s = ctx.wrap_socket(c, server_side=True)
        conn = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=False, header_encoding="utf-8", validate_inbound_headers=False))
        conn.initiate_connection()
        s.sendall(conn.data_to_send())
        while True:
            d = s.recv(65536)
            if not d:
                return
            for e in conn.receive_data(d):
                if isinstance(e, h2.events.RequestReceived):
                    if on_connect:
                        on_connect(dict(e.headers))
                    conn.send_headers(e.stream_id, [(":status", "200")])
                    if banner:
                        conn.send_data(e.stream_id, banner)
                elif isinstance(e, h2.events.DataReceived):
                    conn.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
                    conn.send_data(e.stream_id, e.data)
                elif isinstance(e, h2.events.StreamEnded):
                    conn.end_stream(e.stream_id)
            s.sendall(conn.data_to_send())
    return handle


class Gateway:
    """A handler for Server that plays the gateway of another network: ends the outer HBONE, connects to what @routes
    says for the authority, and passes bytes both ways without looking at them."""

    def __init__(self, lab, pod, cert, routes):
        self.ctx = tls_context(lab, cert, server=True)
        self.pod, self.routes, self.seen = pod, routes, []
        self.status, self.socks = "200", []
        self.cut_after = None  # bytes towards the client; then the stream ends
        self.cut_how = "end"

    def __call__(self, c, _peer):
        c.settimeout(TIMEOUT)
        s = self.ctx.wrap_socket(c, server_side=True)
        self.socks.append(s)
        try:
            Passing(self, s).run()
        finally:  # else who is left at the other end waits for nobody
            s.close()

    def cut(self):
        """Every connection of now."""
        while self.socks:
            try:
                socket.socket.shutdown(self.socks.pop(), socket.SHUT_RDWR)
            except OSError:
                pass


class Passing:
    """One outer connection."""

    def __init__(self, gateway, sock):
        self.gw, self.sock = gateway, sock
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=False, header_encoding="utf-8", validate_inbound_headers=False))
        self.h2.initiate_connection()
        self.up, self.passed, self.ended = {}, {}, set()

    def run(self):
        try:
            while self.step():
                pass
        finally:
            for s in self.up.values():
                s.close()

    def step(self):
        self.sock.sendall(self.h2.data_to_send())
        readable = [s for i, s in self.up.items() if i not in self.ended and self.h2.local_flow_control_window(i) > 0]
        ready = [self.sock] if self.sock.pending() else select.select([self.sock] + readable, [], [], 60)[0]
        for sid in [i for i, s in self.up.items() if s in ready and i not in self.ended]:
            self.from_upstream(sid)
        return self.sock not in ready or self.from_client()

    def from_client(self):
        d = self.sock.recv(1 << 18)
        for e in self.h2.receive_data(d):
            sid = getattr(e, "stream_id", None)
            if isinstance(e, h2.events.RequestReceived):
                self.request(sid, e.headers)
            elif isinstance(e, h2.events.DataReceived):
                self.h2.acknowledge_received_data(e.flow_controlled_length, sid)
                self.to_upstream(sid, lambda s, d=e.data: s.sendall(d))
            elif isinstance(e, h2.events.StreamEnded):
                self.to_upstream(sid, lambda s: s.shutdown(socket.SHUT_WR))
            elif isinstance(e, h2.events.StreamReset) and sid in self.up:
                self.up.pop(sid).close()
        return bool(d)

    def to_upstream(self, sid, what):
        """One that is gone is noticed where it is read from."""
        try:
            if sid in self.up:
                what(self.up[sid])
        except OSError:
            pass

    def request(self, sid, headers):
        self.gw.seen.append(headers)
        if self.gw.status != "200":
            self.h2.send_headers(sid, [(":status", self.gw.status)], end_stream=True)
            return
        self.up[sid] = self.gw.pod.net.connect(self.gw.routes[dict(headers)[":authority"]])
        self.passed[sid] = 0
        self.h2.send_headers(sid, [(":status", "200")])

    def from_upstream(self, sid):
        room = min(self.h2.local_flow_control_window(sid), self.h2.max_outbound_frame_size)
        try:
            d = self.up[sid].recv(room)
        except ConnectionError:
            self.h2.reset_stream(sid, CONNECT_ERROR)
            self.up.pop(sid).close()
            return
        cut = self.gw.cut_after is not None and self.passed[sid] + len(d) >= self.gw.cut_after
        if cut:
            d = d[:self.gw.cut_after - self.passed[sid]]
        self.passed[sid] += len(d)
        if cut and self.gw.cut_how == "reset":
            self.h2.reset_stream(sid, CONNECT_ERROR)
        else:
            self.h2.send_data(sid, d, end_stream=cut or not d)
        if cut:
            self.up.pop(sid).close()
        elif not d:
            self.ended.add(sid)
