#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_dashboard.py: our metrics as a real Prometheus scrapes them while pods talk: every query of the ztunnel dashboard that
Istio publishes has a result with the labels of its legend, so do the TCP panels of its other dashboards, and every metric of
stock is there by name, type and labels or is named in docs/metrics.md. Prometheus is Debian's, the dashboards come from
Istio's Go module; without them what needs them is skipped. Run as root."""
import os
import re
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "system"))
import agent_lab  # noqa: E402
import dnslab  # noqa: E402
import istiod_site  # noqa: E402
from fake_istiod import ADDRESS, POLICY  # noqa: E402
from prometheus_lab import INTERVAL_S, PORT, Prometheus, dashboards, panels, program  # noqa: E402
from ztlab import Namespace, Skip, double_echo, wait_for  # noqa: E402
from ztsite import ARGS, HELLO, check, echo_once, main, works  # noqa: E402

VIP, HOST = "10.96.0.10", "web.default.svc.cluster.local"
DENIED = 8082  # a port that a policy closes

# ztunnel-spec 13.2, 13.3 and 11.6: family, type, labels
SIDE = "workload canonical_service canonical_revision workload_namespace principal app version cluster"
PLACES = "source_region source_zone destination_region destination_zone"
SOURCE = " ".join("source_" + s for s in SIDE.split())
TRAFFIC = " ".join(["reporter", SOURCE, "destination_service destination_service_namespace destination_service_name",
                    " ".join("destination_" + s for s in SIDE.split()),
                    "request_protocol response_flags connection_security_policy", PLACES])
DNS = "request_query_type request_protocol source_canonical_service source_canonical_revision"
STOCK = [
    ("istio_tcp_connections_opened", "counter", TRAFFIC), ("istio_tcp_connections_closed", "counter", TRAFFIC),
    ("istio_tcp_received_bytes", "counter", TRAFFIC), ("istio_tcp_sent_bytes", "counter", TRAFFIC),
    ("istio_tcp_connections_failed", "counter", TRAFFIC), ("istio_tcp_sockets_open", "gauge", "reporter"),
    ("istio_on_demand_dns", "counter", SOURCE + " hostname"), ("istio_crl_policy_rejections", "counter", "reporter"),
    ("istio_crl_untracked_connections", "counter", "reporter"), ("istio_build", "gauge", "component tag"),
    ("istio_xds_connection_terminations", "counter", "reason"), ("istio_xds_message", "counter", "url"),
    ("istio_xds_message_bytes", "counter", "url"), ("istio_dns_requests", "counter", DNS),
    ("istio_dns_upstream_requests", "counter", DNS), ("istio_dns_upstream_failures", "counter", DNS),
    ("istio_dns_upstream_request_duration_seconds", "histogram", DNS),
    ("workload_manager_active_proxy_count", "gauge", ""), ("workload_manager_pending_proxy_count", "gauge", ""),
    ("workload_manager_proxies_started", "counter", ""), ("workload_manager_proxies_stopped", "counter", ""),
    ("process_open_fds", "gauge", ""), ("process_max_fds", "gauge", ""), ("tokio_num_workers", "gauge", ""),
    ("tokio_global_queue_depth", "gauge", ""), ("tokio_num_alive_tasks", "gauge", ""),
    ("tokio_worker_total_busy_duration_seconds", "counter", "worker"), ("tokio_worker_park_count", "counter", "worker"),
    ("tokio_worker_park_unpark_count", "counter", "worker"),
]
# cni-spec 3.13
STOCK_AGENT = [("ztunnel_connected", "gauge", ""), ("nodeagent_reconcile_events", "counter", "type"),
               ("istio_cni_plugin_requests", "counter", "response_code"), ("istio_cni_installs", "counter", "result"),
               ("istio_cni_install_ready", "gauge", ""), ("istio_cni_repair_pods_repaired", "counter", "")]
# Of the kubelet and cAdvisor: no proxy exports these
OUTSIDE = {"container_memory_working_set_bytes", "container_cpu_usage_seconds_total"}


def documented():
    """The metrics of stock that docs/metrics.md says are not there, or are otherwise."""
    with open(os.path.join(HERE, "../../docs/metrics.md")) as f:
        part = f.read().split("## Not as in stock", 1)[1].split("\n## ", 1)[0]
    rows = [r.split("|") for r in part.splitlines() if r.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row[1]) if row[2].strip()}


