#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_envoy_edges.py: the mesh's edges with a real Envoy. In: a client outside of the mesh -> Envoy as ingress gateway, HTTP in
and HBONE with its own certificate out -> our ztunnel -> server pod. Out: client pod -> our ztunnel -> Envoy as egress waypoint
of a ServiceEntry -> a server outside of the mesh. The Envoys have written configurations (no istiod here). STOCK_ENVOY names
the program; without it all is skipped. Run as root."""
import argparse
import os
import socket
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "system"))
import dnslab  # noqa: E402
from test_envoy_waypoint import (ENVOY, INTERNAL, TYPE, Envoy, Server, at, cluster, filter_of, inside_envoy,  # noqa: E402
                                 internal_listener, manager, originate, tls_files)
from ztlab import Lab, Skip, Wire, exact, policy, run, tap, wait_for  # noqa: E402
from ztsite import ARGS, check  # noqa: E402

EXTERNAL, EXTERNAL_VIP, EXTERNAL_NAME = "198.51.100.10", "240.240.0.1", "api.example.com"


# --- Envoy ---

def document(listeners, clusters):
    return {"admin": {"address": at("127.0.0.1", 15000)},
            "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": {
                "@type": TYPE + "extensions.bootstrap.internal_listener.v3.InternalListener"}}],
            "static_resources": {"listeners": listeners, "clusters": clusters}}


def ingress(ip, cert, root, pods):
    """HTTP for a host, to each of @pods in turn by HBONE, as Istio's gateways do."""
    split = [{"name": p.name, "weight": 1} for p in pods]
    routes = [{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": split}, "timeout": "20s"}}]
    main = manager("ingress", routes)
    main["typed_config"]["route_config"]["virtual_hosts"][0]["domains"] = ["shop.example"]
    listeners = [{"name": "http", "address": at(ip, 80), "filter_chains": [{"filters": [main]}]}]
    clusters = []
    for p in pods:
        listener, more = originate(p, cert, root)
        listeners.append(listener)
        clusters += more
    return document(listeners, clusters)


def rbac(principal):
    """At the end of HBONE: the client's certificate decides."""
    return filter_of("envoy.filters.http.rbac", "extensions.filters.http.rbac.v3.RBAC", rules={
        "action": "ALLOW", "policies": {"who": {"permissions": [{"any": True}], "principals": [
            {"authenticated": {"principal_name": {"exact": principal}}}]}}})


def egress(ip, cert, root, allowed, target):
    """Ends HBONE for @allowed only, decides on HTTP, and goes out in plaintext to @target and nowhere else."""
    main = manager("main", [{"match": {"prefix": "/admin"}, "direct_response": {"status": 403}},
                            {"match": {"prefix": "/"}, "route": {"cluster": "outside", "timeout": "20s"}}])
    main["typed_config"]["route_config"]["virtual_hosts"][0]["domains"] = [EXTERNAL_NAME]
    connect = {"match": {"connect_matcher": {}}, "route": {
        "cluster": "main", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}
    accept = manager("hbone", [connect], [rbac(allowed)], http2_protocol_options={"allow_connect": True},
                     upgrade_configs=[{"upgrade_type": "CONNECT"}])
    accept["typed_config"]["route_config"]["virtual_hosts"][0]["domains"] = [
        "%s:80" % EXTERNAL_VIP, "%s:8080" % EXTERNAL]
    tls = {"name": "tls", "typed_config": {
        "@type": TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True,
        "common_tls_context": tls_files(cert, root, [{"prefix": "spiffe://cluster.local/"}])}}
    return document(
        [{"name": "hbone", "address": at(ip, 15008), "filter_chains": [{"filters": [accept], "transport_socket": tls}]},
         internal_listener("main", main)],
        [cluster("main", inside_envoy("main"), transport_socket=INTERNAL), cluster("outside", at(*target))])


# --- the sites ---

def get(pod, to, path, host):
    """Status and body of one request; 0 when the connection ended without an answer."""
    data = b""
    try:
        with pod.net.connect(to) as s:
            s.sendall(("GET %s HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % (path, host)).encode())
            d = s.recv(65536)
            while d:
                data += d
                d = s.recv(65536)
    except (ConnectionError, socket.timeout):
        pass
    head, _, body = data.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body.decode()) if data else (0, "")


class Site:
    """A lab that says what it was when something fails, and one Envoy in it."""

    def __init__(self):
        if not os.access(ENVOY, os.X_OK):
            raise Skip("no Envoy: STOCK_ENVOY does not name one")
        self.lab, self.envoy, self.zt = Lab(ARGS.bin, 2), None, None
        try:
            self.fill()
        except BaseException:
            self.close()
            raise

    def cert(self, *identities):
        return self.lab.root().issue(self.lab, identities), self.lab.ca_dir + "/dev-root.pem"

    def envoy_is(self, pod, config):
        if self.envoy is not None:
            self.envoy.close()
        self.envoy = Envoy(self.lab, pod, config)

    def said(self):
        return self.envoy.said()[-2000:] + self.zt.log()[-3000:]

    def close(self):
        if self.envoy is not None:
            self.envoy.close()
        self.lab.close()


class Ingress(Site):
    """Outside is no pod of the mesh; the gateway is a pod that nobody captures; only it may talk to the servers."""

    def fill(self):
        lab = self.lab
        self.v1, self.v2, self.other = (lab.pod(n, i) for n, i in (("v1", 3), ("v2", 4), ("other", 5)))
        self.gw, self.outside = (lab.pod(n, i, captured=False) for n, i in (("gw", 6), ("outside", 200)))
        self.servers = [Server(self.v1), Server(self.v2)]
        lab.state([p.workload() for p in (self.v1, self.v2, self.other, self.gw)], (), [
            policy("only-the-gateway", "Allow", {"principals": [exact("cluster.local/ns/default/sa/gw")]})])
        self.zt = lab.start()
        self.start_as(self.gw.identity)

    def start_as(self, identity):
        self.envoy_is(self.gw, ingress(self.gw.ip, *self.cert(identity), (self.v1, self.v2)))

    def get(self, path="/", host="shop.example"):
        return get(self.outside, (self.gw.ip, 80), path, host)

    def seen(self):
        return sum(len(s.seen) for s in self.servers)


class Egress(Site):
    """The server outside has an address that is not of the pods' network. The ServiceEntry and its endpoint are bound to the
    waypoint; pod a is allowed there, b is not."""

    def fill(self):
        lab = self.lab
        self.a, self.b = lab.pod("a", 2), lab.pod("b", 3)
        self.wp, self.ext = (lab.pod(n, i, captured=False) for n, i in (("wp", 5), ("ext", 200)))
        self.ext.net.ip("addr", "add", EXTERNAL + "/32", "dev", "lo")
        lab.node.ip("route", "add", EXTERNAL + "/32", "via", self.ext.ip)
        run("ip", "netns", "exec", lab.node.name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.br0.send_redirects=0")
        dnslab.capture(self.a.net)
        self.server = Server(self.ext)
        wp = "default/wp.default.svc.cluster.local"
        entry = "default/" + EXTERNAL_NAME
        lab.state(
            [self.a.workload(), self.b.workload(), self.wp.workload(protocol="HBONE", services={wp: {15008: 15008}}),
             {"uid": "Kubernetes/networking.istio.io/ServiceEntry/default/api/" + EXTERNAL, "name": "api", "namespace": "default",
              "workloadIps": [EXTERNAL], "protocol": "TCP", "services": {entry: {80: 8080}},
              "waypoint": {"destination": "/" + self.wp.ip}}],
            [{"name": "api", "namespace": "default", "hostname": EXTERNAL_NAME, "vips": ["/" + EXTERNAL_VIP], "ports": {80: 8080},
              "waypoint": {"destination": wp}},
             {"name": "wp", "namespace": "default", "hostname": "wp.default.svc.cluster.local", "vips": ["/10.96.0.11"],
              "ports": {15008: 15008}}])
        self.zt = lab.start()
        self.start()

    def start(self):
        self.envoy_is(self.wp, egress(self.wp.ip, *self.cert(self.wp.identity), self.a.identity, (EXTERNAL, 8080)))

    def get(self, pod, path="/", to=(EXTERNAL_VIP, 80)):
        return get(pod, to, path, EXTERNAL_NAME)


SITES = {}


def site(kind):
    if kind not in SITES:
        SITES[kind] = kind()
    return SITES[kind]


# --- in ---

def ingress_reaches_enrolled_pods_by_hbone():
    s = site(Ingress)
    pods = {s.v1.ip, s.v2.ip}
    wire = Wire(s.lab)
    try:
        got = [s.get("/hello") for _ in range(40)]
        packets = wire.packets()
    finally:
        wire.close()
    check({x for x, _ in got} == {200}, got, s.said())
    check({body for _, body in got} == {s.v1.name, s.v2.name}, "both pods answer:", got)
    near = [p for p in packets if p[0] in pods or p[2] in pods]
    check(near and all(15008 in (p[1], p[3]) and b"/hello" not in p[4] for p in near), "HBONE only, nothing readable")
    check({p[0] if p[2] in pods else p[2] for p in near} == {s.gw.ip}, "between gateway and pods only")
    path, headers, peer = s.servers[0].seen[-1]
    check(peer == s.gw.ip and headers["host"] == "shop.example", "the server sees the gateway:", peer, headers)
    wait_for("the gateway's connections are counted under its name", lambda: s.zt.metric(
        "istio_tcp_connections_opened_total", reporter="destination", source_workload="gw", source_principal=s.gw.identity,
        connection_security_policy="mutual_tls") >= 2)
    check(s.get("/", host="elsewhere.example")[0] == 404, "another host is not routed")


def ingress_streams_share_tunnels():
    """Many requests at once, with much in them: all arrive, over few connections."""
    s = site(Ingress)
    results, before = [], s.zt.metric("istio_tcp_connections_failed_total")

    def some():
        for _ in range(10):
            results.append(s.get("/" + "x" * 8000)[0])
    threads = [threading.Thread(target=some) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    check(results == [200] * 80, results, s.said())
    sockets = s.zt.metric("istio_tcp_sockets_open", reporter="destination")
    check(1 <= sockets <= 4, "HBONE connections of the gateway:", sockets)
    check(s.zt.metric("istio_tcp_connections_failed_total") == before, "none failed")


def ingress_policy_lets_nobody_else_in():
    s = site(Ingress)
    seen = s.seen()
    for who, pod in (("outside", s.outside), ("an enrolled pod", s.other)):
        check(get(pod, (s.v1.ip, 8080), "/direct", "shop.example")[0] == 0, who, "is not let in past the gateway")
    s.zt.wait_line("direction=\"inbound\"", "src.addr=%s:" % s.outside.ip, "policy rejection")
    s.start_as(s.other.identity)
    status, _ = s.get("/hello")
    check(status == 503, "a gateway with another identity:", status)
    s.zt.wait_line("direction=\"inbound\"", 'src.identity="%s"' % s.other.identity, "src.addr=%s:" % s.gw.ip, "policy rejection")
    check(s.seen() == seen, "no server was reached")
    s.start_as(s.gw.identity)
    wait_for("the gateway is let in again", lambda: s.get("/hello")[0] == 200)


# --- out ---

def egress_goes_through_the_waypoint():
    """By name, address of the ServiceEntry and address of the server: the same way."""
    s = site(Egress)
    check(dnslab.ask(s.a.net, s.lab.gateway, EXTERNAL_NAME).ips() == [EXTERNAL_VIP], "the name leads there")
    wire = Wire(s.lab)
    try:
        got = [s.get(s.a, "/one"), s.get(s.a, "/two", (EXTERNAL, 8080))]
        packets = wire.packets()
    finally:
        wire.close()
    check(got == [(200, s.ext.name)] * 2, got, s.said())
    outside = [p for p in packets if EXTERNAL in (p[0], p[2])]
    check(outside and {p[0] if p[2] == EXTERNAL else p[2] for p in outside} == {s.wp.ip}, "only the waypoint goes out")
    rest = [p for p in packets if s.a.ip in (p[0], p[2])]
    check(rest and all(s.wp.ip in (p[0], p[2]) and 15008 in (p[1], p[3]) for p in rest), "the pod talks HBONE to it only")
    check({peer for _, _, peer in s.server.seen} == {s.wp.ip}, "the server sees the waypoint:", s.server.seen)
    for what in (EXTERNAL_VIP + ":80", EXTERNAL + ":8080"):
        s.zt.wait_line("direction=\"outbound\"", "dst.addr=%s:15008" % s.wp.ip, "dst.hbone_addr=" + what,
                       'dst.identity="%s"' % s.wp.identity)
    check(s.zt.metric("istio_tcp_connections_opened_total", reporter="source", destination_service=EXTERNAL_NAME) >= 1)


def egress_policy_is_the_waypoints():
    s = site(Egress)
    seen = len(s.server.seen)
    check(s.get(s.a, "/admin")[0] == 403, "HTTP is decided there")
    check(s.get(s.b)[0] == 0 and s.get(s.b, to=(EXTERNAL, 8080))[0] == 0, "another pod is not let out")
    s.zt.wait_line("direction=\"outbound\"", "src.addr=%s:" % s.b.ip, "dst.hbone_addr=%s:80" % EXTERNAL_VIP, "403")
    check(len(s.server.seen) == seen, "the server was not reached")


def egress_never_goes_around():
    """The waypoint is away: no way out, by no address; back again when it is."""
    s = site(Egress)
    s.envoy.close()
    seen = len(s.server.seen)
    wire = Wire(s.lab)
    try:
        check(s.get(s.a)[0] == 0 and s.get(s.a, to=(EXTERNAL, 8080))[0] == 0)
        packets = wire.packets()
    finally:
        wire.close()
    check(len(s.server.seen) == seen and not any(EXTERNAL in (p[0], p[2]) for p in packets), "nothing went out")
    s.start()
    wait_for("the way out", lambda: s.get(s.a)[0] == 200)


def ends_cleanly():
    for s in SITES.values():
        s.envoy.close()
        check(s.zt.stop() == 0, s.zt.log()[-3000:])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    ap.parse_args(namespace=ARGS)
    tests = (ingress_reaches_enrolled_pods_by_hbone, ingress_streams_share_tunnels, ingress_policy_lets_nobody_else_in,
             egress_goes_through_the_waypoint, egress_policy_is_the_waypoints, egress_never_goes_around, ends_cleanly)
    try:
        return tap([(f.__name__.replace("_", " "), f) for f in tests])
    finally:
        for s in SITES.values():
            s.close()


if __name__ == "__main__":
    sys.exit(main())
