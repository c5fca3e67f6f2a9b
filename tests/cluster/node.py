# SPDX-License-Identifier: Apache-2.0
"""node.py: switches a node on and off, from outside."""
import os
import shutil
import signal
import subprocess
import sys
import time

from . import layout

HERE = os.path.dirname(os.path.abspath(__file__))


class NotUp(Exception):
    """A node did not come up; str() says where to look."""


def up(node):
    """Starts @node on whatever state it has; returns when its daemons run. Does nothing when it is up."""
    if node.pid:
        return
    for d in (node.logs, node.run):
        os.makedirs(d, exist_ok=True)
    # What is below run/ is about the last start.
    for f in os.listdir(node.run):
        path = os.path.join(node.run, f)
        (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)
    with open(node.logs + "/init.log", "ab") as log:
        outer = subprocess.Popen(
            ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--propagation", "private", "--",
             sys.executable, "-u", HERE + "/node_init.py", node.cluster.folder, str(node.number)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={"AMBIENT_NODE": node.folder, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})
    inner = _wait(node, "its first process", lambda: _child(outer.pid), outer)
    with open(node.folder + "/pid", "w") as f:
        f.write(str(inner))
    if node.number != 1:
        _plug(node, inner)
    _wait(node, "its daemons", lambda: os.path.exists(node.run + "/started"), outer)
    if node.number == 1:
        _forward(node, inner)


def _wait(node, what, condition, process, deadline=400):
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if process.poll() is not None or time.monotonic() > end:
            with open(node.logs + "/init.log", errors="replace") as f:
                tail = "".join(f.readlines()[-20:])
            raise NotUp("%s: no sign of %s; the last lines of %s/init.log:\n%s" % (node.name, what, node.logs, tail))
        time.sleep(0.02)


def _child(pid):
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return int((f.read().split() or ["0"])[0])
    except FileNotFoundError:
        return 0


def _plug(node, pid):
    """A cable: the node's eth0 on one end, a port of node 1's bridge on the other."""
    first = str(node.cluster.node(1).pid)
    port = "port-" + node.name
    # The kernel takes its time to remove what a killed node had.
    if subprocess.run(["nsenter", "-t", first, "-n", "ip", "link", "show", port], capture_output=True,
                      check=False).returncode == 0:
        subprocess.run(["nsenter", "-t", first, "-n", "ip", "link", "del", port], capture_output=True, check=False)
    for args in (["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pid)],
                 ["link", "set", port, "master", "eth0"], ["link", "set", port, "up"]):
        subprocess.run(["nsenter", "-t", first, "-n", "ip", *args], check=True)


def _forward(node, pid):
    port = node.cluster.load()["port"]
    with open(node.logs + "/forward.log", "ab") as log:
        # Only the process namespace is the node's; forward.py goes into the network namespace itself.
        subprocess.Popen(["nsenter", "-t", str(pid), "-p", "--", sys.executable, HERE + "/forward.py", str(port),
                          layout.address(1) + ":6443", "/proc/%d/ns/net" % pid],
                         stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def down(node):
    """Pulls the plug: nothing on the node gets a chance to say goodbye. Its state stays."""
    pid = node.pid
    if pid:
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 120
        while node.pid and time.monotonic() < end:
            time.sleep(0.02)
    if os.path.exists(node.folder + "/pid"):
        os.unlink(node.folder + "/pid")


def inside(node, *argv, **more):
    """Runs a program of this machine on the node, in all of its namespaces."""
    return subprocess.run(["nsenter", "-t", str(node.pid), "-m", "-n", "-u", "-i", "-p", "--", *argv], **more)


def remove_cgroups(node):
    """Removes the node's groups, which are empty once the node is down; True when none is left."""
    top, left = "/sys/fs/cgroup", False
    for base in [top] + [os.path.join(top, h) for h in os.listdir(top)]:
        mine = "%s/%s" % (base, node.cgroup)
        if os.path.islink(base) or not os.path.isdir(mine):
            continue
        for d, _dirs, _files in os.walk(mine, topdown=False):
            try:
                os.rmdir(d)
            except OSError:
                left = True
    return not left
