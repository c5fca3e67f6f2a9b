#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System tests of ambient-agent: the real binary, pods that are network namespaces, and a ztunnel
that is this script. Run as root: test_agent.py --bin <directory> [name ...]. Prints TAP."""
import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

TAG = "ag%d" % os.getpid()
BIN = ""
PORTS = (15001, 15006, 15008)


class Skip(Exception):
    pass


def run(*argv, check=True):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and p.returncode != 0:
        raise AssertionError("%s: exit %d: %s" % (" ".join(argv), p.returncode, p.stdout))
    return p.stdout


def until(what, fn, seconds=10.0):
    """Polls fn until it gives something true; a wait without a limit is no test."""
    end = time.monotonic() + seconds
    while True:
        v = fn()
        if v:
            return v
        if time.monotonic() > end:
            raise AssertionError("not within %gs: %s (last: %r)" % (seconds, what, v))
        time.sleep(0.02)


# --- ZDS by hand: the bytes of cni-spec 4, not our encoder ---

def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(num, data):
    return varint(num << 3 | 2) + varint(len(data)) + data


def fields(buf):
    out, at = [], 0

    def num():
        nonlocal at
        v = s = 0
        while True:
            b = buf[at]
            at += 1
            v |= (b & 127) << s
            s += 7
            if b < 128:
                return v

    while at < len(buf):
        key = num()
        if key & 7 == 0:
            out.append((key >> 3, num()))
        else:
            n = num()
            out.append((key >> 3, buf[at:at + n]))
            at += n
    return out


ACK = b"\x0a\x00"


def nack(text):
    return field(1, field(1, text.encode()))


def ports_of(add):
    """Packed or not: both are right on the wire."""
    got = []
    for num, v in fields(add):
        if num == 16 and isinstance(v, int):
            got.append(v)
        elif num == 16:
            at = 0
            while at < len(v):
                n = s = 0
                while True:
                    b = v[at]
                    at += 1
                    n |= (b & 127) << s
                    s += 7
                    if b < 128:
                        break
                got.append(n)
    return tuple(got)


class Ztunnel:
    """A scripted peer. Requests are answered one by one by the test or by serve()."""

    def __init__(self, path, hello=b"\x08\x01", held=()):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.s.settimeout(10)
        self.s.connect(path)
        self.fds = []
        if hello is not None:
            self.s.send(hello)
        for uid, fds in held:
            self.send_held(uid, fds)

    def send_held(self, uid, fds, ports=PORTS):
        msg = field(16, field(1, uid.encode()) + field(2, b"".join(varint(p) for p in ports)))
        socket.send_fds(self.s, [msg], list(fds))

    def recv(self):
        buf, fds, flags, _ = socket.recv_fds(self.s, 1024, 16)
        assert flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) == 0
        self.fds += fds
        if not buf:
            raise EOFError("agent closed the connection")
        return buf, fds

    def expect(self, kind):
        """kind: add 1, del 2, sent 3, keep 5. Returns (payload, descriptors)."""
        buf, fds = self.recv()
        num, payload = fields(buf)[0]
        assert num == kind, "expected request %d, got %d: %s" % (kind, num, buf.hex())
        assert bool(fds) == (kind == 1), fds
        return payload, fds

    def snapshot(self):
        """Takes the whole snapshot; returns {uid: (payload, fds)}, None for a Keep."""
        got = {}
        while True:
            buf, fds = self.recv()
            num, payload = fields(buf)[0]
            self.s.send(ACK)
            if num == 3:
                return got
            uid = fields(payload)[0][1].decode()
            got[uid] = (payload, fds) if num == 1 else None

    def ack(self, data=ACK):
        self.s.send(data)

    def quiet(self, seconds=0.2):
        self.s.settimeout(seconds)
        try:
            buf, _ = self.recv()
        except socket.timeout:
            return
        finally:
            self.s.settimeout(10)
        raise AssertionError("unexpected packet " + buf.hex())

    def closed(self, seconds=8):
        self.s.settimeout(seconds)
        try:
            while True:
                self.recv()
        except (EOFError, ConnectionResetError):
            return True
        except socket.timeout:
            return False

    def close(self):
        self.s.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []


V2 = b"\x08\x02"


def v2(held):
    return V2 + b"\x80\x01" + varint(held)


# --- the agent and its surroundings ---

class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path, timeout=15):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Pod:
    def __init__(self, world, name, ns="default", ip=None, uid=None):
        self.world, self.name, self.ns = world, name, ns
        world.count += 1
        self.ip = ip or "10.77.0.%d" % world.count
        self.uid = uid or "%08x-0000-4000-8000-%012x" % (os.getpid(), world.count)
        self.new_netns()

    def new_netns(self):
        self.world.count += 1
        self.netns = "%s-%d" % (TAG, self.world.count)
        self.path = "/var/run/netns/" + self.netns
        self.cid = "c%d%s" % (self.world.count, "0" * 60)
        run("ip", "netns", "add", self.netns)
        self.world.netns.append(self.netns)
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        run("ip", "-n", self.netns, "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
        run("ip", "-n", self.netns, "link", "set", "peer0", "up")
        run("ip", "-n", self.netns, "addr", "add", self.ip + "/24", "dev", "eth0")
        run("ip", "-n", self.netns, "link", "set", "eth0", "up")

    def rules(self):
        return run("ip", "netns", "exec", self.netns, "nft", "list", "ruleset")

    def has_rules(self):
        return "istio-ambient" in self.rules()

    def routed(self):
        out = run("ip", "-n", self.netns, "rule") + run("ip", "-n", self.netns, "route", "show",
                                                        "table", "100", check=False)
        return "0x111" in out

    def listening(self):
        out = run("ip", "netns", "exec", self.netns, "ss", "-Hltn")
        return tuple(sorted({int(l.split()[3].rsplit(":", 1)[1]) for l in out.splitlines()}))

    def clean(self):
        return not self.has_rules() and not self.routed() and self.listening() == ()

    def manifest(self, labels=None, annotations=None, **more):
        meta = {"name": self.name, "namespace": self.ns, "uid": self.uid, "labels": labels or {},
                "annotations": annotations or {}}
        doc = {"apiVersion": "v1", "kind": "Pod", "metadata": meta,
               "spec": {"serviceAccountName": "sa-" + self.name},
               "status": {"phase": "Running", "podIP": self.ip}}
        doc.update(more)
        return doc

    def event(self, command="ADD", **more):
        e = {"command": command, "containerID": self.cid, "netns": self.path, "ifname": "eth0",
             "podName": self.name, "podNamespace": self.ns, "podUID": self.uid,
             "ips": [self.ip + "/24"], "deadlineMs": 9000}
        e.update(more)
        return e


class World:
    """One agent with its directories and its own 'host' namespace."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix=TAG)
        self.count = 0
        self.netns, self.peers = [], []
        self.proc = None
        self.log = open(self.dir + "/log", "w+b")
        os.mkdir(self.dir + "/m")
        self.host = TAG + "-host%d" % int(time.monotonic() * 1000)
        run("ip", "netns", "add", self.host)
        self.netns.append(self.host)
        run("ip", "-n", self.host, "link", "set", "lo", "up")
        self.zds = self.dir + "/zt/z.sock"
        self.sock = self.dir + "/run/pluginevent.sock"

    def start(self, *args, env=None, wrap=()):
        e = dict(os.environ, **(env or {}))
        for k in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"):
            if not env or k not in env:
                e.pop(k, None)
        argv = ["nsenter", "--net=/var/run/netns/" + self.host, *wrap, BIN + "/ambient-agent",
                "--manifests", self.dir + "/m", "--cni-agent-run-dir", self.dir + "/run",
                "--ztunnel-uds-address", self.zds, "--log", "debug"]
        if not any(a.startswith("--host-probes") for a in args):
            argv.append("--host-probes=off")
        self.proc = subprocess.Popen(argv + list(args), stderr=self.log, stdin=subprocess.DEVNULL,
                                     env=e)
        until("agent serves", self.serves)
        return self

    def serves(self):
        if self.proc.poll() is not None:
            raise AssertionError("agent ended with %d" % self.proc.returncode)
        try:
            return self.status()["source"]["synced"]
        except (ConnectionRefusedError, FileNotFoundError):
            return False

    def pid(self):
        return self.proc.pid

    def stop(self, sig=signal.SIGTERM):
        if self.proc is None:
            return None
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        rc = self.proc.wait(15)
        self.proc = None
        return rc

    def request(self, method, path, body=None, sock=None):
        c = UnixHTTP(sock or self.sock)
        try:
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            c.request(method, path, body=data)
            r = c.getresponse()
            return r.status, r.read().decode()
        finally:
            c.close()

    def cni(self, event):
        status, text = self.request("POST", "/v1/cni", event)
        return status, json.loads(text)

    def begin(self, event):
        """Sends an event; the answer is read later with end()."""
        c = UnixHTTP(self.sock)
        c.request("POST", "/v1/cni", body=json.dumps(event).encode())
        return c

    @staticmethod
    def end(c):
        r = c.getresponse()
        out = r.status, json.loads(r.read().decode())
        c.close()
        return out

    def status(self):
        code, text = self.request("GET", "/v1/status")
        assert code == 200, text
        return json.loads(text)

    def pod(self, p):
        found = [x for x in self.status()["pods"] if x["name"] == p.name]
        return found[-1] if found else {"state": "none"}

    def state(self, p):
        return self.pod(p)["state"]

    def put(self, name, *docs):
        tmp = self.dir + "/m/.tmp"
        with open(tmp, "w") as f:
            f.write("\n---\n".join(d if isinstance(d, str) else json.dumps(d) for d in docs))
        os.rename(tmp, "%s/m/%s" % (self.dir, name))

    def namespace(self, name="default", mode=None):
        self.put("ns-%s.yaml" % name, namespace(name, mode))

    def ztunnel(self, hello=b"\x08\x01", held=()):
        z = Ztunnel(self.zds, hello, held)
        self.peers.append(z)
        return z

    def ready_ztunnel(self, hello=b"\x08\x01", held=()):
        z = self.ztunnel(hello, held)
        z.got = z.snapshot()
        until("snapshot done", lambda: any(x["snapshot"] for x in self.status()["ztunnels"]))
        return z

    def add(self, pod, z, **more):
        """ADD with a well-behaved ztunnel; returns (answer, Add payload, descriptors)."""
        c = self.begin(pod.event(**more))
        payload, fds = z.expect(1)
        z.ack()
        return self.end(c), payload, fds

    def open_fds(self):
        out = []
        for f in os.listdir("/proc/%d/fd" % self.pid()):
            try:
                out.append(os.readlink("/proc/%d/fd/%s" % (self.pid(), f)))
            except FileNotFoundError:
                pass  # closed while we looked
        return sorted(out)

    def count_fds(self):
        """Smallest of a few looks: our own last request may still be closing."""
        counts = []
        for _ in range(5):
            counts.append(len(os.listdir("/proc/%d/fd" % self.pid())))
            time.sleep(0.005)
        return min(counts)

    def journal(self):
        return sorted(os.listdir(self.dir + "/run/attachments"))

    def logged(self):
        self.log.flush()
        with open(self.dir + "/log", errors="replace") as f:
            return f.read()

    def close(self):
        problem = None
        try:
            for z in self.peers:
                z.close()
            rc = self.stop()
            if rc not in (0, None, -signal.SIGKILL):
                problem = "agent ended with %r" % rc
        finally:
            if self.proc is not None:
                self.proc.kill()
                self.proc.wait()
            for n in self.netns:
                run("ip", "netns", "del", n, check=False)
            text = self.logged()
            self.log.close()
            shutil.rmtree(self.dir, ignore_errors=True)
        if "runtime error:" in text or "ERROR: " in text:
            problem = "sanitizer report"
        if problem:
            raise AssertionError(problem)


