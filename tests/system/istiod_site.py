# SPDX-License-Identifier: Apache-2.0
"""istiod_site.py: pods a and b on a node whose ztunnel gets state and certificates from a scripted istiod."""
from fake_istiod import Istiod
from ztlab import Lab, double_echo
from ztsite import ARGS, check, refused, works


class Site:
    """@prepare(site) runs when there are istiod and pods and no ztunnel yet. @start: is there a ztunnel; @serve: does
    the agent tell it of the pods?"""

    def __init__(self, start=True, serve=True, version=2, prepare=None, **env):
        self.lab = Lab(ARGS.bin, version, {})
        self.istiod = self.zt = None
        try:
            self.istiod = Istiod(self.lab)
            self.a, self.b = self.lab.pod("a", 2), self.lab.pod("b", 3)
            self.b.serve(8080, double_echo)
            self.uid_a, self.uid_b = self.istiod.put_workload(self.a), self.istiod.put_workload(self.b)
            self.env = dict(self.istiod.env(), **env)
            if prepare:
                prepare(self)
            self.zt = self.lab.start(serve=serve, **self.env) if start else None
        except BaseException:
            self.show()
            self.close()
            raise

    def show(self):
        for zt in self.lab.zts:
            print("# " + zt.log()[-6000:].replace("\n", "\n# "))

    def works(self):
        return works(self.a, self.b.ip)

    def refused(self):
        return refused(self.a, self.b.ip)

    def end(self):
        """ztunnel ends well, which includes what leak checkers find."""
        check(self.zt.stop() == 0, self.zt.log()[-3000:])

    def close(self):
        if self.istiod:
            self.istiod.close()
        self.lab.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.show()
        self.close()
