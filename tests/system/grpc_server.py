# SPDX-License-Identifier: Apache-2.0
"""grpc_server.py: a scripted gRPC server (TLS, HTTP/2 by python-h2) for the tests of the control plane. It does what a
script says, wrong things too. Messages come from the schemas in proto/."""
import datetime
import importlib
import ipaddress
import os
import queue
import socket
import ssl
import struct
import subprocess
import sys
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CA_METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
XDS_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
NOW = datetime.datetime.now(datetime.timezone.utc)


def schemas(directory):
    """The Python modules of proto/*.proto by name."""
    names = sorted(n[:-6] for n in os.listdir(ROOT + "/proto") if n.endswith(".proto"))
    subprocess.run(["protoc", "--python_out=" + directory, "-I" + ROOT] +
                   [ROOT + "/proto/%s.proto" % n for n in names], check=True, stdout=subprocess.DEVNULL)
    sys.path.insert(0, directory)
    try:
        importlib.invalidate_caches()
        return {n: importlib.import_module("proto.%s_pb2" % n) for n in names}
    finally:
        sys.path.pop(0)


class Authority:
    """A root, or a CA below another one, that signs for servers and workloads."""

    def __init__(self, name="test root", above=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name)])
        self.cert = (x509.CertificateBuilder().subject_name(self.name).issuer_name(above.name if above else self.name)
                     .public_key(self.key.public_key()).serial_number(x509.random_serial_number())
                     .not_valid_before(NOW - datetime.timedelta(hours=1))
                     .not_valid_after(NOW + datetime.timedelta(days=1))
                     .add_extension(x509.BasicConstraints(True, None), True)
                     .sign(above.key if above else self.key, hashes.SHA256()))
        self.pem = self.cert.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, public_key, sans, start=-60, end=3600):
        now = datetime.datetime.now(datetime.timezone.utc)
        return (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(self.name)
                .public_key(public_key).serial_number(x509.random_serial_number())
                .not_valid_before(now + datetime.timedelta(seconds=start))
                .not_valid_after(now + datetime.timedelta(seconds=end))
                .add_extension(x509.SubjectAlternativeName(sans), True)
                .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH,
                                                      ExtendedKeyUsageOID.CLIENT_AUTH]), False)
                .sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())

    def crl(self, *serials):
        """A list that revokes these serial numbers, PEM."""
        b = (x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW)
             .next_update(NOW + datetime.timedelta(days=1)))
        for n in serials:
            b = b.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(n).revocation_date(NOW).build())
        return b.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def server_context(self, directory, names=("localhost",)):
        key = ec.generate_private_key(ec.SECP256R1())
        sans = [x509.DNSName(n) for n in names]
        sans.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        path = os.path.join(directory, "server-%x.pem" % id(key))
        with open(path, "wb") as f:
            f.write(self.sign(key.public_key(), sans).encode())
            f.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                      serialization.NoEncryption()))
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ctx.load_cert_chain(path)
        ctx.set_alpn_protocols(["h2"])
        os.unlink(path)
        return ctx


class Stream:
    def __init__(self, conn, sid, headers):
        self.conn, self.sid, self.headers = conn, sid, dict(headers)
        self.inbox, self.buf, self.started = queue.Queue(), b"", False

    def fed(self, data):
        self.buf += data
        while len(self.buf) >= 5 and len(self.buf) >= 5 + struct.unpack(">I", self.buf[1:5])[0]:
            n = struct.unpack(">I", self.buf[1:5])[0]
            self.inbox.put(self.buf[5:5 + n])
            self.buf = self.buf[5 + n:]

    def recv(self, timeout=60):
        """The next message; None when the client ended or the connection is gone."""
        return self.inbox.get(timeout=timeout)

    def begin(self, status="200", kind="application/grpc"):
        if not self.started:
            self.started = True
            self.conn.do(lambda c: c.send_headers(self.sid, [(":status", status), ("content-type", kind)]))

    def raw(self, data):
        """Bytes of the body as they are, as fast as the client's windows allow."""
        self.begin()
        while data:
            n = self.conn.room(self.sid, len(data))
            if n == 0:
                return
            part, data = data[:n], data[n:]
            self.conn.do(lambda c: c.send_data(self.sid, part))

    def send(self, message):
        self.raw(b"\0" + struct.pack(">I", len(message)) + message)

    def end(self, code=0, message=""):
        head = [("grpc-status", str(code))] + ([("grpc-message", message)] if message else [])
        if not self.started:
            self.started = True
            head = [(":status", "200"), ("content-type", "application/grpc")] + head
        self.conn.do(lambda c: c.send_headers(self.sid, head, end_stream=True))

    def reset(self, code=h2.errors.ErrorCodes.INTERNAL_ERROR):
        self.conn.do(lambda c: c.reset_stream(self.sid, code))


