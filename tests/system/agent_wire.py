# SPDX-License-Identifier: Apache-2.0
"""agent_wire.py: an application in a pod that never stops connecting, and what of it is on the wire in the clear; and
the check that nothing of pods is left where nothing should be."""
import contextlib
import ctypes
import os
import signal
import socket
import struct
import threading
import time

from agent_lab import PORTS, run, until

LIBC = ctypes.CDLL(None, use_errno=True)
PEER = "10.77.0.250"  # nobody; its address on the wire is set by hand, so that packets really leave
PEER_PORT = 8080
ETH_IP = 0x0800


class Talker(threading.Thread):
    """Connects to PEER from within a pod, over and over, and counts the TCP packets to PEER_PORT that leave its
    interface. A pod outside of the mesh gives a growing count; one that is captured none."""

    def __init__(self, pod):
        super().__init__(daemon=True)
        run("ip", "-n", pod.netns, "neigh", "replace", PEER, "lladdr", "02:00:00:00:00:fa", "dev", "eth0")
        self.path, self.plain, self.tries, self.over = pod.path, 0, 0, False
        self.up = threading.Event()
        self.start()
        assert self.up.wait(30)

    def run(self):
        fd = os.open(self.path, os.O_RDONLY)
        assert LIBC.setns(fd, 0x40000000) == 0
        os.close(fd)
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_IP))
        wire.bind(("peer0", ETH_IP))  # the other end of eth0: what arrives there has left
        wire.settimeout(0.02)
        self.up.set()
        while not self.over:
            with socket.socket() as s:
                s.setblocking(False)
                with contextlib.suppress(OSError):
                    s.connect((PEER, PEER_PORT))
                self.tries += 1
                self.look(wire)

    def look(self, wire):
        with contextlib.suppress(socket.timeout):
            while True:
                packet = wire.recv(2048)
                head = (packet[0] & 15) * 4
                if packet[9] == 6 and struct.unpack_from("!H", packet, head + 2)[0] == PEER_PORT:
                    self.plain += 1
                if self.over:
                    return

    def settle(self):
        """Plain packets so far, once what was sent before now has been counted."""
        n = self.tries
        until("the application goes on", lambda: self.tries > n + 2)
        return self.plain

    def stop(self):
        self.over = True
        self.join(30)


@contextlib.contextmanager
def talking(pod):
    t = Talker(pod)
    try:
        yield t
    finally:
        t.stop()


def assert_plain(t):
    """The control: without capture packets leave, so a count of none means something."""
    n = t.settle()
    until("plain packets leave", lambda: t.plain > n)


def assert_captured(t, seconds=0.3):
    n = t.settle()
    end, tries = time.monotonic() + seconds, t.tries
    until("the application goes on", lambda: time.monotonic() > end and t.tries > tries + 5)
    assert t.settle() == n, "%d packets left in the clear" % (t.plain - n)


def assert_no_child_ever(pid):
    """No program was started: nobody is there, and what the kernel adds up for children that ended is nothing."""
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        assert f.read() == "", "it has children"
    with open("/proc/%d/stat" % pid) as f:
        v = f.read().rsplit(")", 1)[1].split()
    faults, major, user, system = (int(v[i]) for i in (8, 10, 13, 14))  # cminflt cmajflt cutime cstime: proc(5)
    assert faults == major == user == system == 0, (faults, major, user, system)
    with open("/proc/%d/status" % pid) as f:  # or the kernel would not add anything up
        ignored = [int(line.split()[1], 16) for line in f if line.startswith("SigIgn:")][0]
    assert not ignored & 1 << (signal.SIGCHLD - 1)


def assert_clean(w, inside=(), outside=(), gone=(), fds=None):
    """The agent's picture, the kernel's and the source's agree, and nothing of other pods is left. @fds: what the
    agent held before the first pod."""
    def look():
        st = {p["uid"]: p for p in w.status()["pods"]}
        wrong = []
        for p in inside:
            got = st.get(p.uid, {"state": "none", "rules": ""})
            if (got["state"], got["rules"]) != ("enrolled", "present") or not p.routed() or p.listening() != PORTS:
                wrong.append((p.name, got["state"], got["rules"], p.listening()))
        for p in outside:
            if st.get(p.uid, {"state": "not-in-mesh"})["state"] != "not-in-mesh" or not p.clean():
                wrong.append((p.name, st.get(p.uid, {}).get("state"), p.listening(), p.has_rules()))
        for p in gone:
            # its sockets may be in the hands of the test's own ztunnel
            if p.uid in st or (p.netns in os.listdir("/run/netns") and (p.has_rules() or p.routed())):
                wrong.append((p.name, "is not gone", st.get(p.uid, {}).get("state")))
        known = {p.uid for p in inside} | {p.uid for p in outside}
        wrong += [(p["name"], "should not be known") for u, p in st.items() if u not in known]
        if fds is not None and w.count_fds() > fds + 4 * len(inside):
            wrong.append("%d descriptors, expected %d" % (w.count_fds(), fds + 4 * len(inside)))
        if len(w.journal()) != len(st):
            wrong.append("journal: %s" % w.journal())
        look.wrong = wrong
        return not wrong
    try:
        until("clean", look)
    except AssertionError as e:
        raise AssertionError("not clean: %s" % look.wrong) from e
