#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_cnitool: the CNI project's own runtime library drives real chains: a reference plugin, then ours. Every call
runs in a network namespace of its own that plays the node, with libcni's cache in a private directory."""
import json
import os
import shutil
import subprocess
import sys

from cni_lab import OK, Agent, Lab, Skip, Tap, arguments, contains, equal, http, ours

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.join(ROOT, os.environ.get("CACHE", ".cache"))
MODULE = "github.com/containernetworking/cni/cnitool@v1.3.1"
PLUGINS = "/usr/lib/cni"  # Debian's containernetworking-plugins
tap = Tap()
lab = None
test = tap.add


def cnitool():
    """Path of cnitool, built on first use."""
    path = os.path.join(CACHE, "bin", "cnitool")
    if os.path.exists(path):
        return path
    if not shutil.which("go"):
        raise Skip("Go is not installed")
    built = subprocess.run(["go", "install", MODULE], env=dict(os.environ, GOBIN=os.path.dirname(path), GOFLAGS="-buildvcs=false"),
                           cwd="/", capture_output=True, text=True, timeout=400)
    if built.returncode != 0:
        raise Skip("cnitool cannot be built: " + built.stderr.strip().splitlines()[-1])
    return path


def reference(name):
    path = os.path.join(PLUGINS, name)
    if not os.path.exists(path):
        raise Skip(f"{path} (package containernetworking-plugins)")
    r = subprocess.run([path], env={"CNI_COMMAND": "VERSION"}, input='{"cniVersion":"1.0.0"}', capture_output=True, text=True,
                       timeout=20, check=True)
    return json.loads(r.stdout)["supportedVersions"]


class Node:
    """A namespace that plays the node, and cnitool in it."""

    def __init__(self, version, *plugins):
        self.name = f"ambientnode{os.getpid()}"
        self.dirs = {d: os.path.join(lab.dir, d) for d in ("net.d", "cache", "leases")}
        self.conf = {"cniVersion": version, "name": "testnet", "plugins": [
            *plugins, {"type": "ambient-cni", "cni_agent_run_dir": lab.dir, "timeout": "5s"}]}

    def __enter__(self):
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        for d in self.dirs.values():
            os.makedirs(d)
        with open(os.path.join(self.dirs["net.d"], "10-test.conflist"), "w") as f:
            json.dump(self.conf, f)
        return self

    def __exit__(self, *unused):
        subprocess.run(["ip", "netns", "del", self.name], check=True)
        for d in self.dirs.values():
            shutil.rmtree(d)

    def run(self, verb, args="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=uid-1"):
        """`ip netns exec` gives a mount namespace of its own, so the bind mount over libcni's fixed path is private."""
        os.makedirs("/var/lib/cni", exist_ok=True)
        script = 'mount --bind "$1" /var/lib/cni && shift && exec "$@"'
        return subprocess.run(
            ["ip", "netns", "exec", self.name, "sh", "-c", script, "sh", self.dirs["cache"], cnitool(), verb, "testnet", lab.netns],
            env=dict(os.environ, CNI_PATH=f"{PLUGINS}:{os.path.dirname(lab.plugin)}", NETCONFPATH=self.dirs["net.d"], CNI_ARGS=args),
            capture_output=True, text=True, timeout=60)

    def ok(self, verb, note="", **kw):
        """`note` is what the plugin may say on standard error, else it says nothing."""
        r = self.run(verb, **kw)
        equal(r.returncode, 0, f"{verb}: {r.stdout}{r.stderr}")
        equal(r.stderr.startswith(note) if note else r.stderr, True if note else "", f"{verb}: {r.stderr}")
        return json.loads(r.stdout) if r.stdout else None

    def fails(self, verb, *parts):
        r = self.run(verb)
        equal(r.returncode, 1, f"{verb}: {r.stdout}{r.stderr}")
        for part in parts:
            contains(r.stdout + r.stderr, part, verb)


def pod_addresses():
    out = subprocess.run(["ip", "-n", lab.netns_name, "-j", "addr"], check=True, capture_output=True, text=True).stdout
    return {f"{a['local']}/{a['prefixlen']}" for i in json.loads(out) for a in i.get("addr_info", []) if a["scope"] == "global"}


