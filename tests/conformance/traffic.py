# SPDX-License-Identifier: Apache-2.0
"""traffic.py: what pods in the mesh say to each other, and what of it is seen on the way."""
from cri import wire
from cri.daemon import wait_until

from .lab import MARK, PORT, account, flows, http_probe, pod, service
from .scenario import Skip, scenario


def policy(name, action, principals, app):
    return {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name},
            "spec": {"action": action, "selector": {"matchLabels": {"app": app}},
                     "rules": [{"from": [{"source": {"principals": principals}}]}]}}


def two_nodes(lab):
    if len(lab.nodes) < 2:
        raise Skip("needs two nodes")
    return lab.names()[:2]


@scenario
def traffic_between_nodes_is_hbone_and_nothing_else(lab):
    one, two = two_nodes(lab)
    s = lab.space()
    s.run(pod("client", node=one), pod("server", node=two))
    client, server = s.ip("client"), s.ip("server")
    url = "http://%s:%d/" % (server, PORT)
    capture = lab.node(one).capture(lab.out + "/plain.pcap")
    s.must_get("client", url, n=5)
    path = capture.finish()
    # The control: without the mesh it is there to be seen.
    assert wire.count_text(path, MARK) >= 5, "the capture does not see the nodes' traffic"
    assert flows(path).get((server, client, PORT)), flows(path)
    s.mode("ambient")
    s.wait_hbone("client", "server")
    capture = lab.node(one).capture(lab.out + "/mesh.pcap")
    s.must_get("client", url, n=20)
    path = capture.finish()
    seen = wire.summary(path, client, server, cut_ok=True)
    assert seen.packets > 20 and set(seen.ports) == {15008} and not seen.problems, seen
    assert wire.count_text(path, MARK) == 0, "a plaintext byte on the wire"


@scenario
def services_are_found_by_name_and_address_from_inside_and_outside(lab):
    s = lab.space()
    last = lab.names()[-1]
    s.run(pod("in", node=last), pod("server"), pod("out", mode="none"), service("web", app="server"))
    vip = lab.kubectl.get("-n", s.name, "service", "web")["spec"]["clusterIP"]
    s.mode("ambient")
    s.wait_annotated("in", "server")
    for client in ("in", "out", "server"):
        for url in ("http://web/", "http://web.%s.svc.cluster.local/" % s.name, "http://%s/" % vip):
            wait_until("%s to reach %s" % (client, url), lambda c=client, u=url: s.get(c, u, n=3)[0], 90, every=0.2)
    # (A pod that asks its own service is among them. The service has another name than the pods, which know their own.)
    # A second server joins and the first one leaves, under the same name.
    s.run(pod("second", labels={"app": "server"}))
    s.wait_annotated("second")
    s.kubectl("delete", "pod", "server", "--force", "--grace-period=0", "--wait=true")

    def second_alone():
        good, text = s.get("in", "http://web/", n=10, limit="2s")
        return good and text.count("hello from second") == 10
    wait_until("the second server to answer, and no other", second_alone, 90, every=0.2)
    # From the mesh to a server that is not in it.
    s.must_get("in", "http://%s:%d/" % (s.ip("out"), PORT), n=3)


def dns_counts(lab):
    """What the ztunnels have answered, and what of that they had to ask a resolver for."""
    total = {"istio_dns_requests_total": 0.0, "istio_dns_upstream_requests_total": 0.0}
    for z in lab.kubectl.get("-n", "istio-system", "pods", "-l", "app=ztunnel")["items"]:
        text = lab.node(z["spec"]["nodeName"]).run("tester", "get", "http://%s:15020/metrics" % z["status"]["podIP"]).stdout
        for line in text.splitlines():
            if line.split("{")[0] in total:
                total[line.split("{")[0]] += float(line.rsplit(" ", 1)[1])
    return tuple(total.values())


