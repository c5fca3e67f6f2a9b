# SPDX-License-Identifier: Apache-2.0
"""enrolment.py: labels and annotations bring running pods into the mesh and out of it."""
import time

from cri.daemon import wait_until

from .lab import ECHO_PORT, MODE, PORT, Load, Talk, pod
from .scenario import scenario


@scenario
def a_namespaces_label_captures_running_pods_and_releases_them(lab):
    s = lab.space()
    last = lab.names()[-1]
    s.run(pod("server"), pod("echo", "echo", node=last), pod("other", node=last))
    s.run(pod("talker", "talk", "%s:%d" % (s.ip("echo"), ECHO_PORT)))
    before = {n: s.restarts(n) for n in ("server", "other", "echo", "talker")}
    talk = Talk(s, "talker")
    talk.goes_on()
    url = "http://%s:%d/" % (s.ip("server"), PORT)
    load = Load(s, "other", url, 50)
    s.mode("ambient")
    s.wait_annotated(*before)
    talk.goes_on()
    s.must_get("other", url, n=5)
    lab.consistent()
    s.mode(None)
    s.wait_released(*before)
    # It was open before the label came, and is still the same connection.
    talk.goes_on()
    s.must_get("other", url, n=5)
    load.faultless(50)
    assert before == {n: s.restarts(n) for n in before}, "something was started again"


@scenario
def a_pods_own_label_wins_over_its_namespaces(lab):
    s = lab.space("ambient")
    s.run(pod("with"), pod("without", mode="none"))
    s.wait_annotated("with")
    assert not s.annotated("without")
    s.kubectl("label", "pod", "without", "--overwrite", MODE + "=ambient")
    s.kubectl("label", "pod", "with", "--overwrite", MODE + "=none")
    s.wait_annotated("without")
    s.wait_released("with")
    lab.consistent()
    s.mode(None)
    lab.consistent()
    assert s.annotated("without")
    s.kubectl("label", "pod", "without", MODE + "-")
    s.wait_released("without")


@scenario
def annotations_change_what_is_captured_while_a_pod_runs(lab):
    s = lab.space("ambient")
    s.apply({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
             "spec": {"mtls": {"mode": "STRICT"}}})
    s.run(pod("a"), pod("in"), pod("out", mode="none"), pod("sidecar", annotations={"sidecar.istio.io/status": "{}"}))
    s.wait_annotated("a", "in")
    assert not s.annotated("sidecar"), "a pod with a sidecar was enrolled"
    url = "http://%s:%d/" % (s.ip("a"), PORT)

    def plaintext_comes_in():
        return s.get("out", url, limit="2s")[0]
    wait_until("plaintext to be refused", lambda: not plaintext_comes_in(), 90, every=0.2)
    before = s.restarts("a")
    s.kubectl("annotate", "pod", "a", "ambient.istio.io/bypass-inbound-capture=true")
    wait_until("plaintext to bypass the mesh", plaintext_comes_in, 90, every=0.2)
    lab.consistent()
    s.kubectl("annotate", "pod", "a", "ambient.istio.io/bypass-inbound-capture-")
    wait_until("plaintext to be refused again", lambda: not plaintext_comes_in(), 90, every=0.2)
    s.must_get("in", url, n=3)
    assert before == s.restarts("a")


@scenario
def a_label_that_flaps_a_hundred_times_ends_as_it_says_last(lab):
    s = lab.space()
    s.run(pod("a"), pod("b", node=lab.names()[-1]))
    before = {n: s.restarts(n) for n in ("a", "b")}
    for n in range(100):
        s.mode("ambient" if n % 2 == 0 else None)
    s.wait_released("a", "b")
    lab.consistent()
    s.mode("ambient")
    s.wait_annotated("a", "b")
    s.must_get("b", "http://%s:%d/" % (s.ip("a"), PORT), n=3)
    assert before == {n: s.restarts(n) for n in before}, "something was started again"


@scenario
def a_pod_of_the_same_name_is_another_pod(lab):
    s = lab.space("ambient")
    seen = set()
    for n in range(5):
        # Every other one is out of the mesh: nothing of the one before must stick.
        s.run(pod("a", mode="none" if n % 2 else None))
        if n % 2 == 0:
            s.wait_annotated("a")
        seen.add(s.pod("a")["metadata"]["uid"])
        lab.consistent()
        s.kubectl("delete", "pod", "a", "--force", "--grace-period=0", "--wait=true")
    assert len(seen) == 5


@scenario
def pods_deleted_while_they_are_made_leave_nothing(lab):
    s = lab.space("ambient")
    for n in range(4):
        names = ["x%d-%d" % (n, i) for i in range(10)]
        s.apply(*[pod(x, "pause") for x in names])
        # Each round at another moment: at once, and when the first sandboxes are being made.
        if n % 2:
            wait_until("the first of them to be scheduled and seen", lambda m=names: any(
                node.record(s.pod(m[0])["metadata"]["uid"]) for node in lab.nodes.values()), 90, every=0.02)
        s.kubectl("delete", "pods", "--all", "--force", "--grace-period=0", "--wait=true")
    s.run(pod("after"))
    s.wait_annotated("after")


@scenario
def a_full_node_of_pods_starts_at_once(lab):
    s = lab.space("ambient")
    node = lab.names()[0]
    room = int(lab.kubectl.get("node", node)["status"]["allocatable"]["pods"]) - 10  # what a node runs anyway
    full = min(FULL, room)
    assert full >= 50, "%s takes %d pods" % (node, room)
    names = ["p%d" % n for n in range(full)]
    start = time.monotonic()
    s.apply(*[pod(n, "pause", node=node) for n in names])
    s.wait_ready(*names, timeout=480)
    print("# %d pods ready after %.1f s" % (full, time.monotonic() - start))
    s.wait_annotated(*names, deadline=120)
    for p in lab.node(node).facts()["processes"]:
        print("# %s: %.1f MiB resident, %.1f of it its own" % (p["name"], p["rssKb"] / 1024, p["anonKb"] / 1024))
    assert s.failed_sandboxes() == [], s.failed_sandboxes()


FULL = 110  # what a kubelet takes by default; on a node with that limit as many as fit
