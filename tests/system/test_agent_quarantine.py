#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_quarantine.py: pods that run without a CNI ADD: restored by a runtime, or created while the plugin was
not in the chain. They are captured before they talk in the clear, or refused everything with a reason. Run as root."""
import os
import shutil
import signal

from agent_cgroup import processes
from agent_lab import PORTS, V2, Pod, Skip, has_faults, main, run, test, until, z_serve
from agent_wire import assert_captured, assert_clean, assert_plain, talking

ENABLED = {"ambient.istio.io/redirection": "enabled"}


def quarantined(w, p, word):
    def look():
        got = w.pod(p)
        return got["state"] == "quarantined" and word in got["error"]
    until("%s is quarantined" % p.name, look)
    got = w.pod(p)
    assert got["rules"] == "present" and not got["custody"], got


@test
def created_while_the_plugin_was_not_in_the_chain(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    with processes() as start, talking(p) as t:
        start(p)
        assert_plain(t)
        w.start()
        z = w.ready_ztunnel(V2)
        w.put("p.yaml", p.manifest())
        z.expect(1)
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert_captured(t)
        assert w.pod(p)["containerID"] == "scan-" + p.uid
        assert_clean(w, inside=(p,))


@test
def found_pod_is_forgotten_when_it_vanished_out_of_the_mesh(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    with processes() as start:
        start(p)
        w.start()
        z = w.ready_ztunnel(V2)
        w.put("p.yaml", p.manifest())
        z.expect(1)
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "none"}))
        z.expect(2)
        z.ack()
        until("released", lambda: w.state(p) == "not-in-mesh")
    os.unlink(w.dir + "/m/p.yaml")
    until("forgotten", lambda: w.status()["pods"] == [] and w.journal() == [])


def mirror(p, **annotations):
    """The manifest of a static pod's mirror: the API's UID is another than the kubelet's, which is a hash of a file."""
    doc = p.manifest(annotations=dict({"kubernetes.io/config.mirror": HASH, "kubernetes.io/config.source": "file"}, **annotations))
    return doc


HASH = "00112233445566778899aabbccddeeff"


@test
def static_pod_is_found_by_what_the_kubelet_calls_it(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "liar")
    with processes() as start, talking(p) as t:
        start(p, uid=HASH)
        assert_plain(t)
        w.start()
        z = w.ready_ztunnel(V2)
        w.put("q.yaml", mirror(q))  # who claims the same, at another address, gets nothing
        w.put("p.yaml", mirror(p))
        z.expect(1)
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert_captured(t)
        assert w.pod(p)["containerID"] == "scan-" + HASH and w.state(q) == "none"
        assert not q.has_rules()


@test
def static_pod_is_added_under_the_kubelets_uid(w):
    """The mirror may be deleted and made anew: the pod that runs is the same."""
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", mirror(p))
    w.start()
    z = w.ready_ztunnel(V2)
    (status, a), _, _ = w.add(p, z, podUID=HASH)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    doc = mirror(p)
    doc["metadata"]["uid"] = "ffffffff-0000-4000-8000-000000000001"
    w.put("p.yaml", doc)
    z.quiet(0.5)
    assert w.state(p) == "enrolled" and p.has_rules()
    w.put("p.yaml", dict(doc, metadata=dict(doc["metadata"], labels={"istio.io/dataplane-mode": "none"})))
    z.expect(2)
    z.ack()
    until("released", lambda: w.state(p) == "not-in-mesh" and not p.has_rules())
    status, a = w.cni(p.event(containerID="d" * 64, podUID="another-uid-0000"))
    assert status == 409 and a["code"] == 11, (status, a)


