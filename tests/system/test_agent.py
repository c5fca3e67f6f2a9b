#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent.py: ambient-agent's verbs, decisions and manifests, with a scripted ztunnel. Run as root."""
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

from agent_lab import (BIN, PORTS, Pod, TAG, UnixHTTP, V2, has_faults, main, nack, namespace,
                       ports_of, run, test, until, z_serve)
from kube_api import serve


# --- stock exchange ---

@test
def v1_transcript_byte_for_byte(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app", uid="11111111-2222-3333-4444-555555555555")
    doc = p.manifest()
    doc["spec"]["serviceAccountName"] = "default"
    w.put("p.yaml", doc)
    w.start()
    z = w.ready_ztunnel()
    c = w.begin(p.event())
    buf, fds = z.recv()
    uid = p.uid.encode()
    assert buf == b"\x0a\x3f\x0a\x24" + uid + b"\x12\x17\x0a\x03app\x12\x07default\x1a\x07default", buf
    assert len(fds) == 1 and os.fstat(fds[0]).st_ino == os.stat(p.path).st_ino
    assert p.has_rules()
    assert p.listening() == (), "custody beside a stock ztunnel would take its connections"
    z.ack()
    status, a = w.end(c)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    assert w.state(p) == "enrolled"
    # a second ztunnel gets the pod in its snapshot, then SnapshotSent
    y = w.ztunnel()
    again, fds = y.recv()
    assert again == buf and len(fds) == 1
    y.ack()
    sent, fds = y.recv()
    assert sent == b"\x1a\x00" and not fds
    y.ack()
    # a delete goes to both
    w.cni(p.event("DEL"))
    for peer in (z, y):
        got, fds = peer.recv()
        assert got == b"\x12\x26\x12\x24" + uid and not fds, got
        peer.ack()
    until("nothing is left", p.clean)


@test
def v2_hands_over_sockets_that_accept(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    (status, a), payload, fds = w.add(p, z)
    assert status == 200 and a["outcome"] == "enrolled", a
    assert ports_of(payload) == PORTS, payload.hex()
    assert len(fds) == 4 and os.fstat(fds[0]).st_ino == os.stat(p.path).st_ino
    for fd, port in zip(fds[1:], PORTS):
        with socket.socket(fileno=os.dup(fd)) as s:
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            assert s.getsockname()[1] == port
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x539
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
            assert s.getsockopt(socket.SOL_IP, 19) == 1, "IP_TRANSPARENT"
    # what comes while nobody accepts waits, and is then accepted
    client = subprocess.Popen(["ip", "netns", "exec", p.netns, sys.executable, "-c",
                               "import socket;s=socket.create_connection(('127.0.0.1',15008),60);"
                               "s.sendall(b'hello');print(s.recv(9).decode())"],
                              stdout=subprocess.PIPE)
    with socket.socket(fileno=os.dup(fds[3])) as s:
        s.settimeout(30)
        until("connection queued", lambda: "ESTAB" in run("ip", "netns", "exec", p.netns, "ss", "-Htn"))
        c, _ = s.accept()
        c.settimeout(30)
        assert c.recv(5) == b"hello"
        c.sendall(b"answered!")
        c.close()
    assert client.communicate(timeout=60)[0].strip() == b"answered!"
    st = w.pod(p)
    assert st["custody"] and st["rules"] == "present" and st["sockets"] == [str(x) for x in PORTS], st
    assert st["serviceAccount"] == "sa-app" and st["netnsInode"] == os.stat(p.path).st_ino
    # CHECK agrees, and notices a missing rule
    assert w.cni(p.event("CHECK"))[0] == 200
    run("ip", "netns", "exec", p.netns, "nft", "delete", "table", "inet", "istio-ambient-nat")
    status, a = w.cni(p.event("CHECK"))
    assert status == 500 and a["code"] == 999 and "missing" in a["details"], a


@test
def ztunnel_refuses_rolls_everything_back(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    before = w.count_fds()
    c = w.begin(p.event())
    z.expect(1)
    z.ack(nack("failure to start proxy"))
    status, a = w.end(c)
    assert (status, a["code"]) == (503, 11) and "failure to start proxy" in a["msg"], a
    z.expect(2)
    z.ack()
    z.close()
    until("nothing is left", lambda: p.clean() and w.journal() == [])
    until("descriptors are back", lambda: w.count_fds() <= before)


@test
def ztunnel_that_never_answers(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    t = time.monotonic()
    status, a = w.cni(p.event(deadlineMs=700))
    assert (status, a["code"]) == (503, 11) and "in time" in a["msg"], a
    assert time.monotonic() - t < 8  # a plugin's own limit is 9 s
    # (the sockets of the unread Add are in the connection's queue until it is closed)
    assert not p.has_rules() and not p.routed() and w.journal() == []
    # the connection whose answer is missing is closed: a late one would be taken for another's
    assert z.closed()
    z.close()
    until("its sockets are gone", p.clean)


@test
def slow_ztunnel_is_waited_for(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    c = w.begin(p.event())
    z.expect(1)
    z.quiet(1.5)  # longer than an unknown pod is waited for
    z.ack()
    assert w.end(c)[1]["outcome"] == "enrolled"


@test
def no_ztunnel_no_pod(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "plain")
    w.put("p.yaml", p.manifest(), q.manifest(labels={"istio.io/dataplane-mode": "none"}))
    w.start()
    status, a = w.cni({"command": "STATUS"})
    assert (status, a["code"]) == (503, 50) and "no ztunnel" in a["msg"], a
    status, a = w.cni(p.event())
    assert (status, a["code"]) == (503, 50) and w.zds in a["msg"], a
    assert p.clean() and w.journal() == []
    # a pod outside the mesh is not held up
    status, a = w.cni(q.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh") and "none" in a["reason"], a
    w.ready_ztunnel()
    assert w.cni({"command": "STATUS"})[0] == 200


@test
def an_agent_that_is_a_pod_does_not_wait_for_ztunnel(w):
    # ztunnel is a pod with a network of its own there: a node that is not ready would never start it
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start(env={"POD_NAMESPACE": "istio-system"})
    until("STATUS says yes", lambda: w.cni({"command": "STATUS"})[0] == 200)
    assert not w.status()["ready"] and "no ztunnel" in w.status()["reason"], w.status()
    assert w.cni(p.event())[0] == 503


@test
def grace_after_ztunnel_left(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "one"), Pod(w, "two")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start("--ztunnel-grace", "5s")
    z = w.ready_ztunnel(V2)
    z.close()
    until("gone", lambda: w.status()["ztunnels"] == [])
    status, a = w.cni(p.event())
    assert (status, a["outcome"]) == (200, "enrolled") and "wait" in a["reason"], a
    assert w.state(p) == "pending" and p.listening() == PORTS
    until("grace over", lambda: w.cni({"command": "STATUS"})[0] == 503)
    status, a = w.cni(q.event())
    assert (status, a["code"]) == (503, 50), a
    z = w.ready_ztunnel(V2)
    assert set(z.got) == {p.uid} and len(z.got[p.uid][1]) == 4
    until("acknowledged", lambda: w.state(p) == "enrolled" or z_serve(z))


# --- what is in and what is not ---

@test
def unknown_is_an_error_never_outside(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.start()
    z = w.ready_ztunnel()
    t = time.monotonic()
    status, a = w.cni(p.event())
    assert (status, a["code"]) == (409, 11) and "not known" in a["msg"], a
    assert 0.5 < time.monotonic() - t < 8
    assert p.clean() and w.journal() == []
    # the namespace may be missing as well
    q = Pod(w, "app2", ns="other")
    w.put("q.yaml", q.manifest())
    status, a = w.cni(q.event())
    assert (status, a["code"]) == (409, 11) and "namespace other" in a["msg"], a
    # it may come while we wait, which is a second: the machine may pause for longer
    for _ in range(5):
        c = w.begin(p.event())
        w.put("p.yaml", p.manifest())
        if select.select([z.s, c.sock], [], [], 30)[0] == [z.s]:
            break
        assert w.end(c)[0] == 409
        os.unlink(w.dir + "/m/p.yaml")
        until("it is unknown again", lambda: w.status()["source"]["pods"] == 1)
    z.expect(1)
    z.ack()
    assert w.end(c)[1]["outcome"] == "enrolled"


@test
def labels_enrol_and_release_a_running_pod(w):
    w.namespace()
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    status, a = w.cni(p.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh"), a
    assert p.clean()
    base = w.count_fds()
    for _ in range(3):
        w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "ambient"}))
        payload, fds = z.expect(1)
        assert len(fds) == 4
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert p.has_rules() and p.listening() == PORTS
        w.put("p.yaml", p.manifest())
        z.expect(2)
        z.ack()
        until("released", lambda: w.state(p) == "not-in-mesh")
        assert not p.has_rules() and not p.routed(), p.rules()
        for fd in z.fds:
            os.close(fd)
        z.fds = []
        assert p.listening() == ()
    # the namespace's label counts for all its pods
    w.namespace(mode="ambient")
    z.expect(1)
    z.ack()
    until("enrolled", lambda: w.state(p) == "enrolled")
    w.namespace()
    z.expect(2)
    z.ack()
    until("released", lambda: w.state(p) == "not-in-mesh")
    until("no descriptor is left over", lambda: w.count_fds() == base)


def leaves_while_ztunnel_is_asked(w):
    """(pod, ztunnel, held): the pod's label came, ztunnel was asked and has not answered, the label went: it leaves, and
    @held, which the mesh carries, keeps it from having left."""
    w.namespace()
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start("--release-limit=30s")
    z = w.ready_ztunnel(V2)
    status, a = w.cni(p.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh"), a
    w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "ambient"}))
    z.expect(1)
    held = subprocess.Popen(["nsenter", "--net=" + p.path, sys.executable, "-c",
                             "import socket,sys;s=socket.create_connection(('10.77.0.250',80));"
                             "print('up',flush=True);sys.stdin.read()"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "up\n"
    w.put("p.yaml", p.manifest())
    until("it leaves", lambda: "leaves the mesh" in w.pod(p).get("reason", ""))
    return p, z, held


def is_captured(w, p):
    return (w.pod(p)["state"], w.pod(p)["rules"]) == ("enrolled", "present")


@test
def ztunnel_answers_for_a_pod_that_leaves_by_now(w):
    p, z, held = leaves_while_ztunnel_is_asked(w)
    try:
        z.ack()
        answered = Pod(w, "second")  # asked for behind it
        w.put("q.yaml", answered.manifest(labels={"istio.io/dataplane-mode": "ambient"}))
        w.add(answered, z)
        assert w.state(p) == "pending" and "leaves the mesh" in w.pod(p)["reason"], w.pod(p)
        serve(z)
        w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "ambient"}))
        until("captured again", lambda: is_captured(w, p))
        w.put("p.yaml", p.manifest())
        until("it leaves", lambda: "leaves the mesh" in w.pod(p).get("reason", ""))
    finally:
        held.communicate()


@test
def a_label_goes_and_comes_while_ztunnel_is_asked(w):
    p, z, held = leaves_while_ztunnel_is_asked(w)
    try:
        q = Pod(w, "second")
        w.put("q.yaml", q.manifest())
        assert w.cni(q.event())[1]["outcome"] == "not-in-mesh"
        w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "ambient"}))
        w.put("q.yaml", q.manifest(labels={"istio.io/dataplane-mode": "ambient"}))
        until("both are wanted", lambda: w.pod(q)["rules"] == "present")
        assert w.state(q) == w.state(p) == "pending"
        z.ack()
        serve(z)
        until("both are captured", lambda: is_captured(w, p) and is_captured(w, q))
    finally:
        held.communicate()
    assert is_captured(w, p)


