# SPDX-License-Identifier: Apache-2.0
"""control_plane.py: istiod is restarted, replaced, away, and changes its root."""
import contextlib
import time

from cri.daemon import wait_until

from ..lab import ECHO_PORT, PORT, Changes, Load, Talk, account, pod, service
from ..scenario import scenario
from .policies import authorization, principal

SYSTEM = "istio-system"


def istiod(lab, *args, **more):
    return lab.kubectl("-n", SYSTEM, *args, **more)


def rolled(lab):
    istiod(lab, "rollout", "status", "deployment/istiod", "--timeout=240s", timeout=270)


@contextlib.contextmanager
def away(lab):
    """No istiod for the time of the block, and one that is ready after it."""
    istiod(lab, "scale", "deployment/istiod", "--replicas=0")
    try:
        wait_until("istiod to be gone", lambda: not lab.kubectl.get("-n", SYSTEM, "pods", "-l", "app=istiod")["items"], 120, every=0.2)
        yield
    finally:
        istiod(lab, "scale", "deployment/istiod", "--replicas=1")
        rolled(lab)


def pair(lab, s):
    """A client and a server on different nodes, a load between them, and a connection that stays. Returns (url, load, talk)."""
    first, last = lab.names()[0], lab.names()[-1]
    s.run(pod("client", node=first), pod("server", node=last), pod("echo", "echo", node=last), service("web", app="server"))
    s.wait_hbone("echo")
    s.run(pod("talker", "talk", "%s:%d" % (s.ip("echo"), ECHO_PORT), node=first))
    s.wait_annotated("client", "server", "echo", "talker")
    url = "http://web.%s.svc.cluster.local/" % s.name
    wait_until("the service", lambda: s.get("client", url, n=3)[0], 90, every=0.2)
    talk = Talk(s, "talker")
    talk.goes_on()
    return url, Load(s, "client", url, 50, seconds=600), talk


@scenario
def nothing_is_noticed_while_istiod_is_restarted_and_replaced(lab):
    s = lab.space("ambient")
    url, load, talk = pair(lab, s)
    for n, change in enumerate((
            lambda: istiod(lab, "delete", "pod", "-l", "app=istiod", "--force", "--grace-period=0"),
            # Another process before this one ends, as in an upgrade.
            lambda: istiod(lab, "rollout", "restart", "deployment/istiod"))):
        change()
        s.run(*[pod("new-%d-%s" % (n, node), node=node) for node in lab.names()])
        rolled(lab)
        for node in lab.names():
            wait_until("a pod made meanwhile to reach the mesh", lambda p="new-%d-%s" % (n, node): s.get(p, url, n=3)[0], 90, every=0.2)
        talk.goes_on()
    r = load.faultless(100)
    print("# %d requests, slowest %d ms" % (r["count"]["ok"], r["slowestMs"]))


@scenario
def known_pods_serve_while_istiod_is_away_and_the_rest_follows_when_it_is_back(lab):
    s = lab.space("ambient")
    url, load, talk = pair(lab, s)
    s.run(pod("goes", node=lab.names()[0]), pod("later-in", mode="none"))
    s.wait_annotated("goes")
    with away(lab):
        # The agent needs no istiod: pods start and end as always.
        new = ["new-%s" % n for n in lab.names()]
        s.run(*[pod(p, node=n) for p, n in zip(new, lab.names())])
        s.kubectl("label", "pod", "later-in", "--overwrite", "istio.io/dataplane-mode=ambient")
        s.wait_annotated("later-in", *new)
        s.kubectl("delete", "pod", "goes", "--force", "--grace-period=0", "--wait=true")
        s.apply(authorization("not-new", "DENY", [{"to": [{"operation": {"ports": ["1"]}}]}], "server"))
        s.must_get("client", url, n=10)
        talk.goes_on()
    back = time.monotonic()
    for p in ["later-in", *new]:
        wait_until("%s, which came meanwhile, to reach the mesh" % p, lambda n=p: s.get(n, url, n=3)[0], 120, every=0.2)
    print("# pods that came meanwhile talk %.1f s after istiod is back" % (time.monotonic() - back))
    for p in new:
        wait_until("%s to be reached" % p, lambda a="http://%s:%d/" % (s.ip(p), PORT): s.get("client", a, n=3)[0], 90, every=0.2)
    talk.goes_on()
    load.faultless(200)
    s.apply(authorization("not-new", "DENY", principal(s, "default"), "server"))
    wait_until("a policy made since to be in force", lambda: not s.get("client", url, limit="2s")[0], 90, every=0.2)


# Where a node's ztunnel keeps what istiod has sent, as the node's privileged pod sees it (there /var/run, a link, would be its own).
KEPT = "/proc/1/root/run/ztunnel/ztunnel.mesh"


@scenario
def a_ztunnel_that_starts_without_istiod_serves_what_was_known(lab):
    s = lab.space("ambient")
    s.apply(account("bad"))
    first, last = lab.names()[0], lab.names()[-1]
    s.run(pod("client", node=first), pod("server", node=last), pod("bad", node=first, serviceAccountName="bad"),
          authorization("not-bad", "DENY", principal(s, "bad"), "server"))
    s.wait_annotated("client", "server", "bad")
    url = "http://%s:%d/" % (s.ip("server"), PORT)
    bad = Changes(s, "bad", url)
    bad.until(False)
    s.must_get("client", url, n=3)
    # It is written after a while; a policy is, soon.
    def kept(node):
        text = node.run("strings", KEPT, check=False).stdout
        return all("%s/%s" % (s.name, what) in text for what in ("client", "server", "bad", "not-bad"))
    for node in lab.nodes.values():
        wait_until("ztunnel of %s to keep what it knows" % node.name, lambda n=node: kept(n), 120, every=0.3)

    def fresh(node):
        dump = node.ztunnel_dump()
        return dump and not dump["localState"].get("stale")
    load = Load(s, "client", url, 30, limit="90s")
    with away(lab):
        for node in lab.nodes.values():
            old = node.kill("ztunnel")
            wait_until("another ztunnel on " + node.name, lambda n=node, o=old: n.pid("ztunnel") not in (None, o), 180, every=0.2)
            wait_until("traffic through it", lambda: s.get("client", url, n=20, limit="90s")[0], 180, every=0.2)
        r = load.result()
        # As where istiod is there: what ztunnel was carrying is cut with it, everything else waits for the next one.
        assert not set(r["count"]) - {"ok", "reset", "closed"}, r
        assert r["count"].get("reset", 0) + r["count"].get("closed", 0) <= 10 and r["count"]["ok"] > 100, r
        print("# %d connections, longest time without an answer %d ms: %s" % (sum(r["count"].values()), r["gapMs"], r["count"]))
    for node in lab.nodes.values():
        wait_until("ztunnel of %s to hear from istiod" % node.name, lambda n=node: fresh(n), 120, every=0.3)
    s.must_get("client", url, n=3)
    assert not [x for x in bad.close() if x[1] == "ok"], "a policy was not in force"
