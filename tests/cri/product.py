# SPDX-License-Identifier: Apache-2.0
"""product.py: what this repository builds, running on a node: the plugin, the agent, ztunnel."""
import http.client
import json
import os
import re
import socket
import subprocess

from .daemon import Daemon, wait_until

AGENT_RUN = "/run/istio-cni"
EVENT_SOCKET = AGENT_RUN + "/pluginevent.sock"
ZDS_SOCKET = "/run/ztunnel/ztunnel.sock"
PLUGIN = {"type": "ambient-cni"}
PROGRAMS = ("ambient-cni", "ambient-agent", "ztunnel", "ambientctl")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def _get(connection, path):
    """(status, body text); (0, reason) when nobody answers."""
    try:
        connection.request("GET", path)
        r = connection.getresponse()
        return r.status, r.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as e:
        return 0, str(e)
    finally:
        connection.close()


class Agent(Daemon):
    def __init__(self, bin_dir, log_dir, manifests, node_name, **env):
        super().__init__("ambient-agent", [
            os.path.join(bin_dir, "ambient-agent"), "--manifests", manifests.folder,
            "--node-name", node_name], log_dir, env=env)

    def start(self):
        os.makedirs(AGENT_RUN, exist_ok=True)
        os.makedirs(os.path.dirname(ZDS_SOCKET), exist_ok=True)
        super().start()
        wait_until("the agent to answer on " + EVENT_SOCKET, self.status, alive=self.alive)
        return self

    def status(self):
        """The document of GET /v1/status; None while nobody answers."""
        code, body = _get(_UnixConnection(EVENT_SOCKET, 30), "/v1/status")
        return json.loads(body) if code == 200 else None

    def pod(self, pod):
        """The agent's record of a node.Pod, or None."""
        for p in (self.status() or {}).get("pods", []):
            if p["uid"] == pod.uid and p["namespace"] == pod.namespace:
                return p
        return None

    def state(self, pod):
        """`enrolled`, `pending`, `not-in-mesh`, `failed`; "absent" when the agent has no record."""
        return (self.pod(pod) or {"state": "absent"})["state"]

    def wait_ready(self, deadline=60):
        wait_until("the agent to be ready", lambda: (self.status() or {}).get("ready"),
                   deadline, self.alive)

    def wait_state(self, pod, state, deadline=60):
        wait_until("pod %s to be %s" % (pod.name, state), lambda: self.state(pod) == state,
                   deadline, self.alive)

    def wait_forgotten(self, deadline=60):
        wait_until("the agent to forget every pod", lambda: (self.status() or {}).get("pods") == [],
                   deadline, self.alive)

    @staticmethod
    def journal():
        """The files below the run folder that are no sockets: attachments and the like."""
        found = []
        for d, _dirs, files in os.walk(AGENT_RUN):
            found += [os.path.relpath(os.path.join(d, f), AGENT_RUN) for f in files
                      if os.path.isfile(os.path.join(d, f))]
        return sorted(found)


class Ztunnel(Daemon):
    def __init__(self, bin_dir, log_dir, state, ca_dir, node_name, **env):
        os.makedirs(ca_dir, mode=0o700, exist_ok=True)
        settings = {"LOCAL_XDS_PATH": state.path, "NODE_NAME": node_name, "INPOD_UDS": ZDS_SOCKET,
                    "AMBIENT_DEV_CA_DIR": ca_dir}
        super().__init__("ztunnel", [os.path.join(bin_dir, "ztunnel")], log_dir,
                         env=dict(settings, **env))

    def ready(self):
        return self.get(15021, "/healthz/ready")[0] == 200

    def wait_ready(self, deadline=60):
        wait_until("ztunnel to be ready", self.ready, deadline, self.alive)

    @staticmethod
    def get(port, path):
        return _get(http.client.HTTPConnection("127.0.0.1", port, timeout=30), path)

    def dump(self):
        return json.loads(self.get(15000, "/config_dump")[1])

    def metric(self, name, **labels):
        """Sum of all samples of a metric whose labels include @labels."""
        total = 0.0
        for line in self.get(15020, "/metrics")[1].splitlines():
            m = re.match(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$", line)
            if not m or m.group(1) not in (name, name + "_total"):
                continue
            have = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m.group(2) or ""))
            if all(have.get(k) == v for k, v in labels.items()):
                total += float(m.group(3))
        return total

    def mark(self):
        """A place in the log, for access()."""
        return len(self.text())

    def access(self, since=0, **fields):
        """Access-log lines after mark() @since as dicts (with `line`). Field names in @fields have
        `_` for `.`; a value matches a whole field or an address without its port."""
        found = []
        for line in self.text()[since:].splitlines():
            if "\taccess\t" not in line:
                continue
            have = {k: v.strip('"') for k, v in
                    re.findall(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S+)', line.split("\t", 4)[-1])}
            wanted = {k.replace("_", ".", 1) if k.startswith(("src_", "dst_")) else k: v
                      for k, v in fields.items()}
            if all(v in (have.get(k), have.get(k, "").rsplit(":", 1)[0])
                   for k, v in wanted.items()):
                found.append(dict(have, line=line))
        return found

    def wait_access(self, since, what, deadline=60, **fields):
        return wait_until("an access-log line: " + what, lambda: self.access(since, **fields),
                          deadline, self.alive)


def rules(pod):
    """What is in a pod's network namespace that a pod outside the mesh does not have: nftables,
    policy rules, routes in tables of their own. Empty text: nothing."""
    found = [pod.in_netns("nft", "list", "ruleset").strip()]
    usual = {"local", "main", "default"}
    for family in ("-4", "-6"):
        for line in pod.in_netns("ip", family, "rule", "show").splitlines():
            if line.split("lookup")[-1].strip() not in usual:
                found.append("rule %s %s" % (family, line))
        for line in pod.in_netns("ip", family, "route", "show", "table", "all").splitlines():
            m = re.search(r"table (\S+)", line)
            if m and m.group(1) not in usual:
                found.append("route %s %s" % (family, line))
    return "\n".join(f for f in found if f)


def socket_inodes(pod):
    """{port: inode} of the mesh's listening sockets: the same inode is the same socket."""
    out = pod.in_netns("ss", "-Hltne", "sport >= :15000 and sport <= :15099")
    return {int(line.split()[3].rsplit(":", 1)[1]): re.search(r"ino:(\d+)", line).group(1)
            for line in out.splitlines()}


def listeners(pod):
    """The mesh's listening ports in a pod's network namespace, as a sorted list of numbers."""
    out = pod.in_netns("ss", "-Hltn")
    ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in out.splitlines()}
    return sorted(p for p in ports if p in (15001, 15006, 15008, 15053, 15080))


def descriptors(daemon):
    """How many descriptors of which kind a program holds."""
    count = {}
    for f in daemon.fds():
        kind = f.split(":")[0] if ":" in f and not f.startswith("/") else "file"
        count[kind] = count.get(kind, 0) + 1
    return count


def host_probes():
    """Every element of every nftables set in the node's own network namespace."""
    out = subprocess.run(["nft", "-j", "list", "ruleset"], check=True, capture_output=True,
                         text=True).stdout
    return ["%s: %s" % (o["set"]["name"], e) for o in json.loads(out)["nftables"] if "set" in o
            for e in o["set"].get("elem", [])]


def ctl(bin_dir, *args):
    r = subprocess.run([os.path.join(bin_dir, "ambientctl")] + list(args), capture_output=True,
                       text=True, timeout=60)
    return r.returncode, r.stdout, r.stderr