@test
def a_repeated_add_of_a_pod_that_leaves_is_answered(w):
    p, z, held = leaves_while_ztunnel_is_asked(w)
    try:
        z.ack()
        with socket.socket(fileno=os.dup(z.fds[1])) as s:  # what is held, or it would wait in the queue to the end
            s.accept()[0].close()
        serve(z)
        status, a = w.cni(p.event())
        assert (status, a.get("outcome")) == (200, "not-in-mesh"), a
        assert "leaves the mesh" in w.pod(p)["reason"], w.pod(p)
        status, a = w.cni(p.event(containerID="d" * 64))  # the same namespace, and the rules are in it
        assert (status, a.get("outcome")) == (200, "not-in-mesh"), a
    finally:
        held.communicate()
    until("out of the mesh", lambda: w.state(p) == "not-in-mesh")
    assert not p.has_rules() and not p.routed() and not w.pod(p)["custody"], p.rules()


@test
def ztunnel_hears_of_a_pod_that_is_out_with_its_next_sandbox(w):
    p, z, held = leaves_while_ztunnel_is_asked(w)
    try:
        z.ack()
        p.new_netns()
        status, a = w.cni(p.event())
        assert (status, a["outcome"]) == (200, "not-in-mesh"), a
        payload, _ = z.expect(2)
        assert p.uid.encode() in payload
        z.ack()
    finally:
        held.communicate()


