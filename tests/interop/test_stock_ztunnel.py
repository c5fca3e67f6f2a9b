#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_stock_ztunnel.py: our agent and a stock ztunnel (cni-spec 4, ZDS version 1): pods that our agent enrols are served
by Istio's ztunnel, over its restart and over the agent's. STOCK_ZTUNNEL names its program; without it all is skipped.
Run as root."""
import os
import signal
import sys

from interop_lab import OurZtunnel, bridge, ca, echo, end, inside, mesh_state, stock, stock_env, works
from agent_lab import PORTS, Pod, main, test, until


class Site:
    """Pods on a bridge, a certificate authority, and a stock ztunnel in the node's namespace."""

    def __init__(self, w, *names):
        self.program = stock("ztunnel")
        self.w, self.started = w, []
        self.pods = [Pod(w, n) for n in names]
        bridge(w, self.pods)
        mesh_state(w.dir + "/state.yaml", self.pods)
        self.ca = ca(w.host, w.dir)
        self.started.append(self.ca)
        self.zt = None
        self.ztlog = open(w.dir + "/stock.log", "w+")

    def serve(self, pod):
        self.started.append(echo(pod))

    def start(self):
        env = {"PATH": os.environ["PATH"], "LOCAL_XDS_PATH": self.w.dir + "/state.yaml", "NODE_NAME": "n1",
               "INPOD_UDS": self.w.zds, **stock_env(self.w.dir)}
        self.zt = inside(self.w.host, self.program, "proxy", "ztunnel", stdout=self.ztlog, stderr=self.ztlog, env=env,
                         cwd=self.w.dir)
        until("the stock ztunnel has its snapshot", lambda: self.alive() and any(
            z["snapshot"] and z["pid"] == self.zt.pid for z in self.w.status()["ztunnels"]), 20)

    def alive(self):
        if self.zt.poll() is not None:
            raise AssertionError("the stock ztunnel ended with %d" % self.zt.returncode)
        return True

    def kill(self, sig=signal.SIGKILL):
        self.zt.send_signal(sig)
        self.zt.wait(20)
        self.zt = None

    def said(self):
        self.ztlog.flush()
        with open(self.w.dir + "/stock.log", errors="replace") as f:
            return f.read()

    def close(self):
        if sys.exc_info()[0]:
            for line in self.said().splitlines()[-40:]:
                print("# stock: " + line)
        if self.zt is not None:
            self.kill()
        end(*self.started)
        self.ztlog.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def hbone(site, a, b):
    """Lines of the stock access log that name both identities and the HBONE port."""
    return [l for l in site.said().splitlines()
            if "access" in l and "/sa/sa-%s" % a.name in l and "/sa/sa-%s" % b.name in l and ":15008" in l]


def enrol(w, p):
    status, answer = w.cni(p.event())
    assert status == 200 and answer["outcome"] == "enrolled", answer
    assert set(PORTS) <= set(p.listening()), p.listening()


def enrolled_by_us(w):
    """A site whose pods a and b our agent has enrolled and given to the stock ztunnel."""
    w.namespace(mode="ambient")
    s = Site(w, "a", "b")
    try:
        w.put("p.yaml", *[p.manifest() for p in s.pods])
        w.start()
        s.start()
        for p in s.pods:
            enrol(w, p)
    except BaseException:
        s.close()
        raise
    return s


@test
def stock_ztunnel_serves_what_our_agent_enrols(w):
    with enrolled_by_us(w) as s:
        a, b = s.pods
        assert w.pod(a)["custody"] is False, "a stock ztunnel makes its own sockets"
        s.serve(b)
        assert works(a, b)
        until("HBONE in the stock access log", lambda: hbone(s, a, b))
        status, _ = w.cni(b.event("DEL"))
        assert status == 200
        until("released", lambda: not b.has_rules() and not b.routed())
        s.alive()


@test
def stock_ztunnel_is_replaced(w):
    """The snapshot of a new connection carries every pod; after kill -9 the pods are served again."""
    with enrolled_by_us(w) as s:
        a, b = s.pods
        s.serve(b)
        assert works(a, b)
        for _ in range(3):
            s.kill()
            s.start()
            until("served again", lambda: works(a, b))
        assert w.state(a) == "enrolled" and w.state(b) == "enrolled"


@test
def our_agent_is_replaced(w):
    """A stock ztunnel keeps serving while the agent is away, and connects again by itself."""
    with enrolled_by_us(w) as s:
        a, b = s.pods
        s.serve(b)
        w.stop(signal.SIGKILL)
        assert works(a, b)
        w.start()
        until("the stock ztunnel is back", lambda: any(z["snapshot"] for z in w.status()["ztunnels"]), 30)
        until("enrolled", lambda: w.state(a) == "enrolled" and w.state(b) == "enrolled", 30)
        assert works(a, b)


@test
def from_a_stock_ztunnel_to_ours_and_back(w):
    """Change of the data plane on a node with running pods: no pod is restarted, each new connection is served."""
    with enrolled_by_us(w) as s:
        a, b = s.pods
        s.serve(b)
        assert works(a, b)
        s.kill(signal.SIGTERM)
        ours = OurZtunnel(w, w.zds)
        try:
            until("served by ours", lambda: works(a, b), 20)
            assert w.pod(a)["custody"] and w.pod(b)["custody"]
        finally:
            ours.stop()
        s.start()
        until("served by the stock one", lambda: works(a, b), 20)


if __name__ == "__main__":
    sys.exit(main())