def needed():
    if not program():
        raise Skip("no prometheus: Debian's package of that name has it")


class Site(istiod_site.Site):
    """Pods a and b in the mesh and c outside of it; the service has b and c behind it. They talk all the time: with mutual
    TLS, in plaintext, to a port that a policy closes, and ask for names; istiod sends, and goes away once."""

    def __init__(self):
        self.prometheus, self.thread, self.resolver, self.end_talk, self.ok = None, None, None, threading.Event(), {}
        super().__init__(prepare=self.fill)
        try:
            node = self.lab.node
            self.prometheus = Prometheus(
                self.lab.dir + "/prometheus", lambda *argv: ["ip", "netns", "exec", node.name, *argv],
                lambda: node.connect(("127.0.0.1", PORT)),
                {"ztunnel": (15020, {"pod": "ztunnel-x7", "app": "ztunnel", "namespace": "istio-system"})})
            wait_for("traffic", lambda: works(self.a, self.b.ip))
            self.held = self.a.net.connect((self.b.ip, 8080))
            self.thread = threading.Thread(target=self.talk, daemon=True)
            self.thread.start()
            self.istiod.down()
            self.zt.wait_line("no stream from istiod")
            self.istiod.up()
            wait_for("the stream again", lambda: self.istiod.streams, 90)
            check(self.ask("dead.test").rcode == dnslab.SERVFAIL, "a resolver that does not answer")
            for n in range(3 * INTERVAL_S * 2):
                self.push(n)
                time.sleep(0.5)
            wait_for("Prometheus to scrape", self.prometheus.healthy, 90)
        except BaseException:
            self.show()
            self.close()
            raise

    def fill(self, site):
        i, w = site.istiod, site.istiod.pb["workload"]
        self.c = site.lab.pod("c", 4, captured=False)
        for p in (site.a, site.b):
            dnslab.capture(p.net)
        self.resolver = dnslab.Resolver(site.lab.node, site.lab.gateway)
        site.env["AMBIENT_DNS_RESOLV_CONF"] = site.lab.dir + "/resolv.conf"
        with open(site.env["AMBIENT_DNS_RESOLV_CONF"], "w") as f:
            f.write("nameserver %s\noptions timeout:1 attempts:1\n" % site.lab.gateway)
        ports = [w.Port(service_port=80, target_port=8080)]
        for p in (site.b, self.c):
            if p is self.c:
                p.serve(8080, double_echo)
            i.put_workload(p, canonical_name=b"web", workload_name=b"web", canonical_revision=b"v1", services=[
                w.ServiceEntry(key=b"default/" + HOST.encode(), value=w.PortList(ports=ports))])
        i.put_workload(site.a, canonical_name=b"shop", workload_name=b"shop", canonical_revision=b"v2")
        i.put(ADDRESS, "default/" + HOST, w.Address(service=w.Service(
            name=b"web", namespace=b"default", hostname=HOST.encode(),
            addresses=[w.NetworkAddress(address=bytes(map(int, VIP.split("."))))],
            ports=ports)))
        i.put_policy("closed", "default", 1, destination_ports=[DENIED])

    def push(self, n):
        """Something of each type, changed."""
        self.istiod.put_policy("other", "default", 1, destination_ports=[9000 + n])
        self.istiod.push(POLICY, ["default/other"])
        self.istiod.put_workload(self.a, canonical_name=b"shop", workload_name=b"shop", canonical_revision=b"v2",
                                 capacity=self.istiod.pb["workload"].UInt32Value(value=n + 1))
        self.istiod.push(ADDRESS, [self.uid_a])

    def ask(self, name):
        return dnslab.ask(self.a.net, self.lab.gateway, name)

    def talk(self):
        """Every kind of connection, again and again."""
        kinds = {"hbone": lambda: works(self.a, self.b.ip), "service": lambda: works(self.a, VIP, 80),
                 "plain out": lambda: works(self.a, self.c.ip), "plain in": lambda: works(self.c, self.b.ip),
                 "denied": lambda: echo_once(self.a, self.b.ip, DENIED) == b"",
                 "name": lambda: self.ask(HOST).ips() == [VIP],
                 "name elsewhere": lambda: self.ask("one.test").ips() == ["192.0.2.1"],
                 "no name": lambda: self.ask("fail.test").rcode == dnslab.SERVFAIL}
        while not self.end_talk.is_set():
            for name, fn in kinds.items():
                try:
                    self.ok[name] = self.ok.get(name, 0) + bool(fn())
                except OSError:
                    pass  # counted as not well
            self.held.sendall(HELLO)
            self.held.recv(4096)
            time.sleep(0.05)

    def close(self):
        self.end_talk.set()
        if self.thread:
            self.thread.join(30)
        if self.prometheus:
            self.prometheus.close()
        if self.resolver:
            self.resolver.close()
        super().close()


