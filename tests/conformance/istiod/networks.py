# SPDX-License-Identifier: Apache-2.0
"""networks.py: two clusters, each a network of one mesh with an istiod of its own; what pods of the one say to those of the other
goes through the other's gateway, an Envoy that the other's istiod configures. `lab` is the near one, `lab.peers` has the far one.
"""
import contextlib

from cluster import layout
from cri import wire
from cri.daemon import wait_until

from ..lab import MARK, Load, account, flows, pod, service
from ..scenario import scenario
from .control_plane import SYSTEM
from .gateways import GATEWAY, gateway, programmed
from .mesh import GOODBYE_S, served
from .policies import SECURITY, authorization, principal
from .tools import istioctl

NETWORK = "topology.istio.io/network"


def everywhere(name, **more):
    """A Service that is the same in all clusters."""
    s = service(name, **more)
    s["metadata"]["labels"] = {"istio.io/global": "true"}
    return s


def east_west(far):
    """The way into the network of the lab @far: a load balancer of which the cable's end is the address."""
    s = far.space()
    s.apply({"apiVersion": GATEWAY, "kind": "Gateway", "metadata": {"name": "entry", "labels": {NETWORK: "far"}}, "spec": {
        "gatewayClassName": "istio-east-west", "listeners": [
            {"name": "mesh", "port": 15008, "protocol": "HBONE",
             "tls": {"mode": "Terminate", "options": {"gateway.istio.io/tls-terminate-mode": "ISTIO_MUTUAL"}}}]}})
    wait_until("the gateway's service", lambda: far.kubectl.get("-n", s.name, "service", "entry", missing_ok=True), 90, every=0.2)
    s.kubectl("patch", "service", "entry", "--subresource=status", "--type=merge", "-p",
              '{"status": {"loadBalancer": {"ingress": [{"ip": "%s"}]}}}' % layout.LINK[1])
    programmed(s, "entry")
    s.kubectl("rollout", "status", "deployment/entry", "--timeout=240s", timeout=270)
    return s


@contextlib.contextmanager
def introduced(lab, far):
    """The near istiod knows of the far cluster for the time of the block."""
    secret = istioctl(far, "create-remote-secret", "--name=far", "--server=https://%s:6443" % layout.LINK[1]).stdout
    lab.kubectl("apply", "-f", "-", stdin=secret)
    try:
        yield
    finally:
        lab.kubectl("delete", "-f", "-", stdin=secret)


def heard(s, client, url):
    """Who answers; None when not all is answered."""
    good, text = s.get(client, url, n=12)
    return {line.split()[4] for line in text.splitlines()} if good else None


@scenario
def a_service_of_another_network_is_reached_through_its_gateway_and_no_other_way(lab):
    far = lab.peers[0]
    s = lab.space("ambient")
    t = far.space("ambient", name=s.name)
    s.run(account("client"), account("other"), everywhere("web"), pod("client", serviceAccountName="client"),
          pod("other", serviceAccountName="other"))
    t.run(account("server"), everywhere("web"), pod("web", hostname="far-away", serviceAccountName="server"))
    entry = east_west(far)
    s.wait_annotated("client", "other")
    t.wait_annotated("web")
    url = "http://web.%s.svc.cluster.local/" % s.name
    vip = "http://%s/" % lab.kubectl.get("-n", s.name, "service", "web")["spec"]["clusterIP"]
    # Nobody has told of the other cluster yet.
    assert not s.get("client", url, limit="2s")[0]
    with introduced(lab, far):
        for u in (url, vip):
            wait_until("the far pod at " + u, lambda a=u: "hello from far-away" in s.get("client", a)[1], 120, every=0.2)
        capture = lab.node("n1").capture(lab.out + "/cable.pcap", "cable")
        s.must_get("client", url, n=20)
        path = capture.finish()
        ports = {port for _, _, port in flows(path)}
        assert 15008 in ports and ports <= {15008, 6443}, flows(path)  # istiod asks the other's API server there
        assert wire.count_text(path, MARK) == 0, "a plaintext byte between the networks"
        # The certificate of the inner tunnel is the client's, and that is who is let in.
        t.apply(authorization("not-other", "DENY", principal(s, "other"), "web"))
        wait_until("the far policy to be in force", lambda: not s.get("other", url, limit="2s")[0], 90, every=0.2)
        s.must_get("client", url, n=3)
        good = 'dst.identity="spiffe://cluster.local/ns/%s/sa/server"' % s.name

        def told():
            text = lab.kubectl("-n", SYSTEM, "logs", "-l", "app=ztunnel", "--tail=-1")
            lines = [x for x in text.splitlines() if "connection complete" in x and "dst.hbone_addr=web.%s.svc" % s.name in x]
            return any(good in x and "error=" not in x for x in lines)
        wait_until("a line about the far server", told, 60)
        # A pod of this network is another endpoint of the same service.
        s.run(pod("web", hostname="near-by"))
        s.wait_annotated("web")
        wait_until("both networks to answer", lambda: heard(s, "client", url) == {"far-away", "near-by"}, 120, every=0.2)
        # Without its gateway the other network is not there.
        entry.kubectl("delete", "gateway", "entry")
        wait_until("this network alone to answer", lambda: heard(s, "client", url) == {"near-by"}, 120, every=0.2)


