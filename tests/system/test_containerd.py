#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_containerd.py: pods that a real containerd creates over the CRI, with our plugin in its chain.

What a runtime sees of the mesh: enrolment at network setup, failures in words, retries that succeed,
deletions that never hang, and pods that outlive our processes.
"""
import argparse
import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [TESTS, os.path.join(TESTS, "check")]

from cri import lab, node, private, product, wire  # noqa: E402
from cri.client import CriError  # noqa: E402
from cri.daemon import wait_until  # noqa: E402
from tap import Tap  # noqa: E402

GRACE_S = 2
NEEDED = ("containerd", "runc")
DEL_LIMIT_S = 9  # an ADD waits for 10
BURST = 20
PRUNE_LIMIT_S = 90


def refused(pod):
    """Runs a sandbox that must fail; returns the runtime's sentence."""
    try:
        pod.run()
    except CriError as e:
        return str(e)
    raise AssertionError("the sandbox of %s was created" % pod.name)


def same(got, wanted, what):
    assert got == wanted, "%s: expected %s, got %s" % (what, wanted, got)


def has(text, *parts):
    for p in parts:
        assert p in text, "expected %r in: %s" % (p, text)


def page(lab_, source, target, text=None):
    good, said = lab_.get(source, lab_.url(target))
    assert good and said == (text or target.name), "%s to %s: %s" % (source.name, target.name, said)


def enrolled(x, pod):
    x.agent.wait_state(pod, "enrolled")
    same(product.listeners(pod), [15001, 15006, 15008], pod.name + ": listeners")
    record = x.agent.pod(pod)
    same(record["rules"], "present", pod.name + ": rules")
    same(record["netnsInode"], os.stat(pod.netns).st_ino, pod.name + ": namespace")


def mesh_pods(x):
    for name in ("server", "client"):
        p = x.pod(name, "shop")
        same(x.agent.state(p), "enrolled", "state when the runtime has its answer")
        enrolled(x, p)
        x.state.workload(p)
        has(product.rules(p), "table inet istio-ambient-nat", "lookup 100")
    x.write_state()
    since = x.ztunnel.mark()
    page(x, x.pods["client"], x.pods["server"])
    got = x.ztunnel.wait_access(since, "the request", direction="inbound",
                                src_addr=x.pods["client"].ip)
    same(got[0]["src.identity"], "spiffe://cluster.local/ns/shop/sa/client", "identity")


def prev_result_passes(x):
    """What the runtime reports must be what bridge and host-local said: our plugin adds nothing."""
    p = x.pods["server"]
    has(p.in_netns("ip", "-o", "-4", "addr", "show", "eth0"), p.ip + "/24")


def other_pods(x):
    p = x.pod("plain", "legacy")
    same(x.agent.state(p), "not-in-mesh", "state")
    same(product.rules(p), "", "rules")
    same(product.listeners(p), [], "listeners")
    x.state.workload(p, mesh=False)
    x.write_state()
    page(x, x.pods["client"], p)


def probes(x):
    """The kubelet's user reaches an enrolled pod around a policy that lets nobody in; others do not."""
    server = x.pods["server"]
    nobody = x.state.policy("nobody", "shop", "Allow", [
        {"principals": [x.state.principal("shop", "no-such-account")]}])
    x.state.workload(server, policies=[nobody])
    x.write_state()
    same(x.probe(x.url(server)), (True, server.name), "the kubelet's probe")
    good, said = x.probe(x.url(server), user=65534)
    assert not good, "another user of the node: " + said
    same(len(product.host_probes()), 2, "addresses in the exemption")
    x.state.workload(server)
    del x.state.policies["nobody"]
    x.write_state()
    wait_until("the policy to be gone", lambda: x.get(x.pods["client"], x.url(server))[0])


