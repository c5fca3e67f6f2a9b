# SPDX-License-Identifier: Apache-2.0
"""kube_server.py: a real kube-apiserver and etcd in a test's host namespace. They come from one multi-call binary,
KUBE_HARNESS or .cache/kube/bin/harness; without it the test is skipped."""
import ctypes
import http.client
import json
import os
import ssl
import subprocess
import threading
import time

from agent_lab import Pod, Skip, until
from kube_api import NODE, Pki, certificate, kubeconfig

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HARNESS = os.environ.get("KUBE_HARNESS", ROOT + "/.cache/kube/bin/harness")
LIBC = ctypes.CDLL(None, use_errno=True)
API, ETCD, PEER = 6443, 2379, 2380
ADMIN, AGENT = "admin-token", "agent-token"


class Cluster:
    """etcd and an API server in the world's host namespace, on loopback and on the addresses @ips that it has."""

    def __init__(self, w, ips=()):
        if not os.access(HARNESS, os.X_OK):
            raise Skip("no " + HARNESS)
        self.w, self.procs = w, {}
        self.bind = "0.0.0.0" if ips else "127.0.0.1"
        self.pki = Pki(w.dir, ips=("127.0.0.1", *ips), dns=("localhost",))
        cert, key, _ = certificate("sa")
        self.pki.write("sa.pem", key + cert)
        with open(w.dir + "/tokens.csv", "w") as f:
            f.write('%s,admin,1,"system:masters"\n%s,ambient,2\n' % (ADMIN, AGENT))
        w.peers.append(self)
        self.start_etcd()
        self.start_api()
        self.rights()

    def spawn(self, name, *args):
        log = open(self.w.dir + "/%s.log" % name, "ab")
        self.procs[name] = subprocess.Popen(["nsenter", "--net=/var/run/netns/" + self.w.host, HARNESS, *args],
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start_etcd(self):
        url, peer = "http://127.0.0.1:%d" % ETCD, "http://127.0.0.1:%d" % PEER
        self.spawn("etcd", "etcd", "--data-dir", self.w.dir + "/etcd", "--unsafe-no-fsync", "--listen-client-urls", url,
                   "--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                   "--initial-cluster", "default=" + peer)

    def start_api(self):
        p = self.pki.path
        self.spawn("api", "kube-apiserver", "--etcd-servers=http://127.0.0.1:%d" % ETCD, "--bind-address=" + self.bind,
                   "--advertise-address=127.0.0.1", "--secure-port=%d" % API, "--service-cluster-ip-range=10.255.0.0/24",
                   "--tls-cert-file=" + p("server.pem"), "--tls-private-key-file=" + p("server.pem"),
                   "--client-ca-file=" + p("ca.crt"), "--token-auth-file=" + self.w.dir + "/tokens.csv",
                   "--service-account-issuer=https://test", "--service-account-key-file=" + p("sa.pem"),
                   "--service-account-signing-key-file=" + p("sa.pem"), "--authorization-mode=RBAC",
                   "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none", "--profiling=false",
                   "--cert-dir=" + self.w.dir + "/certs")
        until("the API server is ready", self.ready, 120)

    def ready(self):
        if self.procs["api"].poll() is not None:
            with open(self.w.dir + "/api.log", errors="replace") as f:
                raise AssertionError("kube-apiserver ended: " + f.read()[-2000:])
        try:  # the namespace is made in the background, and may come after the server says that it is ready
            return self.call("GET", "/readyz")[0] == self.call("GET", "/api/v1/namespaces/default")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def end(self, name):
        p = self.procs.pop(name, None)
        if p is not None:
            p.kill()
            p.wait()

    def close(self):
        for name in list(self.procs):
            self.end(name)

    def call(self, method, path, body=None, kind="application/json", token=ADMIN):
        """One request from inside the namespace: a thread goes there."""
        out = []

        def work():
            fd = os.open("/var/run/netns/" + self.w.host, os.O_RDONLY)
            try:
                assert LIBC.setns(fd, 0x40000000) == 0
                ctx = ssl.create_default_context(cafile=self.pki.path("ca.crt"))
                c = http.client.HTTPSConnection("127.0.0.1", API, timeout=20, context=ctx)
                c.request(method, path, body=json.dumps(body) if body is not None else None,
                          headers={"Authorization": "Bearer " + token, "Content-Type": kind})
                r = c.getresponse()
                data = r.read()
                c.close()
                out.append((r.status, json.loads(data) if data[:1] == b"{" else data))
            except (OSError, http.client.HTTPException) as e:
                out.append(e)
            finally:
                os.close(fd)
        t = threading.Thread(target=work)
        t.start()
        t.join()
        if isinstance(out[0], Exception):
            raise out[0]
        return out[0]

    def must(self, *args, **kw):
        status, doc = self.call(*args, **kw)
        assert status in (200, 201), (status, doc)
        return doc

    def rights(self):
        """The least that docs/kubernetes.md names."""
        group = "rbac.authorization.k8s.io"
        self.must("POST", "/apis/%s/v1/clusterroles" % group, {
            "metadata": {"name": "ambient"},
            "rules": [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
                      {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}]})
        self.must("POST", "/apis/%s/v1/clusterrolebindings" % group, {
            "metadata": {"name": "ambient"}, "subjects": [{"kind": "User", "name": "ambient", "apiGroup": group}],
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "ambient"}})

    def namespace(self, name):
        self.must("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def pod(self, w, name, ns="default", mode=None):
        """A pod of the API, bound and running, and its network namespace; the UID is the API's."""
        labels = {"istio.io/dataplane-mode": mode} if mode else {}
        doc = self.must("POST", "/api/v1/namespaces/%s/pods" % ns, {
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": NODE, "serviceAccountName": "sa-" + name, "automountServiceAccountToken": False,
                     "containers": [{"name": "c", "image": "none"}]}})
        p = Pod(w, name, ns=ns, uid=doc["metadata"]["uid"])
        self.must("PATCH", "/api/v1/namespaces/%s/pods/%s/status" % (ns, name),
                  {"status": {"phase": "Running", "podIP": p.ip, "podIPs": [{"ip": p.ip}]}},
                  kind="application/merge-patch+json")
        return p

    def label(self, path, mode):
        self.must("PATCH", path, {"metadata": {"labels": {"istio.io/dataplane-mode": mode}}},
                  kind="application/merge-patch+json")
        return time.monotonic()

    def annotation(self, name, ns="default"):
        doc = self.must("GET", "/api/v1/namespaces/%s/pods/%s" % (ns, name))
        return doc["metadata"].get("annotations", {}).get("ambient.istio.io/redirection")


def agent(w, token=AGENT):
    path = kubeconfig(w.dir + "/kubeconfig", "https://127.0.0.1:%d" % API, w.dir + "/ca.crt", token=token)
    w.start("--source", "kubernetes", "--kubeconfig", path, "--node-name", NODE)
