#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_dns.py: DNS capture by ambient-agent: setting, annotation, the sockets it keeps, and what it does beside a
ztunnel that answers no DNS. With scripted ztunnels and with ours. Run as root."""
import os
import signal
import socket
import sys
import time

import dnslab
from agent_lab import PORTS, TESTS, V2, Pod, fields, main, ports_of, run, test, until, v2
from dnslab import Net
from kube_api import serve
from test_agent_ztunnel import RealZtunnel, plugin

TESTS.clear()  # those of the module that was imported

ON = {"AMBIENT_DNS_CAPTURE": "true"}
DNS = b"\x88\x01\x01"  # hello.dns
SERVER = "10.77.0.200"
DNS_PORTS = tuple(sorted(PORTS + (15053,)))


def captured(pod):
    return ":15053" in pod.rules() and "istio-ambient-raw" in pod.rules()


def free_of_dns(pod):
    return "15053" not in pod.rules() and "istio-ambient-raw" not in pod.rules()


def udp_sockets(pod):
    return run("ip", "netns", "exec", pod.netns, "ss", "-Hlun")


def kinds(fds):
    """(family, type) and port of received sockets; every one must be on the loopback."""
    out = []
    for fd in fds:
        with socket.socket(fileno=os.dup(fd)) as s:
            assert s.getsockname()[0] in ("127.0.0.1", "::1") and s.getsockname()[1] == 15053, s
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x539
            out.append((s.family, s.type))
    return sorted(out)


def begin(w, env=ON, annotations=None):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest(annotations=annotations))
    w.start(env=env)
    return p


@test
def sockets_go_with_the_add(w):
    p = begin(w)
    z = w.ready_ztunnel(V2 + DNS)
    a, payload, fds = w.add(p, z)
    assert a[0] == 200 and captured(p), a
    assert ports_of(payload) == PORTS + (15053,) * 4, ports_of(payload)
    assert kinds(fds[4:]) == sorted((f, t) for f in (socket.AF_INET, socket.AF_INET6)
                                    for t in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    assert not any(n == 19 for n, _ in fields(payload))
    assert w.pod(p)["dns"] == "captured" and w.pod(p)["sockets"] == ["15001", "15006", "15008", "15053"]
    assert w.status()["ztunnels"][0]["dns"] is True
    assert p.listening() == DNS_PORTS
    c = w.begin(p.event("DEL"))
    z.expect(2)
    z.ack()
    assert w.end(c)[0] == 200
    z.close()
    w.peers.remove(z)
    until("nothing is left", lambda: p.clean() and "15053" not in udp_sockets(p))


@test
def a_loopback_that_is_not_up_yet_takes_no_family_away(w):
    """A runtime may call the plugins side by side: ours, in one chain, before the one that brings the loopback up."""
    p = begin(w)
    run("ip", "-n", p.netns, "link", "set", "lo", "down")
    z = w.ready_ztunnel(V2 + DNS)
    a, payload, fds = w.add(p, z)
    assert a[0] == 200 and ports_of(payload) == PORTS + (15053,) * 4, (a, ports_of(payload))
    assert kinds(fds[4:]) == sorted((f, t) for f in (socket.AF_INET, socket.AF_INET6)
                                    for t in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    assert {socket.socket(fileno=os.dup(fd)).family for fd in fds[1:4]} == {socket.AF_INET6}
    run("ip", "-n", p.netns, "link", "set", "lo", "up")
    say = run("ip", "netns", "exec", p.netns, sys.executable, "-c",
              "import socket\nfor f, a in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):\n"
              "    for port in (15053, 15006):\n"
              "        with socket.socket(f) as s:\n            s.settimeout(3)\n            s.connect((a, port))\n"
              "print('all')")
    assert say.strip() == "all", say


@test
def a_family_that_is_switched_off_has_no_sockets(w):
    p = begin(w)
    run("ip", "netns", "exec", p.netns, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    z = w.ready_ztunnel(V2 + DNS)
    a, payload, fds = w.add(p, z)
    assert a[0] == 200 and ports_of(payload) == PORTS + (15053,) * 2, (a, ports_of(payload))
    assert {socket.socket(fileno=os.dup(fd)).family for fd in fds[1:]} == {socket.AF_INET}


@test
def without_the_setting_nothing_is_captured(w):
    p = begin(w, env={})
    z = w.ready_ztunnel(V2 + DNS)
    a, payload, fds = w.add(p, z)
    assert a[0] == 200 and free_of_dns(p) and p.listening() == PORTS, a
    assert ports_of(payload) == PORTS and dict(fields(payload))[19] == 1  # ztunnel need not listen
    assert w.pod(p)["dns"] == "not captured"


@test
def the_annotation_overrides_both_ways(w):
    p = begin(w, annotations={"ambient.istio.io/dns-capture": "false"})
    q = Pod(w, "other")
    w.put("q.yaml", q.manifest(annotations={"ambient.istio.io/dns-capture": "true"}))
    z = w.ready_ztunnel(V2 + DNS)
    assert w.add(p, z)[0][0] == 200 and free_of_dns(p)
    assert w.add(q, z)[0][0] == 200 and captured(q)
    # and it may change while the pod runs: rules, then sockets, then ztunnel hears of it
    w.put("p.yaml", p.manifest(annotations={"ambient.istio.io/dns-capture": "true"}))
    payload, fds = z.expect(1)
    z.ack()
    assert captured(p) and ports_of(payload) == PORTS + (15053,) * 4
    w.put("p.yaml", p.manifest(annotations={"ambient.istio.io/dns-capture": "0"}))
    payload, fds = z.expect(1)
    z.ack()
    assert free_of_dns(p) and ports_of(payload) == PORTS and dict(fields(payload))[19] == 1
    until("status", lambda: w.pod(p)["dns"] == "not captured" and w.pod(p)["sockets"] == ["15001", "15006", "15008"])


@test
def a_ztunnel_that_answers_no_dns_gets_none(w):
    """Names go on resolving as they do outside the mesh; with another ztunnel the capture comes, and goes with it."""
    p = begin(w)
    old = w.ready_ztunnel(V2)
    a, payload, _ = w.add(p, old)
    assert a[0] == 200 and free_of_dns(p) and ports_of(payload) == PORTS, a
    assert not any(n == 19 for n, _ in fields(payload))  # it would not know what that means
    assert w.pod(p)["dns"] == "not captured: ztunnel does not answer DNS", w.pod(p)
    new = w.ztunnel(V2 + DNS)
    new.got = new.snapshot()
    payload, fds = new.expect(1)  # the newest has its snapshot: now it decides
    new.ack()
    assert captured(p) and ports_of(payload) == PORTS + (15053,) * 4
    until("captured", lambda: w.pod(p)["dns"] == "captured" and w.state(p) == "enrolled")
    new.close()
    w.peers.remove(new)
    payload, fds = old.expect(1)
    old.ack()
    assert ports_of(payload) == PORTS
    serve(old)  # it may be asked twice: as the newest again, and for the change
    until("as before", lambda: w.pod(p)["dns"].startswith("not captured:") and w.state(p) == "enrolled" and free_of_dns(p))


@test
def a_stock_ztunnel_opens_them_itself(w):
    p = begin(w)
    z = w.ready_ztunnel()
    a, payload, fds = w.add(p, z)
    assert a[0] == 200 and captured(p) and len(fds) == 1 and ports_of(payload) == (), a
    assert p.listening() == () and "15053" not in udp_sockets(p)


@test
def an_agent_that_starts_again_changes_nothing(w):
    """It cannot know yet what ztunnel can do: what is in the pod stays. Then the sockets come back."""
    p = begin(w)
    z = w.ready_ztunnel(V2 + DNS)
    _, payload, fds = w.add(p, z)
    inodes = sorted(os.fstat(f).st_ino for f in fds[1:])
    w.stop(signal.SIGKILL)
    z.s.close()
    w.start(env=ON)
    time.sleep(0.3)
    assert captured(p)
    again = w.ztunnel(v2(1) + DNS)
    again.send_held(p.uid, fds, PORTS + (15053,) * 4)
    got = again.snapshot()
    assert ports_of(got[p.uid][0]) == PORTS + (15053,) * 4
    assert sorted(os.fstat(f).st_ino for f in got[p.uid][1][1:]) == inodes, "the same sockets"
    until("enrolled", lambda: w.state(p) == "enrolled" and w.pod(p)["dns"] == "captured")
    again.quiet()
    # without capture nothing comes by a start
    w.stop(signal.SIGKILL)
    again.s.close()
    w.start()
    until("seen", lambda: w.pod(p).get("dns") == "not captured" and free_of_dns(p))


@test
def names_resolve_through_ours(w):
    """Plugin, agent, ztunnel: names of the mesh and others, while ztunnel and agent are killed."""
    p = begin(w)
    z = RealZtunnel(w, [p])
    with open(z.state) as f:
        text = f.read()
    service = ('{"name": "web", "namespace": "default", "hostname": "web.default.svc.cluster.local", "vips": ["/10.96.0.9"], '
               '"ports": {"80": 80}}')
    with open(z.state, "w") as f:
        f.write(text.replace('"services": []', '"services": [%s]' % service))
    with open(w.dir + "/resolv.conf", "w") as f:
        f.write("nameserver 127.0.0.1\n")
    os.environ["AMBIENT_DNS_RESOLV_CONF"] = w.dir + "/resolv.conf"
    host, net = Net(w.host), Net(p.netns)
    resolver = dnslab.Resolver(host, "127.0.0.1")
    try:
        z.start()
        plugin(w, p)
        for tcp in (False, True):
            assert dnslab.ask(net, SERVER, "web", tcp=tcp).ips() == ["10.96.0.9"]
            assert dnslab.ask(net, SERVER, "ok.test", tcp=tcp).ips() == ["192.0.2.1"]
        assert dnslab.getent(net, SERVER, "ahostsv4", "web")[0] == 0
        # nobody is there: a query waits in the socket's queue, and a connection in its own
        z.kill()
        with dnslab.udp(net, SERVER) as c, net.connect((SERVER, 53)) as t:
            c.send(dnslab.query("web"))
            t.sendall(dnslab.framed(dnslab.query("web")))
            z.start()
            assert dnslab.Answer(c.recv(512)).ips() == ["10.96.0.9"]
            assert dnslab.Answer(dnslab.read_message(t)).ips() == ["10.96.0.9"]
        w.stop(signal.SIGKILL)
        assert dnslab.ask(net, SERVER, "web").ips() == ["10.96.0.9"]
        w.start(env=ON)
        until("custody is back", lambda: w.pod(p)["custody"] and w.state(p) == "enrolled", 30)
        assert w.pod(p)["dns"] == "captured" and "came back from ztunnel" in w.logged()
        assert dnslab.ask(net, SERVER, "ok.test").ips() == ["192.0.2.1"]
        plugin(w, p, "DEL")
        until("nothing is left", lambda: p.clean() and "15053" not in udp_sockets(p))
    finally:
        del os.environ["AMBIENT_DNS_RESOLV_CONF"]
        z.kill()
        resolver.close()
        host.close()
        net.close()


if __name__ == "__main__":
    sys.exit(main())
