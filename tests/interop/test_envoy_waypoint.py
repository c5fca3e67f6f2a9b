#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_envoy_waypoint.py: client pod -> our ztunnel -> a real Envoy as waypoint -> our ztunnel -> server pod, for a service and
for a workload. The Envoy has a written configuration that ends HBONE, decides on HTTP and begins HBONE anew (no istiod
here). STOCK_ENVOY names the program; without it all is skipped. Run as root."""
import base64
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "system"))
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: E402
from ztlab import Lab, Skip, Wire, exact, policy, tap, wait_for  # noqa: E402
from ztsite import ARGS, check  # noqa: E402
import argparse  # noqa: E402

ENVOY = os.environ.get("STOCK_ENVOY") or os.path.join(HERE, "../../.cache/envoy/envoy")
VIP, TYPE = "10.96.0.10", "type.googleapis.com/envoy."
HTTP2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions",
    "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}}}}


# --- tokens ---

def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens (RFC 7519, RS256) and publishes its key."""

    def __init__(self):
        self.key = rsa.generate_private_key(65537, 2048)

    def jwks(self):
        n = self.key.public_key().public_numbers()
        return json.dumps({"keys": [{"kty": "RSA", "kid": "k", "alg": "RS256", "use": "sig",
                                     "n": b64(n.n.to_bytes(256, "big")), "e": b64(n.e.to_bytes(3, "big"))}]})

    def token(self, seconds):
        body = ".".join(b64(json.dumps(x).encode()) for x in (
            {"alg": "RS256", "kid": "k"}, {"iss": "issuer", "sub": "me", "exp": int(time.time()) + seconds}))
        return body + "." + b64(self.key.sign(body.encode(), padding.PKCS1v15(), hashes.SHA256()))


# --- Envoy ---

def filter_of(name, kind, **config):
    return {"name": name, "typed_config": dict(config, **{"@type": TYPE + kind})}


def router():
    return filter_of("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")


def manager(prefix, routes, filters=(), **more):
    return filter_of("envoy.filters.network.http_connection_manager",
                     "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                     stat_prefix=prefix, http_filters=list(filters) + [router()], route_config={
                         "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}, **more)


def internal_listener(name, *filters):
    return {"name": name, "internal_listener": {}, "filter_chains": [{"filters": list(filters)}]}


def tls_files(cert, root, identities):
    return {"tls_certificates": [{"certificate_chain": {"filename": cert[0]}, "private_key": {"filename": cert[1]}}],
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"filename": root}, "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": m} for m in identities]}}


