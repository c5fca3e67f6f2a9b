# SPDX-License-Identifier: Apache-2.0
"""kube_node.py: a Kubernetes node whose process 1 is a real systemd, beside a control plane of tests/cluster: containerd,
the kubelet and the product are units of it. It can lose its power and be switched on again.
"""
import json
import os
import shutil
import signal
import sys

from test_systemd import SBIN, Machine, wait_for

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from cluster import images, layout, node, node_init, pki  # noqa: E402
from cluster.kubectl import Kubectl  # noqa: E402

AGENT, PROXY = "ambient-agent.service", "ztunnel.service"
API = "https://%s:6443" % layout.address(1)
NEEDED = [os.path.join(layout.BIN, n) for n in ("harness", "kubelet", "kubectl", "tester", "coredns")]
# What the kubelet and runc must be able to write, and systemd-nspawn mounts read-only: the machine's part of the control
# groups, and some sysctls of the whole kernel, for which the kubelet gets files of its own.
PREPARE = r"""#!/bin/sh
set -e
for h in /sys/fs/cgroup/*; do
    mountpoint -q $h || continue
    mount -o remount,rw,bind $h
    [ ! -e $h/cpuset.cpus ] || [ -n "$(cat $h/cpuset.cpus)" ] || exit 1
done
for s in %s; do
    [ -e /proc/sys/$s ] || continue
    f=/run/sysctl.$(echo $s | tr / .)
    cat /proc/sys/$s > $f
    mount --bind $f /proc/sys/$s
done
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
mkdir -p /run/netns
""" % " ".join(node_init.SYSCTLS)
NETWORK = r"""#!/bin/sh
# The cable is plugged in from outside.
while [ ! -e /sys/class/net/eth0 ] && ! ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr replace %s/24 dev eth0
ip link set eth0 up
ip route replace default via 10.89.0.1 dev eth0
ip route replace %s via %s
"""
UNIT = """[Unit]
%(unit)s
[Service]
%(service)s
[Install]
WantedBy=multi-user.target
"""
HOLD = "[Service]\nExecStartPre=/bin/sh -c '! test -e /etc/hold-%s'\nRestartSec=200ms\n"


def missing():
    return [f for f in NEEDED if not os.access(f, os.X_OK)]


class ControlPlane:
    """Node 1 of a cluster, with etcd, the API server and the controllers; and what node 2 needs to join."""

    def __init__(self, folder):
        self.cluster = layout.Cluster(folder)
        os.makedirs(self.cluster.folder, exist_ok=True)
        self.cluster.save({**self.cluster.facts(), "nodes": 2})
        pki.make(self.cluster)
        images.make(self.cluster)
        self.authority = pki.Authority(self.cluster.pki)
        self.node = self.cluster.node(2)
        self.kubectl = Kubectl(self.cluster.kubeconfig)

    def up(self):
        node.up(self.cluster.node(1))
        wait_for("the API server", lambda: self.kubectl.run("get", "namespace", "default", check=False).returncode == 0)

    def down(self):
        if self.cluster.node(1).pid:
            node.down(self.cluster.node(1))
        for n in self.cluster.nodes():
            wait_for("empty control groups of " + n.name, lambda m=n: node.remove_cgroups(m))


