#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A small mesh in network namespaces of its own, for testing ztunnel alone.

One namespace plays the node (bridge and ztunnel), each pod has one. The agent is played by this
program: it speaks ZDS version 1 (namespace only) or 2 (with listening sockets that it keeps, as
custody does). Nothing of the machine's own network is touched; everything is removed by close().
"""
import array
import ctypes
import datetime
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

MARK = 0x539
PORTS = (15001, 15006, 15008)
TIMEOUT = 30.0
SO_ORIGINAL_DST = 80
IP_TRANSPARENT = 19
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000

# cni-spec 5.2 and 5.3, without DNS
RULES = """
table inet istio-ambient-nat {
  chain istio-prerouting {
    meta l4proto tcp ip saddr 169.254.7.127 accept
    ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
    ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
  }
  chain istio-output {
    meta l4proto tcp ip daddr 169.254.7.127 accept
    meta l4proto tcp meta mark & 0xfff == 0x111 accept
    oifname "lo" ip daddr != 127.0.0.1 accept
    oifname "lo" ip6 daddr != ::1 accept
    meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 redirect to :15001
    meta l4proto tcp ip6 daddr != ::1 meta mark & 0xfff != 0x539 redirect to :15001
  }
  chain prerouting { type nat hook prerouting priority -100; jump istio-prerouting; }
  chain output { type nat hook output priority -100; jump istio-output; }
}
table inet istio-ambient-mangle {
  chain istio-prerouting {
    meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
  }
  chain istio-output { ct mark & 0xfff == 0x111 meta mark set ct mark; }
  chain prerouting { type filter hook prerouting priority -150; jump istio-prerouting; }
  chain output { type route hook output priority -150; jump istio-output; }
}
"""


def run(*args, input=None):
    p = subprocess.run(args, input=input, text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    if p.returncode != 0:
        raise RuntimeError("%s: %s" % (" ".join(args), p.stdout))
    return p.stdout


def wait_for(what, fn, timeout=TIMEOUT):
    """Polls fn() until it is true; its value is returned."""
    end = time.monotonic() + timeout
    last = None
    while time.monotonic() < end:
        try:
            v = fn()
            if v:
                return v
        except (OSError, ssl.SSLError) as e:
            last = e
        time.sleep(0.02)
    raise AssertionError("gave up waiting for %s%s" % (what, ": %s" % last if last else ""))


class Namespace:
    def __init__(self, name):
        self.name = name
        run("ip", "netns", "add", name)
        self.path = "/run/netns/" + name
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.ip("link", "set", "lo", "up")

    def ip(self, *args):
        return run("ip", "-n", self.name, *args)

    def call(self, fn):
        """Runs fn on this thread inside the namespace; sockets made there stay there."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if LIBC.setns(self.fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            try:
                return fn()
            finally:
                if LIBC.setns(back, CLONE_NEWNET) != 0:
                    os._exit(99)
        finally:
            os.close(back)

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0):
        return self.call(lambda: socket.socket(family, kind, proto))

    def connect(self, addr, timeout=TIMEOUT, bind=None):
        s = self.socket(socket.AF_INET6 if ":" in addr[0] else socket.AF_INET)
        s.settimeout(timeout)
        try:
            if bind:
                s.bind(bind)
            s.connect(addr)
        except OSError:
            s.close()
            raise
        return s

    def close(self):
        os.close(self.fd)
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)


