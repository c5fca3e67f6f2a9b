#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""the agent's socket as ztunnel's side sees it: V1 and V2, bad packets, custody."""
import contextlib
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from agent_wire import assert_no_child_ever  # noqa: E402
from ztlab import PORTS, TIMEOUT, ZDS_SNAPSHOT, double_echo, field, read_exact, wait_for, zds_add  # noqa: E402
from ztsite import HELLO, check, echo_once, fresh, main, refused, works  # noqa: E402

CHANGES = 200


# --- the agent's socket --------------------------------------------------------------------------

def v1_exchange():
    """A stock agent: hello 1, namespaces only; ztunnel makes the sockets."""
    lab = fresh(1)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        check(lab.agent.peer_version == 1 and not lab.agent.held)
        check(works(a, b.ip), "echo")
        check(lab.agent.add(a) == "", "adding again is idempotent")
        check(works(a, b.ip), "echo")
        check(lab.agent.delete(b) == "")
        check(lab.agent.delete(b) == "", "deleting an unknown pod is fine")
        zt.dump()  # goes round the workers, behind the deletion
        check(refused(a, b.ip), "a deleted pod is not served")
        check(lab.agent.add(b) == "")
        check(works(a, b.ip), "echo")
        check(zt.metric("workload_manager_active_proxy_count") == 2)
        # an upgrade: both serve (SO_REUSEPORT), the agent knows both
        old, lab.agent.conn = lab.agent.conn, None
        # the ports as if in a pod of its own; the admin socket is on the host that both pods mount
        zt2 = lab.start(serve=False, AMBIENT_ADMIN_PORT="15100", AMBIENT_STATS_PORT="15120",
                        AMBIENT_READINESS_PORT="15121")
        lab.agent.serve([a, b])
        wait_for("the new one", lambda: zt2.http(15121, "/healthz/ready")[0] == 200)
        check(zt.stop() == 0)
        old.close()
        check(works(a, b.ip), "the new one took over")
        wait_for("the new one on the admin socket", lambda: admin_socket_answers(lab))
        check(zt2.stop() == 0)
    finally:
        lab.close()




