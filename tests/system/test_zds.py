#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""the agent's socket as ztunnel's side sees it: V1 and V2, bad packets, custody."""
import os
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ztlab import PORTS, ZDS_SNAPSHOT, double_echo, field, wait_for, zds_add  # noqa: E402
from ztsite import HELLO, works, refused, check, fresh, main  # noqa: E402


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
        check(refused(a, b.ip), "a deleted pod is not served")
        check(lab.agent.add(b) == "")
        check(works(a, b.ip), "echo")
        check(zt.metric("workload_manager_active_proxy_count") == 2)
        # an upgrade: both serve (SO_REUSEPORT), the agent knows both
        old, lab.agent.conn = lab.agent.conn, None
        zt2 = lab.start(serve=False, AMBIENT_ADMIN_PORT="15100", AMBIENT_STATS_PORT="15120",
                        AMBIENT_READINESS_PORT="15121",
                        AMBIENT_ADMIN_SOCKET=os.path.join(lab.dir, "admin2.sock"))
        lab.agent.serve([a, b])
        wait_for("the new one", lambda: zt2.http(15121, "/healthz/ready")[0] == 200)
        check(zt.stop() == 0)
        old.close()
        check(works(a, b.ip), "the new one took over")
        check(zt2.stop() == 0)
    finally:
        lab.close()




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
        for c in waiting:
            c.settimeout(15)
            got = b""
            while len(got) < 22:
                d = c.recv(100)
                check(d, "a waiting connection was lost")
                got += d
            c.close()
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
        # other sockets than before: what arrives while a worker changes over may meet the old ones
        wait_for("the way through our agent's sockets", lambda: works(a, b.ip))
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


TESTS = [
    v1_exchange, zds_bad_packets, snapshot_semantics, custody_survives_kill, death_is_a_reset,
    held_sockets_are_offered, stock_agent_and_our_hello, same_uid_new_namespace,
]


if __name__ == "__main__":
    sys.exit(main(TESTS))
