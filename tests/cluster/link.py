# SPDX-License-Identifier: Apache-2.0
"""link.py: a cable between two clusters that know nothing of each other: all addresses of both, nodes', pods' and services', are the same.

Only node 1 of each is seen from the other, by its address on the cable; what pods send there comes from that address.
"""
import subprocess

from . import layout

NAME = "cable"
OUT = """table ip %s {
    chain out {
        type nat hook postrouting priority srcnat
        oifname "%s" masquerade
    }
}
""" % (NAME, NAME)


def plug(one, two):
    """@one and @two are clusters that are up. The cable goes with the first of them that goes down."""
    pids = [str(c.node(1).pid) for c in (one, two)]

    def inside(pid, *argv, **more):
        subprocess.run(["nsenter", "-t", pid, "-n", *argv], check=True, **more)
    inside(pids[0], "ip", "link", "add", NAME, "type", "veth", "peer", "name", NAME, "netns", pids[1])
    for pid, address in zip(pids, layout.LINK):
        inside(pid, "ip", "addr", "add", address + "/24", "dev", NAME)
        inside(pid, "ip", "link", "set", NAME, "up")
        inside(pid, "nft", "-f", "-", input=OUT, text=True)