@test
def ztunnel_is_told_once_of_a_pod_that_vanishes_while_it_leaves(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "none"}))
    until("it leaves", lambda: "leaves the mesh" in w.pod(p).get("reason", ""))
    os.unlink(w.dir + "/m/p.yaml")
    z.expect(2)
    z.ack()
    z.quiet(1.5)  # it would have gone on for a second
    assert "not waited for" not in w.logged()


@test
def a_snapshot_does_not_end_steps_that_failed(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    before = p.rules()
    run("ip", "-n", p.netns, "addr", "flush", "dev", "eth0")
    w.put("p.yaml", p.manifest(annotations={"ambient.istio.io/bypass-inbound-capture": "true"}))
    until("a step fails", lambda: w.state(p) == "pending")
    z.close()
    z = w.ready_ztunnel(V2)
    assert p.uid in z.got and w.state(p) == "pending", w.pod(p)
    serve(z)
    run("ip", "-n", p.netns, "addr", "add", p.ip + "/24", "dev", "eth0")
    until("enrolled", lambda: is_captured(w, p))
    assert p.rules() != before


@test
def check_of_a_pod_that_is_not_decided_yet(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    w.add(p, w.ready_ztunnel(V2))
    w.stop()
    os.unlink(w.dir + "/m/ns-default.yaml")
    w.start()
    assert w.state(p) == "pending" and p.has_rules()
    status, a = w.cni(p.event("CHECK"))
    assert (status, a["code"]) == (503, 11), a
    w.namespace(mode="ambient")


@contextlib.contextmanager
def leaves_without_ztunnel(w, limit):
    """The pod left its mesh while the agent was away, and its ztunnel, which has not come back, carries a connection for it."""
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    held = subprocess.Popen(["nsenter", "--net=" + p.path, sys.executable, "-c",
                             "import socket,sys;s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_MARK,0x539);"
                             "s.connect(('%s',15008));print('up',flush=True);sys.stdin.read()" % p.ip],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout.readline() == "up\n"
        w.stop(signal.SIGKILL)
        w.peers.remove(z)
        z.s.close()  # it goes on carrying, and has not come back to the agent
        w.namespace()
        w.start("--release-limit=" + limit)
        until("it leaves", lambda: w.state(p) == "pending")
        yield p
    finally:
        held.communicate()
        z.close()


@test
def rules_wait_for_what_a_ztunnel_carries_that_has_not_come_yet(w):
    with leaves_without_ztunnel(w, "20s") as p:
        time.sleep(1)
        assert p.has_rules() and w.state(p) == "pending", "the application would send on in the clear"
    until("released", lambda: w.state(p) == "not-in-mesh" and p.clean())


@test
def a_pod_that_vanishes_while_its_last_sockets_end_is_not_left_pending(w):
    with leaves_without_ztunnel(w, "300s") as p:
        os.unlink(w.dir + "/m/p.yaml")
        until("it is told", lambda: "any more" in w.pod(p)["error"])
        assert w.state(p) == "failed" and p.has_rules(), w.pod(p)
        assert w.cni(p.event("DEL"))[0] == 200
    assert not p.has_rules() and w.journal() == []


@test
def finished_and_sidecar_pods_leave(w):
    w.namespace(mode="ambient")
    p = Pod(w, "job")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.put("p.yaml", p.manifest(status={"phase": "Succeeded"}))
    z.expect(2)
    z.ack()
    until("out", lambda: w.state(p) == "not-in-mesh")
    w.put("p.yaml", p.manifest())
    z.expect(1)
    z.ack()
    until("in", lambda: w.state(p) == "enrolled")
    w.put("p.yaml", p.manifest(annotations={"sidecar.istio.io/status": "{}"}))
    z.expect(2)
    z.ack()
    until("out", lambda: w.state(p) == "not-in-mesh")
    # a manifest that goes away says nothing about the pod: rules stay (fail closed) until DEL
    w.put("p.yaml", p.manifest())
    z.expect(1)
    z.ack()
    until("in", lambda: w.state(p) == "enrolled")
    os.unlink(w.dir + "/m/p.yaml")
    z.expect(2)
    z.ack()
    until("failed", lambda: w.state(p) == "failed")
    assert p.has_rules()
    assert w.cni(p.event("DEL"))[0] == 200
    assert not p.has_rules() and w.journal() == []


@test
def annotations_change_rules_live(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    before = p.rules()
    w.put("p.yaml", p.manifest(annotations={"ambient.istio.io/bypass-inbound-capture": "true"}))
    z.expect(1)
    z.ack()
    until("rules differ", lambda: p.rules() != before)
    until("in", lambda: w.state(p) == "enrolled")
    assert w.cni(p.event("CHECK"))[0] == 200
    w.put("p.yaml", p.manifest(annotations={"istio.io/reroute-virtual-interfaces": "a/b"}))
    until("named", lambda: "reroute-virtual-interfaces" in (w.pod(p)["error"] + w.pod(p)["reason"]))
    assert p.has_rules()


# --- sandboxes ---

@test
def add_again_and_sandbox_replaced(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    fds = w.count_fds()
    (status, a), _, _ = w.add(p, z)
    assert status == 200 and a["outcome"] == "enrolled"
    until("no leak", lambda: w.count_fds() == fds)
    old = p.netns
    p.new_netns()
    (status, a), payload, got = w.add(p, z)
    assert status == 200 and os.fstat(got[0]).st_ino == os.stat(p.path).st_ino, a
    assert [x["containerID"] for x in w.status()["pods"]] == [p.cid]
    assert len(w.journal()) == 1
    until("old descriptors are closed", lambda: w.count_fds() == fds)
    # a late DEL of the old sandbox harms nobody
    run("ip", "netns", "del", old)
    w.netns.remove(old)
    assert w.cni(p.event("DEL", containerID="c-old"))[0] == 200
    assert w.state(p) == "enrolled" and p.has_rules()


@test
def wrong_namespaces_are_refused(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    # another pod's, the node's, one without the address, no namespace at all, a relative path
    status, a = w.cni(q.event(netns=p.path))
    assert status == 500 and "is that of pod" in a["msg"], a
    status, a = w.cni(q.event(netns="/var/run/netns/" + w.host))
    assert (status, a["code"]) == (400, 4) and "node's own" in a["msg"], a
    status, a = w.cni(q.event(ips=["10.99.99.99/24"]))
    assert status == 500 and "10.99.99.99" in a["msg"], a
    status, a = w.cni(q.event(netns="/etc/passwd"))
    assert status == 400 and "namespace" in a["msg"], a
    status, a = w.cni(q.event(netns="run/netns/x"))
    assert status == 400 and "absolute" in a["msg"], a
    status, a = w.cni(q.event(netns="/var/run/netns/%s-none" % TAG))
    assert status == 500 and "No such file" in a["msg"], a
    assert q.clean() and p.has_rules() and w.state(q) == "none"


@test
def netns_gone_in_the_middle(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    fds = w.count_fds()
    c = w.begin(p.event())
    z.expect(1)
    run("ip", "netns", "del", p.netns)
    w.netns.remove(p.netns)
    z.ack()
    w.end(c)
    assert w.cni(p.event("DEL"))[0] == 200
    z.expect(2)
    z.ack()
    until("no leak", lambda: w.count_fds() == fds)
    assert w.journal() == []


@test
def pod_deleted_while_being_added(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    c = w.begin(p.event())
    z.expect(1)
    assert w.cni(p.event("DEL"))[0] == 200
    status, a = w.end(c)
    assert (status, a["code"]) == (503, 11) and "deleted" in a["msg"], a
    z.ack()
    z.expect(2)
    z.ack()
    z.quiet()
    z.close()
    until("nothing is left", lambda: p.clean() and w.journal() == [])


@test
def garbage_collection(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    w.put("p.yaml", p.manifest(), q.manifest(labels={"istio.io/dataplane-mode": "none"}))
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.cni(q.event())
    valid = [{"containerID": p.cid, "ifname": "eth0"}]
    assert w.cni({"command": "GC", "validAttachments": valid})[0] == 200
    assert w.journal() == [p.cid + ".json"]
    assert w.cni({"command": "GC", "validAttachments": []})[0] == 200
    z.expect(2)
    z.ack()
    z.close()
    until("nothing is left", lambda: w.journal() == [] and p.clean())


# --- the stock plugin ---

@test
def stock_plugin_drives_us(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel()

    def event(**more):
        e = {"Netns": p.path, "PodName": p.name, "PodNamespace": p.ns,
             "IPs": [{"Interface": 2, "Address": {"IP": p.ip, "Mask": "////AA=="}, "Gateway": ""}]}
        e.update(more)
        return e

    for ips in (event()["IPs"], None):
        c = UnixHTTP(w.sock)
        c.request("POST", "/cmdadd", body=json.dumps(event(IPs=ips)).encode())
        payload, _ = z.expect(1)
        assert p.uid.encode() in payload
        z.ack()
        r = c.getresponse()
        assert (r.status, r.read()) == (200, b"")
        c.close()
    assert w.pod(p)["ips"] == [p.ip], w.pod(p)
    assert w.request("POST", "/cmdadd", b"")[0] == 400
    assert w.request("POST", "/cmdadd", b"{]")[0] == 400
    bad = event(IPs=[{"Address": {"IP": "garbage", "Mask": ""}}])
    status, text = w.request("POST", "/cmdadd", bad)
    assert status in (400, 500) and "garbage" in text, text
    status, text = w.request("POST", "/cmdadd", event(PodName="nobody", Netns=Pod(w, "x").path))
    assert status == 500 and "not known" in text, text
    # no DEL will come: the pod's disappearance is the end
    os.unlink(w.dir + "/m/p.yaml")
    z.expect(2)
    z.ack()
    until("forgotten", lambda: w.status()["pods"] == [] and w.journal() == [])
    # its log socket
    rec = json.dumps([json.dumps({"level": "warn", "time": "x", "msg": "from the plugin"}), "junk"])
    assert w.request("POST", "/log", rec.encode(), sock=w.dir + "/run/log.sock")[0] == 200
    until("logged", lambda: "from the plugin" in w.logged())


# --- manifests ---

@test
def bad_manifests_keep_the_last_good(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    for text, words in (
            ("kind: Pod\napiVersion: v1\nmetadata: {name: [x]}\n", ("p.yaml", "line 3", "name")),
            ("kind: Pod\napiVersion: v1\nmetadata:\n  name: a\nspec:\n  hostNetwork: maybe\n",
             ("p.yaml", "line 6", "hostNetwork")),
            ("kind: Pod\n  bad: [\n", ("p.yaml", "line")),
            (json.dumps(p.manifest(status={"podIP": "300.1.1.1"})), ("podIP", "300.1.1.1")),
            ("\n---\n".join([json.dumps(p.manifest())] * 2), ("twice",))):
        w.put("p.yaml", text)
        until("error names " + words[-1],
              lambda: all(x in w.status()["source"]["error"] for x in words))
        assert w.state(p) == "enrolled" and p.has_rules()
    w.put("p.yaml", p.manifest())
    until("good again", lambda: w.status()["source"]["error"] == "")
    # the same pod in two files is a mistake of the second
    w.put("q.yaml", p.manifest())
    until("named", lambda: "already defined" in w.status()["source"]["error"])
    # moved from one file to the other: no blink
    os.unlink(w.dir + "/m/p.yaml")
    until("moved", lambda: w.status()["source"]["error"] == "" and w.status()["source"]["pods"] == 1)
    z.quiet()
    assert w.state(p) == "enrolled"
    with open(w.dir + "/m/big.yaml", "w") as f:
        f.write("#" * (4 << 20) + "\n#\n")
    until("too large", lambda: "larger than" in w.status()["source"]["error"])


@test
def half_a_manifest_is_not_read(w):
    """Written in place: in the first half the namespace has no label."""
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    path = w.dir + "/m/ns-default.yaml"
    with open(path, "w") as f:
        f.write("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: default\n")
        f.flush()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            w.put("other.yaml", namespace("other"))  # an event in the directory
            assert w.state(p) == "enrolled" and p.has_rules(), w.pod(p)
        f.write("  labels: {istio.io/dataplane-mode: none}\n")
    z.expect(2)  # now it is said in full
    z.ack()
    until("released", lambda: w.state(p) == "not-in-mesh")


@test
def manifest_directory_may_come_late(w):
    os.rmdir(w.dir + "/m")
    p = Pod(w, "app")
    w.proc = subprocess.Popen(["nsenter", "--net=/var/run/netns/" + w.host, BIN[0] + "/ambient-agent",
                               "--manifests", w.dir + "/m", "--cni-agent-run-dir", w.dir + "/run",
                               "--ztunnel-uds-address", w.zds, "--host-probes=off"], stderr=w.log)
    until("serves", w.answers)
    status, a = w.cni({"command": "STATUS"})
    assert (status, a["code"]) == (503, 50) and "read" in a["msg"], a
    assert w.cni(p.event())[1]["code"] == 50
    os.mkdir(w.dir + "/m")
    w.put("l.json", {"kind": "List", "apiVersion": "v1",
                     "items": [namespace(), p.manifest(), {"kind": "Service", "apiVersion": "v1"}]})
    until("synced", lambda: w.status()["source"]["synced"] and w.status()["source"]["pods"] == 1)
    os.symlink("l.json", w.dir + "/m/s.yaml")
    until("a second name for the same is noticed",
          lambda: "already defined" in w.status()["source"]["error"])


# --- settings, size ---

@test
def settings_are_checked(w):
    for args, word in ((("--nope",), "--nope"), (("--log", "loud"), "loud"), (("x",), "x"),
                       (("--dns-capture", "maybe"), "true or false"), (("--manifests",), "--manifests"),
                       (("--manifests", "rel"), "absolute"), (("--ztunnel-grace", "1d"), "1d"),
                       (("--host-probe-snat-ip", "fd00::1"), "IPv4"), (("--host-probes", "on"), "auto")):
        p = subprocess.run([BIN[0] + "/ambient-agent", *args], stderr=subprocess.PIPE, text=True, check=False)
        assert p.returncode == 2 and word in p.stderr, (args, p)
    p = subprocess.run([BIN[0] + "/ambient-agent"], stderr=subprocess.PIPE, text=True, check=False,
                       env={"AMBIENT_DNS_CAPTURE": "x"})
    assert p.returncode == 2 and "AMBIENT_DNS_CAPTURE" in p.stderr, p
    assert "0.1" in run(BIN[0] + "/ambient-agent", "--version") and "--manifests" in run(BIN[0] + "/ambient-agent", "--help")


@test
def privileges_are_dropped(w):
    w.start()
    with open("/proc/%d/status" % w.pid()) as f:
        st = dict(l.split(":", 1) for l in f.read().splitlines())
    caps = int(st["CapEff"], 16)
    want = sum(1 << n for n in (2, 12, 13, 19, 21))
    assert caps == want and int(st["CapBnd"], 16) & ~want == 0, st["CapEff"]
    assert st["NoNewPrivs"].strip() == "1"
    if not has_faults():
        assert st["Seccomp"].strip() == "2"


@test
def fifty_pods_stay_small(w):
    w.namespace(mode="ambient")
    pods = [Pod(w, "p%d" % i) for i in range(50)]
    w.put("p.yaml", *[p.manifest() for p in pods])
    w.start()
    z = w.ready_ztunnel(V2)
    for p in pods:
        (status, a), _, _ = w.add(p, z)
        assert status == 200, a
        for fd in z.fds:
            os.close(fd)
        z.fds = []
    with open("/proc/%d/status" % w.pid()) as f:
        st = dict(l.split(":", 1) for l in f.read().splitlines())
    print("# 50 pods: VmRSS%s RssAnon%s" % (st["VmRSS"], st["RssAnon"]))
    if not has_faults():
        assert int(st["VmRSS"].split()[0]) < 12000, st["VmRSS"]


if __name__ == "__main__":
    sys.exit(main())
