# SPDX-License-Identifier: Apache-2.0
"""ztsite.py: what the tests of ztunnel share: a site of three pods, one connection through it, the command line."""
import argparse
import re

from ztlab import Lab, double_echo, http_hello, tap

HELLO = b"hello world"
ARGS = argparse.Namespace()


class Site:
    """One lab for many tests: captured a and b, plain c; b answers on 8080 (echo) and 8081."""

    def __init__(self, version=2, **env):
        self.lab = Lab(ARGS.bin, version, env)
        try:
            self.a = self.lab.pod("a", 2)
            self.b = self.lab.pod("b", 3)
            self.c = self.lab.pod("c", 4, captured=False)
            self.b.serve(8080, double_echo)
            self.b.serve(8081, http_hello)
            self.c.serve(8080, double_echo)
            self.lab.state()
            self.zt = self.lab.start()
            self.root = self.lab.root()
        except BaseException:
            for zt in self.lab.zts:
                print("# " + zt.log()[-2000:].replace("\n", "\n# "))
            self.lab.close()
            raise

    def cert(self, pod="a", ns="default", td="cluster.local", **kw):
        return self.root.issue(self.lab, ["spiffe://%s/ns/%s/sa/%s" % (td, ns, pod)], **kw)

    def close(self):
        self.lab.close()


SITE = None


def site():
    global SITE
    if SITE is None:
        SITE = Site()
    return SITE


def echo_once(pod, addr, port=8080, data=HELLO):
    """What comes back for @data: twice the data when all is well, less when the way is cut."""
    got = b""
    try:
        with pod.net.connect((addr, port)) as s:
            s.sendall(data)
            while len(got) < 2 * len(data):
                d = s.recv(65536)
                if not d:
                    break
                got += d
    except ConnectionError:
        pass
    return got


def works(pod, addr, port=8080):
    return echo_once(pod, addr, port) == HELLO + HELLO


def refused(pod, addr, port=8080):
    return echo_once(pod, addr, port) == b""


def check(cond, *what):
    assert cond, " ".join(str(w) for w in what)


def fresh(version):
    lab = Lab(ARGS.bin, version)
    return lab


def ends_cleanly():
    """The shared site's own end: status 0, which includes what leak checkers find."""
    s = site()
    code = s.zt.stop()
    check(code == 0, "status", code, s.zt.log()[-3000:])


def main(tests):
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    p.add_argument("--only", help="regular expression of test names")
    p.parse_args(namespace=ARGS)
    named = [(f.__name__.replace("_", " "), f) for f in tests
             if not ARGS.only or re.search(ARGS.only, f.__name__)]
    try:
        return tap(named)
    finally:
        if SITE is not None:
            SITE.close()
