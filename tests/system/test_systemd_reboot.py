#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_systemd_reboot.py: a node with systemd, containerd, a kubelet and the product loses its power with pods running and
comes back. Whatever comes up first, no packet of a pod of the mesh is ever plain on the node's wires, and traffic passes
again within seconds of the mesh being there.

Every frame on every interface of the node is looked at, from before anything on it can have reached the API server. The
client pod dials from its first instruction and never waits (`tester shout`); its text is in every request. A pod outside
of the mesh sends the same text, which shows that the eyes are open.
"""
import argparse
import ctypes
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from kube_node import AGENT, PROXY, ControlPlane, KubeNode, journal, missing
from test_systemd import Failed, Suite, expect, wait_for

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from cluster import layout  # noqa: E402

LIBC = ctypes.CDLL(None, use_errno=True)
ETH_P_ALL, ETH_P_IP, HBONE = 0x0003, 0x0800, 15008
MARK = b"PLAINTEXT-IS-VISIBLE"
NS, PORT = "shop", 8080
POD_NET = "10.90.2."


class Eyes(threading.Thread):
    """Looks at every frame on every interface of the machine's network namespace."""

    def __init__(self, machine):
        super().__init__(daemon=True)
        self.seen, self.hbone, self.marked = {}, 0, {}
        self.error, self.up, self.end = None, threading.Event(), False
        self.path = machine.netns()
        self.start()
        if not self.up.wait(10) or self.error:
            raise Failed(f"no capture: {self.error}")

    def run(self):
        try:
            fd = os.open(self.path, os.O_RDONLY)
            if LIBC.setns(fd, 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.close(fd)
            s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
            s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: beyond the machine's limit
            s.settimeout(0.2)
            self.up.set()
            while not self.end:
                try:
                    data, where = s.recvfrom(65536)
                except socket.timeout:
                    continue
                if where[1] == ETH_P_IP:
                    self.look(data)
            stats = struct.unpack("II", s.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
            if stats[1]:
                self.error = f"{stats[1]} of {stats[0]} frames were lost"
        except OSError as e:
            self.error = repr(e)
            self.up.set()

    def look(self, ip):
        """Counts TCP packets of pods by their two ends, but for HBONE; and the marked ones by their sender."""
        head = (ip[0] & 15) * 4
        if ip[9] != 6 or len(ip) < head + 20:
            return
        src, dst = socket.inet_ntoa(ip[12:16]), socket.inet_ntoa(ip[16:20])
        if not (src.startswith(POD_NET) or dst.startswith(POD_NET)):
            return
        sport, dport = struct.unpack("!HH", ip[head:head + 4])
        if HBONE in (sport, dport):
            self.hbone += 1
        else:
            key = (src, dst)
            self.seen[key] = self.seen.get(key, 0) + 1
        if MARK in ip:
            self.marked[src] = self.marked.get(src, 0) + 1

    def close(self):
        self.end = True
        self.join(10)
        if self.error:
            raise Failed(f"the capture: {self.error}")

    def plain(self, allowed):
        """What is not HBONE and has no end in @allowed."""
        return {k: n for k, n in self.seen.items() if not set(k) & allowed}


def pod(name, args, **labels):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NS, "labels": {"app": name, **labels}},
            "spec": {"nodeName": "n2", "automountServiceAccountToken": False, "serviceAccountName": name,
                     "terminationGracePeriodSeconds": 1,
                     "containers": [{"name": "c", "image": layout.TEST_IMAGE, "imagePullPolicy": "Never",
                                     "command": ["/bin/tester", *args]}]}}


def objects(service_ip):
    out = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": n, "namespace": NS}}
           for n in ("server", "client", "outside")]
    out += [pod("server", ["serve", str(PORT)]), pod("client", ["shout", f"{service_ip}:{PORT}"]),
            pod("outside", ["shout", layout.address(1) + ":6443"], **{"istio.io/dataplane-mode": "none"})]
    return out


