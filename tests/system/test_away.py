#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""istiod slow or away: new pods do not wait for it, restarted ztunnels serve, nothing opens meanwhile."""
import fcntl
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_istiod import ADDRESS, POLICY  # noqa: E402
from istiod_site import Site  # noqa: E402
from ztlab import double_echo, wait_for  # noqa: E402
from ztsite import check, main, refused, works  # noqa: E402

DENY = 1


def from_file(s):
    """The state comes from a file, the certificates from istiod."""
    s.lab.state()
    s.env["LOCAL_XDS_PATH"] = s.lab.state_path


def new_pod_opens_connections_before_istiod_names_it():
    """Its certificate is there without a connection; it speaks as what the agent says; nothing comes in yet."""
    with Site() as s:
        wait_for("traffic", s.works)
        c = s.lab.pod("c", 9)
        c.serve(8080, double_echo)
        check(s.lab.agent.add(c) == "")
        s.zt.wait_line("certificate issued", "sa/c")
        start = time.monotonic()
        check(works(c, s.b.ip), "the first connection")
        took = time.monotonic() - start
        check(took < 4, "it took %.2f s, and istiod is waited for 5" % took)
        wait_for("its record", lambda: s.zt.lines("connection complete", "src.addr=%s:" % c.ip,
                                                  'src.identity="%s"' % c.identity))
        start = time.monotonic()
        check(refused(s.a, c.ip), "what may come in is not known yet")
        check(time.monotonic() - start > 4, "it was waited for")
        s.zt.wait_line("failed to fetch information about local workload", "default/c")
        s.istiod.put_workload(c)
        check(s.istiod.push(ADDRESS, ["c1//Pod/default/c"]) == "")
        wait_for("traffic to it", lambda: works(s.a, c.ip))
        check(len(s.zt.lines("certificate issued", "sa/c")) == 1, "one certificate for both")
        # istiod takes it away again: nobody speaks for it any more
        check(s.istiod.push(ADDRESS, removed=["c1//Pod/default/c"]) == "")
        wait_for("the removal", lambda: "//Pod/default/c" not in str(s.zt.dump()["workloads"]))
        wait_for("its end", lambda: not [x for x in s.zt.dump()["certificates"] if x["identity"] == c.identity])
        s.end()


def slow_ca_does_not_delay_the_agent():
    """A CA that does not answer: the agent has its answer at once; the connection waits, and is refused with the reason."""
    with Site() as s:
        wait_for("traffic", s.works)
        s.istiod.hold_ca()
        c = s.lab.pod("c", 9)
        start = time.monotonic()
        check(s.lab.agent.add(c) == "")
        check(time.monotonic() - start < 4, "the agent's answer")
        start = time.monotonic()
        check(refused(c, s.b.ip))
        check(4 < time.monotonic() - start < 15, "it waited as long as for its workload")
        s.zt.wait_line("identity error: no certificate yet for workload: default/c")
        s.istiod.release_ca()
        wait_for("traffic", lambda: works(c, s.b.ip))
        s.end()


def certificate_that_has_expired_is_not_used():
    """The CA is away until the end of a certificate: it serves to its end, then connections are refused with a clear log."""
    with Site() as s:
        wait_for("traffic", s.works)
        s.istiod.life = 8
        c = s.lab.pod("c", 9)
        check(s.lab.agent.add(c) == "")
        s.zt.wait_line("certificate issued", "sa/c", "valid_for=")
        s.istiod.hold_ca(fail=True)
        check(works(c, s.b.ip))
        s.zt.wait_line("the present one stays in use", "sa/c")
        s.zt.wait_line("the certificate has expired and the Istio CA", "connections are refused", "sa/c")
        check(refused(c, s.b.ip))
        entry = [x for x in s.zt.dump()["certificates"] if x["identity"].endswith("sa/c")][0]
        check(entry["state"].startswith("Unavailable: ") and entry["certChain"] == [], entry)
        s.istiod.life = 3600
        s.istiod.release_ca()
        wait_for("traffic", lambda: works(c, s.b.ip), 40)
        s.end()


