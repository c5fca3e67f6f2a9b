#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""includes.py: dependencies point downwards only.

programs -> nft, lib;  nft -> lib;  inside lib: kube -> wire -> format, event -> os -> base.  No program includes another
program's header, the plugin stays within lib/base, lib/os, lib/format, and inside ztunnel the pure mesh/ sees no
other folder of its program.
"""
import posixpath
import re
import sys

import tap

LIB = {
    "lib/base": {"lib/base"},
    "lib/os": {"lib/os", "lib/base"},
    "lib/event": {"lib/event", "lib/os", "lib/base"},
    "lib/format": {"lib/format", "lib/base"},
    "lib/wire": {"lib/wire", "lib/format", "lib/event", "lib/os", "lib/base"},
    "lib/kube": {"lib/kube", "lib/wire", "lib/format", "lib/event", "lib/os", "lib/base"},
}
ALL_LIB = set(LIB)
ROOMS = {
    **LIB,
    "nft": {"nft"} | ALL_LIB,
    "cni": {"cni", "lib/base", "lib/os", "lib/format"},
    "ctl": {"ctl"} | ALL_LIB,
    "node-agent": {"node-agent", "nft"} | ALL_LIB,
    "ztunnel/mesh": {"ztunnel/mesh", "lib/base", "lib/format", "lib/event", "lib/wire"},
    "ztunnel": {"ztunnel"} | ALL_LIB,
}
# Headers of lib that a room must not know although it may use their folder.
FORBIDDEN = {
    "ztunnel/mesh": {"lib/event/loop.h", "lib/wire/tls.h", "lib/wire/h2.h", "lib/wire/http1.h"},
    "node-agent": {"lib/wire/tls.h", "lib/wire/h2.h"},
}
SYSTEM_FORBIDDEN = {
    "lib/format": {"sys/socket.h", "unistd.h", "fcntl.h", "time.h", "sys/epoll.h"},
    "ztunnel/mesh": {"sys/socket.h", "fcntl.h", "sys/epoll.h", "pthread.h"},
    "ztunnel": {"libnftnl/", "libmnl/", "netlink/"},
    "cni": {"openssl/", "libnftnl/", "libmnl/", "netlink/", "systemd/", "locale.h", "iconv.h", "pthread.h"},
    "node-agent": {"openssl/", "nghttp2/"},
    "lib": {"libnftnl/", "libmnl/", "netlink/"},
    "ctl": {"openssl/", "libnftnl/", "libmnl/", "netlink/"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.M)


def room_of(path):
    folder = posixpath.dirname(path)
    while folder and folder not in ROOMS:
        folder = posixpath.dirname(folder)
    return folder or None


def faults(path, text):
    """Yields a sentence for each include of @text that the room of @path may not have."""
    room = room_of(path)
    if room is None:
        return
    for quote, name in INCLUDE.findall(text):
        if quote == '"':
            if "/" not in name:
                yield f'{path}: "{name}": write the path from the top of the tree'
                continue
            if name.startswith("proto/"):
                continue
            target = room_of(name)
            allowed = ROOMS[room]
            inside = any(target == a or (target or "").startswith(a + "/") for a in allowed)
            if not inside or name in FORBIDDEN.get(room, ()):
                yield f'{path}: "{name}": {room}/ may include only {", ".join(sorted(allowed))}'
        else:
            for part, bad in SYSTEM_FORBIDDEN.items():
                if path.startswith(part + "/") and any(name == b or (b.endswith("/") and name.startswith(b)) for b in bad):
                    yield f"{path}: <{name}> does not belong into {part}/"


BAD_SAMPLES = [
    ("lib/base/x.c", '#include "lib/os/fd.h"'),
    ("lib/format/x.c", '#include "lib/wire/tls.h"'),
    ("lib/wire/x.h", '#include "nft/nft.h"'),
    ("lib/wire/x.c", '#include "lib/kube/kube_json.h"'),
    ("lib/kube/x.c", '#include "node-agent/source/pods.h"'),
    ("nft/x.c", '#include "node-agent/config.h"'),
    ("cni/x.c", '#include "lib/wire/http1.h"'),
    ("ztunnel/data/x.c", '#include "nft/nft.h"'),
    ("ztunnel/mesh/x.c", '#include "ztunnel/data/worker.h"'),
    ("node-agent/enrol/x.c", '#include "ztunnel/mesh/mesh.h"'),
    ("node-agent/enrol/x.c", "#include <openssl/ssl.h>"),
    ("lib/format/x.c", "#include <sys/socket.h>"),
    ("cni/x.c", '#include "x.h"'),
]
GOOD_SAMPLES = [
    ("ctl/x.c", '#include "lib/kube/kube_watch.h"'),
    ("node-agent/enrol/x.c", '#include "nft/nft.h"\n#include "node-agent/enrol/x.h"\n#include <unistd.h>'),
    ("ztunnel/mesh/x.c", '#include "lib/wire/spiffe.h"'),
    ("tests/unit/x.c", '#include "ztunnel/mesh/mesh.h"'),
]


def main():
    t = tap.Tap()
    missed = [f"{p}: {s}" for p, s in BAD_SAMPLES if not list(faults(p, s))]
    missed += [f"{p}: {s}" for p, s in GOOD_SAMPLES if list(faults(p, s))]
    t.ok(not missed, f"self-test: {len(BAD_SAMPLES)} wrong includes are refused, good ones are not", missed)
    paths = [p for p in tap.files(".c", ".h") if room_of(p)]
    found = [f for p in paths for f in faults(p, tap.read(p))]
    t.ok(not found and paths, f"{len(paths)} files include only what lies below them", found)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
