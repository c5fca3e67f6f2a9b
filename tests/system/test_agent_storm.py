#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_storm.py: much at once, and the API and the kernel failing in the middle of it. After each: what the
agent says is what the API says, nothing is left of what went, and nothing left a captured pod in the clear. Run as
root."""
import os
import shutil
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from agent_lab import V2, Pod, Skip, main, test, until  # noqa: E402
from agent_wire import assert_captured, assert_clean, assert_no_child_ever, assert_plain, talking  # noqa: E402
from kube_api import serve  # noqa: E402
from kube_lab import agent, cluster, current, object_of, running  # noqa: E402

MANY = 110  # what a kubelet takes by default
LINGER = 1.0  # agent_lab's --release-limit: a pod that leaves is served on for so long


def at_once(w, events):
    """Sends all events before it reads an answer."""
    answers, end = [None] * len(events), time.monotonic() + 60

    def one(i):
        while time.monotonic() < end:  # 64 connections are taken at a time; a runtime tries again, too
            try:
                answers[i] = w.cni(events[i])
                return
            except (BlockingIOError, ConnectionError):
                time.sleep(0.05)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(events))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return answers


def label_seconds(w, api, mode, word):
    """The namespace's label changes; how long until the log says so of every pod."""
    line = "\tenrol\t%s pod=" % word
    before, began = w.logged().count(line), time.monotonic()
    api.label("namespaces", "", "default", mode)
    until("all are " + word, lambda: w.logged().count(line) == before + MANY, 60)
    return time.monotonic() - began


