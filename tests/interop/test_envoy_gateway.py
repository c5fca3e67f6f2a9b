#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_envoy_gateway.py: client pod -> our ztunnel -> a real Envoy as the gateway of another network -> our ztunnel there ->
server pod. The Envoy ends the outer HBONE, and passes what is inside to where a route for the authority says (no istiod
here). STOCK_ENVOY names the program; without it all is skipped. Run as root."""
import argparse
import os
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "system"))
import test_network as net  # noqa: E402
from test_envoy_waypoint import ENVOY, TYPE, Envoy, at, cluster, manager, tls_files  # noqa: E402
from ztlab import Skip, Wire, read_all, tap, wait_for  # noqa: E402
from ztsite import ARGS, HELLO, check  # noqa: E402


def gateway(ip, cert, root, authority, target):
    """Terminates CONNECT for one authority; the bytes go to @target as they are."""
    route = {"match": {"connect_matcher": {}}, "route": {
        "cluster": "inside", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}
    accept = manager("hbone", [route], http2_protocol_options={"allow_connect": True},
                     upgrade_configs=[{"upgrade_type": "CONNECT"}])
    accept["typed_config"]["route_config"]["virtual_hosts"][0]["domains"] = [authority]
    tls = {"name": "tls", "typed_config": {
        "@type": TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True,
        "common_tls_context": tls_files(cert, root, [{"prefix": "spiffe://cluster.local/"}])}}
    return {"admin": {"address": at("127.0.0.1", 15000)},
            "static_resources": {"listeners": [{"name": "hbone", "address": at(ip, 15008), "filter_chains": [
                {"filters": [accept], "transport_socket": tls}]}], "clusters": [cluster("inside", at(*target))]}}


class Site(net.Site):
    def __init__(self):
        if not os.access(ENVOY, os.X_OK):
            raise Skip("no Envoy: STOCK_ENVOY does not name one")
        self.envoy = None
        super().__init__()
        try:
            self.gwserver.close()
            cert = self.near.root().issue(self.near, [self.gwpod.identity])
            self.envoy = Envoy(self.near, self.gwpod, gateway(
                net.GW, cert, self.near.ca_dir + "/dev-root.pem", net.HOST + ":80", (self.b.ip, 15008)))
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.envoy is not None:
            self.envoy.close()
        super().close()


def there_and_back():
    s = net.site()
    wire = Wire(s.near)
    try:
        check(net.echo_once(s.a, net.VIP, 80, net.MARK) == net.MARK * 2, s.envoy.said()[-2000:], s.zt.log()[-2000:])
        packets = wire.packets()
    finally:
        wire.close()
    check(packets and all(15008 in (p[1], p[3]) and net.MARK not in p[4] for p in packets), "HBONE, nothing readable")
    line = s.zt.wait_line("connection complete", "dst.hbone_addr=%s:80" % net.HOST)
    check('dst.identity="%s"' % s.b.identity in line and "error=" not in line, line)
    s.farzt.wait_line("connection complete", 'src.identity="%s"' % s.a.identity, "src.addr=%s:" % net.GW)


def half_close():
    """What the server says after the client's end arrives, and then its own end."""
    s = net.site()

    def late(c, _peer):
        n = 0
        while True:
            d = c.recv(65536)
            if not d:
                break
            n += len(d)
        c.sendall(b"%d" % n)
    server = s.b.servers[0]
    handler, server.handler = server.handler, late
    try:
        with s.a.net.connect((net.VIP, 80)) as c:
            c.sendall(HELLO * 100000)
            c.shutdown(socket.SHUT_WR)
            check(read_all(c) == (b"%d" % (len(HELLO) * 100000), "eof"))
    finally:
        server.handler = handler
    s.quiet()


def another_name():
    """The gateway knows one service; what it answers for others is what the application's log line says."""
    s = net.site()
    state = s.near_state()
    state[1][0]["hostname"] = "other.default.svc.cluster.local"
    state[0][2]["services"] = {"default/other.default.svc.cluster.local": {80: 80}}
    s.near.reload(s.zt, *state)
    try:
        net.refused_with("http status: 404 Not Found")
    finally:
        s.change()
    check(net.works())


def gateway_away():
    s = net.site()
    s.envoy.proc.kill()
    s.envoy.proc.wait()
    check(net.echo_once(s.a, net.VIP, 80) == b"", "refused while it is away")
    s.envoy = Envoy(s.near, s.gwpod, s.envoy.config)
    wait_for("it to be used again", net.works)
    s.quiet()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", required=True)
    ap.parse_args(namespace=ARGS)
    net.Site = Site
    try:
        return tap([(f.__name__.replace("_", " "), f) for f in (
            there_and_back, net.many_at_once, net.every_byte_and_half_close, half_close, net.a_reset_stays_a_reset,
            another_name, gateway_away, net.ends_cleanly)])
    finally:
        for s in net.SITE:
            s.close()


if __name__ == "__main__":
    sys.exit(main())
