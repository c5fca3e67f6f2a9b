# SPDX-License-Identifier: Apache-2.0
"""agent_lab.py: what the agent's system tests share: the real binary, pods that are network namespaces,
and a ztunnel that is a script. A test file calls main(); it is run as root with --bin <directory>
[name of a test ...] and prints TAP."""
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

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from cri.daemon import descriptors  # noqa: E402

TAG = "ag%d" % os.getpid()
BIN = [""]
PORTS = (15001, 15006, 15008)
ANSWER_S = 60  # the longest that a scripted ztunnel waits for the agent


class Skip(Exception):
    pass


def run(*argv, check=True):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and p.returncode != 0:
        raise AssertionError("%s: exit %d: %s" % (" ".join(argv), p.returncode, p.stdout))
    return p.stdout


def until(what, fn, seconds=60.0):
    """Polls fn until it gives something true; a wait without a limit is no test. The agent itself tries some things again
    after up to half a minute."""
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
        self.s.settimeout(ANSWER_S)
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
            self.s.settimeout(ANSWER_S)
        raise AssertionError("unexpected packet " + buf.hex())

    def closed(self, seconds=20):
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
    def __init__(self, path, timeout=60):
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
        self.spawn(*args, env=env, wrap=wrap)
        until("agent serves", self.serves)
        return self

    def spawn(self, *args, env=None, wrap=()):
        e = dict(os.environ, **(env or {}))
        for k in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"):
            if not env or k not in env:
                e.pop(k, None)
        argv = ["nsenter", "--net=/var/run/netns/" + self.host, *wrap, BIN[0] + "/ambient-agent",
                "--manifests", self.dir + "/m", "--cni-agent-run-dir", self.dir + "/run",
                "--ztunnel-uds-address", self.zds, "--state-dir", self.dir + "/state", "--log", "debug"]
        if not any(a.startswith("--host-probes") for a in args):
            argv.append("--host-probes=off")
        if not any(a.startswith("--release-limit") for a in args):
            argv.append("--release-limit=1s")  # what is captured here ends nowhere: most ztunnels are scripted
        self.proc = subprocess.Popen(argv + list(args), stderr=self.log, stdin=subprocess.DEVNULL,
                                     env=e)

    def answers(self):
        try:
            return self.request("GET", "/v1/status")[0] == 200
        except OSError:
            return False

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
        rc = self.proc.wait(60)
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
        return descriptors(self.pid())

    def count_fds(self):
        """Smallest of some looks: our own last request may still be closing, for a while on a busy machine."""
        counts = []
        for _ in range(20):
            counts.append(len(os.listdir("/proc/%d/fd" % self.pid())))
            time.sleep(0.015)
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


class ServiceManager:
    """As much of systemd as the agent sees: a socket to be told things, a descriptor store, an activated socket."""

    def __init__(self, w):
        self.w, self.store = w, {}
        self.note = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.note.bind(w.dir + "/notify")
        os.mkdir(w.dir + "/run")
        self.event = socket.socket(socket.AF_UNIX)
        self.event.bind(w.sock)
        os.chmod(w.sock, 0o600)
        self.event.listen(16)

    def notes(self):
        """Everything that was said so far."""
        out = []
        self.note.settimeout(0.05)
        try:
            while True:
                buf, fds, _, _ = socket.recv_fds(self.note, 4096, 16)
                text = buf.decode()
                out.append(text)
                m = re.search("FDNAME=(.*)", text)
                if "FDSTORE=1" in text:
                    self.store.setdefault(m.group(1), []).extend(fds)
                elif "FDSTOREREMOVE=1" in text:
                    for fd in self.store.pop(m.group(1), []):
                        os.close(fd)
        except socket.timeout:
            return out

    def start(self):
        w = self.w
        fds = [("pluginevent", self.event.fileno())] + [(n, f) for n, l in self.store.items() for f in l]
        for i, (_, f) in enumerate(fds):
            os.dup2(f, 100 + i, inheritable=True)
        script = ("import os,sys\nfor i in range(%d): os.dup2(100+i, 3+i, inheritable=True)\n"
                  "os.environ['LISTEN_PID']=str(os.getpid())\nos.execv(sys.argv[1], sys.argv[1:])" % len(fds))
        env = dict(os.environ, NOTIFY_SOCKET=w.dir + "/notify", LISTEN_FDS=str(len(fds)),
                   LISTEN_FDNAMES=":".join(n for n, _ in fds), WATCHDOG_USEC="2000000")
        argv = ["nsenter", "--net=/var/run/netns/" + w.host, sys.executable, "-c", script,
                BIN[0] + "/ambient-agent", "--manifests", w.dir + "/m", "--cni-agent-run-dir",
                w.dir + "/run", "--ztunnel-uds-address", w.zds, "--host-probes=off"]
        w.proc = subprocess.Popen(argv, stderr=w.log, env=env, close_fds=False)
        for i in range(len(fds)):
            os.close(100 + i)
        said = []
        until("ready", lambda: said.extend(self.notes()) or any("READY=1" in x for x in said))
        until("watchdog", lambda: said.extend(self.notes()) or any("WATCHDOG=1" in x for x in said))

    def close(self):
        self.note.close()
        self.event.close()


def namespace(name="default", mode=None):
    labels = {"istio.io/dataplane-mode": mode} if mode else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


TESTS = []


def test(fn):
    TESTS.append(fn)
    return fn


def has_faults():
    with open(BIN[0] + "/ambient-agent", "rb") as f:
        return b"AMBIENT_AGENT_CRASH_AFTER" in f.read()


def z_serve(z):
    """Answers one request, if there is one: after a snapshot the agent may ask for a pod again whose own turn came meanwhile."""
    z.s.settimeout(0.05)
    try:
        z.recv()
        z.ack()
    except socket.timeout:
        pass
    finally:
        z.s.settimeout(ANSWER_S)
    return False


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    ap.add_argument("names", nargs="*")
    a = ap.parse_args()
    BIN[0] = os.path.abspath(a.bin)
    if os.geteuid() != 0:
        print("1..0 # SKIP needs root")
        return 0
    chosen = [t for t in TESTS if not a.names or t.__name__ in a.names]
    if a.names and len(chosen) != len(a.names):
        ap.error("no such test among " + " ".join(a.names))
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
