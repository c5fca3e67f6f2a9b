# SPDX-License-Identifier: Apache-2.0
"""faults.py: parts of the product end, and its files are tampered with, while pods come, go and talk."""
from cri.daemon import wait_until

from .lab import PORT, Load, pod
from .scenario import scenario

PRODUCT = "istio-system"
CONF = "/proc/1/root/etc/cni/net.d/"


def client_and_server(lab, s):
    s.run(pod("client", node=lab.names()[0]), pod("server", node=lab.names()[-1]))
    s.wait_annotated("client", "server")
    return "http://%s:%d/" % (s.ip("server"), PORT)


@scenario
def pods_start_after_the_agent_was_killed(lab):
    s = lab.space("ambient")
    url = client_and_server(lab, s)
    for name in lab.names():
        lab.node(name).kill("ambient-agent")
    s.must_get("client", url, n=10)
    more = ["later-%s" % n for n in lab.names()]
    s.run(*[pod("later-%s" % n, node=n) for n in lab.names()])
    s.wait_annotated(*more)
    for name in more:
        s.must_get(name, url, n=3)


@scenario
def no_pod_fails_while_the_agent_is_replaced(lab):
    s = lab.space("ambient")
    old = {p["metadata"]["uid"] for p in agents(lab)}
    lab.kubectl("-n", PRODUCT, "rollout", "restart", "daemonset/istio-cni-node")
    count = 0
    made = []
    # One after the other, on all nodes, until every agent is another one.
    while count < 60 and (old & {p["metadata"]["uid"] for p in agents(lab)} or count < 8):
        made.append("p%d" % count)
        s.apply(pod(made[-1], "pause", node=lab.names()[count % len(lab.nodes)]))
        count += 1
    lab.kubectl("-n", PRODUCT, "rollout", "status", "daemonset/istio-cni-node", "--timeout=240s", timeout=270)
    s.wait_ready(*made)
    s.wait_annotated(*made)
    failed = s.failed_sandboxes()
    assert not failed, failed
    print("# %d pods, no sandbox made again" % len(made))


def agents(lab):
    return lab.kubectl.get("-n", PRODUCT, "pods", "-l", "k8s-app=istio-cni-node")["items"]


@scenario
def no_connection_is_refused_while_ztunnel_is_killed(lab):
    s = lab.space("ambient")
    url = client_and_server(lab, s)
    # At a rate at which few are under way at a time, though each may take long; those that wait do so for as long as it takes.
    load = Load(s, "client", url, 30, limit="90s")
    s.must_get("client", url, n=10)
    for name in lab.names():
        node = lab.node(name)
        old = node.kill("ztunnel")
        wait_until("another ztunnel on " + name, lambda n=node, o=old: n.pid("ztunnel") not in (None, o) and n.ready(), 180,
                   every=0.2)
        # Those that waited are through before the next one is killed.
        s.must_get("client", url, n=20, limit="90s")
    r = load.result()
    # Those that ztunnel was carrying are cut with it; all others waited in the queue that the agent kept.
    assert not set(r["count"]) - {"ok", "reset", "closed"}, r
    assert r["count"].get("reset", 0) + r["count"].get("closed", 0) <= 10 and r["count"]["ok"] > 100, r
    print("# %d connections, longest time without an answer %d ms: %s" % (sum(r["count"].values()), r["gapMs"], r["count"]))


@scenario
def no_connection_fails_while_ztunnel_is_rolled(lab):
    s = lab.space("ambient")
    url = client_and_server(lab, s)
    load = Load(s, "client", url, 100)
    lab.kubectl("-n", PRODUCT, "rollout", "restart", "daemonset/ztunnel")
    lab.kubectl("-n", PRODUCT, "rollout", "status", "daemonset/ztunnel", "--timeout=300s", timeout=330)
    s.must_get("client", url, n=10)
    r = load.faultless(100)
    print("# %d connections, slowest %d ms" % (r["count"]["ok"], r["slowestMs"]))


@scenario
def a_configuration_that_is_removed_or_overwritten_comes_back(lab):
    s = lab.space("ambient")
    node = lab.node(lab.names()[-1])
    ours = [f for f in node.facts()["chain"] if "ambient" in f]
    assert len(ours) == 1, node.facts()["chain"]
    path = CONF + ours[0]

    def names_us():
        return node.run("grep", "-c", "ambient-cni", path, check=False).returncode == 0
    assert names_us()
    good = node.run("cat", path).stdout
    for n, damage in enumerate(("rm %s" % path, "echo '{}' > %s" % path,
                                "rm %s /proc/1/root/opt/cni/bin/ambient-cni" % path)):
        node.run("sh", "-c", damage)
        wait_until("the configuration to come back after: " + damage,
                   lambda: names_us() and node.run("cat", path, check=False).stdout == good
                   and node.facts()["plugins"], 90, every=0.2)
        s.run(pod("p%d" % n, node=node.name))
        s.wait_annotated("p%d" % n)