class Pod:
    """A namespace with one veth to the node's bridge; captured ones have the mesh's rules."""

    def __init__(self, lab, name, ip, sa=None, ns="default", captured=True):
        self.lab, self.name, self.ip, self.ns = lab, name, ip, ns
        self.sa = sa or name
        self.uid = "00000000-0000-0000-0000-%012d" % (len(lab.pods) + 1)
        self.net = Namespace("%s-%s" % (lab.prefix, name))
        self.servers = []
        self.custody = []
        veth = "v%s" % name
        lab.node.ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns",
                    self.net.name)
        lab.node.ip("link", "set", veth, "master", "br0", "up")
        self.net.ip("addr", "add", ip + "/24", "dev", "eth0")
        self.net.ip("link", "set", "eth0", "up")
        self.ip6 = None
        if lab.ipv6:
            self.ip6 = "fd77::%s" % ip.rsplit(".", 1)[1]
            self.net.ip("addr", "add", self.ip6 + "/64", "dev", "eth0", "nodad")
        self.net.ip("route", "add", "default", "via", lab.gateway)
        if lab.ipv6:
            self.net.ip("-6", "route", "add", "default", "via", "fd77::1", "dev", "eth0")
        self.captured = captured
        if captured:
            run("ip", "netns", "exec", self.net.name, "nft", "-f", "-", input=RULES)
            self.net.ip("rule", "add", "fwmark", "0x111/0xfff", "lookup", "100", "pref", "32764")
            self.net.ip("route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
            if lab.ipv6:
                self.net.ip("-6", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100", "pref",
                            "32764")
                self.net.ip("-6", "route", "add", "local", "::/0", "dev", "lo", "table", "100")
        lab.pods.append(self)

    @property
    def identity(self):
        return "spiffe://cluster.local/ns/%s/sa/%s" % (self.ns, self.sa)

    def workload(self, **more):
        w = dict(uid="Kubernetes//Pod/%s/%s" % (self.ns, self.name), name=self.name,
                 namespace=self.ns, serviceAccount=self.sa, workloadIps=[self.ip],
                 protocol="HBONE" if self.captured else "TCP", node=self.lab.node_name,
                 workloadName=self.name, canonicalName=self.name, canonicalRevision="v1",
                 services={})
        w.update(more)
        return w

    def make_listeners(self):
        """The sockets that a custody agent makes; kept here as duplicates (ztunnel-spec 1.6)."""
        if self.custody:
            return self.custody

        def make():
            out = []
            for port in PORTS:
                s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                s.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
                s.setblocking(False)
                s.bind(("::", port))
                s.listen(4096)
                out.append(s)
            return out
        self.custody = self.net.call(make)
        return self.custody

    def serve(self, port, handler, ipv6=False):
        srv = Server(self.net, port, handler, ipv6)
        self.servers.append(srv)
        return srv

    def close(self):
        for s in self.servers:
            s.close()
        for s in self.custody:
            s.close()
        self.net.close()


class Server(threading.Thread):
    """Accepts on a port of a namespace; handler(sock, peer) runs on a thread per connection."""

    def __init__(self, net, port, handler, ipv6=False):
        super().__init__(daemon=True)
        self.handler, self.peers, self.conns = handler, [], []
        self.sock = net.socket(socket.AF_INET6 if ipv6 else socket.AF_INET)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ipv6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.sock.bind(("::" if ipv6 else "0.0.0.0", port))
        self.sock.listen(512)
        self.start()

    def run(self):
        while True:
            try:
                c, peer = self.sock.accept()
            except OSError:
                return
            self.peers.append(peer)
            self.conns.append(c)
            threading.Thread(target=self.serve_one, args=(c, peer), daemon=True).start()

    def serve_one(self, c, peer):
        try:
            self.handler(c, peer)
        except OSError:
            pass
        finally:
            c.close()

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


def reset(s):
    """Closes with a reset."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def read_all(s):
    """(bytes, how it ended: "eof" or "reset")."""
    out = []
    while True:
        try:
            d = s.recv(1 << 16)
        except ConnectionResetError:
            return b"".join(out), "reset"
        if not d:
            return b"".join(out), "eof"
        out.append(d)


def read_exact(s, n):
    out = b""
    while len(out) < n:
        d = s.recv(n - len(out))
        if not d:
            raise AssertionError("end after %d of %d bytes" % (len(out), n))
        out += d
    return out


def double_echo(c, _peer):
    """What comes goes back twice (ztunnel-spec 15.1)."""
    while True:
        d = c.recv(65536)
        if not d:
            return
        c.sendall(d + d)


def http_hello(c, peer):
    """One answer per connection; says whom it sees."""
    d = b""
    while b"\r\n\r\n" not in d:
        x = c.recv(4096)
        if not x:
            return
        d += x
    body = ("hello %s\n" % peer[0]).encode()
    c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
              + body)


# --- ZDS -----------------------------------------------------------------------------------------

def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(no, data):
    if isinstance(data, int):
        return varint(no << 3) + varint(data)
    if isinstance(data, str):
        data = data.encode()
    return varint(no << 3 | 2) + varint(len(data)) + data


def parse(data):
    """{field number: [values]}"""
    out, i = {}, 0

    def num():
        nonlocal i
        v = s = 0
        while True:
            b = data[i]
            i += 1
            v |= (b & 127) << s
            s += 7
            if b < 128:
                return v
    while i < len(data):
        key = num()
        if key & 7 == 0:
            v = num()
        else:
            n = num()
            v = data[i:i + n]
            i += n
        out.setdefault(key >> 3, []).append(v)
    return out


def zds_add(pod, ports=(), version=0, credential=False):
    info = field(1, pod.name) + field(2, pod.ns) + field(3, pod.sa)
    packed = b"".join(varint(p) for p in ports)
    return field(1, field(1, pod.uid) + field(2, info) + (field(16, packed) if packed else b"")
                 + (field(17, version) if version else b"") + (field(18, 1) if credential else b""))


ZDS_SNAPSHOT = field(3, b"")


class Agent:
    """The other end of ztunnel's socket."""

    def __init__(self, path, version):
        self.path, self.version = path, version
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen(8)
        self.listener.settimeout(TIMEOUT)
        self.conn = None
        self.held = []
        self.kept = {}  # version 3: identity: descriptor of its credential

    def accept(self):
        if self.conn:
            self.conn.close()
        self.conn, _ = self.listener.accept()
        self.conn.settimeout(TIMEOUT)
        hello = parse(self.conn.recv(1024))
        self.peer_version = hello[1][0]
        self.held = []
        for _ in range(hello.get(16, [0])[0]):
            data, fds = self.recv()
            msg = parse(parse(data)[16][0])
            self.held.append((msg[1][0].decode(), msg.get(2), fds))
        return self.peer_version

    def recv(self):
        data, fds, flags, _ = socket.recv_fds(self.conn, 1024, 16)
        for fd in fds:
            os.set_inheritable(fd, False)
        return data, fds

    def exchange(self, data, fds=()):
        """Sends one packet; the ack's error text, or None when the peer closed."""
        if fds:
            socket.send_fds(self.conn, [data], list(fds))
        else:
            self.conn.send(data)
        return self.read_ack()

    def read_ack(self):
        while True:
            try:
                r, fds = self.recv()
            except ConnectionError:
                return None
            if not r:
                return None
            if not self.keep_credential(parse(r), fds):
                return parse(parse(r)[1][0]).get(1, [b""])[0].decode()

    def keep_credential(self, m, fds):
        if 18 not in m:
            assert not fds
            return False
        assert self.version >= 3 and len(fds) == 1, (m, fds)
        self.forget(parse(m[18][0])[1][0].decode())
        self.kept[parse(m[18][0])[1][0].decode()] = fds[0]
        return True

    def collect(self, want):
        """Reads credentials until these identities are kept."""
        end = time.monotonic() + TIMEOUT
        while not set(want) <= set(self.kept):
            assert time.monotonic() < end, (want, list(self.kept))
            r, fds = self.recv()
            assert self.keep_credential(parse(r), fds), r

    def forget(self, identity):
        if identity in self.kept:
            os.close(self.kept.pop(identity))

    def closed(self):
        """True when ztunnel closed the connection."""
        try:
            return self.conn.recv(1024) == b""
        except ConnectionError:
            return True

    def add(self, pod):
        if self.version >= 2:
            fds = [pod.net.fd] + [s.fileno() for s in pod.make_listeners()]
            if self.version == 2:
                return self.exchange(zds_add(pod, PORTS), fds)
            kept = self.kept.get(pod.identity)
            return self.exchange(zds_add(pod, PORTS, self.version, kept is not None),
                                 fds + ([] if kept is None else [kept]))
        return self.exchange(zds_add(pod), [pod.net.fd])

    def delete(self, pod):
        return self.exchange(field(2, field(2, pod.uid)))

    def keep(self, pod):
        return self.exchange(field(5, field(1, pod.uid)))

    def snapshot(self):
        return self.exchange(ZDS_SNAPSHOT)

    def serve(self, pods):
        """The whole of a connection's start: every pod, then the snapshot."""
        self.accept()
        for p in pods:
            err = self.add(p)
            assert err == "", err
        assert self.snapshot() == ""

    def close(self):
        if self.conn:
            self.conn.close()
        self.listener.close()
        for identity in list(self.kept):
            self.forget(identity)
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


# --- certificates --------------------------------------------------------------------------------

class Root:
    """A CA for hostile or proper peers: a new one, or ztunnel's development root."""

    def __init__(self, directory=None):
        if directory:
            with open(directory + "/dev-root.key", "rb") as f:
                self.key = serialization.load_pem_private_key(f.read(), None)
            with open(directory + "/dev-root.pem", "rb") as f:
                self.cert = x509.load_pem_x509_certificate(f.read())
            return
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "some other root")])
        now = datetime.datetime.utcnow()
        self.cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
                     .public_key(self.key.public_key()).serial_number(1)
                     .not_valid_before(now - datetime.timedelta(hours=1))
                     .not_valid_after(now + datetime.timedelta(days=1))
                     .add_extension(x509.BasicConstraints(True, 0), True)
                     .sign(self.key, hashes.SHA256()))

    def issue(self, lab, uris, start=-3600, end=3600, tag="peer"):
        """Writes a certificate with these URI names; (chain path, key path)."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.utcnow()
        b = (x509.CertificateBuilder().subject_name(x509.Name([]))
             .issuer_name(self.cert.subject).public_key(key.public_key())
             .serial_number(x509.random_serial_number())
             .not_valid_before(now + datetime.timedelta(seconds=start))
             .not_valid_after(now + datetime.timedelta(seconds=end))
             .add_extension(x509.BasicConstraints(False, None), True)
             .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH,
                                                   ExtendedKeyUsageOID.CLIENT_AUTH]), False))
        if uris:
            b = b.add_extension(x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(u) for u in uris]), True)
        cert = b.sign(self.key, hashes.SHA256())
        lab.serial += 1
        paths = tuple(os.path.join(lab.dir, "%s-%d.%s" % (tag, lab.serial, e))
                      for e in ("pem", "key"))
        with open(paths[0], "wb") as f:
            f.write(cert.public_bytes(serialization.Encoding.PEM))
        with open(paths[1], "wb") as f:
            f.write(key.private_bytes(serialization.Encoding.PEM,
                                      serialization.PrivateFormat.PKCS8,
                                      serialization.NoEncryption()))
        return paths


def tls_context(lab, cert=None, server=False):
    """TLS 1.3 with ALPN h2; trusts the development root; no host names."""
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname = False
    ctx.minimum_version = ssl.TLSVersion.TLSv1_3
    ctx.set_alpn_protocols(["h2"])
    ctx.load_verify_locations(os.path.join(lab.ca_dir, "dev-root.pem"))
    ctx.verify_mode = ssl.CERT_REQUIRED
    if cert:
        ctx.load_cert_chain(*cert)
    return ctx


# --- state ---------------------------------------------------------------------------------------

class Tagged:
    """A YAML scalar or list with an application tag: Tagged("Exact", "text")."""

    def __init__(self, tag, value):
        self.tag, self.value = tag, value


def _represent(dumper, t):
    if t.value is None:
        return dumper.represent_sequence("!" + t.tag, [])
    return dumper.represent_scalar("!" + t.tag, t.value)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


_Dumper.add_representer(Tagged, _represent)


def exact(text):
    return Tagged("Exact", text)


def policy(name, action, match, ns="default", scope="Namespace", **more):
    p = dict(name=name, namespace=ns, scope=scope, action=action, rules=[[[match]]])
    p.update(more)
    return p


# --- ztunnel -------------------------------------------------------------------------------------

class Ztunnel:
    def __init__(self, lab, binary, env, stderr=None):
        self.lab = lab
        self.log_path = os.path.join(lab.dir, "ztunnel.%d.log" % lab.next_log())
        self.log_file = open(self.log_path, "wb")
        self.proc = subprocess.Popen(["ip", "netns", "exec", lab.node.name, binary, "proxy"],
                                     env=env, stdin=subprocess.DEVNULL, stdout=self.log_file,
                                     stderr=stderr or self.log_file)
        self.pid = self.proc.pid

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def sanitizer_report(self):
        """What a sanitizer said, also of a process that it ended while a test looked elsewhere; "" for nothing."""
        at = re.search(r"(?m)^.*(\w+Sanitizer:|runtime error: )", self.log())
        return self.log()[at.start():at.start() + 8000] if at else ""

    def lines(self, *words):
        return [x for x in self.log().rpartition("\n")[0].splitlines() if all(w in x for w in words)]

    def wait_line(self, *words, timeout=TIMEOUT):
        return wait_for("a log line with %s" % (words,), lambda: self.lines(*words), timeout)[-1]

    def http(self, port, path, method="GET", headers=(), timeout=TIMEOUT):
        """(status, body)"""
        s = self.lab.node.connect(("127.0.0.1", port), timeout)
        with s:
            extra = "".join("%s: %s\r\n" % h for h in headers)
            s.sendall(("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n"
                       % (method, path, extra)).encode())
            data = b""
            while True:
                d = s.recv(65536)
                if not d:
                    break
                data += d
        head, _, body = data.partition(b"\r\n\r\n")
        if not head:
            raise ConnectionError("closed without an answer")
        if b"chunked" in head.lower():
            body = b"".join(_chunks(body))
        return int(head.split()[1]), body.decode()

    def ready(self):
        try:
            return self.http(15021, "/healthz/ready", timeout=2)[0] == 200
        except OSError:
            return False

    def wait_ready(self):
        wait_for("ztunnel to be ready", lambda: self.ready() or self.check_alive())

    def check_alive(self):
        if self.proc.poll() is not None:
            raise AssertionError("ztunnel ended with %s:\n%s" % (self.proc.returncode, self.log()))
        return False

    def dump(self):
        return json.loads(self.http(15000, "/config_dump")[1])

    def metric(self, name, **labels):
        """Sum of the samples with these labels."""
        total = 0.0
        for line in self.http(15020, "/metrics")[1].splitlines():
            if not line.startswith(name + "{") and not line.startswith(name + " "):
                continue
            if all('%s="%s"' % kv in line for kv in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def rss_kb(self):
        with open("/proc/%d/status" % self.pid) as f:
            for line in f:
                if line.startswith("VmRSS"):
                    return int(line.split()[1])
        return 0

    def signal(self, sig):
        os.kill(self.pid, sig)

    def wait(self, timeout=4 * TIMEOUT):
        return self.proc.wait(timeout)

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()

    def stop(self):
        """The ordinary way out; what sanitizers find makes it fail."""
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.wait()  # leak checkers take their time
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("ztunnel did not end after SIGTERM:\n" + self.log())
        return self.proc.returncode


def _chunks(body):
    while body:
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        if n == 0:
            return
        yield body[:n]
        body = body[n + 2:]


class Lab:
    count = 0
    node_name = "node1"
    gateway = "10.77.0.1"

    def __init__(self, bin_dir, zds_version=2, env=(), ipv6=False):
        self.ipv6 = ipv6
        self.bin = os.path.join(os.path.abspath(bin_dir), "ztunnel")
        self.dir = tempfile.mkdtemp(prefix="ztlab-")
        Lab.count += 1
        self.prefix = "zt%d-%d" % (os.getpid(), Lab.count)
        self.ca_dir = os.path.join(self.dir, "ca")
        self.state_path = os.path.join(self.dir, "state.yaml")
        self.pods, self.serial, self.logs = [], 0, 0
        self.zts = []
        self.node = Namespace(self.prefix + "-node")
        # a fixed address: otherwise it is the lowest of its ports', and changes while pods that are there know the old one
        self.node.ip("link", "add", "br0", "address", "02:00:00:00:01:%02x" % (Lab.count & 255), "type", "bridge")
        self.node.ip("addr", "add", self.gateway + "/24", "dev", "br0")
        self.node.ip("link", "set", "br0", "up")
        if ipv6:
            self.node.ip("addr", "add", "fd77::1/64", "dev", "br0", "nodad")
        self.agent = Agent(os.path.join(self.dir, "zds.sock"), zds_version)
        self.extra_env = dict(env)

    def etc(self, **files):
        """Files that the node's programs see in /etc (`ip netns exec` shows them there): name, with _ for a dot, and text."""
        folder = "/etc/netns/" + self.node.name
        os.makedirs(folder, exist_ok=True)
        for name, text in files.items():
            with open(os.path.join(folder, name.replace("_", ".")), "w") as f:
                f.write(text)

    def next_log(self):
        self.logs += 1
        return self.logs

    def pod(self, name, host, **kw):
        return Pod(self, name, "10.77.0.%d" % host, **kw)

    def env(self):
        e = {"PATH": os.environ["PATH"], "LOCAL_XDS_PATH": self.state_path,
             "NODE_NAME": self.node_name, "INPOD_UDS": self.agent.path,
             "INPOD_ZDS_VERSION": str(self.agent.version), "AMBIENT_DEV_CA_DIR": self.ca_dir,
             "AMBIENT_ADMIN_SOCKET": os.path.join(self.dir, "admin.sock"),
             "AMBIENT_STATE_DIR": os.path.join(self.dir, "kept"),
             "ENABLE_ORIG_SRC": "true"}
        for k in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"):
            if k in os.environ:
                e[k] = os.environ[k]
        e.update(self.extra_env)
        return e

    def state(self, workloads=None, services=(), policies=()):
        """Writes the state file as a whole (rename)."""
        if workloads is None:
            workloads = [p.workload() for p in self.pods]
        self.write_state(yaml.dump(dict(workloads=list(workloads), services=list(services),
                                        policies=list(policies)), Dumper=_Dumper))

    def write_state(self, text):
        tmp = self.state_path + ".new"
        with open(tmp, "w") as f:
            f.write(text)
        os.rename(tmp, self.state_path)

    def start(self, serve=True, stderr=None, **env):
        e = self.env()
        e.update(env)
        zt = Ztunnel(self, self.bin, e, stderr)
        self.zts.append(zt)
        if serve:
            try:
                self.agent.serve([p for p in self.pods if p.captured])
            except (OSError, socket.timeout):
                zt.check_alive()
                raise AssertionError("ztunnel did not come to the agent:\n" + zt.log())
            zt.wait_ready()
        return zt

    def generation(self, zt):
        return zt.dump()["localState"]["generation"]

    def reload(self, zt, *args, **kw):
        """Writes a state and waits until it is in use."""
        before = self.generation(zt)
        self.state(*args, **kw)
        wait_for("the new state", lambda: self.generation(zt) > before)
        zt.dump()  # the number is the control thread's; a dump goes round the workers, behind the state

    def root(self):
        return Root(self.ca_dir)

    def close(self):
        for zt in self.zts:
            zt.kill()
        reports = [zt.sanitizer_report() for zt in self.zts]
        self.agent.close()
        for p in self.pods:
            p.close()
        self.node.close()
        for folder in (self.dir, "/etc/netns/" + self.node.name):
            shutil.rmtree(folder, ignore_errors=True)
        assert not any(reports), "\n".join(reports)


