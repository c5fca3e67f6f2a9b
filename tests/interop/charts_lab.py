# SPDX-License-Identifier: Apache-2.0
"""charts_lab.py: a cluster of tests/cluster with Istio's control plane and Istio's own charts, in which agent and ztunnel are
images of ours, or Istio's. Built by `make kube` and `make stock`."""
import glob
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from cluster import build, install, layout  # noqa: E402
from cluster import main as cluster_main  # noqa: E402
from cri import images as archive  # noqa: E402

STOCK = os.path.join(layout.TREE, ".cache/istio/bin")
HUB, TAG, NAMESPACE = "ambient.test", "stock", "istio-system"
XTABLES = ("/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi")
TOOLS = (*XTABLES, "/usr/sbin/nft", "/usr/sbin/ipset")
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing(ztunnel=False):
    """What is not there, as a sentence, or None; @ztunnel: Istio's is wanted, too, which `make stock` does not build."""
    for path, how in [(build.BIN + "/" + p, "make kube") for p in ("harness", "coredns", "tester", "kubectl")] + [
            (STOCK + "/" + p, "make stock") for p in ("pilot-discovery", "istioctl", "install-cni", "istio-cni")] + [
            (p, "apt-get install iptables nftables ipset") for p in TOOLS] + [
            (STOCK + "/ztunnel", "a release build of istio/ztunnel goes there")] * ztunnel:
        if not os.access(path, os.X_OK):
            return "no %s: %s" % (path, how)
    return None


def libraries(programs):
    found = set()
    for p in programs:
        out = subprocess.run(["ldd", p], capture_output=True, text=True, check=False).stdout
        found |= {w for line in out.splitlines() for w in line.split() if w.startswith("/")}
    return found


def write_image(path, name, files, links, entry, user=""):
    """A docker-archive on the tests' busybox; @files: {path in the image: path here}; @links: {path: target}."""
    layer = io.BytesIO(archive.busybox_layer())
    with tarfile.open(fileobj=layer, mode="a") as tar:
        made = {""}
        for at in sorted([*files, *links]):
            parent = os.path.dirname(at)
            for d in [parent[:n] for n, c in enumerate(parent + "/") if c == "/"]:
                if d not in made:
                    made.add(d)
                    t = tarfile.TarInfo(d)
                    t.type, t.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(t)
            if at in files:
                with open(files[at], "rb") as f:
                    t = tarfile.TarInfo(at)
                    t.size, t.mode = os.stat(files[at]).st_size, 0o755
                    tar.addfile(t, f)
            else:
                t = tarfile.TarInfo(at)
                t.type, t.linkname = tarfile.SYMTYPE, links[at]
                tar.addfile(t)
        t = tarfile.TarInfo("etc/nsswitch.conf")  # its iptables wrapper mounts over this file
        t.size = len(b"hosts: files dns\n")
        tar.addfile(t, io.BytesIO(b"hosts: files dns\n"))
    layer = layer.getvalue()
    config = {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
              "config": {"Entrypoint": entry, "Env": ["PATH=" + PATH], "WorkingDir": "/", "User": user},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}
    with tarfile.open(path, "w") as tar:
        for n, data in (("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": [name],
                                                       "Layers": ["layer.tar"]}]).encode()),
                        ("config.json", json.dumps(config).encode()), ("layer.tar", layer)):
            t = tarfile.TarInfo(n)
            t.size = len(data)
            tar.addfile(t, io.BytesIO(data))


