# SPDX-License-Identifier: Apache-2.0
"""gateways.py: Envoys that istiod makes and configures, beside pods whose ztunnel is ours: a waypoint, one for the way out, and
an ingress gateway."""
import base64

from cluster import pki
from cri.daemon import wait_until

from ..lab import PORT, Load, account, container, pod, service
from ..scenario import scenario
from .mesh import NETWORKING, entry
from .policies import SECURITY, mtls

GATEWAY = "gateway.networking.k8s.io/v1"


def gateway(name, kind, port, protocol, annotations=None):
    return {"apiVersion": GATEWAY, "kind": "Gateway", "metadata": {"name": name, "annotations": annotations or {}}, "spec": {
        "gatewayClassName": kind, "listeners": [{"name": "all", "port": port, "protocol": protocol}]}}


def route(name, parent, *rules):
    return {"apiVersion": GATEWAY, "kind": "HTTPRoute", "metadata": {"name": name},
            "spec": {"parentRefs": [parent], "rules": list(rules)}}


def programmed(s, name):
    s.kubectl("wait", "--for=condition=Programmed", "--timeout=240s", "gateway/" + name, timeout=270)


@scenario
def a_waypoint_decides_on_paths_for_a_service(lab):
    s = lab.space("ambient")
    first, last = lab.names()[0], lab.names()[-1]
    s.run(gateway("waypoint", "istio-waypoint", 15008, "HBONE"), account("client"), account("other"), service("web", app="server"),
          service("second"), pod("server", node=last), pod("second", node=last), pod("client", node=first, serviceAccountName="client"),
          pod("other", node=first, serviceAccountName="other"))
    programmed(s, "waypoint")
    s.wait_annotated("server", "client", "other")
    base = "http://web.%s.svc.cluster.local" % s.name

    def status(client, path):
        return s.get(client, base + path)[1].split(" ")[0]
    # Before the waypoint is used nobody looks at paths.
    s.apply({"apiVersion": SECURITY, "kind": "AuthorizationPolicy", "metadata": {"name": "no-admin"}, "spec": {
        "targetRefs": [{"kind": "Service", "group": "", "name": "web"}], "action": "DENY", "rules": [
            {"from": [{"source": {"principals": ["cluster.local/ns/%s/sa/client" % s.name]}}],
             "to": [{"operation": {"paths": ["/admin*"]}}]}]}})
    wait_until("the service", lambda: status("client", "/admin") == "200", 90, every=0.2)
    # No load yet: istiod tells ztunnel of the waypoint and the waypoint of the service at once, and an Envoy that has not heard
    # answers 503 or closes.
    s.kubectl("label", "service", "web", "istio.io/use-waypoint=waypoint")
    wait_until("the waypoint to decide", lambda: status("client", "/admin") == "403", 90, every=0.2)
    # The identity is that of the client, not of the waypoint.
    wait_until("the waypoint to let others in", lambda: (status("client", "/"), status("other", "/admin")) == ("200", "200"), 90, every=0.2)
    load = Load(s, "other", base + "/", 30, seconds=300)
    s.apply(route("split", {"group": "", "kind": "Service", "name": "web", "port": 80},
                  {"matches": [{"path": {"type": "PathPrefix", "value": "/second"}}], "backendRefs": [{"name": "second", "port": 80}]},
                  {"backendRefs": [{"name": "web", "port": 80}]}))
    wait_until("the route to be used", lambda: "hello from second" in s.get("client", base + "/second")[1], 90, every=0.2)
    assert "hello from server" in s.must_get("client", base + "/first")
    # Another waypoint in the place of this one.
    s.kubectl("rollout", "restart", "deployment/waypoint")
    s.kubectl("rollout", "status", "deployment/waypoint", "--timeout=240s", timeout=270)
    assert status("client", "/admin") == "403"
    load.faultless(50)
    s.kubectl("label", "service", "web", "istio.io/use-waypoint-")
    wait_until("the waypoint to be out of the way", lambda: status("client", "/admin") == "200", 90, every=0.2)