@test
def restored_in_another_namespace_without_an_add(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start()
    fds = w.count_fds()
    z = w.ready_ztunnel(V2)
    with processes() as start:
        w.add(p, z)
        first = start(p)  # after the ADD, or a scan may be faster
        # the runtime takes the sandbox down without a DEL, and brings the same pod up again
        first.end()
        run("ip", "netns", "del", p.netns)
        p.new_netns()
        with talking(p) as t:
            start(p)
            assert_plain(t)
            w.put("p.yaml", p.manifest(annotations=ENABLED, labels={"app": "restored"}))
            z.expect(2)
            z.ack()
            z.expect(1)
            z.ack()
            until("enrolled", lambda: w.state(p) == "enrolled")
            assert_captured(t)
            assert_clean(w, inside=(p,), fds=fds + 1)


@test
def address_that_is_not_the_pods(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    elsewhere = p.manifest(annotations=ENABLED, status={"phase": "Running", "podIP": "10.77.9.9"})
    w.put("p.yaml", elsewhere)
    with processes() as start, talking(p) as t:
        start(p)
        assert_plain(t)
        w.start()
        z = w.ready_ztunnel(V2)
        quarantined(w, p, "10.77.9.9")
        assert_captured(t)
        assert p.listening() == ()
        z.quiet()  # a namespace that is not proven gets no identity
        # nor after a restart, with its entry in the journal, and rules in the namespace
        w.stop(signal.SIGKILL)
        z.close()
        w.start()
        z = w.ready_ztunnel(V2)
        assert z.got == {}, z.got
        quarantined(w, p, "10.77.9.9")
        assert_captured(t)
        # the API learns the address that it has now
        w.put("p.yaml", p.manifest(annotations=ENABLED))
        z.expect(1)
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert_captured(t)
        assert_clean(w, inside=(p,))


@test
def address_that_is_not_known_yet(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest(status={"phase": "Pending"}))
    with processes() as start, talking(p) as t:
        w.start()
        z = w.ready_ztunnel(V2)
        start(p)
        quarantined(w, p, "not known yet")
        assert_captured(t)
        w.put("p.yaml", p.manifest())
        z.expect(1)
        z.ack()
        until("enrolled", lambda: w.state(p) == "enrolled")
        assert_clean(w, inside=(p,))


@test
def a_step_that_fails(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "labelled")
    with processes() as start, talking(p) as t:
        taker = start(p, argv=("busybox", "nc", "-ll", "-p", "15008", "-e", "true"))
        other = start(q, argv=("busybox", "nc", "-ll", "-p", "15008", "-e", "true"))
        start(p)
        start(q)
        for x in (p, q):
            until("taken", lambda x=x: x.listening() == (15008,))
        w.start()
        z = w.ready_ztunnel(V2)
        # the mesh was promised for one (its peers may send to port 15008); the other was only labelled
        w.put("p.yaml", p.manifest(annotations=ENABLED), q.manifest())
        quarantined(w, p, "Address already in use")
        until("failed", lambda: w.state(q) == "failed")
        assert "Address already in use" in w.pod(q)["error"] and not q.has_rules()
        assert_captured(t)
        taker.end()
        other.end()
        for _ in range(2):
            z.expect(1)
            z.ack()
        until("enrolled", lambda: w.state(p) == w.state(q) == "enrolled")
        assert_captured(t)
        assert_clean(w, inside=(p, q))


@test
def rules_that_cannot_be_put_in_are_not_said_to_be_there(w):
    if not has_faults():
        raise Skip("release build has no fault points")
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    # the step fails: the mesh was promised, so the rules go in alone
    w.put("p.yaml", p.manifest(annotations=ENABLED))
    with processes() as start, talking(p) as t:
        start(p)
        w.start(env={"AMBIENT_AGENT_FAIL_IN": "rules"})
        w.ready_ztunnel(V2)
        quarantined(w, p, "put the rules in place")
        assert_captured(t)
    w.stop()
    q = Pod(w, "other")
    # a namespace that is not proven, and no quarantine either
    w.put("p.yaml", q.manifest(annotations=ENABLED, status={"phase": "Running", "podIP": "10.77.9.9"}))
    with processes() as start:
        start(q)
        w.start(env={"AMBIENT_AGENT_FAIL_IN": "quarantine"})
        w.ready_ztunnel(V2)
        until("failed", lambda: w.state(q) == "failed")
        tries = lambda: w.logged().count("cannot quarantine")
        until("tried again", lambda: tries() >= 3)
        assert w.state(q) == "failed" and not q.has_rules(), w.pod(q)


@test
def without_a_ztunnel_what_was_found_waits_captured(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    with processes() as start, talking(p) as t:
        start(p)
        w.start()
        until("captured", lambda: w.state(p) == "pending")
        assert "no ztunnel" in w.pod(p)["reason"], w.pod(p)
        assert_captured(t)
        assert p.listening() == PORTS, "connections wait in a queue"
        z = w.ready_ztunnel(V2)
        assert list(z.got) == [p.uid]
        until("enrolled", lambda: w.state(p) == "enrolled" or z_serve(z))


@test
def unlabelled_and_deleted_while_quarantined(w):
    w.namespace(mode="ambient")
    p, q = Pod(w, "app"), Pod(w, "other")
    odd = {"phase": "Running", "podIP": "10.77.9.9"}
    w.put("p.yaml", p.manifest(status=odd))
    w.put("q.yaml", q.manifest(status=odd))
    with processes() as start, talking(p) as t:
        start(p)
        last = start(q)
        w.start()
        fds = w.count_fds()
        quarantined(w, p, "10.77.9.9")
        quarantined(w, q, "10.77.9.9")
        w.put("p.yaml", p.manifest(labels={"istio.io/dataplane-mode": "none"}, status=odd))
        until("released", lambda: w.state(p) == "not-in-mesh" and p.clean())
        assert_plain(t)
        # what was quarantined stays closed when it vanishes from the source; nobody will send a DEL
        os.unlink(w.dir + "/m/q.yaml")
        until("forgotten", lambda: w.state(q) == "none")
        assert q.has_rules()
        last.end()
        until("no descriptor is left over", lambda: w.count_fds() <= fds)


@test
def the_process_ends_and_another_goes_on(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest(status={"phase": "Running", "podIP": "10.77.9.9"}))
    with processes() as start:
        one = start(p)
        two = start(p)
        w.start()
        quarantined(w, p, "10.77.9.9")
        (one if "/%d/" % one.proc.pid in w.pod(p)["netns"] else two).end()

        def found():
            got = w.pod(p)  # between the two it is not known at all
            return got["state"] == "quarantined" and os.path.exists(got["netns"])
        until("found by the other", found, 40)
        quarantined(w, p, "10.77.9.9")
        one.end()
        two.end()
        until("forgotten", lambda: w.state(p) == "none" and w.journal() == [], 40)


@test
def after_a_reboot_the_journal_is_gone_and_adds_come(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest(annotations=ENABLED))
    w.start()
    fds = w.count_fds()
    w.add(p, w.ready_ztunnel(V2))
    w.stop(signal.SIGKILL)
    for z in w.peers:
        z.close()
    # what a reboot does: /run is empty, namespaces and processes are gone, the API still says running
    shutil.rmtree(w.dir + "/run")
    run("ip", "netns", "del", p.netns)
    w.start()
    until("looked for", lambda: "running pod found" not in w.logged() and w.status()["pods"] == [])
    # the kubelet makes a new sandbox of the same pod; until there is a ztunnel it is told to wait
    p.new_netns()
    status, a = w.cni(p.event())
    assert (status, a["code"]) == (503, 50) and p.clean(), a
    (status, a), _, _ = w.add(p, w.ready_ztunnel(V2))
    assert (status, a["outcome"]) == (200, "enrolled"), a
    assert_clean(w, inside=(p,), fds=fds + 1)


if __name__ == "__main__":
    raise SystemExit(main())