def agent_away(x):
    x.agent.stop()
    p, q = x.pod("early", "shop", run=False), x.pod("early-plain", "legacy", run=False)
    said = refused(p)
    has(said, 'plugin type="ambient-cni" failed (add)', product.EVENT_SOCKET)
    has(refused(q), 'plugin type="ambient-cni" failed (add)')
    page(x, x.pods["client"], x.pods["server"])
    x.agent.start()
    x.agent.wait_ready()
    enrolled(x, p.run())
    same(x.agent.state(q.run()), "not-in-mesh", "state of the other pod")
    x.remove(p)
    x.remove(q)


def unknown_pod(x):
    p = x.node.pod("unknown", "shop")
    said = refused(p)
    has(said, 'plugin type="ambient-cni" failed (add)', "shop/unknown")
    same(x.agent.state(p), "absent", "state")
    x.pods["unknown"] = p
    x.manifests.pod(p)
    # The runtime retries, as the kubelet does.
    wait_until("the retried sandbox", lambda: retry(p), every=0.2)
    enrolled(x, p)
    x.remove(p)


def retry(pod):
    try:
        return pod.run()
    except CriError:
        return None


def delete_without_agent(x):
    p = x.pod("orphan", "shop")
    x.agent.kill()
    began = time.monotonic()
    x.remove(p)
    took = time.monotonic() - began
    assert took < DEL_LIMIT_S, "stop and remove took %.1f s" % took
    x.agent.start()
    x.agent.wait_ready()
    wait_until("the agent to forget the pod", lambda: x.agent.state(p) == "absent",
               alive=x.agent.alive)
    same(len(x.agent.journal()), len(x.node.cri.sandboxes()), "journal entries against sandboxes")


def same_uid_new_namespace(x):
    p = x.pods["server"]
    before = os.stat(p.netns).st_ino
    p.remove()
    again = node.Pod(x.node, p.name, p.namespace, uid=p.uid, attempt=1)
    x.pods["server"] = again
    again.run()
    x.serve(again, None)
    assert os.stat(again.netns).st_ino != before or again.netns != p.netns
    enrolled(x, again)
    x.state.workload(again)
    x.write_state()
    page(x, x.pods["client"], again)


def new_sandbox_before_old_is_gone(x):
    """The runtime may create the next sandbox of a pod before it deletes the dead one; the late DEL
    must not take the new one out of the mesh."""
    p = x.pod("twice", "shop")
    again = node.Pod(x.node, p.name, p.namespace, uid=p.uid, attempt=1)
    again.run()
    enrolled(x, again)
    p.remove()
    x.serve(again, None)
    enrolled(x, again)
    x.state.workload(again)
    x.write_state()
    page(x, x.pods["client"], again)
    x.pods["twice"] = again
    x.remove(again)
    x.write_state()


def burst(x):
    pods = [x.pod("burst-%d" % i, "shop", run=False) for i in range(BURST)]
    with concurrent.futures.ThreadPoolExecutor(BURST) as pool:
        failed = [e for e in pool.map(lambda p: attempt(p.run), pods) if e]
        same(failed, [], "failed sandboxes")
        for p in pods:
            enrolled(x, p)
        failed = [e for e in pool.map(lambda p: attempt(p.remove), pods) if e]
    same(failed, [], "failed deletions")
    for p in pods:
        x.remove(p)
    wait_until("the agent to forget them", lambda: not [
        p for p in x.agent.status()["pods"] if p["name"].startswith("burst-")])


def attempt(call):
    try:
        call()
    except CriError as e:
        return str(e)
    return None


def agent_restarts(x, signum):
    client, server = x.pods["client"], x.pods["server"]
    sockets, rules = product.socket_inodes(server), product.rules(server)
    x.agent.stop(signum)
    page(x, client, server)
    x.agent.start()
    x.agent.wait_ready()
    for p in (client, server):
        enrolled(x, p)
    same(product.socket_inodes(server), sockets, "listening sockets")
    same(without_counters(product.rules(server)), without_counters(rules), "rules")
    page(x, client, server)
    same(x.agent.state(x.pods["plain"]), "not-in-mesh", "plain's state")