SITE = []


def site():
    needed()
    if not SITE:
        SITE.append(Site())
    return SITE[0]


def published(name):
    folder = dashboards()
    if not folder:
        raise Skip("no dashboards: the Go module istio.io/istio was not downloaded")
    return panels(os.path.join(folder, name))


def all_kinds_of_connections():
    s = site()
    wait_for("all kinds of connections", lambda: len(s.ok) == 8 and min(s.ok.values()) >= 5, 120)
    check(s.zt.metric("istio_tcp_connections_failed_total", response_flags="DENY", reporter="destination") > 0)


def filled(s, panel, **variables):
    """The panel's result, which has all that its legend shows."""
    query = panel.query(**variables)
    result = wait_for("a result of " + query, lambda: s.prometheus.query(query), 90)
    for labels, _ in result:
        missing = [x for x in panel.labels if not labels.get(x)]
        check(not missing, panel.title, query, "has no label", missing, labels)
    return result


def every_query_of_the_ztunnel_dashboard():
    found, s = published("ztunnel-dashboard.gen.json"), site()
    check(len(found) >= 15, "queries in the dashboard:", len(found))
    absent, seen, outside = documented(), {}, set()
    for p in found:
        check(p.metrics, "a query with no metric", p.expr)
        if p.metrics & OUTSIDE:
            outside |= p.metrics
            s.prometheus.query(p.query())  # parses
            print("# outside (cAdvisor): %s, %s" % (p.title, p.legend))
            continue
        family = {re.sub("_total$", "", m) for m in p.metrics}
        if family & absent:
            check(s.prometheus.query(p.query()) == [], "docs/metrics.md says that there is none:", p.expr)
            print("# not there (docs/metrics.md): %s, %s" % (p.title, p.legend))
            continue
        seen.update({(p.title, p.legend): filled(s, p)})
    check(outside == OUTSIDE, "what is outside:", outside)

    def value(title, legend):
        return [v for _, v in seen[title, legend]]
    check(seen["Ztunnel Versions", "Version ({{tag}})"][0][1] == 1)
    check(value("Connections", "Opened ({{pod}})")[0] > 0 > value("Connections", "Closed ({{pod}})")[0], "rates", seen)
    for legend in ("Sent ({{pod}})", "Received ({{pod}})"):
        check(value("Bytes Transmitted", legend)[0] > 0, legend)
    check(value("Workload Manager", "Active Proxies ({{pod}})") == [2.0], seen)
    check(value("Workload Manager", "Pending Proxies ({{pod}})") == [0.0], seen)
    held = next(p for p in found if (p.title, p.legend) == ("Resource Usage", "TCP Connections ({{pod}})"))
    wait_for("no connections but the one that is held and the one under way", lambda: [
        1 <= v <= 8 for _, v in s.prometheus.query(held.query())] == [True], 60)
    check(value("Resource Usage", "Open Sockets ({{pod}})")[0] >= 1 and value(
        "Resource Usage", "Open File Descriptors ({{pod}})")[0] > 10, seen)
    check({m["url"] for m, _ in seen["XDS Pushes", "{{url}}"]} == {ADDRESS, POLICY}, "types that istiod pushes", seen)
    # A scrape that came too late leaves nothing to be asked for until the next one.
    wait_for("the stream that ended to be counted", lambda: s.prometheus.query(
        "sum by (reason) (istio_xds_connection_terminations_total) > 0"), 60)


