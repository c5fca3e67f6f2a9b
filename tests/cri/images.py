# SPDX-License-Identifier: Apache-2.0
"""images.py: the one container image of the tests: Debian's static busybox, made without Docker.

It serves as the pod's pause image too: its entry point sleeps.
"""
import hashlib
import io
import json
import os
import subprocess
import tarfile

IMAGE = "ambient.test/busybox:1"
BUSYBOX = "/bin/busybox"
SLEEP = ["/bin/sleep", "2147483647"]


class Missing(Exception):
    """Something that the host must provide is not there; str() names the Debian package."""


def _add(tar, name, data=b"", mode=0o644, kind=tarfile.REGTYPE, link=""):
    t = tarfile.TarInfo(name)
    t.size, t.mode, t.type, t.linkname = len(data), mode, kind, link
    tar.addfile(t, io.BytesIO(data))


def _layer():
    if not os.path.exists(BUSYBOX):
        raise Missing("%s is missing: apt-get install busybox-static" % BUSYBOX)
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True,
                             text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for d in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "www"):
            _add(tar, d, mode=0o1777 if d == "tmp" else 0o755, kind=tarfile.DIRTYPE)
        with open(BUSYBOX, "rb") as f:
            _add(tar, "bin/busybox", f.read(), 0o755)
        for a in applets:
            if a != "busybox":
                _add(tar, "bin/" + a, kind=tarfile.SYMTYPE, link="busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\n")
    return out.getvalue()


def write_archive(path, name=IMAGE):
    """Writes a docker-archive with the image to @path."""
    layer = _layer()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": SLEEP, "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "layer.tar", layer)
