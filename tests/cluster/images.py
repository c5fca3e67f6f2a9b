# SPDX-License-Identifier: Apache-2.0
"""images.py: the container images that every node gets at its start: the tests' own, and CoreDNS."""
import os

from cri import images

from . import layout


def make(cluster):
    os.makedirs(cluster.images, exist_ok=True)
    for name, image, entry in (("tester", layout.TEST_IMAGE, ["/bin/tester", "pause"]),
                               ("coredns", layout.DNS_IMAGE, ["/bin/coredns"])):
        program, archive = "%s/%s" % (layout.BIN, name), "%s/%s.tar" % (cluster.images, name)
        if os.path.exists(archive) and os.path.getmtime(archive) > os.path.getmtime(program):
            continue
        images.write_archive(archive + ".new", image, images.busybox_layer([program]), entry)
        os.rename(archive + ".new", archive)