@scenario
def another_network_takes_over_and_gives_back_and_no_request_fails(lab):
    far = lab.peers[0]
    s = lab.space("ambient")
    t = far.space("ambient", name=s.name)
    close = everywhere("web")
    close["spec"]["trafficDistribution"] = "PreferClose"
    s.run(close, pod("client"), served("web", 1, GOODBYE_S))
    t.run(close, pod("web", hostname="far-away"))
    entry = east_west(far)
    s.kubectl("rollout", "status", "deployment/web", "--timeout=180s", timeout=200)
    s.wait_annotated("client")
    t.wait_annotated("web")
    url = "http://web.%s.svc.cluster.local/" % s.name

    def answered(prefix):
        """Waits until nobody answers but those whose names begin so."""
        def only():
            names = heard(s, "client", url)
            return names and all(n.startswith(prefix) for n in names)
        wait_until("%s alone to answer" % prefix, only, 120, every=0.2)
    with introduced(lab, far):
        # That it is known is seen by its being there when nobody else is.
        s.kubectl("scale", "deployment/web", "--replicas=0")
        answered("far-away")
        load = Load(s, "client", url, 40, seconds=300)
        s.kubectl("scale", "deployment/web", "--replicas=1")
        s.kubectl("rollout", "status", "deployment/web", "--timeout=180s", timeout=200)
        answered("web-")
        s.kubectl("scale", "deployment/web", "--replicas=0")
        answered("far-away")
        # Another gateway in the place of this one.
        entry.kubectl("rollout", "restart", "deployment/entry")
        entry.kubectl("rollout", "status", "deployment/entry", "--timeout=240s", timeout=270)
        load.faultless(100)


@scenario
def a_waypoint_that_is_in_another_network_only_decides_there(lab):
    far = lab.peers[0]
    s = lab.space("ambient")
    t = far.space("ambient", name=s.name)
    for side in (s, t):
        side.apply(gateway("waypoint", "istio-waypoint", 15008, "HBONE"), account("client"), everywhere("web"))
        programmed(side, "waypoint")
        # As Istio's documentation has it.
        for name in ("web", "waypoint"):
            side.kubectl("label", "service", name, "istio.io/global=true", "--overwrite")
        side.kubectl("label", "service", "web", "istio.io/use-waypoint=waypoint")
    s.kubectl("scale", "deployment/waypoint", "--replicas=0")
    s.run(pod("client", serviceAccountName="client"))
    t.run(pod("web", hostname="far-away"))
    t.apply({"apiVersion": SECURITY, "kind": "AuthorizationPolicy", "metadata": {"name": "no-admin"}, "spec": {
        "targetRefs": [{"kind": "Service", "group": "", "name": "web"}], "action": "DENY", "rules": [
            {"from": [{"source": {"principals": ["cluster.local/ns/%s/sa/client" % s.name]}}],
             "to": [{"operation": {"paths": ["/admin*"]}}]}]}})
    east_west(far)
    s.wait_annotated("client")
    t.wait_annotated("web")
    url = "http://web.%s.svc.cluster.local" % s.name

    def status(path):
        return s.get("client", url + path)[1].split(" ")[0]
    with introduced(lab, far):
        wait_until("the far waypoint to decide", lambda: (status("/admin"), status("/")) == ("403", "200"), 120, every=0.3)