def cluster(name, address, **more):
    return dict({"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}}, **more)


def at(ip, port):
    return {"socket_address": {"address": ip, "port_value": port}}


def inside_envoy(name):
    return {"envoy_internal_address": {"server_listener_name": name}}


INTERNAL = {"name": "envoy.transport_sockets.internal_upstream", "typed_config": {
    "@type": TYPE + "extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
    "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {
        "@type": TYPE + "extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}}


def originate(pod, cert, root):
    """HBONE to one server pod: a listener that wraps what it gets in a CONNECT, and the clusters before and behind it."""
    name = "to_" + pod.name
    target = "%s:8080" % pod.ip
    tunnel = filter_of("envoy.filters.network.tcp_proxy", "extensions.filters.network.tcp_proxy.v3.TcpProxy",
                       stat_prefix=name, cluster="hbone_" + pod.name, tunneling_config={"hostname": target})
    tls = {"name": "tls", "typed_config": {
        "@type": TYPE + "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": tls_files(cert, root, [{"exact": pod.identity}])}}
    return (internal_listener(name, tunnel),
            [cluster(pod.name, inside_envoy(name), transport_socket=INTERNAL),
             cluster("hbone_" + pod.name, at(pod.ip, 15008), transport_socket=tls,
                     typed_extension_protocol_options=HTTP2)])


def routes(one, two):
    ones = {"cluster": one.name, "timeout": "10s"}
    return [
        {"match": {"prefix": "/forbidden"}, "direct_response": {"status": 403}},
        {"match": {"prefix": "/split"}, "route": {"weighted_clusters": {"clusters": [
            {"name": one.name, "weight": 90}, {"name": two.name, "weight": 10}]}}},
        {"match": {"prefix": "/flaky"}, "route": dict(ones, retry_policy={"retry_on": "5xx", "num_retries": 3})},
        {"match": {"prefix": "/"}, "route": ones}]


def waypoint(ip, cert, root, one, two, jwks):
    jwt = filter_of("envoy.filters.http.jwt_authn", "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                    providers={"p": {"issuer": "issuer", "local_jwks": {"inline_string": jwks}}},
                    rules=[{"match": {"prefix": "/secret"}, "requires": {"provider_name": "p"}}])
    main = manager("main", routes(one, two), [jwt])
    accept = manager("hbone", [{"match": {"connect_matcher": {}}, "route": {
        "cluster": "main", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}],
        http2_protocol_options={"allow_connect": True}, upgrade_configs=[{"upgrade_type": "CONNECT"}])
    server_tls = {"name": "tls", "typed_config": {
        "@type": TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True,
        "common_tls_context": tls_files(cert, root, [{"prefix": "spiffe://cluster.local/"}])}}
    listeners = [{"name": "hbone", "address": at(ip, 15008),
                  "filter_chains": [{"filters": [accept], "transport_socket": server_tls}]},
                 internal_listener("main", main)]
    clusters = [cluster("main", inside_envoy("main"), transport_socket=INTERNAL)]
    for pod in (one, two):
        listener, more = originate(pod, cert, root)
        listeners.append(listener)
        clusters += more
    return {"admin": {"address": at("127.0.0.1", 15000)},
            "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": {
                "@type": TYPE + "extensions.bootstrap.internal_listener.v3.InternalListener"}}],
            "static_resources": {"listeners": listeners, "clusters": clusters}}


class Envoy:
    def __init__(self, lab, pod, config):
        self.log, self.config = lab.dir + "/envoy.log", config
        path = lab.dir + "/envoy.json"
        with open(path, "w") as f:
            json.dump(config, f)
        with open(self.log, "wb") as f:
            self.proc = subprocess.Popen(
                ["ip", "netns", "exec", pod.net.name, ENVOY, "-c", path, "--concurrency", "1", "--disable-hot-restart"],
                stdout=f, stderr=f, stdin=subprocess.DEVNULL)
        wait_for("Envoy", lambda: self.ready(pod), 120)

    def ready(self, pod):
        if self.proc.poll() is not None:
            raise AssertionError("Envoy ended: " + self.said()[-3000:])
        try:
            with pod.net.connect(("127.0.0.1", 15000), 2) as s:
                s.sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
                return s.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def close(self):
        self.proc.kill()
        self.proc.wait()


# --- the site ---

class Server:
    """An HTTP server that says its name and what it was sent; /flaky fails twice, then not."""

    def __init__(self, pod):
        self.name, self.failures, self.seen = pod.name, 2, []
        pod.serve(8080, self.one)

    def one(self, c, peer):
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                d = c.recv(65536)
                if not d:
                    return
                head += d
            lines = head.decode().split("\r\n")
            path = lines[0].split()[1]
            headers = dict(l.lower().split(": ", 1) for l in lines[1:] if ": " in l)
            self.seen.append((path, headers, peer[0]))
            status = "200 OK"
            if path == "/flaky" and self.failures:
                self.failures -= 1
                status = "503 Service Unavailable"
            body = self.name.encode()
            c.sendall(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body))


class Site:
    def __init__(self):
        if not os.access(ENVOY, os.X_OK):
            raise Skip("no Envoy: STOCK_ENVOY does not name one")
        self.lab = Lab(ARGS.bin, 2)
        self.envoy = None
        try:
            self.a, self.v1, self.v2 = (self.lab.pod(n, i) for n, i in (("a", 2), ("v1", 3), ("v2", 4)))
            self.wp = self.lab.pod("wp", 5, captured=False)
            self.one, self.two = Server(self.v1), Server(self.v2)
            self.workloads = self.mesh()
            self.publish()
            self.zt = self.lab.start()
            self.issuer = Issuer()
            cert = self.lab.root().issue(self.lab, [self.wp.identity])
            self.envoy = Envoy(self.lab, self.wp, waypoint(self.wp.ip, cert, self.lab.ca_dir + "/dev-root.pem",
                                                           self.v1, self.v2, self.issuer.jwks()))
        except BaseException:
            self.close()
            raise

    def mesh(self, **v1):
        return [self.a.workload(), self.v1.workload(**v1), self.v2.workload(),
                self.wp.workload(protocol="HBONE", services={"default/wp.default.svc.cluster.local": {15008: 15008}})]

    @staticmethod
    def services():
        return [{"name": "app", "namespace": "default", "hostname": "app.default.svc.cluster.local", "vips": ["/" + VIP],
                 "ports": {80: 8080}, "waypoint": {"destination": "default/wp.default.svc.cluster.local"}},
                {"name": "wp", "namespace": "default", "hostname": "wp.default.svc.cluster.local",
                 "vips": ["/10.96.0.11"], "ports": {15008: 15008}}]

    def publish(self):
        self.lab.state(self.workloads, self.services(), [
            policy("only-the-waypoint", "Allow", {"principals": [exact("cluster.local/ns/default/sa/wp")]})])

    def get(self, path, to=None, **headers):
        """Status and body of one request from the client pod."""
        text = "GET %s HTTP/1.1\r\nhost: app\r\nconnection: close\r\n" % path
        text += "".join("%s: %s\r\n" % (k, v) for k, v in headers.items())
        data = b""
        try:
            with self.a.net.connect(to or (VIP, 80)) as s:
                s.sendall((text + "\r\n").encode())
                d = s.recv(65536)
                while d:
                    data += d
                    d = s.recv(65536)
        except ConnectionError:
            return 0, "reset"
        if not data:
            return 0, ""
        head, body = data.split(b"\r\n\r\n", 1)
        return int(head.split()[1]), body.decode(errors="replace")

    def close(self):
        if self.envoy is not None:
            self.envoy.close()
        self.lab.close()


SITE = []


def site():
    if not SITE:
        SITE.append(Site())
    return SITE[0]


def service_waypoint():
    s = site()
    wire = Wire(s.lab)
    try:
        status, body = s.get("/hello", traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
        packets = wire.packets()
    finally:
        wire.close()
    check((status, body[-2:]) == (200, "v1"), status, body, s.envoy.said()[-2000:], s.zt.log()[-2000:])
    path, headers, peer = s.one.seen[-1]
    check(path == "/hello" and "0123456789abcdef0123456789abcdef" in headers["traceparent"], "the trace id arrives:", headers)
    check(peer == s.wp.ip, "the server sees the waypoint:", peer)
    check(s.zt.wait_line("direction=\"outbound\"", "dst.addr=%s:15008" % s.wp.ip, "dst.hbone_addr=%s:80" % VIP), "log")
    # Envoy keeps its connection, so there is no log line of the second hop yet
    wait_for("the second hop is counted", lambda: s.zt.metric(
        "istio_tcp_connections_opened_total", reporter="destination", source_principal=s.wp.identity) == 1)
    check(packets and all(15008 in (p[1], p[3]) for p in packets), "only HBONE on the wire")


def workload_waypoint():
    s = site()
    direct = s.v1.ip, 8080
    before = s.get("/direct", direct)
    check(before[0] == 0, "the policy lets nobody in but the waypoint:", before)
    s.lab.reload(s.zt, s.mesh(waypoint={"destination": "/%s" % s.wp.ip}), s.services(), [
        policy("only-the-waypoint", "Allow", {"principals": [exact("cluster.local/ns/default/sa/wp")]})])
    status, body = s.get("/direct", direct)
    check((status, body[-2:]) == (200, "v1"), status, body)
    check(s.zt.wait_line("direction=\"outbound\"", "dst.hbone_addr=%s:8080" % s.v1.ip), "log")


def http_decisions():
    s = site()
    check(s.get("/forbidden")[0] == 403, "an HTTP-level deny")
    check(s.get("/secret")[0] == 401, "no token")
    check(s.get("/secret", authorization="Bearer " + s.issuer.token(-3600))[0] == 401, "expired token")
    check(s.get("/secret", authorization="Bearer " + s.issuer.token(3600))[0] == 200, "valid token")
    seen = len(s.one.seen)
    check(s.get("/flaky")[0] == 200 and len(s.one.seen) == seen + 3, "two retries")


def split():
    s = site()
    got = [s.get("/split")[1][-2:] for _ in range(200)]
    twos = got.count("v2")
    # 200 draws of 0.1: outside of 2..45 in fewer than one run of ten million
    check(got.count("v1") + twos == 200 and 2 <= twos <= 45, got.count("v1"), twos)


def waypoint_away():
    """Never around it: the connection ends, and works again when the waypoint is back."""
    s = site()
    config = s.lab.dir + "/envoy.json"
    s.envoy.close()
    seen = len(s.one.seen)
    check(s.get("/hello")[0] == 0 and len(s.one.seen) == seen)
    with open(config) as f:
        s.envoy = Envoy(s.lab, s.wp, json.load(f))
    wait_for("the waypoint is used again", lambda: s.get("/hello")[0] == 200)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    ap.parse_args(namespace=ARGS)
    try:
        return tap([(f.__name__.replace("_", " "), f)
                    for f in (service_waypoint, http_decisions, split, workload_waypoint, waypoint_away)])
    finally:
        for s in SITE:
            s.close()


if __name__ == "__main__":
    sys.exit(main())
