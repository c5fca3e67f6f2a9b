#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_ztunnel.py: ambient-agent with our own ztunnel, plugin and ambientctl: sockets change hands
and come back while either of the two is killed. Run as root."""
import json
import os
import signal
import subprocess
import sys
import time

from agent_lab import BIN, PORTS, Pod, main, run, test, until


class RealZtunnel:
    """Our ztunnel in the node's namespace of the test."""

    def __init__(self, w, pods):
        self.w = w
        self.state = w.dir + "/state.yaml"
        with open(self.state, "w") as f:
            json.dump({"workloads": [
                {"uid": "c//Pod/%s/%s" % (p.ns, p.name), "name": p.name, "namespace": p.ns,
                 "serviceAccount": "sa-" + p.name, "trustDomain": "cluster.local",
                 "workloadIps": [p.ip], "node": "n1", "protocol": "HBONE", "services": {}}
                for p in pods], "services": [], "policies": []}, f)
        os.mkdir(w.dir + "/ca", 0o700)
        self.proc = None

    def start(self):
        env = {"PATH": os.environ["PATH"], "LOCAL_XDS_PATH": self.state, "NODE_NAME": "n1",
               "INPOD_UDS": self.w.zds, "AMBIENT_DEV_CA_DIR": self.w.dir + "/ca",
               "AMBIENT_ADMIN_SOCKET": self.w.dir + "/admin.sock"}
        if "AMBIENT_DNS_RESOLV_CONF" in os.environ:
            env["AMBIENT_DNS_RESOLV_CONF"] = os.environ["AMBIENT_DNS_RESOLV_CONF"]
        for k in os.environ:
            if k.endswith("SAN_OPTIONS"):
                env[k] = os.environ[k]
        self.proc = subprocess.Popen(
            ["nsenter", "--net=/var/run/netns/" + self.w.host, BIN[0] + "/ztunnel"],
            stderr=self.w.log, stdout=self.w.log, stdin=subprocess.DEVNULL, env=env)
        until("ztunnel has its snapshot", lambda: self.alive() and any(
            z["snapshot"] and z["pid"] == self.proc.pid for z in self.w.status()["ztunnels"]), 60)
        return self

    def alive(self):
        if self.proc.poll() is not None:
            raise AssertionError("ztunnel ended with %d" % self.proc.returncode)
        return True

    def kill(self, sig=signal.SIGKILL):
        if self.proc is not None:
            self.proc.send_signal(sig)
            self.proc.wait(60)
            self.proc = None


def plugin(w, pod, command="ADD"):
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "ambient-cni", "agent_socket": w.sock,
            "prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": pod.path}],
                           "ips": [{"address": pod.ip + "/24", "interface": 0}]}}
    env = {"CNI_COMMAND": command, "CNI_CONTAINERID": pod.cid, "CNI_NETNS": pod.path,
           "CNI_IFNAME": "eth0", "CNI_PATH": BIN[0], "PATH": os.environ["PATH"],
           "CNI_ARGS": "K8S_POD_NAME=%s;K8S_POD_NAMESPACE=%s;K8S_POD_UID=%s" % (pod.name, pod.ns, pod.uid)}
    p = subprocess.run([BIN[0] + "/ambient-cni"], input=json.dumps(conf), env=env, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=60)
    assert p.returncode == 0, (p.stdout, p.stderr)
    return p.stdout


def served(pod, port=15008):
    """True if a plain connection to the port is accepted and then ended by a program."""
    code = ("import socket;s=socket.create_connection(('%s',%d),20);s.settimeout(8);"
            "s.sendall(b'not tls\\r\\n\\r\\n');print(len(s.recv(100)))" % (pod.ip, port))
    out = run("nsenter", "--net=" + pod.path, sys.executable, "-c", code, check=False)
    return "Error" not in out or "ConnectionResetError" in out


