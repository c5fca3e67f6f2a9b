#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_systemd.py: the units of install/systemd under a real systemd, booted in a container of its own.

The container has this machine's /usr read-only and its own /etc, /run and network; systemd is its process 1. What is
proved: the units start, the event socket is systemd's (a call while the agent is away waits and starts it), and the
pods' listening sockets outlive `systemctl restart` and SIGKILL of the agent in the descriptor store, with nobody else
holding them.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
UNITS = os.path.join(HERE, "..", "..", "install", "systemd")
TMPFILES = os.path.join(HERE, "..", "..", "install", "tmpfiles")
SBIN = "/opt/ambient"
PORTS = (15001, 15006, 15008)
UID = "11111111-2222-3333-4444-555555555555"
MANIFEST = f"""apiVersion: v1
kind: Namespace
metadata:
  name: default
  labels: {{istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: default, uid: {UID}}}
spec:
  serviceAccountName: web
  nodeName: node1
  containers: [{{name: c, image: x}}]
status:
  podIP: 10.77.0.2
  podIPs: [{{ip: 10.77.0.2}}]
"""
STATE = """workloads:
- uid: cluster1//v1/Pod/default/web
  name: web
  namespace: default
  serviceAccount: web
  workloadIps: ["10.77.0.2"]
  protocol: HBONE
  node: node1
  network: ""
  services: {}
"""


class Failed(Exception):
    pass