@scenario
def a_cni_directory_that_is_removed_whole_is_found_again(lab):
    """The agent sees it through a mount of its container, which goes on showing the one that was removed."""
    s = lab.space("ambient")
    s.run(pod("before", node=lab.names()[-1]))
    s.wait_annotated("before")
    node = lab.node(lab.names()[-1])
    restarts = agent_restarts(lab, node.name)
    # The network's owner puts its own file back, as it would after an accident; ours it does not know.
    on_node(node, "mkdir -p /tmp/kept && cp -a /etc/cni/net.d/. /tmp/kept/")
    try:
        # Again when the agent has put a file back while it was emptied.
        on_node(node, "n=0; until rm -r /etc/cni/net.d; do n=$((n+1)); [ $n -lt 20 ] || exit 1; done")
        wait_until("the runtime to be told", lambda: not node.ready(), 90, every=0.2)
    finally:
        on_node(node, "mkdir -p /etc/cni/net.d && cd /tmp/kept && for f in *; do grep -q ambient-cni \"$f\" || cp -a \"$f\" "
                "/etc/cni/net.d/; done; rm -r /tmp/kept")
    wait_until("the agent to be there again", lambda: node.ready() and agent_restarts(lab, node.name) > restarts, 240, every=0.3)
    assert node.facts()["plugins"] and any("ambient" in f for f in node.facts()["chain"]), node.facts()["chain"]
    # containerd stops watching a directory that is removed ("cni conf dir is removed, stop watching") and has to be started anew
    node.run("sh", "-c", "kill -KILL $(pidof containerd)", check=False)  # the answer comes through it
    s.run(pod("after", node=node.name))
    s.wait_annotated("after")


@scenario
def nothing_starts_outside_the_mesh_while_the_disk_is_full(lab):
    """The agent's notes cannot be written: a pod waits with the reason, and starts once there is room."""
    s = lab.space("ambient")
    node = lab.node(lab.names()[-1])
    s.run(pod("client", node=lab.names()[0]))
    notes = "/run/istio-cni/attachments"
    on_node(node, "cp -a %s /tmp/notes && mount -t tmpfs -o size=512k full %s && cp -a /tmp/notes/. %s/" % (notes, notes, notes))
    try:
        another_agent(lab, node)  # a container sees a mount that was there before it
        on_node(node, "dd if=/dev/zero of=%s/fill bs=4k 2>/dev/null; true" % notes)
        s.apply(pod("late", node=node.name))
        wait_until("the kubelet to say why", lambda: any("No space left" in text for _, _, text in s.failed_sandboxes()), 120, every=0.3)
        assert not s.annotated("late") and not s.pod("late")["status"].get("podIP"), s.pod("late")["status"]
        on_node(node, "rm %s/fill" % notes)
        s.wait_ready("late")
        s.wait_annotated("late")
        s.must_get("client", "http://%s:%d/" % (s.ip("late"), PORT), n=3)
    finally:
        on_node(node, "rm -rf /tmp/notes %s/fill; cp -a %s /tmp/notes && umount -l %s && cp -a /tmp/notes/. %s/ && rm -r /tmp/notes"
                % (notes, notes, notes, notes))
        another_agent(lab, node)
    s.must_get("client", "http://%s:%d/" % (s.ip("late"), PORT), n=3)


def on_node(node, script):
    """A shell script in the view of the node's first process."""
    node.run("nsenter", "-t", "1", "-m", "--", "/bin/sh", "-c", script)


def agent_of(lab, name):
    return next((p for p in agents(lab) if p["spec"]["nodeName"] == name and "deletionTimestamp" not in p["metadata"]), None)


def agent_restarts(lab, name):
    p = agent_of(lab, name)
    return sum(c["restartCount"] for c in p["status"].get("containerStatuses", [])) if p else 0


def another_agent(lab, node):
    old = agent_of(lab, node.name)["metadata"]
    lab.kubectl("-n", PRODUCT, "delete", "pod", old["name"], timeout=90)

    def there():
        new = agent_of(lab, node.name)
        return new and new["metadata"]["uid"] != old["uid"] and node.ready()
    wait_until("another agent on " + node.name, there, 180, every=0.3)
