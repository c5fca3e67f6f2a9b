# SPDX-License-Identifier: Apache-2.0
"""mesh.py: services of every kind, and pods that come, end and go, as istiod tells ztunnel of them."""
import time

from cri.daemon import wait_until

from ..lab import PORT, Load, container, http_probe, pod, service
from ..scenario import Skip, scenario
from .policies import mtls

NETWORKING = "networking.istio.io/v1"
# Addresses that nobody has and no route leads to: only ztunnel knows what is meant.
ALONE, MANY = "240.77.0.1", "240.77.1.0/24"


def entry(name, host, addresses, endpoints=None, **spec):
    body = {"hosts": [host], "addresses": addresses, "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": PORT}]}
    if endpoints:
        body["endpoints"] = [{"address": a} for a in endpoints]
    return {"apiVersion": NETWORKING, "kind": "ServiceEntry", "metadata": {"name": name}, "spec": dict(body, **spec)}


def answers(s, client, url, who, deadline=120):
    """Waits until all of these pods have answered @client, and no other has."""
    def heard():
        good, text = s.get(client, url, n=8)
        return good and {line.split()[4] for line in text.splitlines()} == set(who)
    wait_until("%s at %s for %s" % (", ".join(who), url, client), heard, deadline, every=0.2)


@scenario
def headless_services_lead_to_the_pods_themselves(lab):
    s = lab.space("ambient")
    first, last = lab.names()[0], lab.names()[-1]
    headless = service("web", port=PORT)
    headless["spec"]["clusterIP"] = "None"
    s.run(headless, pod("client", node=first), pod("one", node=first, labels={"app": "web"}, hostname="one", subdomain="web"),
          pod("two", node=last, labels={"app": "web"}, hostname="two", subdomain="web"))
    s.wait_annotated("client", "one", "two")
    full = "web.%s.svc.cluster.local" % s.name
    # A client of Go takes the addresses in the order of the name server's answer.
    wait_until("the name to have both addresses", lambda: s.exec("client", "nslookup", full, check=False).stdout.count(
        "10.90.") >= 2 or len(s.exec("client", "nslookup", full, check=False).stdout.split("Address")) >= 4, 90, every=0.2)
    s.must_get("client", "http://%s:%d/" % (full, PORT), n=5)
    for name in ("one", "two"):
        answers(s, "client", "http://%s.%s:%d/" % (name, full, PORT), [name])


@scenario
def service_entries_lead_to_addresses_and_to_pods(lab):
    s = lab.space("ambient")
    first, last = lab.names()[0], lab.names()[-1]
    s.run(pod("client", node=first), pod("one", node=first, labels={"app": "web"}), pod("two", node=last, labels={"app": "web"}),
          pod("out", node=last, mode="none"))
    s.wait_annotated("client", "one", "two")
    # An address for itself alone; endpoints by address, in the mesh and outside.
    s.apply(entry("static", "static.test", [ALONE], [s.ip("one"), s.ip("out")]))
    answers(s, "client", "http://%s/" % ALONE, ["one", "out"])
    s.apply(entry("static", "static.test", [ALONE], [s.ip("out")]))
    answers(s, "client", "http://%s/" % ALONE, ["out"])
    # A range of addresses; endpoints by the labels of pods.
    s.apply(entry("range", "range.test", [MANY], workloadSelector={"labels": {"app": "web"}}))
    for address in ("240.77.1.1", "240.77.1.254"):
        answers(s, "client", "http://%s/" % address, ["one", "two"])
    # The longest prefix wins.
    s.apply(entry("inner", "inner.test", ["240.77.1.128/25"], [s.ip("out")]))
    answers(s, "client", "http://240.77.1.200/", ["out"])
    answers(s, "client", "http://240.77.1.3/", ["one", "two"])
    s.kubectl("delete", "serviceentry", "inner")
    answers(s, "client", "http://240.77.1.200/", ["one", "two"])
    s.kubectl("delete", "serviceentry", "range", "static")
    wait_until("the addresses to lead nowhere", lambda: not s.get("client", "http://%s/" % ALONE, limit="1s")[0]
               and not s.get("client", "http://240.77.1.1/", limit="1s")[0], 90, every=0.2)