def steps(plane, m):
    """(name, function) in order; each builds on the ones before it."""
    k, seen = plane.kubectl, {}

    def answered():
        return sum(line.startswith("try") and line.endswith("ok") for line in m.pod_logs("client"))

    def pod_ip(name):
        return (k.get("-n", NS, "pod", name) or {})["status"].get("podIP", "")

    def outside_heard():
        """The pod outside of the mesh was seen, with the address that the API has of it by now."""
        wait_for("the text of the pod outside of the mesh", lambda: pod_ip("outside") in seen["eyes"].marked, 90)

    def again(since, seconds=60):
        """Waits until the client has been answered more often than @since."""
        wait_for("the client to be answered", lambda: answered() > since, seconds)

    def check_wire(eyes):
        outside = {ip for ip, n in eyes.marked.items() if ip == pod_ip("outside")}
        eyes.close()
        expect(bool(outside), True, f"the text of the pod outside of the mesh ({pod_ip('outside')}) was seen ({eyes.marked})")
        expect(sorted(set(eyes.marked) - outside), [], "pods of the mesh whose text was seen")
        expect(eyes.plain(outside), {}, "packets of pods of the mesh that were not HBONE")
        expect(eyes.hbone > 0, True, "HBONE packets")
        return eyes.hbone

    def join():
        plane.up()
        m.power_on()
        wait_for("node n2 to be ready", lambda: "True" in k.run(
            "get", "node", "n2", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}", check=False).stdout, 120)
        wait_for("the product", lambda: m.show(AGENT, "ActiveState") == "active" and m.show(PROXY, "ActiveState") == "active")

    def start_pods():
        seen["eyes"] = Eyes(m)
        k.apply({"apiVersion": "v1", "kind": "Namespace",
                 "metadata": {"name": NS, "labels": {"istio.io/dataplane-mode": "ambient"}}})
        k.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": NS},
                 "spec": {"selector": {"app": "server"}, "ports": [{"port": PORT}]}})
        k.apply(*objects(k.get("-n", NS, "service", "server")["spec"]["clusterIP"]))
        again(20)
        outside_heard()
        check_wire(seen["eyes"])

    def power_cut(*held):
        """Off, and on again with some units held; returns the capture."""
        seen["before"] = answered()
        m.power_off()
        for u in held:
            m.hold(u)
        m.power_on(before_network=lambda: seen.update(eyes=Eyes(m)))
        return seen["eyes"]

    def refusals():
        said = m.run("journalctl", "--no-pager", "-b", "-o", "cat", "-u", "kubelet.service").stdout
        return {name for line in said.splitlines() if "CreatePodSandboxError" in line or "RunPodSandbox" in line
                for name in ("server", "client", "outside") if f"{NS}/{name}" in line and "ambient-cni" in line}

    def nothing_runs(why):
        expect([p for p in ("server", "client", "outside") if len(running(p)) != 0], [], f"pods that run {why}")
        expect(seen["eyes"].seen, {}, f"packets of pods {why}")
        expect(seen["eyes"].hbone, 0, f"HBONE packets {why}")

    def running(name):
        found = m.run("ctr", "-n", "k8s.io", "containers", "list", f"labels.io.kubernetes.pod.name=={name}", "-q",
                      check=False).stdout.split()
        return set(found) & set(m.containers())

    def without_agent():
        power_cut(AGENT, PROXY)
        wait_for("the kubelet to be refused for each pod", lambda: refusals() == {"server", "client", "outside"}, 90)
        nothing_runs("without an agent")

    def without_ztunnel():
        """The agent is there: who is not in the mesh starts, the others are refused."""
        m.hold(AGENT, False)
        wait_for("the agent", lambda: m.show(AGENT, "ActiveState") == "active")
        outside_heard()
        expect([p for p in ("server", "client") if len(running(p)) != 0], [], "pods of the mesh that run without a ztunnel")
        expect(seen["eyes"].plain({pod_ip("outside")}), {}, "packets of pods of the mesh")

    def all_there():
        m.hold(PROXY, False)
        wait_for("ztunnel", lambda: m.show(PROXY, "ActiveState") == "active")
        began = time.monotonic()
        again(seen["before"] + 20, 90)
        took = time.monotonic() - began
        hbone = check_wire(seen["eyes"])
        print(f"# mesh there until the client was answered: {took:.1f} s (the kubelet's own pause between tries is 10 s); "
              f"{hbone} HBONE packets, 0 plain")

    def as_it_is():
        """The order that systemd makes, nothing held."""
        began = time.monotonic()
        eyes = power_cut()
        again(seen["before"] + 20, 90)
        took = time.monotonic() - began
        outside_heard()
        hbone = check_wire(eyes)
        order = [float(m.show(u, "ActiveEnterTimestampMonotonic")) for u in (AGENT, "kubelet.service")]
        expect(order[0] < order[1], True, f"the agent was ready before the kubelet was started ({order})")
        pods = m.call("GET", "/v1/status")[1].get("pods", [])
        states = {p["name"]: p["state"] for p in pods if p["namespace"] == NS}
        expect(states, {"server": "enrolled", "client": "enrolled", "outside": "not-in-mesh"}, "what the agent says")
        print(f"# power cut until the client was answered: {took:.1f} s; {hbone} HBONE packets, 0 plain")

    return [
        ("a node with systemd joins a cluster, the product is installed", join),
        ("pods run, and the mesh carries what they say", start_pods),
        ("power cut; while the agent is away no pod starts and no packet leaves", without_agent),
        ("with an agent and no ztunnel only the pod outside of the mesh starts", without_ztunnel),
        ("with ztunnel traffic passes again, and nothing was ever plain", all_there),
        ("power cut with nothing held: the same, in the order of the units", as_it_is),
    ]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    a = p.parse_args()
    lacking = [t for t in ("systemd-nspawn", "nsenter", "curl", "containerd", "runc") if shutil.which(t) is None] + missing()
    if lacking:
        print(f"1..0 # SKIP not there: {' '.join(lacking)}")
        return 0
    if os.geteuid() != 0:
        print("1..0 # SKIP needs root")
        return 0
    folder = tempfile.mkdtemp(prefix="ambient-reboot-")
    plane = ControlPlane(folder + "/cluster")
    machine = KubeNode(folder, a.bin, plane)
    suite = Suite(machine)
    try:
        for name, step in steps(plane, machine):
            if not suite.check(name, step):
                if machine.init:
                    for unit in ("kubelet.service", "containerd.service"):
                        print("\n".join("# " + line[:400] for line in journal(machine, unit, 30).splitlines()))
                break
    finally:
        machine.stop()
        plane.down()
        subprocess.run(["umount", "--recursive", "--quiet", folder], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"1..{suite.count}")
    return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main())