def without_counters(text):
    words = text.split()
    return [w for i, w in enumerate(words) if not (i and words[i - 1] in ("packets", "bytes"))]


def ztunnel_restarts(x, signum):
    client, server = x.pods["client"], x.pods["server"]
    sockets = product.socket_inodes(server)
    x.ztunnel.stop(signum)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(x.get, client, x.url(server), 30)
        wait_until("the connection to wait in the queue", lambda: " 1 " in client.in_netns(
            "ss", "-Hltn", "sport = :15001").replace("LISTEN", ""))
        assert not waiting.done()
        x.ztunnel.start()
        same(waiting.result(40), (True, "server"), "the connection that waited")
    x.ztunnel.wait_ready()
    same(product.socket_inodes(server), sockets, "listening sockets")
    for p in (client, server):
        enrolled(x, p)
    page(x, client, server)


def both_die(x):
    client, server = x.pods["client"], x.pods["server"]
    x.agent.kill()
    x.ztunnel.kill()
    good, said = x.get(client, x.url(server), timeout=3)
    assert not good, "an answer without ztunnel: it went around the mesh: " + said
    x.agent.start()
    x.ztunnel.start()
    x.ztunnel.wait_ready()
    x.agent.wait_ready()
    for p in (client, server):
        enrolled(x, p)
    page(x, client, server)


def ztunnel_away(x):
    """After the grace period a node without ztunnel takes no more pods, and says so."""
    x.ztunnel.stop()
    wait_until("the agent not to be ready", lambda: not x.agent.status()["ready"],
               GRACE_S + 60, x.agent.alive)
    p = x.pod("late", "shop", run=False)
    has(refused(p), 'plugin type="ambient-cni" failed (add)', "ztunnel")
    x.ztunnel.start()
    x.ztunnel.wait_ready()
    x.agent.wait_ready()
    enrolled(x, p.run())
    x.remove(p)


def labels_change(x):
    plain, before = x.pods["plain"], x.pods["plain"].identity()
    talks = [lab.Talk(x.pods["server"], plain, 9000), lab.Talk(plain, x.pods["server"], 9001)]
    x.manifests.pod(plain, mode="ambient")
    enrolled(x, plain)
    for t in talks:
        t.goes_on()
        t.end()
    x.manifests.pod(plain)
    x.agent.wait_state(plain, "not-in-mesh")
    wait_until("the listeners to close", lambda: product.listeners(plain) == [])
    same(product.rules(plain), "", "rules")
    same(plain.identity(), before, "the container's process")


def release_ends_captured(x):
    """Connections that the mesh carries go on for a while when their pod leaves; then they end, rather than going on
    in the clear."""
    plain, server = x.pods["plain"], x.pods["server"]
    x.manifests.pod(plain, mode="ambient")
    enrolled(x, plain)
    x.state.workload(plain)
    x.write_state()
    talks = [lab.Talk(server, plain, 9002), lab.Talk(plain, server, 9003)]
    capture = wire.Capture(node.BRIDGE, x.files + "/release.pcap").start()
    try:
        x.manifests.pod(plain)
        x.agent.wait_state(plain, "pending")
        # Its peers have not heard of it yet: they send HBONE, and that arrives.
        for _ in range(5):
            page(x, x.pods["client"], plain)
        for t in talks:
            t.goes_on()
        x.agent.wait_state(plain, "not-in-mesh")
        for t in talks:
            wait_until("the connection of %s to end" % t.a.name, t.ended)
        capture.stop(plain.ip)
    finally:
        capture.abandon()
    for t in talks:
        same(wire.count_text(capture.path, t.text.encode()), 0, "lines in the clear: " + t.text)
    x.state.workload(plain, mesh=False)
    x.write_state()
    page(x, x.pods["client"], plain)