def kept(s):
    return os.path.join(s.lab.dir, "kept", "ztunnel.mesh")


def wait_kept(s, *words):
    """What came last is written a little later."""
    def look():
        with open(kept(s), "rb") as f:
            data = f.read()
        return all(x in data for x in words)
    wait_for("the file to have %s" % (words,), look)


def restart_killed(s, wait=True, **env):
    """kill -9, and a new ztunnel; the agent tells it of every pod."""
    s.zt.kill()
    s.zt = s.lab.start(serve=False, **dict(s.env, **env))
    if wait:
        s.lab.agent.serve([p for p in s.lab.pods if p.captured])
    return s.zt


def restarted_without_istiod_serves_and_enforces():
    """kill -9 while istiod is away: known pods talk, policies hold, it is called stale; what was removed goes when it is back."""
    with Site(CA_ADDRESS="") as s:
        wait_for("traffic", s.works)
        s.b.serve(8082, double_echo)
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8082])
        s.istiod.put_workload(s.a, authorization_policies=[b"default/never-seen"])
        s.a.serve(8083, double_echo)
        check(s.istiod.push(POLICY, ["default/no"]) == "")
        check(s.istiod.push(ADDRESS, [s.uid_a]) == "")
        wait_for("the denial", lambda: refused(s.a, s.b.ip, 8082))
        wait_for("the one that is missing", lambda: refused(s.b, s.a.ip, 8083))
        wait_kept(s, b"default/no", b"default/never-seen")
        check(os.stat(kept(s)).st_mode & 0o7777 == 0o600)
        check(s.zt.dump()["localState"]["keptIn"] == kept(s), s.zt.dump()["localState"])
        s.istiod.down()
        start = time.monotonic()
        restart_killed(s)
        print("# serves %.1f s after the kill" % (time.monotonic() - start))
        check(works(s.a, s.b.ip), "known pods")
        check(refused(s.a, s.b.ip, 8082), "the DENY is in force")
        check(refused(s.b, s.a.ip, 8083), "a policy that is named and was never seen denies")
        s.zt.wait_line("istiod does not answer: serving the last good state", "policies=1")
        status, body = s.zt.http(15021, "/healthz/ready")
        check(status == 500 and "serving the last good state" in body, status, body)
        state = s.zt.dump()["localState"]
        check(state["stale"] and 0 <= state["ageSeconds"] < 60 and "last good one" in state["error"], state)
        wait_for("the gauge", lambda: s.zt.metric("ambient_state_stale_seconds") > 0, 15)
        # meanwhile: the policy is removed, another one made, and a workload goes
        del s.istiod.resources[POLICY]["default/no"]
        s.istiod.put_policy("other", "default", DENY, destination_ports=[8080])
        s.istiod.put_workload(s.a)
        s.istiod.requests.clear()
        s.istiod.up()
        wait_for("the removal", lambda: works(s.a, s.b.ip, 8082), 40)
        wait_for("what is new", s.refused)
        have = {v.key.decode() for r in s.istiod.requests[:2] for v in r.initial_resource_versions}
        check({"default/no", s.uid_a, s.uid_b} <= have, have)
        wait_for("it to be ready", s.zt.ready)
        wait_for("the end of it to be told", lambda: not s.zt.dump()["localState"]["stale"] and
                 s.zt.metric("ambient_state_stale_seconds") == 0)
        s.end()


def memory(fd):
    """What the kernel says of a credential's descriptor, and its text."""
    seals = fcntl.fcntl(fd, 1034)  # F_GET_SEALS
    return seals, os.fstat(fd), os.pread(fd, 1 << 20, 0)


