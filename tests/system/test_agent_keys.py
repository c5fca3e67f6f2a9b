#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_keys.py: certificates and keys that the agent keeps for the next ztunnel: given back with the pod, to whom,
for how long, and what is not kept. Run as root."""
import fcntl
import os
import signal
import socket
import sys
import time

from agent_lab import BIN, Pod, ServiceManager, V2, field, fields, main, test, until, z_serve

V3 = b"\x08\x03"
SEALS = 0xf  # SEAL, SHRINK, GROW, WRITE


def text(pod, end=3600, td="cluster.local", key=b"SECRET-KEY"):
    """A credential's text; the agent looks at its first lines only (lib/wire/credential.h)."""
    who = "spiffe://%s/ns/%s/sa/sa-%s" % (td, pod.ns, pod.name)
    return ("ambient-credential 1\n%s\n%d %d 5 5\n" % (who, time.time() + end, len(key))).encode() + key + b"chainroots"


def sealed(data, seals=SEALS):
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, 1033, seals)  # F_ADD_SEALS
    return fd


def give(z, fd, identity="spiffe://cluster.local/ns/x/sa/y"):
    msg = field(18, field(1, identity.encode()))
    socket.send_fds(z.s, [msg], [fd])
    os.close(fd)


def credential_of(payload, fds):
    """What an Add brought: the credential's text, None for none."""
    f = dict(fields(payload))
    assert f.get(17) == 3, f
    return os.pread(fds[-1], 1 << 16, 0) if f.get(18) else None


def enrolled(w, name="app", hello=V3):
    w.namespace(mode="ambient")
    p = Pod(w, name)
    w.put("p.yaml", p.manifest())
    return p


def comes_back(w, p, want):
    """A new ztunnel says hello: what does it get with the pod?"""
    z = w.ready_ztunnel(V3)
    try:
        return credential_of(*z.got[p.uid]) == want
    finally:
        z.close()


@test
def kept_and_given_back(w):
    p = enrolled(w)
    w.start()
    z = w.ready_ztunnel(V3)
    _, payload, fds = w.add(p, z)
    assert credential_of(payload, fds) is None and len(fds) == 4
    one, two = text(p, key=b"one"), text(p, key=b"two")
    give(z, sealed(one))
    give(z, sealed(two))  # renewed: the newest counts
    z.close()
    until("it comes back", lambda: comes_back(w, p, two))
    # the memory is locked and left out of dumps; it is in nobody's log
    with open("/proc/%d/smaps" % w.pid()) as f:
        smaps = f.read()
    at = smaps.index("memfd:test")
    flags = smaps[at:smaps.index("VmFlags", at) + 200].split("VmFlags:")[1].split("\n")[0]
    assert "dd" in flags.split(), flags
    if "asan" not in BIN[0]:  # whose runtime makes mlock() do nothing
        assert "lo" in flags.split(), flags
    assert smaps.count("memfd:test") == 1
    # a version 2 ztunnel gets none, nor a hint of it
    z = w.ready_ztunnel(V2)
    payload, fds = z.got[p.uid]
    assert len(fds) == 4 and not {17, 18} & {n for n, _ in fields(payload)}
    z.close()
    # a stock one neither
    z = w.ready_ztunnel()
    assert len(z.got[p.uid][1]) == 1
    z.close()
    z = w.ready_ztunnel(V3)
    w.cni(p.event("DEL"))
    z.expect(2)
    z.ack()
    until("it is forgotten", lambda: "no pod needs this credential any more" in w.logged())
    until("it is unmapped", lambda: "memfd:test" not in open("/proc/%d/smaps" % w.pid()).read())
    until("it is closed", lambda: not [l for l in w.open_fds() if "memfd:test" in l])
    z.close()
    assert "SECRET" not in w.logged() and "chainroots" not in w.logged()


@test
def not_everything_is_kept(w):
    p = enrolled(w)
    q = Pod(w, "stranger")
    w.start()
    z = w.ready_ztunnel(V3)
    w.add(p, z)
    good = text(p)
    plain = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(plain, good)
    rows = [
        (plain, "no sealed memory"),
        (sealed(good, 0x7), "no sealed memory"),
        (os.open("/etc/hostname", os.O_RDONLY), "no sealed memory"),
        (os.open("/dev/null", os.O_RDONLY), "no sealed memory"),
        (sealed(b"x"), "expected the heading"),
        (sealed(good[:-1]), "not as long as it says"),
        (sealed(good + b"x"), "not as long as it says"),
        (sealed(text(p, end=-5)), "it has expired"),
        (sealed(text(q)), "no pod of this identity"),
        (sealed(text(p, td="a b")), "expected a SPIFFE identity"),
        (sealed(b"ambient-credential 1\n" + b"x" * 400000), "expected 1 to 327680"),
    ]
    for fd, why in rows[:9]:
        give(z, fd)
    until("all are looked at", lambda: w.logged().count("a credential is not kept") >= 9)
    for _, why in rows[:9]:
        assert why in w.logged(), why
    for fd, _ in rows[9:]:
        give(z, fd)
    z.close()
    assert comes_back(w, p, None)
    # without a descriptor, with two, or in version 2: that peer is sent away
    for hello, fds in ((V3, 0), (V3, 2), (V2, 1)):
        z = w.ready_ztunnel(hello)
        socket.send_fds(z.s, [field(18, field(1, b"spiffe://a/ns/b/sa/c"))], [sealed(good)] * fds)
        assert z.closed()
        z.close()
    assert comes_back(w, p, None)


@test
def one_that_ends_is_not_given(w):
    p = enrolled(w)
    w.start()
    z = w.ready_ztunnel(V3)
    w.add(p, z)
    short = text(p, end=8)
    give(z, sealed(short))
    z.close()
    assert comes_back(w, p, short)
    until("its end", lambda: comes_back(w, p, None))


@test
def descriptor_store_keeps_them(w):
    p = enrolled(w)
    m = ServiceManager(w)
    m.start()
    z = w.ready_ztunnel(V3)
    w.add(p, z)
    kept = text(p)
    give(z, sealed(text(p, key=b"old")))
    give(z, sealed(kept))
    until("it is in the store", lambda: m.notes() is not None and
          [len(l) for n, l in m.store.items() if n.startswith("ambient-credential-")] == [1])
    w.stop(signal.SIGKILL)
    z.close()
    m.start()
    until("it comes back", lambda: comes_back(w, p, kept))
    z = w.ready_ztunnel(V3)
    until("enrolled", lambda: w.state(p) == "enrolled" or z_serve(z))
    w.cni(p.event("DEL"))
    z.expect(2)
    z.ack()
    z.close()
    until("the store is empty", lambda: m.notes() is not None and not m.store)
    m.close()


if __name__ == "__main__":
    sys.exit(main())
