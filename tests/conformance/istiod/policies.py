# SPDX-License-Identifier: Apache-2.0
"""policies.py: AuthorizationPolicy and PeerAuthentication, from the API through istiod to ztunnel, and how long that takes."""
import time

from cri.daemon import wait_until

from ..lab import ECHO_PORT, PORT, Changes, Talk, account, pod, service
from ..scenario import scenario

SECURITY = "security.istio.io/v1"
# Longest time from the API's answer to the effect. istiod itself waits 0.1 s for more changes, and up to 10 s while there are some;
# seen is 0.1 s.
EFFECT_S = 15


def authorization(name, action, rules, app=None):
    spec = {"action": action, "rules": rules}
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
    return {"apiVersion": SECURITY, "kind": "AuthorizationPolicy", "metadata": {"name": name}, "spec": spec}


def mtls(mode):
    return {"apiVersion": SECURITY, "kind": "PeerAuthentication", "metadata": {"name": "default"},
            "spec": {"mtls": {"mode": mode}}}


def principal(s, name):
    return [{"from": [{"source": {"principals": ["cluster.local/ns/%s/sa/%s" % (s.name, name)]}}]}]


def effect(what, changes, works, change):
    """Makes a change and waits for what it does; says how long that took."""
    assert changes.works() is not works, "%s: nothing to be changed: %s" % (what, changes.seen)
    begun = time.time()
    change()
    answered = time.time()
    at = changes.until(works)
    print("# %s: in force %.2f s after kubectl began, %.2f s after it returned" % (what, at - begun, at - answered))
    assert at - answered < EFFECT_S, "%s took %.1f s" % (what, at - answered)


@scenario
def policies_are_in_force_soon_after_they_are_made_changed_and_deleted(lab):
    s = lab.space("ambient")
    s.apply(account("good"), account("bad"))
    last = lab.names()[-1]
    s.run(pod("server"), pod("good", node=last, serviceAccountName="good"), pod("bad", node=last, serviceAccountName="bad"),
          pod("out", node=last, mode="none"))
    s.wait_annotated("server", "good", "bad")
    url = "http://%s:%d/" % (s.ip("server"), PORT)
    good, bad, out = (Changes(s, n, url) for n in ("good", "bad", "out"))
    for c in (good, bad, out):
        c.until(True)

    def delete(what):
        return lambda: s.kubectl("delete", what)
    effect("ALLOW of another", bad, False, lambda: s.apply(authorization("p", "ALLOW", principal(s, "good"), "server")))
    out.until(False)
    assert good.works(), good.seen
    effect("ALLOW changed to this one", bad, True, lambda: s.apply(authorization("p", "ALLOW", principal(s, "bad"), "server")))
    good.until(False)
    effect("ALLOW deleted", good, True, delete("authorizationpolicy/p"))
    out.until(True)
    effect("DENY", bad, False, lambda: s.apply(authorization("p", "DENY", principal(s, "bad"), "server")))
    assert good.works() and out.works(), (good.seen, out.seen)
    effect("DENY deleted", bad, True, delete("authorizationpolicy/p"))
    effect("STRICT", out, False, lambda: s.apply(mtls("STRICT")))
    assert good.works() and bad.works(), (good.seen, bad.seen)
    effect("PERMISSIVE", out, True, lambda: s.apply(mtls("PERMISSIVE")))
    effect("nothing allowed in the namespace", good, False, lambda: s.apply(authorization("p", "ALLOW", [])))
    bad.until(False)
    out.until(False)
    effect("that deleted", good, True, delete("authorizationpolicy/p"))
    out.until(True)
    bad.until(True)
    # In force once is in force: nothing flickered.
    for name, c, times in (("good", good, 4), ("bad", bad, 6), ("out", out, 6)):
        seen = c.close()
        assert len([a for a, b in zip(seen, seen[1:]) if (a[1] == "ok") != (b[1] == "ok")]) == times, (name, seen)


@scenario
def a_denied_connection_is_cut_and_an_allowed_one_goes_on(lab):
    s = lab.space("ambient")
    s.apply(account("good"), account("bad"))
    s.run(pod("echo", "echo"))
    s.wait_hbone("echo")  # who talks in plaintext has no name
    address = "%s:%d" % (s.ip("echo"), ECHO_PORT)
    last = lab.names()[-1]
    s.run(pod("good", "talk", address, node=last, serviceAccountName="good"),
          pod("bad", "talk", address, node=last, serviceAccountName="bad", restartPolicy="Never"))
    s.wait_annotated("good", "bad")
    good, bad = Talk(s, "good"), Talk(s, "bad")
    good.goes_on()
    bad.goes_on()
    s.apply(authorization("not-bad", "DENY", principal(s, "bad"), "echo"))
    wait_until("the connection of `bad` to be cut", bad.ended, 90, every=0.2)
    good.goes_on()


@scenario
def a_new_pod_is_never_open_to_who_is_denied(lab):
    """istiod sends a pod before the policy that it names; the pod is not to be open meanwhile."""
    s = lab.space("ambient")
    s.apply(account("good"), account("bad"), service("web"))
    last = lab.names()[-1]
    s.run(pod("good", node=last, serviceAccountName="good"), pod("bad", node=last, serviceAccountName="bad"))
    s.wait_annotated("good", "bad")
    url = "http://web.%s.svc.cluster.local/" % s.name
    good, bad = Changes(s, "good", url), Changes(s, "bad", url)
    good.until(False)
    bad.until(False)
    for n in range(5):
        name = "web-%d" % n
        # A policy of this pod alone, which comes with it.
        s.run(authorization(name, "DENY", principal(s, "bad"), name),
              pod(name, node=lab.names()[n % len(lab.nodes)], labels={"app": name, "serves": "web"}),
              {**service("web"), "spec": {"selector": {"serves": "web"}, "ports": [{"port": 80, "targetPort": PORT}]}})
        good.until(True)
        s.kubectl("delete", "pod", name, "--force", "--grace-period=0", "--wait=true")
        good.until(False)
    good.close()
    seen = bad.close()
    assert not [x for x in seen if x[1] == "ok"], seen
