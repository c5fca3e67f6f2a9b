# SPDX-License-Identifier: Apache-2.0
"""Container image layers from files of a Debian root, and the OCI archive that holds them.

The same input gives the same bytes: entries are sorted, owned by root, dated 0, and compressed without a date.
"""
import gzip
import hashlib
import io
import json
import os
import tarfile

ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}


class Layer:
    """Entries of one layer, by path without a leading slash. Parent directories come by themselves."""

    def __init__(self):
        self.entries = {}

    def _add(self, path, kind, mode, data=b""):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self._add(parent, "dir", 0o755)
        old = self.entries.get(path)
        if old is not None and old != (kind, mode, data):
            raise ValueError(f"{path} is added twice, with different contents")
        self.entries[path] = (kind, mode, data)

    def dir(self, path, mode=0o755):
        self._add(path, "dir", mode)

    def link(self, path, target):
        self._add(path, "link", 0o777, target.encode())

    def text(self, path, text, mode=0o644):
        self._add(path, "file", mode, text.encode())

    def file(self, path, source, mode=None):
        with open(source, "rb") as f:
            data = f.read()
        self._add(path, "file", os.stat(source).st_mode & 0o755 if mode is None else mode, data)

    def tar(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as t:
            for path in sorted(self.entries):
                kind, mode, data = self.entries[path]
                i = tarfile.TarInfo(path)
                i.mode = mode
                if kind == "dir":
                    i.type = tarfile.DIRTYPE
                    t.addfile(i)
                elif kind == "link":
                    i.type = tarfile.SYMTYPE
                    i.linkname = data.decode()
                    t.addfile(i)
                else:
                    i.size = len(data)
                    t.addfile(i, io.BytesIO(data))
        return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Archive:
    """An OCI image layout (image-spec 1.0) in a tar; also has the manifest.json that `docker load` of old reads."""

    def __init__(self):
        self.blobs = {}
        self.index = []
        self.docker = []

    def _blob(self, data, media):
        d = digest(data)
        self.blobs[d] = data
        return {"mediaType": media, "digest": d, "size": len(data)}

    def _json(self, value, media):
        return self._blob(json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), media)

    def add(self, name, layers, arch, config, labels):
        """One image under @name (registry/path:tag); returns its size as it is pulled, in bytes."""
        tars = [layer.tar() for layer in layers]
        packed = [self._blob(gzip.compress(t, 9, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip") for t in tars]
        date = "1970-01-01T00:00:00Z"
        conf = self._json({
            "architecture": arch, "os": "linux", "created": date,
            "config": {**config, "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [digest(t) for t in tars]},
            "history": [{"created": date, "created_by": "make image"} for _ in tars],
        }, "application/vnd.oci.image.config.v1+json")
        manifest = self._json({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": conf, "layers": packed, "annotations": labels,
        }, "application/vnd.oci.image.manifest.v1+json")
        manifest["platform"] = {"architecture": arch, "os": "linux"}
        # containerd reads the full name, other tools the tag
        manifest["annotations"] = {"io.containerd.image.name": name,
                                   "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
        self.index.append(manifest)

        def path(blob):
            return "blobs/" + blob["digest"].replace(":", "/")

        self.docker.append({"Config": path(conf), "RepoTags": [name], "Layers": [path(p) for p in packed]})
        return sum(p["size"] for p in packed), sum(len(t) for t in tars)

    def write(self, out):
        files = {"blobs/" + d.replace(":", "/"): data for d, data in self.blobs.items()}
        files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        files["index.json"] = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": self.index,
        }, sort_keys=True, separators=(",", ":")).encode()
        files["manifest.json"] = json.dumps(self.docker, sort_keys=True, separators=(",", ":")).encode()
        layer = Layer()
        for path, data in files.items():
            layer._add(path, "file", 0o644, data)
        tmp = out + ".new"
        with open(tmp, "wb") as f:
            f.write(layer.tar())
        os.rename(tmp, out)
