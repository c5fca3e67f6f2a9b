# SPDX-License-Identifier: Apache-2.0
"""node.py: one node: containerd with a CNI chain, and pods on it.

Call private.enter() first: a node uses the well-known paths below /run, which must be private.
"""
import errno
import json
import os
import shutil
import subprocess
import uuid

from . import images, private
from .client import Cri
from .daemon import Daemon, wait_until

RUN = "/run/node"
SOCKET = "/run/containerd/containerd.sock"
CNI_CONF = RUN + "/cni/net.d"
CNI_BIN = RUN + "/cni/bin"
CNI_STATE = RUN + "/cni/state"
DEBIAN_CNI = "/usr/lib/cni"
BRIDGE = "cni0"
SUBNET = "10.88.0.0/24"
NEEDED = {"containerd": "containerd", "runc": "runc", "ctr": "containerd", "protoc":
          "protobuf-compiler", DEBIAN_CNI + "/bridge": "containernetworking-plugins",
          images.BUSYBOX: "busybox-static"}

CONFIG = """version = 2
root = "{run}/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{run}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  # Nothing that would stay in the host's kernel, and nothing that a container would refuse us.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def missing():
    """The names of Debian packages that a node needs and that are not installed."""
    return sorted({p for f, p in NEEDED.items() if not (os.path.exists(f) or shutil.which(f))})


class Pod:
    """A sandbox and its containers. `uid`, `name`, `namespace`, `ip`, `id`, `netns`."""

    def __init__(self, node, name, namespace, uid=None, attempt=0):
        self.node, self.name, self.namespace = node, name, namespace
        self.uid = uid or str(uuid.uuid4())
        self.config = {
            "metadata": {"name": name, "uid": self.uid, "namespace": namespace, "attempt": attempt},
            "hostname": name, "log_directory": node.log_dir + "/pods",
            "labels": {"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace,
                       "io.kubernetes.pod.uid": self.uid},
            "linux": {"cgroup_parent": "/" + self.cgroup()},
        }
        self.id = self.ip = self.netns = None
        self.containers = {}

    def run(self):
        """Creates the sandbox; raises CriError with the runtime's (and the plugin's) sentence."""
        self.id = self.node.cri.run_sandbox(self.config)
        self.ip = self.node.cri.sandbox_ip(self.id)
        self.netns = self.node.cri.sandbox_netns(self.id)
        return self

    def start(self, container, *command):
        self.containers[container] = self.node.cri.run_container(
            self.id, self.config, container, images.IMAGE, list(command))
        return self.containers[container]

    def exec(self, *argv, container="main", timeout=60):
        return self.node.cri.exec(self.containers[container], *argv, timeout=timeout)

    def sh(self, script, container="main", timeout=60):
        """Runs a shell script in the container; returns (status, stdout, stderr)."""
        return self.exec("sh", "-c", script, container=container, timeout=timeout)

    def identity(self, container="main"):
        """(pid, start time) of a container's process: unchanged means not restarted."""
        return self.node.cri.container(self.containers[container])[:2]

    def in_netns(self, *argv):
        """Runs a host program in the pod's network namespace; returns its stdout."""
        return subprocess.run(["nsenter", "--net=" + self.netns, "--"] + list(argv), check=True,
                              capture_output=True, text=True).stdout

    def remove(self):
        if self.id:
            self.node.cri.remove_sandbox(self.id)
            self.id = None
            self.remove_cgroups()

    def cgroup(self):
        """As a kubelet names it."""
        return "%s/pod%s" % (private.name(), self.uid)

    def remove_cgroups(self):
        """The pod's own are the kubelet's to remove, the runtime removes its containers' only."""
        for d in private.cgroup_dirs(self.cgroup()):
            try:
                os.rmdir(d)
            except OSError as e:
                if e.errno not in (errno.EBUSY, errno.ENOENT):  # another sandbox of the same pod; gone by itself
                    raise