@scenario
def both_families_lead_to_pods_and_services_and_are_both_protected(lab):
    s = lab.space("ambient")
    first, last = lab.names()[0], lab.names()[-1]
    web = service("web", app="server")
    web["spec"]["ipFamilyPolicy"] = "PreferDualStack"
    s.run(web, pod("client", node=first), pod("server", node=last), pod("out", node=first, mode="none"))
    ips = [p["ip"] for p in s.pod("server")["status"]["podIPs"]]
    if len(ips) < 2:
        raise Skip("this cluster has one family of addresses")
    s.wait_annotated("client", "server")
    vips = lab.kubectl.get("-n", s.name, "service", "web")["spec"]["clusterIPs"]
    assert len(vips) == 2, vips
    urls = ["http://%s/" % bracketed(v) for v in vips] + ["http://%s:%d/" % (bracketed(i), PORT) for i in ips]
    for url in urls:
        for client in ("client", "out"):
            answers(s, client, url, ["server"])
    s.apply(mtls("STRICT"))
    for url in urls:
        wait_until("plaintext to be refused at " + url, lambda u=url: not s.get("out", u, limit="2s")[0], 90, every=0.2)
        s.must_get("client", url, n=3)
    s.wait_ready("server")


def bracketed(address):
    return "[%s]" % address if ":" in address else address


def job(name, *args, **spec):
    body = pod(name, *args)["spec"]
    body["restartPolicy"] = "Never"
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": dict(
        {"template": {"metadata": {"labels": {"app": name}}, "spec": body}, "backoffLimit": 0}, **spec)}


@scenario
def jobs_reach_the_mesh_from_their_first_instruction_and_end_by_themselves(lab):
    s = lab.space("ambient")
    s.run(pod("server"), service("web", app="server"))
    s.wait_annotated("server")
    names = ["job-%d" % n for n in range(10)]
    s.apply(*[job(n, "get", "-n", "3", "-t", "30s", "http://web.%s.svc.cluster.local/" % s.name) for n in names])
    s.kubectl("wait", "--for=condition=Complete", "--timeout=240s", *["job/" + n for n in names], timeout=270)
    for n in names:
        assert s.kubectl("logs", "job/" + n).count("hello from server") == 3, s.kubectl("logs", "job/" + n)
    pods = lab.kubectl.get("-n", s.name, "pods", "-l", "job-name")["items"]
    assert len(pods) == len(names), [p["metadata"]["name"] for p in pods]

    def forgotten():
        dumps = [n.ztunnel_dump() for n in lab.nodes.values()]
        held = {w["uid"].rsplit("/", 1)[1] for d in dumps if d for w in d["workloads"]}
        return all(dumps) and not held & {p["metadata"]["name"] for p in pods}
    wait_until("ztunnel to forget pods that have ended", forgotten, 90, every=0.3)


# How long pods that are told to end go on: long enough for istiod and ztunnel on a machine that starts twenty others meanwhile.
GOODBYE_S = 10


def served(name, replicas, sleep):
    """A Deployment whose pods, as is the use, go on for a while after they are told to end, until nobody is sent to them."""
    c = container("serve", probes=http_probe(), lifecycle={"preStop": {"sleep": {"seconds": sleep}}})
    c["name"] = "main"
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": sleep + 5, "automountServiceAccountToken": False, "enableServiceLinks": False,
            "containers": [c]}}}}


CHURN_ROUNDS, CHURN_PODS = 10, 20


@scenario
def no_request_fails_while_two_hundred_pods_come_and_go(lab):
    s = lab.space("ambient")
    s.run(pod("in", node=lab.names()[0]), pod("far", node=lab.names()[-1]), service("web"), served("web", CHURN_PODS, GOODBYE_S))
    s.kubectl("rollout", "status", "deployment/web", "--timeout=240s", timeout=270)
    s.wait_annotated("in", "far")
    url = "http://web.%s.svc.cluster.local/" % s.name
    for client in ("in", "far"):
        wait_until("%s to reach the service" % client, lambda c=client: s.get(c, url, n=5)[0], 90, every=0.2)
    loads = [Load(s, client, url, 40, seconds=600) for client in ("in", "far")]
    seen, start = set(), time.monotonic()
    for _ in range(CHURN_ROUNDS):
        s.kubectl("rollout", "restart", "deployment/web")
        s.kubectl("rollout", "status", "deployment/web", "--timeout=240s", timeout=270)
        seen |= {p["metadata"]["uid"] for p in lab.kubectl.get("-n", s.name, "pods", "-l", "app=web")["items"]}
    r = [load.faultless(500) for load in loads]
    assert len(seen) >= CHURN_ROUNDS * CHURN_PODS, len(seen)
    assert s.failed_sandboxes() == [], s.failed_sandboxes()
    print("# %d pods in %.0f s; %d requests, slowest %d ms" % (len(seen), time.monotonic() - start,
                                                               sum(x["count"]["ok"] for x in r), max(x["slowestMs"] for x in r)))