@test
def hundred_and_ten_pods_at_once_in_and_out(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    until("current", lambda: current(w, api))
    fds = w.count_fds()
    pods = [Pod(w, "p%03d" % i) for i in range(MANY)]
    for p in pods:
        api.put("pods", object_of(p))
    began = time.monotonic()
    bad = [a for a in at_once(w, [p.event(deadlineMs=60000) for p in pods]) if a is None or a[0] != 200]
    print("# %d ADDs at once: %.0f ms" % (MANY, (time.monotonic() - began) * 1000))
    assert not bad, bad[:3]
    until("annotated", lambda: all(api.annotation("default", p.name) == "enabled" for p in pods), 30)
    assert_clean(w, inside=pods, fds=fds)
    # the kernel's grace periods are not waited for in the loop, two for each pod: 5 to 15 ms each
    rounds = []
    for _ in range(4):  # a pause of the machine is in one of them, such a wait in all
        rounds.append((label_seconds(w, api, None, "released"), label_seconds(w, api, "ambient", "enrolled")))
        out, back = rounds[-1]
        print("# %d running pods: out %.0f ms, in %.0f ms after the label changed" % (MANY, out * 1000, back * 1000))
        if out < LINGER + 5 * back + 0.1:
            break
    else:
        raise AssertionError(rounds)
    assert_clean(w, inside=pods, fds=fds)
    bad = [a for a in at_once(w, [p.event("DEL") for p in pods]) if a is None or a[0] != 200]
    assert not bad, bad[:3]
    for p in pods:
        api.delete("pods", "default", p.name)
    assert_clean(w, gone=pods, fds=fds)
    assert_no_child_ever(w.pid())


@test
def api_restarts_while_pods_come_and_go(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    until("current", lambda: current(w, api))
    fds = w.count_fds()
    pods = [Pod(w, "p%d" % i) for i in range(12)]
    for i, p in enumerate(pods):
        api.put("pods", object_of(p))
        if i % 4 == 1:
            api.drop_connections()
        if i % 4 == 2:
            api.compact()
        if i % 4 == 3:
            api.stop()
            api.start()

        def added(p=p):
            status, a = w.cni(p.event(deadlineMs=3000))
            assert status == 200 or a["code"] == 11, (status, a)  # unknown is an error, never "outside"
            return status == 200 and a["outcome"] == "enrolled"
        until("added " + p.name, added, 60)
    with talking(pods[0]) as t:
        assert_captured(t)
        for p in pods[1::2]:
            assert w.cni(p.event("DEL"))[0] == 200
            api.delete("pods", "default", p.name)
            api.drop_connections()
        until("current", lambda: current(w, api), 60)
        assert_clean(w, inside=pods[0::2], gone=pods[1::2], fds=fds)
        assert_captured(t)


@test
def label_flaps_a_hundred_times_and_nothing_is_left(w):
    api = cluster(w)
    p, q = running(w, api), running(w, api, name="other")
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    until("current", lambda: current(w, api))
    fds = w.count_fds()
    assert w.cni(p.event())[0] == w.cni(q.event())[0] == 200
    with talking(p) as t:
        assert_plain(t)
        for i in range(100):
            api.label("namespaces", "", "default", None if i % 2 else "ambient")
            if i % 10 == 0:
                time.sleep(0.005)  # some of them one by one, most of them together
        api.label("pods", "default", "other", "ambient")  # behind the last event
        until("the last event is in", lambda: w.state(q) == "enrolled", 30)
        until("released", lambda: w.state(p) == "not-in-mesh", 30)
        assert_clean(w, inside=(q,), outside=(p,), fds=fds)
        assert_plain(t)
        api.label("namespaces", "", "default", "ambient")
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert_captured(t)
    assert_clean(w, inside=(p, q), fds=fds)


@test
def same_name_again_before_the_api_knows(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    until("current", lambda: current(w, api))
    fds = w.count_fds()
    assert w.cni(p.event())[0] == 200
    # a StatefulSet's pod: the new one is there before the old one's DEL, and before its own event
    q = Pod(w, "app")
    with talking(q) as t:
        status, a = w.cni(q.event(deadlineMs=1500))
        assert status == 409 and a["code"] == 11 and p.uid in a["msg"], (status, a)
        assert q.clean(), "undone"
        api.put("pods", object_of(q))
        status, a = w.cni(q.event())
        assert (status, a["outcome"]) == (200, "enrolled"), a
        assert_captured(t)
        # the old one's DEL comes late and must not take the new one along
        assert w.cni(p.event("DEL"))[0] == 200
        assert_clean(w, inside=(q,), fds=fds)
        assert_captured(t)
        until("annotated", lambda: api.annotation("default", "app") == "enabled")


@test
def pod_is_deleted_from_the_api_while_it_is_added(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    agent(w, api)
    until("current", lambda: current(w, api))
    z = w.ready_ztunnel(V2)
    fds = w.count_fds()
    c = w.begin(p.event())
    z.expect(1)
    api.delete("pods", "default", "app")
    until("gone", lambda: w.status()["source"]["pods"] == 0)
    z.ack()
    status, a = w.end(c)
    assert status in (200, 409, 503), (status, a)
    serve(z)
    # whatever the answer was, the runtime deletes the sandbox of a pod that is gone
    assert w.cni(p.event("DEL"))[0] == 200
    assert_clean(w, gone=(p,), fds=fds)


@test
def each_watch_that_the_kernel_refuses_once(w):
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    w.namespace(mode="ambient")
    ended = served = 0
    leaks = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"  # cannot be looked for beside strace
    for n in range(2, 16):  # the first is that of the loop itself: without it there is no program
        p = Pod(w, "app%d" % n)
        w.put("p.yaml", p.manifest())
        w.spawn(wrap=("strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=epoll_ctl", "-e",
                      "inject=epoll_ctl:error=ENOSPC:when=%d" % n), env={"ASAN_OPTIONS": leaks})
        try:
            until("serves or ends", lambda: w.proc.poll() is not None or answers(w), 60)
            if w.proc.poll() is not None:
                assert w.proc.returncode == 1 and "No space left" in w.logged().splitlines()[-1], n
                ended += 1
                continue
            z = until("ztunnel has its snapshot", lambda: snapshot(w), 60)

            def added(p=p, z=z):
                try:
                    status, a = w.cni(p.event(deadlineMs=3000))
                except (ConnectionError, TimeoutError):
                    return False
                assert status == 200 or a["code"] in (11, 50), (n, status, a)
                return status == 200
            serve(z)
            until("added", added, 60)
            assert w.state(p) == "enrolled" and p.has_rules()
            served += 1
        finally:
            w.stop()
            for x in w.peers:
                x.close()
            w.peers.clear()
            shutil.rmtree(w.dir + "/run", ignore_errors=True)
    print("# of 14 refused watches %d ended the start with a sentence, %d were got over" % (ended, served))
    assert ended and served


def answers(w):
    try:
        return w.answers()
    except (ConnectionError, TimeoutError):
        return False


def snapshot(w):
    try:
        z = w.ztunnel(V2)
        z.s.settimeout(3)
        z.got = z.snapshot()
        return z
    except (EOFError, OSError):
        return None


if __name__ == "__main__":
    sys.exit(main())