def everything_away_known_pods_talk():
    """istiod and its CA are away, ztunnel is killed: state from the file, certificates from the agent, mTLS both ways."""
    with Site(version=3) as s:
        wait_for("traffic", s.works)
        wait_for("traffic", lambda: works(s.a, s.b.ip))
        s.lab.agent.collect([s.a.identity, s.b.identity])
        seals, st, text = memory(s.lab.agent.kept[s.a.identity])
        check(seals & 0xf == 0xf and st.st_nlink == 0 and st.st_mode & 0o777 == 0o400, seals, st)
        check(text.startswith(b"ambient-credential 1\n" + s.a.identity.encode()) and b"PRIVATE KEY" in text)
        for broken in (lambda: os.pwrite(s.lab.agent.kept[s.a.identity], b"x", 0),
                       lambda: os.ftruncate(s.lab.agent.kept[s.a.identity], 0)):
            try:
                broken()
                check(False, "it could be changed")
            except PermissionError:
                pass
        s.istiod.put_policy("no", "default", DENY, destination_ports=[8082])
        check(s.istiod.push(POLICY, ["default/no"]) == "")
        s.b.serve(8082, double_echo)
        wait_for("the denial", lambda: refused(s.a, s.b.ip, 8082))
        wait_kept(s, b"default/no")
        s.istiod.down()
        log = s.zt
        restart_killed(s)
        check(works(s.a, s.b.ip), "mTLS with what the agent kept")
        check(refused(s.a, s.b.ip, 8082), "the DENY is in force")
        wait_for("both to be said", lambda: len(s.zt.lines("the certificate of before is used")) == 2)
        wait_for("their records", lambda: s.zt.lines("connection complete", 'src.identity="%s"' % s.a.identity,
                                                     'dst.identity="%s"' % s.b.identity))
        c = s.lab.pod("c", 9)  # new: it waits for state and CA
        check(s.lab.agent.add(c) == "")
        for zt in (log, s.zt):
            check("PRIVATE KEY" not in zt.log(), "no key in a log")
        check("PRIVATE" not in str(s.zt.dump()))
        s.istiod.put_workload(c)
        s.istiod.up()
        wait_for("the new pod", lambda: works(c, s.b.ip), 40)
        wait_for("ready", s.zt.ready, 20)
        s.end()


def credentials_are_looked_at():
    """What the agent hands back is used only when it is sealed, whole, valid, and the pod's own."""
    with Site(version=3, prepare=from_file, XDS_ADDRESS="", CA_ADDRESS="https://localhost:15012") as s:
        wait_for("traffic", s.works)
        s.lab.agent.collect([s.a.identity, s.b.identity])
        text = memory(s.lab.agent.kept[s.a.identity])[2]
        plain = os.memfd_create("x")
        os.write(plain, text)

        def sealed(data):
            fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
            os.write(fd, data)
            fcntl.fcntl(fd, 1033, 0xf)
            return fd
        s.istiod.down()
        own = s.lab.agent.kept[s.a.identity]
        for fd, why in ((plain, "no sealed memory"), (sealed(text[:-5]), "not as long as it says"),
                        (sealed(text.replace(b"sa/a", b"sa/b", 1)), "the certificate is for"),
                        (sealed(b"x"), "expected the heading"), (os.dup(s.lab.agent.kept[s.b.identity]), None)):
            s.lab.agent.kept[s.a.identity] = fd
            restart_killed(s)
            if why:
                s.zt.wait_line("what the agent kept is not used", why)
            s.zt.wait_line("the certificate of before is used", "sa/b")
            check(not s.zt.lines("the certificate of before is used", "sa/a"), why)
            os.close(fd)
        s.lab.agent.kept[s.a.identity] = own
        restart_killed(s)
        check(s.works())
        s.end()


def credential_that_ended_meanwhile():
    """The certificate's life ends while the CA is away: connections are refused, and the log says so."""
    with Site(version=3, prepare=from_file, XDS_ADDRESS="", CA_ADDRESS="https://localhost:15012") as s:
        wait_for("traffic", s.works)
        s.istiod.life = 15
        c = s.lab.pod("c", 9)
        s.lab.reload(s.zt)
        check(s.lab.agent.add(c) == "")
        wait_for("traffic", lambda: works(c, s.b.ip))
        s.lab.agent.collect([s.a.identity, s.b.identity, c.identity])
        s.istiod.down()
        restart_killed(s)
        check(works(c, s.b.ip), "it is valid still")
        s.zt.wait_line("the certificate has expired", "connections are refused", "sa/c", timeout=60)
        restart_killed(s)
        s.zt.wait_line("what the agent kept is not used", "expired", "default/c")
        check(refused(c, s.b.ip) and works(s.a, s.b.ip), "its own connections only")
        s.end()


