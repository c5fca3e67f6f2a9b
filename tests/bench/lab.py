# SPDX-License-Identifier: Apache-2.0
"""lab.py: two nodes with a real agent and a real ztunnel each, pods on both, all in network namespaces.

Pods are enrolled the way a runtime does it: manifests for the agent, then one POST /v1/cni per pod.
Not here: measuring (bench.py)."""
import http.client
import json
import os
import socket
import subprocess
import tempfile
import time


def sh(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path, timeout=30):
        super().__init__("agent", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def wait_for(what, fn, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            v = fn()
            if v:
                return v
        except (OSError, ValueError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    raise RuntimeError(f"timed out waiting for {what}")


class Pod:
    def __init__(self, node, name, index, mesh):
        self.node, self.name, self.mesh = node, name, mesh
        self.ns = f"{node.lab.prefix}{name}"
        self.ip = f"10.77.{node.index}.{index}"
        self.uid = f"00000000-0000-4000-8000-{node.index:04d}{index:08d}"
        self.path = f"/run/netns/{self.ns}"

    def create(self):
        sh("ip", "netns", "add", self.ns)
        host = f"v{self.node.index}x{self.ip.rsplit('.', 1)[1]}"
        sh("ip", "-n", self.node.ns, "link", "add", host, "type", "veth", "peer", "name", "eth0",
           "netns", self.ns)
        sh("ip", "-n", self.node.ns, "link", "set", host, "master", "br0", "up")
        for a in (["link", "set", "lo", "up"], ["addr", "add", self.ip + "/24", "dev", "eth0"],
                  ["link", "set", "eth0", "up"],
                  ["route", "add", "default", "via", f"10.77.{self.node.index}.1"]):
            sh("ip", "-n", self.ns, *a)
        # A namespace may choose only what the host allows; bbr paces and would be the limit.
        for cc in ("cubic", "reno"):
            if subprocess.run(["ip", "netns", "exec", self.ns, "sysctl", "-qw",
                               f"net.ipv4.tcp_congestion_control={cc}"], stderr=subprocess.DEVNULL,
                              check=False).returncode == 0:
                break

    def tune_client(self):
        """The load client must not meet the wall of its own TIME_WAITs (470/s with kernel defaults)."""
        sh("ip", "netns", "exec", self.ns, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535",
           "net.ipv4.tcp_tw_reuse=1")

    def popen(self, *argv, **kw):
        return subprocess.Popen(["ip", "netns", "exec", self.ns, *argv], text=True, **kw)


class Node:
    def __init__(self, lab, name, index):
        self.lab, self.name, self.index = lab, name, index
        self.ns = f"{lab.prefix}{name}"
        self.dir = os.path.join(lab.dir, name)
        self.pods, self.procs, self.logs = [], {}, []

    def create(self):
        for d in ("run", "ztunnel", "manifests"):
            os.makedirs(os.path.join(self.dir, d))
        sh("ip", "netns", "add", self.ns)
        for a in (["link", "set", "lo", "up"], ["link", "add", "br0", "type", "bridge"],
                  ["addr", "add", f"10.77.{self.index}.1/24", "dev", "br0"],
                  ["link", "set", "br0", "up"]):
            sh("ip", "-n", self.ns, *a)
        sh("ip", "netns", "exec", self.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def add_pod(self, name, mesh=True):
        p = Pod(self, name, 10 + len(self.pods), mesh)
        self.pods.append(p)  # first: what was half made is taken down, too
        p.create()
        return p

    @property
    def event_socket(self):
        return os.path.join(self.dir, "run", "pluginevent.sock")

    def write_manifests(self):
        docs = []
        for ns, labels in (("mesh", {"istio.io/dataplane-mode": "ambient"}), ("plain", {})):
            docs.append({"apiVersion": "v1", "kind": "Namespace",
                         "metadata": {"name": ns, "labels": labels}})
        for p in self.pods:
            docs.append({"apiVersion": "v1", "kind": "Pod",
                         "metadata": {"name": p.name, "namespace": "mesh" if p.mesh else "plain",
                                      "uid": p.uid},
                         "spec": {"nodeName": self.name, "serviceAccountName": p.name},
                         "status": {"phase": "Running", "podIPs": [{"ip": p.ip}]}})
        path = os.path.join(self.dir, "manifests", "all.yaml")
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            f.write("\n---\n".join(json.dumps(d) for d in docs))
        os.rename(path + ".tmp", path)

    def start(self, prog, env):
        log = open(os.path.join(self.dir, prog + ".log"), "ab")
        self.logs.append(log)
        argv = ["ip", "netns", "exec", self.ns, *self.lab.loader, os.path.join(self.lab.bin, prog)]
        self.procs[prog] = subprocess.Popen(argv, env={**os.environ, **env}, stdout=log, stderr=log)

    def start_agent(self):
        self.start("ambient-agent", {
            "CNI_AGENT_RUN_DIR": os.path.join(self.dir, "run"),
            "ZTUNNEL_UDS_ADDRESS": os.path.join(self.dir, "ztunnel", "ztunnel.sock"),
            "AMBIENT_MANIFESTS": os.path.join(self.dir, "manifests"),
            "NODE_NAME": self.name, "AMBIENT_HOST_PROBES": "off"})
        wait_for("agent", lambda: self.status())

    def start_ztunnel(self, **more):
        self.start("ztunnel", {
            "INPOD_UDS": os.path.join(self.dir, "ztunnel", "ztunnel.sock"),
            "LOCAL_XDS_PATH": os.path.join(self.lab.dir, "state.yaml"),
            "AMBIENT_DEV_CA_DIR": os.path.join(self.lab.dir, "ca"),
            "AMBIENT_ADMIN_SOCKET": os.path.join(self.dir, "ztunnel", "admin.sock"),
            "XDS_ADDRESS": "", "CA_ADDRESS": "", "NODE_NAME": self.name,
            "RUST_LOG": "info", **more})

    def request(self, method, path, body=None):
        c = UnixHTTP(self.event_socket)
        c.request(method, path, json.dumps(body) if body is not None else None)
        r = c.getresponse()
        data = json.loads(r.read() or b"{}")
        c.close()
        return r.status, data

    def status(self):
        return self.request("GET", "/v1/status")[1]

    def enrol(self, pod):
        st, body = self.request("POST", "/v1/cni", {
            "command": "ADD", "containerID": "c" + pod.uid, "netns": pod.path, "ifname": "eth0",
            "podName": pod.name, "podNamespace": "mesh" if pod.mesh else "plain",
            "podUID": pod.uid, "ips": [pod.ip + "/24"], "deadlineMs": 9000})
        if st != 200:
            raise RuntimeError(f"enrol {pod.name}: {st} {body}")
        return body["outcome"]

    def release(self, pod):
        return self.request("POST", "/v1/cni", {"command": "DEL", "containerID": "c" + pod.uid,
                                                "netns": pod.path, "ifname": "eth0"})

    def cpu(self, prog="ztunnel"):
        """user + system seconds of the program (ip netns exec became it)."""
        with open(f"/proc/{self.procs[prog].pid}/stat", encoding="utf-8") as f:
            v = f.read().rsplit(")", 1)[1].split()
        return (int(v[11]) + int(v[12])) / os.sysconf("SC_CLK_TCK")

    def memory_kib(self, prog):
        out = {}
        with open(f"/proc/{self.procs[prog].pid}/status", encoding="utf-8") as f:
            for line in f:
                if line.startswith(("VmRSS", "RssAnon", "Threads", "FDSize")):
                    k, v = line.split(":")
                    out[k] = int(v.split()[0])
        out["fds"] = len(os.listdir(f"/proc/{self.procs[prog].pid}/fd"))
        return out

    def stop(self, prog, sig=15):
        p = self.procs.pop(prog, None)
        if p and p.poll() is None:
            p.send_signal(sig)
            try:
                p.wait(15)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()


class Lab:
    def __init__(self, bindir, root=None):
        self.bin = os.path.abspath(bindir)
        self.loader = []
        if root:  # programs built in another Debian's root run with its loader and libraries
            root = os.path.abspath(root)
            self.loader = [f"{root}/usr/lib64/ld-linux-x86-64.so.2", "--library-path",
                           f"{root}/usr/lib/x86_64-linux-gnu"]
        self.dir = tempfile.mkdtemp(prefix="mesh-bench-")
        self.prefix = f"mb{os.getpid()}-"
        self.nodes = [Node(self, "n1", 1), Node(self, "n2", 2)]

    def __enter__(self):
        os.mkdir(os.path.join(self.dir, "ca"), 0o700)
        for n in self.nodes:
            n.create()
        a, b = self.nodes
        sh("ip", "-n", a.ns, "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", b.ns)
        for n, o in ((a, b), (b, a)):
            sh("ip", "-n", n.ns, "addr", "add", f"10.77.0.{n.index}/24", "dev", "up0")
            sh("ip", "-n", n.ns, "link", "set", "up0", "up")
            sh("ip", "-n", n.ns, "route", "add", f"10.77.{o.index}.0/24", "via", f"10.77.0.{o.index}")
        return self

    def write_state(self, policies=()):
        workloads = []
        for n in self.nodes:
            for p in n.pods:
                if p.mesh:
                    workloads.append({
                        "uid": f"cluster//v1/pod/mesh/{p.name}", "name": p.name, "namespace": "mesh",
                        "serviceAccount": p.name, "trustDomain": "cluster.local",
                        "workloadIps": [p.ip], "protocol": "HBONE", "node": n.name,
                        "network": "", "services": {}, "workloadName": p.name,
                        "workloadType": "deployment", "canonicalName": p.name,
                        "canonicalRevision": "v1", "clusterId": "Kubernetes"})
        path = os.path.join(self.dir, "state.yaml")
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            json.dump({"workloads": workloads, "services": [], "policies": list(policies)}, f)
        os.rename(path + ".tmp", path)

    def start(self):
        self.write_state()
        for n in self.nodes:
            n.write_manifests()
            n.start_agent()
            n.start_ztunnel()
            wait_for("ztunnel", lambda n=n: any(z["snapshot"] for z in n.status()["ztunnels"]))
            for p in n.pods:
                n.enrol(p)

    def __exit__(self, *exc):
        for n in self.nodes:
            for prog in list(n.procs):
                n.stop(prog)
            for p in n.pods:
                subprocess.run(["ip", "netns", "del", p.ns], stderr=subprocess.DEVNULL, check=False)
            subprocess.run(["ip", "netns", "del", n.ns], stderr=subprocess.DEVNULL, check=False)
            for log in n.logs:
                log.close()
        if exc[0] is None:
            subprocess.run(["rm", "-rf", self.dir], check=False)
        else:
            print("logs are kept in", self.dir)
