#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_image: the container images as files: digests, configuration, what is inside; that the programs start from what is
inside alone; and that the same input gives the same bytes."""
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.abspath(sys.argv[sys.argv.index("--bin") + 1])
IMAGES = {"ambient-agent": ["/usr/sbin/ambient-agent", "/usr/bin/ambientctl", "/opt/cni/bin/ambient-cni"],
          "ztunnel": ["/usr/sbin/ztunnel"]}


def build(out):
    subprocess.run([sys.executable, os.path.join(TREE, "install/image/build.py"), "--bin", BIN, "--hub", "example.test/x",
                    "--tag", "1", "--version", "9.9", "--out", out], check=True, stdout=subprocess.DEVNULL)


class Image:
    def __init__(self, path):
        with tarfile.open(path) as t:
            self.files = {m.name: t.extractfile(m).read() for m in t if m.isfile()}
        self.index = json.loads(self.files["index.json"])
        self.manifest = json.loads(self.blob(self.index["manifests"][0]))
        self.config = json.loads(self.blob(self.manifest["config"]))
        self.layers = [self.blob(x) for x in self.manifest["layers"]]

    def blob(self, d):
        data = self.files["blobs/" + d["digest"].replace(":", "/")]
        assert len(data) == d["size"] and "sha256:" + hashlib.sha256(data).hexdigest() == d["digest"], d
        return data

    def unpack(self, to):
        for data in self.layers:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as t:
                t.extractall(to)


def layout(a, _):
    for name in IMAGES:
        i = Image(f"{a}/{name}.tar")
        assert json.loads(i.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        assert i.index["manifests"][0]["annotations"]["io.containerd.image.name"] == f"example.test/x/{name}:1"
        plain = [subprocess.run(["gzip", "-dc"], input=x, stdout=subprocess.PIPE, check=True).stdout for x in i.layers]
        assert ["sha256:" + hashlib.sha256(x).hexdigest() for x in plain] == i.config["rootfs"]["diff_ids"]
        c = i.config["config"]
        assert c["User"] == "0:0" and c["Entrypoint"] == [IMAGES[name][0]], c
        assert c["Labels"]["org.opencontainers.image.version"] == "9.9", c
        docker = json.loads(i.files["manifest.json"])[0]
        assert docker["RepoTags"] == [f"example.test/x/{name}:1"] and all(x in i.files for x in docker["Layers"])


def shared_layer(a, _):
    one, two = (Image(f"{a}/{name}.tar") for name in IMAGES)
    assert one.manifest["layers"][0] == two.manifest["layers"][0]
    assert one.manifest["layers"][1] != two.manifest["layers"][1]


def reproducible(a, b):
    for name in IMAGES:
        with open(f"{a}/{name}.tar", "rb") as x, open(f"{b}/{name}.tar", "rb") as y:
            assert x.read() == y.read(), name


def contents(a, work):
    for name in IMAGES:
        root = os.path.join(work, "root-" + name)
        Image(f"{a}/{name}.tar").unpack(root)
        for program in IMAGES[name]:
            if program.endswith("ambient-cni"):
                argv, env = [program], {"CNI_COMMAND": "VERSION"}
            else:
                argv, env = [program, "--version"], {}
            p = subprocess.run(["/usr/sbin/chroot", root, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
                               input='{"cniVersion":"1.0.0"}', check=False)
            assert p.returncode == 0 and p.stdout, (program, p.stdout, p.stderr)
        records = os.listdir(root + "/var/lib/dpkg/status.d")
        assert "libc6" in records and "libssl3" in records or "libssl3t64" in records, records
        for package in records:
            assert os.path.getsize(f"{root}/usr/share/doc/{package}/copyright") > 0, package
        assert os.path.exists(root + "/usr/share/doc/ambient/NOTICE")
        assert os.path.exists(root + "/usr/share/common-licenses/GPL-3")
        extra = set(os.listdir(root + "/usr/bin")) - {"ambientctl", "install-cni"}
        assert not extra, "a program that nobody needs"
    # What the container of Istio's chart calls, by its name on PATH.
    p = subprocess.run(["/usr/sbin/chroot", work + "/root-ambient-agent", "install-cni", "--log_output_level=info", "--version"],
                       env={"PATH": "/usr/sbin:/usr/bin"}, capture_output=True, text=True, check=False)
    assert p.returncode == 0 and p.stdout.startswith("ambient-agent "), (p.stdout, p.stderr)
    assert "libnftnl11" not in os.listdir(os.path.join(work, "root-ztunnel/var/lib/dpkg/status.d"))


def main():
    work = tempfile.mkdtemp(prefix="test_image.")
    a, b = work + "/a", work + "/b"
    failed = 0
    try:
        build(a)
        build(b)
        tests = [("digests and configuration", lambda: layout(a, b)), ("one layer for both", lambda: shared_layer(a, b)),
                 ("same input, same bytes", lambda: reproducible(a, b)),
                 ("programs run from what is inside alone, with licences", lambda: contents(a, work))]
        for n, (name, fn) in enumerate(tests, 1):
            try:
                fn()
                print(f"ok {n} - image: {name}", flush=True)
            except Exception as e:  # every failure is reported, then the next test runs
                failed += 1
                text = str(e).replace("\n", "\n# ")
                print(f"not ok {n} - image: {name}\n# {type(e).__name__}: {text}", flush=True)
        print(f"1..{len(tests)}")
    finally:
        shutil.rmtree(work)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
