#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_faults.py: ambient-agent is killed, lied to, left waiting and restarted. Run as root."""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

from agent_lab import (ACK, PORTS, Pod, ServiceManager, Skip, TAG, V2, Ztunnel, has_faults, main, nack,
                       namespace, run, test, until, v2, z_serve)


# --- restart ---

@test
def killed_agent_finds_everything_again(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "plain")
    w.put("p.yaml", p.manifest(), q.manifest(labels={"istio.io/dataplane-mode": "none"}))
    w.start()
    z = w.ready_ztunnel(V2)
    _, _, fds = w.add(p, z)
    w.cni(q.event())
    w.stop(signal.SIGKILL)
    assert p.has_rules()
    # while the agent is away, and after: ztunnel's own sockets go on listening
    assert p.listening() == PORTS
    w.start()
    st = until("found", lambda: w.pod(p)["rules"] == "present" and w.pod(p))
    assert not st["custody"], "no second set of sockets beside those that ztunnel holds"
    held = fds[:4]
    y = w.ztunnel(v2(1), held=[(p.uid, held)])
    y.got = y.snapshot()
    assert len(y.got[p.uid][1]) == 4
    until("custody is back", lambda: w.pod(p)["custody"] and w.state(p) == "enrolled")
    # the very same socket: its kernel inode says so
    ours = w.open_fds()
    for fd in held[1:]:
        assert os.readlink("/proc/self/fd/%d" % fd) in ours
    # the running plain pod can still be enrolled
    w.put("p.yaml", p.manifest(), q.manifest())
    y.expect(1)
    y.ack()
    until("enrolled", lambda: w.state(q) == "enrolled")


