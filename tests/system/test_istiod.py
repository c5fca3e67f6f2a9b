#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ztunnel with a real istiod (a plain process, no pods, no webhooks), kube-apiserver and etcd: the mesh is made of API
objects, the pods are network namespaces. istiod is ISTIOD or .cache/istio/bin/pilot-discovery, the others one multi-call
binary (kube_server.py); without them the test is skipped. Run as root."""
import json
import os
import subprocess
import sys
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kube_api import kubeconfig  # noqa: E402
from kube_server import ADMIN, API, HARNESS, ROOT, Cluster  # noqa: E402
from ztlab import Lab, Skip, double_echo, wait_for  # noqa: E402
from ztsite import ARGS, check, main, refused, works  # noqa: E402

ISTIOD = os.environ.get("ISTIOD", ROOT + "/.cache/istio/bin/pilot-discovery")
MERGE = "application/merge-patch+json"
SECURITY = "/apis/security.istio.io/v1/namespaces/%s/"


def crd(group, kind, plural, version):
    """Istio's custom resources by name only: the schemas are istiod's business."""
    return {"metadata": {"name": "%s.%s" % (plural, group)},
            "spec": {"group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
                     "versions": [{"name": version, "served": True, "storage": True, "subresources": {"status": {}},
                                   "schema": {"openAPIV3Schema": {"type": "object",
                                                                  "x-kubernetes-preserve-unknown-fields": True}}}]}}


CRDS = [crd("security.istio.io", "AuthorizationPolicy", "authorizationpolicies", "v1"),
        crd("security.istio.io", "PeerAuthentication", "peerauthentications", "v1")]


class Site:
    def __init__(self):
        for path in (ISTIOD, HARNESS):
            if not os.access(path, os.X_OK):
                raise Skip("no " + path)
        self.lab = Lab(ARGS.bin, 3, {})
        self.istiod = self.zt = None
        self.world = types.SimpleNamespace(dir=self.lab.dir, host=self.lab.node.name, peers=[])
        try:
            self.cluster = Cluster(self.world)
            self.must = self.cluster.must
            for c in CRDS:
                self.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", c)
            self.cluster.namespace("istio-system")
            self.must("POST", "/api/v1/nodes", {"metadata": {"name": self.lab.node_name}})
            for sa in ("istiod", "ztunnel"):
                self.must("POST", "/api/v1/namespaces/istio-system/serviceaccounts", {"metadata": {"name": sa}})
            self.config = kubeconfig(self.lab.dir + "/kubeconfig", "https://127.0.0.1:%d" % API,
                                     self.cluster.pki.path("ca.crt"), token=ADMIN)
            self.start_istiod()
            self.a, self.b = self.pod("a", 2), self.pod("b", 3)
            self.b.serve(8080, double_echo)
            self.start()
        except BaseException:
            self.show()
            self.close()
            raise

    def show(self):
        logs = [self.lab.dir + "/istiod.log"] + [zt.log_path for zt in self.lab.zts]
        for path in logs:
            if os.path.exists(path):
                with open(path, errors="replace") as f:
                    print("# %s\n# %s" % (path, f.read()[-4000:].replace("\n", "\n# ")))

    # --- istiod ----------------------------------------------------------------------------------

    def start_istiod(self):
        env = {"PATH": os.environ["PATH"], "HOME": self.lab.dir, "POD_NAME": "istiod-0", "POD_NAMESPACE": "istio-system",
               "SERVICE_ACCOUNT": "istiod", "REVISION": "default", "CLUSTER_ID": "Kubernetes",
               "PILOT_CERT_PROVIDER": "istiod", "PILOT_ENABLE_AMBIENT": "true",
               "CA_TRUSTED_NODE_ACCOUNTS": "istio-system/ztunnel", "INJECTION_WEBHOOK_CONFIG_NAME": "",
               "VALIDATION_WEBHOOK_CONFIG_NAME": "", "ISTIOD_CUSTOM_HOST": "localhost"}
        log = open(self.lab.dir + "/istiod.log", "ab")
        self.istiod = subprocess.Popen(
            ["nsenter", "--net=" + self.lab.node.path, ISTIOD, "discovery", "--kubeconfig", self.config, "--domain",
             "cluster.local", "--monitoringAddr=127.0.0.1:15014"], env=env, cwd=self.lab.dir, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log)
        wait_for("istiod to be ready", self.istiod_ready, 120)

    def istiod_ready(self):
        check(self.istiod.poll() is None, "istiod ended")
        try:
            with self.lab.node.connect(("127.0.0.1", 8080), 2) as s:
                s.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return s.recv(100).split(b" ")[1] == b"200"
        except (OSError, IndexError):
            return False

    def stop_istiod(self):
        if self.istiod:
            self.istiod.kill()
            self.istiod.wait()
            self.istiod = None

    # --- objects ---------------------------------------------------------------------------------

    def make_pod(self, name, ns, ip, sa, mesh=True, node=None):
        doc = self.must("POST", "/api/v1/namespaces/%s/pods" % ns, {
            "metadata": {"name": name, "labels": {"app": name, "istio.io/dataplane-mode": "ambient"} if mesh else {},
                         "annotations": {"ambient.istio.io/redirection": "enabled"} if mesh else {}},
            "spec": {"nodeName": node or self.lab.node_name, "serviceAccountName": sa, "automountServiceAccountToken": False,
                     "containers": [{"name": "c", "image": "none"}]}})
        self.must("PATCH", "/api/v1/namespaces/%s/pods/%s/status" % (ns, name), {"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}},
            kind=MERGE)
        return doc["metadata"]["uid"]

    def pod(self, name, host):
        p = self.lab.pod(name, host)
        self.make_pod(name, "default", p.ip, p.sa)
        return p

    def policy(self, name, **spec):
        self.must("POST", SECURITY % "default" + "authorizationpolicies",
                  {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": name},
                   "spec": spec})

    # --- ztunnel ---------------------------------------------------------------------------------

    def root(self):
        return self.cluster.call("GET", "/api/v1/namespaces/istio-system/configmaps/istio-ca-root-cert")[1].get(
            "data", {}).get("root-cert.pem")

    def write_root(self):
        """What the kubelet does with the ConfigMap."""
        with open(self.lab.dir + "/root-cert.pem.new", "w") as f:
            f.write(self.root())
        os.rename(self.lab.dir + "/root-cert.pem.new", self.lab.dir + "/root-cert.pem")

    def start(self):
        wait_for("istiod's root", self.root, 60)
        self.write_root()
        uid = self.make_pod("ztunnel-1", "istio-system", "10.77.0.1", "ztunnel", mesh=False)
        doc = self.must("POST", "/api/v1/namespaces/istio-system/serviceaccounts/ztunnel/token", {
            "spec": {"audiences": ["istio-ca"],
                     "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "ztunnel-1", "uid": uid}}})
        with open(self.lab.dir + "/token", "w") as f:
            f.write(doc["status"]["token"])
        self.env = dict(XDS_ADDRESS="https://localhost:15012", XDS_ROOT_CA=self.lab.dir + "/root-cert.pem",
                        CA_ROOT_CA=self.lab.dir + "/root-cert.pem", AUTH_TOKEN=self.lab.dir + "/token", LOCAL_XDS_PATH="",
                        POD_NAME="ztunnel-1", POD_NAMESPACE="istio-system", INSTANCE_IP="10.77.0.1")
        self.zt = self.lab.start(**self.env)

    def works(self):
        return works(self.a, self.b.ip)

    def refused(self):
        return refused(self.a, self.b.ip)

    def close(self):
        if self.zt is not None and sys.exc_info()[0] is not None:
            self.show()
        self.stop_istiod()
        for p in self.world.peers:
            p.close()
        self.lab.close()


SITE = []


def site():
    if not SITE:
        SITE.append(Site())
    return SITE[0]


def connects():
    """Workloads and certificates come, and traffic is carried under istiod's identities."""
    s = site()
    wait_for("traffic", s.works, 60)
    uids = {w["uid"] for w in s.zt.dump()["workloads"]}
    check({"Kubernetes//Pod/default/a", "Kubernetes//Pod/default/b"} <= uids, uids)
    s.zt.wait_line("certificate issued", "spiffe://cluster.local/ns/default/sa/a")
    check(len(s.zt.lines("certificate issued", "spiffe://cluster.local/ns/default/sa/a")) == 1, s.zt.log())
    check(s.zt.dump()["localState"]["error"] == "", s.zt.dump()["localState"])
    check(any(x["hostname"] == "kubernetes.default.svc.cluster.local" for x in s.zt.dump()["services"]))


