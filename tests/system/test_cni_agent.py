#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_cni_agent: the plugin and the agent together, with only ztunnel scripted: what a runtime's verbs do to a pod."""
import json
import os
import subprocess
import sys
import threading

import agent_lab
from agent_lab import PORTS, V2, Pod, World, run, until
from cni_lab import Result, Tap, arguments, contains, equal

tap = Tap()
test = tap.add
plugin = None  # path, set by main


class Node:
    """An agent with one namespace in the mesh and one outside of it, and a ztunnel that acknowledges everything."""

    def __init__(self, ztunnel=True):
        self.world, self.with_ztunnel = World(), ztunnel

    def __enter__(self):
        w = self.world
        w.namespace("default", "ambient")
        w.namespace("outside")
        self.app, self.plain = Pod(w, "app"), Pod(w, "plain", ns="outside")
        w.put("p.yaml", self.app.manifest(), self.plain.manifest())
        w.start()
        if self.with_ztunnel:
            self.z = w.ready_ztunnel(V2)
            self.z.s.settimeout(600)
            threading.Thread(target=self.acknowledge, daemon=True).start()
        return self

    def acknowledge(self):
        try:
            while True:
                _, fds = self.z.recv()
                for fd in fds:  # a socket that is still held here would go on listening
                    os.close(fd)
                self.z.fds.clear()
                self.z.ack()
        except (EOFError, OSError):
            pass  # the end of the test

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print("# " + self.world.logged().replace("\n", "\n# "))
        self.world.close()

    def call(self, verb, pod=None, prev=True, conf=None, **env):
        pod = pod or self.app
        c = {"cniVersion": "1.1.0", "name": "mesh", "type": "ambient-cni", "cni_agent_run_dir": self.world.dir + "/run"}
        if prev:
            c["prevResult"] = self.result(pod)
        c.update(conf or {})
        e = {"CNI_COMMAND": verb, "CNI_CONTAINERID": pod.cid, "CNI_NETNS": pod.path, "CNI_IFNAME": "eth0", "CNI_PATH": "/x",
             "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.ns};K8S_POD_NAME={pod.name};K8S_POD_UID={pod.uid}", **env}
        p = subprocess.run([plugin], input=json.dumps(c).encode(), env=e, capture_output=True, timeout=60)
        return Result(p.returncode, p.stdout, p.stderr, 0)

    @staticmethod
    def result(pod):
        return {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": pod.path}],
                "ips": [{"address": pod.ip + "/24", "interface": 0}], "x-vendor": {"kept": [1.0]}}


@test("ADD enrols a pod of the mesh: rules, routes, sockets, and the result untouched")
def add():
    with Node() as n:
        equal(n.call("ADD").result(), n.result(n.app), "result")
        equal(n.world.state(n.app), "enrolled", "state")
        equal((n.app.has_rules(), n.app.routed(), n.app.listening()), (True, True, PORTS), "rules, routes, sockets")
        equal(n.call("ADD").result(), n.result(n.app), "once more")
        n.call("CHECK").ok(b"")
        n.call("DEL").ok(b"")
        until("the pod is released", n.app.clean)
        equal(n.world.journal(), [], "journal")


@test("ADD leaves a pod outside of the mesh alone")
def add_outside():
    with Node() as n:
        r = n.call("ADD", n.plain, conf={"plugin_log_level": "debug"})
        equal(r.result(), n.result(n.plain), "result")
        contains(r.err, "not in the mesh")
        equal(n.plain.clean(), True, "untouched")
        n.call("CHECK", n.plain).ok(b"")
        equal(n.call("DEL", n.plain).ok(b"").err, "", "standard error")


@test("ADD of a pod that the agent does not know is an error, never 'outside'")
def add_unknown():
    with Node() as n:
        stranger = Pod(n.world, "stranger")
        n.call("ADD", stranger, conf={"timeout": "20s"}).failed(11, "stranger")
        equal(stranger.clean(), True, "untouched")


@test("CHECK finds a rule that somebody removed")
def check():
    with Node() as n:
        n.call("ADD").ok()
        run("ip", "netns", "exec", n.app.netns, "nft", "delete", "table", "inet", "istio-ambient-nat")
        n.call("CHECK").failed(999, "missing")


@test("no ztunnel: STATUS and ADD say so with code 50, pods outside of the mesh start")
def no_ztunnel():
    with Node(ztunnel=False) as n:
        n.call("STATUS").failed(50, "no ztunnel")
        n.call("ADD").failed(50, "ztunnel")
        equal(n.app.clean(), True, "untouched")
        n.call("ADD", n.plain).ok()
        n.world.ready_ztunnel()
        n.call("STATUS").ok(b"")


@test("GC releases what the runtime does not list")
def gc():
    with Node() as n:
        n.call("ADD").ok()
        keep = [{"containerID": n.app.cid, "ifname": "eth0"}]
        n.call("GC", conf={"cni.dev/valid-attachments": keep}).ok(b"")
        n.call("GC").ok(b"")  # no list
        equal(n.app.has_rules(), True, "still there")
        n.call("GC", conf={"cni.dev/valid-attachments": []}).ok(b"")
        until("the pod is released", n.app.clean)


@test("agent gone: ADD, CHECK and STATUS fail, DEL does not, and the pod stays captured")
def agent_gone():
    with Node() as n:
        n.call("ADD").ok()
        n.world.stop(9)
        n.call("ADD").failed(11, "not running")
        n.call("CHECK").failed(11, "not running")
        n.call("STATUS").failed(50, "not running")
        n.call("DEL").ok(b"")
        equal(n.app.has_rules(), True, "still captured")


@test("agent stopped in its tracks: the limit is kept, DEL waits a second")
def agent_stopped():
    with Node() as n:
        n.world.proc.send_signal(19)  # SIGSTOP
        try:
            n.call("ADD", conf={"timeout": "500ms"}).failed(11, "limit 500 ms")
            n.call("STATUS", conf={"timeout": "500ms"}).failed(50, "limit 500 ms")
            contains(n.call("DEL").ok(b"").err, "limit 1000 ms")
        finally:
            n.world.proc.send_signal(18)


@test("as the stock plugin: the stock request drives our agent")
def stock():
    with Node() as n:
        equal(n.call("ADD", conf={"agent_api": "istio"}).result(), n.result(n.app), "result")
        equal((n.app.has_rules(), n.app.listening()), (True, PORTS), "enrolled")
        n.call("ADD", Pod(n.world, "stranger"), conf={"agent_api": "istio"}).failed(11, "stranger")


def main():
    global plugin
    args = arguments(__doc__)
    agent_lab.BIN[0] = os.path.abspath(args.bin)
    plugin = os.path.join(agent_lab.BIN[0], "ambient-cni")
    return tap.run()


if __name__ == "__main__":
    sys.exit(main())
