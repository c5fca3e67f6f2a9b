#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_install_cni.py: the agent as Istio's chart starts it: under the name install-cni, with the chart's capabilities and
no other, in network and process namespaces of its own, the node's files below /host; against a real API server. What it
puts on the node, what goes through it, and what its end means. Run as root."""
import json
import os
import shutil
import signal
import subprocess
import sys

from agent_lab import BIN, PORTS, V2, Ztunnel, main, run, test, until
from kube_api import NODE, serve
from kube_server import AGENT, API, Cluster

# templates/daemonset.yaml of the chart istio-cni
CAPS = "-all,+net_admin,+net_raw,+sys_ptrace,+sys_admin,+dac_override"
NAMESPACE, NODE_IP, POD_IP = "istio-system", "10.79.0.1", "10.79.0.2"
PRIMARY = '{\n "cniVersion": "1.1.0", "name": "net",\n "plugins": [ {"type": "bridge"} ]\n}\n'
RUN, CNI, NETS = "/var/run/istio-cni", "/host/opt/cni/bin/", "/host/etc/cni/net.d/"


class Chart:
    """A node (process 1 is a shell in the world's host namespace, a `kubelet` runs) and on it the container of the chart."""

    def __init__(self, w, **env):
        self.w, self.root, self.env = w, w.dir + "/root", env
        self.cluster = Cluster(w, ips=(NODE_IP,)) if not self.link() else None
        self.rights()
        for d in ("host/proc", "host/opt/cni/bin", "host/etc/cni/net.d", "host/var/run/netns", "opt/cni/bin", "tmp", "proc",
                  "var/run/istio-cni", "var/run/ztunnel", "var/run/secrets/kubernetes.io/serviceaccount", "dev", "usr", "etc"):
            os.makedirs(self.root + "/" + d)
        for d in ("bin", "sbin", "lib", "lib64"):
            os.symlink("usr/" + d, self.root + "/" + d)
        os.symlink("var/run", self.root + "/run")
        shutil.copy(BIN[0] + "/ambient-cni", self.root + "/opt/cni/bin/ambient-cni")
        shutil.copy(BIN[0] + "/ambient-agent", self.root + "/install-cni")
        shutil.copy("/bin/sleep", w.dir + "/kubelet")
        self.write(NETS + "10-net.conflist", PRIMARY)
        account = "/var/run/secrets/kubernetes.io/serviceaccount/"
        with open(w.dir + "/ca.crt") as f:
            self.write(account + "ca.crt", f.read())
        self.write(account + "token", AGENT)
        # A directory of another user: only DAC_OVERRIDE may write there.
        os.chown(self.root + CNI, 1234, 1234)
        os.chmod(self.root + CNI, 0o755)
        w.sock, w.zds = self.root + RUN + "/pluginevent.sock", self.root + "/var/run/ztunnel/ztunnel.sock"
        self.proc = None
        w.peers.append(self)

    def link(self):
        """The pod's network: an address of its own, which is not the node's."""
        w = self.w
        self.netns = w.host + "-a"
        run("ip", "netns", "add", self.netns)
        w.netns.append(self.netns)
        run("ip", "-n", w.host, "link", "add", "agent0", "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        run("ip", "-n", w.host, "addr", "add", NODE_IP + "/24", "dev", "agent0")
        run("ip", "-n", w.host, "link", "set", "agent0", "up")
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        run("ip", "-n", self.netns, "addr", "add", POD_IP + "/24", "dev", "eth0")
        run("ip", "-n", self.netns, "link", "set", "eth0", "up")

    def rights(self):
        """templates/clusterrole.yaml of the chart, of which we need a part."""
        group, c = "rbac.authorization.k8s.io", self.cluster
        c.must("POST", "/apis/%s/v1/clusterroles" % group, {"metadata": {"name": "istio-cni-ambient"}, "rules": [
            {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["istio-cni-node"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]})
        c.must("POST", "/apis/%s/v1/clusterrolebindings" % group, {
            "metadata": {"name": "istio-cni-ambient"}, "subjects": [{"kind": "User", "name": "ambient", "apiGroup": group}],
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "istio-cni-ambient"}})
        c.namespace(NAMESPACE)
        c.must("POST", "/api/v1/nodes", {"metadata": {"name": NODE, "labels": {"pool": "a"}}})
        c.must("POST", "/apis/apps/v1/namespaces/%s/daemonsets" % NAMESPACE, {
            "metadata": {"name": "istio-cni-node"}, "spec": {
                "selector": {"matchLabels": {"k8s-app": "x"}}, "template": {
                    "metadata": {"labels": {"k8s-app": "x"}},
                    "spec": {"containers": [{"name": "install-cni", "image": "none"}]}}}})

    def select(self, labels):
        self.cluster.must("PATCH", "/apis/apps/v1/namespaces/%s/daemonsets/istio-cni-node" % NAMESPACE,
                          {"spec": {"template": {"spec": {"nodeSelector": labels}}}}, kind="application/merge-patch+json")

    def write(self, path, text):
        with open(self.root + path, "w") as f:
            f.write(text)

    def read(self, path):
        with open(self.root + path) as f:
            return f.read()

    def start(self):
        env = {"PATH": "/usr/sbin:/usr/bin", "KUBERNETES_SERVICE_HOST": NODE_IP, "KUBERNETES_SERVICE_PORT": str(API),
               "AMBIENT_ENABLED": "true", "NODE_NAME": NODE, "POD_NAME": "istio-cni-node-x", "POD_NAMESPACE": NAMESPACE,
               "CHAINED_CNI_PLUGIN": "true", "ISTIO_OWNED_CNI_CONFIG": "false", "EXCLUDE_NAMESPACES": "kube-system",
               "REPAIR_ENABLED": "true", "ALLOW_SWITCH_TO_HOST_NS": "true", "NATIVE_NFTABLES": "false",
               "AMBIENT_DNS_CAPTURE": "false", "AMBIENT_IPV6": "true", "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", ""),
               "LSAN_OPTIONS": os.environ.get("LSAN_OPTIONS", ""), **self.env}
        root = self.root
        binds = "".join("mount --rbind %s %s/%s && " % (a, root, b) for a, b in (
            ("/usr", "usr"), ("/etc", "etc"), ("/dev", "dev"), ("/proc", "host/proc"), ("/run/netns", "host/var/run/netns")))
        container = "mount -t proc proc %s/proc && exec chroot %s setpriv --bounding-set=%s /install-cni %s" % (
            root, root, CAPS, "--log_output_level=default:debug")
        self.proc = subprocess.Popen(
            ["nsenter", "--net=/var/run/netns/" + self.w.host, "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "--propagation", "slave", "sh", "-c",
             "%s (%s/kubelet 600 &) && nsenter --net=/var/run/netns/%s unshare --mount --propagation slave --pid --fork --kill-child "
             "sh -c '%s'; "
             "exit $?" % (binds, self.w.dir, self.netns, container)],
            env=env, stdout=self.w.log, stderr=self.w.log, stdin=subprocess.DEVNULL)
        until("the agent is ready", self.ready, 60)

    def get(self, port, path):
        return run("ip", "netns", "exec", self.w.host, sys.executable, "-c",
                   "import urllib.request as u\ntry: print(u.urlopen('http://%s:%d%s', timeout=3).status)\n"
                   "except Exception as e: print(getattr(e, 'code', e))" % (POD_IP, port, path)).strip()

    def ready(self):
        assert self.proc.poll() is None, "it ended with %d" % self.proc.returncode
        return self.get(8000, "/readyz") == "200"

    def pid(self):
        """The agent, among the descendants of what we started."""
        todo = [self.proc.pid]
        while todo:
            pid = todo.pop()
            with open("/proc/%d/comm" % pid) as f:
                if f.read() == "install-cni\n":
                    return pid
            with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
                todo += [int(x) for x in f.read().split()]
        raise AssertionError("no agent runs")

    def stop(self):
        os.kill(self.pid(), signal.SIGTERM)
        rc, self.proc = self.proc.wait(60), None
        return rc

    def close(self):
        """With the node everything on it ends."""
        if self.proc is not None:
            self.proc.kill()
            self.proc.wait()

    def entry(self):
        plugins = json.loads(self.read(NETS + "10-net.conflist"))["plugins"]
        return plugins[1] if len(plugins) == 2 else None

    def plugin(self, command, pod=None, name=None):
        """Calls the installed program as a runtime would, with the entry that is in the chain."""
        conf = dict(self.entry(), cniVersion="1.1.0", name="net", agent_socket=self.w.sock)
        env = {"CNI_COMMAND": command, "CNI_PATH": "/none"}
        if pod:
            env.update(CNI_CONTAINERID=pod.cid, CNI_NETNS=pod.path, CNI_IFNAME="eth0", CNI_ARGS=(
                "K8S_POD_NAME=%s;K8S_POD_NAMESPACE=%s;K8S_POD_UID=%s" % (name or pod.name, pod.ns, pod.uid)))
            conf["prevResult"] = {"cniVersion": "1.1.0", "ips": [{"address": pod.ip + "/24"}]}
        p = subprocess.run(["nsenter", "--net=/var/run/netns/" + self.w.host, self.root + CNI + "istio-cni"], env=env,
                           input=json.dumps(conf), capture_output=True, text=True, check=False, timeout=60)
        return p.returncode, p.stdout + p.stderr


def ztunnel(w):
    z = Ztunnel(w.zds, V2)
    w.peers.append(z)
    z.snapshot()
    serve(z)


@test
def the_container_of_the_chart_works_with_its_capabilities_alone(w):
    """A pod goes in through the plugin; the node's rules are in the node's namespace, not in the agent's pod."""
    k = Chart(w)
    k.write(RUN + "/istio-cni-kubeconfig", "a token of Istio's agent")
    k.start()
    with open("/proc/%d/status" % k.pid()) as f:
        caps = dict(line.split(":\t") for line in f.read().splitlines() if line.startswith("Cap"))
    wanted = sum(1 << n for n in (1, 12, 13, 19, 21))  # dac_override, net_admin, net_raw, sys_ptrace, sys_admin
    assert int(caps["CapPrm"], 16) & ~wanted == 0 and int(caps["CapBnd"], 16) & ~wanted == 0, caps
    assert k.get(8000, "/healthz") == "200" and k.get(15014, "/metrics") == "200"
    e = k.entry()
    assert e["type"] == "istio-cni" and e["ambient_enabled"] and e["agent_in_pod_network"], e
    assert e["pod_namespace"] == NAMESPACE and len(e["enablement_selectors"]) == 2, e
    assert os.listdir(k.root + CNI) == ["istio-cni"]
    assert not os.path.exists(k.root + RUN + "/istio-cni-kubeconfig"), "a token that nobody needs"
    p, q = k.cluster.pod(w, "app", mode="ambient"), k.cluster.pod(w, "plain")
    ztunnel(w)
    code, text = k.plugin("ADD", p)
    assert code == 0 and w.state(p) == "enrolled" and p.has_rules() and p.listening() == PORTS, (code, text)
    until("annotated", lambda: k.cluster.annotation("app") == "enabled")
    code, text = k.plugin("ADD", q)
    assert code == 0 and not q.has_rules(), (code, text)
    node = run("ip", "netns", "exec", w.host, "nft", "list", "ruleset")
    assert "istio-inpod-probes-v4" in node and p.ip in node, node
    assert "istio" not in run("ip", "netns", "exec", k.netns, "nft", "list", "ruleset")
    # Its own path, of a process: below /host/proc, as the node numbers it.
    code, text = k.plugin("DEL", q)
    assert code == 0, text


@test
def it_stays_while_its_daemonset_is_there_and_is_gone_with_it(w):
    """Replaced: plugin and rules stay, the agent's own pod gets in, others wait, the node does not become unready. Uninstalled:
    the network's file is what it was, byte for byte."""
    k = Chart(w)
    k.start()
    p, own = k.cluster.pod(w, "app", mode="ambient"), k.cluster.pod(w, "istio-cni-node-y", ns=NAMESPACE)
    ztunnel(w)
    assert k.plugin("ADD", p)[0] == 0 and p.has_rules()
    with_us = k.read(NETS + "10-net.conflist")
    assert k.stop() == 0
    assert k.read(NETS + "10-net.conflist") == with_us and p.has_rules()
    code, text = k.plugin("ADD", own)
    assert code == 0, text
    code, text = k.plugin("STATUS")
    assert code == 0, "a node that is not ready would keep the agent's pod away: " + text
    code, text = k.plugin("ADD", p)
    assert code != 0 and "agent" in text, text
    k.start()
    ztunnel(w)
    until("it is found again", lambda: w.state(p) == "enrolled")
    k.cluster.must("DELETE", "/apis/apps/v1/namespaces/%s/daemonsets/istio-cni-node" % NAMESPACE)
    assert k.stop() == 0
    assert k.read(NETS + "10-net.conflist") == PRIMARY and os.listdir(k.root + CNI) == []
    assert p.has_rules(), "a pod in the mesh stays captured"
    assert p.ip in run("ip", "netns", "exec", w.host, "nft", "list", "ruleset"), "and its probes pass"


@test
def what_the_api_server_does_not_say_is_no_reason_to_go(w):
    """Away: the plugin stays. A node that the DaemonSet does not mean any more: it goes. Without the role (an uninstall removes
    it at the same time): it goes, and no pod being in the mesh, the node's rules with it."""
    k = Chart(w)
    k.start()
    k.cluster.end("api")
    assert k.stop() == 0
    assert k.entry() is not None
    k.cluster.start_api()
    k.start()
    k.select({"pool": "a"})
    assert k.stop() == 0 and k.entry() is not None
    k.start()
    k.select({"pool": "b"})
    assert k.stop() == 0 and k.entry() is None
    k.select({"pool": "a"})
    # Once more with a file of its own, where Istio's agent had one (its copy of the network's, older by now).
    own = "02-istio-cni.conflist"
    k.env["ISTIO_OWNED_CNI_CONFIG"] = "true"
    k.write(NETS + own, json.dumps({"cniVersion": "1.1.0", "name": "net", "plugins": [
        {"type": "old"}, {"type": "istio-cni", "ambient_enabled": True}]}))
    k.start()
    types = [p["type"] for p in json.loads(k.read(NETS + own))["plugins"]]
    assert types == ["bridge", "istio-cni"] and k.read(NETS + "10-net.conflist") == PRIMARY, types
    until("the kubelet is found", lambda: "istio" in run("ip", "netns", "exec", w.host, "nft", "list", "ruleset"))
    k.cluster.must("DELETE", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/istio-cni-ambient")
    assert k.stop() == 0
    assert os.listdir(k.root + NETS) == ["10-net.conflist"] and os.listdir(k.root + CNI) == []
    assert "istio" not in run("ip", "netns", "exec", w.host, "nft", "list", "ruleset")


@test
def a_value_that_is_refused_is_named(w):
    """The container does not start, and its log says which value of the chart."""
    for name, value, text in (("AMBIENT_ENABLED", "false", "ambient.enabled"), ("CHAINED_CNI_PLUGIN", "false", "chained")):
        os.makedirs(w.dir + "/b", exist_ok=True)
        if not os.path.lexists(w.dir + "/b/install-cni"):
            os.symlink(os.path.abspath(BIN[0]) + "/ambient-agent", w.dir + "/b/install-cni")
        p = subprocess.run([w.dir + "/b/install-cni", "--log_output_level=info"], env=dict(os.environ, **{name: value}),
                           capture_output=True, text=True, check=False)
        assert p.returncode == 2 and name in p.stderr and text in p.stderr, (p.returncode, p.stderr)


if __name__ == "__main__":
    sys.exit(main())