def label_changed_without_agent(x):
    """What changed while the agent was away is made good at its next start, both ways."""
    plain, client = x.pods["plain"], x.pods["client"]
    x.agent.kill()
    x.manifests.pod(plain, mode="ambient")
    x.manifests.pod(client, mode="none")
    x.agent.start()
    enrolled(x, plain)
    x.agent.wait_state(client, "not-in-mesh")
    same(product.rules(client), "", "client's rules")
    x.manifests.pod(plain)
    x.manifests.pod(client)
    x.agent.wait_state(plain, "not-in-mesh")
    enrolled(x, client)
    page(x, client, x.pods["server"])


def namespace_label(x):
    """A namespace's label moves all its pods."""
    plain = x.pods["plain"]
    x.manifests.namespace("legacy", "ambient")
    enrolled(x, plain)
    x.manifests.namespace("legacy")
    x.agent.wait_state(plain, "not-in-mesh")
    same(product.rules(plain), "", "rules")


def without_add(x):
    """The plugin is taken out of the chain, a pod is created, the plugin comes back: nobody told the agent."""
    x.node.set_chain([])
    p = x.node.pod("silent", "shop")
    try:
        wait_until("containerd to take the chain", lambda: chain_is_bare(x, p), every=0.2)
    finally:
        x.node.set_chain([product.PLUGIN])
    x.pods["silent"] = p
    x.serve(p, None)
    same(product.rules(p), "", "rules before anybody knows")
    x.manifests.pod(p)  # as an API server tells of it
    enrolled(x, p)
    same(x.agent.pod(p)["containerID"], "scan-" + p.uid, "found by its processes")
    x.state.workload(p)
    x.write_state()
    page(x, x.pods["client"], p)
    x.remove(p)
    x.write_state()


def chain_is_bare(x, p):
    """Creates @p once containerd has read the chain without our plugin, which would refuse an unknown pod."""
    try:
        p.run()
    except CriError:
        return False
    return True


def runtime_restarts(x):
    client, server = x.pods["client"], x.pods["server"]
    x.node.containerd.kill()
    same(product.listeners(client), [15001, 15006, 15008], "listeners without containerd")
    x.node.containerd.start()
    wait_until("containerd to answer", lambda: answers(x.node), alive=x.node.containerd.alive)
    for p in (client, server):
        enrolled(x, p)
    page(x, client, server)


def answers(n):
    try:
        return n.network_ready()
    except CriError:
        return False


def bad_netconf(x):
    """A mistake in the chain's configuration reaches the operator in words, and is no bypass."""
    p = x.pod("misled", "shop", run=False)
    x.node.set_chain([dict(product.PLUGIN, timeout="soon")])
    said = wait_until("containerd to use the new chain", lambda: (
        lambda t: t if "soon" in t else p.remove())(refused(p)), every=0.2)
    has(said, 'plugin type="ambient-cni" failed (add)', "timeout", "duration")
    x.node.set_chain([product.PLUGIN])
    wait_until("the retried sandbox", lambda: retry(p), every=0.2)
    enrolled(x, p)
    x.remove(p)


def leftovers(x, fds):
    for p in list(x.pods.values()):
        x.remove(p)
    x.write_state()
    x.agent.wait_forgotten()
    wait_until("the node to be empty (now %s)" % x.node.leftovers(), lambda: x.node.leftovers() == [])
    same(x.agent.journal(), [], "in the journal")
    wait_until("the agent's descriptors to be as before: %s (now %s)"
               % (fds, product.descriptors(x.agent)), lambda: product.descriptors(x.agent) == fds)
    own = os.readlink("/proc/self/ns/net")
    wait_until("ztunnel to hold no namespace", lambda: not [
        f for f in x.ztunnel.fds() if f.startswith("net:") and f != own])
    # An agent that was killed prunes the entries of pods that went meanwhile some time after its start.
    wait_until("the probe exemptions to go (now %s)" % product.host_probes(),
               lambda: product.host_probes() == [], PRUNE_LIMIT_S, every=0.2)


def orderly_stop(x):
    same(x.ztunnel.stop(signal.SIGTERM), 0, "ztunnel's status")
    same(x.agent.stop(signal.SIGTERM), 0, "the agent's status")


