#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""node_init.py FOLDER NUMBER: process 1 of a node, started by node.py inside new namespaces.

It makes the private view of the system, starts the daemons, starts again what ends, and reaps
orphans. When it is killed, the kernel kills everything on the node: that is the power switch.

A daemon rests while FOLDER/run/NAME.hold exists (tests stop an API server that way).
"""
import ctypes
import glob
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request

sys.path[0] = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..")

from cluster import layout  # noqa: E402

MS_REC, MS_SHARED, MS_BIND, MNT_DETACH = 0x4000, 1 << 20, 0x1000, 2
LIBC = ctypes.CDLL(None, use_errno=True)
# The kubelet writes these, which belong to the whole machine: it gets files of its own instead.
SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
           "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")
# A daemon that ends is started again after this time, twice as long each time, up to a second.
RESTART_S = 0.1


def mount(source, target, kind=None, flags=0, data=None):
    if LIBC.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags,
                  data.encode() if data else None) != 0:
        e = ctypes.get_errno()
        raise OSError(e, "mount %s: %s" % (target, os.strerror(e)))


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def wait(what, condition, deadline=180):
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("init: waited %d s for %s" % (deadline, what))
        time.sleep(0.03)


class View:
    """The node's private view of the machine's files."""

    def __init__(self, node):
        self.node = node

    def make(self):
        mount("proc", "/proc", "proc")
        groups = self.node.folder + "/cgroups"
        os.makedirs(groups, exist_ok=True)
        # A sysfs of this network namespace, with the machine's cgroups below it.
        mount("/sys/fs/cgroup", groups, flags=MS_BIND | MS_REC)
        mount("sysfs", "/sys", "sysfs")
        mount(groups, "/sys/fs/cgroup", flags=MS_BIND | MS_REC)
        LIBC.umount2(groups.encode(), MNT_DETACH)
        mount("tmpfs", "/run", "tmpfs", data="mode=755")
        for d in ("/etc", "/opt", "/var"):
            self.overlay(d)
        for d in ("/run/netns", "/run/containerd"):
            os.makedirs(d)
        # What is large or has mounts below it is on the real file system.
        for name, target in (("kubelet", "/var/lib/kubelet"), ("pods", "/var/log/pods")):
            os.makedirs("%s/%s" % (self.node.folder, name), exist_ok=True)
            os.makedirs(target, exist_ok=True)
            mount("%s/%s" % (self.node.folder, name), target, flags=MS_BIND)
        for name in SYSCTLS:
            if os.path.exists("/proc/sys/" + name):
                own = "%s/sysctl.%s" % (self.node.run, name.replace("/", "."))
                with open("/proc/sys/" + name) as f:
                    write(own, f.read())
                mount(own, "/proc/sys/" + name, flags=MS_BIND)
        write("/etc/resolv.conf.node", "nameserver %s\n" % layout.DNS)
        # hostPath volumes are seen in containers, and what they mount is seen here.
        mount("", "/", flags=MS_SHARED | MS_REC)

    def overlay(self, path):
        """What the node writes below @path stays in the node's folder, and outlives its reboot."""
        upper, work = self.node.folder + "/disk" + path, self.node.folder + "/disk/.work" + path
        for d in (upper, work):
            os.makedirs(d, exist_ok=True)
        mount("overlay", path, "overlay", data="lowerdir=%s,upperdir=%s,workdir=%s" % (path, upper, work))


def network(node):
    """lo, eth0, routes to the other nodes' pods. Node 1's eth0 is the bridge that the others' are plugged into."""
    ip("link", "set", "lo", "up")
    if node.number == 1:
        ip("link", "add", "eth0", "type", "bridge")
        # A bridge without a port has no carrier.
        ip("link", "add", "port0", "type", "veth", "peer", "name", "port0-end")
        ip("link", "set", "port0", "master", "eth0")
        for link in ("port0", "port0-end"):
            ip("link", "set", link, "up")
    else:
        wait("eth0", lambda: os.path.exists("/sys/class/net/eth0"))
    ip("addr", "add", node.address + "/24", "dev", "eth0")
    if layout.IPV6:
        # A second node with the same address is not to be feared, nor a second of waiting for it to be wanted.
        ip("-6", "addr", "add", node.address6 + "/64", "dev", "eth0", "nodad")
    ip("link", "set", "eth0", "up")
    # Nobody is there; but daemons look for the interface of the default route.
    ip("route", "add", "default", "via", "10.89.0.1", "dev", "eth0")
    for n in range(1, layout.MAX_NODES + 1):
        if n != node.number:
            ip("route", "add", node.cluster.node(n).pod_net, "via", layout.address(n))
            if layout.IPV6:
                ip("-6", "route", "add", node.cluster.node(n).pod_net6, "via", node.cluster.node(n).address6)
    for name, value in (("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"),
                        ("ipv4/conf/default/rp_filter", "0"), ("ipv6/conf/all/forwarding", "1")):
        if os.path.exists("/proc/sys/net/" + name):
            write("/proc/sys/net/" + name, value)
    chain = "/etc/cni/net.d/10-podnet.conflist"
    if not os.path.exists(chain):
        os.makedirs(os.path.dirname(chain), exist_ok=True)
        nets = [(node.pod_net, "0.0.0.0/0")] + ([(node.pod_net6, "::/0")] if layout.IPV6 else [])
        write(chain, json.dumps({"cniVersion": "1.0.0", "name": "podnet", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipMasq": False,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": n}] for n, _ in nets],
                      "routes": [{"dst": everywhere} for _, everywhere in nets]}},
            {"type": "portmap", "capabilities": {"portMappings": True}}]}, indent=1))
    os.makedirs("/opt/cni/bin", exist_ok=True)
    for f in os.listdir("/usr/lib/cni"):
        if not os.path.lexists("/opt/cni/bin/" + f):
            os.symlink("/usr/lib/cni/" + f, "/opt/cni/bin/" + f)