@test
def killed_agent_without_held_sockets(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.stop(signal.SIGKILL)
    z.close()
    assert p.listening() == () and p.has_rules()
    w.start()
    y = w.ready_ztunnel(V2)
    assert len(y.got[p.uid][1]) == 4 and p.listening() == PORTS
    until("enrolled", lambda: w.state(p) == "enrolled" or z_serve(y))


@test
def wrong_held_sockets_are_refused(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    _, _, fp = w.add(p, z)
    _, _, fq = w.add(q, z)
    w.stop(signal.SIGKILL)
    w.start()
    base = w.count_fds()
    # other namespace; right namespace with the other pod's sockets
    y = w.ztunnel(v2(2))
    y.send_held(p.uid, fq)
    y.send_held(q.uid, [fq[0]] + fp[1:])
    y.got = y.snapshot()
    assert w.logged().count("that ztunnel holds are") == 2, w.logged()
    # no descriptor for each port: the connection ends
    x = w.ztunnel(v2(1))
    x.send_held(p.uid, fp[:2])
    assert x.closed()
    assert w.count_fds() <= base + 1 + 2 * 4


@test
def label_removed_while_agent_was_away(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert w.stop() == 0
    z.close()
    assert p.has_rules(), "a stop is no uninstall"
    w.namespace()
    w.start()
    until("released", lambda: w.state(p) == "not-in-mesh")
    until("rules gone", p.clean)


@test
def killed_between_any_two_steps_is_healed(w):
    if not has_faults():
        raise Skip("release build has no fault points")
    w.namespace(mode="ambient")
    steps = ("journal", "custody", "rules", "zds", "probes")
    for step in steps:
        p = Pod(w, "app-" + step)
        w.put("p-%s.yaml" % step, p.manifest())
        w.start(env={"AMBIENT_AGENT_CRASH_AFTER": step})
        z = w.ztunnel(V2)
        try:
            z.snapshot()
            c = w.begin(p.event())
            z.expect(1)
            z.ack()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            pass
        until("killed after " + step, lambda: w.proc.poll() is not None)
        assert w.proc.returncode == -signal.SIGKILL
        z.close()
        w.start()
        z = w.ready_ztunnel(V2)
        until("healed after " + step, lambda: w.state(p) == "enrolled" or z_serve(z))
        assert p.has_rules() and p.listening() == PORTS
        # the runtime saw an error: it deletes the sandbox
        assert w.cni(p.event("DEL"))[0] == 200
        os.unlink(w.dir + "/m/p-%s.yaml" % step)
        w.stop()
        z.close()
        until("nothing is left after " + step, p.clean)
    for step in ("leave-probes", "leave-zds", "leave-rules"):
        p = Pod(w, "out-" + step)
        w.put("p.yaml", p.manifest())
        w.start(env={"AMBIENT_AGENT_CRASH_AFTER": step})
        z = w.ready_ztunnel(V2)
        w.add(p, z)
        try:
            w.cni(p.event("DEL"))
        except (http.client.HTTPException, ConnectionError):
            pass
        until("killed after " + step, lambda: w.proc.poll() is not None)
        z.close()
        w.namespace()
        w.start()
        until("healed after " + step, lambda: w.state(p) in ("not-in-mesh", "none") and p.clean())
        w.cni(p.event("DEL"))
        w.stop()
        w.namespace(mode="ambient")


@test
def a_failing_step_is_undone(w):
    if not has_faults():
        raise Skip("release build has no fault points")
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    for step in ("journal", "custody", "rules", "zds", "probes"):
        w.start(env={"AMBIENT_AGENT_FAIL_IN": step})
        z = w.ready_ztunnel(V2)
        base = w.count_fds()
        c = w.begin(p.event())
        if step == "probes":
            z.expect(1)
            z.ack()
        status, a = w.end(c)
        assert status == 503 and a["code"] == 11, (step, a)
        if step == "probes":
            z.expect(2)
            z.ack()
        for fd in z.fds:
            os.close(fd)
        z.fds = []
        until("undone: " + step, lambda p=p: p.clean() and w.journal() == [])
        until("no leak", lambda: w.count_fds() == base)
        w.stop()
        z.close()


@test
def stock_and_our_ztunnel_take_turns(w):
    """Listening sockets of both kinds never stand side by side unserved."""
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert w.pod(p)["custody"]
    stock = w.ready_ztunnel()
    assert len(stock.got[p.uid][1]) == 1 and not w.pod(p)["custody"]
    z.close()
    stock.close()
    y = w.ready_ztunnel(V2)
    assert len(y.got[p.uid][1]) == 4 and w.pod(p)["custody"] and w.state(p) == "enrolled"


@test
def refused_in_the_snapshot_is_asked_again(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    z.close()
    y = w.ztunnel(V2)
    y.expect(1)
    y.ack(nack("bind: address in use"))
    y.expect(3)
    y.ack()
    until("said", lambda: w.state(p) == "pending" and "address in use" in w.pod(p)["reason"])
    payload, fds = y.expect(1)
    assert p.uid.encode() in payload and len(fds) == 4
    y.ack()
    until("enrolled", lambda: w.state(p) == "enrolled")


@test
def no_snapshot_before_pods_are_known(w):
    """A snapshot that lacks pods would make ztunnel drop them."""
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.stop(signal.SIGKILL)
    os.rename(w.dir + "/m", w.dir + "/away")
    w.spawn()
    until("listens", lambda: os.path.exists(w.sock) and w.answers())
    y = w.ztunnel(V2)
    y.quiet(0.5)
    os.rename(w.dir + "/away", w.dir + "/m")
    y.got = y.snapshot()
    assert list(y.got) == [p.uid] and len(y.got[p.uid][1]) == 4


@test
def unreadable_manifest_after_a_restart(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.stop(signal.SIGKILL)
    z.close()
    w.put("p.yaml", "kind: Pod\nmetadata: [\n")
    w.start()
    assert w.status()["source"]["error"]
    # what the journal says stays in force: the pod is not dropped
    y = w.ready_ztunnel(V2)
    assert list(y.got) == [p.uid] and p.has_rules() and p.listening() == PORTS
    y.quiet()
    w.put("p.yaml", p.manifest())
    payload, _ = y.expect(1)
    assert b"sa-app" in payload
    y.ack()
    until("enrolled", lambda: w.state(p) == "enrolled")


@test
def broken_journal_entries_are_left_alone(w):
    os.makedirs(w.dir + "/run/attachments")
    for name, text in (("a.json", "{"), ("b.json", '{"version": 2}'), ("c.json", "x" * 20000),
                       ("d.json.tmp.AbCdEf", "{"), ("e.json", '{"version":1,"containerID":"../e"}')):
        with open(w.dir + "/run/attachments/" + name, "w") as f:
            f.write(text)
    w.start()
    assert w.status()["pods"] == [] and w.logged().count("entry ignored") == 4
    assert w.journal() == ["a.json", "b.json", "c.json", "e.json"]


# --- bad peers ---

@test
def bad_zds_packets(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    base = w.count_fds()
    null = os.open("/dev/null", os.O_RDONLY)
    for hello in (b"\x08", b"\xff" * 900, b"\x0a\x05ab", b"x" * 1500):
        z = w.ztunnel(hello)
        assert z.closed(), hello
    z = w.ztunnel(None)
    socket.send_fds(z.s, [b"\x08\x01"], [null])
    assert z.closed()
    z = w.ztunnel(v2(4000000))
    assert z.closed()
    # answers: without request, truncated, with descriptors, with too many
    z = w.ready_ztunnel()
    z.ack()
    assert z.closed()
    for answer, fds in ((b"\x0a", ()), (b"\x0a\x7f", ()), (ACK, (null,)), (ACK, (null,) * 12),
                        (b"\x82\x01\x00", ()), (b"\x00" * 2000, ())):
        z = w.ready_ztunnel(V2)
        c = w.begin(p.event())
        z.expect(1)
        socket.send_fds(z.s, [answer], list(fds))
        assert z.closed(), answer
        w.end(c)  # grace: waits in the queue, or an error; never a hang
        w.cni(p.event("DEL"))
        z.close()
    os.close(null)
    until("no leak", lambda: w.count_fds() == base)
    until("nothing is left", p.clean)


@test
def silent_peers_are_cut(w):
    w.start()
    z = w.ztunnel(None)
    y = w.ztunnel()
    assert z.closed() and y.closed(), "hello and answer have a time limit"
    for _ in range(12):
        w.peers.append(Ztunnel(w.zds, None))
    assert len(w.status()["ztunnels"]) <= 8


@test
def newest_gets_adds_and_the_one_before_takes_over(w):
    w.namespace(mode="ambient")
    p, q, r = Pod(w, "p"), Pod(w, "q"), Pod(w, "r")
    w.put("p.yaml", p.manifest(), q.manifest(), r.manifest())
    w.start()
    a = w.ready_ztunnel(V2)
    w.add(p, a)
    # b stands in its snapshot: nothing waits for it, and it misses nothing
    b = w.ztunnel(V2)
    b.expect(1)
    w.add(q, a)
    b.ack()
    seen = b.snapshot()
    until("b has it", lambda: w.status()["ztunnels"][1]["snapshot"])
    if q.uid not in seen:
        payload, _ = b.expect(1)
        assert q.uid.encode() in payload
        b.ack()
    a.quiet()
    c = w.begin(r.event())
    b.expect(1)
    b.close()  # in the middle: the one before it is asked
    payload, _ = a.expect(1)
    assert r.uid.encode() in payload
    a.ack()
    assert w.end(c)[0] == 200


@test
def the_one_before_is_told_what_it_missed(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "p"), Pod(w, "q")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start()
    a = w.ready_ztunnel(V2)
    b = w.ready_ztunnel(V2)
    until("b has it", lambda: w.status()["ztunnels"][1]["snapshot"])
    w.add(p, b)
    a.quiet()
    b.close()
    payload, _ = a.expect(1)
    assert p.uid.encode() in payload
    a.ack()
    # the same of one that drains
    c = w.ready_ztunnel(V2)
    until("c has it", lambda: w.status()["ztunnels"][1]["snapshot"])
    w.add(q, c)
    a.quiet()
    c.ack(b"\x8a\x01\x00")
    told = [a.expect(1)[0]]
    a.ack(nack("no"))  # and what it says counts
    told.append(a.expect(1)[0])
    a.ack()
    assert all(any(x.uid.encode() in t for t in told) for x in (p, q)), told
    a.expect(1)
    until("not enrolled", lambda: "pending" in (w.state(p), w.state(q)))
    a.ack()
    until("enrolled", lambda: w.state(p) == w.state(q) == "enrolled")


@test
def an_older_snapshot_under_way_misses_no_pod(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "p"), Pod(w, "q")
    w.put("p.yaml", p.manifest(), q.manifest())
    w.start()
    first = w.ready_ztunnel(V2)
    w.add(p, first)
    a = w.ztunnel(V2)
    a.expect(1)  # it stands in its snapshot
    b = w.ready_ztunnel(V2)
    until("b has it", lambda: w.status()["ztunnels"][2]["snapshot"])
    w.add(q, b)
    first.close()
    b.close()
    a.ack()
    seen = a.snapshot()
    if q.uid not in seen:
        assert q.uid.encode() in a.expect(1)[0]
        a.ack()


@test
def only_root_is_answered(w):
    w.start()
    os.chmod(w.dir, 0o755)
    http_get = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
    for f, kind, first in ((w.sock, "SOCK_STREAM", http_get), (w.zds, "SOCK_SEQPACKET", b"\x08\x01")):
        assert os.stat(f).st_mode & 0o777 == 0o600
        os.chmod(f, 0o666)
        out = run("setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.%s)
s.settimeout(5)
s.connect(%r)
try:
    s.send(%r)
    print(repr(s.recv(4096)[:16]))
except OSError as e:
    print("refused", e)
""" % (kind, f, first))
        assert "403" in out or "b''" in out or "refused" in out, out
    assert "uid" not in w.request("GET", "/nope")[1]


@test
def bad_requests_are_named(w):
    w.start()
    ok = {"command": "ADD", "containerID": "c1", "netns": "/x", "podName": "a", "podNamespace": "b"}
    for change, code, word in (
            ({"command": "MOVE"}, 7, "command"), ({"containerID": "../x"}, 4, "containerID"),
            ({"containerID": "a" * 200}, 4, "containerID"), ({"containerID": 7}, 4, "containerID"),
            ({"netns": "x"}, 4, "netns"), ({"podName": "a/b"}, 4, "podName"),
            ({"podNamespace": ""}, 4, "podNamespace"), ({"ips": ["1.2.3"]}, 4, "ips"),
            ({"ips": "1.2.3.4"}, 4, "ips"), ({"ips": [1]}, 4, "ips"), ({"ips": ["1.1.1.1"] * 99}, 4, "ips"),
            ({"deadlineMs": -1}, 4, "deadlineMs"), ({"podUID": "x" * 99}, 4, "podUID")):
        status, a = w.cni(dict(ok, **change))
        assert (status, a["code"]) == (400, code) and word in a["msg"], (change, a)
    for body in (b"", b"{", b"[]", b"nul", b'{"command":"ADD","command":"DEL"}', b"[" * 60000):
        status, text = w.request("POST", "/v1/cni", body)
        assert status == 400 and json.loads(text)["code"] == 7, (body[:20], text)
    try:
        assert w.request("POST", "/v1/cni", b" " * 70000)[0] == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # cut while it was still being sent
    assert w.cni({"command": "STATUS"})[0] == 503
    assert w.request("GET", "/v1/cni")[0] == 405 and w.request("POST", "/x", b"{}")[0] == 404


# --- service manager ---

@test
def descriptor_store_and_activation(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    m = ServiceManager(w)
    m.start()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    m.notes()
    assert [len(x) for x in m.store.values()] == [4], m.store
    sockets = {os.readlink("/proc/self/fd/%d" % f) for f in list(m.store.values())[0][1:]}
    w.stop(signal.SIGKILL)
    z.close()
    # nobody but the service manager holds them now, and they still listen
    assert p.listening() == PORTS
    m.start()
    until("custody from the store", lambda: w.pod(p)["custody"])
    assert sockets <= set(w.open_fds())
    z = w.ready_ztunnel(V2)
    until("enrolled", lambda: w.state(p) == "enrolled" or z_serve(z))
    w.cni(p.event("DEL"))
    z.expect(2)
    z.ack()
    z.close()
    until("store is empty", lambda: m.notes() is not None and not m.store)
    assert p.listening() == () and not p.has_rules()
    m.close()


# --- running pods that nobody told us of; the kubelet ---

@test
def running_pod_is_found_by_its_cgroup(w):
    root = "/sys/fs/cgroup"
    if not os.path.exists(root + "/cgroup.procs"):
        root = "/sys/fs/cgroup/pids"
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    top = "%s/kubepods-%s" % (root, TAG)
    leaf = "%s/pod%s/%s" % (top, p.uid, "a" * 64)
    try:
        os.makedirs(leaf)
    except OSError as e:
        raise Skip("cannot make a cgroup: %s" % e) from e
    proc = proc2 = None
    try:
        proc = subprocess.Popen(["ip", "netns", "exec", p.netns, "sleep", "600"])
        with open(leaf + "/cgroup.procs", "w") as f:
            f.write(str(proc.pid))
        until("in its namespace", lambda: os.stat("/proc/%d/ns/net" % proc.pid).st_ino == os.stat(p.path).st_ino)
        w.start()
        z = w.ready_ztunnel(V2)
        w.put("p.yaml", p.manifest())
        payload, fds = z.expect(1)
        z.ack()
        assert p.uid.encode() in payload and os.fstat(fds[0]).st_ino == os.stat(p.path).st_ino
        until("enrolled", lambda: w.state(p) == "enrolled")
        # a process with the UID in a namespace without the pod's address is not believed
        q, r = Pod(w, "liar", uid=p.uid[:-1] + "f"), Pod(w, "other")
        leaf2 = "%s/pod%s/%s" % (top, q.uid, "b" * 64)
        os.makedirs(leaf2)
        proc2 = subprocess.Popen(["ip", "netns", "exec", r.netns, "sleep", "600"])
        with open(leaf2 + "/cgroup.procs", "w") as f:
            f.write(str(proc2.pid))
        until("in the other namespace",
              lambda: os.stat("/proc/%d/ns/net" % proc2.pid).st_ino == os.stat(r.path).st_ino)
        w.put("q.yaml", q.manifest())
        z.quiet(0.5)
        assert w.state(q) == "quarantined" and r.listening() == (), "kept from everybody, and no ztunnel told"
        # the runtime's DEL comes with an ID that we never saw
        w.cni(p.event("DEL"))
        z.expect(2)
        z.ack()
        assert not p.has_rules()
    finally:
        for x in (proc, proc2):
            if x is not None:
                x.kill()
                x.wait()
        for d, _, _ in os.walk(top, topdown=False):
            until("cgroup is empty", lambda d=d: rmdir(d))


def rmdir(d):
    try:
        os.rmdir(d)
        return True
    except OSError:
        return False


@test
def branch_interface_gets_its_rules(w):
    """AWS, security groups for pods: what the VPC CNI set up is there, and early demux is off (cni-spec 3.11)."""
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "ordinary")
    w.put("p.yaml", p.manifest(), q.manifest())

    def host(*args, check=True):
        return run("ip", "netns", "exec", w.host, *args, check=check)
    host("sysctl", "-qw", "net.ipv4.tcp_early_demux=0")
    for dev in ("vlan1", "eni2"):
        host("ip", "link", "add", dev, "type", "bridge")
        host("ip", "link", "set", dev, "up")
    host("ip", "route", "add", p.ip + "/32", "dev", "vlan1", "table", "101")
    host("ip", "rule", "add", "iif", "vlan1", "lookup", "101", "priority", "10")
    host("ip", "route", "add", q.ip + "/32", "dev", "eni2")
    before = host("ip", "rule")
    shutil.copy("/bin/sleep", w.dir + "/kubelet")
    wrap = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
            "%s/kubelet 600 & exec \"$@\"" % w.dir, "sh")
    w.start("--host-probes=auto", wrap=wrap)
    until("rules of the node", lambda: "istio-inpod-probes-v4" in host("nft", "list", "ruleset"))
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    w.add(q, z)
    rules = host("ip", "rule").splitlines()
    added = [" ".join(r.split()) for r in rules if r not in before.splitlines()]
    assert sorted(added) == ["512: from all to %s lookup 101" % p.ip, "9: from all iif vlan1 lookup local"], added
    w.cni(p.event())  # again: they are there already
    assert host("ip", "rule").splitlines() == rules
    # an agent that starts anew takes them away with the pod: it has found them, or not yet, for it sees no kubelet
    for sees_kubelet in (True, False):
        w.stop(signal.SIGKILL)
        until("the killed agent is gone", lambda: not w.answers())
        z.close()
        w.start("--host-probes=auto", wrap=wrap if sees_kubelet else ())
        if sees_kubelet:
            until("the kubelet to be found", lambda: json.loads(w.request("GET", "/v1/node")[1])["probes"]["active"])
        else:
            assert not json.loads(w.request("GET", "/v1/node")[1])["probes"]["active"]
        z = w.ready_ztunnel(V2)
        until("enrolled", lambda: w.state(p) == w.state(q) == "enrolled" or z_serve(z))
        assert host("ip", "rule").splitlines() == rules
        w.cni(p.event("DEL"))
        z.expect(2)
        z.ack()
        until("the rules are gone", lambda: host("ip", "rule") == before)
        if sees_kubelet:
            w.add(p, z)
            assert host("ip", "rule").splitlines() == rules


@test
def kubelet_probes_are_exempted(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    # a process of that name, in a pid namespace of its own so that no other agent sees it
    shutil.copy("/bin/sleep", w.dir + "/kubelet")
    # before it one in a pod, of another user, who must not get the kubelet's way around the mesh
    os.chmod(w.dir, 0o755)
    script = ("nsenter --net=%s setpriv --reuid 1234 --clear-groups %s/kubelet 600 & "
              "until [ $(cat /proc/$!/comm) = kubelet ]; do sleep 0.01; done; "
              "%s/kubelet 600 & exec \"$@\"" % (p.path, w.dir, w.dir))
    wrap = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh")
    w.start("--host-probes=auto", wrap=wrap)

    def table():
        return run("ip", "netns", "exec", w.host, "nft", "list", "ruleset")

    until("rules of the node", lambda: "istio-inpod-probes-v4" in table())
    assert "skuid" in table() and "skuid 1234" not in table(), table()
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert p.ip in table() and p.uid in table(), table()
    w.cni(p.event("DEL"))
    z.expect(2)
    z.ack()
    assert p.ip not in table()
    # killed: the set is never flushed, what is stale goes, what is right stays all the time
    w.add(p, z)
    w.stop(signal.SIGKILL)  # of unshare: the kernel kills the agent inside a moment later
    until("the killed agent is gone", lambda: not w.answers())
    z.close()
    for ip, uid in (("10.9.9.9", "dead"), ("10.9.9.8", p.uid)):
        run("ip", "netns", "exec", w.host, "nft", "add", "element", "inet", "istio-ambient-nat",
            "istio-inpod-probes-v4", '{ %s comment "%s" }' % (ip, uid))
    w.start("--host-probes=auto", wrap=wrap)
    w.ready_ztunnel(V2)

    def pruned():
        t = table()
        assert p.ip in t, "the pod's own entry was gone for a moment"
        return "10.9.9.9" not in t and "10.9.9.8" not in t

    until("stale entries are gone", pruned, 60)
    w.stop(signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
