#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the two container images, ambient-agent and ztunnel, without a container tool.

An image holds the program, the shared libraries that it and they name as NEEDED, taken from a Debian root, what the C
library reads (/etc/nsswitch.conf, passwd, group), the licences of everything in it, and the records that scanners
read (/etc/os-release, /var/lib/dpkg/status.d). There is no shell and no package manager. What both images need is one
layer with one digest, so that a node fetches and keeps it once.

Two images and not one: what an attacker finds in ztunnel's container is ztunnel, and the licence that libnftnl brings
(NOTICE) stays with the agent's image.
"""
import argparse
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layers  # noqa: E402

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What is inside the files themselves: its licence goes along (NOTICE).
INSIDE = {"ambient-agent": ["libjsmn-dev", "libprotobuf-c-dev"], "ambient-cni": ["libjsmn-dev", "libc6-dev"],
          "ambientctl": ["libjsmn-dev"],
          "ztunnel": ["libjemalloc-dev", "libjsmn-dev", "libprotobuf-c-dev"]}

IMAGES = {
    "ambient-agent": {
        "programs": {"ambient-agent": "usr/sbin", "ambientctl": "usr/bin", "ambient-cni": "opt/cni/bin"},
        "entry": "/usr/sbin/ambient-agent",
        # What the container of Istio's chart calls.
        "links": {"usr/bin/install-cni": "../sbin/ambient-agent"},
        "licences": "GPL-3.0-or-later AND Apache-2.0",
        "title": "ambient-agent", "text": "Node agent of an ambient mesh, with its CNI plugin and ambientctl",
    },
    "ztunnel": {
        "programs": {"ztunnel": "usr/sbin"},
        "entry": "/usr/sbin/ztunnel",
        # istiod is told, and `istioctl proxy-status` shows it.
        "version in": ["ISTIO_META_ISTIO_VERSION"],
        "licences": "Apache-2.0",
        "title": "ztunnel", "text": "Node proxy of an ambient mesh",
    },
}


def run(*argv):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


class Root:
    """The Debian root that libraries come from."""

    def __init__(self, path):
        self.path = path
        self.admin = os.path.join(path, "var/lib/dpkg")
        self.triplet = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}[os.uname().machine]

    def resolve(self, path):
        """@path inside the root with its symbolic links followed inside it."""
        seen = 0
        parts, done = path.strip("/").split("/"), ""
        while parts:
            part = parts.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                done = os.path.dirname(done)
                continue
            at = os.path.join(done, part)
            full = os.path.join(self.path, at)
            if os.path.islink(full):
                seen += 1
                if seen > 40:
                    raise OSError(f"too many links: {path}")
                target = os.readlink(full)
                if target.startswith("/"):
                    done = ""
                parts = target.strip("/").split("/") + parts
                continue
            done = at
        return done

    def library(self, name):
        """Path of a shared library in the root, as the loader finds it, not resolved."""
        for d in (f"usr/lib/{self.triplet}", f"lib/{self.triplet}", "usr/lib64", "lib64", "usr/lib", "lib"):
            if os.path.exists(os.path.join(self.path, self.resolve(f"{d}/{name}"))):
                return f"{d}/{name}"
        raise SystemExit(f"image: {name} is not in {self.path}")

    def package(self, path):
        """The package that brought @path; dpkg may know it below /lib or /usr/lib."""
        for p in (path, re.sub("^usr/", "", path), "usr/" + path):
            r = subprocess.run(["dpkg-query", f"--admindir={self.admin}", "-S", "/" + p], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for line in r.stdout.splitlines():
                if not line.startswith("diversion "):
                    return line.split(":")[0]
        raise SystemExit(f"image: no package has {path} in {self.path}")

    def record(self, package):
        return run("dpkg-query", f"--admindir={self.admin}", "-s", package)


def needed(path):
    """What an ELF file asks for: shared libraries by name, its loader by path."""
    dynamic = run("readelf", "--dynamic", "--program-headers", "--wide", path)
    return re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) + re.findall(r"program interpreter: (/.*)\]", dynamic)


def interpreter(path):
    """The loader's path as an ELF file asks for it: the kernel opens that one and no other."""
    found = re.findall(r"Requesting program interpreter: (.*)\]", run("readelf", "--program-headers", "--wide", path))
    return found[0] if found else None


def closure(root, files):
    """{path in the root: resolved path} of all libraries that @files need."""
    found, todo = {}, list(files)
    seen = set()
    while todo:
        for name in needed(todo.pop()):
            if name in seen:
                continue
            seen.add(name)
            path = name.strip("/") if name.startswith("/") else root.library(name)
            found[path] = root.resolve(path)
            todo.append(os.path.join(root.path, found[path]))
    return found