@scenario
def an_ingress_gateway_reaches_pods_that_refuse_plaintext(lab):
    s = lab.space("ambient")
    s.apply(mtls("STRICT"))
    # No mesh for the gateway itself: it speaks HBONE.
    s.run(gateway("entry", "istio", 80, "HTTP", {"networking.istio.io/service-type": "ClusterIP"}), service("web", app="server"),
          pod("server", node=lab.names()[-1]), pod("out", node=lab.names()[0], mode="none"),
          route("all", {"name": "entry"}, {"backendRefs": [{"name": "web", "port": 80}]}))
    programmed(s, "entry")
    s.wait_annotated("server")
    wait_until("plaintext to be refused", lambda: not s.get("out", "http://%s:%d/" % (s.ip("server"), PORT), limit="2s")[0], 90, every=0.2)
    url = "http://entry-istio.%s.svc.cluster.local/" % s.name
    wait_until("the gateway to lead to the pod", lambda: s.get("out", url, n=3)[0], 90, every=0.2)
    load = Load(s, "out", url, 30, seconds=300)
    s.run(pod("more", labels={"app": "server"}))
    wait_until("the second pod to be reached, too", lambda: "hello from more" in s.get("out", url, n=10)[1], 90, every=0.2)
    load.faultless(20)


OUTSIDE, TLS_PORT = "outside.test", 18443


def tls_server(lab, s, node):
    """A server in the network of a node, no part of the mesh, that speaks TLS only; [CA of its certificate, another CA], both PEM."""
    right, other = (pki.Authority("%s/%s" % (lab.out, name)) for name in ("right-ca", "other-ca"))
    right.certificate("outside", OUTSIDE, dns=[OUTSIDE])
    pair = {f: base64.b64encode(right.read("outside." + end)).decode() for f, end in (("tls.crt", "crt"), ("tls.key", "key"))}
    probe = {"httpGet": {"scheme": "HTTPS", "path": "/", "port": TLS_PORT}, "periodSeconds": 1}
    serve = container("serve", "-c", "/tls/tls.crt", "-k", "/tls/tls.key", str(TLS_PORT), probes=probe,
                      volumeMounts=[{"name": "tls", "mountPath": "/tls"}])
    s.run({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "outside"}, "data": pair},
          pod("outside", node=node, hostNetwork=True, containers=[serve],
              volumes=[{"name": "tls", "secret": {"secretName": "outside"}}]))
    return [a.read("ca.crt").decode() for a in (right, other)]


def way_out():
    """A waypoint that other namespaces may use."""
    way = gateway("egress", "istio-waypoint", 15008, "HBONE")
    way["spec"]["listeners"][0]["allowedRoutes"] = {"namespaces": {"from": "All"}}
    return way


def by_waypoint(out, text):
    """Whether a server's answer says that it was asked by way_out() in the space @out."""
    pods = out.lab.kubectl.get("-n", out.name, "pods", "-l", "gateway.networking.k8s.io/gateway-name=egress")["items"]
    return any(" to %s:" % p["status"]["podIP"] in text for p in pods)