def cgroups(node):
    """The daemons' group, and the parent of all pods' groups. The kubelet wants the parent in every
    hierarchy; with one hierarchy (v2) a group that has children may not have processes."""
    top = "/sys/fs/cgroup"
    if os.path.exists(top + "/cgroup.controllers"):
        os.makedirs("%s/%s/daemons" % (top, node.cgroup), exist_ok=True)
        write("%s/%s/daemons/cgroup.procs" % (top, node.cgroup), "1")
        return
    for hierarchy in os.listdir(top):
        base = "%s/%s" % (top, hierarchy)
        if os.path.islink(base) or not os.path.exists(base + "/cgroup.procs") or hierarchy == "unified":
            continue
        for group in ("", "/daemons"):
            os.makedirs("%s/%s%s" % (base, node.cgroup, group), exist_ok=True)
            if hierarchy == "cpuset":
                for f in ("cpuset.cpus", "cpuset.mems"):
                    with open("%s/%s" % (base, f)) as have:
                        write("%s/%s%s/%s" % (base, node.cgroup, group, f), have.read())
        write("%s/%s/daemons/cgroup.procs" % (base, node.cgroup), str(os.getpid()))


class Daemons:
    """What runs on the node."""

    def __init__(self, node):
        self.node, self.commands, self.running, self.due = node, {}, {}, {}
        self.pause = {}

    def start(self, name, *argv):
        self.commands[name] = argv
        self.launch(name)

    def launch(self, name):
        with open("%s/%s.log" % (self.node.logs, name), "ab") as log:
            p = subprocess.Popen(self.commands[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running[p.pid] = (name, time.monotonic())
        pid = "%s/%s.pid" % (self.node.run, name)
        write(pid + ".new", str(p.pid))
        os.rename(pid + ".new", pid)

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name, since = self.running.pop(pid, (None, 0))
            if name:
                os.unlink("%s/%s.pid" % (self.node.run, name))
                print("init: %s ended: %d" % (name, status), flush=True)
                steady = time.monotonic() - since > 5
                self.pause[name] = RESTART_S if steady else min(1.0, 2 * self.pause.get(name, RESTART_S))
                self.due[name] = time.monotonic() + self.pause[name]

    def revive(self):
        for name in [n for n, t in self.due.items() if t <= time.monotonic()]:
            if not os.path.exists("%s/%s.hold" % (self.node.run, name)):
                del self.due[name]
                self.launch(name)

    def watch(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            self.reap()
            self.revive()
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)


def control_plane(node, daemons):
    pki, api = node.cluster.pki, layout.address(1)
    daemons.start("etcd", layout.BIN + "/etcd", "--data-dir", node.folder + "/etcd", "--unsafe-no-fsync", "--log-level=warn",
                  "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
                  "--listen-peer-urls=http://127.0.0.1:2380")
    daemons.start(
        "kube-apiserver", layout.BIN + "/kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0",
        "--advertise-address=" + api, "--secure-port=6443",
        "--service-cluster-ip-range=" + layout.both(layout.SERVICE_NET, layout.SERVICE_NET6),
        "--tls-cert-file=%s/apiserver.crt" % pki, "--tls-private-key-file=%s/apiserver.key" % pki,
        "--client-ca-file=%s/ca.crt" % pki, "--kubelet-client-certificate=%s/kubelet-client.crt" % pki,
        "--kubelet-client-key=%s/kubelet-client.key" % pki, "--kubelet-certificate-authority=%s/ca.crt" % pki,
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--service-account-key-file=%s/sa.pub" % pki, "--service-account-signing-key-file=%s/sa.key" % pki,
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
        "--max-requests-inflight=800", "--profiling=false", "--cert-dir=%s/api" % node.run)

    trust = ssl.create_default_context(cafile=pki + "/ca.crt")

    def ready():
        try:
            # Anybody may ask; whether it is the right server is asked by everybody else.
            with urllib.request.urlopen("https://%s:6443/readyz" % api, timeout=5, context=trust) as r:
                return r.status == 200
        except OSError:
            return False
    wait("the API server", ready)
    daemons.start("kube-controller-manager", layout.BIN + "/kube-controller-manager",
                  "--kubeconfig=%s/kube-controller-manager.kubeconfig" % pki, "--leader-elect=false",
                  "--use-service-account-credentials=true", "--root-ca-file=%s/ca.crt" % pki,
                  "--service-account-private-key-file=%s/sa.key" % pki,
                  "--cluster-signing-cert-file=%s/ca.crt" % pki, "--cluster-signing-key-file=%s/ca.key" % pki,
                  "--cluster-cidr=" + layout.both(layout.POD_NETS, layout.POD_NETS6), "--allocate-node-cidrs=false", "--profiling=false")
    daemons.start("kube-scheduler", layout.BIN + "/kube-scheduler", "--kubeconfig=%s/kube-scheduler.kubeconfig" % pki,
                  "--leader-elect=false", "--profiling=false")


CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE a container's score can only be raised.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def runtime(node, daemons):
    write(node.run + "/containerd.toml", CONTAINERD.format(folder=node.folder, pause=layout.PAUSE_IMAGE))
    daemons.start("containerd", "containerd", "-c", node.run + "/containerd.toml")
    wait("containerd", lambda: subprocess.run(["ctr", "version"], capture_output=True, check=False).returncode == 0)
    # Those of all nodes, and those of this node alone.
    for path in sorted(glob.glob(node.cluster.images + "/*.tar") + glob.glob("%s/%s/*.tar" % (node.cluster.images, node.name))):
        subprocess.run(["ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", path], check=True,
                       stdout=subprocess.DEVNULL)


def kubelet(node, daemons):
    pki = node.cluster.pki
    write(node.run + "/kubelet.json", json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": pki + "/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "%s/kubelet-%s.crt" % (pki, node.name),
        "tlsPrivateKeyFile": "%s/kubelet-%s.key" % (pki, node.name),
        "clusterDomain": "cluster.local", "clusterDNS": [layout.DNS], "resolvConf": "/etc/resolv.conf.node",
        "cgroupDriver": "cgroupfs", "cgroupRoot": "/" + node.cgroup, "failCgroupV1": False, "failSwapOn": False,
        # Without CAP_SYS_RESOURCE it cannot be lowered.
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False, "maxPods": 250, "rotateCertificates": False,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": node.folder + "/volume-plugins",
        # The machine's disk is none of our business.
        "imageGCHighThresholdPercent": 100, "imageMinimumGCAge": "24h",
        "evictionHard": {"nodefs.available": "1Mi", "imagefs.available": "1Mi", "memory.available": "50Mi"},
        # A changed ConfigMap is in its pods within this time; usual is a minute.
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s"}))
    daemons.start("kubelet", layout.BIN + "/kubelet", "--config=%s/kubelet.json" % node.run,
                  "--kubeconfig=%s/kubelet-%s.kubeconfig" % (pki, node.name), "--hostname-override=" + node.name,
                  "--node-ip=" + layout.both(node.address, node.address6), "--root-dir=/var/lib/kubelet")


def service_proxy(node, daemons):
    write(node.run + "/kube-proxy.json", json.dumps({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": node.cluster.pki + "/kube-proxy.kubeconfig"}, "mode": "nftables",
        "clusterCIDR": layout.both(layout.POD_NETS, layout.POD_NETS6), "hostnameOverride": node.name, "oomScoreAdj": 0,
        # nf_conntrack_max cannot be written in a network namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}}))
    daemons.start("kube-proxy", layout.BIN + "/kube-proxy", "--config=%s/kube-proxy.json" % node.run)


def main():
    cluster = layout.Cluster(sys.argv[1])
    node = cluster.node(int(sys.argv[2]))
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    socket.sethostname(node.name)
    View(node).make()
    cgroups(node)
    network(node)
    daemons = Daemons(node)
    if node.number == 1:
        control_plane(node, daemons)
    runtime(node, daemons)
    kubelet(node, daemons)
    service_proxy(node, daemons)
    write(node.run + "/started", "")
    daemons.watch()


if __name__ == "__main__":
    main()