def policy_takes_effect():
    """An AuthorizationPolicy made, changed and deleted through the API; a PeerAuthentication that is strict."""
    s = site()
    s.policy("only-c", rules=[{"from": [{"source": {"principals": ["cluster.local/ns/default/sa/c"]}}]}])
    wait_for("the denial", s.refused, 60)
    s.zt.wait_line("allow policies exist, but none allowed")
    s.must("PATCH", SECURITY % "default" + "authorizationpolicies/only-c", {"spec": {"rules": [
        {"from": [{"source": {"principals": ["cluster.local/ns/default/sa/a"]}}], "to": [{"operation": {"ports": ["8080"]}}]}]}},
        kind=MERGE)
    wait_for("the change", s.works, 60)
    s.must("DELETE", SECURITY % "default" + "authorizationpolicies/only-c")
    s.policy("no-a", action="DENY", selector={"matchLabels": {"app": "b"}},
             rules=[{"from": [{"source": {"serviceAccounts": ["default/a"]}}]}])
    wait_for("a denial by selector", s.refused, 60)
    s.must("DELETE", SECURITY % "default" + "authorizationpolicies/no-a")
    wait_for("no denial", s.works, 60)
    plain = s.lab.pod("plain", 9, captured=False)
    check(works(plain, s.b.ip), "plaintext is permitted")
    s.must("POST", SECURITY % "default" + "peerauthentications", {
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
        "spec": {"mtls": {"mode": "STRICT"}}})
    wait_for("plaintext is refused", lambda: refused(plain, s.b.ip), 60)
    check(s.works(), "mutual TLS goes on")
    s.must("DELETE", SECURITY % "default" + "peerauthentications/default")
    wait_for("plaintext again", lambda: works(plain, s.b.ip), 60)


