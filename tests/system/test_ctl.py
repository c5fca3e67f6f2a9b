#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_ctl: ambientctl as a person or a script runs it, against an agent and a ztunnel that answer, are away, hang, break
off, refuse or talk nonsense."""
import http.server
import json
import os
import pty
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tarfile
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
                a = answers.get(self.path, answers.get(self.path.split("?")[0]))
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
    bad["pods"][0].update(state="quarantined", error="no interface carries 10.9.9.9")
    with lab.both(agent={"/v1/status": bad}):
        has(lab.run("status"), 1, "1 quarantined", "pod shop/web is in quarantine, all its TCP is refused: no interface",
            "delete the pod")
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
        check("\033[32m" in lab.run("status", "--color", "always").stdout, "always: in a pipe too")
        check("\033" not in lab.run("--color=never", "status").stdout, "never")


def usage(lab):
    for args in ([], ["statu"], ["status", "pods"], ["--nope", "status"], ["-o", "xml", "status"], ["status", "-n"],
                 ["pods", "--color=blue"], ["-n", "shop", "pods"]):
        r = lab.run(*args)
        check(r.returncode == 2 and r.stdout == "" and r.stderr != "", f"usage of {args}", r)
    r = lab.run("--help")
    check(r.returncode == 0 and r.stdout.startswith("usage: ambientctl") and r.stderr == "", "help", r)
    r = lab.run("--version")
    check(r.returncode == 0 and r.stdout.startswith("ambientctl "), "version", r)
    r = lab.run("pods", "--help")
    check(r.returncode == 0 and "--namespace" in r.stdout and r.stderr == "", "help of a command", r)
    has(lab.run("pods", "-q"), 2, "ambientctl: invalid option -- 'q'")


def ready(lab):
    install = {"mode": "owned", "state": "installed", "reason": ""}
    rows = [  # what is changed in the agent's answer, exit status, text
        ({}, 0, "ready\n"),
        ({"install": install}, 0, "ready\n"),
        ({"install": dict(install, mode="off", state="")}, 0, "ready\n"),
        ({"ready": False, "reason": "no ztunnel", "ztunnels": []}, 0, "ready\n"),
        ({"source": dict(AGENT["source"], synced=False, error="401")}, 1, "not ready: pods have not been read yet: 401\n"),
        ({"install": dict(install, state="failed", reason="disk full")}, 1,
         "not ready: the plugin is not in the chain (failed): disk full\n"),
        ({"install": dict(install, state="")}, 1, "not ready: "),
        ({"source": None}, 1, "not ready: "),
        ({"source": []}, 3, "source"),
    ]
    for change, code, text in rows:
        with Fake(lab.a, {"/v1/status": dict(AGENT, **change)}):  # and no ztunnel
            has(lab.run("ready"), code, text)
    has(lab.run("ready"), 3, "there is no socket")


def checks(lab):
    conf = os.path.join(lab.dir, "net.d")
    os.mkdir(conf)
    plugin = os.path.join(os.path.dirname(lab.ctl), "ambient-cni")
    with open(os.path.join(conf, "10-a.conflist"), "w", encoding="ascii") as f:
        json.dump({"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "bridge"}, {"type": "ambient-cni"}]}, f)
    args = ("check", "--cni-conf-dir", conf, "--plugin", plugin)
    version = subprocess.run([plugin, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    agent = dict(AGENT, version=version)
    node = {"pid": 1, "descriptors": {"open": 20, "limit": 1000}, "probes": {"enabled": True, "active": True, "rules": "present"}}
    with lab.both(agent={"/v1/status": agent, "/v1/node": node}):
        r = lab.run(*args, "-o", "json")
        rows = {c["what"]: c for c in json.loads(r.stdout)["checks"]}
        want = {"agent": "ok", "ztunnel": "ok", "plugin version": "ok", "CNI chain": "ok", "other meshes": "ok", "CA": "warning",
                "versions": "warning", "probe exemption": "ok", "descriptors of the agent": "ok", "certificates": "ok",
                "NetworkPolicy and port 15008": "not-checked"}
        got = {k: rows[k]["result"] for k in want}
        check(got == want, f"rows {got}", r)
        check(all(c["fix"] for c in rows.values() if c["result"] in ("warning", "failed")), "each has its fix", r)
        if os.geteuid() == 0:  # the machine that runs the tests has what the mesh needs
            kernel = {k: c["result"] for k, c in rows.items() if k.startswith("kernel")}
            check(len(kernel) == 7 and set(kernel.values()) == {"ok"}, f"kernel: {kernel}", r)
            check(r.returncode == 0 and json.loads(r.stdout)["ok"] is True, "nothing failed", r)
        r = lab.run(*args)
        check(" 0 failed" in r.stdout and "-> " in r.stdout, "text", r)
    os.rename(os.path.join(conf, "10-a.conflist"), os.path.join(conf, "10-a.off"))
    r = lab.run(*args)
    has(r, 1, "there is no usable CNI configuration in " + conf, "the agent does not answer", "failed")
    # a kubeconfig that leads nowhere: said, within its time
    bad = os.path.join(lab.dir, "kubeconfig")
    with open(bad, "w", encoding="ascii") as f:
        f.write("clusters: 7\n")
    has(lab.run(*args, "--kubeconfig", bad), 1, bad + ":")
    with open(bad, "w", encoding="ascii") as f:
        f.write("current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
                "clusters: [{name: k, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n"
                "users: [{name: u, user: {token: secret-token}}]\n")
    r = lab.run(*args, "--kubeconfig", bad)
    has(r, 1, "the Kubernetes API: ")
    check("secret-token" not in r.stdout + r.stderr, "no token", r)


def bundle(lab):
    conf = os.path.join(lab.dir, "bundle.d")
    os.makedirs(os.path.join(conf, "calico.d"))
    planted = ["PLANTED" + str(i) for i in range(7)]
    pods = os.path.join(lab.dir, "pods")
    for folder, name, text in (
            ("mesh_ztunnel-x_1", "0.log", "old\n"), ("mesh_ztunnel-x_1", "1.log", f"a line\ntoken={planted[6]},x]\n"),
            ("mesh_ztunnel-x_1", "0.log.20260101-101010", "older\n"), ("mesh_ztunnel-x_1", "0.log.20260101-101010.gz", "z\n"),
            ("cni_istio-cni-node-y_2", "0.log", "filler line\n" * 300000 + "last line\n"), ("shop_web_3", "0.log", "not ours\n")):
        path = os.path.join(pods, folder, "c", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        os.utime(path, (1, 1 + len(os.listdir(os.path.dirname(path)))) if "older" not in text else (0, 0))
    with open(os.path.join(conf, "10-a.conflist"), "w", encoding="ascii") as f:
        json.dump({"name": "a", "plugins": [{"type": "x", "password": planted[0]}]}, f)
    with open(os.path.join(conf, "x-kubeconfig"), "w", encoding="ascii") as f:
        f.write("token: " + planted[1])
    agent = json.loads(json.dumps(AGENT))
    agent["pods"][0]["containerID"] = "c" * 64
    agent["pods"][0]["reason"] = "-----BEGIN PRIVATE" + " KEY-----\n" + planted[2] + "\n-----END PRIVATE" + " KEY-----"
    dump = dict(DUMP, config={"caToken": planted[3], "header": "Bearer " + planted[4]})
    rules = {"pods": [{"namespace": "shop", "name": "web", "lines": [], "secret": planted[5]}]}
    out = os.path.join(lab.dir, "b.tar")
    args = ("support-bundle", "--cni-conf-dir", conf, "--pod-logs-dir", pods, "--metrics", "127.0.0.1:1", "-o", out)
    with lab.both(agent={"/v1/status": agent, "/v1/rules": rules}, ztunnel={"/config_dump": dump}):
        r = lab.run(*args)
        has(r, 0, out, "could not be collected")
        check(os.stat(out).st_mode & 0o777 == 0o600, "mode of the archive")
        with open(out, "rb") as f:
            whole = f.read()
        left = [p for p in planted if p.encode() in whole]
        check(not left, f"secrets in the bundle: {left}")
        with tarfile.open(out) as t:
            names = [m.name.split("/", 1)[1] for m in t.getmembers()]
            manifest = json.load(t.extractfile(t.getmembers()[-1]))
            logs = {m.name.split("/", 1)[1]: t.extractfile(m).read().decode() for m in t.getmembers() if "/logs/" in m.name and
                    ".service" not in m.name}
        files = {e["name"]: e for e in manifest["files"]}
        got = {files[n]["source"][len(pods) + 1:]: (n, text) for n, text in logs.items()}
        check(set(got) == {"mesh_ztunnel-x_1/c/0.log", "mesh_ztunnel-x_1/c/1.log", "cni_istio-cni-node-y_2/c/0.log"},
              f"two newest logs of our pods, not those of others: {sorted(got)}")
        check(got["mesh_ztunnel-x_1/c/1.log"][1] == "a line\ntoken=[redacted]\n", "a log without its secret")
        name, text = got["cni_istio-cni-node-y_2/c/0.log"]
        check(files[name]["cut"] and text.startswith("filler line\n") and text.endswith("last line\n") and
              (2 << 20) - 20 < len(text) <= 2 << 20, "the last part of a long log")
        for want in ("status.txt", "pods.txt", "check.txt", "agent/status.json", "ztunnel/config_dump.json",
                     "rules/000_shop_web.json", "cni/00_10-a.conflist", "kernel/version"):
            check(want in names and files[want]["ok"], f"no {want} in {names}")
        check(sum(e.get("redacted", 0) for e in files.values()) >= 5, "the manifest counts what was taken out")
        for unit in ("ambient-agent", "ztunnel"):
            e = files[f"logs/{unit}.service.log"]
            check(e["ok"] or e["error"], f"the journal of {unit}: {e}")
        for gone in ("ztunnel/metrics.txt", "agent/node.json"):
            check(gone not in names and files[gone]["error"], f"{gone} is noted as missing")
        r = subprocess.run([lab.ctl, "--agent-socket", lab.a, "--ztunnel-socket", lab.z, *args[:-1], "-"],
                           stdout=subprocess.PIPE, timeout=60, check=True)
        check(r.stdout[257:262] == b"ustar", "the archive on standard output")
        big = dict(dump, blob="x" * (9 << 20))
    with lab.both(agent={"/v1/status": agent}, ztunnel={"/config_dump": big}):
        r = lab.run(*args, "--format", "json")
        has(r, 0)
        check(json.loads(r.stdout)["file"] == out and json.loads(r.stdout)["missing"] > 3, "json", r)
        with tarfile.open(out) as t:
            manifest = json.load(t.extractfile(t.getmembers()[-1]))
        cut = [e for e in manifest["files"] if e.get("cut") and "/0" not in e["name"]]
        check([(e["name"], e["bytes"]) for e in cut] == [("ztunnel/config_dump.json", 8 << 20)], f"cut: {cut}")
    has(lab.run(*args), 0)  # nobody answers: still a bundle
    has(lab.run(*args[:-1], "/nowhere/b.tar"), 1, "/nowhere")


def completion(lab):
    """bash completes commands, the options of each, and names of pods."""
    if shutil.which("bash") is None:
        raise AssertionError("bash is not installed")
    here = os.path.dirname(os.path.abspath(__file__))
    script = os.path.join(here, "../../install/completion/ambientctl.bash")
    wrapper = os.path.join(lab.dir, "ambientctl")
    with open(wrapper, "w", encoding="ascii") as f:
        f.write(f'#!/bin/sh\nexec {os.path.abspath(lab.ctl)} --agent-socket {lab.a} --ztunnel-socket {lab.z} "$@"\n')
    os.chmod(wrapper, 0o755)

    def complete(*words):
        quoted = " ".join(f"'{w}'" for w in (wrapper, *words))
        r = subprocess.run(["bash", "-c", f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _ambientctl; "
                            'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, timeout=30, check=False)
        check(r.returncode == 0 and r.stderr == "", f"completion of {words}", r)
        return r.stdout.split()

    listed = [line.split()[0] for line in lab.run("--help").stdout.split("commands:\n")[1].split("\n\n")[0].splitlines()]
    check(complete("") == listed and {"status", "rules", "check", "support-bundle"} <= set(listed), f"commands {complete('')}")
    check(complete("sup") == ["support-bundle"], "a beginning")
    for command in listed:
        got = complete(command, "--")
        want = sorted(re.findall(r"^  (?:-\w, |    )(--[a-z-]+)", lab.run(command, "--help").stdout, re.M))
        check(sorted(got) == want, f"options of {command}: {got}, {want}")
    check(complete("status", "-o", "") == ["text", "json"], "formats")
    with lab.both():
        check(lab.run("pods", "--names").stdout == "shop/web\n", "names")
        check(lab.run("pods", "--names", "-n", "x").stdout == "", "names of another namespace")
        check(complete("rules", "sh") == ["shop/web"], f"pods {complete('rules', 'sh')}")
        check(complete("pods", "-n", "") == ["shop"], "namespaces")
    check(lab.run("pods", "--names").returncode == 3, "names without an agent")
    check(complete("rules", "") == [], "nobody answers")


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
             ("colour only on a terminal", colour), ("usage", usage), ("check", checks), ("support bundle", bundle), ("completion", completion), ("ready", ready), ("output that cannot be written", full_disk),
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