class Connection(threading.Thread):
    def __init__(self, server, sock):
        super().__init__(daemon=True)
        self.server, self.sock, self.streams = server, sock, {}
        self.lock, self.moved, self.alive = threading.RLock(), threading.Condition(), True
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))

    def do(self, fn):
        with self.lock:
            try:
                fn(self.h2)
                data = self.h2.data_to_send()
                if data:
                    self.sock.sendall(data)
            except (OSError, ValueError, h2.exceptions.H2Error):
                pass

    def room(self, sid, want):
        """How many bytes may go out now; waits for the client's credit; 0: it is over."""
        with self.moved:
            while self.alive:
                try:
                    with self.lock:
                        n = min(self.h2.local_flow_control_window(sid), self.h2.max_outbound_frame_size, want)
                except h2.exceptions.H2Error:
                    return 0
                if n > 0:
                    return n
                self.moved.wait(0.2)
        return 0

    def goaway(self, last=None):
        self.do(lambda c: c.close_connection(last_stream_id=last))

    def announce(self):
        """A GOAWAY after which what is open goes on (RFC 9113 6.8); python-h2's own ends everything."""
        with self.lock:
            self.sock.sendall(b"\0\0\x08\x07\0\0\0\0\0" + struct.pack(">II", 0x7fffffff, 0))

    def drop(self):
        """No farewell."""
        self.alive = False
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def event(self, e):
        if isinstance(e, h2.events.RequestReceived):
            s = self.streams[e.stream_id] = Stream(self, e.stream_id, e.headers)
            threading.Thread(target=self.server.handle, args=(s,), daemon=True).start()
        elif isinstance(e, h2.events.DataReceived):
            self.streams[e.stream_id].fed(e.data)
            self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
        elif isinstance(e, (h2.events.StreamEnded, h2.events.StreamReset)):
            if e.stream_id in self.streams:
                self.streams[e.stream_id].inbox.put(None)

    def run(self):
        try:
            self.sock = self.server.ctx.wrap_socket(self.sock, server_side=True)
            self.do(lambda c: c.initiate_connection())
            while True:
                data = self.sock.recv(65536)
                if not data:
                    break
                with self.lock:
                    for e in self.h2.receive_data(data):
                        self.event(e)
                self.do(lambda c: None)
                with self.moved:
                    self.moved.notify_all()
        except (OSError, ValueError, h2.exceptions.H2Error):
            pass
        self.alive = False
        with self.moved:
            self.moved.notify_all()
        for s in self.streams.values():
            s.inbox.put(None)
        self.sock.close()


class GrpcServer(threading.Thread):
    """@script: {method: function(stream)}; each call runs in a thread of its own."""

    def __init__(self, net, ctx, script, port=15012):
        super().__init__(daemon=True)
        self.ctx, self.script, self.conns, self.calls = ctx, script, [], 0
        self.sock = net.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", port))
        self.sock.listen(16)
        self.start()

    def handle(self, stream):
        self.calls += 1
        fn = self.script.get(stream.headers[":path"])
        if fn is None:
            stream.end(12, "unknown method")
            return
        try:
            fn(stream)
        except queue.Empty:
            stream.end(4)

    def run(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            conn = Connection(self, c)
            self.conns.append(conn)
            conn.start()

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()
        for c in self.conns:
            c.drop()