def begin(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    return p, RealZtunnel(w, [p])


@test
def plugin_to_ztunnel_and_back(w):
    p, z = begin(w)
    try:
        z.start()
        plugin(w, p)
        assert w.state(p) == "enrolled" and w.pod(p)["custody"] and p.listening() == PORTS
        assert served(p)
        run(BIN[0] + "/ambientctl", "--agent-socket", w.sock, "pods", check=False)
        plugin(w, p, "CHECK")
        plugin(w, p, "DEL")
        until("nothing is left", lambda: p.clean() and w.journal() == [] and w.status()["pods"] == [])
        z.alive()
    finally:
        z.kill()


@test
def ztunnel_killed_and_back(w):
    p, z = begin(w)
    try:
        z.start()
        plugin(w, p)
        for _ in range(3):
            z.kill()
            # nobody is there; the connection is queued, and served by the next ztunnel
            c = subprocess.Popen(["nsenter", "--net=" + p.path, sys.executable, "-c",
                                  "import socket;s=socket.create_connection(('%s',15008),20);"
                                  "s.settimeout(90);s.sendall(b'x'*64);\ntry: s.recv(9)\n"
                                  "except ConnectionResetError: pass\nprint('ended')" % p.ip],
                                 stdout=subprocess.PIPE)
            until("queued", lambda: "ESTAB" in run("nsenter", "--net=" + p.path, "ss", "-Htn"))
            z.start()
            assert c.communicate(timeout=90)[0].strip() == b"ended"
        assert w.state(p) == "enrolled"
    finally:
        z.kill()


@test
def agent_killed_and_back(w):
    p, z = begin(w)
    try:
        z.start()
        plugin(w, p)
        for _ in range(3):
            before = [l for l in w.open_fds() if l.startswith("socket:")]
            w.stop(signal.SIGKILL)
            assert p.listening() == PORTS and served(p)
            w.start()
            until("custody is back", lambda: w.pod(p)["custody"] and w.state(p) == "enrolled", 30)
            after = [l for l in w.open_fds() if l.startswith("socket:")]
            assert len(set(before) & set(after)) == 3, "the same three sockets"
        assert "came back from ztunnel" in w.logged()
        z.alive()
        # and then both
        w.stop(signal.SIGKILL)
        z.kill()
        assert p.has_rules() and p.listening() == ()
        w.start()
        z.start()
        until("enrolled again", lambda: w.state(p) == "enrolled" and p.listening() == PORTS, 30)
        assert served(p)
    finally:
        z.kill()


@test
def certificate_comes_back_to_the_next_ztunnel(w):
    p, z = begin(w)
    used = "the certificate of before is used"
    try:
        z.start()
        plugin(w, p)
        until("it is kept", lambda: any("memfd:ambient-credential" in l for l in w.open_fds()))
        z.kill()
        z.start()
        until("used again", lambda: w.logged().count(used) == 1)
        # the agent forgets, and gets it anew
        w.stop(signal.SIGKILL)
        w.start()
        until("it is kept", lambda: any("memfd:ambient-credential" in l for l in w.open_fds()))
        until("enrolled", lambda: w.state(p) == "enrolled")
        z.kill()
        z.start()
        until("used again", lambda: w.logged().count(used) == 2)
        plugin(w, p, "DEL")
        until("forgotten", lambda: not any("memfd:ambient-credential" in l for l in w.open_fds()))
        assert "PRIVATE KEY" not in w.logged()
        z.alive()
    finally:
        z.kill()


@test
def forty_pods_one_after_the_other(w):
    w.namespace(mode="ambient")
    pods = [Pod(w, "p%d" % i) for i in range(40)]
    w.put("p.yaml", *[p.manifest() for p in pods])
    w.start()
    z = RealZtunnel(w, pods)
    try:
        z.start()
        took = []
        for p in pods:
            t = time.monotonic()
            status, a = w.cni(p.event())
            took.append((time.monotonic() - t) * 1000)
            assert status == 200 and a["outcome"] == "enrolled", a
        took.sort()
        with open("/proc/%d/status" % w.pid()) as f:
            rss = [l.split()[1] for l in f if l.startswith("VmRSS")][0]
        print("# enrolment of 40 pods: median %.1f ms, slowest %.1f ms; agent VmRSS %s kB" %
              (took[20], took[-1], rss))
    finally:
        z.kill()


if __name__ == "__main__":
    sys.exit(main())
