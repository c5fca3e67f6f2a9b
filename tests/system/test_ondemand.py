#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""on-demand xDS: what the state does not hold is asked for when a connection needs it (ztunnel-spec 9.6)."""
import json
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_istiod import ADDRESS, POLICY  # noqa: E402
import istiod_site  # noqa: E402
from ztlab import double_echo, wait_for  # noqa: E402
from ztsite import check, main, refused, works  # noqa: E402

VIP, EMPTY_VIP = "10.200.0.1", "10.200.0.2"
WEB, EMPTY = "default/web.example", "default/empty.example"


class Site(istiod_site.Site):
    """Pods a and b of this node, and c, of which istiod says that it is elsewhere, when it says something."""

    def __init__(self, **env):
        super().__init__(start=False, XDS_ON_DEMAND="true", ISTIO_META_DNS_CAPTURE="false", **env)
        self.c = self.lab.pod("c", 4, captured=False)
        self.c.serve(8080, double_echo)
        self.zt = self.lab.start(**self.env)

    def uids(self):
        return sorted(w["uid"].rsplit("/", 1)[1] for w in self.zt.dump()["workloads"])

    def put_c(self):
        w = self.istiod.workload(self.c)
        w.node = b"elsewhere"
        self.istiod.put(ADDRESS, w.uid.decode(), self.istiod.pb["workload"].Address(workload=w))
        return w.uid.decode()

    def put_service(self, name, vip):
        wl = self.istiod.pb["workload"]
        s = wl.Service(name=name.split("/")[1].encode(), namespace=b"default", hostname=name.split("/")[1].encode())
        s.addresses.add(address=socket.inet_aton(vip))
        s.ports.add(service_port=80, target_port=8080)
        self.istiod.put(ADDRESS, name, wl.Address(service=s))

    def put_b(self, *services):
        wl = self.istiod.pb["workload"]
        w = self.istiod.workload(self.b)
        for s in services:
            w.services.add(key=s.encode())
        self.istiod.put(ADDRESS, self.uid_b, wl.Address(workload=w))

    def ask(self, ip):
        """A connection that needs to know of an address that nobody answers at."""
        try:
            self.a.net.connect((ip, 9)).close()
        except OSError:
            pass

    def forget(self):
        """Answers are remembered for a second."""
        time.sleep(1.2)


def asks_by_name():
    """Nothing is subscribed but policies; the node's own workloads come by themselves; it is ready, and says how it asks."""
    with Site() as s:
        first, second = s.istiod.requests[:2]
        check(list(first.subscribe) == [b"*"] and list(first.unsubscribe) == [b"*"], first)
        check(second.type_url == POLICY.encode() and not second.subscribe and not second.unsubscribe, second)
        s.zt.wait_ready()
        s.put_c()
        wait_for("traffic", s.works)
        check(s.uids() == ["a", "b"], s.uids())
        d = s.zt.dump()
        check(d["config"]["xdsOnDemand"] is True and d["localState"]["onDemand"] is True, d["localState"])
        check(d["localState"]["onDemandWaiting"] == 0, d["localState"])
        s.end()


def unknown_address():
    """Nobody has it: many connections ask once and then go in the clear; it leaves no subscription; once somebody has
    it, the next connection finds out."""
    with Site() as s:
        wait_for("traffic", s.works)
        s.istiod.speak.clear()
        done = []
        threads = [threading.Thread(target=lambda: done.append(works(s.a, s.c.ip))) for _ in range(10)]
        for t in threads:
            t.start()
        wait_for("the question", lambda: "/" + s.c.ip in s.istiod.asked)
        check(s.works() and not done, "others are served meanwhile")
        check(s.zt.dump()["localState"]["onDemandWaiting"] == 1)
        wait_for("all to wait", lambda: json.loads(s.zt.http(15000, "/debug/workers")[1])["connections"] >= 10)
        s.istiod.speak.set()
        for t in threads:
            t.join()
        check(done == [True] * 10, done)
        check(s.istiod.asked.count("/" + s.c.ip) == 1, s.istiod.asked)
        uid = s.put_c()
        s.forget()
        check(works(s.a, s.c.ip))
        check(s.uids() == ["a", "b", "c"], s.uids())
        check(uid in s.istiod.subs)
        s.ask("10.201.9.9")
        wait_for("no subscription", lambda: "/" + s.c.ip not in s.istiod.subs)
        s.forget()
        n = len(s.istiod.asked)
        check(works(s.a, s.c.ip) and len(s.istiod.asked) == n, "what is known is not asked for")
        check(s.istiod.push(ADDRESS, removed=[uid]) == "")
        wait_for("its removal", lambda: s.uids() == ["a", "b"])
        s.end()