def tcp_panels_of_the_other_dashboards():
    """Those that show istio_tcp_*; what counts requests is a waypoint's."""
    n, s = 0, site()
    names = {"istio-mesh-dashboard.gen.json": {}, "istio-workload-dashboard.json": {
        "namespace": "default", "workload": "shop|web", "srcwl": ".*", "srcns": ".*", "dstsvc": ".*"},
        "istio-service-dashboard.json": {"service": HOST, "srcwl": ".*", "srcns": ".*", "dstwl": ".*", "dstns": ".*"}}
    for name, variables in names.items():
        for p in published(name):
            if not p.metrics or not all(m.startswith("istio_tcp_") for m in p.metrics):
                continue
            n += 1
            filled(s, p, qrep="source|destination", **variables)
    check(n >= 18, "panels:", n)


def compare(p, table, extra=()):
    """Each family of @table as Prometheus has it; what is not so."""
    types, wrong = p.types(), {}
    for name, kind, labels in table:
        want = set(labels.split())
        sample = {"counter": name + "_total", "histogram": name + "_bucket"}.get(kind, name)
        # Text without OpenMetrics' names has the type at the sample's name
        have = types.get(name, types.get(sample))
        series = p.labels(sample)
        if have is None or not series:
            wrong[name] = "not there"
        elif have != kind:
            wrong[name] = "a %s, not a %s" % (have, kind)
        else:
            other = [x for x in series if x - {"namespace", "le"} not in (want, want - set(PLACES.split()))]
            if other:
                wrong[name] = "labels %s" % sorted(other[0] ^ want)
    return wrong


def every_metric_of_stock():
    s = site()
    wrong, told = compare(s.prometheus, STOCK), documented()
    check(not {k: v for k, v in wrong.items() if k not in told}, "neither as in stock nor in docs/metrics.md:", wrong)
    told &= {name for name, _, _ in STOCK}
    check(told <= set(wrong), "docs/metrics.md says otherwise, but these are as in stock:", told - set(wrong))


class Joined(Namespace):
    """A namespace that another made."""

    def __init__(self, name):
        self.name = name
        self.fd = os.open("/run/netns/" + name, os.O_RDONLY | os.O_CLOEXEC)

    def close(self):
        os.close(self.fd)


def the_agents_metrics():
    needed()
    agent_lab.BIN[0] = os.path.abspath(ARGS.bin)
    w = agent_lab.World()
    net, p = Joined(w.host), None
    try:
        w.namespace(mode="ambient")
        pod = agent_lab.Pod(w, "app")
        w.put("p.yaml", pod.manifest())
        for d in ("net.d", "bin"):
            os.mkdir("%s/%s" % (w.dir, d))
        with open(w.dir + "/net.d/10-net.conflist", "w") as f:
            f.write('{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"ptp"}]}\n')
        w.start("--monitoring-port", "15014", "--install-cni", "chained", "--cni-conf-dir", w.dir + "/net.d",
                "--cni-bin-dir", w.dir + "/bin", "--cni-plugin", agent_lab.BIN[0] + "/ambient-cni")
        w.add(pod, w.ready_ztunnel(agent_lab.V2))
        p = Prometheus(w.dir + "/prometheus", lambda *argv: ["ip", "netns", "exec", w.host, *argv],
                       lambda: net.connect(("127.0.0.1", PORT)), {"istio-cni": (15014, {"app": "istio-cni-node"})})
        wait_for("Prometheus to scrape", p.healthy, 90)
        wrong, told = compare(p, STOCK_AGENT), documented()
        check(not {k: v for k, v in wrong.items() if k not in told}, "neither as in stock nor in docs/metrics.md:", wrong)
        check({n for n, _, _ in STOCK_AGENT} & told <= set(wrong), "documented as missing, but there", wrong)
        for query in ("ztunnel_connected", "istio_cni_install_ready", 'istio_cni_plugin_requests_total{response_code="200"}'):
            got = wait_for(query, lambda q=query: p.query(q), 60)
            check([v for _, v in got] == [1], query, got)
    finally:
        if p:
            p.close()
        net.close()
        w.close()


if __name__ == "__main__":
    try:
        status = main([all_kinds_of_connections, every_query_of_the_ztunnel_dashboard, tcp_panels_of_the_other_dashboards,
                       every_metric_of_stock, the_agents_metrics])
    finally:
        for one in SITE:
            one.close()
    sys.exit(status)
