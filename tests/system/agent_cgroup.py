# SPDX-License-Identifier: Apache-2.0
"""agent_cgroup.py: a process that the agent takes for a pod's: in the pod's network namespace, and in a cgroup that
has the pod's UID in its name, as a kubelet makes them."""
import contextlib
import os
import subprocess

from agent_lab import TAG, Skip, until


def hierarchy():
    root = "/sys/fs/cgroup"
    return root if os.path.exists(root + "/cgroup.procs") else root + "/pids"


def rmdir(d):
    try:
        os.rmdir(d)
        return True
    except OSError:
        return False


class Process:
    def __init__(self, top, pod, uid=None, argv=("sleep", "600")):
        leaf = "%s/pod%s/%s" % (top, uid or pod.uid, "a" * 64)
        os.makedirs(leaf, exist_ok=True)
        self.proc = subprocess.Popen(["ip", "netns", "exec", pod.netns, *argv])
        with open(leaf + "/cgroup.procs", "w") as f:
            f.write(str(self.proc.pid))
        until("in its namespace", lambda: os.stat("/proc/%d/ns/net" % self.proc.pid).st_ino == os.stat(pod.path).st_ino)

    def end(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()


@contextlib.contextmanager
def processes():
    """Gives a function that starts a process in a pod; all end with the block, and so do their cgroups."""
    top = "%s/kubepods-%s" % (hierarchy(), TAG)
    try:
        os.makedirs(top)
    except OSError as e:
        raise Skip("cannot make a cgroup: %s" % e) from e
    started = []

    def start(pod, **more):
        started.append(Process(top, pod, **more))
        return started[-1]
    try:
        yield start
    finally:
        for p in started:
            p.end()
        for d, _, _ in os.walk(top, topdown=False):
            until("cgroup is empty", lambda d=d: rmdir(d))