def stock_images(folder):
    """istiod's, that of Istio's agent with the tools that it starts, and Istio's ztunnel where it has been built."""
    os.makedirs(folder, exist_ok=True)
    write_image(folder + "/pilot.tar", "%s/pilot:%s" % (HUB, TAG), {"usr/local/bin/pilot-discovery": STOCK + "/pilot-discovery"},
                {}, ["/usr/local/bin/pilot-discovery"], "1337:1337")
    extensions = [p for p in glob.glob("/usr/lib/*/xtables/*.so") if not os.path.islink(p)]
    files = {p.lstrip("/"): p for p in (*TOOLS, *extensions, *libraries([*TOOLS, *extensions]))}
    files.update({"usr/local/bin/install-cni": STOCK + "/install-cni", "opt/cni/bin/istio-cni": STOCK + "/istio-cni"})
    links = {}
    for family in ("iptables", "ip6tables"):
        for verb in ("", "-save", "-restore"):
            for variant, to in (("", "nft"), ("-nft", "nft"), ("-legacy", "legacy")):
                links["usr/sbin/%s%s%s" % (family, variant, verb)] = "xtables-%s-multi" % to
    for p in glob.glob("/usr/lib/*/xtables/*.so"):
        if os.path.islink(p):
            links[p.lstrip("/")] = os.readlink(p)
    write_image(folder + "/install-cni.tar", "%s/install-cni:%s" % (HUB, TAG), files, links, [])
    if os.access(STOCK + "/ztunnel", os.X_OK):
        files = {p.lstrip("/"): p for p in libraries([STOCK + "/ztunnel"])}
        files["usr/local/bin/ztunnel"] = STOCK + "/ztunnel"
        write_image(folder + "/ztunnel-stock.tar", "%s/ztunnel:%s" % (HUB, TAG), files, {}, ["/usr/local/bin/ztunnel"])


class Stack:
    """Two nodes, istiod, and the stock charts' DaemonSets."""

    def __init__(self, folder, programs):
        self.cluster = layout.Cluster(folder)
        with open(layout.TREE + "/Makefile") as f:
            version = next(line.split(":=")[1].strip() for line in f if line.startswith("VERSION :="))
        self.ours = {n: "localhost/ambient/%s:%s" % (n, version) for n in ("ambient-agent", "ztunnel")}
        self.stock_agent = "%s/install-cni:%s" % (HUB, TAG)
        self.stock_ztunnel = "%s/ztunnel:%s" % (HUB, TAG)
        install.images(self.cluster, programs)
        stock_images(self.cluster.images)
        self.kubectl = cluster_main.up(self.cluster, 2)

    def manifests(self, *sets):
        """What `istioctl install` would apply: nothing but images, and room for istiod on this machine, is ours."""
        args = ["profile=ambient", "hub=" + HUB, "tag=" + TAG, "values.global.variant=", "values.global.imagePullPolicy=Never",
                "values.pilot.autoscaleEnabled=false", "values.pilot.resources.requests.cpu=50m",
                "values.pilot.resources.requests.memory=128Mi", "values.ztunnel.image=" + self.ours["ztunnel"],
                "values.ztunnel.resources.requests.cpu=50m", "values.ztunnel.resources.requests.memory=32Mi", *sets]
        return subprocess.run([STOCK + "/istioctl", "manifest", "generate", *[x for s in args for x in ("--set", s)]], check=True,
                              capture_output=True, text=True).stdout

    def apply(self, *sets):
        if not self.kubectl.get("namespace", NAMESPACE, missing_ok=True):
            self.kubectl("create", "namespace", NAMESPACE)
        text = self.manifests(*sets)
        # Kinds first; a second time for what was of a kind that was not there yet.
        r = self.kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text, check=False)
        if r.returncode != 0:
            self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def ready(self, seconds=300):
        for what in ("deployment/istiod", "daemonset/istio-cni-node", "daemonset/ztunnel"):
            self.kubectl("-n", NAMESPACE, "rollout", "status", what, "--timeout=%ds" % seconds, timeout=seconds + 20)

    def agent_image(self, image):
        """An upgrade of the release with another image."""
        self.kubectl("-n", NAMESPACE, "set", "image", "daemonset/istio-cni-node", "install-cni=" + image)
        self.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/istio-cni-node", "--timeout=300s", timeout=320)

    def ztunnel_image(self, image):
        """The same of ztunnel: node by node, the next one before the last one goes, as the chart has it."""
        self.kubectl("-n", NAMESPACE, "set", "image", "daemonset/ztunnel", "istio-proxy=" + image)
        self.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/ztunnel", "--timeout=300s", timeout=320)

    def istioctl(self, *args):
        return subprocess.run([STOCK + "/istioctl", "--kubeconfig", self.cluster.kubeconfig, *args], capture_output=True, text=True,
                              check=True, timeout=180).stdout

    def down(self):
        cluster_main.down(self.cluster)