def damaged_state_is_not_used():
    """Nothing of a damaged file is served: without istiod there is no state, and the log says why."""
    with Site(CA_ADDRESS="") as s:
        wait_for("traffic", s.works)
        s.end()  # an orderly end writes what is not written yet
        s.istiod.down()
        size = os.path.getsize(kept(s))
        with open(kept(s), "r+b") as f:
            f.seek(size // 2)
            byte = f.read(1)
            f.seek(size // 2)
            f.write(bytes([byte[0] ^ 1]))
        s.zt = s.lab.start(serve=False, **s.env)
        s.zt.wait_line("the last mesh state is ignored", "the checksum is not that of its contents")
        time.sleep(4)
        check(not s.zt.lines("serving the last good state") and not s.zt.lines("connected to the agent"))
        check("state manager, proxy" in s.zt.http(15021, "/healthz/ready")[1])
        s.istiod.up()
        s.lab.agent.serve([s.a, s.b])
        s.zt.wait_ready()
        wait_for("traffic", s.works)
        s.end()
        # no place for it: said once, and everything else goes on
        s.zt = s.lab.start(**dict(s.env, AMBIENT_STATE_DIR="/proc/nowhere"))
        s.zt.wait_line("the mesh state does not outlive this process", "/proc/nowhere")
        check(s.works() and s.zt.dump()["localState"]["keptIn"] == "")
        s.end()


def policy_that_cannot_be_read_closes():
    """A first-seen policy of a new kind denies what it may have been meant for; corrected or removed, it opens."""
    with Site(CA_ADDRESS="") as s:
        wait_for("traffic", s.works)
        sec = s.istiod.pb["authorization"]
        s.istiod.put(POLICY, "default/p", sec.Authorization(name=b"p", namespace=b"default", scope=1, action=5))
        said = s.istiod.push(POLICY, ["default/p"])
        check("default/p: action: unknown value 5" in said, said)
        wait_for("the denial", s.refused)
        s.zt.wait_line("the policy default/p cannot be read", "all is denied in its namespace")
        s.zt.wait_line("explicitly denied by: default/p (it cannot be read, so it denies all)")
        error = s.zt.dump()["localState"]["error"]
        check("1 policies cannot be read and close what they apply to" in error, error)
        check([p for p in s.zt.dump()["policies"] if p.get("unreadable")])
        # an ALLOW that cannot be read allows nothing, in another namespace it does not matter
        s.istiod.put_policy("p", "default", DENY, destination_ports=[9999])
        check(s.istiod.push(POLICY, ["default/p"]) == "")
        wait_for("traffic again", s.works)
        bad = sec.Authorization(name=b"q", namespace=b"elsewhere", scope=1, action=0)
        bad.groups.add().rules.add().matches.add().source_ips.add(address=b"123", length=8)
        s.istiod.put(POLICY, "elsewhere/q", bad)
        check("elsewhere/q: source_ips" in s.istiod.push(POLICY, ["elsewhere/q"]))
        check(s.works(), "another namespace")
        bad.namespace, bad.name = b"default", b"r"
        s.istiod.put(POLICY, "default/r", bad)
        check("default/r: source_ips" in s.istiod.push(POLICY, ["default/r"]))
        wait_for("the denial", s.refused)
        check(s.istiod.push(POLICY, removed=["default/r", "elsewhere/q"]) == "")
        wait_for("traffic again", s.works)
        check("cannot be read" not in s.zt.dump()["localState"]["error"])
        s.end()


if __name__ == "__main__":
    sys.exit(main([new_pod_opens_connections_before_istiod_names_it, slow_ca_does_not_delay_the_agent,
                   certificate_that_has_expired_is_not_used, restarted_without_istiod_serves_and_enforces,
                   everything_away_known_pods_talk, credentials_are_looked_at, credential_that_ended_meanwhile,
                   damaged_state_is_not_used, policy_that_cannot_be_read_closes]))