@scenario
def an_egress_waypoint_decides_on_paths_and_begins_tls(lab):
    s, out = lab.space("ambient"), lab.space()
    first, last = lab.names()[0], lab.names()[-1]
    out.apply(way_out())
    right, other = tls_server(lab, out, last)
    s.run(account("client"), account("other"), pod("client", node=first, serviceAccountName="client"),
          pod("other", node=last, serviceAccountName="other"),
          entry("outside", OUTSIDE, [], [out.ip("outside")], location="MESH_EXTERNAL",
                ports=[{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": TLS_PORT}]))
    programmed(out, "egress")
    s.wait_annotated("client", "other")

    def answer(client, path="/open"):
        return s.get(client, "http://%s%s" % (OUTSIDE, path))[1]

    def status(client, path="/open"):
        return answer(client, path).split(" ")[0]

    def trust(root):
        out.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "roots"}, "stringData": {"ca.crt": root}})
    # The server itself says that it is spoken to in the clear.
    wait_until("the name to lead outside", lambda: status("client") == "400", 90, every=0.2)
    s.apply({"apiVersion": SECURITY, "kind": "AuthorizationPolicy", "metadata": {"name": "open-only"}, "spec": {
        "targetRefs": [{"kind": "ServiceEntry", "group": "networking.istio.io", "name": "outside"}], "action": "ALLOW", "rules": [
            {"from": [{"source": {"principals": ["cluster.local/ns/%s/sa/client" % s.name]}}],
             "to": [{"operation": {"paths": ["/open*"]}}]}]}})
    s.kubectl("label", "serviceentry", "outside", "istio.io/use-waypoint=egress", "istio.io/use-waypoint-namespace=" + out.name)
    wait_until("the waypoint to decide", lambda: status("client", "/shut") == "403", 90, every=0.2)
    # The identity is the pod's. What it may is asked for in the clear, as before. The other node's ztunnel hears of it by itself.
    wait_until("both to be decided on", lambda: (status("other"), status("client")) == ("403", "400"), 90, every=0.2)
    # TLS is begun by the waypoint, which believes nobody but who it is told to believe.
    trust(other)
    s.apply({"apiVersion": NETWORKING, "kind": "DestinationRule", "metadata": {"name": "tls"}, "spec": {
        "host": OUTSIDE, "trafficPolicy": {"tls": {"mode": "SIMPLE", "credentialName": "roots", "sni": OUTSIDE,
                                                   "subjectAltNames": [OUTSIDE]}}}})
    wait_until("a server that nobody vouches for to be refused", lambda: status("client") == "503", 90, every=0.2)
    trust(right)
    wait_until("TLS to be begun", lambda: status("client") == "200", 90, every=0.2)
    text = answer("client")
    assert "by TLS for " + OUTSIDE in text and by_waypoint(out, text), text
    assert (status("client", "/shut"), status("other")) == ("403", "403")
    # Without its waypoint nothing goes out; not around it, either.
    out.kubectl("scale", "deployment/egress", "--replicas=0")
    for name in ("client", "other"):
        wait_until("nothing to go out of " + name, lambda n=name: not status(n)[:1].isdigit(), 90, every=0.2)
    served = len(out.kubectl("logs", "outside").split(" /open from "))
    assert served > 1, out.kubectl("logs", "outside")
    answer("client"), answer("other")
    assert len(out.kubectl("logs", "outside").split(" /open from ")) == served


@scenario
def a_wildcard_leads_out_by_the_name_that_is_asked_for(lab):
    s, out = lab.space("ambient"), lab.space()
    first, last = lab.names()[0], lab.names()[-1]
    # Names that only the cluster's DNS knows, one by one: those of pods behind a headless service.
    headless = service("hosts", target=80)
    headless["spec"]["clusterIP"] = "None"
    probe = {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1}
    out.run(way_out(), headless, *[pod(n, "serve", "80", probes=probe, node=last, hostname=n, subdomain="hosts", labels={"app": "hosts"})
                                   for n in ("one", "two")])
    s.run(pod("client", node=first))
    programmed(out, "egress")
    s.wait_annotated("client")
    zone = "hosts.%s.svc.cluster.local" % out.name

    def answer(name):
        return s.get("client", "http://%s.%s/" % (name, zone))[1]
    wait_until("the names", lambda: all("hello from " + n in answer(n) for n in ("one", "two")), 90, every=0.2)
    assert not by_waypoint(out, answer("one"))
    # The port is that of the name which is asked for: a targetPort would be no part of it.
    wild = entry("wild", "*." + zone, [], location="MESH_EXTERNAL", resolution="DYNAMIC_DNS",
                 ports=[{"number": 80, "name": "http", "protocol": "HTTP"}])
    wild["metadata"]["labels"] = {"istio.io/use-waypoint": "egress", "istio.io/use-waypoint-namespace": out.name}
    s.apply(wild)
    for name in ("one", "two"):
        wait_until("%s by the waypoint" % name, lambda n=name: "hello from " + n in answer(n) and by_waypoint(out, answer(n)), 90, every=0.2)
    s.apply({"apiVersion": SECURITY, "kind": "AuthorizationPolicy", "metadata": {"name": "not-two"}, "spec": {
        "targetRefs": [{"kind": "ServiceEntry", "group": "networking.istio.io", "name": "wild"}], "action": "DENY",
        "rules": [{"to": [{"operation": {"hosts": ["two.*"]}}]}]}})
    wait_until("one name to be denied", lambda: answer("two").startswith("403 "), 90, every=0.2)
    assert "hello from one" in answer("one"), answer("one")
    # Who asks for no such name is told so by the waypoint.
    wait_until("the waypoint to know no such name", lambda: answer("nobody").startswith("503 "), 90, every=0.2)