class Node:
    """containerd and a CNI chain. @plugins: CNI configurations chained after Debian's bridge."""

    def __init__(self, log_dir, snapshotter="overlayfs"):
        self.log_dir, self.snapshotter = log_dir, snapshotter
        self.containerd = Daemon("containerd", ["containerd", "-c", RUN + "/containerd.toml"],
                                 log_dir)
        self.cri = None

    def start(self, plugins=(), plugin_files=()):
        """Starts containerd with the chain bridge + @plugins. @plugin_files: our plugins' paths."""
        for d in (CNI_CONF, CNI_BIN, CNI_STATE, self.log_dir + "/pods"):
            os.makedirs(d, exist_ok=True)
        for f in [os.path.join(DEBIAN_CNI, p) for p in sorted(os.listdir(DEBIAN_CNI))]:
            os.symlink(f, os.path.join(CNI_BIN, os.path.basename(f)))
        for f in plugin_files:
            os.symlink(os.path.abspath(f), os.path.join(CNI_BIN, os.path.basename(f)))
        self.set_chain(plugins)
        with open(RUN + "/containerd.toml", "w") as out:
            out.write(CONFIG.format(run=RUN, socket=SOCKET, image=images.IMAGE, cni_bin=CNI_BIN,
                                    cni_conf=CNI_CONF, snapshotter=self.snapshotter))
        self.containerd.start()
        wait_until("containerd's socket", lambda: os.path.exists(SOCKET),
                   alive=self.containerd.alive)
        self._load_image()
        self.cri = Cri(SOCKET)
        wait_until("containerd's network to be ready", self.network_ready,
                   alive=self.containerd.alive)
        return self

    def set_chain(self, plugins, cni_version="1.0.0"):
        """Writes the CNI configuration; containerd watches the folder and reloads by itself."""
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True,
                  "ipMasq": False, "ipam": {"type": "host-local", "dataDir": CNI_STATE,
                                            "ranges": [[{"subnet": SUBNET}]],
                                            "routes": [{"dst": "0.0.0.0/0"}]}}
        conf = {"cniVersion": cni_version, "name": "podnet", "plugins": [bridge] + list(plugins)}
        path = CNI_CONF + "/10-podnet.conflist"
        with open(path + ".new", "w") as out:
            json.dump(conf, out, indent=1)
        os.rename(path + ".new", path)

    def _load_image(self):
        tar = RUN + "/image.tar"
        images.write_archive(tar)
        subprocess.run(["ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", "--snapshotter",
                        self.snapshotter, tar], check=True, capture_output=True)
        os.unlink(tar)

    def network_ready(self):
        conditions = self.cri.call("Status").status.conditions
        return any(c.type == "NetworkReady" and c.status for c in conditions)

    def pod(self, name, namespace="shop", **more):
        return Pod(self, name, namespace, **more)

    def leftovers(self):
        """What pods have left on this node: sandboxes, namespaces, addresses, veths. Empty: none."""
        found = ["sandbox %s/%s" % (s.metadata.namespace, s.metadata.name)
                 for s in self.cri.sandboxes()]
        found += ["netns " + n for n in sorted(os.listdir("/run/netns"))]
        folder = CNI_STATE + "/podnet"
        if os.path.isdir(folder):
            found += ["address " + a for a in sorted(os.listdir(folder)) if a[0].isdigit()]
        links = subprocess.run(["ip", "-o", "link", "show", "type", "veth"], check=True,
                               capture_output=True, text=True).stdout
        return found + ["link " + line.split(":")[1].strip() for line in links.splitlines()]

    def stop(self):
        """Removes every pod, then containerd. The namespaces take the rest."""
        if self.cri:
            if self.containerd.alive():
                for s in self.cri.sandboxes():
                    self.cri.remove_sandbox(s.id)
            self.cri.close()
        self.containerd.stop()