def join(near, far):
    """The bridges of two labs are one; @far gives up the addresses that both have."""
    far.node.ip("addr", "del", far.gateway + "/24", "dev", "br0")
    if far.ipv6:
        far.node.ip("addr", "del", "fd77::1/64", "dev", "br0")
    near.node.ip("link", "add", "join", "type", "veth", "peer", "name", "join", "netns", far.node.name)
    for lab in (near, far):
        lab.node.ip("link", "set", "join", "master", "br0", "up")


class Wire:
    """Every TCP packet with payload that crosses the node's bridge."""

    def __init__(self, lab):
        self.sock = lab.node.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                                        socket.htons(3)))
        self.sock.bind(("br0", 0))
        self.sock.setsockopt(263, 1, struct.pack("IHH8s", lab.node.call(
            lambda: socket.if_nametoindex("br0")), 1, 0, b""))  # PACKET_MR_PROMISC
        self.sock.setblocking(False)

    def packets(self):
        out = []
        while True:
            try:
                p = self.sock.recv(65536)
            except BlockingIOError:
                return out
            if p[12:14] == b"\x08\x00" and p[23] == 6:
                start, end = 14 + (p[14] & 15) * 4, 14 + struct.unpack("!H", p[16:18])[0]
                ends = [socket.inet_ntop(socket.AF_INET, p[i:i + 4]) for i in (26, 30)]
            elif p[12:14] == b"\x86\xdd" and p[20] == 6:
                start, end = 54, 54 + struct.unpack("!H", p[18:20])[0]
                ends = [socket.inet_ntop(socket.AF_INET6, p[i:i + 16]) for i in (22, 38)]
            else:
                continue
            tcp = p[start:end]
            data = tcp[(tcp[12] >> 4) * 4:]
            if data:
                sport, dport = struct.unpack("!HH", tcp[:4])
                out.append((ends[0], sport, ends[1], dport, data))

    def close(self):
        self.sock.close()


# --- TAP -----------------------------------------------------------------------------------------

class Skip(Exception):
    pass


def tap(tests):
    """Runs [(name, function)]; prints TAP; the exit status."""
    print("1..%d" % len(tests), flush=True)
    bad = 0
    for i, (name, fn) in enumerate(tests, 1):
        start = time.monotonic()
        try:
            fn()
            print("ok %d - %s" % (i, name), flush=True)
        except Skip as e:
            print("ok %d - %s # SKIP %s" % (i, name, e), flush=True)
        except Exception as e:  # reported as a failure, with where and why
            import traceback
            bad += 1
            print("not ok %d - %s" % (i, name), flush=True)
            for line in traceback.format_exc().splitlines() + str(e).splitlines():
                print("# " + line, flush=True)
        took = time.monotonic() - start
        if took > 5:
            print("# took %.1f s" % took, flush=True)
    return 1 if bad else 0
