# SPDX-License-Identifier: Apache-2.0
"""layout.py: names, addresses and paths of a cluster. A cluster is a folder; all it has is below it."""
import json
import os
import random
import secrets
import socket

from . import build

TREE = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BIN = build.BIN
POD_NETS, SERVICE_NET, API_SERVICE, DNS = "10.90.0.0/16", "10.96.0.0/16", "10.96.0.1", "10.96.0.10"
# Two families, IPv4 first, where the kernel has both.
IPV6 = os.path.exists("/proc/net/if_inet6")
POD_NETS6, SERVICE_NET6 = "fd00:90::/56", "fd00:96::/112"
PAUSE_IMAGE = TEST_IMAGE = "ambient.test/tester:1"
DNS_IMAGE = "ambient.test/coredns:1"
# Node 1 of two clusters, on the cable between them (link.py).
LINK = ("10.91.0.1", "10.91.0.2")
MAX_NODES = 9


def free_port():
    """It is used some time after: none of those that the kernel gives to whoever asks for any."""
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise OSError("no port is free on 127.0.0.1")


class Cluster:
    """Where things are. `id` makes this cluster's cgroups different from another's."""

    def __init__(self, folder):
        self.folder = os.path.realpath(folder)
        self.pki, self.images = self.folder + "/pki", self.folder + "/images"
        self.kubeconfig = self.folder + "/kubeconfig"

    def load(self):
        """What `up` has decided: id, port on loopback, number of nodes; {} before the first."""
        try:
            with open(self.folder + "/cluster.json") as f:
                return json.load(f)
        except FileNotFoundError:
            return {}

    def save(self, facts):
        with open(self.folder + "/cluster.json", "w") as f:
            json.dump(facts, f)

    def facts(self):
        """load(), made at the first call."""
        return self.load() or {"id": secrets.token_hex(3), "port": free_port(), "nodes": 0}

    def node(self, number):
        return Node(self, number)

    def nodes(self):
        return [self.node(n + 1) for n in range(self.load().get("nodes", 0))]


class Node:
    """Node 1 also runs the control plane."""

    def __init__(self, cluster, number):
        self.cluster, self.number, self.name = cluster, number, "n%d" % number
        self.folder = "%s/%s" % (cluster.folder, self.name)
        self.logs, self.run = self.folder + "/log", self.folder + "/run"
        self.address = address(number)
        self.address6 = "fd00:89::%d" % (10 + number)
        self.pod_net, self.pod_net6 = "10.90.%d.0/24" % number, "fd00:90:0:%d::/64" % number

    @property
    def cgroup(self):
        return "ambient-%s-%s" % (self.cluster.load()["id"], self.name)

    @property
    def pid(self):
        """The node's process 1, as this machine numbers it; None when the node is down."""
        try:
            with open(self.folder + "/pid") as f:
                pid = int(f.read())
            with open("/proc/%d/environ" % pid, "rb") as f:
                # Not another process that got the number.
                return pid if ("AMBIENT_NODE=" + self.folder).encode() in f.read().split(b"\0") else None
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None

    def daemon_pid(self, name):
        """A daemon's number inside the node; None when it is not running."""
        try:
            with open("%s/%s.pid" % (self.run, name)) as f:
                return int(f.read())
        except FileNotFoundError:
            return None


def both(v4, v6):
    """Addresses or networks of all families, as programs want them."""
    return v4 + "," + v6 if IPV6 else v4


def address(number):
    return "10.89.0.%d" % (10 + number)
