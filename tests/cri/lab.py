# SPDX-License-Identifier: Apache-2.0
"""lab.py: a node with the mesh on it: containerd, our plugin in the chain, the agent, ztunnel."""
import os
import shutil
import subprocess

from . import mesh, node, product
from .daemon import Daemon, wait_until

NODE_NAME = "lab-node"
PORT = 8080


class Talk:
    """A long-lived connection from the container of @a to an echo server in that of @b: a line every
    0.1 s, each of which must come back."""

    def __init__(self, a, b, port):
        self.a, self.text, self.got = a, "line-for-%d" % port, "/tmp/talk.%s.%d" % (b.name, port)
        b.sh("nc -ll -p %d -e cat > /dev/null 2>&1 < /dev/null &" % port)
        wait_until("the echo server", lambda: ":%d " % port in b.in_netns("ss", "-Hltn"))
        a.sh("(while [ ! -e %s.hush ]; do echo %s; usleep 100000; done | nc %s %d > %s; "
             "touch %s.ended) > /dev/null 2>&1 < /dev/null &"
             % (self.got, self.text, b.ip, port, self.got, self.got))
        self.goes_on()

    def lines(self):
        return len(self.a.sh("cat %s 2>/dev/null" % self.got)[1].splitlines())

    def goes_on(self):
        """Waits for three more lines; NotReady when the connection is stuck or gone."""
        before = self.lines()
        wait_until("an open connection to go on", lambda: self.lines() >= before + 3, 60)
        return self.lines()

    def end(self):
        self.a.sh("touch %s.hush" % self.got)

    def ended(self):
        """True once the connection is over, whoever ended it."""
        return self.a.sh("ls %s.ended" % self.got)[0] == 0


class Lab:
    """Everything that runs and every file that is written; close() ends it all. Files (manifests,
    local state) and logs are below @out; sockets, images and the CA's key are not."""

    def __init__(self, bin_dir, out, agent_env=None):
        self.bin, self.out = bin_dir, out
        self.logs, self.files = out + "/logs", out + "/files"
        for d in (self.logs, self.files):
            shutil.rmtree(d, ignore_errors=True)
            os.makedirs(d)
        self.node = node.Node(self.logs)
        self.manifests = mesh.Manifests(self.files + "/manifests")
        self.state = mesh.State(self.files + "/mesh.yaml", NODE_NAME)
        self.state.write()
        self.agent = product.Agent(bin_dir, self.logs, self.manifests, NODE_NAME,
                                   **(agent_env or {}))
        self.ztunnel = product.Ztunnel(bin_dir, self.logs, self.state, node.RUN + "/dev-ca",
                                       NODE_NAME)
        # There is no kubelet here; the agent looks for a process of that name and its user.
        self.kubelet = Daemon("kubelet", [node.RUN + "/kubelet", "2147483647"], self.logs)
        self.pods = {}

    def start(self):
        os.makedirs(node.RUN, exist_ok=True)
        shutil.copy(shutil.which("sleep"), node.RUN + "/kubelet")
        self.kubelet.start()
        self.agent.start()
        self.ztunnel.start()
        self.ztunnel.wait_ready()
        self.agent.wait_ready()
        self.node.start([product.PLUGIN], [self.bin + "/ambient-cni"])

    def pod(self, name, namespace, mode=None, page=None, run=True):
        """Writes the manifest first, as an API server would know of the pod first; then runs it,
        with a web server in its container when @page is a text."""
        p = self.pods[name] = self.node.pod(name, namespace)
        self.manifests.pod(p, mode)
        if run:
            p.run()
            self.serve(p, page)
        return p

    @staticmethod
    def serve(pod, page):
        pod.start("main", "sh", "-c", "echo '%s' > /www/index.html; exec httpd -f -p %d -h /www"
                  % (page or pod.name, PORT))
        wait_until("the web server of " + pod.name,
                   lambda: ":%d" % PORT in pod.in_netns("ss", "-Hltn"))

    @staticmethod
    def url(pod, path="/"):
        return "http://%s:%d%s" % (pod.ip, PORT, path)

    @staticmethod
    def get(source, url, timeout=45):
        """(True, body) or (False, wget's sentence)."""
        status, out, err = source.exec("timeout", str(timeout), "wget", "-q", "-O", "-", url,
                                       timeout=timeout + 10)
        return status == 0, (out if status == 0 else err or "exit status %d" % status).strip()

    @staticmethod
    def probe(url, user=0):
        """Asks from the node itself, as the kubelet's HTTP probe does; (True, body) or (False, why)."""
        r = subprocess.run(["timeout", "30", "busybox", "wget", "-q", "-O", "-", url], user=user,
                           capture_output=True, text=True)
        return r.returncode == 0, (r.stdout if r.returncode == 0 else r.stderr).strip()

    def write_state(self):
        """Replaces the local state and waits until ztunnel works with it."""
        self.state.write()
        wanted = ({w["uid"]: (w["workloadIps"], w["protocol"], w.get("authorizationPolicies") or [])
                   for w in self.state.workloads.values()},
                  sorted(p["name"] for p in self.state.policies.values()))

        def taken():
            d = self.ztunnel.dump()
            return wanted == ({w["uid"]: (w.get("workloadIps"), w.get("protocol", "TCP"),
                                          w.get("authorizationPolicies") or [])
                               for w in d["workloads"]}, sorted(p["name"] for p in d["policies"]))
        wait_until("ztunnel to work with the new state", taken, alive=self.ztunnel.alive)

    def remove(self, pod):
        """Deletes a pod as a cluster would: sandbox, then manifest; the state is not written."""
        pod.remove()
        self.manifests.remove(pod)
        self.state.forget(pod)
        self.pods.pop(pod.name, None)

    def close(self):
        try:
            self.node.stop()
        finally:
            self.ztunnel.stop()
            self.agent.stop()
            self.kubelet.stop()
