# SPDX-License-Identifier: Apache-2.0
"""lab.py: what the scenarios see of a cluster. Everything goes through kubectl and one kubeconfig, so that they run on any
cluster with the tests' image on its nodes; what happens on a node is done by a privileged pod on it.
"""
import base64
import json
import os
import tempfile
import threading
import time

from cluster.kubectl import Failed, Kubectl
from cri import wire
from cri.daemon import wait_until

IMAGE = "ambient.test/tester:1"
MODE = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
SYSTEM = "ambient-conformance"
EXCLUDED = ("kube-system",)
PORT, ECHO_PORT = 8080, 9090
MARK = b"PLAINTEXT-IS-VISIBLE"


def container(*args, probes=None, **more):
    return dict({"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/tester", *args],
                 "readinessProbe": probes}, **more)


def http_probe(**more):
    """On a busy machine a second, what a kubelet waits by default, is no time: a pod must not leave its service for that."""
    return dict({"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 3}, **more)


def pod(name, *args, node=None, mode=None, labels=None, annotations=None, probes=None, **spec):
    """A Pod that runs `tester ARGS`, by default the web server with a readiness probe."""
    args = args or ("serve",)
    if args == ("serve",) and probes is None:
        probes = http_probe()
    labels = dict({"app": name}, **(labels or {}))
    if mode:
        labels[MODE] = mode
    body = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "enableServiceLinks": False,
            "containers": [container(*args, probes=probes or None)]}
    if node:
        body["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels, "annotations": annotations or {}},
            "spec": dict(body, **spec)}


def account(name):
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}


def service(name, app=None, port=80, target=PORT):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": app or name}, "ports": [{"port": port, "targetPort": target}]}}


class Node:
    """A node, through the privileged pod on it."""

    def __init__(self, lab, name, shell):
        self.lab, self.name, self.shell = lab, name, shell

    def argv(self, *args):
        return ("-n", SYSTEM, "exec", self.shell, "--", *args)

    def run(self, *args, **more):
        return self.lab.kubectl.run(*self.argv(*args), **more)

    def facts(self):
        """`tester node`: processes, namespaces, links, journal."""
        return json.loads(self.run("tester", "node").stdout)

    def status(self):
        """What the agent says; None while it does not answer."""
        r = self.run("tester", "status", check=False)
        return json.loads(r.stdout) if r.returncode == 0 else None

    def ready(self):
        return (self.status() or {}).get("ready")

    def record(self, uid):
        """The agent's record of a pod, {} when it has none or does not answer."""
        for p in (self.status() or {}).get("pods", []):
            if p["uid"] == uid:
                return p
        return {}

    def pid(self, name):
        """A program's number on the node; None when it does not run."""
        found = [p["pid"] for p in self.facts()["processes"] if p["name"] == name]
        return max(found) if found else None

    def kill(self, name, signal="KILL"):
        pid = self.pid(name)
        assert pid, "%s does not run on %s" % (name, self.name)
        self.run("kill", "-" + signal, str(pid))
        return pid

    def ztunnel_dump(self):
        """What the node's ztunnel has been told and holds (its `config_dump`); None while it does not answer."""
        r = self.run("nsenter", "-t", str(self.pid("ztunnel")), "-n", "wget", "-qO-", "http://127.0.0.1:15000/config_dump", check=False)
        return json.loads(r.stdout) if r.returncode == 0 else None

    def capture(self, path, interface="eth0"):
        return Capture(self, path, interface)


class Capture:
    """Packets of an interface until finish(); then `file` is a pcap on this machine."""

    def __init__(self, node, path, interface):
        self.node, self.file, self.there = node, path, "/tmp/" + os.path.basename(path)
        node.run("rm", "-f", self.there + ".stop")
        self.process = node.lab.kubectl.start(*node.argv("tester", "capture", "-i", interface, "-d", "300s", self.there), stdout=-1)
        first = self.process.stdout.readline()
        assert first.startswith("capturing"), first

    def finish(self):
        """Ends it once all that has passed is written, and fetches it."""
        self.node.run("touch", self.there + ".stop")
        rest = self.process.communicate(timeout=120)[0]
        assert self.process.returncode == 0 and "packets" in rest, rest
        # Whole bytes through kubectl: as text.
        text = self.node.run("base64", self.there, timeout=300).stdout
        with open(self.file, "wb") as f:
            f.write(base64.b64decode(text))
        self.node.run("rm", self.there, self.there + ".stop")
        return self.file


