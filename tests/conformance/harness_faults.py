# SPDX-License-Identifier: Apache-2.0
"""harness_faults.py: faults of the node and the control plane, which only our own cluster (tests/cluster) can have."""
import os
import subprocess

from cluster import node as power
from cri import wire
from cri.daemon import wait_until

from .lab import ECHO_PORT, PORT, Talk, pod
from .scenario import Skip, scenario


def ready(lab, seconds=180):
    """The API server answers, the nodes are ready, and so are the pods of the product and of the tests."""
    def good():
        nodes = lab.kubectl.get("nodes", missing_ok=True)
        return nodes and all(c["status"] == "True" for n in nodes["items"] for c in n["status"]["conditions"]
                             if c["type"] == "Ready")
    wait_until("the nodes to be ready", good, seconds, every=0.2)
    for n in lab.nodes.values():
        wait_until("the agent of %s to be ready" % n.name, n.ready, seconds, every=0.2)


def answers(lab):
    """The API server serves, and is ready: before it refuses what is written."""
    wait_until("the API server to be ready", lambda: lab.kubectl.run("get", "--raw", "/readyz", check=False).returncode == 0, 180,
               every=0.2)


@scenario
def containerd_is_restarted(lab, harness):
    restart(lab, harness, "containerd")


@scenario
def the_kubelet_is_restarted(lab, harness):
    restart(lab, harness, "kubelet")


def restart(lab, harness, daemon):
    s = lab.space("ambient")
    s.run(pod("server", node="n1"), pod("echo", "echo", node="n1"))
    s.run(pod("talker", "talk", "%s:%d" % (s.ip("echo"), ECHO_PORT), node="n1"))
    s.wait_annotated("server", "echo", "talker")
    before = {n: s.restarts(n) for n in ("server", "echo", "talker")}
    talk = Talk(s, "talker")
    talk.goes_on()
    harness.kill("n1", daemon)
    s.run(pod("later", node="n1"))
    s.wait_annotated("later")
    s.must_get("later", "http://%s:%d/" % (s.ip("server"), PORT), n=3)
    talk.goes_on()
    assert before == {n: s.restarts(n) for n in before}, "something was started again"
    ready(lab)


@scenario
def the_api_server_is_restarted(lab, harness):
    s = lab.space()
    s.run(pod("a"), pod("b", mode="ambient"))
    s.wait_annotated("b")
    for _ in range(3):
        harness.kill("n1", "kube-apiserver")
        answers(lab)
    s.mode("ambient")
    s.wait_annotated("a", "b", deadline=120)
    ready(lab)


@scenario
def pods_of_known_namespaces_start_while_the_api_server_is_away(lab, harness):
    s = lab.space("ambient")
    node = "n1"
    s.run(pod("a", node=node), pod("b", node=node))
    s.wait_annotated("a", "b")
    uid, ip = s.pod("a")["metadata"]["uid"], s.ip("b")
    before = harness.sandbox(node, "a", s.name)
    with harness.held("n1", "kube-apiserver"):
        # The kubelet makes a new sandbox for a pod that it knows: an ADD, which the agent must answer alone.
        harness.stop_sandbox(node, before)
        wait_until("a new sandbox", lambda: harness.sandbox(node, "a", s.name) not in (None, before), 180, every=0.2)
        wait_until("the agent to have enrolled it",
                   lambda: harness.agent_state(node, uid) == "enrolled", 90, every=0.2)
        wait_until("the status to say that it may be out of date",
                   lambda: harness.agent_status(node).get("source", {}).get("stale"), 90, every=0.2)
    answers(lab)
    ready(lab)
    s.wait_ready("a", "b")
    # What the API says of the pod may be from before.
    wait_until("the pod to talk", lambda: s.get("a", "http://%s:%d/" % (ip, PORT), n=3)[0], 90, every=0.3)


@scenario
def no_plaintext_leaves_a_node_that_is_rebooted(lab, harness):
    if len(lab.nodes) < 2:
        raise Skip("needs two nodes")
    s = lab.space("ambient")
    s.run(pod("server", node="n1"))
    s.wait_annotated("server")
    server = s.ip("server")
    capture = Tcpdump(harness.node("n1"), lab.out + "/reboot.pcap")
    try:
        s.run(pod("shout", "shout", "%s:%d" % (server, PORT), node="n2"))
        wait_until("the pod to be heard", lambda: "ok" in s.kubectl("logs", "shout", "--tail=3"), 90, every=0.2)
        s.wait_annotated("shout")
        addresses = {s.ip("shout")}
        # Undrained: nothing on the node gets a chance to end.
        power.down(harness.node("n2"))
        power.up(harness.node("n2"))
        wait_until("the pod to be started again", lambda: any(c[1] >= 1 for c in s.restarts("shout")[1]), 240, every=0.3)
        wait_until("the pod to be heard again", lambda: "ok" in s.kubectl("logs", "shout", "--tail=3", check=False), 240,
                   every=0.3)
        addresses.add(s.ip("shout"))
    finally:
        path = capture.stop()
    seen = {}
    for p in wire.packets(path):
        if p.src in addresses or (p.src.startswith("10.90.2.") and p.dst == server):
            seen[p.dport if p.dst == server else "answer"] = seen.get(p.dport if p.dst == server else "answer", 0) + 1
    assert seen.get(15008, 0) > 20, seen
    assert PORT not in seen, "plaintext from the rebooted node: %s" % seen
    lab.find_shells()
    lab.kubectl("-n", "ambient-conformance", "rollout", "status", "daemonset/node", "--timeout=180s", timeout=200)
    ready(lab)


class Tcpdump:
    """On a node's eth0, from outside of it."""

    def __init__(self, node, path):
        self.path = path
        self.process = subprocess.Popen(
            ["nsenter", "-t", str(node.pid), "-n", "tcpdump", "-i", "eth0", "-w", path, "-U", "-B", "65536", "-Z", "root",
             "-n", "ip"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "listening on" in line:
                return
        raise AssertionError("tcpdump did not start")

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=60)
        assert os.path.getsize(self.path) > 24, "nothing was captured"
        return self.path
