# SPDX-License-Identifier: Apache-2.0
"""stage.py: what the demo plays on: a node with the mesh, recordings of its bridge, and load."""
from cri import lab, node, wire
from cri.daemon import wait_until

RELEASE_LIMIT = "10s"
MARKER = "PLAINTEXT-IS-VISIBLE"
VIP = "10.96.0.10"
BIG_BYTES = 200 * 1000 * 1000

# A loop of new connections, each a whole HTTP request; errors keep wget's own words.
LOAD = """
n=0
while [ ! -e /tmp/stop ]; do
  if error=$(timeout 90 wget -q -O /dev/null $2 2>&1); then n=$((n+1)); echo $n > /tmp/done.$1
  else echo "$error" >> /tmp/errors.$1; fi
  usleep 10000
done
"""
# One batch of new connections at once; prints how many came through, and the errors of the others.
BATCH = """
for i in $(seq $1); do
  ( timeout 90 wget -q -O /dev/null $2 2>/tmp/batch.$i && echo ok || cat /tmp/batch.$i ) &
done
wait
"""


class Stage(lab.Lab):
    """The node, and what the steps need to watch it."""

    def __init__(self, bin_dir, out):
        super().__init__(bin_dir, out, {"AMBIENT_RELEASE_LIMIT": RELEASE_LIMIT})
        self.capture = None

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
        wait_until("the load to end", lambda: source.sh("pgrep -f /tmp/load")[0] != 0, 120)
        return self.load(source)

    def close(self):
        if self.capture:
            self.capture.abandon()
        super().close()
