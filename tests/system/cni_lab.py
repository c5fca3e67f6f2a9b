# SPDX-License-Identifier: Apache-2.0
"""cni_lab: what the tests of the CNI plugin share: a TAP printer, a scripted node agent, a caller of the plugin."""
import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import traceback


class Skip(Exception):
    """Raised by a test: the text names what is missing."""


class Tap:
    def __init__(self):
        self.tests, self.failed = [], 0

    def add(self, name):
        return lambda fn: self.tests.append((name, fn)) or fn

    def run(self):
        print(f"1..{len(self.tests)}", flush=True)
        for number, (name, fn) in enumerate(self.tests, 1):
            try:
                fn()
                print(f"ok {number} - {name}", flush=True)
            except Skip as why:
                print(f"ok {number} - {name} # SKIP {why}", flush=True)
            except Exception:  # a broken test is a failed test; the run goes on
                self.failed += 1
                for line in traceback.format_exc().splitlines():
                    print("# " + line)
                print(f"not ok {number} - {name}", flush=True)
        return 1 if self.failed else 0


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bin", required=True, help="directory with the built programs")
    return parser.parse_args()


def equal(got, want, what=""):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, expected {want!r}")


def contains(text, part, what=""):
    if part not in text:
        raise AssertionError(f"{what}: {part!r} is not in {text!r}")


def wait_for(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"did not happen in {seconds} s: {what}")
        time.sleep(0.005)


def http(status, body, extra=b""):
    """One complete answer, as a server with Connection: close gives it."""
    if isinstance(body, str):
        body = body.encode()
    return (b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), extra)) + body


def ours(status=200, **fields):
    return http(status, json.dumps(fields), b"Content-Type: application/json\r\n")


ENROLLED = ours(outcome="enrolled", reason="label on namespace")
NOT_IN_MESH = ours(outcome="not-in-mesh", reason="no label")
OK = ours(outcome="ok", reason="")


class Agent:
    """A node agent that does what the test says. `behave` is bytes to answer with, or a function(connection, request)
    that does as it likes before the connection is closed."""

    def __init__(self, path, behave=ENROLLED, backlog=64):
        self.path, self.behave = path, behave
        self.requests, self.connections = [], 0
        self.stop = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        os.chmod(path, 0o600)
        self.listener.listen(backlog)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.stop.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()
        if os.path.exists(self.path):
            os.unlink(self.path)

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with connection:
            try:
                request = read_request(connection)
                if request is None:
                    return
                self.requests.append(request)
                if callable(self.behave):
                    self.behave(connection, request)
                else:
                    connection.sendall(self.behave)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the plugin went away, as some tests want

    def only(self):
        equal(len(self.requests), 1, "requests that reached the agent")
        return self.requests[0]


class Request:
    def __init__(self, raw):
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.method, self.path, self.protocol = lines[0].split(" ")
        self.headers = dict(line.lower().split(": ", 1) for line in lines[1:])

    def json(self):
        return json.loads(self.body)


def read_request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return None
        data += part
    request = Request(data)
    while len(request.body) < int(request.headers["content-length"]):
        part = connection.recv(65536)
        if not part:
            return None
        data += part
        request = Request(data)
    return request


class Lab:
    """A private directory and a network namespace; calls the plugin."""

    def __init__(self, bin_dir):
        self.plugin = os.path.join(os.path.abspath(bin_dir), "ambient-cni")
        self.dir = tempfile.mkdtemp(prefix="ambient-cni-test-")
        self.netns_name = f"ambientcni{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.netns_name], check=True)
        self.netns = "/var/run/netns/" + self.netns_name
        with open(self.plugin, "rb") as f:
            self.sanitized = b"__asan_init" in f.read()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        subprocess.run(["ip", "netns", "del", self.netns_name], check=True)
        shutil.rmtree(self.dir)

    def socket(self):
        return os.path.join(self.dir, "pluginevent.sock")

    def env(self, verb, **change):
        """The environment of one call; a value None removes the variable."""
        env = {"PATH": os.environ["PATH"], "CNI_COMMAND": verb, "CNI_CONTAINERID": "c-1", "CNI_NETNS": self.netns,
               "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
               "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;"
                           "K8S_POD_INFRA_CONTAINER_ID=c-1;K8S_POD_UID=uid-1"}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"):
            if name in os.environ:
                env[name] = os.environ[name]
        env.update(change)
        return {k: v for k, v in env.items() if v is not None}

    def conf(self, **change):
        conf = {"cniVersion": "1.1.0", "name": "mesh", "type": "ambient-cni", "cni_agent_run_dir": self.dir}
        conf.update(change)
        return {k: v for k, v in conf.items() if v is not None}

    def start(self, verb, stdin=subprocess.PIPE, plugin=None, user=None, **env):
        return subprocess.Popen([plugin or self.plugin], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=self.env(verb, **env), user=user)

    def call(self, verb, conf=None, plugin=None, user=None, **env):
        """Runs one verb. `conf` is a dict, or the text of standard input."""
        text = self.conf() if conf is None else conf
        if isinstance(text, dict):
            text = json.dumps(text)
        if isinstance(text, str):
            text = text.encode()
        begin = time.monotonic()
        process = self.start(verb, plugin=plugin, user=user, **env)
        out, err = process.communicate(text, timeout=60)
        return Result(process.returncode, out, err, time.monotonic() - begin)


class Result:
    def __init__(self, rc, out, err, seconds):
        self.rc, self.out, self.err, self.seconds = rc, out, err.decode(), seconds

    def ok(self, out=None):
        if self.rc != 0:
            raise AssertionError(f"exit status {self.rc}: {self.out!r} {self.err!r}")
        if "Sanitizer" in self.err or "runtime error" in self.err:
            raise AssertionError(self.err)
        if out is not None:
            equal(self.out, out, "standard output")
        return self

    def result(self):
        self.ok()
        return json.loads(self.out)

    def failed(self, code, *parts, version="1.1.0"):
        """Checks the error object: code, version, and texts that msg or details must hold."""
        if self.rc != 1:
            raise AssertionError(f"exit status {self.rc}, expected 1: {self.out!r} {self.err!r}")
        error = json.loads(self.out)
        unknown = set(error) - {"cniVersion", "code", "msg", "details"}
        equal(unknown, set(), "keys of the error object")
        equal(error["code"], code, f"code of {error}")
        equal(error["cniVersion"], version, "cniVersion of the error")
        for part in parts:
            contains(error["msg"] + " | " + error.get("details", ""), part, "error")
        return error