def bridge(node_dir):
    return {"type": "bridge", "bridge": "br-test", "ipam": {
        "type": "host-local", "dataDir": node_dir,
        "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]]}}


def by_command(agent):
    return [r.json()["command"] for r in agent.requests]


def bridge_chain(version):
    if version not in reference("bridge"):
        raise Skip(f"the bridge plugin does not speak {version}")
    with Node(version, bridge(os.path.join(lab.dir, "leases"))) as node, Agent(lab.socket()) as agent:
        result = node.ok("add")
        equal(result["cniVersion"], version, "cniVersion")
        addresses = [ip["address"] for ip in result["ips"]]
        equal(set(addresses), pod_addresses(), "addresses in the pod")
        equal(len(addresses), 2, "one of each family")
        sent = agent.only().json()
        equal((sent["command"], sent["ips"], sent["podName"], sent["podNamespace"], sent["netns"]),
              ("ADD", addresses, "web-1", "shop", lab.netns), "request")
        if version >= "0.4.0":
            agent.behave = OK
            node.ok("check")
            agent.behave = ours(500, code=999, msg="rules are not what they should be", details="prerouting is missing")
            node.fails("check", "rules are not what they should be")
        agent.behave = OK
        node.ok("del")
        equal(by_command(agent), ["ADD"] + (["CHECK", "CHECK"] if version >= "0.4.0" else []) + ["DEL"], "requests")
        equal(pod_addresses(), set(), "addresses after DEL")


for each in ("0.3.0", "0.3.1", "0.4.0", "1.0.0"):
    test(f"bridge, host-local, ours, version {each}: add, check, del")(lambda each=each: bridge_chain(each))


@test("loopback, ours: a pod that is not in the mesh keeps loopback's result")
def loopback_chain():
    version = [v for v in ("1.1.0", "1.0.0", "0.4.0") if v in reference("loopback")][0]
    with Node(version, {"type": "loopback"}) as node, Agent(lab.socket(), ours(outcome="not-in-mesh", reason="no label")) as agent:
        result = node.ok("add")
        equal([ip["address"] for ip in result["ips"]], ["127.0.0.1/8", "::1/128"], "addresses")
        equal(result["interfaces"][0]["name"], "lo", "interface")
        equal(len(agent.requests), 1, "requests")
        node.ok("del")


@test("no Kubernetes pod: the agent is not asked")
def no_pod():
    reference("bridge")
    with Node("1.0.0", bridge(os.path.join(lab.dir, "leases"))) as node, Agent(lab.socket(), http(500, "no")) as agent:
        node.ok("add", args="IgnoreUnknown=1")
        equal(agent.connections, 0, "connections")
        node.ok("check", args="IgnoreUnknown=1")
        equal(agent.connections, 0, "connections")
        agent.behave = OK
        node.ok("del", args="IgnoreUnknown=1")  # the agent knows best whether it had enrolled the container


@test("agent gone: add fails with what to do, del still cleans up")
def agent_gone():
    reference("bridge")
    with Node("1.0.0", bridge(os.path.join(lab.dir, "leases"))) as node:
        node.fails("add", "node agent at " + lab.socket(), "No such file", "systemctl status ambient-agent")
        node.ok("del", note="ambient-cni: DEL shop/web-1: ignored: node agent at ")
        equal(pod_addresses(), set(), "addresses after DEL")
        leases = os.path.join(lab.dir, "leases", "testnet")
        equal([n for n in os.listdir(leases) if n[0].isdigit() or ":" in n], [], "leases")


@test("agent refuses: the runtime shows the agent's words and code")
def agent_refuses():
    reference("bridge")
    with Node("1.0.0", bridge(os.path.join(lab.dir, "leases"))) as node:
        with Agent(lab.socket(), ours(409, code=11, msg="pod shop/web-1 is not known yet", details="try again")):
            node.fails("add", "pod shop/web-1 is not known yet", "try again")
            node.ok("del", note="ambient-cni: DEL shop/web-1: ignored: pod shop/web-1 is not known yet")


@test("ours alone, 1.1.0: status tells the truth")
def status():
    with Node("1.1.0") as node:
        node.fails("status", "not running")
        with Agent(lab.socket(), OK) as agent:
            node.ok("status")
            equal(by_command(agent), ["STATUS"], "requests")
            agent.behave = ours(503, code=50, msg="no ztunnel is connected", details="start it")
            node.fails("status", "no ztunnel is connected")


@test("ours alone, 1.1.0: add, check, gc, del")
def gc():
    with Node("1.1.0") as node, Agent(lab.socket()) as agent:
        equal(node.ok("add"), {"cniVersion": "1.1.0"}, "result")  # libcni drops an empty dns
        agent.behave = OK
        node.ok("check")
        node.ok("gc")  # libcni deletes what it has cached; cnitool gives no list, so nothing is collected
        equal(by_command(agent), ["ADD", "CHECK", "DEL"], "requests")
        node.ok("del")


def main():
    global lab
    args = arguments(__doc__)
    with Lab(args.bin) as lab:
        return tap.run()


if __name__ == "__main__":
    sys.exit(main())
