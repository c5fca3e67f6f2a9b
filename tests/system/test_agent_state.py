#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_state.py: the last good picture of the Kubernetes API: the agent starts while the API is away, with a
picture that is whole, old, damaged, of another node, or cannot be written. Run as root."""
import contextlib
import os
import shutil
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from agent_lab import BIN, V2, Pod, Skip, main, namespace, run, test, until, z_serve  # noqa: E402
from agent_wire import assert_captured, assert_clean, assert_plain, talking  # noqa: E402
from kube_api import NODE, serve, source  # noqa: E402
from kube_lab import agent, cluster, config, current, object_of, running  # noqa: E402

SOON = 40  # the API gets three seconds to answer


def picture(w):
    return w.dir + "/state/kubernetes.state"


def kept(w, *words):
    """The picture is on disk and has @words."""
    def look():
        with contextlib.suppress(FileNotFoundError):
            with open(picture(w)) as f:
                text = f.read()
            return all(x in text for x in words)
        return False
    until("the picture is kept", look)


def start_alone(w, api, *args):
    """A start while nobody answers."""
    w.spawn("--source", "kubernetes", "--kubeconfig", config(w, api), "--node-name", NODE, *args)
    until("serves", w.answers)


def knows(w):
    """The cluster of most tests: an enrolled pod, one that is known and not started; the API goes away."""
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p, late = running(w, api), running(w, api, name="late")
    agent(w, api)
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    until("annotated", lambda: api.annotation("default", "app") == "enabled")
    kept(w, p.uid, late.uid, "ambient", "enabled")
    return api, z, p, late


@test
def restart_while_the_api_is_away(w):
    api, z, p, late = knows(w)
    with talking(p) as t:
        assert_captured(t)
        api.stop()
        w.stop(signal.SIGKILL)
        z.close()
        start_alone(w, api)
        until("the last picture is in force", lambda: source(w)["synced"], SOON)
        s = source(w)
        assert s["stale"] and s["ageSeconds"] >= 3 and s["lastState"]["inForce"] and s["error"], s
        assert (s["pods"], s["namespaces"]) == (2, 2), s
        z = w.ready_ztunnel(V2)
        until("enrolled again", lambda: w.state(p) == "enrolled" or z_serve(z))
        # known pods start; unknown ones, and those of unknown namespaces, are an error that is retried
        (status, a), _, _ = w.add(late, z)
        assert (status, a["outcome"]) == (200, "enrolled"), a
        for q in (Pod(w, "stranger"), Pod(w, "elsewhere", ns="unheard-of")):
            status, a = w.cni(q.event(deadlineMs=2500))
            assert status == 409 and a["code"] == 11, (status, a)
        assert_clean(w, inside=(p, late))
        assert_captured(t)
        # the API comes back, and says something else by now
        api.delete("pods", "default", "late")
        api.start()
        serve(z)
        until("current", lambda: current(w, api), 40)
        assert not source(w)["lastState"]["inForce"]
        assert w.cni(late.event("DEL"))[0] == 200
        assert_clean(w, inside=(p,), gone=(late,))
        api.label("namespaces", "", "default", None)
        until("released", lambda: w.state(p) == "not-in-mesh")
        assert_plain(t)
    kept(w, p.uid)


@test
def an_api_that_answers_is_believed_first(w):
    api, z, p, late = knows(w)
    w.stop()
    z.close()
    api.label("namespaces", "", "default", None)
    w.start("--source", "kubernetes", "--kubeconfig", config(w, api), "--node-name", NODE)
    w.ready_ztunnel(V2)
    status, a = w.cni(late.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh"), a
    until("released", lambda: w.state(p) == "not-in-mesh")
    assert "is in force" not in w.logged()


@test
def what_vanished_meanwhile_goes_with_the_first_list(w):
    api, z, p, late = knows(w)
    w.stop()
    z.close()
    api.stop()
    start_alone(w, api)
    until("the last picture is in force", lambda: source(w)["synced"], SOON)
    assert source(w)["pods"] == 2
    api.delete("pods", "default", "late")
    api.delete("namespaces", "", "kube-system")
    api.put("namespaces", namespace("new"))
    api.start()
    until("current", lambda: current(w, api), 40)
    s = source(w)
    assert (s["pods"], s["namespaces"]) == (1, 2), s


@test
def an_older_picture_lets_nobody_out(w):
    """The picture is written after the rules: a kill or a full disk leaves one that is older than they are."""
    api = cluster(w)
    p = running(w, api)
    agent(w, api)
    z = w.ready_ztunnel(V2)
    status, a = w.cni(p.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh"), a
    kept(w, p.uid)
    with open(picture(w), "rb") as f:
        older = f.read()
    assert b"ambient\"" not in older
    with talking(p) as t:
        assert_plain(t)
        api.label("namespaces", "", "default", "ambient")
        z.expect(1)
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert_captured(t)
        api.stop()
        w.stop(signal.SIGKILL)
        z.close()
        with open(picture(w), "wb") as f:
            f.write(older)
        start_alone(w, api)
        until("the older picture is in force", lambda: source(w)["synced"], SOON)
        z = w.ready_ztunnel(V2)
        until("enrolled again", lambda: w.state(p) == "enrolled" or z_serve(z))
        assert "stays in the mesh until" in w.logged() and "released" not in w.logged()
        assert_captured(t)
        # the API says what is true now: out, and then it goes
        api.label("namespaces", "", "default", None)
        api.start()
        serve(z)
        until("released", lambda: w.state(p) == "not-in-mesh", 40)
        assert_plain(t)


@test
def server_that_answers_slowly_and_nonsense(w):
    api, z, p, late = knows(w)
    w.stop()
    z.close()
    api.make_trouble(lambda r: r.status(500, "not now"), times=2, resource="pods")
    slow = api.make_trouble(lambda r: None, times=1, resource="namespaces")  # never answers
    start_alone(w, api)
    until("the last picture is in force", lambda: source(w)["synced"], SOON)
    z = w.ready_ztunnel(V2)
    until("enrolled", lambda: w.state(p) == "enrolled" or z_serve(z))
    (status, a), _, _ = w.add(late, z)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    assert slow["hit"] == 1
    s = source(w)
    assert s["lastState"]["inForce"] and s["error"] and s["stale"], s
    api.drop_connections()
    until("current", lambda: current(w, api), 40)
    assert_clean(w, inside=(p, late))


@test
def a_damaged_picture_is_named_and_ignored(w):
    api, z, p, _ = knows(w)
    w.stop()
    z.close()
    api.stop()
    with open(picture(w), "rb") as f:
        good = f.read()
    at = good.index(b'"ambient"') + 1
    for name, data, word in (
            ("cut", good[:-10], "bytes after the heading"),
            ("a bit", good[:at] + bytes([good[at] ^ 1]) + good[at + 1:], "checksum"),
            ("empty", b"", "heading"),
            ("another version", good.replace(b"state 1 ", b"state 2 ", 1), "version 2, expected 1"),
            ("something else", b"kind: Pod\n", "heading")):
        with open(picture(w), "wb") as f:
            f.write(data)
        start_alone(w, api)
        until(name, lambda: source(w)["lastState"]["error"], SOON)
        s = source(w)
        assert picture(w) in s["lastState"]["error"] and word in s["lastState"]["error"], (name, s)
        assert not s["synced"] and s["pods"] == 0, (name, s)
        status, a = w.cni(p.event())
        assert status == 503 and a["code"] == 50, a
        assert p.has_rules(), "what was captured stays captured"
        w.stop()
    # another node's, and other selectors': whole, but not ours
    for args, word in ((("--node-name", "node-2"), "node"), (("--enablement-selector", "- podSelector: {matchLabels: {a: b}}"),
                                                             "other selectors")):
        with open(picture(w), "wb") as f:
            f.write(good)
        start_alone(w, api, *args)
        until("refused", lambda: word in source(w)["lastState"]["error"], SOON)
        w.stop()
    # the API is back: the file is made anew
    api.start()
    w.start("--source", "kubernetes", "--kubeconfig", config(w, api), "--node-name", NODE)
    kept(w, p.uid)
    assert source(w)["lastState"]["error"] == ""


@test
def disk_full_for_the_picture_stops_nothing(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p, q = running(w, api), running(w, api, name="other")
    os.mkdir(w.dir + "/state")
    run("mount", "-t", "tmpfs", "-o", "size=64k", "ambient-test", w.dir + "/state")
    try:
        agent(w, api)
        kept(w, p.uid)
        with open(picture(w), "rb") as f:
            before = f.read()
        with open(w.dir + "/state/fill", "wb", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(b"x" * 4096)
        z = w.ready_ztunnel(V2)
        w.add(p, z)
        until("told", lambda: "No space left" in source(w)["lastState"]["error"])
        # pods go on, and the old picture is whole
        w.add(q, z)
        assert_clean(w, inside=(p, q))
        with open(picture(w), "rb") as f:
            assert f.read() == before
        until("no half of a write is left", lambda: sorted(os.listdir(w.dir + "/state")) == ["fill", "kubernetes.state"])
        assert w.logged().count("is not kept") == 1, "said once"
        os.unlink(w.dir + "/state/fill")
        until("kept again", lambda: source(w)["lastState"]["error"] == "", 40)
        kept(w, "enabled")
    finally:
        w.stop()
        run("umount", "-l", w.dir + "/state", check=False)


@test
def disk_full_for_the_journal_is_an_error_that_is_undone(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    w.put("p.yaml", p.manifest(), q.manifest())
    os.mkdir(w.dir + "/run")
    run("mount", "-t", "tmpfs", "-o", "size=64k", "ambient-test", w.dir + "/run")
    try:
        w.start()
        fds = w.count_fds()
        z = w.ready_ztunnel(V2)
        w.add(p, z)
        with open(w.dir + "/run/fill", "wb", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(b"x" * 4096)
        status, a = w.cni(q.event())
        assert status == 503 and a["code"] == 11 and "No space left" in a["msg"], (status, a)
        z.quiet()
        assert_clean(w, inside=(p,), gone=(q,), fds=fds + 1)
        assert w.cni(p.event("CHECK"))[0] == 200
        os.unlink(w.dir + "/run/fill")
        (status, a), _, _ = w.add(q, z)
        assert status == 200, a
        assert_clean(w, inside=(p, q), fds=fds + 1)
    finally:
        w.stop()
        run("umount", "-l", w.dir + "/run", check=False)


@test
def a_clock_that_jumps_while_it_runs(w):
    """Ten years on, and ten years back: the connection, pods that come and go and all pauses go on as if nothing was."""
    if "asan" in BIN[0]:
        raise Skip("a sanitizer has its own clock_gettime")
    if shutil.which("gcc") is None:
        raise Skip("no gcc")
    run("gcc", "-shared", "-fPIC", "-O1", "-o", w.dir + "/shim.so", HERE + "/clock_shim.c")
    api = cluster(w)

    def jump(seconds):
        with open(w.dir + "/offset", "w") as f:
            f.write("%d\n" % seconds)
    jump(0)
    path = config(w, api)
    w.start("--source", "kubernetes", "--kubeconfig", path, "--node-name", NODE,
            env={"LD_PRELOAD": w.dir + "/shim.so", "CLOCK_SHIM": w.dir + "/offset"})
    until("current", lambda: current(w, api))
    serve(w.ready_ztunnel(V2))
    p = running(w, api)
    assert w.cni(p.event())[0] == 200
    shaken = api.handshakes
    years = time.gmtime().tm_year
    for seconds in (10 * 365 * 86400, -10 * 365 * 86400):
        jump(seconds)
        for mode, state in (("ambient", "enrolled"), (None, "not-in-mesh")):
            api.label("pods", "default", "app", mode)
            until(state, lambda state=state: w.state(p) == state)
        # a failed request is tried again after its pause, not after ten years
        api.make_trouble(lambda r: r.status(500, "boom"), times=2, resource="pods", watch=True)
        n = len(api.asked("pods", True))
        api.watching()[0].finish = True
        until("the watch goes on", lambda: len(api.asked("pods", True)) >= n + 3 and current(w, api))
        s = source(w)
        assert not s["stale"] and s["error"] == "", s
        assert "\n%d-" % (years + seconds // (365 * 86400)) in w.logged(), "the clock did not jump for the agent"
    assert api.handshakes == shaken, "connected again"
    assert p.clean()


@test
def a_clock_that_jumped_does_not_matter(w):
    api, z, p, _ = knows(w)
    w.stop()
    z.close()
    api.stop()
    now = os.stat(picture(w)).st_mtime
    for moved, low, high in ((10 * 365 * 86400, 0, 60), (-10 * 365 * 86400, 10 * 364 * 86400, 10 * 366 * 86400)):
        os.utime(picture(w), (now + moved, now + moved))
        start_alone(w, api)
        until("in force", lambda: source(w)["synced"], SOON)
        age = source(w)["ageSeconds"]
        assert low <= age <= high and source(w)["stale"], (moved, age)
        until("known", lambda: w.pod(p).get("rules") == "present")
        w.stop()


@test
def halves_of_writes_are_removed(w):
    api = cluster(w)
    os.mkdir(w.dir + "/state")
    for name in ("kubernetes.state.tmp.aBcDeF", "other.tmp.aBcDeF"):
        with open(w.dir + "/state/" + name, "w") as f:
            f.write("half")
    agent(w, api)
    kept(w, "kube-system")
    assert sorted(os.listdir(w.dir + "/state")) == ["kubernetes.state", "other.tmp.aBcDeF"]


@test
def nothing_is_kept_where_nothing_shall_be(w):
    api = cluster(w)
    running(w, api)
    agent(w, api, "--state-dir", "")
    until("current", lambda: current(w, api))
    assert not os.path.exists(w.dir + "/state")
    assert source(w)["lastState"] == {"file": None, "inForce": False, "error": ""}, source(w)


@test
def five_thousand_namespaces_are_kept_and_found(w):
    api = cluster(w)
    for i in range(5000):
        api.put("namespaces", namespace("ns-%04d" % i, "ambient" if i % 2 else None))
    p = Pod(w, "app", ns="ns-0001")
    api.put("pods", object_of(p))
    agent(w, api)
    until("listed", lambda: current(w, api), 60)
    kept(w, "ns-4999", p.uid)
    print("# %d bytes for 5,002 namespaces" % os.stat(picture(w)).st_size)
    assert os.stat(picture(w)).st_size < 1 << 20
    api.stop()
    w.stop()
    start_alone(w, api)
    until("in force", lambda: source(w)["synced"], SOON)
    assert source(w)["namespaces"] == 5002
    (status, a), _, _ = w.add(p, w.ready_ztunnel(V2))
    assert (status, a["outcome"]) == (200, "enrolled"), a


if __name__ == "__main__":
    sys.exit(main())