def namespace(name="default", mode=None):
    labels = {"istio.io/dataplane-mode": mode} if mode else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


TESTS = []


def test(fn):
    TESTS.append(fn)
    return fn


def has_faults():
    with open(BIN + "/ambient-agent", "rb") as f:
        return b"AMBIENT_AGENT_CRASH_AFTER" in f.read()


# --- stock exchange ---

@test
def v1_transcript_byte_for_byte(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app", uid="11111111-2222-3333-4444-555555555555")
    doc = p.manifest()
    doc["spec"]["serviceAccountName"] = "default"
    w.put("p.yaml", doc)
    w.start()
    z = w.ready_ztunnel()
    c = w.begin(p.event())
    buf, fds = z.recv()
    uid = p.uid.encode()
    assert buf == b"\x0a\x3f\x0a\x24" + uid + b"\x12\x17\x0a\x03app\x12\x07default\x1a\x07default", buf
    assert len(fds) == 1 and os.fstat(fds[0]).st_ino == os.stat(p.path).st_ino
    assert p.has_rules()
    assert p.listening() == (), "custody beside a stock ztunnel would take its connections"
    z.ack()
    status, a = w.end(c)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    assert w.state(p) == "enrolled"
    # a second ztunnel gets the pod in its snapshot, then SnapshotSent
    y = w.ztunnel()
    again, fds = y.recv()
    assert again == buf and len(fds) == 1
    y.ack()
    sent, fds = y.recv()
    assert sent == b"\x1a\x00" and not fds
    y.ack()
    # a delete goes to both
    w.cni(p.event("DEL"))
    for peer in (z, y):
        got, fds = peer.recv()
        assert got == b"\x12\x26\x12\x24" + uid and not fds, got
        peer.ack()
    assert p.clean(), p.rules()


@test
def v2_hands_over_sockets_that_accept(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    (status, a), payload, fds = w.add(p, z)
    assert status == 200 and a["outcome"] == "enrolled", a
    assert ports_of(payload) == PORTS, payload.hex()
    assert len(fds) == 4 and os.fstat(fds[0]).st_ino == os.stat(p.path).st_ino
    for fd, port in zip(fds[1:], PORTS):
        with socket.socket(fileno=os.dup(fd)) as s:
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            assert s.getsockname()[1] == port
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x539
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
            assert s.getsockopt(socket.SOL_IP, 19) == 1, "IP_TRANSPARENT"
    # what comes while nobody accepts waits, and is then accepted
    client = subprocess.Popen(["ip", "netns", "exec", p.netns, sys.executable, "-c",
                               "import socket;s=socket.create_connection(('127.0.0.1',15008),5);"
                               "s.sendall(b'hello');print(s.recv(9).decode())"],
                              stdout=subprocess.PIPE)
    with socket.socket(fileno=os.dup(fds[3])) as s:
        s.settimeout(5)
        until("connection queued", lambda: "ESTAB" in run("ip", "netns", "exec", p.netns, "ss", "-Htn"))
        c, _ = s.accept()
        c.settimeout(5)
        assert c.recv(5) == b"hello"
        c.sendall(b"answered!")
        c.close()
    assert client.communicate(timeout=5)[0].strip() == b"answered!"
    st = w.pod(p)
    assert st["custody"] and st["rules"] == "present" and st["sockets"] == [str(x) for x in PORTS], st
    assert st["serviceAccount"] == "sa-app" and st["netnsInode"] == os.stat(p.path).st_ino
    # CHECK agrees, and notices a missing rule
    assert w.cni(p.event("CHECK"))[0] == 200
    run("ip", "netns", "exec", p.netns, "nft", "delete", "table", "inet", "istio-ambient-nat")
    status, a = w.cni(p.event("CHECK"))
    assert status == 500 and a["code"] == 999 and "missing" in a["details"], a


@test
def ztunnel_refuses_rolls_everything_back(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    before = w.count_fds()
    c = w.begin(p.event())
    z.expect(1)
    z.ack(nack("failure to start proxy"))
    status, a = w.end(c)
    assert (status, a["code"]) == (503, 11) and "failure to start proxy" in a["msg"], a
    z.expect(2)
    z.ack()
    z.close()
    assert p.clean() and w.journal() == [], p.rules()
    until("descriptors are back", lambda: w.count_fds() <= before)


@test
def ztunnel_that_never_answers(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    t = time.monotonic()
    status, a = w.cni(p.event(deadlineMs=700))
    assert (status, a["code"]) == (503, 11) and "in time" in a["msg"], a
    assert time.monotonic() - t < 3
    # (the sockets of the unread Add are in the connection's queue until it is closed)
    assert not p.has_rules() and not p.routed() and w.journal() == []
    # the connection whose answer is missing is closed: a late one would be taken for another's
    assert z.closed()
    z.close()
    assert p.clean()


@test
def no_ztunnel_no_pod(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "plain")
    w.put("p.yaml", p.manifest(), q.manifest(labels={"istio.io/dataplane-mode": "none"}))
    w.start()
    status, a = w.cni({"command": "STATUS"})
    assert (status, a["code"]) == (503, 50) and "no ztunnel" in a["msg"], a
    status, a = w.cni(p.event())
    assert (status, a["code"]) == (503, 50) and w.zds in a["msg"], a
    assert p.clean() and w.journal() == []
    # a pod outside the mesh is not held up
    status, a = w.cni(q.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh") and "none" in a["reason"], a
    w.ready_ztunnel()
    assert w.cni({"command": "STATUS"})[0] == 200


@test
def grace_after_ztunnel_left(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "one"), Pod(w, "two")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start("--ztunnel-grace", "2s")
    z = w.ready_ztunnel(V2)
    z.close()
    until("gone", lambda: w.status()["ztunnels"] == [])
    status, a = w.cni(p.event())
    assert (status, a["outcome"]) == (200, "enrolled") and "wait" in a["reason"], a
    assert w.state(p) == "pending" and p.listening() == PORTS
    until("grace over", lambda: w.cni({"command": "STATUS"})[0] == 503)
    status, a = w.cni(q.event())
    assert (status, a["code"]) == (503, 50), a
    z = w.ready_ztunnel(V2)
    assert set(z.got) == {p.uid} and len(z.got[p.uid][1]) == 4
    until("acknowledged", lambda: w.state(p) == "enrolled")


# --- what is in and what is not ---

@test
def unknown_is_an_error_never_outside(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.start()
    z = w.ready_ztunnel()
    t = time.monotonic()
    status, a = w.cni(p.event())
    assert (status, a["code"]) == (409, 11) and "not known" in a["msg"], a
    assert 0.5 < time.monotonic() - t < 4
    assert p.clean() and w.journal() == []
    # the namespace may be missing as well
    q = Pod(w, "app2", ns="other")
    w.put("q.yaml", q.manifest())
    status, a = w.cni(q.event())
    assert (status, a["code"]) == (409, 11) and "namespace other" in a["msg"], a
    # it may come while we wait
    c = w.begin(p.event())
    w.put("p.yaml", p.manifest())
    z.expect(1)
    z.ack()
    assert w.end(c)[1]["outcome"] == "enrolled"


@test
def labels_enrol_and_release_a_running_pod(w):
    w.namespace()
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    status, a = w.cni(p.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh"), a
    assert p.clean()
    base = w.count_fds()
    for _ in range(3):
        w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "ambient"}))
        payload, fds = z.expect(1)
        assert len(fds) == 4
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert p.has_rules() and p.listening() == PORTS
        w.put("p.yaml", p.manifest())
        z.expect(2)
        z.ack()
        until("released", lambda: w.state(p) == "not-in-mesh")
        assert not p.has_rules() and not p.routed(), p.rules()
        for fd in z.fds:
            os.close(fd)
        z.fds = []
        assert p.listening() == ()
    # the namespace's label counts for all its pods
    w.namespace(mode="ambient")
    z.expect(1)
    z.ack()
    until("enrolled", lambda: w.state(p) == "enrolled")
    w.namespace()
    z.expect(2)
    z.ack()
    until("released", lambda: w.state(p) == "not-in-mesh")
    until("no descriptor is left over", lambda: w.count_fds() == base)


@test
def finished_and_sidecar_pods_leave(w):
    w.namespace(mode="ambient")
    p = Pod(w, "job")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.put("p.yaml", p.manifest(status={"phase": "Succeeded"}))
    z.expect(2)
    z.ack()
    until("out", lambda: w.state(p) == "not-in-mesh")
    w.put("p.yaml", p.manifest())
    z.expect(1)
    z.ack()
    until("in", lambda: w.state(p) == "enrolled")
    w.put("p.yaml", p.manifest(annotations={"sidecar.istio.io/status": "{}"}))
    z.expect(2)
    z.ack()
    until("out", lambda: w.state(p) == "not-in-mesh")
    # a manifest that goes away says nothing about the pod: rules stay (fail closed) until DEL
    w.put("p.yaml", p.manifest())
    z.expect(1)
    z.ack()
    until("in", lambda: w.state(p) == "enrolled")
    os.unlink(w.dir + "/m/p.yaml")
    z.expect(2)
    z.ack()
    until("failed", lambda: w.state(p) == "failed")
    assert p.has_rules()
    assert w.cni(p.event("DEL"))[0] == 200
    assert not p.has_rules() and w.journal() == []


@test
def annotations_change_rules_live(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    before = p.rules()
    w.put("p.yaml", p.manifest(annotations={"ambient.istio.io/bypass-inbound-capture": "true"}))
    z.expect(1)
    z.ack()
    until("rules differ", lambda: p.rules() != before)
    until("in", lambda: w.state(p) == "enrolled")
    assert w.cni(p.event("CHECK"))[0] == 200
    w.put("p.yaml", p.manifest(annotations={"istio.io/reroute-virtual-interfaces": "a/b"}))
    until("named", lambda: "reroute-virtual-interfaces" in (w.pod(p)["error"] + w.pod(p)["reason"]))
    assert p.has_rules()


# --- sandboxes ---

@test
def add_again_and_sandbox_replaced(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    fds = w.count_fds()
    (status, a), _, _ = w.add(p, z)
    assert status == 200 and a["outcome"] == "enrolled"
    until("no leak", lambda: w.count_fds() == fds)
    old = p.netns
    p.new_netns()
    (status, a), payload, got = w.add(p, z)
    assert status == 200 and os.fstat(got[0]).st_ino == os.stat(p.path).st_ino, a
    assert [x["containerID"] for x in w.status()["pods"]] == [p.cid]
    assert len(w.journal()) == 1
    until("old descriptors are closed", lambda: w.count_fds() == fds)
    # a late DEL of the old sandbox harms nobody
    run("ip", "netns", "del", old)
    w.netns.remove(old)
    assert w.cni(p.event("DEL", containerID="c-old"))[0] == 200
    assert w.state(p) == "enrolled" and p.has_rules()


@test
def wrong_namespaces_are_refused(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    # another pod's, the node's, one without the address, no namespace at all, a relative path
    status, a = w.cni(q.event(netns=p.path))
    assert status == 500 and "is that of pod" in a["msg"], a
    status, a = w.cni(q.event(netns="/var/run/netns/" + w.host))
    assert (status, a["code"]) == (400, 4) and "node's own" in a["msg"], a
    status, a = w.cni(q.event(ips=["10.99.99.99/24"]))
    assert status == 500 and "10.99.99.99" in a["msg"], a
    status, a = w.cni(q.event(netns="/etc/passwd"))
    assert status == 400 and "namespace" in a["msg"], a
    status, a = w.cni(q.event(netns="run/netns/x"))
    assert status == 400 and "absolute" in a["msg"], a
    status, a = w.cni(q.event(netns="/var/run/netns/%s-none" % TAG))
    assert status == 500 and "No such file" in a["msg"], a
    assert q.clean() and p.has_rules() and w.state(q) == "none"


@test
def netns_gone_in_the_middle(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    fds = w.count_fds()
    c = w.begin(p.event())
    z.expect(1)
    run("ip", "netns", "del", p.netns)
    w.netns.remove(p.netns)
    z.ack()
    w.end(c)
    assert w.cni(p.event("DEL"))[0] == 200
    z.expect(2)
    z.ack()
    until("no leak", lambda: w.count_fds() == fds)
    assert w.journal() == []


@test
def pod_deleted_while_being_added(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    c = w.begin(p.event())
    z.expect(1)
    assert w.cni(p.event("DEL"))[0] == 200
    status, a = w.end(c)
    assert (status, a["code"]) == (503, 11) and "deleted" in a["msg"], a
    z.ack()
    z.expect(2)
    z.ack()
    z.quiet()
    z.close()
    assert p.clean() and w.journal() == []


@test
def garbage_collection(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    w.put("p.yaml", p.manifest(), q.manifest(labels={"istio.io/dataplane-mode": "none"}))
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.cni(q.event())
    valid = [{"containerID": p.cid, "ifname": "eth0"}]
    assert w.cni({"command": "GC", "validAttachments": valid})[0] == 200
    assert w.journal() == [p.cid + ".json"]
    assert w.cni({"command": "GC", "validAttachments": []})[0] == 200
    z.expect(2)
    z.ack()
    z.close()
    assert w.journal() == [] and p.clean()


# --- restart ---

@test
def killed_agent_finds_everything_again(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "plain")
    w.put("p.yaml", p.manifest(), q.manifest(labels={"istio.io/dataplane-mode": "none"}))
    w.start()
    z = w.ready_ztunnel(V2)
    _, _, fds = w.add(p, z)
    w.cni(q.event())
    w.stop(signal.SIGKILL)
    assert p.has_rules()
    # while the agent is away, and after: ztunnel's own sockets go on listening
    assert p.listening() == PORTS
    w.start()
    st = until("found", lambda: w.pod(p)["rules"] == "present" and w.pod(p))
    assert not st["custody"], "no second set of sockets beside those that ztunnel holds"
    held = fds[:4]
    y = w.ztunnel(v2(1), held=[(p.uid, held)])
    y.got = y.snapshot()
    assert len(y.got[p.uid][1]) == 4
    until("custody is back", lambda: w.pod(p)["custody"] and w.state(p) == "enrolled")
    # the very same socket: its kernel inode says so
    ours = w.open_fds()
    for fd in held[1:]:
        assert os.readlink("/proc/self/fd/%d" % fd) in ours
    # the running plain pod can still be enrolled
    w.put("p.yaml", p.manifest(), q.manifest())
    y.expect(1)
    y.ack()
    until("enrolled", lambda: w.state(q) == "enrolled")


@test
def killed_agent_without_held_sockets(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.stop(signal.SIGKILL)
    z.close()
    assert p.listening() == () and p.has_rules()
    w.start()
    y = w.ready_ztunnel(V2)
    assert len(y.got[p.uid][1]) == 4 and p.listening() == PORTS
    until("enrolled", lambda: w.state(p) == "enrolled")


@test
def wrong_held_sockets_are_refused(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    _, _, fp = w.add(p, z)
    _, _, fq = w.add(q, z)
    w.stop(signal.SIGKILL)
    w.start()
    base = w.count_fds()
    # other namespace; right namespace with the other pod's sockets
    y = w.ztunnel(v2(2))
    y.send_held(p.uid, fq)
    y.send_held(q.uid, [fq[0]] + fp[1:])
    y.got = y.snapshot()
    assert w.logged().count("that ztunnel holds are") == 2, w.logged()
    # no descriptor for each port: the connection ends
    x = w.ztunnel(v2(1))
    x.send_held(p.uid, fp[:2])
    assert x.closed()
    assert w.count_fds() <= base + 1 + 2 * 4


@test
def label_removed_while_agent_was_away(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert w.stop() == 0
    z.close()
    assert p.has_rules(), "a stop is no uninstall"
    w.namespace()
    w.start()
    until("released", lambda: w.state(p) == "not-in-mesh")
    until("rules gone", p.clean)


@test
def killed_between_any_two_steps_is_healed(w):
    if not has_faults():
        raise Skip("release build has no fault points")
    w.namespace(mode="ambient")
    steps = ("journal", "custody", "rules", "zds", "probes")
    for step in steps:
        p = Pod(w, "app-" + step)
        w.put("p-%s.yaml" % step, p.manifest())
        w.start(env={"AMBIENT_AGENT_CRASH_AFTER": step})
        z = w.ztunnel(V2)
        try:
            z.snapshot()
            c = w.begin(p.event())
            z.expect(1)
            z.ack()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            pass
        until("killed after " + step, lambda: w.proc.poll() is not None)
        assert w.proc.returncode == -signal.SIGKILL
        z.close()
        w.start()
        z = w.ready_ztunnel(V2)
        until("healed after " + step, lambda: w.state(p) == "enrolled" or z_serve(z))
        assert p.has_rules() and p.listening() == PORTS
        # the runtime saw an error: it deletes the sandbox
        assert w.cni(p.event("DEL"))[0] == 200
        os.unlink(w.dir + "/m/p-%s.yaml" % step)
        w.stop()
        z.close()
        assert p.clean(), step
    for step in ("leave-probes", "leave-zds", "leave-rules"):
        p = Pod(w, "out-" + step)
        w.put("p.yaml", p.manifest())
        w.start(env={"AMBIENT_AGENT_CRASH_AFTER": step})
        z = w.ready_ztunnel(V2)
        w.add(p, z)
        try:
            w.cni(p.event("DEL"))
        except (http.client.HTTPException, ConnectionError):
            pass
        until("killed after " + step, lambda: w.proc.poll() is not None)
        z.close()
        w.namespace()
        w.start()
        until("healed after " + step, lambda: w.state(p) in ("not-in-mesh", "none") and p.clean())
        w.cni(p.event("DEL"))
        w.stop()
        w.namespace(mode="ambient")


def z_serve(z):
    z.s.settimeout(0.05)
    try:
        z.recv()
        z.ack()
    except socket.timeout:
        pass
    finally:
        z.s.settimeout(10)
    return False


@test
def a_failing_step_is_undone(w):
    if not has_faults():
        raise Skip("release build has no fault points")
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    for step in ("journal", "custody", "rules", "zds", "probes"):
        w.start(env={"AMBIENT_AGENT_FAIL_IN": step})
        z = w.ready_ztunnel(V2)
        base = w.count_fds()
        c = w.begin(p.event())
        if step == "probes":
            z.expect(1)
            z.ack()
        status, a = w.end(c)
        assert status == 503 and a["code"] == 11, (step, a)
        if step == "probes":
            z.expect(2)
            z.ack()
        for fd in z.fds:
            os.close(fd)
        z.fds = []
        assert p.clean() and w.journal() == [], step
        until("no leak", lambda: w.count_fds() == base)
        w.stop()
        z.close()


# --- bad peers ---

@test
def bad_zds_packets(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    base = w.count_fds()
    null = os.open("/dev/null", os.O_RDONLY)
    for hello in (b"\x08", b"\xff" * 900, b"\x0a\x05ab", b"x" * 1500):
        z = w.ztunnel(hello)
        assert z.closed(), hello
    z = w.ztunnel(None)
    socket.send_fds(z.s, [b"\x08\x01"], [null])
    assert z.closed()
    z = w.ztunnel(v2(4000000))
    assert z.closed()
    # answers: without request, truncated, with descriptors, with too many
    z = w.ready_ztunnel()
    z.ack()
    assert z.closed()
    for answer, fds in ((b"\x0a", ()), (b"\x0a\x7f", ()), (ACK, (null,)), (ACK, (null,) * 12),
                        (b"\x82\x01\x00", ()), (b"\x00" * 2000, ())):
        z = w.ready_ztunnel(V2)
        c = w.begin(p.event())
        z.expect(1)
        socket.send_fds(z.s, [answer], list(fds))
        assert z.closed(), answer
        w.end(c)  # grace: waits in the queue, or an error; never a hang
        w.cni(p.event("DEL"))
        z.close()
    os.close(null)
    until("no leak", lambda: w.count_fds() == base)
    assert p.clean()


@test
def silent_peers_are_cut(w):
    w.start()
    z = w.ztunnel(None)
    y = w.ztunnel()
    assert z.closed(8) and y.closed(8), "hello and answer have a time limit"
    for _ in range(12):
        w.peers.append(Ztunnel(w.zds, None))
    assert len(w.status()["ztunnels"]) <= 8


@test
def newest_gets_adds_and_the_one_before_takes_over(w):
    w.namespace(mode="ambient")
    p, q, r = Pod(w, "p"), Pod(w, "q"), Pod(w, "r")
    w.put("p.yaml", p.manifest(), q.manifest(), r.manifest())
    w.start()
    a = w.ready_ztunnel(V2)
    w.add(p, a)
    # b stands in its snapshot: nothing waits for it, and it misses nothing
    b = w.ztunnel(V2)
    b.expect(1)
    w.add(q, a)
    b.ack()
    seen = b.snapshot()
    until("b has it", lambda: w.status()["ztunnels"][1]["snapshot"])
    if q.uid not in seen:
        payload, _ = b.expect(1)
        assert q.uid.encode() in payload
        b.ack()
    a.quiet()
    c = w.begin(r.event())
    b.expect(1)
    b.close()  # in the middle: the one before it is asked
    payload, _ = a.expect(1)
    assert r.uid.encode() in payload
    a.ack()
    assert w.end(c)[0] == 200


@test
def only_root_is_answered(w):
    w.start()
    os.chmod(w.dir, 0o755)
    for f, kind in ((w.sock, "SOCK_STREAM"), (w.zds, "SOCK_SEQPACKET")):
        assert os.stat(f).st_mode & 0o777 == 0o600
        os.chmod(f, 0o666)
        out = run("setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.%s)
s.settimeout(5)
s.connect(%r)
try:
    s.send(b"GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(repr(s.recv(4096)[:16]))
except OSError as e:
    print("refused", e)
""" % (kind, f))
        assert "403" in out or "b''" in out or "refused" in out, out
    assert "uid" not in w.request("GET", "/nope")[1]


@test
def bad_requests_are_named(w):
    w.start()
    ok = {"command": "ADD", "containerID": "c1", "netns": "/x", "podName": "a", "podNamespace": "b"}
    for change, code, word in (
            ({"command": "MOVE"}, 7, "command"), ({"containerID": "../x"}, 4, "containerID"),
            ({"containerID": "a" * 200}, 4, "containerID"), ({"containerID": 7}, 4, "containerID"),
            ({"netns": "x"}, 4, "netns"), ({"podName": "a/b"}, 4, "podName"),
            ({"podNamespace": ""}, 4, "podNamespace"), ({"ips": ["1.2.3"]}, 4, "ips"),
            ({"ips": "1.2.3.4"}, 4, "ips"), ({"ips": [1]}, 4, "ips"), ({"ips": ["1.1.1.1"] * 99}, 4, "ips"),
            ({"deadlineMs": -1}, 4, "deadlineMs"), ({"podUID": "x" * 99}, 4, "podUID")):
        status, a = w.cni(dict(ok, **change))
        assert (status, a["code"]) == (400, code) and word in a["msg"], (change, a)
    for body in (b"", b"{", b"[]", b"nul", b'{"command":"ADD","command":"DEL"}', b"[" * 60000):
        status, text = w.request("POST", "/v1/cni", body)
        assert status == 400 and json.loads(text)["code"] == 7, (body[:20], text)
    try:
        assert w.request("POST", "/v1/cni", b" " * 70000)[0] == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # cut while it was still being sent
    assert w.cni({"command": "STATUS"})[0] == 503
    assert w.request("GET", "/v1/cni")[0] == 405 and w.request("POST", "/x", b"{}")[0] == 404


# --- the stock plugin ---

@test
def stock_plugin_drives_us(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel()

    def event(**more):
        e = {"Netns": p.path, "PodName": p.name, "PodNamespace": p.ns,
             "IPs": [{"Interface": 2, "Address": {"IP": p.ip, "Mask": "////AA=="}, "Gateway": ""}]}
        e.update(more)
        return e

    for ips in (event()["IPs"], None):
        c = UnixHTTP(w.sock)
        c.request("POST", "/cmdadd", body=json.dumps(event(IPs=ips)).encode())
        payload, _ = z.expect(1)
        assert p.uid.encode() in payload
        z.ack()
        r = c.getresponse()
        assert (r.status, r.read()) == (200, b"")
        c.close()
    assert w.pod(p)["ips"] == [p.ip], w.pod(p)
    assert w.request("POST", "/cmdadd", b"")[0] == 400
    assert w.request("POST", "/cmdadd", b"{]")[0] == 400
    bad = event(IPs=[{"Address": {"IP": "garbage", "Mask": ""}}])
    status, text = w.request("POST", "/cmdadd", bad)
    assert status in (400, 500) and "garbage" in text, text
    status, text = w.request("POST", "/cmdadd", event(PodName="nobody", Netns=Pod(w, "x").path))
    assert status == 500 and "not known" in text, text
    # its log socket
    rec = json.dumps([json.dumps({"level": "warn", "time": "x", "msg": "from the plugin"}), "junk"])
    assert w.request("POST", "/log", rec.encode(), sock=w.dir + "/run/log.sock")[0] == 200
    until("logged", lambda: "from the plugin" in w.logged())


# --- manifests ---

@test
def bad_manifests_keep_the_last_good(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    for text, words in (
            ("kind: Pod\napiVersion: v1\nmetadata: {name: [x]}\n", ("p.yaml", "line 3", "name")),
            ("kind: Pod\napiVersion: v1\nmetadata:\n  name: a\nspec:\n  hostNetwork: maybe\n",
             ("p.yaml", "line 6", "hostNetwork")),
            ("kind: Pod\n  bad: [\n", ("p.yaml", "line")),
            (json.dumps(p.manifest(status={"podIP": "300.1.1.1"})), ("podIP", "300.1.1.1")),
            ("\n---\n".join([json.dumps(p.manifest())] * 2), ("twice",))):
        w.put("p.yaml", text)
        until("error names " + words[-1],
              lambda: all(x in w.status()["source"]["error"] for x in words))
        assert w.state(p) == "enrolled" and p.has_rules()
    w.put("p.yaml", p.manifest())
    until("good again", lambda: w.status()["source"]["error"] == "")
    # the same pod in two files is a mistake of the second
    w.put("q.yaml", p.manifest())
    until("named", lambda: "already defined" in w.status()["source"]["error"])
    # moved from one file to the other: no blink
    os.unlink(w.dir + "/m/p.yaml")
    until("moved", lambda: w.status()["source"]["error"] == "" and w.status()["source"]["pods"] == 1)
    z.quiet()
    assert w.state(p) == "enrolled"
    with open(w.dir + "/m/big.yaml", "w") as f:
        f.write("#" * (4 << 20) + "\n#\n")
    until("too large", lambda: "larger than" in w.status()["source"]["error"])


@test
def manifest_directory_may_come_late(w):
    os.rmdir(w.dir + "/m")
    p = Pod(w, "app")
    w.proc = subprocess.Popen(["nsenter", "--net=/var/run/netns/" + w.host, BIN + "/ambient-agent",
                               "--manifests", w.dir + "/m", "--cni-agent-run-dir", w.dir + "/run",
                               "--ztunnel-uds-address", w.zds, "--host-probes=off"], stderr=w.log)
    until("serves", lambda: os.path.exists(w.sock))
    status, a = w.cni({"command": "STATUS"})
    assert (status, a["code"]) == (503, 50) and "read" in a["msg"], a
    assert w.cni(p.event())[1]["code"] == 50
    os.mkdir(w.dir + "/m")
    w.put("l.json", {"kind": "List", "apiVersion": "v1",
                     "items": [namespace(), p.manifest(), {"kind": "Service", "apiVersion": "v1"}]})
    until("synced", lambda: w.status()["source"]["synced"] and w.status()["source"]["pods"] == 1)
    os.symlink("l.json", w.dir + "/m/s.yaml")
    until("a second name for the same is noticed",
          lambda: "already defined" in w.status()["source"]["error"])


# --- service manager ---

@test
def descriptor_store_and_activation(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    note = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    note.bind(w.dir + "/notify")
    note.settimeout(5)
    os.mkdir(w.dir + "/run")
    event = socket.socket(socket.AF_UNIX)
    event.bind(w.sock)
    os.chmod(w.sock, 0o600)
    event.listen(16)
    store = {}

    def notes():
        """Everything that was said to the service manager so far."""
        out = []
        note.settimeout(0.05)
        try:
            while True:
                buf, fds, _, _ = socket.recv_fds(note, 4096, 16)
                text = buf.decode()
                out.append(text)
                m = re.search("FDNAME=(.*)", text)
                if "FDSTORE=1" in text:
                    store.setdefault(m.group(1), []).extend(fds)
                elif "FDSTOREREMOVE=1" in text:
                    for fd in store.pop(m.group(1), []):
                        os.close(fd)
        except socket.timeout:
            return out

    def start():
        fds = [("pluginevent", event.fileno())] + [(n, f) for n, l in store.items() for f in l]
        for i, (_, f) in enumerate(fds):
            os.dup2(f, 100 + i, inheritable=True)
        script = ("import os,sys\nfor i in range(%d): os.dup2(100+i, 3+i, inheritable=True)\n"
                  "os.environ['LISTEN_PID']=str(os.getpid())\nos.execv(sys.argv[1], sys.argv[1:])" % len(fds))
        env = dict(os.environ, NOTIFY_SOCKET=w.dir + "/notify", LISTEN_FDS=str(len(fds)),
                   LISTEN_FDNAMES=":".join(n for n, _ in fds), WATCHDOG_USEC="400000")
        argv = ["nsenter", "--net=/var/run/netns/" + w.host, sys.executable, "-c", script,
                BIN + "/ambient-agent", "--manifests", w.dir + "/m", "--cni-agent-run-dir",
                w.dir + "/run", "--ztunnel-uds-address", w.zds, "--host-probes=off"]
        w.proc = subprocess.Popen(argv, stderr=w.log, env=env, close_fds=False)
        for i in range(len(fds)):
            os.close(100 + i)
        said = []
        until("ready", lambda: said.extend(notes()) or any("READY=1" in x for x in said))
        until("watchdog", lambda: said.extend(notes()) or any("WATCHDOG=1" in x for x in said))

    start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    notes()
    assert [len(x) for x in store.values()] == [4], store
    sockets = {os.readlink("/proc/self/fd/%d" % f) for f in list(store.values())[0][1:]}
    w.stop(signal.SIGKILL)
    z.close()
    # nobody but the service manager holds them now, and they still listen
    assert p.listening() == PORTS
    start()
    until("custody from the store", lambda: w.pod(p)["custody"])
    assert sockets <= set(w.open_fds())
    z = w.ready_ztunnel(V2)
    until("enrolled", lambda: w.state(p) == "enrolled")
    w.cni(p.event("DEL"))
    z.expect(2)
    z.ack()
    z.close()
    until("store is empty", lambda: notes() is not None and not store)
    assert p.listening() == () and not p.has_rules()
    note.close()
    event.close()


# --- running pods that nobody told us of; the kubelet ---

@test
def running_pod_is_found_by_its_cgroup(w):
    root = "/sys/fs/cgroup"
    if not os.path.exists(root + "/cgroup.procs"):
        root = "/sys/fs/cgroup/pids"
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    top = "%s/kubepods-%s" % (root, TAG)
    leaf = "%s/pod%s/%s" % (top, p.uid, "a" * 64)
    try:
        os.makedirs(leaf)
    except OSError as e:
        raise Skip("cannot make a cgroup: %s" % e) from e
    proc = None
    try:
        proc = subprocess.Popen(["ip", "netns", "exec", p.netns, "sleep", "600"])
        with open(leaf + "/cgroup.procs", "w") as f:
            f.write(str(proc.pid))
        until("in its namespace", lambda: os.stat("/proc/%d/ns/net" % proc.pid).st_ino == os.stat(p.path).st_ino)
        w.start()
        z = w.ready_ztunnel(V2)
        w.put("p.yaml", p.manifest())
        payload, fds = z.expect(1)
        z.ack()
        assert p.uid.encode() in payload and os.fstat(fds[0]).st_ino == os.stat(p.path).st_ino
        until("enrolled", lambda: w.state(p) == "enrolled")
        # a process with the UID in a namespace without the pod's address is not believed
        q = Pod(w, "liar", uid=p.uid[:-1] + "f")
        leaf2 = "%s/pod%s/%s" % (top, q.uid, "b" * 64)
        os.makedirs(leaf2)
        proc2 = subprocess.Popen(["ip", "netns", "exec", w.host, "sleep", "600"])
        with open(leaf2 + "/cgroup.procs", "w") as f:
            f.write(str(proc2.pid))
        w.put("q.yaml", q.manifest())
        z.quiet(0.5)
        assert w.state(q) == "none"
        proc2.kill()
        proc2.wait()
        # the runtime's DEL comes with an ID that we never saw
        w.cni(p.event("DEL"))
        z.expect(2)
        z.ack()
        assert not p.has_rules()
    finally:
        if proc is not None:
            proc.kill()
            proc.wait()
        for d, _, _ in os.walk(top, topdown=False):
            until("cgroup is empty", lambda d=d: rmdir(d))


def rmdir(d):
    try:
        os.rmdir(d)
        return True
    except OSError:
        return False


@test
def kubelet_probes_are_exempted(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    # a process of that name, in a pid namespace of its own so that no other agent sees it
    shutil.copy("/bin/sleep", w.dir + "/kubelet")
    script = "%s/kubelet 600 & exec \"$@\"" % w.dir
    w.start("--host-probes=auto", wrap=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                                        "sh", "-c", script, "sh"))

    def table():
        return run("ip", "netns", "exec", w.host, "nft", "list", "ruleset")

    until("rules of the node", lambda: "istio-inpod-probes-v4" in table())
    assert "skuid" in table(), table()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert p.ip in table() and p.uid in table(), table()
    w.cni(p.event("DEL"))
    z.expect(2)
    z.ack()
    assert p.ip not in table()
    os.kill(w.proc.pid, signal.SIGKILL)
    w.proc.wait()


# --- settings, size ---

@test
def settings_are_checked(w):
    for args, word in ((("--nope",), "--nope"), (("--log", "loud"), "loud"), (("x",), "x"),
                       (("--dns-capture", "maybe"), "true or false"), (("--manifests",), "--manifests"),
                       (("--manifests", "rel"), "absolute"), (("--ztunnel-grace", "1d"), "1d"),
                       (("--host-probe-snat-ip", "fd00::1"), "IPv4"), (("--host-probes", "on"), "auto")):
        p = subprocess.run([BIN + "/ambient-agent", *args], stderr=subprocess.PIPE, text=True, check=False)
        assert p.returncode == 2 and word in p.stderr, (args, p)
    p = subprocess.run([BIN + "/ambient-agent"], stderr=subprocess.PIPE, text=True, check=False,
                       env={"AMBIENT_DNS_CAPTURE": "x"})
    assert p.returncode == 2 and "AMBIENT_DNS_CAPTURE" in p.stderr, p
    assert "0.1" in run(BIN + "/ambient-agent", "--version") and "--manifests" in run(BIN + "/ambient-agent", "--help")


@test
def privileges_are_dropped(w):
    w.start()
    with open("/proc/%d/status" % w.pid()) as f:
        st = dict(l.split(":", 1) for l in f.read().splitlines())
    caps = int(st["CapEff"], 16)
    want = sum(1 << n for n in (2, 12, 13, 19, 21))
    assert caps == want and int(st["CapBnd"], 16) & ~want == 0, st["CapEff"]
    assert st["NoNewPrivs"].strip() == "1"
    if not has_faults():
        assert st["Seccomp"].strip() == "2"


@test
def fifty_pods_stay_small(w):
    w.namespace(mode="ambient")
    pods = [Pod(w, "p%d" % i) for i in range(50)]
    w.put("p.yaml", *[p.manifest() for p in pods])
    w.start()
    z = w.ready_ztunnel(V2)
    for p in pods:
        (status, a), _, _ = w.add(p, z)
        assert status == 200, a
        for fd in z.fds:
            os.close(fd)
        z.fds = []
    with open("/proc/%d/status" % w.pid()) as f:
        st = dict(l.split(":", 1) for l in f.read().splitlines())
    print("# 50 pods: VmRSS%s RssAnon%s" % (st["VmRSS"], st["RssAnon"]))
    if not has_faults():
        assert int(st["VmRSS"].split()[0]) < 12000, st["VmRSS"]


def main():
    global BIN
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    ap.add_argument("names", nargs="*")
    a = ap.parse_args()
    BIN = os.path.abspath(a.bin)
    if os.geteuid() != 0:
        print("1..0 # SKIP needs root")
        return 0
    chosen = [t for t in TESTS if not a.names or t.__name__ in a.names]
    failed = 0
    for n, t in enumerate(chosen, 1):
        w = World()
        name = "agent: " + t.__name__.replace("_", " ")
        try:
            try:
                t(w)
            except BaseException:
                for line in w.logged().splitlines()[-60:]:
                    print("# log: " + line)
                raise
            finally:
                w.close()
            print("ok %d - %s" % (n, name))
        except Skip as e:
            print("ok %d - %s # SKIP %s" % (n, name, e))
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print("not ok %d - %s" % (n, name))
        sys.stdout.flush()
    print("1..%d" % len(chosen))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
