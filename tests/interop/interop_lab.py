# SPDX-License-Identifier: Apache-2.0
"""interop_lab.py: what the tests beside stock programs share: where those are, pods on a bridge, traffic between them, our
ztunnel as a process of the node."""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "system"))
from agent_lab import BIN, Skip, run, until  # noqa: E402

CACHE = os.path.join(HERE, "../../.cache/istio/bin/")
ECHO = ("import socket,threading\n"
        "def one(c):\n"
        "  while 1:\n"
        "    d=c.recv(65536)\n"
        "    if not d: break\n"
        "    c.sendall(d)\n"
        "  c.close()\n"
        "s=socket.create_server(('0.0.0.0',8080))\n"
        "print('ready',flush=True)\n"
        "while 1: threading.Thread(target=one,args=(s.accept()[0],),daemon=True).start()\n")
ASK = ("import socket,sys\n"
       "s=socket.create_connection((sys.argv[1],8080),5);s.settimeout(10);s.sendall(b'hello')\n"
       "print(s.recv(5).decode())\n")


def stock(name):
    """Path of a stock program: STOCK_<NAME>, or where a build has left it; its absence skips the test."""
    variable = "STOCK_" + name.upper().replace("-", "_")
    path = os.environ.get(variable) or CACHE + name
    if not os.access(path, os.X_OK):
        raise Skip("no stock %s: %s does not name one" % (name, variable))
    return path


def stock_env(folder):
    """What a stock ztunnel needs beside what ours is told, with the CA of ca() in @folder."""
    return {"CLUSTER_ID": "Kubernetes", "NETWORK": "", "XDS_ADDRESS": "", "PROXY_MODE": "shared", "AUTH_TOKEN": "any",
            "CA_ADDRESS": "https://localhost:15012", "CA_ROOT_CA": folder + "/root.pem"}


def ca(ns, *folders):
    """A CA that speaks Istio's protocol (a stock ztunnel has none of its own), in a namespace; ca_server.py says what the folders
    are. The caller ends it."""
    p = inside(ns, sys.executable, HERE + "/ca_server.py", *folders, stdout=subprocess.PIPE, text=True)
    if p.stdout.readline() != "ready\n":
        end(p)
        raise AssertionError("the CA does not start")
    return p


def inside(ns, *argv, **kw):
    return subprocess.Popen(["nsenter", "--net=/var/run/netns/" + ns, *argv], stdin=subprocess.DEVNULL, **kw)


def bridge(w, pods):
    """Joins the pods' links in the node's namespace."""
    run("ip", "-n", w.host, "link", "add", "br0", "type", "bridge")
    run("ip", "-n", w.host, "addr", "add", "10.77.0.254/24", "dev", "br0")
    run("ip", "-n", w.host, "link", "set", "br0", "up")
    for p in pods:
        run("ip", "-n", p.netns, "link", "set", "peer0", "netns", w.host, "name", "v-" + p.name)
        run("ip", "-n", w.host, "link", "set", "v-" + p.name, "master", "br0", "up")


def echo(pod):
    """A server in the pod; the caller kills it."""
    p = inside(pod.netns, sys.executable, "-c", ECHO, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "ready\n"
    return p


def works(a, b):
    out = run("nsenter", "--net=" + a.path, sys.executable, "-c", ASK, b.ip, check=False)
    return out.strip() == "hello"


def end(*procs):
    for p in procs:
        p.kill()
        p.wait()
        if p.stdout is not None:
            p.stdout.close()


def mesh_state(path, pods, services=()):
    with open(path, "w") as f:
        json.dump({"workloads": [
            {"uid": "c//Pod/%s/%s" % (p.ns, p.name), "name": p.name, "namespace": p.ns,
             "serviceAccount": "sa-" + p.name, "trustDomain": "cluster.local", "workloadIps": [p.ip], "node": "n1",
             "protocol": "HBONE", "services": {}} for p in pods], "services": list(services), "policies": []}, f)


class OurZtunnel:
    """Our ztunnel in the node's namespace, a client of the socket @zds; its mesh is w.dir/state.yaml."""

    def __init__(self, w, zds):
        os.makedirs(w.dir + "/ca", 0o700, exist_ok=True)
        env = {"PATH": os.environ["PATH"], "LOCAL_XDS_PATH": w.dir + "/state.yaml", "NODE_NAME": "n1", "INPOD_UDS": zds,
               "AMBIENT_DEV_CA_DIR": w.dir + "/ca", "AMBIENT_ADMIN_SOCKET": w.dir + "/admin.sock"}
        self.log = w.dir + "/ztunnel.log"
        with open(self.log, "wb") as f:
            self.proc = inside(w.host, BIN[0] + "/ztunnel", stdout=f, stderr=f, env=env)
        until("our ztunnel has the snapshot", self.snapshot, 60)

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def snapshot(self):
        assert self.proc.poll() is None, self.said()
        return "snapshot" in self.said()

    def stop(self):
        self.proc.terminate()
        self.proc.wait(30)
