#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ambientctl export-state: from the Kubernetes API (a scripted one, kube_api.py; and a real one where it was built,
kube_server.py) to a file that ztunnel takes, and to connections of two pods. Run as root."""
import os
import re
import signal
import subprocess
import sys
import time

import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import agent_lab  # noqa: E402
import kube_api  # noqa: E402
import kube_server  # noqa: E402
import ztlab  # noqa: E402
import ztsite  # noqa: E402
from ztlab import wait_for  # noqa: E402
from ztsite import ARGS, check, refused, works  # noqa: E402

HBONE = {"ambient.istio.io/redirection": "enabled"}
POLICIES = "authorizationpolicies"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Tags of the state file: !Exact text becomes ("Exact", "text"). In C: the other takes minutes for 5,000 pods."""


Loader.add_multi_constructor("!", lambda loader, tag, node: (
    tag, loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else loader.construct_sequence(node)))


def pod(name, ip, ns="default", labels=None, annotations=None, node="node1", **more):
    meta = {"name": name, "namespace": ns, "uid": "uid-" + name, "labels": dict(labels or {"app": name}),
            "annotations": dict(annotations or {})}
    return {"metadata": dict(meta, **more),
            "spec": {"nodeName": node, "serviceAccountName": name, "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                       "conditions": [{"type": "Ready", "status": "True"}]}}


def service(name, vip, app, port=80, target=8080, ns="default"):
    return {"metadata": {"name": name, "namespace": ns},
            "spec": {"clusterIP": vip, "clusterIPs": [vip], "selector": {"app": app},
                     "ports": [{"name": "http", "port": port, "targetPort": target}]}}


def policy(name, ns="default", **spec):
    return {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": ns}, "spec": spec}


class World:
    """The node of a lab, with an API server in its namespace."""

    def __init__(self, serve=True):
        self.lab = ztlab.Lab(ARGS.bin)
        self.dir, self.procs = self.lab.dir, []
        self.file = self.lab.state_path
        self.api = None
        if serve:
            pki = kube_api.Pki(self.dir)
            self.api = kube_api.Api(pki, self.lab.node.name).start()
            for name in ("default", "istio-system"):
                self.api.put("namespaces", {"metadata": {"name": name}})
            self.config("https://127.0.0.1:%d" % self.api.port)

    def config(self, server, token="t0ken"):
        self.kubeconfig = kube_api.kubeconfig(self.dir + "/kubeconfig", server, self.dir + "/ca.crt", token=token)

    def argv(self, *args):
        return ["ip", "netns", "exec", self.lab.node.name, os.path.join(ARGS.bin, "ambientctl"), "export-state",
                "--kubeconfig", self.kubeconfig, *args]

    def env(self):
        keep = ("PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS")
        return {k: os.environ[k] for k in keep if k in os.environ}

    def once(self, *args):
        return subprocess.run(self.argv(*args), env=self.env(), capture_output=True, text=True, timeout=60)

    def watch(self, *args, file=None):
        self.log_path = self.dir + "/export.log"
        with open(self.log_path, "ab") as log:
            self.procs.append(subprocess.Popen(self.argv("--watch", "--file", file or self.file, *args),
                                               env=self.env(), stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        return self.procs[-1]

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def state(self):
        try:
            with open(self.file) as f:
                return yaml.load(f, Loader)
        except FileNotFoundError:
            return None

    def names(self, kind="workloads"):
        s = self.state()
        return [x["name"] for x in s[kind]] if s else None

    def end(self, p):
        p.send_signal(signal.SIGTERM)
        return p.wait(15)

    def close(self):
        for p in self.procs:
            if p.poll() is None:
                p.kill()
                p.wait()
        if self.api is not None:
            self.api.close()
        self.lab.close()


def within(serve=True):
    """A test with a world of its own; its log is shown when it fails."""
    def wrap(fn):
        def run():
            w = World(serve)
            try:
                fn(w)
                for p in w.procs:
                    if p.poll() is None:
                        check(w.end(p) == 0, "export-state ended with", p.returncode)
            except BaseException:
                if w.procs:
                    print("# " + w.log()[-4000:].replace("\n", "\n# "))
                raise
            finally:
                w.close()
        run.__name__ = fn.__name__
        return run
    return wrap


# --- once ---

@within()
def once__standard_output_is_the_file(w):
    w.api.put("pods", pod("web", "10.0.0.2", annotations=HBONE))
    w.api.put("services", service("web", "10.96.0.1", "web"))
    r = w.once()
    check(r.returncode == 0 and r.stderr == "", r.returncode, r.stderr)
    s = yaml.load(r.stdout, Loader)
    check([x["name"] for x in s["workloads"]] == ["web"] and s["workloads"][0]["protocol"] == "HBONE", s)
    check(s["workloads"][0]["services"] == {"default/web.default.svc.cluster.local": {80: 8080}}, s)
    check(s["services"][0]["vips"] == ["/10.96.0.1"] and s["policies"] == [], s)
    r2 = w.once("--file", w.file)
    check(r2.returncode == 0 and r2.stdout == "" and open(w.file).read() == r.stdout, r2)


@within()
def once__equal_file_is_not_written_again(w):
    w.api.put("pods", pod("web", "10.0.0.2"))
    check(w.once("--file", w.file).returncode == 0)
    before = os.stat(w.file)
    check(w.once("--file", w.file).returncode == 0)
    check(os.stat(w.file).st_ino == before.st_ino, "the file was replaced by the same")
    w.api.put("pods", pod("db", "10.0.0.3"))
    check(w.once("--file", w.file).returncode == 0 and w.names() == ["db", "web"])
    check(os.stat(w.file).st_mode & 0o777 == 0o644, oct(os.stat(w.file).st_mode))
    check([f for f in os.listdir(w.dir) if ".tmp" in f] == [], os.listdir(w.dir))


@within()
def once__names_of_the_cluster(w):
    w.api.put("pods", pod("web", "10.0.0.2"))
    w.api.put("services", service("web", "10.96.0.1", "web"))
    r = w.once("--cluster-id", "east", "--trust-domain", "example.org", "--cluster-domain", "k8s.local")
    s = yaml.load(r.stdout, Loader)
    x = s["workloads"][0]
    check((x["clusterId"], x["trustDomain"], x["uid"]) == ("east", "example.org", "east//Pod/default/web"), x)
    check(s["services"][0]["hostname"] == "web.default.svc.k8s.local", s)


@within()
def once__pages(w):
    w.api.page = 7
    for i in range(30):
        w.api.put("pods", pod("p%02d" % i, "10.0.0.%d" % (i + 2)))
    check(w.once("--file", w.file).returncode == 0 and len(w.names()) == 30, w.names())


def fails(w, status, *words):
    began = time.monotonic()
    r = w.once("--file", w.file)
    check(r.returncode == status and all(x in r.stderr for x in words), r.returncode, r.stderr)
    check(not os.path.exists(w.file), "a file was written")
    check(time.monotonic() - began < 25, "it was tried again for its 30 seconds")


@within()
def once__forbidden_names_the_resource(w):
    w.api.make_trouble(lambda r: r.status(403, 'nodes is forbidden: User "x" cannot list resource "nodes"'),
                       resource="nodes", times=9)
    fails(w, 3, "read nodes", "403", "cannot list")


@within()
def once__forbidden_policies_are_not_absent_ones(w):
    w.api.make_trouble(lambda r: r.status(403, "forbidden"), resource=POLICIES, times=9)
    fails(w, 3, "read authorizationpolicies", "403")


@within()
def once__token_that_is_not_valid(w):
    w.config("https://127.0.0.1:%d" % w.api.port, token="wrong")
    fails(w, 3, "401")


@within()
def once__nobody_listens(w):
    w.api.stop()
    fails(w, 3, "no connection to the Kubernetes API", "refused")


@within()
def once__another_authority(w):
    other = w.dir + "/other"
    os.mkdir(other)
    kube_api.Pki(other)
    w.kubeconfig = kube_api.kubeconfig(w.dir + "/kubeconfig", "https://127.0.0.1:%d" % w.api.port, other + "/ca.crt",
                                       token="t0ken")
    fails(w, 3, "no connection to the Kubernetes API", "certificate")


@within()
def once__what_is_about_the_moment_is_tried_again(w):
    w.api.put("pods", pod("web", "10.0.0.2"))
    w.api.make_trouble(lambda r: r.status(500, "etcd"), resource="pods", times=2)
    w.api.make_trouble(lambda r: r.status(429, "busy", retry_after="1"), resource="services")
    w.api.make_trouble(lambda r: r.reset(), resource="nodes")
    r = w.once("--file", w.file)
    check(r.returncode == 0 and w.names() == ["web"], r)


@within()
def once__file_that_cannot_be_written(w):
    w.file = w.dir + "/no/such/folder"
    fails(w, 1, "no/such/folder")


@within(serve=False)
def usage__what_makes_no_sense_is_refused(w):
    w.kubeconfig = w.dir + "/missing"
    for args, status, words in ((("--watch",), 2, "--file"), (("--file", ""), 2, "path"),
                                (("--trust-domain", "a/b"), 2, "trust domain"), (("-o", "json"), 2, "YAML"),
                                (("extra",), 2, "extra"), ((), 3, "missing")):
        r = w.once(*args)
        check(r.returncode == status and words in r.stderr, args, r.returncode, r.stderr)
    r = w.once("--watch", "--file", w.file)
    check(r.returncode == 3 and "missing" in r.stderr, r)


# --- watch ---

@within()
def watch__follows_and_writes_only_news(w):
    w.api.put("pods", pod("web", "10.0.0.2"))
    w.watch()
    wait_for("the file", lambda: w.names() == ["web"])
    first = os.stat(w.file).st_ino
    at = w.api.put("pods", pod("db", "10.0.0.3", annotations=HBONE))
    wait_for("the second pod", lambda: w.names() == ["db", "web"])
    print("# from the change at the API server to the new file: %.0f ms" % ((time.monotonic() - at) * 1000))
    second = os.stat(w.file).st_ino
    check(first != second, "the file was changed in place")
    # what the mesh does not care for
    w.api.change("pods", "default", "db", lambda o: o["metadata"].update(managedFields=[{"x": 1}]))
    w.api.change("pods", "default", "db", lambda o: o["metadata"]["labels"].update({"nobody": "selects-this"}))
    w.api.put("pods", pod("last", "10.0.0.4"))
    wait_for("the third pod", lambda: "last" in w.names())
    w.api.delete("pods", "default", "last")
    wait_for("it is gone", lambda: w.names() == ["db", "web"])
    w.api.change("pods", "default", "db", lambda o: o["status"].update(phase="Succeeded"))
    wait_for("it has ended", lambda: w.names() == ["web"])


@within()
def watch__burst_is_few_writes(w):
    w.watch()
    wait_for("the file", lambda: w.names() == [])
    began = time.monotonic()
    for i in range(400):
        w.api.put("pods", pod("p%03d" % i, "10.1.%d.%d" % (i // 250, i % 250 + 1)))
        if i % 100 == 50:  # the burst goes on, the file must come all the same
            wait_for("part of it", lambda n=i: w.names() is not None and len(w.names()) >= n - 50)
    wait_for("all of them", lambda: len(w.names()) == 400)
    writes, took = len(re.findall("written file=", w.log())), time.monotonic() - began
    print("# 400 pods in %.1f s: %d writes" % (took, writes))
    check(writes <= 20 + 20 * took, writes, "writes in", took, "s: more than one in 50 ms")


@within()
def watch__nothing_before_the_policies_are_known(w):
    w.api.missing.clear()
    w.api.put("pods", pod("web", "10.0.0.2"))
    w.api.put(POLICIES, policy("p"))
    trouble = w.api.make_trouble(lambda r: r.status(500, "etcd"), resource=POLICIES, times=1000)
    w.watch()
    wait_for("the policies were refused", lambda: trouble["hit"] >= 3)
    check(not os.path.exists(w.file), "a file without the policies")
    trouble["left"] = 0
    wait_for("the file", lambda: w.names("policies") == ["p"])


@within()
def watch__api_away_keeps_the_file(w):
    w.api.put("pods", pod("web", "10.0.0.2"))
    w.watch()
    wait_for("the file", lambda: w.names() == ["web"])
    w.api.stop()
    wait_for("it was noticed", lambda: "the file stays as it is" in w.log())
    w.api.put("pods", pod("db", "10.0.0.3"))
    w.api.delete("pods", "default", "web")
    w.api.compact()
    check(w.names() == ["web"])
    w.api.start()
    wait_for("what was missed", lambda: w.names() == ["db"], 30)
    check("connected again" in w.log())


@within()
def watch__garbage_and_closed_watches(w):
    w.api.put("pods", pod("web", "10.0.0.2"))
    w.watch()
    wait_for("the file", lambda: w.names() == ["web"])

    def garbage(r):
        r.head()
        r.send(b'{"type":"ADDED","object":{"metadata":\n', True)
    w.api.make_trouble(garbage, resource="pods", watch=True, times=2)
    w.api.drop_connections()
    w.api.put("pods", pod("db", "10.0.0.3"))
    wait_for("the second pod", lambda: w.names() == ["db", "web"], 30)


@within()
def watch__one_object_that_cannot_be_read_stays_as_it_was(w):
    w.api.put("pods", pod("web", "10.0.0.2"))
    w.watch()
    wait_for("the file", lambda: w.names() == ["web"])
    w.api.change("pods", "default", "web", lambda o: o["metadata"].update(labels={"x": 1}))
    wait_for("it was said", lambda: "cannot be read" in w.log())
    w.api.put("pods", pod("db", "10.0.0.3"))
    wait_for("others go on", lambda: w.names() == ["db", "web"])


@within()
def watch__policies_come_and_do_not_vanish(w):
    """Custom resources appear while it runs; a server that forgets them for a moment takes no policy away."""
    w.watch()
    wait_for("the file", lambda: w.names("policies") == [])
    check(w.log().count("this cluster has no authorizationpolicies") == 1, w.log())
    w.api.put(POLICIES, policy("p", rules=[{}]))
    w.api.missing.discard((POLICIES, ""))
    wait_for("the policy", lambda: w.names("policies") == ["p"])
    w.api.missing.add((POLICIES, ""))
    asked = len(w.api.asked(POLICIES))
    w.api.drop_connections()
    wait_for("it was not found a few times", lambda: len(w.api.asked(POLICIES)) > asked + 3, 30)
    check(w.names("policies") == ["p"], w.state())
    w.api.missing.discard((POLICIES, ""))
    w.api.delete(POLICIES, "default", "p")
    wait_for("deleted", lambda: w.names("policies") == [], 40)


@within()
def watch__policies_of_an_older_version(w):
    w.api.missing = {(POLICIES, "/v1/"), ("peerauthentications", "")}
    w.api.put(POLICIES, policy("p"))
    w.watch()
    wait_for("the policy", lambda: w.names("policies") == ["p"])


@within()
def watch__bad_policy_is_said(w):
    w.api.missing.clear()
    w.api.put(POLICIES, policy("p", action="DENY", rules=[{"to": [{"operation": {"ports": ["http"]}}]}]))
    w.watch()
    wait_for("the policy", lambda: w.names("policies") == ["p"])
    check("default/p: ports: http cannot be used" in w.log(), w.log())
    check(w.state()["policies"][0]["rules"] == [[]], w.state())


@within()
def watch__removed_file_is_made_again(w):
    w.watch()
    wait_for("the file", lambda: w.names() == [])
    os.unlink(w.file)
    wait_for("it is back", lambda: w.names() == [])
    with open(w.file, "w") as f:
        f.write("workloads: []\n")
    wait_for("it is whole again", lambda: "policies" in w.state())


@within()
def watch__file_that_cannot_be_written_yet(w):
    w.file = w.dir + "/later/state.yaml"
    w.watch()
    wait_for("it was said", lambda: "later" in w.log() and "ERROR" in w.log().upper())
    os.mkdir(w.dir + "/later")
    wait_for("the file", lambda: w.names() == [])


def memory(p, field):
    with open("/proc/%d/status" % p.pid) as f:
        return int(re.search(field + r":\s+(\d+)", f.read())[1])


@within()
def watch__five_thousand_pods(w):
    for i in range(250):
        w.api.put("services", service("s%d" % i, "10.96.%d.%d" % (i // 250, i % 250 + 1), "a%d" % i, ns="ns%d" % (i % 50)))
    for i in range(5000):
        w.api.put("pods", pod("p%d-7d9c5b6f4-x2v4q" % i, "10.%d.%d.%d" % (1 + i // 60000, i // 250, i % 250 + 1),
                              ns="ns%d" % (i % 50), labels={"app": "a%d" % (i % 250), "pod-template-hash": "7d9c5b6f4"},
                              annotations=HBONE, node="node%d" % (i % 100), managedFields=[{"f:x": "y" * 3000}]))
    began = time.monotonic()
    p = w.watch()
    wait_for("the file", lambda: os.path.exists(w.file), 60)
    took = time.monotonic() - began
    check(len(w.names()) == 5000)
    cpu = os.sysconf("SC_CLK_TCK")
    used = sum(int(x) for x in open("/proc/%d/stat" % p.pid).read().rsplit(")", 1)[1].split()[11:13]) / cpu
    with open(w.file) as f:  # kept open, or the next file might get its number
        old = os.fstat(f.fileno()).st_ino
        at = w.api.put("pods", pod("new", "10.9.9.9", ns="ns1"))
        wait_for("the new pod", lambda: os.stat(w.file).st_ino != old)
    one = time.monotonic() - at
    check("new" in w.names())
    most = memory(p, "VmHWM")
    print("# 5,000 pods, 250 services: first file after %.2f s (CPU %.2f s), resident %d KiB, at most %d; one more pod: "
          "%.0f ms; %s" % (took, used, memory(p, "VmRSS"), most, one * 1000,
                           re.findall(r"bytes=\d+ composed_ms=\d+", w.log())[-1]))
    check(most < (300000 if "asan" in ARGS.bin else 32000), most, "KiB")


# --- to connections ---

@within()
def mesh__two_pods_and_a_policy(w):
    """API server, file, ztunnel, connections: HBONE between two pods by a service's address; then a policy, then none."""
    a, b = w.lab.pod("a", 2), w.lab.pod("b", 3)
    b.serve(8080, ztlab.double_echo)
    w.api.missing.clear()
    for p in (a, b):
        w.api.put("pods", pod(p.name, p.ip, annotations=HBONE))
    w.api.put("services", service("echo", "10.96.0.7", "b"))
    w.watch()
    wait_for("the file", lambda: w.names() == ["a", "b"])
    zt = w.lab.start()
    check(works(a, b.ip), "by the pod's address")
    check(works(a, "10.96.0.7", 80), "by the service's address")
    line = zt.wait_line("outbound", 'dst.service="echo.default.svc.cluster.local"')
    check('dst.identity="spiffe://cluster.local/ns/default/sa/b"' in line and "dst.hbone_addr" in line, line)
    w.api.put(POLICIES, policy("only-c", action="ALLOW", selector={"matchLabels": {"app": "b"}},
                               rules=[{"from": [{"source": {"principals": ["cluster.local/ns/default/sa/c"]}}]}]))
    wait_for("the policy is in force", lambda: refused(a, b.ip))
    w.api.put(POLICIES, policy("only-c", action="ALLOW", selector={"matchLabels": {"app": "b"}},
                               rules=[{"from": [{"source": {"principals": ["cluster.local/ns/default/sa/*"]}}],
                                       "to": [{"operation": {"ports": ["8080"]}}]}]))
    wait_for("it lets the pod in", lambda: works(a, b.ip))
    w.api.put("peerauthentications", {"metadata": {"name": "all", "namespace": "istio-system"},
                                      "spec": {"mtls": {"mode": "STRICT"}}})
    plain = w.lab.pod("c", 4, captured=False)
    wait_for("plaintext is refused", lambda: refused(plain, b.ip))
    check(works(a, b.ip), "mTLS still passes")
    w.api.change("peerauthentications", "istio-system", "all", lambda o: o["spec"].update(mtls={"mode": "PERMISSIVE"}))
    w.api.delete(POLICIES, "default", "only-c")
    wait_for("plaintext passes", lambda: works(plain, b.ip))


CRD_GROUP = "security.istio.io"


def crd(plural, kind):
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "%s.%s" % (plural, CRD_GROUP)},
            "spec": {"group": CRD_GROUP, "scope": "Namespaced",
                     "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": kind + "List"},
                     "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                         "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}


RIGHTS = [{"apiGroups": [""], "resources": ["pods", "services", "namespaces", "nodes"], "verbs": ["list", "watch"]},
          {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
          {"apiGroups": [CRD_GROUP], "resources": [POLICIES, "peerauthentications"], "verbs": ["list", "watch"]}]


@within(serve=False)
def real_api_server(w):
    """The same against kube-apiserver and etcd, with the rights that docs/kubernetes.md names."""
    w.host, w.peers = w.lab.node.name, []
    try:
        c = kube_server.Cluster(w)
    except agent_lab.Skip as e:
        raise ztlab.Skip(str(e))
    try:
        with_real_server(w, c)
    finally:
        c.close()


def create_pod(c, p):
    path = "/api/v1/namespaces/default/pods"
    c.must("POST", path, {"metadata": {"name": p.name, "labels": {"app": p.name}, "annotations": HBONE},
                          "spec": {"nodeName": "node1", "serviceAccountName": p.name, "automountServiceAccountToken": False,
                                   "containers": [{"name": "c", "image": "none"}]}})
    c.must("PATCH", "%s/%s/status" % (path, p.name),
           {"status": {"phase": "Running", "podIP": p.ip, "podIPs": [{"ip": p.ip}],
                       "conditions": [{"type": "Ready", "status": "True"}]}}, kind="application/merge-patch+json")


def with_real_server(w, c):
    w.config("https://127.0.0.1:%d" % kube_server.API, token=kube_server.AGENT)
    r = w.once()
    check(r.returncode == 3 and "403" in r.stderr and "forbidden" in r.stderr, r)
    c.must("PATCH", "/apis/rbac.authorization.k8s.io/v1/clusterroles/ambient", {"rules": RIGHTS},
           kind="application/merge-patch+json")
    wait_for("the rights are in force", lambda: w.once().returncode == 0)
    a, b = w.lab.pod("a", 2), w.lab.pod("b", 3)
    b.serve(8080, ztlab.double_echo)
    create_pod(c, a)
    create_pod(c, b)
    vip = c.must("POST", "/api/v1/namespaces/default/services", {
        "metadata": {"name": "echo"}, "spec": {"selector": {"app": "b"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })["spec"]["clusterIP"]
    # an endpoint that is no pod, for a service without a selector
    c.must("POST", "/api/v1/namespaces/default/services",
           {"metadata": {"name": "outside"}, "spec": {"ports": [{"name": "x", "port": 90, "targetPort": 8080}]}})
    c.must("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", {
        "metadata": {"name": "outside-1", "labels": {"kubernetes.io/service-name": "outside"}}, "addressType": "IPv4",
        "ports": [{"name": "x", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["192.0.2.9"]}]})
    w.watch()
    wait_for("the file", lambda: w.names() == ["a", "b", "outside-1"])
    zt = w.lab.start()
    check(works(a, vip, 80), "by the service's address")
    zt.wait_line("outbound", 'dst.service="echo.default.svc.cluster.local"')
    for plural, kind in ((POLICIES, "AuthorizationPolicy"), ("peerauthentications", "PeerAuthentication")):
        c.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd(plural, kind))
    path = "/apis/%s/v1/namespaces/default/%s" % (CRD_GROUP, POLICIES)
    wait_for("the resource is served", lambda: c.call("GET", path)[0] == 200)
    c.must("POST", path, policy("nobody", rules=[]))
    wait_for("the policy is in force", lambda: refused(a, b.ip), 40)
    at = time.monotonic()
    c.must("DELETE", path + "/nobody")
    wait_for("no policy is in force", lambda: works(a, b.ip))
    print("# real API server: deletion of a policy until a connection passes: %.0f ms" % ((time.monotonic() - at) * 1000))
    c.end("api")
    wait_for("it was noticed", lambda: "the file stays as it is" in w.log(), 40)
    check(works(a, vip, 80), "while the API server is away")
    c.start_api()
    c.must("DELETE", "/api/v1/namespaces/default/pods/a?gracePeriodSeconds=0")
    wait_for("the pod is gone", lambda: w.names() == ["b", "outside-1"], 60)


TESTS = [f for n, f in list(globals().items()) if re.match("(once|usage|watch|mesh)__|real_api_server$", n)]

if __name__ == "__main__":
    sys.exit(ztsite.main(TESTS))
