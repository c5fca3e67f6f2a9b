# SPDX-License-Identifier: Apache-2.0
"""kube_api.py: as much of the Kubernetes API as a node agent needs, over HTTP/2 and TLS, and as much trouble as a
test wants to make. Objects are kept with versions and a history, lists have pages, watches resume, bookmark and end.
It runs in a thread of its own network namespace; only that thread touches sockets."""
import base64
import ctypes
import datetime
import ipaddress
import json
import os
import select
import socket
import ssl
import threading
import time
import urllib.parse

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NODE = "node-1"
KINDS = {"pods": "PodList", "namespaces": "NamespaceList", "services": "ServiceList", "nodes": "NodeList",
         "endpointslices": "EndpointSliceList", "authorizationpolicies": "AuthorizationPolicyList",
         "peerauthentications": "PeerAuthenticationList"}
LIBC = ctypes.CDLL(None, use_errno=True)


# --- certificates ---

def pem_key(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def certificate(name, issuer=None, ips=(), dns=(), ca=False):
    """(certificate PEM, key PEM, (certificate, key)); @issuer: such a pair, or None for a root."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.utcnow()
    b = (x509.CertificateBuilder().subject_name(subject)
         .issuer_name(issuer[0].subject if issuer else subject).public_key(key.public_key())
         .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
         .not_valid_after(now + datetime.timedelta(days=1))
         .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True))
    names = [x509.IPAddress(ipaddress.ip_address(i)) for i in ips] + [x509.DNSName(d) for d in dns]
    if names:
        b = b.add_extension(x509.SubjectAlternativeName(names), critical=False)
    cert = b.sign(issuer[1] if issuer else key, hashes.SHA256())
    return cert.public_bytes(serialization.Encoding.PEM), pem_key(key), (cert, key)


class Pki:
    def __init__(self, folder, ips=("127.0.0.1",), dns=("localhost", "api.test")):
        self.folder = folder
        self.ca, _, root = certificate("test root", ca=True)
        server, key, _ = certificate("api", root, ips, dns)
        self.client_cert, self.client_key, _ = certificate("agent", root)
        self.write("ca.crt", self.ca)
        self.write("server.pem", server + key)

    def write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)

    def path(self, name):
        return os.path.join(self.folder, name)


# --- one connection ---

class Request:
    def __init__(self, conn, sid, headers):
        self.conn, self.sid, self.body = conn, sid, b""
        self.headers = {k.decode(): v.decode() for k, v in headers}
        self.method = self.headers[":method"]
        url = urllib.parse.urlsplit(self.headers[":path"])
        self.path = url.path
        self.query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        self.resource = self.path.rsplit("/", 1)[-1]
        self.watch = self.query.get("watch") == "true"
        self.at = time.monotonic()

    # what a handler may do; each returns False when the stream is gone
    def head(self, status=200, **extra):
        fields = [(":status", str(status)), ("content-type", "application/json")]
        return self.conn.do("send_headers", self.sid, fields + [(k.replace("_", "-"), str(v)) for k, v in extra.items()])

    def send(self, data, end=False):
        return self.conn.send(self.sid, data, end)

    def answer(self, status, doc, **extra):
        return self.head(status, **extra) and self.send(json.dumps(doc).encode(), True)

    def status(self, code, message, **extra):
        return self.answer(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                                  "message": message}, **extra)

    def reset(self):
        return self.conn.do("reset_stream", self.sid, h2.errors.ErrorCodes.INTERNAL_ERROR)


class Conn(threading.Thread):
    """Owns its socket; handlers (other threads) change the HTTP/2 state under the lock and wake it."""

    def __init__(self, api, sock):
        super().__init__(daemon=True)
        self.api, self.sock = api, sock
        self.cond = threading.Condition()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.requests, self.closed, self.drop = {}, False, False
        self.wake_r, self.wake_w = os.pipe()

    def wake(self):
        os.write(self.wake_w, b"x")

    def do(self, verb, sid, *args):
        with self.cond:
            if self.closed or sid not in self.requests:
                return False
            try:
                getattr(self.h2, verb)(sid, *args)
            except h2.exceptions.ProtocolError:
                return False
            self.wake()
            return True

    def send(self, sid, data, end):
        while True:
            with self.cond:
                if self.closed or sid not in self.requests:
                    return False
                try:
                    n = min(self.h2.local_flow_control_window(sid), self.h2.max_outbound_frame_size, len(data))
                    if n > 0 or not data:
                        self.h2.send_data(sid, data[:n], end_stream=end and n == len(data))
                        data = data[n:]
                        self.wake()
                    else:
                        self.cond.wait(0.5)
                except h2.exceptions.ProtocolError:
                    return False
            if not data:
                return True

    def kill(self):
        """The connection ends without a goodbye."""
        self.drop = True
        self.wake()

    def run(self):
        try:
            self.sock.settimeout(30)
            self.sock = self.api.tls.wrap_socket(self.sock, server_side=True)
            self.api.handshakes += 1
            self.sock.setblocking(False)
            if self.sock.selected_alpn_protocol() == "h2":
                with self.cond:
                    self.h2.initiate_connection()
                self.loop()
        except (OSError, h2.exceptions.ProtocolError) as e:
            self.api.note("connection: %r" % e)
        finally:
            with self.cond:
                self.closed = True
                self.cond.notify_all()
            self.sock.close()
            self.api.conns.discard(self)

    def flush(self):
        with self.cond:
            out = self.h2.data_to_send()
        while out:
            try:
                out = out[self.sock.send(out):]
            except (ssl.SSLWantWriteError, BlockingIOError):
                select.select([], [self.sock], [], 1)

    def loop(self):
        while not self.drop:
            self.flush()
            if not self.sock.pending():
                ready, _, _ = select.select([self.sock, self.wake_r], [], [], 5)
                if self.wake_r in ready:
                    os.read(self.wake_r, 4096)
                if self.sock not in ready:
                    continue
            try:
                data = self.sock.recv(65536)
            except (ssl.SSLWantReadError, BlockingIOError):
                continue
            if not data:
                return
            with self.cond:
                for ev in self.h2.receive_data(data):
                    self.event(ev)
                self.cond.notify_all()

    def event(self, ev):
        if isinstance(ev, h2.events.RequestReceived):
            self.requests[ev.stream_id] = Request(self, ev.stream_id, ev.headers)
        elif isinstance(ev, h2.events.DataReceived):
            self.requests[ev.stream_id].body += ev.data
            self.h2.acknowledge_received_data(ev.flow_controlled_length, ev.stream_id)
        elif isinstance(ev, h2.events.StreamReset):
            self.requests.pop(ev.stream_id, None)
        if isinstance(ev, h2.events.StreamEnded) and ev.stream_id in self.requests:
            threading.Thread(target=self.api.serve, args=(self.requests[ev.stream_id],), daemon=True).start()


# --- the server ---

class Api:
    def __init__(self, pki, netns, token="t0ken"):
        self.pki, self.netns, self.token = pki, netns, token
        self.cond = threading.Condition()
        self.version, self.oldest = 1000, 0
        self.objects = {kind: {} for kind in KINDS}
        # resources that are not there, by the path in front of them ("" stands for all versions)
        self.missing = {("authorizationpolicies", ""), ("peerauthentications", "")}
        self.history = []  # (version, resource, type, object)
        self.requests, self.notes, self.trouble = [], [], []
        self.patches = []  # (time, namespace, name, annotation, status)
        self.page = None   # page size of our own, smaller than the client's limit
        self.bookmarks = 0.0  # seconds between them, 0: none
        self.conns, self.handshakes = set(), 0
        self.port, self.listener = 0, None
        self.alpn = ["h2"]

    def note(self, text):
        self.notes.append(text)
        if os.environ.get("KUBE_API_DEBUG"):
            print("# api: " + text, flush=True)

    # life

    def start(self):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.pki.path("server.pem"))
        self.tls.load_verify_locations(self.pki.path("ca.crt"))
        self.tls.verify_mode = ssl.CERT_OPTIONAL
        self.tls.set_alpn_protocols(self.alpn)
        up = threading.Event()
        threading.Thread(target=self.accept, args=(up,), daemon=True).start()
        assert up.wait(30), "the API server does not listen"
        return self

    def accept(self, up):
        fd = os.open("/var/run/netns/" + self.netns, os.O_RDONLY)
        assert LIBC.setns(fd, 0x40000000) == 0, os.strerror(ctypes.get_errno())
        os.close(fd)
        s = socket.create_server(("127.0.0.1", self.port), backlog=16)
        self.port, self.listener = s.getsockname()[1], s
        up.set()
        while True:
            try:
                c, _ = s.accept()
            except OSError:
                return
            conn = Conn(self, c)
            self.conns.add(conn)
            conn.start()

    def stop(self):
        """Away: the port is closed and every connection breaks."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.drop_connections()

    def close(self):
        if self.listener is not None and self.listener.fileno() >= 0:
            self.stop()

    def drop_connections(self):
        for c in list(self.conns):
            c.kill()

    # objects

    def put(self, resource, obj):
        with self.cond:
            self.version += 1
            key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            old = self.objects[resource].get(key)
            obj = json.loads(json.dumps(obj))
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.objects[resource][key] = obj
            self.history.append((self.version, resource, "MODIFIED" if old else "ADDED", obj))
            self.cond.notify_all()
            return time.monotonic()

    def change(self, resource, ns, name, fn):
        with self.cond:
            obj = json.loads(json.dumps(self.objects[resource][(ns, name)]))
            fn(obj)
            return self.put(resource, obj)

    def delete(self, resource, ns, name):
        with self.cond:
            self.version += 1
            obj = self.objects[resource].pop((ns, name))
            obj = dict(obj, metadata=dict(obj["metadata"], resourceVersion=str(self.version)))
            self.history.append((self.version, resource, "DELETED", obj))
            self.cond.notify_all()

    def label(self, resource, ns, name, mode):
        def fn(obj):
            labels = obj["metadata"].setdefault("labels", {})
            labels.pop("istio.io/dataplane-mode", None)
            if mode:
                labels["istio.io/dataplane-mode"] = mode
        return self.change(resource, ns, name, fn)

    def annotation(self, ns, name):
        return self.objects["pods"][(ns, name)]["metadata"].get("annotations", {}).get("ambient.istio.io/redirection")

    def compact(self):
        """Old versions are forgotten: who asks for them gets 410."""
        with self.cond:
            self.version += 1
            self.oldest = self.version

    # trouble

    def make_trouble(self, fn, times=1, resource=None, watch=None, method="GET"):
        """The next @times such requests are answered by @fn(request)."""
        self.trouble.append({"fn": fn, "left": times, "resource": resource, "watch": watch, "method": method, "hit": 0})
        return self.trouble[-1]

    def next_trouble(self, r):
        with self.cond:  # requests come on threads
            for t in self.trouble:
                if t["left"] > 0 and t["method"] == r.method and t["resource"] in (None, r.resource) and \
                        t["watch"] in (None, r.watch):
                    t["left"] -= 1
                    t["hit"] += 1
                    return t["fn"]
        return None

    def asked(self, resource, watch=None):
        return [r for r in self.requests if r.resource == resource and r.method == "GET" and watch in (None, r.watch)]

    def watching(self, resource="pods"):
        return [r for r in self.asked(resource, True) if not r.conn.closed and getattr(r, "open", False)]

    # serving

    def serve(self, r):
        self.requests.append(r)
        try:
            trouble = self.next_trouble(r)
            if trouble is not None:
                trouble(r)
            elif self.token and r.headers.get("authorization") != "Bearer " + self.token:
                r.status(401, "Unauthorized")
            elif r.method == "PATCH":
                self.serve_patch(r)
            elif r.resource not in KINDS or r.method != "GET" or self.is_missing(r):
                r.status(404, "the server could not find the requested resource")
            elif r.watch:
                self.serve_watch(r)
            else:
                self.serve_list(r)
        except Exception as e:  # shown by the test that fails because of it
            self.note("handler: %r" % e)
            r.reset()

    def is_missing(self, r):
        return any(r.resource == name and prefix in r.path for name, prefix in self.missing)

    def chosen(self, r, obj):
        labels = r.query.get("labelSelector", "")
        if labels:
            key, _, value = labels.partition("!=")
            if obj["metadata"].get("labels", {}).get(key) == value:
                return False
        sel = r.query.get("fieldSelector", "")
        if not sel:
            return True
        key, _, value = sel.partition("=")
        assert key == "spec.nodeName", sel
        return obj.get("spec", {}).get("nodeName") == value

    def serve_list(self, r):
        with self.cond:
            start = 0
            if "continue" in r.query:
                version, start = json.loads(base64.urlsafe_b64decode(r.query["continue"]))
                if version < self.oldest:
                    r.status(410, "The provided continue parameter is too old")
                    return
            found = [o for _, o in sorted(self.objects[r.resource].items()) if self.chosen(r, o)]
            version = self.version
        limit = min(self.page or 10**9, int(r.query.get("limit", 10**9)))
        meta = {"resourceVersion": str(version)}
        if start + limit < len(found):
            meta["continue"] = base64.urlsafe_b64encode(json.dumps([version, start + limit]).encode()).decode()
        r.answer(200, {"kind": KINDS[r.resource], "apiVersion": "v1", "metadata": meta,
                       "items": found[start:start + limit]})

    def serve_watch(self, r):
        at = int(r.query["resourceVersion"])
        if at < self.oldest:
            # as etcd's compaction is told: within a watch that was granted
            r.head()
            r.send(json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired",
                                                           "message": "too old resource version"}}).encode() + b"\n",
                   True)
            return
        if not r.head():
            return
        r.open = True
        try:
            self.follow(r, at, time.monotonic() + float(r.query["timeoutSeconds"]))
        finally:
            r.open = False

    def follow(self, r, at, end):
        sent = time.monotonic()
        while time.monotonic() < end:
            with self.cond:
                news = [h for h in self.history if h[0] > at and h[1] == r.resource and self.chosen(r, h[3])]
                if not news:
                    self.cond.wait(0.05)
                version = self.version
            for v, _, kind, obj in news:
                if not r.send(json.dumps({"type": kind, "object": obj}).encode() + b"\n"):
                    return
                at = v
            if self.bookmarks and time.monotonic() - sent > self.bookmarks:
                sent = time.monotonic()
                at = max(at, version)
                mark = {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": str(at)}}
                if not r.send(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n"):
                    return
                r.told = at
            if r.conn.closed or r.sid not in r.conn.requests or getattr(r, "finish", False):
                break
        r.send(b"", True)

    def serve_patch(self, r):
        _, _, _, _, ns, _, name, sub = r.path.split("/")
        body = json.loads(r.body)
        assert sub == "status" and r.headers["content-type"] == "application/merge-patch+json", r.path
        value = body["metadata"]["annotations"]["ambient.istio.io/redirection"]
        with self.cond:
            obj = self.objects["pods"].get((ns, name))
            status = 200
            if obj is None:
                status = 404
            elif body["metadata"].get("uid", obj["metadata"]["uid"]) != obj["metadata"]["uid"]:
                status = 409
            self.patches.append((time.monotonic(), ns, name, value, status))
            if status == 200:
                def fn(o):
                    notes = o["metadata"].setdefault("annotations", {})
                    notes.pop("ambient.istio.io/redirection", None)
                    if value is not None:
                        notes["ambient.istio.io/redirection"] = value
                self.change("pods", ns, name, fn)
                obj = self.objects["pods"][(ns, name)]
        if status == 200:
            r.answer(200, obj)
        else:
            r.status(status, "no")


def kubeconfig(path, server, ca_file, token=None, token_file=None, user=None, **cluster):
    u = dict(user or {})
    if token:
        u["token"] = token
    if token_file:
        u["tokenFile"] = token_file
    c = {"server": server}
    if ca_file:
        c["certificate-authority"] = ca_file
    c.update({k.replace("_", "-"): v for k, v in cluster.items()})
    doc = {"apiVersion": "v1", "kind": "Config", "current-context": "test",
           "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
           "clusters": [{"name": "c", "cluster": c}], "users": [{"name": "u", "user": u}]}
    with open(path, "w") as f:
        json.dump(doc, f)
    return path


# --- what both test programs use ---

def serve(z):
    """A ztunnel that says yes to everything, in the background, for as long as the test takes."""
    z.s.settimeout(600)

    def work():
        try:
            while True:
                _, fds = z.recv()
                while fds:  # or they would keep listening
                    os.close(fds.pop())
                z.fds.clear()
                z.ack()
        except (OSError, EOFError, AssertionError):
            pass
    threading.Thread(target=work, daemon=True).start()


def source(w):
    return w.status()["source"]