def service_and_endpoints():
    """A service comes with those behind it; one without anybody is asked for again, for istiod tells of no new ones."""
    with Site() as s:
        wait_for("traffic", s.works)
        s.put_service(WEB, VIP)
        s.put_service(EMPTY, EMPTY_VIP)
        s.put_b(WEB)
        check(s.istiod.push(ADDRESS, [s.uid_b]) == "")
        check(works(s.a, VIP, 80))
        check(refused(s.a, EMPTY_VIP, 80))
        s.zt.wait_line("no healthy upstream: %s:80" % EMPTY_VIP)
        s.put_b(WEB, EMPTY)
        s.forget()
        check(works(s.a, EMPTY_VIP, 80), "asked again")
        check(EMPTY in s.istiod.asked and EMPTY in s.istiod.subs, s.istiod.asked)
        s.end()


def inbound_peer():
    """Who connects is asked for, too: it is in the log by its name."""
    with Site() as s:
        wait_for("traffic", s.works)
        s.put_c()
        check(works(s.c, s.b.ip))
        s.zt.wait_line("connection complete", 'src.workload="c"', 'direction="inbound"')
        s.end()


def no_answer():
    """istiod says nothing, or is away: a connection to what is not known is refused in the end, not sent in the clear;
    what is known works. Back again, names that wait are told of, and versions of what is held."""
    with Site() as s:
        wait_for("traffic", s.works)
        s.istiod.speak.clear()
        start = time.monotonic()
        check(refused(s.a, s.c.ip), "refused")
        check(4 < time.monotonic() - start < 12, time.monotonic() - start)
        s.zt.wait_line("on-demand xds: no answer from istiod about the destination")
        check(s.zt.metric("ambient_xds_on_demand_unanswered_total") == 1)
        s.istiod.speak.set()
        s.forget()
        check(works(s.a, s.c.ip))
        s.forget()
        s.istiod.down()
        s.zt.wait_line("no stream from istiod")
        check(s.works(), "what is known")
        got = []
        t = threading.Thread(target=lambda: got.append(works(s.a, s.c.ip)))
        t.start()
        wait_for("the question", lambda: s.zt.dump()["localState"]["onDemandWaiting"] == 1)
        n = len(s.istiod.requests)
        s.istiod.up()
        t.join()
        check(got == [True], "answered on the next stream")
        first = s.istiod.requests[n]
        have = {v.key.decode(): v.value.decode() for v in first.initial_resource_versions}
        check(have["/" + s.c.ip] == "" and have[s.uid_a] != "" and have[s.uid_b] != "", have)
        s.end()


def away_from_the_start():
    """A start without istiod serves what was known, and says that it is stale."""
    with Site() as s:
        wait_for("traffic", s.works)
        check(s.zt.stop() == 0)
        s.istiod.on_open = lambda stream: True  # certificates only
        s.zt = s.lab.start(serve=False, **s.env)
        s.lab.agent.serve([s.a, s.b])
        wait_for("traffic without istiod", s.works)
        check(s.zt.dump()["localState"]["stale"] is True)
        check(refused(s.a, s.c.ip), "not known, and nobody to ask")
        s.zt.wait_line("on-demand xds: no answer from istiod about the destination")
        s.istiod.on_open = None
        s.istiod.down()
        s.istiod.up()
        wait_for("no longer stale", lambda: s.zt.dump()["localState"]["stale"] is False, 30)
        check(s.works() and works(s.a, s.c.ip))
        s.end()


def scanner():
    """Addresses at random: nothing of them stays."""
    with Site() as s:
        wait_for("traffic", s.works)
        rss = s.zt.rss_kb()
        for i in range(200):
            s.ask("10.201.0.%d" % (i + 1))
        wait_for("the questions", lambda: sum(x.startswith("/10.201.") for x in s.istiod.asked) == 200)
        wait_for("nothing waits", lambda: s.zt.dump()["localState"]["onDemandWaiting"] == 0)
        s.ask("10.202.0.1")
        wait_for("no subscription is left", lambda: not [x for x in s.istiod.subs if x.startswith("/10.201.")], 30)
        wait_for("nothing waits", lambda: s.zt.dump()["localState"]["onDemandWaiting"] == 0)
        # Questions with nothing to give up between two that have: the name that is nobody's is one all the same.
        s.istiod.speak.clear()
        s.ask("10.203.0.1")
        s.ask("10.203.0.2")
        s.istiod.speak.set()
        for i in range(3, 6):
            wait_for("nothing waits", lambda: s.zt.dump()["localState"]["onDemandWaiting"] == 0)
            s.ask("10.203.0.%d" % i)
        wait_for("nothing waits", lambda: s.zt.dump()["localState"]["onDemandWaiting"] == 0)
        names = [x for x in s.istiod.subs if x.startswith("ambient/nothing")]
        check(len(names) <= 1, names)
        print("# %d names asked, resident %d KiB before, %d after" % (len(s.istiod.asked), rss, s.zt.rss_kb()))
        s.end()


if __name__ == "__main__":
    sys.exit(main([asks_by_name, unknown_address, service_and_endpoints, inbound_peer, no_answer, away_from_the_start, scanner]))
