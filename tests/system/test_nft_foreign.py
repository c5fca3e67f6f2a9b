#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_nft_foreign: what Istio's agent leaves in its iptables mode (cni-spec 5.7, 6.3) goes, rules of others stay. With the
real iptables of both kinds and ipset. Run as root."""
import os
import re
import shutil
import subprocess

from nftlab import Ns, main, run

# The chains of an enrolled pod, as `iptables-save` shows them after the stock agent (cni-spec 5.2 in this language).
POD = """*mangle
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
COMMIT
*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -d {probe} -p tcp -j ACCEPT
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d {local} -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d {local} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A ISTIO_PRERT -s {probe} -p tcp -j ACCEPT
-A ISTIO_PRERT ! -d {local} -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
*raw
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1
COMMIT
"""
# Somebody else's, around them: before and after the jumps, a chain of their own, a policy, matches and targets with data.
OTHERS = """*nat
:THEIRS - [0:0]
-A PREROUTING -p tcp -m multiport --dports 80,443 -m comment --comment "their own" -j THEIRS
-A OUTPUT -d {other} -p tcp -m tcp --dport 7 -j DNAT --to-destination {dnat}
-A THEIRS -p tcp -m limit --limit 3/sec -j RETURN
-A THEIRS -j MARK --set-xmark 0x8/0xff
COMMIT
*filter
:FORWARD DROP [0:0]
:LOOP - [0:0]
-A INPUT -g LOOP
-A LOOP -s {other} -j DROP
-A LOOP -m statistic --mode nth --every 3 --packet 0
COMMIT
"""
WORDS = {"": {"probe": "169.254.7.127/32", "local": "127.0.0.1/32", "other": "10.9.8.7/32", "dnat": "10.1.1.1:9"},
         "6": {"probe": "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128", "local": "::1/128", "other": "fd00:9::7/128",
               "dnat": "[fd00:1::1]:9"}}
KINDS = [(family, kind) for kind in ("legacy", "nft") for family in ("", "6")]


def there(*programs):
    for p in programs:
        if shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            return False
    return True


def text(template, family):
    out = template
    for k, v in WORDS[family].items():
        out = out.replace("{%s}" % k, v)
    return out


def save(ns, family, kind, counters=False):
    """The rules, without what differs between equal ones: comments, and counters unless asked for."""
    out = ns.sh("ip%stables-%s-save" % (family, kind), *(["-c"] if counters else [])).stdout
    out = "\n".join(l for l in out.splitlines() if not l.startswith("#"))
    return out if counters else re.sub(r"\[\d+:\d+\]", "", out)


def restore(ns, family, kind, rules):
    ns.sh("ip%stables-%s-restore" % (family, kind), "--noflush", stdin=rules)


def goes_and_others_stay(ctl, family, kind):
    a, b = Ns("a" + family + kind), Ns("b" + family + kind)
    restore(b, family, kind, text(OTHERS, family))
    want = save(b, family, kind)
    # Theirs around ours: half before, half after.
    restore(a, family, kind, text(OTHERS, family))
    restore(a, family, kind, text(POD, family))
    assert save(a, family, kind) != want and "ISTIO_PRERT" in save(a, family, kind)
    assert ctl(a, "foreign-remove").stdout == "3\n" if kind == "legacy" else ctl(a, "foreign-remove").stdout == "1\n"
    tables = ("*nat", "*filter")
    got = save(a, family, kind)

    def of(saved):
        return {t: saved.split(t)[1].split("COMMIT")[0] for t in tables}
    assert of(got) == of(want), (got, want)
    assert "ISTIO" not in got, got
    assert ctl(a, "foreign-remove").stdout == "0\n"
    a.delete()
    b.delete()


def between_theirs(ctl, family, kind):
    """Jumps that come last, and a chain of theirs that is longer than what goes before it."""
    a = Ns("b" + family + kind)
    restore(a, family, kind, text(POD, family))
    before = save(a, family, kind)
    restore(a, family, kind, text(OTHERS, family))
    assert ctl(a, "foreign-remove").returncode == 0
    got = save(a, family, kind)
    assert "ISTIO" not in got and "THEIRS" in got and "their own" in got and "LOOP" in got and "ISTIO" in before, got
    a.delete()


def counters_of_others_stay(ctl, family, kind):
    a = Ns("c" + family + kind)
    # (Not every restore takes counters of a new rule.)
    a.sh("ip%stables-%s-restore" % (family, kind), "--counters", stdin="*nat\n:ISTIO_OUTPUT - [0:0]\n"
         "[0:0] -A OUTPUT -j ISTIO_OUTPUT\n[7:700] -A OUTPUT -p tcp -m tcp --dport 1\nCOMMIT\n")
    line = next(l for l in save(a, family, kind, counters=True).splitlines() if "--dport 1" in l)
    assert kind == "nft" or line.startswith("[7:700]"), line
    assert ctl(a, "foreign-remove").stdout == "1\n"
    got = save(a, family, kind, counters=True)
    assert line in got.splitlines() and "ISTIO" not in got, got
    a.delete()


def nothing_there_loads_nothing(ctl):
    a = Ns("n")
    assert ctl(a, "foreign-remove").stdout == "0\n"
    for f in ("ip_tables_names", "ip6_tables_names"):
        with a:
            if os.path.exists("/proc/thread-self/net/" + f):
                with open("/proc/thread-self/net/" + f) as names:
                    assert names.read() == "", "a table was made where none was"
    a.delete()


def host(ctl, kind):
    """The node's chain, which looks into a set; the set itself; a set of another with a similar name."""
    a = Ns("h" + kind)
    for name, family, kin in (("istio-inpod-probes-v4", "inet", ""), ("istio-inpod-probes-v6", "inet6", "6"),
                              ("istio-inpod-probes-v4-mine", "inet", "")):
        a.sh("ipset", "create", name, "hash:ip", "family", family, "comment")
        if name.endswith("mine"):
            continue
        a.sh("ip%stables-%s-restore" % (kin, kind), "--noflush", stdin=(
            "*nat\n:ISTIO_POSTRT - [0:0]\n-A POSTROUTING -j ISTIO_POSTRT\n"
            "-A ISTIO_POSTRT -p tcp -m owner --socket-exists -m set --match-set %s dst -j SNAT --to-source %s\nCOMMIT\n"
            % (name, WORDS[kin]["probe"].split("/")[0])))
    assert ctl(a, "foreign-remove").returncode == 0  # the sets stay unless asked for
    assert "istio-inpod-probes-v4\n" in a.sh("ipset", "list", "-n").stdout
    ctl(a, "foreign-remove-sets")
    assert a.sh("ipset", "list", "-n").stdout.split() == ["istio-inpod-probes-v4-mine"]
    assert "ISTIO" not in save(a, "", kind) + save(a, "6", kind)
    assert ctl(a, "foreign-remove-sets").stdout == "0\n"
    a.sh("ipset", "destroy", "istio-inpod-probes-v4-mine")
    a.delete()


