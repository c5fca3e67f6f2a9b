#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_generations.py: what the agent does with two ztunnels at once, as at an upgrade: who gets which pod, who hears of
removals, and what becomes of those who wait for a ztunnel that drains. Scripted ztunnels; the real ones: test_systemd.py.
"""
import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from agent_lab import PORTS, Pod, V2, fields, main, nack, ports_of, test, until  # noqa: E402

DRAINING = b"\x8a\x01\x00"


def uid_of(payload):
    return fields(payload)[0][1].decode()


def inodes(fds):
    return [os.fstat(fd).st_ino for fd in fds]


def begin(w, *names):
    pods = [Pod(w, n) for n in names]
    w.namespace(mode="ambient")
    w.put("p.yaml", *[p.manifest() for p in pods])
    w.start()
    return pods


def delete(w, pod, *ztunnels):
    """DEL by the runtime; each ztunnel is told and answers."""
    c = w.begin(pod.event("DEL"))
    for z in ztunnels:
        payload, _ = z.expect(2)
        assert fields(payload)[0][1].decode() == pod.uid
        z.ack()
    assert w.end(c)[0] == 200


@test
def a_new_generation_gets_the_same_sockets_and_all_new_pods(w):
    p, q = begin(w, "one", "two")
    old = w.ready_ztunnel(V2)
    w.add(p, old)
    new = w.ztunnel(V2)
    got = new.snapshot()
    assert set(got) == {p.uid} and ports_of(got[p.uid][0]) == PORTS
    assert inodes(got[p.uid][1]) == inodes(old.fds[-4:]), "the same namespace and the same sockets"
    until("the new one is the newest", lambda: sum(z["newest"] for z in w.status()["ztunnels"]) == 1)
    (status, a), _, _ = w.add(q, new)
    assert status == 200, a
    old.quiet()
    old.ack(DRAINING)
    until("the agent to know", lambda: [z["draining"] for z in w.status()["ztunnels"]] == [True, False])
    assert [z["newest"] for z in w.status()["ztunnels"]] == [False, True]
    delete(w, p, old, new)
    delete(w, q, old, new)
    old.close()
    until("one to be left", lambda: len(w.status()["ztunnels"]) == 1)


@test
def who_waits_for_one_that_drains_gets_the_other(w):
    p, q = begin(w, "one", "two")
    old, new = w.ready_ztunnel(V2), None
    w.add(p, old)
    new = w.ztunnel(V2)
    new.expect(1)  # its snapshot stops here: the old one is the newest that has one
    c = w.begin(q.event("ADD"))
    assert uid_of(old.expect(1)[0]) == q.uid
    old.ack(DRAINING)
    new.ack()
    seen = []
    while seen.count(q.uid) < 2:  # as news for a snapshot under way, and for the one who waits
        num, payload = fields(new.recv()[0])[0]
        new.ack()
        if num == 1:
            seen.append(uid_of(payload))
    status, a = w.end(c)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    old.ack()  # the late answer to the request that was out
    old.quiet()
    assert w.state(q) == "enrolled" and len(w.status()["ztunnels"]) == 2


@test
def what_the_next_one_refuses_is_not_lost_while_the_one_before_is_asked(w):
    p, q = begin(w, "one", "two")
    old = w.ready_ztunnel(V2)
    w.add(p, old)
    new = w.ztunnel(V2)
    new.expect(1)  # its snapshot stops here
    c = w.begin(q.event("ADD"))
    assert uid_of(old.expect(1)[0]) == q.uid
    new.ack()
    new.expect(3)
    new.ack()
    assert uid_of(new.expect(1)[0]) == q.uid
    new.ack(nack("no"))
    until("the agent heard it", lambda: "ztunnel refuses" in w.logged())
    old.ack()
    status, a = w.end(c)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    assert uid_of(new.expect(1)[0]) == q.uid
    assert w.state(q) == "pending"
    new.ack()
    until("enrolled", lambda: w.state(q) == "enrolled")


@test
def alone_and_draining_is_like_away(w):
    """New pods wait in the kernel's queue, as after a kill; removals are still heard."""
    p, q = begin(w, "one", "two")
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    z.ack(DRAINING)
    until("the agent to know", lambda: w.status()["ztunnels"][0]["draining"])
    status, a = w.cni(q.event("ADD"))
    assert (status, a["outcome"]) == (200, "enrolled"), a
    assert q.listening() and q.has_rules()
    z.quiet()
    delete(w, p, z)
    new = w.ztunnel(V2)
    assert set(new.snapshot()) == {q.uid}
    z.quiet()


@test
def an_agent_started_anew_is_told_right_after_the_hello(w):
    """It gives the one that drains no pod, but tells it of removals."""
    p, q = begin(w, "one", "two")
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    z.ack(DRAINING)
    w.stop()
    w.start()
    old = w.ztunnel(V2)
    old.ack(DRAINING)
    new = w.ztunnel(V2)
    until("the agent to know both", lambda: sorted(z["draining"] for z in w.status()["ztunnels"]) == [False, True])
    assert set(new.snapshot()) == {p.uid}
    old.s.settimeout(1)
    try:  # the request that was out when it was told
        old.expect(1)
        old.ack()
    except socket.timeout:
        pass
    old.s.settimeout(10)
    (status, a), _, _ = w.add(q, new)
    assert status == 200, a
    old.quiet()
    delete(w, p, old, new)


@test
def draining_is_said_once_and_not_by_version_1(w):
    begin(w, "one")
    z = w.ready_ztunnel(b"\x08\x01")
    z.ack(DRAINING)
    assert z.closed(), "version 1 has no such message"
    z = w.ready_ztunnel(V2)
    z.ack(DRAINING)
    z.ack(DRAINING)
    assert z.closed()
    z = w.ztunnel(DRAINING)
    assert z.closed(), "before the hello"


if __name__ == "__main__":
    sys.exit(main())
