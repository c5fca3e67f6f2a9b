# SPDX-License-Identifier: Apache-2.0
"""stage.py: what the demo plays on: a node with the mesh, four pods, and the documents about them."""
import os
import shutil

from cri import mesh, node, private, product, wire
from cri.daemon import wait_until

MARKER = "PLAINTEXT-IS-VISIBLE"
NODE_NAME = "demo-node"
VIP = "10.96.0.10"
PORT = 8080
BIG_BYTES = 200 * 1000 * 1000

# A loop of new connections, each a whole HTTP request; errors keep wget's own words.
LOAD = """
n=0
while [ ! -e /tmp/stop ]; do
  if error=$(timeout 30 wget -q -O /dev/null $2 2>&1); then n=$((n+1)); echo $n > /tmp/done.$1
  else echo "$error" >> /tmp/errors.$1; fi
  usleep 10000
done
"""
# One batch of new connections at once; prints how many came through, and the errors of the others.
BATCH = """
for i in $(seq $1); do
  ( timeout 30 wget -q -O /dev/null $2 2>/tmp/batch.$i && echo ok || cat /tmp/batch.$i ) &
done
wait
"""


class Stage:
    """Everything that runs and every file that is written; close() ends it all."""

    def __init__(self, bin_dir, out):
        self.bin, self.out = bin_dir, out
        self.logs, self.files = out + "/logs", out + "/files"
        for d in (self.logs, self.files):
            shutil.rmtree(d, ignore_errors=True)
            os.makedirs(d)
        self.node = node.Node(self.logs)
        self.manifests = mesh.Manifests(self.files + "/manifests")
        self.state = mesh.State(self.files + "/mesh.yaml", NODE_NAME)
        self.state.write()
        # An Istio operator's log level; everything else is the default.
        self.agent = product.Agent(bin_dir, self.logs, self.manifests, NODE_NAME)
        self.ztunnel = product.Ztunnel(bin_dir, self.logs, self.state,
                                       private.name() and "/run/node/dev-ca", NODE_NAME)
        self.pods, self.capture = {}, None

    def start(self):
        self.agent.start()
        self.ztunnel.start()
        self.ztunnel.wait_ready()
        self.agent.wait_ready()
        self.node.start([product.PLUGIN], [self.bin + "/ambient-cni"])

    def pod(self, name, namespace, mode=None):
        """Writes the manifest first, as an API server would know of the pod first; then runs it."""
        p = self.node.pod(name, namespace)
        self.pods[name] = p
        self.manifests.pod(p, mode)
        p.run()
        p.start("main", "sh", "-c",
                "echo hello from %s, %s > /www/index.html; exec httpd -f -p %d -h /www"
                % (name, MARKER, PORT))
        return p

    def url(self, pod, path="/"):
        return "http://%s:%d%s" % (pod.ip, PORT, path)

    def get(self, source, url, timeout=15):
        """(True, body) or (False, wget's sentence)."""
        status, out, err = source.exec("timeout", str(timeout), "wget", "-q", "-O", "-", url,
                                       timeout=timeout + 10)
        return status == 0, (out if status == 0 else err or "exit status %d" % status).strip()

    def write_state(self, knows=()):
        """Replaces the local state and waits until ztunnel works with it."""
        before = self.ztunnel.mark()
        self.state.write()
        for p in knows:
            wait_until("ztunnel to know " + p.name, lambda p=p: self.ztunnel.knows(p),
                       alive=self.ztunnel.alive)
        return before

    def record(self, name):
        self.capture = wire.Capture(node.BRIDGE, "%s/%s.pcap" % (self.files, name)).start()

    def recorded(self, through):
        """Ends the recording; @through: a pod on the bridge. Returns the Capture."""
        done, self.capture = self.capture.stop(through.ip), None
        return done

    def start_load(self, source, url, loops):
        source.exec("sh", "-c", "rm -f /tmp/stop /tmp/done.* /tmp/errors.*; cat > /tmp/load <<'E'\n"
                    + LOAD + "E\n")
        for i in range(loops):
            source.sh("sh /tmp/load %d %s > /dev/null 2>&1 < /dev/null &" % (i, url))

    def load(self, source):
        """(requests that came through, error sentences) so far."""
        _s, out, _e = source.sh("cat /tmp/done.* 2>/dev/null; true")
        _s, errors, _e = source.sh("cat /tmp/errors.* 2>/dev/null; true")
        return sum(int(n) for n in out.split()), errors.splitlines()

    def stop_load(self, source):
        source.sh("touch /tmp/stop")
        wait_until("the load to end", lambda: source.sh("pgrep -f /tmp/load")[0] != 0, 40)
        return self.load(source)

    def close(self):
        if self.capture:
            self.capture.abandon()
        try:
            self.node.stop()
        finally:
            self.ztunnel.stop()
            self.agent.stop()