def ours_beside(ctl):
    """Our rules are not foreign; with both in a pod only the others go."""
    a = Ns("o")
    ctl(a, "apply", "-d")
    for family, kind in KINDS:
        restore(a, family, kind, text(POD, family))
    ctl(a, "foreign-remove")
    assert ctl.state(a, "-d") == ("present", [])
    assert "ISTIO" not in "".join(save(a, f, k) for f, k in KINDS)
    a.delete()


def tests(tap, ctl):
    if not there("iptables-legacy-save", "iptables-nft-save"):
        tap.case("what Istio's iptables mode leaves # SKIP no iptables", lambda: None)
        return
    probe = Ns("probe")
    works = {(f, k): subprocess.run(["ip", "netns", "exec", probe.name, "ip%stables-%s-restore" % (f, k), "--noflush"], text=True,
                                    input="*nat\n:X - [0:0]\nCOMMIT\n*raw\nCOMMIT\n*mangle\nCOMMIT\n", capture_output=True,
                                    check=False).returncode == 0 for f, k in KINDS}
    probe.delete()
    tap.case("nothing there, nothing is loaded", nothing_there_loads_nothing, ctl)
    for family, kind in KINDS:
        name = "ip%stables-%s" % (family, kind)
        if not works[(family, kind)]:
            tap.case("%s # SKIP this kernel has none" % name, lambda: None)
            continue
        tap.case(name + ": its chains go, others stay as they are", goes_and_others_stay, ctl, family, kind)
        tap.case(name + ": with others' rules after them", between_theirs, ctl, family, kind)
        tap.case(name + ": counters of others stay", counters_of_others_stay, ctl, family, kind)
    if all(works.values()):
        tap.case("ours stay beside them", ours_beside, ctl)
    if there("ipset") and all(works.values()) and run("ipset", "list", "-n", check=False).returncode == 0:
        for kind in ("legacy", "nft"):
            tap.case("the node's chain and sets, " + kind, host, ctl, kind)
    else:
        tap.case("the node's chain and sets # SKIP no ipset", lambda: None)


main(tests)