def service_and_endpoints():
    """A Service's address leads to the pod behind it."""
    s = site()
    doc = s.must("POST", "/api/v1/namespaces/default/services", {
        "metadata": {"name": "web"}, "spec": {"selector": {"app": "b"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    vip = doc["spec"]["clusterIP"]
    wait_for("the service", lambda: works(s.a, vip, 80), 60)
    s.must("DELETE", "/api/v1/namespaces/default/services/web")


def istiod_away_and_back():
    """istiod is killed: traffic goes on. What changed meanwhile is in force when it is back."""
    s = site()
    s.stop_istiod()
    s.zt.wait_line("no stream from istiod, the last state stays in use")
    check(s.works(), "without istiod")
    s.policy("no-a", action="DENY", rules=[{"from": [{"source": {"principals": ["cluster.local/ns/default/sa/a"]}}]}])
    check(s.works(), "still the old state")
    s.start_istiod()
    wait_for("the policy made meanwhile", s.refused, 60)
    s.stop_istiod()
    s.must("DELETE", SECURITY % "default" + "authorizationpolicies/no-a")
    s.start_istiod()
    wait_for("its removal meanwhile", s.works, 60)
    check(s.zt.metric("ambient_xds_connected") == 1)


def killed_while_istiod_is_away():
    """Both are killed: the next ztunnel serves with the state and certificates of before; what was removed meanwhile goes."""
    s = site()
    s.lab.agent.collect([s.a.identity, s.b.identity])
    s.policy("not-8082", action="DENY", rules=[{"from": [{"source": {"principals": ["cluster.local/ns/default/sa/a"]}}],
                                            "to": [{"operation": {"ports": ["8082"]}}]}])
    s.b.serve(8082, double_echo)
    wait_for("the denial", lambda: refused(s.a, s.b.ip, 8082), 60)
    kept = s.lab.dir + "/kept/ztunnel.mesh"
    wait_for("the policy in the file", lambda: os.path.exists(kept) and b"not-8082" in open(kept, "rb").read())
    s.stop_istiod()
    s.must("DELETE", SECURITY % "default" + "authorizationpolicies/not-8082")
    s.zt.kill()
    s.zt = s.lab.start(serve=False, **s.env)
    s.lab.agent.serve([p for p in s.lab.pods if p.captured])
    s.zt.wait_line("serving the last good state")
    check(s.works(), "without istiod")
    check(refused(s.a, s.b.ip, 8082), "the policy is in force")
    wait_for("a line for each", lambda: len(s.zt.lines("the certificate of before is used")) == 2)
    s.start_istiod()
    wait_for("the removal", lambda: works(s.a, s.b.ip, 8082), 60)
    wait_for("a current state", s.zt.ready, 60)
    check(not s.zt.dump()["localState"]["stale"])


def new_pod():
    """A pod that appears gets a certificate; one that ends is forgotten."""
    s = site()
    c = s.pod("c", 20)
    check(s.lab.agent.add(c) == "")
    s.zt.wait_line("certificate issued", "sa/c", timeout=60)
    wait_for("traffic", lambda: works(c, s.b.ip), 60)
    s.must("DELETE", "/api/v1/namespaces/default/pods/c?gracePeriodSeconds=0")
    wait_for("it is gone", lambda: "//Pod/default/c" not in json.dumps(s.zt.dump()["workloads"]), 60)


def root_rotates():
    """istiod comes back with another root: refused until our file follows, then all certificates change, traffic goes on."""
    s = site()
    old = s.root()
    s.stop_istiod()
    s.must("DELETE", "/api/v1/namespaces/istio-system/secrets/istio-ca-secret")
    s.start_istiod()
    s.zt.wait_line("no stream from istiod, the last state stays in use", "the server's certificate is not valid", timeout=90)
    check(s.works(), "with the old certificates")
    wait_for("the new root in the ConfigMap", lambda: s.root() not in (None, old), 60)
    s.write_root()
    wait_for("a stream", lambda: s.zt.metric("ambient_xds_connected") == 1, 60)
    d = s.pod("d", 21)
    check(s.lab.agent.add(d) == "")
    s.zt.wait_line("the CA has other roots", timeout=60)
    for sa in "ab":
        s.zt.wait_line("certificate renewed", "sa/%s " % sa, timeout=60)
    wait_for("traffic", s.works, 60)
    wait_for("traffic of the new pod", lambda: works(d, s.b.ip), 60)


def on_demand():
    """XDS_ON_DEMAND with a real istiod: a pod elsewhere, a service and who comes to stand behind it are found when they
    are needed, and an address that nobody has is no part of the mesh."""
    s = site()
    check(s.zt.stop() == 0, s.zt.log()[-3000:])
    far, next_one, alien = (s.lab.pod(n, h, captured=False) for n, h in (("far", 30), ("next", 31), ("alien", 32)))
    for p in (far, next_one, alien):
        p.serve(8080, double_echo)
    s.make_pod("far", "default", far.ip, "far", mesh=False, node="elsewhere")
    s.zt = s.lab.start(**dict(s.env, XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false", AMBIENT_STATE_DIR=""))

    def known():
        return {w["name"] for w in s.zt.dump()["workloads"]}
    wait_for("traffic between pods of this node", s.works, 60)
    check("far" not in known() and not s.zt.dump()["services"], known(), s.zt.dump()["services"])
    check(works(s.a, alien.ip), "nobody has it")
    check(works(s.a, far.ip) and "far" in known(), "a pod elsewhere", known())
    s.must("PATCH", "/api/v1/namespaces/default/pods/far", {"metadata": {"labels": {"app": "web"}}}, kind=MERGE)
    vip = s.must("POST", "/api/v1/namespaces/default/services", {
        "metadata": {"name": "web2"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})[
            "spec"]["clusterIP"]
    wait_for("the service", lambda: works(s.a, vip, 80), 60)
    s.make_pod("next", "default", next_one.ip, "next", mesh=False, node="elsewhere")
    s.must("PATCH", "/api/v1/namespaces/default/pods/next", {"metadata": {"labels": {"app": "web"}}}, kind=MERGE)
    s.must("DELETE", "/api/v1/namespaces/default/pods/far?gracePeriodSeconds=0")
    wait_for("the removal", lambda: "far" not in known(), 60)
    wait_for("the one that came instead", lambda: works(s.a, vip, 80) and "next" in known(), 60)
    check(s.zt.metric("ambient_xds_on_demand_unanswered_total") == 0, s.zt.log()[-3000:])
    s.make_pod("alien", "default", alien.ip, "alien", mesh=False, node="elsewhere")
    wait_for("it is somebody now", lambda: works(s.a, alien.ip) and "alien" in known(), 60)


def ends():
    s = site()
    check(s.zt.stop() == 0, s.zt.log()[-3000:])


if __name__ == "__main__":
    try:
        status = main([connects, policy_takes_effect, service_and_endpoints, istiod_away_and_back,
                       killed_while_istiod_is_away, new_pod, root_rotates, on_demand, ends])
    finally:
        for x in SITE:
            x.close()
    sys.exit(status)
