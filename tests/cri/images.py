# SPDX-License-Identifier: Apache-2.0
"""images.py: container images made without Docker; first of all that of the tests, Debian's static busybox.

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


def busybox_layer(programs=(), files=()):
    """A layer with busybox under all its names; @programs: static programs that go into /bin, too; @files: (path in the
    image, path here) of others, with their modes."""
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
        for path in programs:
            with open(path, "rb") as f:
                _add(tar, "bin/" + os.path.basename(path), f.read(), 0o755)
        made = set()
        for path, source in files:
            parents = path.split("/")[:-1]
            for d in ("/".join(parents[:n + 1]) for n in range(len(parents))):
                if d not in made:
                    _add(tar, d, mode=0o755, kind=tarfile.DIRTYPE)
                    made.add(d)
            with open(source, "rb") as f:
                _add(tar, path, f.read(), os.stat(source).st_mode & 0o777)
    return out.getvalue()


def write_archive(path, name=IMAGE, layer=None, entry=SLEEP, user=""):
    """Writes a docker-archive with the image to @path. @layer: its one layer as a tar file's bytes; @user: uid:gid."""
    layer = layer or busybox_layer()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": entry, "Env": ["PATH=/bin"], "WorkingDir": "/", "User": user},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "layer.tar", layer)
