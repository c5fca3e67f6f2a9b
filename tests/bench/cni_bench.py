#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""cni_bench.py: what the CNI plugin costs a pod, from spawn to exit, against the reference `loopback` plugin.

usage: cni_bench.py --bin DIR [--runs 300] [--reference /usr/lib/cni/loopback]
All rows are taken in turns in one run: compare rows, not machines. In one mesh row the agent is a script that answers
at once, so it is the plugin's own cost; in the last one it is our agent with a ztunnel that acknowledges at once, and
every ADD is a whole enrolment (rules, routes, sockets, ZDS), undone by a DEL that is not timed. Peak memory is what the kernel says while the plugin waits for the agent."""
import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

BODY = b'{"outcome":"enrolled","reason":"bench"}'
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def answer_at_once(listener):
    while True:
        connection, _ = listener.accept()
        data = b""
        while not data.endswith(b"}"):
            data += connection.recv(65536)
        connection.sendall(ANSWER)
        connection.close()


class Case:
    def __init__(self, name, program, conf, netns, args):
        self.name, self.program = name, program
        self.env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "bench", "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
                    "CNI_PATH": os.path.dirname(program), "CNI_ARGS": args}
        self.stdin = tempfile.TemporaryFile()
        self.stdin.write(json.dumps(conf).encode())
        self.stdin.flush()
        self.wall, self.cpu = [], []

    def once(self, out):
        os.lseek(self.stdin.fileno(), 0, os.SEEK_SET)
        os.ftruncate(out, 0)
        actions = [(os.POSIX_SPAWN_DUP2, self.stdin.fileno(), 0), (os.POSIX_SPAWN_DUP2, out, 1)]
        begin = time.perf_counter_ns()
        pid = os.posix_spawn(self.program, [self.program], self.env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        end = time.perf_counter_ns()
        if status != 0:
            raise SystemExit(f"{self.name}: exit status {os.waitstatus_to_exitcode(status)}: {os.pread(out, 2000, 0)!r}")
        self.wall.append((end - begin) / 1e6)
        self.cpu.append((usage.ru_utime + usage.ru_stime) * 1e3)


    def undo(self):
        os.lseek(self.stdin.fileno(), 0, os.SEEK_SET)
        subprocess.run([self.program], env=dict(self.env, CNI_COMMAND="DEL"), stdin=self.stdin, check=True)


class RealAgent:
    """Our agent, one pod of the mesh, and a ztunnel that acknowledges everything."""

    def __init__(self, bin_dir):
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "system"))
        import agent_lab
        agent_lab.BIN[0] = os.path.abspath(bin_dir)
        self.world = w = agent_lab.World()
        w.namespace("default", "ambient")
        self.pod = agent_lab.Pod(w, "app")
        w.put("p.yaml", self.pod.manifest())
        w.start()
        z = w.ready_ztunnel(agent_lab.V2)
        z.s.settimeout(None)
        self.ztunnel = multiprocessing.Process(target=self.acknowledge, args=(z,), daemon=True)
        self.ztunnel.start()

    @staticmethod
    def acknowledge(z):
        while True:
            _, fds = z.recv()
            for fd in fds:
                os.close(fd)
            z.fds.clear()
            z.ack()

    def close(self):
        self.ztunnel.terminate()
        self.ztunnel.join()
        self.world.close()


def at(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def table(cases, base):
    print("| plugin ADD, spawn to exit | p50 ms | p99 ms | p50, ratio | p99, ratio | CPU ms (mean) |")
    print("|---|---:|---:|---:|---:|---:|")
    for c in cases:
        p50, p99 = at(c.wall, 0.5), at(c.wall, 0.99)
        print(f"| {c.name} | {p50:.2f} | {p99:.2f} | {p50 / at(base.wall, 0.5):.2f} | {p99 / at(base.wall, 0.99):.2f} | "
              f"{sum(c.cpu) / len(c.cpu):.2f} |")


def peak_kib(case, path):
    """The plugin's peak resident memory, read while it waits for its answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(10)
        os.lseek(case.stdin.fileno(), 0, os.SEEK_SET)
        p = subprocess.Popen([case.program], env=case.env, stdin=case.stdin, stdout=subprocess.DEVNULL)
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            with open(f"/proc/{p.pid}/status") as f:
                kib = next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))
            connection.sendall(ANSWER)
        if p.wait(10) != 0:
            raise SystemExit("peak memory: the plugin failed")
    return kib


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--reference", default="/usr/lib/cni/loopback")
    args = parser.parse_args()
    plugin = os.path.join(os.path.abspath(args.bin), "ambient-cni")
    name = f"cnibench{os.getpid()}"
    netns = "/var/run/netns/" + name
    folder = tempfile.mkdtemp(prefix="cni-bench-")
    prev = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": netns}],
            "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 0}], "dns": {}}
    conf = {"cniVersion": "1.0.0", "name": "bench", "type": "ambient-cni", "cni_agent_run_dir": folder, "prevResult": prev}
    pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u"
    subprocess.run(["ip", "netns", "add", name], check=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(folder, "pluginevent.sock"))
    listener.listen(64)
    agent = multiprocessing.Process(target=answer_at_once, args=(listener,), daemon=True)
    agent.start()
    real = RealAgent(args.bin) if os.path.exists(os.path.join(args.bin, "ambient-agent")) else None
    try:
        cases = [Case("reference `loopback`", args.reference, {"cniVersion": "1.0.0", "name": "bench", "type": "loopback"},
                      netns, pod),
                 Case("ours, pod that passes through", plugin, dict(conf, exclude_namespaces=["shop"]), netns, pod),
                 Case("ours, mesh pod, agent answers at once", plugin, conf, netns, pod)]
        if real is not None:
            cases.append(Case("ours, mesh pod, our agent: the whole enrolment", plugin,
                              dict(conf, cni_agent_run_dir=real.world.dir + "/run", prevResult=dict(prev, ips=[
                                  {"address": real.pod.ip + "/24", "interface": 0}])), real.pod.path,
                              f"IgnoreUnknown=1;K8S_POD_NAMESPACE={real.pod.ns};K8S_POD_NAME={real.pod.name}"))
        with tempfile.TemporaryFile() as out:
            for i in range(args.runs + 5):
                for case in cases:
                    case.once(out.fileno())
                if real is not None:
                    cases[-1].undo()
                if i == 4:  # warm-up
                    for case in cases:
                        case.wall, case.cpu = [], []
        table(cases, cases[0])
        os.unlink(os.path.join(folder, "pluginevent.sock"))
        print(f"\nPeak resident memory of ours: {peak_kib(cases[2], os.path.join(folder, 'pluginevent.sock'))} KiB; "
              f"binary: {os.path.getsize(plugin) // 1024} KiB.")
    finally:
        if real is not None:
            real.close()
        agent.terminate()
        agent.join()
        listener.close()
        subprocess.run(["ip", "netns", "del", name], check=True)
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