def admin_socket_answers(lab):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        try:
            s.connect(os.path.join(lab.dir, "admin.sock"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        s.sendall(b"GET /config_dump HTTP/1.1\r\nhost: x\r\n\r\n")
        return s.recv(64).startswith(b"HTTP/1.1 200")


def zds_bad_packets():
    lab = fresh(2)
    try:
        a = lab.pod("a", 2)
        b = lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        socks = [x.fileno() for x in a.make_listeners()]
        fds = [a.net.fd] + socks
        read, process = "failure to read message : ", "failure to process message : "
        rows = [
            ("no descriptor", zds_add(a), [], read),
            ("two descriptors", zds_add(a), fds[:2], read),
            ("fewer sockets than ports", zds_add(a, PORTS), fds[:3], read),
            ("more sockets than ports", zds_add(a, PORTS[:2]), fds, read),
            ("descriptor with a delete", field(2, field(2, a.uid)), fds[:1], read),
            ("garbage", b"\xff\xff\xff", [], read),
            ("no payload", b"\x20\x01", [], read),
            ("too long", field(5, field(1, "x" * 1100)), [], read),
            ("uid with NUL", field(5, field(1, "x\0y")), [], read),
            ("no workload info", field(1, field(1, a.uid)), fds[:1], process),
            ("keep after the snapshot", field(5, field(1, a.uid)), [], process),
            ("second snapshot", ZDS_SNAPSHOT, [], process),
            ("wrong port", zds_add(a, (15001, 15006, 80)), fds, process),
            ("port twice", zds_add(a, (15001, 15006, 15006)), fds, process),
            ("sockets in the wrong order", zds_add(a, (15006, 15001, 15008)), fds, process),
        ]
        for title, data, with_fds, want in rows:
            err = lab.agent.exchange(data, with_fds)
            check(err is not None and err.startswith(want), title, "answered", err)
            check(lab.agent.closed(), title, ": the connection must be closed")
            check(zt.proc.poll() is None, title, "ended the process")
            check(works(a, b.ip), title, ": pods are served on")
            lab.agent.serve([a, b])
        err = lab.agent.exchange(zds_add(a, PORTS), [os.open("/dev/null", os.O_RDONLY)] + socks)
        check(err.startswith("failure to start proxy : "), "not a namespace:", err)
        check(not zt.ready(), "not ready while one is pending")
        check(lab.agent.add(a) == "", "a good add clears it")
        wait_for("readiness", zt.ready)
    finally:
        lab.close()


def snapshot_semantics():
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(serve=False)
        wait_for("the readiness server", lambda: zt.http(15021, "/healthz/ready"))
        code, text = zt.http(15021, "/healthz/ready")
        check(code == 500 and "workload proxy manager" in text, code, text)
        lab.agent.accept()
        check(lab.agent.add(a) == "" and lab.agent.add(b) == "")
        check(not zt.ready(), "not ready before the snapshot")
        check(lab.agent.snapshot() == "")
        zt.wait_ready()
        with a.net.connect((b.ip, 8080)) as c:
            c.sendall(b"1")
            check(c.recv(2) == b"11")
            lab.agent.conn.close()  # an agent restart: running pods stay
            wait_for("not ready", lambda: not zt.ready())
            c.sendall(b"2")
            check(c.recv(2) == b"22", "served without an agent")
            lab.agent.accept()
            check(lab.agent.keep(a) == "" and lab.agent.keep(b) == "")
            lab.agent.exchange(field(5, field(1, "unknown-uid")))
            check(lab.agent.snapshot() == "")
            zt.wait_ready()
            c.sendall(b"3")
            check(c.recv(2) == b"33", "kept")
        lab.agent.conn.close()
        lab.agent.accept()
        check(lab.agent.keep(b) == "" and lab.agent.delete(a) == "")
        check(zt.metric("workload_manager_active_proxy_count") == 2, "until the snapshot")
        check(lab.agent.snapshot() == "")
        check(zt.metric("workload_manager_active_proxy_count") == 1, "a was not named")
    finally:
        lab.close()


def custody_survives_kill():
    """SIGKILL: connections made while nobody serves wait in the kernel and then succeed."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        check(works(a, b.ip), "echo")
        zt.signal(signal.SIGKILL)
        zt.wait()
        waiting = []
        for _ in range(20):
            c = a.net.connect((b.ip, 8080), timeout=5)
            c.sendall(HELLO)
            waiting.append(c)
        zt = lab.start()
        lost = []
        for i, c in enumerate(waiting):
            c.settimeout(TIMEOUT)
            try:
                read_exact(c, 22)
            except (OSError, AssertionError) as e:
                lost.append((i, e))
            c.close()
        check(not lost, "waiting connections were lost", lost, zt.log()[-20000:])
        check(works(a, b.ip), "echo")
    finally:
        lab.close()


def death_is_a_reset():
    """SIGKILL in the middle of an upload: neither end may take what it has for the whole."""
    lab = fresh(2)
    try:
        a, b, c = lab.pod("a", 2), lab.pod("b", 3), lab.pod("c", 4, captured=False)
        lab.state()
        zt = lab.start()
        ends = []
        for src, dst in ((a, b), (a, c), (c, b)):
            lst = dst.net.socket()
            lst.bind(("0.0.0.0", 9100 + len(ends)))
            lst.listen(4)
            lst.settimeout(15)
            client = src.net.connect((dst.ip, 9100 + len(ends)), timeout=15)
            server, _ = lst.accept()
            server.settimeout(15)
            client.sendall(b"half of it")
            check(server.recv(100) == b"half of it", "data")
            ends += [client, server]
            lst.close()
        zt.signal(signal.SIGKILL)
        zt.wait()
        for i, s in enumerate(ends):
            try:
                got = s.recv(100)
            except ConnectionResetError:
                continue
            finally:
                s.close()
            check(False, "socket", i, "ended in an orderly way:", got)
    finally:
        lab.close()


def held_sockets_are_offered():
    """An agent that lost its duplicates gets them back, and its add changes nothing."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        with a.net.connect((b.ip, 8080)) as c:
            c.sendall(b"1")
            check(c.recv(2) == b"11")
            for p in (a, b):
                for x in p.custody:
                    x.close()
                p.custody = []
            lab.agent.conn.close()
            lab.agent.accept()
            check(sorted(h[0] for h in lab.agent.held) == sorted([a.uid, b.uid]), lab.agent.held)
            for uid, ports, fds in lab.agent.held:
                check(len(fds) == 4, fds)
                pod = a if uid == a.uid else b
                check(os.fstat(fds[0]).st_ino == os.stat(pod.net.path).st_ino, "namespace")
                pod.custody = [socket.socket(fileno=f) for f in fds[1:]]
                check([x.getsockname()[1] for x in pod.custody] == list(PORTS), "ports")
                os.close(fds[0])
            check(lab.agent.add(a) == "" and lab.agent.add(b) == "" and lab.agent.snapshot() == "")
            c.sendall(b"2")
            check(c.recv(2) == b"22", "undisturbed")
        check(works(a, b.ip), "echo")
        check(zt.stop() == 0)
        with a.net.connect((b.ip, 8080), timeout=5):
            pass  # the agent's duplicates keep listening
    finally:
        lab.close()


def stock_agent_and_our_hello():
    """A stock agent takes any packet for an answer: it must never get an offer of sockets."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(serve=False)
        lab.agent.version = 1  # says hello 2, is served as stock does
        lab.agent.serve([a, b])
        check(lab.agent.peer_version == 2)
        zt.wait_ready()
        check(works(a, b.ip))
        for _ in range(2):
            lab.agent.serve([a, b])
            check(not lab.agent.held, "offered to a stock agent")
        lab.agent.version = 2
        lab.agent.serve([a, b])
        check(works(a, b.ip), "with our agent's sockets")
        lab.agent.accept()
        check(len(lab.agent.held) == 2, "offered to ours")
        for _, _, fds in lab.agent.held:
            for fd in fds:
                os.close(fd)
        lab.agent.version = 1  # a downgrade: the next one is a stock agent
        check(lab.agent.add(a) is None, "the first add tells")
        lab.agent.serve([a, b])
        check(not lab.agent.held)
        wait_for("readiness", zt.ready)
        check(works(a, b.ip) and zt.stop() == 0)
    finally:
        lab.close()


class Callers(threading.Thread):
    """Connects again and again, one short echo each, until told to stop."""

    def __init__(self, pod, addr):
        super().__init__(daemon=True)
        self.pod, self.addr, self.stop = pod, addr, False
        self.good, self.bad, self.slowest = 0, [], 0.0
        self.start()

    def run(self):
        while not self.stop:
            began = time.monotonic()
            try:
                got = echo_once(self.pod, self.addr)
            except OSError as e:
                got = str(e)
            self.slowest = max(self.slowest, time.monotonic() - began)
            if got == HELLO + HELLO:
                self.good += 1
            else:
                self.bad.append(got)


def sockets_change_under_load():
    """Other listening sockets for a running pod, again and again: no connection may be lost."""
    lab = fresh(2)
    try:
        a, b, c = lab.pod("a", 2), lab.pod("b", 3), lab.pod("c", 4, captured=False)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(serve=False)
        lab.agent.version = 1  # ztunnel's own sockets first, as with a stock agent
        lab.agent.serve([a, b])
        zt.wait_ready()
        check(works(a, b.ip) and works(c, b.ip))
        lab.agent.version = 2
        callers = [Callers(p, b.ip) for p in (a, c) for _ in range(4)]
        for turn in range(CHANGES):
            for p in (a, b):
                for s in p.custody:
                    s.close()  # ztunnel alone holds the ones of before
                p.custody = []
                check(lab.agent.add(p) == "", "turn", turn)
            had = [x.good + len(x.bad) for x in callers]
            wait_for("one more round", lambda: all(
                x.good + len(x.bad) >= n + 1 for x, n in zip(callers, had)))
        for x in callers:
            x.stop = True
        for x in callers:
            x.join(TIMEOUT)
        bad = [e for x in callers for e in x.bad]
        print("# %d connections, %d lost, slowest %.3f s" % (
            sum(x.good for x in callers), len(bad), max(x.slowest for x in callers)))
        check(not bad, len(bad), "connections were lost:", bad[:5])
        assert_no_child_ever(zt.proc.pid)
        check(works(a, b.ip) and works(c, b.ip) and zt.stop() == 0)
    finally:
        lab.close()


def same_uid_new_namespace():
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start()
        again = lab.pod("b2", 6)
        again.uid, again.name, again.sa = b.uid, "b", "b"
        again.serve(8080, double_echo)
        check(lab.agent.add(again) == "")
        lab.reload(zt, workloads=[a.workload(), again.workload()])
        check(works(a, again.ip), "the new sandbox is served")
        check(zt.metric("workload_manager_active_proxy_count") == 2)
        again.name = "b2"
    finally:
        lab.close()


@contextlib.contextmanager
def draining():
    """A ztunnel of ours that drains and has said so to our agent, with a connection from pod a to pod b: (lab, a, b, zt, c)."""
    lab = fresh(2)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="60s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"0")  # or it may still be in the queue when ztunnel stops accepting
        check(c.recv(2) == b"00")
        zt.signal(signal.SIGTERM)
        check(lab.agent.conn.recv(100) == b"\x8a\x01\x00", "the agent is told")
        yield lab, a, b, zt, c
        c.close()
    finally:
        lab.close()


def ends_with_its_pod(c):
    try:
        check(c.recv(1) == b"", "the connection of the pod that left ends")
    except ConnectionError:
        pass


def draining_hears_of_removals():
    """While it drains no pod is taken, and a pod that leaves loses its connections at once."""
    with draining() as (lab, a, b, zt, c):
        late = lab.pod("late", 4, captured=False)
        check("draining" in lab.agent.add(late), "no pod is taken")
        c.sendall(b"2")
        check(c.recv(2) == b"22", "established connections continue")
        check(lab.agent.delete(b) == "")
        ends_with_its_pod(c)
        check(zt.wait(30) == 0, "nothing is left: it ends")


def draining_while_the_agent_is_started_anew():
    """It is told again, its snapshot takes nothing away, and it is heard; a stock one in its place is left alone."""
    with draining() as (lab, a, b, zt, c):
        late = lab.pod("late", 4, captured=False)
        for again in ("an agent without pods", "one that has a pod for us"):
            check(lab.agent.accept() == 2 and not lab.agent.held, again, "connected, nothing is offered")
            check(lab.agent.conn.recv(100) == b"\x8a\x01\x00", again, "is told")
            if "without" in again:
                check(lab.agent.snapshot() == "", "answered")
            else:
                check("draining" in lab.agent.add(late), "no pod is taken")
            c.sendall(b"1")
            check(c.recv(2) == b"11", again, "the connection goes on")
        check(lab.agent.delete(a) == "")
        ends_with_its_pod(c)
        check(zt.wait(30) == 0, "nothing is left: it ends")


def draining_while_a_stock_agent_takes_over():
    with draining() as (lab, a, _, zt, c):
        lab.agent.accept()
        lab.agent.conn.recv(100)
        check("draining" in lab.agent.exchange(zds_add(a), [a.net.fd]), "no pod is taken")
        check(lab.agent.closed(), "and it leaves")
        lab.agent.conn.close()
        lab.agent.conn = None
        lab.agent.listener.settimeout(1)
        try:
            lab.agent.accept()
            check(False, "it came back")
        except socket.timeout:
            pass
        c.sendall(b"1")
        check(c.recv(2) == b"11", "the connection goes on")
        c.close()
        check(zt.wait(30) == 0)


def draining_beside_a_stock_agent():
    """It would take any packet for an answer: the connection just ends."""
    lab = fresh(1)
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        zt = lab.start(CONNECTION_TERMINATION_DEADLINE="60s")
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        zt.signal(signal.SIGTERM)
        check(lab.agent.closed(), "closed without a packet")
        c.sendall(b"2")
        check(c.recv(2) == b"22", "established connections continue")
        c.close()
        check(zt.wait(30) == 0)
    finally:
        lab.close()


def generations_hand_over():
    """The new one waits for the old one's addresses, gets them when it drains, and serves all along."""
    lab = fresh(2)
    old_conn = None
    try:
        a, b = lab.pod("a", 2), lab.pod("b", 3)
        b.serve(8080, double_echo)
        lab.state()
        more = dict(CONNECTION_TERMINATION_DEADLINE="60s", AMBIENT_HANDOVER="true")
        old = lab.start(**more)
        c = a.net.connect((b.ip, 8080))
        c.sendall(b"1")
        check(c.recv(2) == b"11")
        old_conn, lab.agent.conn = lab.agent.conn, None
        socks = {}

        def same_sockets(pod):
            socks[pod.uid] = True
            return [s.fileno() for s in pod.make_listeners()]
        new = lab.start(serve=False, **more)
        lab.agent.accept()
        for p in (a, b):
            err = lab.agent.exchange(zds_add(p, PORTS), [p.net.fd] + same_sockets(p))
            check(err == "", err)
        check(lab.agent.snapshot() == "")
        new.wait_line("waiting for the generation before")
        check(old.http(15000, "/quitquitquit", "POST") == (200, "shutdown now\n"), "asked through its own surface")
        new.wait_line("addresses over")
        check(new.http(15021, "/healthz/ready")[0] == 200 and new.http(15020, "/metrics")[0] == 200)
        check(old.proc.poll() is None, "the old one still drains")
        for _ in range(20):
            check(works(a, b.ip), "new connections")
        c.sendall(b"2")
        check(c.recv(2) == b"22", "established ones")
        c.close()
        check(old.wait(30) == 0)
        check(os.path.exists(os.path.join(lab.dir, "admin.sock")), "the new one's socket stays")
        check(new.stop() == 0)
        # without the permission an address that is taken ends the start
        first = lab.start()
        second = lab.start(serve=False)
        check(second.wait(30) == 1 and second.wait_line("listen on port"), second.log())
        check(first.stop() == 0)
    finally:
        if old_conn is not None:
            old_conn.close()
        lab.close()


TESTS = [
    v1_exchange, zds_bad_packets, snapshot_semantics, custody_survives_kill, death_is_a_reset,
    held_sockets_are_offered, stock_agent_and_our_hello, sockets_change_under_load,
    same_uid_new_namespace, draining_hears_of_removals, draining_while_the_agent_is_started_anew,
    draining_while_a_stock_agent_takes_over, draining_beside_a_stock_agent,
    generations_hand_over,
]


if __name__ == "__main__":
    sys.exit(main(TESTS))
