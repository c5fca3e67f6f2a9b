# SPDX-License-Identifier: Apache-2.0
"""kubectl.py: runs kubectl with one kubeconfig. KUBECTL names the program; else ours, else the one in PATH."""
import json
import os
import shutil
import subprocess
import time

from . import build

# A machine that has much to do, or a webhook whose server is just being replaced: nothing was done, and the next try may be answered.
NOT_BEGUN = ("TLS handshake timeout", "etcdserver: request timed out", "etcdserver: leader changed", "error dialing backend",
             "unable to upgrade connection", "failed calling webhook", "not yet ready to handle request",
             "the server is currently unable to handle the request")
TRIES = 5


class Failed(Exception):
    """kubectl said no; str() is what it said."""


def program():
    own = build.BIN + "/kubectl"
    found = os.environ.get("KUBECTL") or (own if os.path.exists(own) else shutil.which("kubectl"))
    if not found:
        raise Failed("no kubectl: set KUBECTL")
    return found


class Kubectl:
    def __init__(self, kubeconfig):
        self.kubeconfig = kubeconfig
        self.argv = [program(), "--kubeconfig", kubeconfig]

    def start(self, *args, **more):
        """A kubectl that goes on (exec, logs -f)."""
        return subprocess.Popen(self.argv + list(args), stdin=subprocess.DEVNULL, text=True, **more)

    def run(self, *args, stdin=None, timeout=120, check=True):
        """Its CompletedProcess. Failed when it ends with an error and @check is true."""
        for left in reversed(range(TRIES if check else 1)):
            r = subprocess.run(self.argv + list(args), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                               capture_output=True, text=True, timeout=timeout, check=False)
            if r.returncode == 0 or left == 0 or not any(text in r.stderr for text in NOT_BEGUN):
                break
            time.sleep(2)
        if check and r.returncode != 0:
            raise Failed("kubectl %s: %s" % (" ".join(args), (r.stderr or r.stdout).strip()))
        return r

    def __call__(self, *args, **more):
        """What it printed."""
        return self.run(*args, **more).stdout

    def get(self, *args, missing_ok=False):
        """An object (or a list) as a dict; None when there is none or no answer, and @missing_ok."""
        r = self.run("get", *args, "-o", "json", check=not missing_ok)
        return json.loads(r.stdout) if r.returncode == 0 else None

    def apply(self, *documents):
        """Applies dicts."""
        return self("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