class KubeNode(Machine):
    """Node 2. Its disk is @folder; power_off() loses what is in memory, as a power cut does."""

    options = ("--bind=/dev/kmsg", "--capability=CAP_SYSLOG", "--system-call-filter=add_key keyctl bpf", "--hostname=n2")

    def __init__(self, folder, bin_dir, plane):
        self.plane = plane
        super().__init__(folder, bin_dir)
        top = "/sys/fs/cgroup"
        self.groups = [os.path.join(top, h, plane.node.cgroup) for h in sorted(os.listdir(top))
                       if not os.path.islink(os.path.join(top, h)) and
                       os.path.exists(os.path.join(top, h, "cgroup.procs"))]

    def unit(self, name, unit, service):
        self.write("/etc/systemd/system/" + name, UNIT % {"unit": unit, "service": service})
        wants = self.root + "/etc/systemd/system/multi-user.target.wants"
        if not os.path.lexists(os.path.join(wants, name)):
            os.symlink("/etc/systemd/system/" + name, os.path.join(wants, name))

    def script(self, name, text):
        self.write("/opt/%s" % name, text)
        os.chmod(self.root + "/opt/" + name, 0o755)

    def lay_out(self, bin_dir):
        super().lay_out(bin_dir)
        n = self.plane.node
        shutil.copy(os.path.join(bin_dir, "ambient-cni"), self.root + SBIN)
        for d in ("/opt/kube", "/opt/images", "/opt/cni/bin", "/etc/cni/net.d", "/var/lib/kubelet", "/etc/kube"):
            os.makedirs(self.root + d, exist_ok=True)
        shutil.copy(os.path.realpath(os.path.join(layout.BIN, "kubelet")), self.root + "/opt/kube/kubelet")
        for f in os.listdir(self.plane.cluster.images):
            if f.startswith("tester") and f.endswith(".tar"):
                shutil.copy(os.path.join(self.plane.cluster.images, f), self.root + "/opt/images/" + f)
        for f in os.listdir("/usr/lib/cni"):
            os.symlink("/usr/lib/cni/" + f, self.root + "/opt/cni/bin/" + f)
        for f in ("ca.crt", "kubelet-n2.crt", "kubelet-n2.key", "kubelet-n2.kubeconfig"):
            shutil.copy(os.path.join(self.plane.cluster.pki, f), self.root + "/etc/kube/" + f)
        self.plane.authority.kubeconfig("admin", self.root + "/etc/kube/admin.kubeconfig", API)
        self.write("/etc/hosts", "127.0.0.1 localhost\n%s n2\n" % n.address)
        self.write("/etc/resolv.conf", "nameserver %s\n" % layout.DNS)
        self.write("/etc/cni/net.d/10-podnet.conflist", json.dumps({"cniVersion": "1.0.0", "name": "podnet", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": n.pod_net}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}))
        self.daemons(n)
        self.product()

    def daemons(self, n):
        self.script("prepare", PREPARE)
        self.script("network", NETWORK % (n.address, self.plane.cluster.node(1).pod_net, layout.address(1)))
        self.write("/etc/containerd.toml", node_init.CONTAINERD.format(folder="/var/lib", pause=layout.PAUSE_IMAGE))
        self.write("/etc/kube/kubelet.json", json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": "/etc/kube/ca.crt"}},
            "authorization": {"mode": "Webhook"}, "tlsCertFile": "/etc/kube/kubelet-n2.crt",
            "tlsPrivateKeyFile": "/etc/kube/kubelet-n2.key", "clusterDomain": "cluster.local", "clusterDNS": [layout.DNS],
            "cgroupDriver": "cgroupfs", "failCgroupV1": False, "failSwapOn": False, "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False, "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "imageGCHighThresholdPercent": 100, "imageMinimumGCAge": "24h",
            "evictionHard": {"nodefs.available": "1Mi", "imagefs.available": "1Mi", "memory.available": "50Mi"}}))
        self.unit("prepare.service", "DefaultDependencies=no\nBefore=basic.target",
                  "Type=oneshot\nRemainAfterExit=yes\nExecStart=/opt/prepare")
        self.unit("network.service", "After=prepare.service\nBefore=network.target",
                  "Type=oneshot\nRemainAfterExit=yes\nExecStart=/opt/network")
        self.unit("containerd.service", "After=prepare.service network.target",
                  "Type=notify\nExecStart=/usr/bin/containerd -c /etc/containerd.toml\nKillMode=process\nDelegate=yes\n"
                  "ExecStartPost=/bin/sh -c 'for t in /opt/images/*.tar; do "
                  "ctr -n k8s.io images import --snapshotter overlayfs $$t || exit 1; done'\nTimeoutStartSec=120")
        self.unit("kubelet.service", "After=containerd.service network.service\nWants=containerd.service\nStartLimitIntervalSec=0",
                  "ExecStart=/opt/kube/kubelet --config=/etc/kube/kubelet.json --kubeconfig=/etc/kube/kubelet-n2.kubeconfig "
                  "--hostname-override=n2 --node-ip=%s --root-dir=/var/lib/kubelet\nRestart=always\nRestartSec=500ms\n"
                  "KillMode=process\nDelegate=yes" % n.address)

    def product(self):
        """As docs/install.md has it: the units, their settings, and a drop-in that lets the agent install the plugin."""
        self.write("/etc/default/ambient-agent", "NODE_NAME=n2\nAMBIENT_SOURCE=kubernetes\n"
                   "KUBECONFIG=/etc/kube/admin.kubeconfig\nAMBIENT_INSTALL_CNI=owned\n"
                   "AMBIENT_CNI_PLUGIN=%s/ambient-cni\n" % SBIN)
        self.write("/etc/systemd/system/%s.d/install.conf" % AGENT, "[Service]\nReadWritePaths=/etc/cni /opt/cni\n")
        self.write("/etc/default/ztunnel", "NODE_NAME=n2\nLOCAL_XDS_PATH=/run/ambient-state/state.yaml\n")
        self.unit("ambient-state.service", "After=network.service",
                  "ExecStart=%s/ambientctl export-state --watch --file /run/ambient-state/state.yaml "
                  "--kubeconfig /etc/kube/admin.kubeconfig\nRuntimeDirectory=ambient-state\nRestart=always" % SBIN)
        for unit in (AGENT, PROXY):
            self.write("/etc/systemd/system/%s.d/hold.conf" % unit, HOLD % unit)

    def hold(self, unit, on=True):
        """A held unit cannot start; it is tried again and again."""
        path = "/etc/hold-" + unit
        if on:
            self.write(path, "")
        else:
            os.unlink(self.root + path)

    def power_on(self, before_network=lambda: None):
        """@before_network runs when systemd is there, and nothing can have reached the API yet."""
        for g in self.groups:
            os.makedirs(g, exist_ok=True)
            for f in ("cpuset.cpus", "cpuset.mems"):
                if os.path.exists(os.path.join(g, f)):
                    with open(os.path.join(os.path.dirname(g), f)) as have, open(os.path.join(g, f), "w") as to:
                        to.write(have.read())
        self.boot()
        before_network()
        node._plug(self.plane.node, self.init)

    def power_off(self):
        """The plug is pulled: nothing on the node gets a chance to say goodbye."""
        os.kill(self.init, signal.SIGKILL)
        self.proc.wait(30)
        self.proc = self.init = None
        # Control groups are memory: a kubelet that finds those of dead pods spends seconds on each.
        wait_for("the node's control groups to be gone", lambda: node.remove_cgroups(self.plane.node))

    def netns(self):
        return "/proc/%d/ns/net" % self.init

    def containers(self):
        """Names of the running containers, sandboxes among them."""
        r = self.run("ctr", "-n", "k8s.io", "tasks", "list", "-q", check=False)
        return r.stdout.split()

    def pod_logs(self, pod):
        """What the pod's containers have printed, over all their lives, oldest first."""
        out = []
        base = self.root + "/var/log/pods"
        for d in sorted(os.listdir(base) if os.path.isdir(base) else []):
            if d.split("_")[1] != pod:
                continue
            for folder, _, names in sorted(os.walk(os.path.join(base, d))):
                for f in sorted(names, key=lambda n: int(n.split(".")[0]) if n.split(".")[0].isdigit() else 0):
                    with open(os.path.join(folder, f), errors="replace") as log:
                        out += [line.split(" ", 3)[3].rstrip("\n") for line in log if line.count(" ") >= 3]
        return out

    def stop(self):
        if self.init:
            try:
                os.kill(self.init, signal.SIGKILL)
            except ProcessLookupError:
                pass
        super().stop()


def journal(m, unit, n=20):
    return m.run("journalctl", "--no-pager", "-b", "-n", str(n), "-o", "cat", "-u", unit, check=False).stdout
