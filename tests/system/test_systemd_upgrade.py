#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_systemd_upgrade.py: under a real systemd: the watchdog ends daemons whose loop or worker hangs, with every socket
kept, and a ztunnel is replaced by the next generation under traffic without one connection lost.

The traffic: 200 new connections a second from one pod to another, each sends, reads and closes, and 50 connections that
stay and talk all the time. The commands are those of docs/install.md.
"""
import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
import time

from test_systemd import Failed, PORTS, expect, main, wait_for

AGENT, FIRST, SECOND = "ambient-agent.service", "ztunnel.service", "ztunnel@2.service"
PODS = {"client": "10.77.0.2", "server": "10.77.0.3"}
PORT, KEPT, RATE = 8080, 50, 200
LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000


def uid(pod):
    return "11111111-2222-3333-4444-%012d" % (sorted(PODS).index(pod) + 1)


def manifests():
    docs = ["apiVersion: v1\nkind: Namespace\nmetadata:\n  name: default\n  labels: {istio.io/dataplane-mode: ambient}\n"]
    docs += [json.dumps({"apiVersion": "v1", "kind": "Pod",
                         "metadata": {"name": p, "namespace": "default", "uid": uid(p)},
                         "spec": {"serviceAccountName": p, "nodeName": "node1", "containers": [{"name": "c", "image": "x"}]},
                         "status": {"podIP": ip, "podIPs": [{"ip": ip}]}}) + "\n" for p, ip in PODS.items()]
    return "---\n".join(docs)


def state():
    return json.dumps({"workloads": [
        {"uid": "cluster1//v1/Pod/default/" + p, "name": p, "namespace": "default", "serviceAccount": p, "workloadIps": [ip],
         "protocol": "HBONE", "node": "node1", "network": "", "services": {}} for p, ip in PODS.items()]})


class InNamespace(threading.Thread):
    """An event loop in a thread of its own inside a pod's network namespace. @main is its coroutine function."""

    def __init__(self, machine, pod, main):
        super().__init__(daemon=True)
        self.path, self.main_fn, self.error = f"/proc/{machine.init}/root/run/netns/{pod}", main, None
        self.start()

    def run(self):
        try:
            fd = os.open(self.path, os.O_RDONLY)
            if LIBC.setns(fd, 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.close(fd)
            asyncio.run(self.main_fn())
        except Exception as e:  # shown by whoever joins
            self.error = repr(e)


class Server:
    def __init__(self, machine):
        self.up, self.stop = threading.Event(), threading.Event()
        self.open = 0  # connections
        self.thread = InNamespace(machine, "server", self.main)
        if not self.up.wait(30):
            raise Failed(f"the server does not listen: {self.thread.error}")

    async def main(self):
        async def echo(reader, writer):
            self.open += 1
            try:
                while data := await reader.read(4096):
                    writer.write(data)
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()
                self.open -= 1
        server = await asyncio.start_server(echo, "0.0.0.0", PORT, backlog=1024)
        self.up.set()
        while not self.stop.is_set():
            await asyncio.sleep(0.05)
        server.close()


class Traffic:
    """What the client pod does, and what became of it."""

    def __init__(self, machine):
        self.failed, self.cut, self.took_ms = [], [], []
        self.kept = self.rounds = self.ended = 0
        self.stop_new, self.stop_kept = threading.Event(), threading.Event()
        self.thread = InNamespace(machine, "client", self.main)

    async def one(self):
        began = time.monotonic()
        try:
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(PODS["server"], PORT)
                writer.write(b"hello")
                if await reader.readexactly(5) != b"hello":
                    raise OSError("another answer")
                writer.close()
            self.took_ms.append((time.monotonic() - began) * 1000)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as e:
            self.failed.append(repr(e))

    async def keep(self):
        try:
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection(PODS["server"], PORT)
            self.kept += 1
            while not self.stop_kept.is_set():
                async with asyncio.timeout(20):
                    writer.write(b"still here")
                    await reader.readexactly(10)
                self.rounds += 1
                await asyncio.sleep(0.2)
            writer.close()
            self.ended += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as e:
            self.cut.append(repr(e))

    async def main(self):
        kept = [asyncio.create_task(self.keep()) for _ in range(KEPT)]
        began, started, open_now = time.monotonic(), 0, set()
        while not self.stop_new.is_set():
            # who is busy with other things is not given more and more at once
            while started < (time.monotonic() - began) * RATE and len(open_now) < RATE:
                task = asyncio.create_task(self.one())
                open_now.add(task)
                task.add_done_callback(open_now.discard)
                started += 1
            await asyncio.sleep(0.005)
        self.rate = started / (time.monotonic() - began)
        await asyncio.gather(*open_now)
        await asyncio.gather(*kept)

    def check(self, when):
        if self.thread.error or self.failed or self.cut:
            raise Failed(f"{when}: {self.thread.error} failed: {self.failed[:5]} ({len(self.failed)} of "
                         f"{len(self.took_ms) + len(self.failed)}), cut: {self.cut[:5]} ({len(self.cut)} of {KEPT})")

    def progress(self, what, connections=100):
        """Waits until that many more new connections were answered and every kept one talked."""
        had, talked = len(self.took_ms), self.rounds
        wait_for(what, lambda: self.failed or self.cut or self.thread.error or
                 (len(self.took_ms) >= had + connections and self.rounds >= talked + 2 * KEPT), 120)
        self.check(what)


def thread_of(pid, name):
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm") as f:
            if f.read().strip() == name:
                return int(tid)
    raise Failed(f"process {pid} has no thread {name}")


def prepare(m):
    m.write("/etc/ambient/manifests/web.yaml", manifests())
    m.write("/etc/ambient/state.yaml", state())
    with open(m.root + "/etc/default/ztunnel", "a") as f:
        f.write("CONNECTION_TERMINATION_DEADLINE=5m\nZTUNNEL_WORKER_THREADS=2\nRUST_LOG=info,access=off\n")
    for unit in (AGENT, FIRST):
        m.write(f"/etc/systemd/system/{unit}.d/test.conf", "[Service]\nWatchdogSec=8s\n")


def steps(m):
    """(name, function) in order; each builds on the ones before it."""
    seen = {}

    def outer_pid(unit):
        """Process id outside of the container."""
        inner = m.show(unit, "MainPID")
        for p in os.listdir("/proc"):
            try:
                with open(f"/proc/{p}/status") as f:
                    ids = [line.split()[1:] for line in f if line.startswith("NSpid:")][0]
                with open(f"/proc/{p}/cgroup") as f:
                    if len(ids) > 1 and ids[-1] == inner and unit in f.read():
                        return int(p)
            except (OSError, IndexError):
                pass
        raise Failed(f"no process for {unit}, which says {inner}")

    def listeners(pod):
        out = {}
        for f in ("tcp", "tcp6"):
            for line in m.run("ip", "netns", "exec", pod, "cat", "/proc/net/" + f).stdout.splitlines()[1:]:
                w = line.split()
                if w[3] == "0A" and int(w[1].rsplit(":", 1)[1], 16) in PORTS:
                    out[int(w[1].rsplit(":", 1)[1], 16)] = w[9]
        return out

    def enrolled():
        pods = m.call("GET", "/v1/status")[1].get("pods", [])
        return sorted(p["uid"] for p in pods if p["state"] == "enrolled" and p["custody"]) == sorted(map(uid, PODS))

    def enrol():
        wait_for("ztunnel to say that it serves", lambda: m.show(FIRST, "ActiveState") == "active")
        m.run("ip", "link", "add", "br0", "type", "bridge")
        m.run("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
        m.run("ip", "link", "set", "br0", "up")
        for p, ip in PODS.items():
            m.run("ip", "netns", "add", p)
            m.run("ip", "link", "add", "v-" + p, "master", "br0", "type", "veth", "peer", "name", "eth0", "netns", p)
            m.run("ip", "link", "set", "v-" + p, "up")
            m.run("ip", "-n", p, "addr", "add", ip + "/24", "dev", "eth0")
            for dev in ("eth0", "lo"):
                m.run("ip", "-n", p, "link", "set", dev, "up")
            code, doc = m.call("POST", "/v1/cni", {
                "command": "ADD", "containerID": p, "netns": "/run/netns/" + p, "ifname": "eth0", "podName": p,
                "podNamespace": "default", "podUID": uid(p), "ips": [ip + "/24"], "deadlineMs": 9000})
            expect((code, doc.get("outcome")), (200, "enrolled"), f"answer {doc}")
            seen[p] = listeners(p)
            expect(sorted(seen[p]), list(PORTS), "listening ports of " + p)

    def restarted_by_watchdog(unit, hang, release=lambda: None):
        before, pid = m.show(unit, "NRestarts"), m.show(unit, "MainPID")
        hang()
        try:
            wait_for("a restart of " + unit, lambda: m.show(unit, "NRestarts") != before and
                     m.show(unit, "MainPID") not in ("0", pid) and m.show(unit, "ActiveState") == "active")
        finally:
            release()
        wait_for("the reason in the journal", lambda: "Watchdog timeout" in m.run(
            "journalctl", "--no-pager", "-u", unit, "-o", "cat").stdout)
        wait_for("the pods to be enrolled with their sockets in custody", enrolled)
        for p in PODS:
            expect(listeners(p), seen[p], "sockets of " + p)

    def worker_hangs():
        tid = thread_of(outer_pid(FIRST), "ztunnel-1")
        done = threading.Event()
        failed = []

        def hold():
            if LIBC.ptrace(PTRACE_SEIZE, tid, None, None) != 0 or LIBC.ptrace(PTRACE_INTERRUPT, tid, None, None) != 0:
                failed.append(ctypes.get_errno())
            done.set()
            try:
                while True:  # until the thread is gone: who traces it has to take its end
                    _, status = os.waitpid(tid, WALL)
                    if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                        return
            except ChildProcessError:
                pass
        holder = threading.Thread(target=hold, daemon=True)

        def hang():
            holder.start()
            done.wait(10)
            expect(failed, [], "errors of ptrace")
        restarted_by_watchdog(FIRST, hang)

    def agent_hangs():
        pid = outer_pid(AGENT)
        restarted_by_watchdog(AGENT, lambda: os.kill(pid, signal.SIGSTOP))

    def traffic_flows():
        seen["server"], seen["load"] = Server(m), Traffic(m)
        wait_for("the kept connections", lambda: seen["load"].kept == KEPT)
        seen["load"].progress("traffic before the upgrade")

    def replace(old, new):
        load = seen["load"]
        m.run("systemctl", "start", new)
        pods = [z for z in m.call("GET", "/v1/status")[1]["ztunnels"] if z["newest"]]
        expect([str(z["pid"]) for z in pods], [m.show(new, "MainPID")], "the ztunnel that gets new pods once the command returns")
        load.progress("traffic with two generations")
        m.run("systemctl", "stop", "--no-block", old)
        wait_for("the old one to drain", lambda: "draining" in m.show(old, "StatusText"))
        load.progress("traffic while the old one drains", 5 * RATE)
        expect(m.show(old, "ActiveState"), "deactivating", "the old one still carries the kept connections")
        drains = {str(z["pid"]): z["draining"] for z in m.call("GET", "/v1/status")[1]["ztunnels"]}
        expect(drains, {m.show(old, "MainPID"): True, m.show(new, "MainPID"): False}, "what the agent knows")
        dump = m.run("curl", "-sS", "--unix-socket", "/run/ztunnel/admin.sock", "http://x/debug/workers").stdout
        expect(json.loads(dump)["tlsAccepted"] > 0, True, f"connections between ztunnels that the new one took ({dump})")
        text = m.run("curl", "-sS", "http://127.0.0.1:15020/metrics").stdout
        opened = sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                     if line.startswith("istio_tcp_connections_opened_total") and 'reporter="source"' in line)
        expect(opened >= 5 * RATE, True, f"connections that the new one carried ({opened})")
        ready = m.run("curl", "-sS", "http://127.0.0.1:15021/healthz/ready").stdout
        expect(ready, "ready\n", "readiness")

    def first_upgrade():
        replace(FIRST, SECOND)

    def drained():
        """The kept connections end by themselves, and with them the old generation."""
        load = seen["load"]
        load.stop_kept.set()
        wait_for("the kept connections to end", lambda: load.cut or load.failed or load.ended == KEPT)
        load.check("the end of the kept connections")
        wait_for("the old one to end", lambda: m.show(FIRST, "ActiveState") == "inactive")
        expect(m.show(FIRST, "Result"), "success", "its end")
        load.stop_new.set()
        load.thread.join(30)
        load.check("the whole upgrade")
        took = sorted(load.took_ms)
        expect(load.rate > 0.25 * RATE, True, f"new connections a second: {load.rate:.0f}")
        print(f"# {len(took)} new connections at {load.rate:.0f}/s: 0 failed, {KEPT} kept: 0 cut; "
              f"median {took[len(took) // 2]:.1f} ms, 99 % {took[len(took) * 99 // 100]:.1f} ms, longest {took[-1]:.0f} ms")

    def back_again():
        """The next upgrade goes back to the unit that starts at boot; this time the old one's limit cuts nothing either."""
        seen["load"] = Traffic(m)
        wait_for("the kept connections", lambda: seen["load"].kept == KEPT)
        replace(SECOND, FIRST)
        seen["load"].stop_new.set()
        seen["load"].stop_kept.set()
        seen["load"].thread.join(30)
        seen["load"].check("the way back")
        wait_for("the old one to end", lambda: m.show(SECOND, "ActiveState") == "inactive")

    def bad_upgrade():
        """A generation that cannot serve fails its start, and the one before goes on."""
        m.write(f"/etc/systemd/system/{SECOND}.d/test.conf",
                "[Service]\nTimeoutStartSec=2s\nRestart=no\nEnvironment=LOCAL_XDS_PATH=\nEnvironmentFile=\n"
                "Environment=LOCAL_XDS_PATH=/etc/ambient/none.yaml NODE_NAME=node1\n")
        m.run("systemctl", "daemon-reload")
        r = m.run("systemctl", "start", SECOND, check=False)
        expect(r.returncode != 0, True, "systemctl start says that it failed")
        expect(m.show(FIRST, "ActiveState"), "active", "the one before")
        newest = [str(z["pid"]) for z in m.call("GET", "/v1/status")[1]["ztunnels"] if z["newest"]]
        expect(newest, [m.show(FIRST, "MainPID")], "who gets new pods")
        load = Traffic(m)
        wait_for("the kept connections", lambda: load.kept == KEPT)
        load.progress("traffic after the attempt")
        load.stop_new.set()
        load.stop_kept.set()
        load.thread.join(30)
        load.check("after the attempt")

    def quiet():
        # A connection whose end has not come through yet when the server's loop ends would stay open, and ztunnel with it.
        wait_for("the server's connections to end", lambda: seen["server"].open == 0)
        seen["server"].stop.set()
        seen["server"].thread.join(10)
        m.run("systemctl", "stop", FIRST, "ambient-agent.socket", "ambient-agent-zds.socket", AGENT)
        for unit in (AGENT, FIRST):
            expect(m.show(unit, "Result"), "success", unit + " stopped with")

    return [
        ("two pods are enrolled", enrol),
        ("one worker of ztunnel hangs: the watchdog starts it anew, the sockets stay", worker_hangs),
        ("the agent hangs: the watchdog starts it anew, the sockets stay", agent_hangs),
        ("traffic flows", traffic_flows),
        ("a second generation takes over and the first one drains", first_upgrade),
        ("no connection failed and none was cut", drained),
        ("and back again", back_again),
        ("a generation that cannot serve does not take over", bad_upgrade),
        ("units stop cleanly", quiet),
    ]


if __name__ == "__main__":
    sys.exit(main(steps, prepare))