@scenario
def names_are_answered_by_ztunnel_and_others_by_the_clusters_dns(lab):
    s = lab.space("ambient")
    off = {"ambient.istio.io/dns-capture": "false"}
    headless = service("pods", app="server", port=PORT)
    headless["spec"]["clusterIP"] = "None"
    s.run(pod("in", node=lab.names()[-1]), pod("direct", annotations=off), pod("server", hostname="one", subdomain="pods"),
          service("web", app="server"), headless)
    s.wait_annotated("in", "direct", "server")

    def dns_of(name):
        p = s.pod(name)
        return lab.node(p["spec"]["nodeName"]).record(p["metadata"]["uid"]).get("dns")
    assert (dns_of("in"), dns_of("direct")) == ("captured", "not captured"), (dns_of("in"), dns_of("direct"))
    before = dns_counts(lab)
    for client in ("in", "server"):
        for url in ("http://web/", "http://web.%s/" % s.name, "http://web.%s.svc.cluster.local/" % s.name,
                    "http://pods:%d/" % PORT):
            wait_until("%s to reach %s" % (client, url), lambda c=client, u=url: s.get(c, u, n=3)[0], 90, every=0.2)
    mesh = dns_counts(lab)
    assert mesh[0] - before[0] >= 24, (before, mesh)  # 24 connections, a name each
    # The name of one pod of a headless service is CoreDNS's to know; so is that there is no such service.
    one = "http://one.pods.%s.svc.cluster.local:%d/" % (s.name, PORT)
    wait_until("one pod's name", lambda: s.get("in", one, n=3)[0], 90, every=0.5)
    good, text = s.get("in", "http://nobody.%s.svc.cluster.local/" % s.name, limit="30s")
    assert not good and "no such host" in text, text
    forwarded = dns_counts(lab)
    assert forwarded[1] - mesh[1] >= 4, (mesh, forwarded)
    s.must_get("direct", "http://web/", n=3)
    assert dns_counts(lab) == forwarded, "a pod whose DNS is not captured was answered"


@scenario
def the_kubelets_probes_pass_where_plaintext_is_refused(lab):
    s = lab.space("ambient")
    s.apply({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
             "spec": {"mtls": {"mode": "STRICT"}}})
    probed = pod("server")
    # One that fails starts the container anew; before the first answer of the server none does.
    probed["spec"]["containers"][0].update(startupProbe=http_probe(failureThreshold=60), livenessProbe=http_probe(failureThreshold=1))
    s.run(probed, pod("out", mode="none"), pod("in"))
    s.wait_annotated("server", "in")
    url = "http://%s:%d/" % (s.ip("server"), PORT)
    wait_until("plaintext to be refused", lambda: not s.get("out", url, limit="2s")[0], 90, every=0.2)
    s.must_get("in", url, n=3)
    before = int(s.kubectl("exec", "server", "--", "sh", "-c", "cat /proc/1/stat").split()[21])
    seen = s.kubectl("logs", "server").count("GET / from")
    wait_until("six more probes", lambda: s.kubectl("logs", "server").count("GET / from") >= seen + 6, 90, every=0.3)
    status = s.pod("server")["status"]
    assert status["containerStatuses"][0]["restartCount"] == 0 and status["containerStatuses"][0]["ready"], status
    assert before == int(s.kubectl("exec", "server", "--", "sh", "-c", "cat /proc/1/stat").split()[21])


@scenario
def policies_allow_and_deny_by_identity(lab):
    s = lab.space("ambient")
    s.apply(account("good"), account("bad"))
    last = lab.names()[-1]
    s.run(pod("server"), pod("good", node=last, serviceAccountName="good"), pod("bad", node=last, serviceAccountName="bad"),
          pod("out", mode="none"))
    s.wait_annotated("server", "good", "bad")
    url = "http://%s:%d/" % (s.ip("server"), PORT)

    def who():
        return {n for n in ("good", "bad", "out") if s.get(n, url)[0]}
    everybody = {"good", "bad", "out"}
    s.wait_hbone("server", "good", "bad")
    wait_until("everybody to be allowed", lambda: who() == everybody, 90, every=0.2)
    s.apply(policy("only-good", "ALLOW", ["cluster.local/ns/%s/sa/good" % s.name], "server"))
    wait_until("only `good` to be allowed", lambda: who() == {"good"}, 90, every=0.2)
    s.kubectl("delete", "authorizationpolicy", "only-good")
    wait_until("everybody to be allowed again", lambda: who() == everybody, 90, every=0.2)
    s.apply(policy("not-bad", "DENY", ["cluster.local/ns/%s/sa/bad" % s.name], "server"))
    wait_until("`bad` to be denied", lambda: who() == everybody - {"bad"}, 90, every=0.2)