def flows(path):
    """{(src, dst, port): payload bytes} of a capture; port is the lower one, the server's."""
    found = {}
    for (src, sport, dst, dport), s in wire.streams(path).items():
        key = (src, dst, min(sport, dport))
        found[key] = found.get(key, 0) + s.bytes
    return found


class Lab:
    def __init__(self, kubeconfig, prefix="scenario"):
        """@prefix: what the names of its namespaces begin with."""
        self.kubectl, self.prefix = Kubectl(kubeconfig), prefix
        self.out = tempfile.mkdtemp(prefix="ambient-conformance-")
        self.nodes, self.spaces, self.count, self.base = {}, [], 0, {}
        # Labs of other clusters of the same mesh, which must be as this one after every scenario.
        self.peers = []

    # --- the cluster ---

    def open(self):
        """A privileged pod on each node, with the node's processes and network."""
        k = self.kubectl
        k.apply({"apiVersion": "v1", "kind": "Namespace",
                 "metadata": {"name": SYSTEM, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})
        wait_until("a service account", lambda: k.get("-n", SYSTEM, "serviceaccount", "default", missing_ok=True), 90)
        body = {"hostNetwork": True, "hostPID": True, "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 0,
                "containers": [container("pause", securityContext={"privileged": True})]}
        k.apply({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "node", "namespace": SYSTEM}, "spec": {
            "selector": {"matchLabels": {"app": "node"}},
            "template": {"metadata": {"labels": {"app": "node"}}, "spec": body}}})
        k("-n", SYSTEM, "rollout", "status", "daemonset/node", "--timeout=180s", timeout=200)
        self.find_shells()
        for n in self.nodes.values():
            wait_until("the agent of %s to be ready" % n.name, n.ready, 180, every=0.2)
        return self

    def find_shells(self):
        for p in self.kubectl.get("-n", SYSTEM, "pods", "-l", "app=node")["items"]:
            self.nodes[p["spec"]["nodeName"]] = Node(self, p["spec"]["nodeName"], p["metadata"]["name"])

    def close(self):
        self.kubectl("delete", "namespace", SYSTEM, "--wait=false")

    def names(self):
        return sorted(self.nodes)

    def node(self, name):
        return self.nodes[name]

    # --- a scenario's objects ---

    def space(self, mode=None, labels=None, name=None):
        """A new namespace, gone after the scenario. @name: that of another cluster's."""
        self.count += 1
        name = name or "%s-%d-%d" % (self.prefix, os.getpid(), self.count)
        labels = dict(labels or {}, **({MODE: mode} if mode else {}))
        self.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        wait_until("a service account", lambda: self.kubectl.get("-n", name, "serviceaccount", "default",
                                                                 missing_ok=True), 90)
        s = Space(self, name)
        self.spaces.append(s)
        return s

    def clean(self):
        for s in self.spaces:
            self.kubectl("-n", s.name, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=true", timeout=300)
        for s in self.spaces:
            self.kubectl("delete", "namespace", s.name, "--wait=false")
        self.spaces = []

    # --- what must hold after every scenario ---

    def differences(self):
        """How the nodes differ from what the API says; [] when they do not."""
        spaces = {n["metadata"]["name"]: n["metadata"].get("labels", {}).get(MODE)
                  for n in self.kubectl.get("namespaces")["items"]}
        found = []
        pods = self.kubectl.get("pods", "-A")["items"]
        for node in self.nodes.values():
            status = node.status()
            if not status or not status["ready"]:
                found.append("%s: the agent is not ready" % node.name)
                continue
            known = {p["uid"]: p for p in status["pods"]}
            for p in pods:
                meta, spec = p["metadata"], p["spec"]
                if spec.get("nodeName") != node.name or p["status"]["phase"] not in ("Running", "Pending"):
                    continue
                what = "%s: %s/%s" % (node.name, meta["namespace"], meta["name"])
                if spec.get("hostNetwork"):
                    continue
                own = meta.get("labels", {}).get(MODE)
                wanted = (own or spaces.get(meta["namespace"])) == "ambient" and meta["namespace"] not in EXCLUDED \
                    and "sidecar.istio.io/status" not in meta.get("annotations", {})
                note = meta.get("annotations", {}).get(REDIRECTION) == "enabled"
                if note != wanted:
                    found.append("%s: the annotation is %s" % (what, "there" if note else "missing"))
                k = known.pop(meta["uid"], None)
                if k is None:
                    if wanted:
                        found.append(what + ": the agent does not know it")
                elif (k["state"], k["rules"]) != (("enrolled", "present") if wanted else ("not-in-mesh", "absent")):
                    found.append("%s: %s, rules %s, %s%s" % (what, k["state"], k["rules"], k.get("reason", ""), k.get("error", "")))
            found += ["%s: the agent keeps %s/%s (%s), which the API does not have"
                      % (node.name, k["namespace"], k["name"], k["state"]) for k in known.values()]
        return found

    def consistent(self, deadline=90):
        last = []

        def check():
            try:
                last[:] = self.differences()
            except Failed as e:  # no answer is none of theirs
                last[:] = [str(e)]
            return not last
        try:
            wait_until("the nodes to be as the API says", check, deadline, every=0.2)
        except Exception:
            raise AssertionError("; ".join(last))

    def held(self):
        """What the nodes hold now, in numbers."""
        held = {}
        for node in self.nodes.values():
            f = node.facts()
            h = {"netns": len(f["netns"] or []), "veths": len(f["veths"]), # A file for each sandbox at most; the product's own pods may be older than the agent.
                 "journal": max(0, len(f["journal"] or []) - len(f["netns"] or [])),
                 "rules": f["own"]["rules"], "tables": sorted(f["own"]["tables"])}
            for p in f["processes"]:
                # Descriptors of the mesh for pods: namespaces and sockets; files come and go with logs.
                h[p["name"]] = {k: p["fds"].get(k, 0) for k in ("net", "socket", "anon_inode")}
            held[node.name] = h
        return held

    def unchanged(self, deadline=180):
        """Nothing is held that was not held before the first scenario. What was connected to pods that were deleted by force is found
        dead after 30 s, and a reset that waits for what was sent before it after 60 s (docs/limits.md)."""
        last = {}

        def check():
            last.clear()
            try:
                last.update(self.held())
            except Failed as e:
                last["no answer"] = str(e)
            return not excess(self.base, last)
        try:
            wait_until("the nodes to hold no more than before", check, deadline, every=0.3)
        except Exception:
            raise AssertionError("left: %s; before %s, now %s" % (excess(self.base, last), self.base, last))


def excess(before, now, path=""):
    """Paths of what is more, or other, than before. Descriptors may be fewer."""
    found = []
    for k in sorted(set(before) | set(now)):
        a, b = before.get(k), now.get(k)
        at = path + "/" + k
        if isinstance(a, dict) and isinstance(b, dict):
            found += excess(a, b, at)
        elif isinstance(a, int) and isinstance(b, int):
            if b > a:
                found.append("%s: %d, was %d" % (at, b, a))
        elif a != b:
            found.append("%s: %s, was %s" % (at, b, a))
    return found


class Space:
    """A namespace of a scenario."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name

    def kubectl(self, *args, **more):
        return self.lab.kubectl("-n", self.name, *args, **more)

    def apply(self, *documents):
        for d in documents:
            d["metadata"]["namespace"] = self.name
        self.lab.kubectl.apply(*documents)

    def run(self, *documents, timeout=180):
        """Applies, and waits until every pod among them is ready."""
        self.apply(*documents)
        pods = ["pod/" + d["metadata"]["name"] for d in documents if d["kind"] == "Pod"]
        self.kubectl("wait", "--for=condition=Ready", "--timeout=%ds" % timeout, *pods, timeout=timeout + 30)

    def mode(self, value):
        """Labels the namespace; None takes the label away."""
        self.lab.kubectl("label", "namespace", self.name, "--overwrite", MODE + ("=" + value if value else "-"))

    def pod(self, name):
        return self.lab.kubectl.get("-n", self.name, "pod", name)

    def ip(self, name):
        return self.pod(name)["status"]["podIP"]

    def exec(self, name, *args, **more):
        return self.lab.kubectl.run("-n", self.name, "exec", name, "--", *args, **more)

    def start(self, name, *args):
        """A program in a pod that goes on; a Popen with stdout as a pipe."""
        return self.lab.kubectl.start("-n", self.name, "exec", name, "--", *args, stdout=-1)

    def get(self, name, url, n=1, limit="10s"):
        """(True, answers) or (False, what went wrong)."""
        r = self.exec(name, "tester", "get", "-n", str(n), "-t", limit, url, check=False)
        return r.returncode == 0, (r.stdout + r.stderr).strip()

    def must_get(self, name, url, n=1, limit="30s"):
        good, text = self.get(name, url, n, limit)
        assert good, "%s from %s: %s" % (url, name, text)
        return text

    def failed_sandboxes(self):
        """What the kubelet says of sandboxes that could not be made, and how often."""
        events = self.lab.kubectl.get("-n", self.name, "events", "--field-selector=reason=FailedCreatePodSandBox")["items"]
        return [(e["involvedObject"]["name"], e.get("count") or 1, e["message"]) for e in events]

    def wait_ready(self, *names, timeout=180):
        self.kubectl("wait", "--for=condition=Ready", "--timeout=%ds" % timeout, *["pod/" + n for n in names],
                     timeout=timeout + 30)

    def annotated(self, *names):
        """True when all these pods say that they are redirected."""
        pods = {p["metadata"]["name"]: p for p in self.lab.kubectl.get("-n", self.name, "pods")["items"]}
        return all(pods[n]["metadata"].get("annotations", {}).get(REDIRECTION) == "enabled" for n in names)

    def wait_annotated(self, *names, deadline=90):
        start = time.monotonic()
        wait_until("%s to be in the mesh" % ", ".join(names), lambda: self.annotated(*names), deadline, every=0.05)
        return time.monotonic() - start

    def wait_released(self, *names, deadline=120):
        wait_until("%s to be out of the mesh" % ", ".join(names),
                   lambda: not any(self.annotated(n) for n in names), deadline, every=0.05)

    def wait_hbone(self, *names, deadline=90):
        """Waits until every node's ztunnel knows that these pods speak HBONE; the annotation reaches it later than the API."""
        def told(node):
            dump = node.ztunnel_dump()
            return dump and set(names) <= {w["name"] for w in dump["workloads"]
                                           if w.get("namespace") == self.name and w.get("protocol") == "HBONE"}
        self.wait_annotated(*names)
        for node in self.lab.nodes.values():
            wait_until("%s to be known on %s" % (", ".join(names), node.name), lambda n=node: told(n), deadline, every=0.1)

    def restarts(self, name):
        """What changes when a pod's container or sandbox is started again."""
        s = self.pod(name)["status"]
        return s.get("podIP"), [(c.get("containerID"), c["restartCount"]) for c in s.get("containerStatuses", [])]


class Load:
    """New connections at a rate, from a pod; until faultless() or result()."""

    def __init__(self, space, name, url, rate, seconds=600, limit="30s"):
        space.exec(name, "rm", "-f", "/tmp/stop")
        self.space, self.name = space, name
        self.process = space.start(name, "tester", "load", "-r", str(rate), "-d", "%ds" % seconds, "-t", limit, url)

    def result(self):
        """`count` by outcome, `gapMs`, `slowestMs`, `first` failure."""
        self.space.exec(self.name, "touch", "/tmp/stop")
        return json.loads(self.process.communicate(timeout=120)[0])

    def faultless(self, least):
        """None failed, and at least so many were made."""
        r = self.result()
        assert set(r["count"]) == {"ok"} and r["count"]["ok"] >= least, r
        return r


class Changes:
    """What comes of new connections from a pod to @url, as it changes; until close()."""

    def __init__(self, space, name, url):
        space.exec(name, "rm", "-f", "/tmp/stop")
        self.space, self.name, self.seen = space, name, []
        self.process = space.start(name, "tester", "changes", url)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            at, what = line.split()
            self.seen.append((int(at) / 1000, what))

    def works(self):
        """Whether the last attempt came through; None before the first."""
        return self.seen[-1][1] == "ok" if self.seen else None

    def until(self, works, deadline=90):
        """Waits until connections come through, or do not; the time of the first attempt of which that was true."""
        wait_until("connections of %s to %s" % (self.name, "come through" if works else "be refused"),
                   lambda: self.works() is works, deadline, alive=lambda: self.process.poll() is None)
        return next(at for at, what in self.seen[::-1] if (what == "ok") == works)

    def close(self):
        """All changes: [(time, "ok" or how it failed)]."""
        self.space.exec(self.name, "touch", "/tmp/stop")
        self.process.wait(timeout=90)
        self.reader.join(30)
        return self.seen


class Talk:
    """`tester talk` in a pod's own container: a connection that must go on."""

    def __init__(self, space, name):
        self.space, self.name = space, name

    def ended(self):
        """How it ended; None while it goes on."""
        text = self.space.kubectl("logs", self.name, "--tail=2")
        return text if text.startswith("ended") or "\nended" in text else None

    def lines(self):
        assert not self.ended(), "the connection of %s ended: %s" % (self.name, self.ended())
        text = self.space.kubectl("logs", self.name, "--tail=1")
        return int(text.split()[1]) if text.startswith("line ") else 0

    def goes_on(self, deadline=90):
        before = self.lines()
        wait_until("the connection of %s to go on" % self.name, lambda: self.lines() >= before + 3, deadline, every=0.1)

