#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_ctl: ambientctl as a person or a script runs it, against an agent and a ztunnel that answer, are away, hang, break
off, refuse or talk nonsense."""
import http.server
import json
import os
import pty
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

AGENT = {"version": "9.9", "node": "n1", "ready": True, "reason": "",
         "source": {"kind": "manifests", "where": "/m", "synced": True, "pods": 1, "namespaces": 1, "error": ""},
         "ztunnels": [{"pid": 5, "version": 2, "snapshot": True, "newest": True}],
         "pods": [{"uid": "u1", "name": "web", "namespace": "shop", "serviceAccount": "front", "state": "enrolled",
                   "reason": "", "rules": "present", "ruleDiff": "", "sockets": ["15001", "15006", "15008"],
                   "custody": True, "error": ""}]}
DUMP = {"version": {"version": "8.8"}, "config": {"devCaDir": "/ca"},
        "certificates": [{"identity": "spiffe://td/ns/shop/sa/front", "state": "Available", "certChain": [
            {"pem": "", "serialNumber": "1", "validFrom": "2026-01-01T00:00:00Z", "expirationTime": "2099-01-01T00:00:00Z"}]}],
        "workloadState": {"u1": {"state": "Up", "connections": {"inbound": [], "outbound": []}}}}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        request, _ = super().get_request()
        return request, ("local", 0)


class Fake:
    """One program's socket. @answers: path -> object (sent as JSON) or bytes (the whole HTTP answer)."""

    def __init__(self, path, answers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                a = answers.get(self.path)
                if isinstance(a, bytes):
                    self.wfile.write(a)
                elif a is None:
                    self.send_response(404)
                    self.end_headers()
                else:
                    body = json.dumps(a).encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.path = path
        self.server = Server(path, Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        os.unlink(self.path)


class Lab:
    def __init__(self, bindir):
        self.ctl = os.path.join(bindir, "ambientctl")
        self.dir = tempfile.mkdtemp(prefix="test_ctl.")
        self.a = os.path.join(self.dir, "agent.sock")
        self.z = os.path.join(self.dir, "ztunnel.sock")

    def both(self, agent=None, ztunnel=None):
        class Both:
            def __enter__(both):
                both.fakes = [Fake(self.a, agent or {"/v1/status": AGENT}),
                              Fake(self.z, ztunnel or {"/config_dump": DUMP})]

            def __exit__(both, *exc):
                for f in both.fakes:
                    f.__exit__()

        return Both()

    def run(self, *args, **kw):
        return subprocess.run([self.ctl, "--agent-socket", self.a, "--ztunnel-socket", self.z, *args],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, **kw)


def check(cond, what, result=None):
    if not cond:
        more = f"\nstatus {result.returncode}\n{result.stdout}{result.stderr}" if result else ""
        raise AssertionError(what + more)


def has(result, code, *parts):
    check(result.returncode == code, f"exit status, expected {code}", result)
    for p in parts:
        check(p in result.stdout + result.stderr, f"no {p!r}", result)


def all_well(lab):
    with lab.both():
        has(lab.run("status"), 0, "9.9 on node n1, ready", "8.8", "/ca (development CA", "No problem found")
        r = lab.run("pods")
        has(r, 0, "NAMESPACE", "shop", "td/ns/shop/sa/front", "until 2099-01-01T00:00:00Z")
        check(r.stderr == "", "nothing on standard error", r)
        check("\033" not in r.stdout, "no colour in a pipe", r)


def json_output(lab):
    with lab.both():
        r = lab.run("-o", "json", "status")
        has(r, 0)
        d = json.loads(r.stdout)
        check(d["ok"] is True and d["problems"] == [], "ok", r)
        check(d["agent"]["version"] == "9.9" and d["ztunnel"]["version"] == "8.8", "versions", r)
        r = lab.run("pods", "--output=json", "-n", "shop")
        has(r, 0)
        pod = json.loads(r.stdout)["pods"][0]
        check(pod["certificate"]["identity"] == "spiffe://td/ns/shop/sa/front", "certificate", r)
        check(json.loads(lab.run("pods", "-o", "json", "-n", "x").stdout)["pods"] == [], "other namespace")


def away(lab):
    has(lab.run("status"), 1, "the agent does not answer: there is no socket " + lab.a, "ztunnel does not answer",
        "systemctl start ambient-agent")
    has(lab.run("pods"), 1, "the agent does not answer")
    r = lab.run("-o", "json", "pods")
    has(r, 1)
    check(json.loads(r.stdout)["ok"] is False, "ok is false", r)
    s = socket.socket(socket.AF_UNIX)
    s.bind(lab.a)  # a socket file that nobody listens on
    try:
        has(lab.run("status"), 1, "nobody listens on " + lab.a)
    finally:
        s.close()
        os.unlink(lab.a)


def one_away(lab):
    with Fake(lab.a, {"/v1/status": AGENT}):
        has(lab.run("pods"), 1, "?/ns/shop/sa/front", "certificates are unknown")
    with Fake(lab.z, {"/config_dump": DUMP}):
        has(lab.run("status"), 1, "8.8", "the agent does not answer")


def hangs(lab):
    listeners = []
    for path in (lab.a, lab.z):
        s = socket.socket(socket.AF_UNIX)
        s.bind(path)
        s.listen(8)
        listeners.append(s)
    start = time.monotonic()
    r = lab.run("status")
    took = time.monotonic() - start
    for s, path in zip(listeners, (lab.a, lab.z)):
        s.close()
        os.unlink(path)
    has(r, 1, lab.a + ": no answer in time", lab.z + ": no answer in time")
    check(9 < took < 30, f"5 s each, took {took:.1f} s")


def nonsense(lab):
    rows = [(b"", "no HTTP head"), (b"hello\r\n\r\n", "not an HTTP answer"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "ends after 1 of 100 bytes"),
            (b"HTTP/1.1 200 OK\r\n\r\n{\"ready\":}", "JSON line 1, offset 9"),
            (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100000, "nested too deeply"),
            (b"HTTP/1.1 200 OK\r\n\r\n{\"pods\":[{\"name\":7}]}", "pods[0].name (line 1): expected text, got number"),
            (b"HTTP/1.1 500 Oops\r\n\r\nbroken", "gave status 500: broken"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "run this as root"), (None, "gave status 404")]
    for raw, part in rows:
        with lab.both(agent={"/v1/status": raw}):
            has(lab.run("status"), 1, "the agent does not answer: ", part, "8.8")
    with lab.both(ztunnel={"/config_dump": b"HTTP/1.1 200 OK\r\n\r\n[]"}):
        has(lab.run("status"), 1, "ztunnel does not answer: ", "top level (line 1): expected map, got list", "9.9")


def problems(lab):
    bad = json.loads(json.dumps(AGENT))
    bad["pods"][0].update(state="failed", error="nft: \033[31mtable exists\n")
    with lab.both(agent={"/v1/status": bad}):
        r = lab.run("status")
        has(r, 1, "pod shop/web failed: nft: \\x1b[31mtable exists\\x0a")
        r = lab.run("pods")
        has(r, 1, "failed", "1 problem: see `ambientctl status`")
        check("\033" not in r.stdout, "control characters are escaped", r)
    with lab.both(ztunnel={"/config_dump": DUMP, "/healthz/ready": b"HTTP/1.0 500 x\r\n\r\nnot ready, pending: proxy\n"}):
        has(lab.run("status"), 1, "NOT READY", "ztunnel is not ready: not ready, pending: proxy")


def terminal(lab, **env):
    """The output of `status` on a terminal."""
    main, child = pty.openpty()
    p = subprocess.Popen([lab.ctl, "--agent-socket", lab.a, "--ztunnel-socket", lab.z, "status"], stdout=child,
                         env={"TERM": "xterm", **env})
    os.close(child)
    out = b""
    try:
        while True:
            got = os.read(main, 65536)
            if not got:
                break
            out += got
    except OSError:
        pass  # EIO: the other end is closed
    p.wait(timeout=30)
    os.close(main)
    return out


def colour(lab):
    with lab.both():
        check(b"\033[32m" in terminal(lab), "colour on a terminal")
        check(b"\033" not in terminal(lab, NO_COLOR="1"), "none with NO_COLOR")
        check(b"\033" not in terminal(lab, TERM="dumb"), "none on a dumb terminal")


def usage(lab):
    for args in ([], ["statu"], ["status", "pods"], ["--nope", "status"], ["-o", "xml", "status"], ["status", "-n"]):
        r = lab.run(*args)
        check(r.returncode == 2 and r.stdout == "" and r.stderr != "", f"usage of {args}", r)
    r = lab.run("--help")
    check(r.returncode == 0 and r.stdout.startswith("usage: ambientctl") and r.stderr == "", "help", r)
    r = lab.run("--version")
    check(r.returncode == 0 and r.stdout.startswith("ambientctl "), "version", r)


def full_disk(lab):
    with lab.both(), open("/dev/full", "w", encoding="ascii") as full:
        p = subprocess.run([lab.ctl, "--agent-socket", lab.a, "--ztunnel-socket", lab.z, "status"], stdout=full,
                           stderr=subprocess.PIPE, timeout=60)
        check(p.returncode == 1, f"output that cannot be written: status {p.returncode}")


def many(lab):
    big = json.loads(json.dumps(AGENT))
    pod = big["pods"][0]
    big["pods"] = [dict(pod, uid=f"u{i}", name=f"p{i}") for i in range(5000)]
    dump = json.loads(json.dumps(DUMP))
    dump["workloadState"] = {f"u{i}": DUMP["workloadState"]["u1"] for i in range(5000)}
    with lab.both(agent={"/v1/status": big}, ztunnel={"/config_dump": dump}):
        r = lab.run("pods")
        check(r.returncode == 0 and r.stdout.count("\n") == 5001, "5000 pods")


def main():
    lab = Lab(sys.argv[sys.argv.index("--bin") + 1])
    tests = [("all is well", all_well), ("json", json_output), ("both are away", away), ("one is away", one_away),
             ("both hang", hangs), ("answers that are none", nonsense), ("problems and control characters", problems),
             ("colour only on a terminal", colour), ("usage", usage), ("output that cannot be written", full_disk),
             ("5000 pods", many)]
    failed = 0
    for i, (name, fn) in enumerate(tests, 1):
        try:
            fn(lab)
            print(f"ok {i} - {name}", flush=True)
        except Exception as e:  # every failure is reported, then the next test runs
            failed += 1
            text = str(e).replace("\n", "\n# ")
            print(f"not ok {i} - {name}\n# {type(e).__name__}: {text}", flush=True)
    print(f"1..{len(tests)}")
    shutil.rmtree(lab.dir)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
