#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_install_containerd.py: the agent puts itself into the chain of a real containerd, stays there
while the network's configuration is rewritten, and leaves it again. Every pod is looked at when its
sandbox is created: one that the agent finds later has started outside the mesh.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [TESTS, os.path.join(TESTS, "check")]

from cri import lab, node, private, product  # noqa: E402
from cri.client import CriError  # noqa: E402
from cri.daemon import wait_until  # noqa: E402
from tap import Tap  # noqa: E402

PRIMARY = node.CNI_CONF + "/10-podnet.conflist"
SOON = 40
NEEDED = ("containerd", "runc")


def same(got, wanted, what):
    assert got == wanted, "%s: expected %s, got %s" % (what, wanted, got)


def read(path):
    with open(path) as f:
        return f.read()


def install(x):
    return (x.agent.status() or {}).get("install", {})


def chain(x):
    """(how we are in there, plugin types) of the configuration that containerd works with now."""
    info = json.loads(x.node.cri.call("Status", verbose=True).info["cniconfig"])
    conf = [n["Config"] for n in info["Networks"] if n["IFName"] == "eth0"][0]
    plugins = json.loads(conf["Source"])["plugins"]
    return plugins[-1].get("installed"), [p["type"] for p in plugins]


def wait_chain(x, ours):
    wait_until("containerd to work with %s" % ("our plugin" if ours else "the old chain"),
               lambda: (chain(x)[1][-1] == "ambient-cni") == ours, SOON)


def captured(x, name):
    """A new pod is in the mesh when the runtime says that it is there, by the plugin and not by a scan."""
    p = x.pod(name, "shop")
    record = x.agent.pod(p)
    same(record["state"], "enrolled", name + ": state")
    same(record["containerID"], p.id, name + ": who told the agent")
    return p


def start(x):
    os.makedirs(node.RUN, exist_ok=True)
    x.agent.start()
    same(install(x)["state"], "waiting", "before there is a network")
    x.ztunnel.start()
    x.ztunnel.wait_ready()
    same(x.agent.status()["ready"], False, "ready without the plugin in the chain")
    x.node.start()
    wait_until("the installation", lambda: install(x)["state"] == "installed", SOON)
    x.agent.wait_ready()


def own_file(x):
    wait_chain(x, True)
    same(chain(x), ("owned", ["bridge", "ambient-cni"]), "chain")
    captured(x, "first")


def own_file_survives_the_owner(x):
    """The network's owner rewrites its file, even while the agent is away: no pod slips through."""
    x.node.set_chain([{"type": "portmap", "capabilities": {"portMappings": True}}])
    captured(x, "second")
    wait_until("the copy to follow", lambda: "portmap" in chain(x)[1], SOON)
    same(chain(x)[1], ["bridge", "portmap", "ambient-cni"], "chain")
    x.agent.kill()
    x.node.set_chain([])
    p = x.pod("early", "shop", run=False)
    try:
        p.run()
        raise AssertionError("a pod started without the agent")
    except CriError as e:
        assert "ambient-cni" in str(e), e
    x.agent.start()
    x.agent.wait_ready()
    p.run()
    same(x.agent.state(p), "enrolled", "state")
    wait_until("the copy to follow", lambda: chain(x)[1] == ["bridge", "ambient-cni"], SOON)


def chained(x):
    x.agent.stop()
    x.agent.env["AMBIENT_INSTALL_CNI"] = "chained"
    x.agent.start()
    x.agent.wait_ready()
    wait_until("the other mode", lambda: chain(x) == ("chained", ["bridge", "ambient-cni"]), SOON)
    captured(x, "third")
    x.node.set_chain([])
    wait_until("the entry to be back", lambda: "ambient-cni" in read(PRIMARY), SOON)
    wait_chain(x, True)
    captured(x, "fourth")


def uninstalled(x):
    x.agent.stop()
    x.node.set_chain([])
    before = read(PRIMARY)
    x.agent.start()
    wait_until("the entry to be back", lambda: "ambient-cni" in read(PRIMARY), SOON)
    pods = list(x.pods.values())
    same(x.agent.stop(), 0, "the agent's status")
    r = subprocess.run([x.bin + "/ambient-agent", "--uninstall", "--release-pods", "--cni-conf-dir", node.CNI_CONF,
                        "--cni-bin-dir", node.CNI_BIN], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    same(r.returncode, 0, "exit status (%s)" % r.stderr)
    same(read(PRIMARY), before, "the network's configuration")
    same([n for n in os.listdir(node.CNI_BIN) if "ambient" in n], [], "our programs")
    for p in pods:
        same(product.rules(p), "", p.name + ": rules")
    wait_chain(x, False)
    p = x.pod("after", "shop")
    same(product.rules(p), "", "rules of a new pod")
    for other in pods[:2]:
        good, said = x.get(p, x.url(other))
        assert good, "to a pod that was released: " + said


CASES = [
    ("a file of its own: pods are captured from the start", own_file),
    ("the network's owner rewrites its file: no pod slips through", own_file_survives_the_owner),
    ("in the network's own file: taken over, and back after a rewrite", chained),
    ("uninstalled: the old bytes, pods released, new ones start without us", uninstalled),
]


def run_case(tap, name, fn, x):
    try:
        fn(x)
    except Exception:  # into the log; the exit status says it
        tap.ok(False, name, traceback.format_exc().splitlines())
        return False
    tap.ok(True, name)
    return True


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--bin", required=True, help="folder with the built programs")
    a = p.parse_args()
    absent = [t for t in NEEDED if not shutil.which(t)]
    if absent:
        print("1..0 # SKIP %s is not installed" % " and ".join(absent))
        return 0
    if node.missing():
        print("Bail out! missing Debian packages: " + " ".join(node.missing()))
        return 1
    work = private.enter()
    tap = Tap()
    bin_dir = os.path.abspath(a.bin)
    x = lab.Lab(bin_dir, tempfile.mkdtemp(dir=work), {
        "AMBIENT_INSTALL_CNI": "owned", "MOUNTED_CNI_NET_DIR": node.CNI_CONF, "AMBIENT_CNI_BIN_DIR": node.CNI_BIN,
        "AMBIENT_CNI_PLUGIN": bin_dir + "/ambient-cni"})
    x.manifests.namespace("shop", "ambient")
    try:
        going = run_case(tap, "the agent waits for the network and installs itself", start, x)
        for name, fn in CASES:
            going = going and run_case(tap, name, fn, x)
        if tap.failed:
            for d, lines in ((x.agent, 60), (x.node.containerd, 20)):
                for line in d.tail(lines).splitlines():
                    print("# | " + line[:300])
    finally:
        x.close()
    tap.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