def base(root, libs, loaders):
    """What every image has: the frame, the libraries that all of them need, licences."""
    la = layers.Layer()
    for name in ("bin", "sbin", "lib", "lib64"):
        la.dir("usr/" + name)
        la.link(name, "usr/" + name)
    for path, mode in (("tmp", 0o1777), ("run/istio-cni", 0o700), ("run/ztunnel", 0o700), ("proc", 0o555),
                       ("sys", 0o555), ("dev", 0o755), ("var/lib/ambient", 0o700), ("etc/ambient", 0o755)):
        la.dir(path, mode)
    la.link("var/run", "../run")
    la.text("etc/passwd", "root:x:0:0:root:/:/usr/sbin/nologin\n")
    la.text("etc/group", "root:x:0:\n")
    la.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    la.file("etc/os-release", os.path.join(root.path, root.resolve("etc/os-release")), 0o644)
    for name in ("LICENSE", "NOTICE"):
        la.file("usr/share/doc/ambient/" + name, os.path.join(TREE, name), 0o644)
    common = os.path.join(root.path, "usr/share/common-licenses")
    for name in sorted(os.listdir(common)):
        if re.match(r"(Apache-2\.0|L?GPL-[\d.]+)$", name):
            la.file("usr/share/common-licenses/" + name, os.path.join(common, name), 0o644)
    add_libraries(la, root, libs)
    for loader in loaders:
        at = re.sub("^/(lib|lib64)/", r"usr/\1/", loader)
        if at not in la.entries:
            real = re.sub("^(lib|lib64)/", r"usr/\1/", root.resolve(root.library(os.path.basename(loader))))
            la.link(at, os.path.relpath("/" + real, "/" + os.path.dirname(at)))
    return la


def add_libraries(la, root, libs):
    for path, real in sorted(libs.items()):
        at = re.sub("^(lib|lib64)/", r"usr/\1/", path)  # the root may have /lib as a link, the image has
        la.file(re.sub("^(lib|lib64)/", r"usr/\1/", real), os.path.join(root.path, real), 0o755)
        if os.path.basename(at) != os.path.basename(real) or os.path.dirname(at) != os.path.dirname(real):
            target = "/" + re.sub("^(lib|lib64)/", r"usr/\1/", real)
            if "/" + at != target:
                la.link(at, os.path.relpath(target, "/" + os.path.dirname(at)))
    add_packages(la, root, {root.package(real) for real in libs.values()})


def add_packages(la, root, names):
    for name in sorted(names):
        la.text("var/lib/dpkg/status.d/" + name, root.record(name))
        doc = f"usr/share/doc/{name}/copyright"
        la.file(doc, os.path.join(root.path, root.resolve(doc)), 0o644)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--bin", required=True, help="directory of the release programs")
    p.add_argument("--root", default="/", help="Debian root that they were built in")
    p.add_argument("--hub", required=True, help="registry and path that the names begin with")
    p.add_argument("--tag", required=True)
    p.add_argument("--version", required=True)
    p.add_argument("--out", required=True, help="directory for <image>.tar")
    a = p.parse_args()
    root = Root(a.root)
    arch = layers.ARCHES[os.uname().machine]
    release = dict(re.findall(r'^(\w+)="?(.*?)"?$', open(os.path.join(root.path, root.resolve("etc/os-release")),
                                                         encoding="utf-8").read(), re.M))
    libs = {name: closure(root, [os.path.join(a.bin, f) for f in i["programs"]]) for name, i in IMAGES.items()}
    shared = dict(set.intersection(*(set(x.items()) for x in libs.values())))
    loaders = {interpreter(os.path.join(a.bin, f)) for i in IMAGES.values() for f in i["programs"]} - {None}
    bottom = base(root, shared, sorted(loaders))
    os.makedirs(a.out, exist_ok=True)
    for name, i in IMAGES.items():
        top = layers.Layer()
        for f, d in i["programs"].items():
            top.file(f"{d}/{f}", os.path.join(a.bin, f), 0o755)
        for at, target in i.get("links", {}).items():
            top.link(at, target)
        own = {k: v for k, v in libs[name].items() if k not in shared}
        add_libraries(top, root, own)
        there = {e for e in bottom.entries if e.startswith("var/lib/dpkg/status.d/")}
        inside = {pkg for f in i["programs"] for pkg in INSIDE[f]}
        add_packages(top, root, {pkg for pkg in inside if "var/lib/dpkg/status.d/" + pkg not in there})
        labels = {"org.opencontainers.image.title": i["title"], "org.opencontainers.image.description": i["text"],
                  "org.opencontainers.image.version": a.version, "org.opencontainers.image.licenses": i["licences"],
                  "org.opencontainers.image.base.name": f"{release['ID']}:{release['VERSION_ID']} (libraries only)"}
        archive = layers.Archive()
        full = f"{a.hub}/{name}:{a.tag}"
        packed, plain = archive.add(full, [bottom, top], arch, {
            "User": "0:0", "Entrypoint": [i["entry"]], "WorkingDir": "/",
            "Env": ["PATH=/usr/sbin:/usr/bin"] + ["%s=%s" % (v, a.version) for v in i.get("version in", [])]}, labels)
        out = os.path.join(a.out, name + ".tar")
        archive.write(out)
        print(f"{out}: {full}, {release['PRETTY_NAME']}, {len(libs[name])} libraries, "
              f"{packed / 2**20:.1f} MiB to fetch, {plain / 2**20:.1f} MiB on disk")


if __name__ == "__main__":
    main()