CASES = [
    ("a mesh pod is enrolled when RunPodSandbox returns, and talks", mesh_pods),
    ("the chain's result reaches the runtime unchanged", prev_result_passes),
    ("a pod outside the mesh is untouched and reachable", other_pods),
    ("the kubelet's probes pass, and only they", probes),
    ("agent away: the sandbox fails with the plugin's words; agent back: the same pod works",
     agent_away),
    ("a pod that the agent does not know fails, and works once it is known", unknown_pod),
    ("deletion with a dead agent is quick, and made good later", delete_without_agent),
    ("a sandbox with the same UID and a new namespace", same_uid_new_namespace),
    ("a new sandbox before the old one is deleted", new_sandbox_before_old_is_gone),
    ("%d pods at once: none fails" % BURST, burst),
    ("agent stopped and started: pods, rules and sockets stay",
     lambda x: agent_restarts(x, signal.SIGTERM)),
    ("agent killed and started: pods, rules and sockets stay",
     lambda x: agent_restarts(x, signal.SIGKILL)),
    ("ztunnel stopped and started: a connection waits, sockets stay",
     lambda x: ztunnel_restarts(x, signal.SIGTERM)),
    ("ztunnel killed and started: a connection waits, sockets stay",
     lambda x: ztunnel_restarts(x, signal.SIGKILL)),
    ("agent and ztunnel killed: nothing goes around, both come back", both_die),
    ("no ztunnel for longer than the grace period: no new pods", ztunnel_away),
    ("a label enrols a running pod, whose connections go on, and releases it without a trace",
     labels_change),
    ("release ends what the mesh carried; nothing of it goes on in the clear",
     release_ends_captured),
    ("a label changed while the agent was away", label_changed_without_agent),
    ("a namespace's label enrols and releases its running pods", namespace_label),
    ("a pod created while the plugin is not in the chain is found and captured", without_add),
    ("containerd killed and started: pods stay", runtime_restarts),
    ("a mistake in the network configuration is told to the operator", bad_netconf),
]


def run_case(tap, name, fn, *args):
    try:
        fn(*args)
    except Exception:  # into the log; the exit status says it
        tap.ok(False, name, traceback.format_exc().splitlines())
        return False
    tap.ok(True, name)
    return True


def show(x):
    """The ends of the logs, as comments: enough to see what went wrong."""
    for d, lines in ((x.agent, 40), (x.ztunnel, 30), (x.node.containerd, 10)):
        print("# last lines of %s:" % os.path.basename(d.log))
        for line in d.tail(lines).splitlines():
            print("# | " + line[:300])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--bin", required=True, help="folder with the built programs")
    p.add_argument("--only", help="run the first case and those whose name contains this")
    a = p.parse_args()
    absent = [t for t in NEEDED if not shutil.which(t)]
    if absent:
        print("1..0 # SKIP %s is not installed" % " and ".join(absent))
        return 0
    if node.missing():
        print("Bail out! missing Debian packages: " + " ".join(node.missing()))
        return 1
    work = private.enter()
    tap = Tap()
    x = lab.Lab(os.path.abspath(a.bin), tempfile.mkdtemp(dir=work),
                {"AMBIENT_ZTUNNEL_GRACE": "%ds" % GRACE_S, "AMBIENT_RELEASE_LIMIT": "15s"})
    x.manifests.namespace("shop", "ambient")
    x.manifests.namespace("legacy")
    try:
        if run_case(tap, "containerd, agent and ztunnel start", x.start):
            fds = product.descriptors(x.agent)
            for i, (name, fn) in enumerate(CASES):
                if not a.only or i in (0, 2) or a.only in name:
                    run_case(tap, name, fn, x)
            run_case(tap, "all pods deleted: nothing is left", leftovers, x, fds)
            run_case(tap, "an orderly stop", orderly_stop, x)
        if tap.failed:
            show(x)
    finally:
        x.close()
    tap.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