def wait_for(what, condition, seconds=60):
    """Polls until @condition() is true and returns its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.05)


class Machine:
    """A booted container. Everything of it lies in @folder and in one control group, and ends with stop()."""

    options = ()  # more of systemd-nspawn's
    usr = ("--bind-ro=/usr",)

    def __init__(self, folder, bin_dir):
        self.bin_dir = bin_dir
        self.root = os.path.join(folder, "root")
        self.log = os.path.join(folder, "console.log")
        self.groups = [os.path.join(d, f"ambient-test-{os.getpid()}") for d in
                       ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup") if
                       os.path.exists(os.path.join(d, "cgroup.procs"))]
        self.proc = self.init = None
        self.lay_out(bin_dir)

    def write(self, path, text):
        full = self.root + path
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w") as f:
            f.write(text)

    def lay_out(self, bin_dir):
        for d in ("etc", "usr", "var", "run", "tmp", "proc", "sys", "dev", "root", "opt/ambient"):
            os.makedirs(os.path.join(self.root, d))
        for d in ("bin", "sbin", "lib", "lib64"):
            os.symlink("usr/" + d, os.path.join(self.root, d))
        self.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n")
        self.write("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
        self.write("/etc/machine-id", "%032x\n" % os.getpid())
        shutil.copy("/usr/lib/os-release", self.root + "/etc/os-release")
        for p in ("ambient-agent", "ztunnel", "ambientctl"):
            shutil.copy(os.path.join(bin_dir, p), self.root + SBIN)
        for u in os.listdir(UNITS):
            with open(os.path.join(UNITS, u)) as f:
                self.write("/etc/systemd/system/" + u, f.read().replace("@SBINDIR@", SBIN))
        for c in os.listdir(TMPFILES):
            os.makedirs(self.root + "/etc/tmpfiles.d", exist_ok=True)
            shutil.copy(os.path.join(TMPFILES, c), self.root + "/etc/tmpfiles.d")
        for target, unit in (("multi-user", "ambient-agent.service"), ("multi-user", "ztunnel.service"),
                             ("sockets", "ambient-agent.socket"), ("sockets", "ambient-agent-zds.socket")):
            wants = f"{self.root}/etc/systemd/system/{target}.target.wants"
            os.makedirs(wants, exist_ok=True)
            os.symlink("/etc/systemd/system/" + unit, os.path.join(wants, unit))
        self.write("/etc/default/ambient-agent", "NODE_NAME=node1\nAMBIENT_HOST_PROBES=off\n")
        self.write("/etc/default/ztunnel", "NODE_NAME=node1\nLOCAL_XDS_PATH=/etc/ambient/state.yaml\n")
        self.write("/etc/ambient/manifests/web.yaml", MANIFEST)
        self.write("/etc/ambient/state.yaml", STATE)

    def boot(self):
        def enter_groups():
            for g in self.groups:
                with open(os.path.join(g, "cgroup.procs"), "w") as f:
                    f.write(str(os.getpid()))
        for g in self.groups:
            os.makedirs(g, exist_ok=True)
        command = ["systemd-nspawn", "--quiet", "--directory=" + self.root, *self.usr, "--boot",
                   "--register=no", "--keep-unit", "--console=pipe", "--private-network", "--link-journal=no",
                   "--machine=ambient-test-%d" % os.getpid(), *self.options, "systemd.unit=multi-user.target"]
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         preexec_fn=enter_groups, start_new_session=True)
        self.init = wait_for("process 1 of the container", self.find_init)
        wait_for("systemd to answer", lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip()
                 in ("running", "degraded", "starting"))

    def find_init(self):
        if self.proc.poll() is not None:
            raise Failed("systemd-nspawn ended: " + open(self.log, errors="replace").read()[-2000:])
        todo = [self.proc.pid]
        while todo:
            pid = todo.pop()
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as f:
                    todo += [int(c) for c in f.read().split()]
                with open(f"/proc/{pid}/status") as f:
                    ids = re.search(r"^NSpid:\s*(.*)$", f.read(), re.M).group(1).split()
                with open(f"/proc/{pid}/comm") as f:
                    if len(ids) > 1 and ids[-1] == "1" and f.read().strip() == "systemd":
                        return pid
            except (OSError, AttributeError):  # it has just gone
                pass
        return None

    def run(self, *command, check=True, stdin=None):
        r = subprocess.run(["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", *command],
                           capture_output=True, text=True, input=stdin, timeout=120)
        if check and r.returncode != 0:
            raise Failed(f"{' '.join(command)}: exit {r.returncode}: {r.stdout}{r.stderr}")
        return r

    def show(self, unit, name):
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def call(self, method, path, body=None, seconds=20):
        """(status, document) of a request to the agent's event socket."""
        r = self.run("curl", "-sS", "--max-time", str(seconds), "--unix-socket", "/run/istio-cni/pluginevent.sock", "-X",
                     method, "-w", "\n%{http_code}", *(["--data-binary", json.dumps(body)] if body else []),
                     "http://localhost" + path, check=False)
        text, _, code = r.stdout.rpartition("\n")
        if r.returncode != 0:
            return 0, {"error": r.stderr}
        try:
            return int(code), json.loads(text)
        except ValueError:
            return int(code), {"text": text}

    def listeners(self):
        """port -> inode of the pod's listening sockets."""
        out = {}
        for f in ("tcp", "tcp6"):
            text = self.run("ip", "netns", "exec", "pod", "cat", "/proc/net/" + f).stdout
            for line in text.splitlines()[1:]:
                w = line.split()
                if w[3] == "0A":
                    out[int(w[1].rsplit(":", 1)[1], 16)] = w[9]
        return {p: i for p, i in out.items() if p in PORTS}

    def journal(self):
        return self.run("journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic", "-u", "ambient*", "-u", "ztunnel*",
                        check=False).stdout

    def stop(self):
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                if self.init:
                    os.kill(self.init, signal.SIGKILL)
                self.proc.kill()
                self.proc.wait()
        for g in self.groups:
            for folder, _, _ in os.walk(g, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass


class Suite:
    def __init__(self, machine):
        self.m, self.count, self.failed = machine, 0, 0

    def check(self, name, step):
        """Runs one step; a failed one shows what the machine says and ends the run, for the next ones build on it."""
        self.count += 1
        try:
            step()
        except (Failed, AssertionError, subprocess.TimeoutExpired) as e:
            self.failed += 1
            print(f"not ok {self.count} - {name}")
            print("\n".join("# " + line for line in (str(e) or repr(e)).splitlines()))
            if self.m.init:
                print("\n".join("# " + line for line in self.m.journal().splitlines()))
            return False
        print(f"ok {self.count} - {name}", flush=True)
        return True


def expect(value, wanted, what):
    if value != wanted:
        raise Failed(f"{what}: got {value!r}, expected {wanted!r}")


def steps(m):
    """(name, function) in order; each builds on the ones before it."""
    seen = {}

    def active():
        for unit in ("ambient-agent.socket", "ambient-agent-zds.socket", "ambient-agent.service", "ztunnel.service"):
            wait_for(unit + " to be active", lambda u=unit: m.show(u, "ActiveState") == "active")
            expect(m.show(unit, "NRestarts") in ("", "0"), True, unit + " was restarted")

    def socket_is_private():
        expect(m.run("stat", "-c", "%a %u", "/run/istio-cni/pluginevent.sock").stdout.split(), ["600", "0"], "mode and owner")
        expect(m.run("stat", "-c", "%a %u", "/run/istio-cni").stdout.split(), ["700", "0"], "mode and owner of the folder")
        try:
            wait_for("the agent to be ready", lambda: m.call("GET", "/v1/status")[1].get("ready"))
        except Failed as e:
            raise Failed(f"{e}; its status: {m.call('GET', '/v1/status')}") from e

    def enrol():
        m.run("ip", "netns", "add", "pod")
        m.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", "pod")
        m.run("ip", "-n", "pod", "addr", "add", "10.77.0.2/24", "dev", "eth0")
        for cmd in (("link", "set", "eth0", "up"), ("link", "set", "lo", "up")):
            m.run("ip", "-n", "pod", *cmd)
        request = {"command": "ADD", "containerID": "c1", "netns": "/run/netns/pod", "ifname": "eth0", "podName": "web",
                   "podNamespace": "default", "podUID": UID, "ips": ["10.77.0.2/24"], "deadlineMs": 9000}
        code, doc = m.call("POST", "/v1/cni", request)
        expect((code, doc.get("outcome")), (200, "enrolled"), f"answer {doc}")
        seen["inodes"] = m.listeners()
        expect(sorted(seen["inodes"]), list(PORTS), "listening ports in the pod")

    def stored():
        wait_for("descriptors in systemd's store", lambda: int(m.show("ambient-agent.service", "NFileDescriptorStore")) >= 3)

    def same_sockets(pid_before):
        wait_for("another agent process", lambda: m.show("ambient-agent.service", "MainPID") not in ("0", pid_before))
        wait_for("the agent to be active", lambda: m.show("ambient-agent.service", "ActiveState") == "active")
        expect(m.listeners(), seen["inodes"], "inodes of the pod's listening sockets")

        def custody():
            pods = m.call("GET", "/v1/status")[1].get("pods", [])
            return [p for p in pods if p["uid"] == UID and p["state"] in ("enrolled", "pending") and p["custody"]]
        wait_for("the pod to be enrolled with its sockets in custody", custody)

    def restart():
        m.run("systemctl", "stop", "ztunnel.service")
        expect(m.listeners(), seen["inodes"], "inodes while ztunnel is away")
        pid = m.show("ambient-agent.service", "MainPID")
        m.run("systemctl", "restart", "ambient-agent.service")
        same_sockets(pid)

    def killed():
        pid = m.show("ambient-agent.service", "MainPID")
        m.run("systemctl", "kill", "--signal=SIGKILL", "ambient-agent.service")
        same_sockets(pid)

    def activation():
        m.run("systemctl", "stop", "ambient-agent.service")
        expect(m.show("ambient-agent.socket", "ActiveState"), "active", "the socket unit")
        code, doc = m.call("GET", "/v1/status", seconds=30)
        expect(code, 200, f"answer to the call that started the agent ({doc})")
        wait_for("the agent to be active", lambda: m.show("ambient-agent.service", "ActiveState") == "active")

    def ztunnel_back():
        m.run("systemctl", "start", "ztunnel.service")
        wait_for("the pod to be enrolled again", lambda: any(
            p["uid"] == UID and p["state"] == "enrolled" for p in m.call("GET", "/v1/status")[1].get("pods", [])))

    def bundled():
        m.run(SBIN + "/ambientctl", "support-bundle", "-o", "/root/b.tar")
        with tarfile.open(m.root + "/root/b.tar") as t:
            files = {x.name.split("/", 1)[1]: t.extractfile(x).read().decode() for x in t.getmembers()}
        manifest = {e["name"]: e for e in json.loads(files["manifest.json"])["files"]}
        for unit, line in (("ambient-agent", "serves events="), ("ztunnel", "info")):
            name = f"logs/{unit}.service.log"
            if not manifest[name]["ok"]:
                raise Failed(f"{manifest[name]}")
            lines = files[name].splitlines()
            own = [x for x in lines if line in x and f" {unit}[" in x]
            about = [x for x in lines if " systemd[1]: Start" in x]
            if not own or not about or lines[0] > lines[-1] or lines.index(about[0]) > lines.index(own[0]):
                raise Failed(f"{name}: {len(own)} of its own, {len(about)} about it: {lines[:5]}")
        expect(manifest["logs/pods"]["ok"], False, "no kubelet here")

    def leaves():
        code, doc = m.call("POST", "/v1/cni", {"command": "DEL", "containerID": "c1", "netns": "/run/netns/pod", "ifname": "eth0",
                                               "podName": "web", "podNamespace": "default", "podUID": UID})
        expect(code, 200, f"answer to DEL {doc}")
        wait_for("the pod's sockets to be gone", lambda: not m.listeners())
        wait_for("an empty store", lambda: m.show("ambient-agent.service", "NFileDescriptorStore") == "0")

    def quiet():
        for unit in ("ambient-agent.service", "ztunnel.service"):
            expect(m.show(unit, "ActiveState"), "active", unit)
        m.run("systemctl", "stop", "ztunnel.service", "ambient-agent.socket", "ambient-agent-zds.socket",
              "ambient-agent.service")
        for unit in ("ambient-agent.service", "ztunnel.service"):
            expect(m.show(unit, "Result"), "success", unit + " stopped with")

    return [
        ("units start and say they are ready", active),
        ("event socket is root's alone, and answered", socket_is_private),
        ("a pod is enrolled", enrol),
        ("its descriptors are in systemd's store", stored),
        ("systemctl restart keeps the pod's sockets, with ztunnel away", restart),
        ("so does SIGKILL of the agent", killed),
        ("a call to the socket starts a stopped agent", activation),
        ("ztunnel comes back to the same pod", ztunnel_back),
        ("a support bundle has both logs from the journal", bundled),
        ("DEL empties the pod and the store", leaves),
        ("units stop cleanly", quiet),
    ]


def main(steps, prepare=lambda machine: None):
    """Boots a system and runs the steps(machine); @prepare is given the machine before that."""
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    a = p.parse_args()
    for tool in ("systemd-nspawn", "nsenter", "curl"):
        if shutil.which(tool) is None:
            print(f"1..0 # SKIP {tool} is not installed")
            return 0
    if os.geteuid() != 0:
        print("1..0 # SKIP needs root")
        return 0
    folder = tempfile.mkdtemp(prefix="ambient-systemd-")
    machine = Machine(folder, a.bin)
    suite = Suite(machine)
    try:
        prepare(machine)
        if suite.check("systemd boots", machine.boot):
            for name, step in steps(machine):
                if not suite.check(name, step):
                    break
    finally:
        machine.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"1..{suite.count}")
    return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main(steps))
