#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_nft: the rules as the kernel has them, against what nft(8) makes of the specification's text."""
import os
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nftlab import Ns, main, run  # noqa: E402

# golden: (options, IPv6)
GOLDEN = {
    "default": ((), True), "default-v4": ((), False),
    "dns": (("-d",), True), "dns-v4": (("-d",), False),
    "ingress": (("-i",), True), "ingress-v4": (("-i",), False),
    "interfaces": (("-n", "br0,tap7"), True), "interfaces-v4": (("-n", "br0,tap7"), False),
    "everything": (("-d", "-i", "-n", "br0"), True),
}
NAT, MANGLE, RAW = "istio-ambient-nat", "istio-ambient-mangle", "istio-ambient-raw"


def stock_routes(ns, ipv6):
    """What the stock agent adds, through ip(8)."""
    for v in ("-4", "-6") if ipv6 else ("-4",):
        ns.ip(v, "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100", "priority", "32764")
        ns.ip(v, "route", "add", "local", "default", "dev", "lo", "table", "100")


def golden_rules(name):
    ns = Ns("g")
    try:
        ns.load(name)
        return ns.rules()
    finally:
        ns.delete()


def fresh(fn):
    """Runs fn(ns) in a namespace of its own."""
    ns = Ns("t")
    try:
        return fn(ns)
    finally:
        ns.delete()


def same_as_golden(ctl, name):
    opts, ipv6 = GOLDEN[name]
    ns = Ns("t", ipv6=ipv6)
    try:
        ctl(ns, "apply", *opts)
        assert ns.rules() == golden_rules(name), ns.nft("list", "ruleset")
        assert ctl.state(ns, *opts) == ("present", [])
        assert ("fwmark 0x111/0xfff lookup 100" in ns.ip("-6", "rule")) == ipv6
    finally:
        ns.delete()


def stock_reads_present(ctl, name):
    """A set that nft(8) and ip(8) made is recognised, step by step."""
    opts, ipv6 = GOLDEN[name]
    ns = Ns("t", ipv6=ipv6)
    try:
        ns.load(name)
        stock_routes(ns, ipv6)
        assert ctl.state(ns, *opts) == ("present", []), ctl.state(ns, *opts)
        # and is the very same after an apply over it
        before = ns.rules(), ns.ip("rule"), ns.route6()
        ctl(ns, "apply", *opts)
        assert before == (ns.rules(), ns.ip("rule"), ns.route6())
    finally:
        ns.delete()


def over_every_other(ctl, name):
    """Whatever set was there before: the result is the wanted one, with nothing left of the old."""
    opts, ipv6 = GOLDEN[name]
    want = golden_rules(name)
    for old, (_, old_ipv6) in GOLDEN.items():
        if old_ipv6 != ipv6:
            continue
        ns = Ns("t", ipv6=ipv6)
        try:
            ns.load(old)
            ctl(ns, "apply", *opts)
            assert ns.rules() == want, (old, ns.nft("list", "ruleset"))
            assert ctl.state(ns, *opts) == ("present", []), old
        finally:
            ns.delete()


def twice(ctl, name):
    def test(ns):
        ctl(ns, "apply", *GOLDEN[name][0])
        first = ns.rules(), ns.ip("rule"), ns.ip("-6", "rule"), ns.ip("route", "show", "table", "100")
        ctl(ns, "apply", *GOLDEN[name][0])
        assert first == (ns.rules(), ns.ip("rule"), ns.ip("-6", "rule"), ns.ip("route", "show", "table", "100"))
    fresh(test)


def no_trace(ctl, name):
    opts, ipv6 = GOLDEN[name]
    ns = Ns("t", ipv6=ipv6)
    try:
        before = ns.trace()
        ctl(ns, "apply", *opts)
        assert before != ns.trace()
        ctl(ns, "remove")
        assert before == ns.trace(), ns.trace()
        assert ctl.state(ns, *opts)[0] == "absent"
        ctl(ns, "remove")  # nothing there is success
        assert before == ns.trace()
    finally:
        ns.delete()


def removes_stock(ctl):
    def test(ns):
        before = ns.trace()
        ns.load("everything")
        stock_routes(ns, True)
        ctl(ns, "remove")
        assert before == ns.trace(), ns.trace()
    fresh(test)


def removes_only_ours(ctl):
    def test(ns):
        ns.nft("-f", "-", stdin="""
            table ip istio-ambient-nat {
                chain c { counter accept ; }
            }
            table inet other {
                chain c { type nat hook output priority 0 ; meta mark 5 accept ; }
            }""")
        ns.ip("rule", "add", "fwmark", "0x111/0xfff", "lookup", "101", "priority", "32764")
        ns.ip("rule", "add", "fwmark", "0x222/0xfff", "lookup", "100", "priority", "32764")
        ns.ip("route", "add", "local", "10.9.9.0/24", "dev", "lo", "table", "100")
        ns.ip("route", "add", "local", "default", "dev", "lo", "table", "100", "tos", "0x10")
        before = ns.trace()
        ctl(ns, "apply", "-d")
        ctl(ns, "remove")
        assert before == ns.trace(), ns.trace()
    fresh(test)


def removes_duplicates(ctl):
    """The same route with other metrics would still bring replies to lo."""
    def test(ns):
        before = ns.trace()
        ctl(ns, "apply")
        for v in ("-4", "-6"):
            for metric in ("7", "8"):
                ns.ip(v, "route", "add", "local", "default", "dev", "lo", "table", "100", "metric", metric)
        ctl(ns, "remove")
        assert before == ns.trace(), ns.trace()
    fresh(test)


def v4_does_not_hide_v6(ctl):
    def test(ns):
        ns.ip("-4", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100", "priority", "32764")
        ns.ip("-4", "route", "add", "local", "default", "dev", "lo", "table", "100")
        assert ctl.state(ns)[0] == "different"
        ctl(ns, "apply")
        assert "fwmark 0x111/0xfff lookup 100" in ns.ip("-6", "rule")
        assert "local default dev lo" in ns.route6()
        assert ctl.state(ns) == ("present", [])
    fresh(test)


def ipv6_switched_on_later(ctl):
    ns = Ns("t", ipv6=False)
    try:
        ctl(ns, "apply")
        assert ctl.state(ns) == ("present", [])
        for i in ("all", "default", "lo"):
            ns.write(f"/proc/sys/net/ipv6/conf/{i}/disable_ipv6", "0")
        state, lines = ctl.state(ns)
        assert state == "different" and any("IPv6" in x for x in lines) and any("::1" in x for x in lines), lines
        ctl(ns, "apply")
        assert ctl.state(ns) == ("present", [])
    finally:
        ns.delete()


# What somebody did to an enrolled pod, and what the check must say: (name, commands, part of a line)
def nft_cmd(*args):
    return lambda ns: ns.nft(*args)


def handle_of(ns, table, chain, n):
    lines = [x for x in ns.nft("-a", "list", "chain", "inet", table, chain).splitlines()
             if "# handle" in x and "{" not in x]
    return lines[n - 1].rsplit("# handle ", 1)[1]


def delete_rule(table, chain, n):
    return lambda ns: ns.nft("delete", "rule", "inet", table, chain, "handle", handle_of(ns, table, chain, n))


def replace_rule(table, chain, n, text):
    return lambda ns: ns.nft("replace", "rule", "inet", table, chain, "handle", handle_of(ns, table, chain, n),
                             *text.split())


MARK_RULE = "meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != {} counter redirect to :15001"
DAMAGE = [
    ("a rule deleted", delete_rule(NAT, "istio-output", 3),
     ["missing: istio-ambient-nat istio-output rule 3: tcp mark 0x111/0xfff accept"]),
    ("a jump deleted", delete_rule(NAT, "prerouting", 1),
     ["missing: istio-ambient-nat prerouting rule 1: jump istio-prerouting"]),
    ("a rule in front", nft_cmd("insert", "rule", "inet", NAT, "istio-output", "accept"),
     ["unexpected: istio-ambient-nat istio-output rule 1: accept"]),
    ("a rule behind", nft_cmd("add", "rule", "inet", NAT, "output", "tcp", "dport", "1", "drop"),
     ["unexpected: istio-ambient-nat output rule 2: meta l4proto == 0x06 header 2 byte 2+2 == 0x0001 drop"]),
    ("a foreign expression", nft_cmd("add", "rule", "inet", MANGLE, "istio-output", "limit", "rate", "1/second"),
     ["unexpected: istio-ambient-mangle istio-output rule 2: [limit]"]),
    ("another mark", replace_rule(NAT, "istio-output", 6, MARK_RULE.format("0x53a")),
     ["changed: istio-ambient-nat istio-output rule 6: wanted: tcp daddr != 127.0.0.1 mark != 0x539/0xfff "
      "redirect :15001; found: "]),
    ("a counter less", replace_rule(NAT, "istio-output", 6, MARK_RULE.format("0x539").replace("counter ", "")),
     ["changed: istio-ambient-nat istio-output rule 6: "]),
    ("a table deleted", nft_cmd("delete", "table", "inet", MANGLE), ["missing: table istio-ambient-mangle"]),
    ("a table asleep", nft_cmd("add", "table", "inet", NAT, "{ flags dormant ; }"),
     ["changed: table istio-ambient-nat: wanted: no flags; found: flags 0x1 (dormant)"]),
    ("a chain added", nft_cmd("add", "chain", "inet", NAT, "mine"), ["unexpected: istio-ambient-nat chain mine"]),
    ("a chain with another policy", nft_cmd("chain", "inet", MANGLE, "output", "{ policy drop ; }"),
     ["changed: istio-ambient-mangle chain output: wanted: route hook 3 priority -150 policy accept; found: "
      "route hook 3 priority -150 policy drop"]),
    ("a set added", nft_cmd("add", "set", "inet", NAT, "s", "{ type ipv4_addr ; }"),
     ["unexpected: istio-ambient-nat: 1 sets, objects or flow tables"]),
    ("the DNS table though DNS capture is off", lambda ns: ns.nft("-f", "-", stdin=f"add table inet {RAW}"),
     ["unexpected: table istio-ambient-raw"]),
    ("the IPv4 policy rule gone", lambda ns: ns.ip("rule", "del", "priority", "32764"),
     ["missing: ip rule (IPv4): fwmark 0x111/0xfff lookup 100 priority 32764"]),
    ("the IPv6 policy rule gone", lambda ns: ns.ip("-6", "rule", "del", "priority", "32764"),
     ["missing: ip rule (IPv6): fwmark 0x111/0xfff lookup 100 priority 32764"]),
    ("the IPv4 route gone", lambda ns: ns.ip("route", "flush", "table", "100"),
     ["missing: ip route (IPv4): local default dev lo table 100"]),
    ("the IPv6 route gone", lambda ns: ns.ip("-6", "route", "flush", "table", "100"),
     ["missing: ip route (IPv6): local default dev lo table 100"]),
    ("another route in its place",
     lambda ns: ns.ip("route", "replace", "blackhole", "default", "table", "100"),
     ["missing: ip route (IPv4): local default dev lo table 100"]),
]


def check_names(ctl, damage, expected):
    """The check names the difference, an apply mends it."""
    def test(ns):
        ctl(ns, "apply")
        damage(ns)
        state, lines = ctl.state(ns)
        assert state == "different" and len(lines) == len(expected), lines
        for line, want in zip(lines, expected):
            assert line.startswith(want), lines
        ctl(ns, "apply")
        assert ctl.state(ns) == ("present", []), ctl.state(ns)
        assert ns.rules() == golden_rules("default")
    fresh(test)


def check_dns_missing(ctl):
    def test(ns):
        ctl(ns, "apply")
        state, lines = ctl.state(ns, "-d")
        assert state == "different" and "missing: table istio-ambient-raw" in lines, lines
        assert sum("redirect :15053" in x for x in lines) == 3 and len(lines) == 4, lines
    fresh(test)


def absent_and_present(ctl):
    def test(ns):
        assert ctl.state(ns) == ("absent", [])
        assert ctl(ns, "present").stdout == "no\n"
        ctl(ns, "apply")
        assert ctl(ns, "present").stdout == "yes\n"
        ns.nft("delete", "table", "inet", NAT)
        assert ctl(ns, "present").stdout == "yes\n"
    fresh(test)


# Faults

def foreign_table(ctl):
    """Somebody else's table under our name: everything in it goes, also what the kernel would keep."""
    def test(ns):
        ns.nft("-f", "-", stdin=f"""
            table inet {NAT} {{
                flags dormant
                map m {{ type ipv4_addr : verdict ; elements = {{ 10.0.0.1 : jump target }} }}
                set s {{ type inet_service ; elements = {{ 1, 2 }} }}
                counter c1 {{ }}
                chain target {{ drop ; }}
                chain output {{ type filter hook output priority 5 ; policy drop ; ip daddr vmap @m ; }}
                chain istio-output {{ type filter hook input priority 0 ; counter name c1 ; }}
            }}""")
        ctl(ns, "apply")
        assert ns.rules() == golden_rules("default"), ns.nft("list", "ruleset")
    fresh(test)


def owned_table(ctl):
    """A table that a live process owns cannot be replaced: an error that says so, and no trace of the attempt."""
    def test(ns):
        before_rules = ns.ip("rule") + ns.ip("-6", "rule") + ns.ip("route", "show", "table", "all")
        owner = subprocess.Popen(["ip", "netns", "exec", ns.name, "nft", "-i"], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)
        try:
            owner.stdin.write(f"add table inet {MANGLE} {{ flags owner ; }}\nlist tables\n")
            owner.stdin.flush()
            while MANGLE not in owner.stdout.readline():
                assert owner.poll() is None
            said = ctl.refused(ns, "apply")
            assert f"delete table inet {MANGLE}: Operation not permitted" in said, said
            assert NAT not in ns.nft("list", "tables"), "the transaction was not atomic"
            assert before_rules == ns.ip("rule") + ns.ip("-6", "rule") + ns.ip("route", "show", "table", "all")
            assert "delete table" in ctl.refused(ns, "remove")
        finally:
            owner.send_signal(signal.SIGTERM)
            owner.communicate()
        ctl(ns, "apply")
        assert ctl.state(ns) == ("present", [])
    fresh(test)


def failure_keeps_old_rules(ctl):
    """An apply that fails over an older set leaves that set and its routes in place."""
    def test(ns):
        ctl(ns, "apply")
        before = ns.trace()
        owner = subprocess.Popen(["ip", "netns", "exec", ns.name, "nft", "-i"], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)
        try:
            owner.stdin.write(f"add table inet {RAW} {{ flags owner ; }}\nlist tables\n")
            owner.stdin.flush()
            while RAW not in owner.stdout.readline():
                assert owner.poll() is None
            assert RAW in ctl.refused(ns, "apply", "-d")
        finally:
            owner.send_signal(signal.SIGTERM)
            owner.communicate()
        assert before == ns.trace(), ns.trace()
    fresh(test)


def no_permission(ctl, verb, *args):
    def test(ns):
        before = ns.trace()
        r = run("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", ctl.program, verb, ns.path, *args,
                check=False)
        assert r.returncode == 1 and "CAP_NET_ADMIN" in r.stderr and "EPERM" in r.stderr, r.stderr
        assert before == ns.trace()
    fresh(test)


def lo_down(ctl):
    ns = Ns("t", lo=False)
    try:
        ctl(ns, "apply")
        assert "UP" in run("ip", "netns", "exec", ns.name, "ip", "-br", "link", "show", "lo").stdout
        assert ctl.state(ns) == ("present", []), ctl.state(ns)
    finally:
        ns.delete()


def not_a_namespace(ctl):
    with tempfile.NamedTemporaryFile() as f:
        assert "not a namespace" in ctl.refused(f.name, "apply")
    assert "another kind" in ctl.refused("/proc/self/ns/mnt", "apply")
    assert "No such file" in ctl.refused(f"/run/netns/gone{os.getpid()}", "apply")


def name_gone_namespace_held(ctl):
    """A namespace lives as long as somebody holds it: here a process, after its name was deleted."""
    ns = Ns("t")
    holder = subprocess.Popen(["ip", "netns", "exec", ns.name, "cat"], stdin=subprocess.PIPE)
    try:
        path = f"/proc/{holder.pid}/ns/net"
        while os.stat(path).st_ino != os.stat(ns.path).st_ino:
            assert holder.poll() is None
        ns.delete()
        ctl(path, "apply")
        assert ctl.state(path) == ("present", [])
        ctl(path, "remove")
    finally:
        holder.stdin.close()
        holder.wait()
    assert "No such file" in ctl.refused(path, "remove")


def injected(ctl, ns, syscall, n, *args):
    """Runs the driver with the n-th such call failing. (exit status, whether a call failed)"""
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")  # the leak checker does not work under a tracer
    r = subprocess.run(["strace", "-f", "-o", "/dev/stdout", "-e", f"trace={syscall}",
                        "-e", f"inject={syscall}:error=ENOBUFS:when={n}", ctl.program, "-d", *args, ns.path],
                       capture_output=True, text=True, timeout=60, env=env)
    assert r.returncode in (0, 1), (r.returncode, r.stderr)
    assert r.returncode == 0 or "No buffer space" in r.stderr or "Cannot allocate" in r.stderr, r.stderr
    return r.returncode, "(INJECTED)" in r.stdout


def every_call_fails(ctl, syscall, live):
    """One call after the other fails: apply takes back what it did, and the next apply works."""
    def test(ns):
        before, failures, n = ns.trace(), 0, 0
        with ns:
            s = socket.create_server(("127.0.0.1", 0)) if live else None
        while True:
            n += 1
            status, hit = injected(ctl, ns, syscall, n, "apply")
            if not hit:
                break
            # an answer that got lost after the kernel had committed cannot be told from a refusal
            if status == 1 and syscall in ("socket", "sendto", "sendmsg"):
                assert before == ns.trace(), f"call {n}: {ns.trace()}"
            failures += status
            ctl(ns, "apply", "-d")
            assert ctl.state(ns, "-d") == ("present", []), f"call {n}"
            injected(ctl, ns, syscall, n, "remove")
            ctl(ns, "remove")
            assert before == ns.trace(), f"removal after call {n}: {ns.trace()}"
            assert n < 200
        assert status == 0 and failures >= 2, failures
        if s:
            s.close()
    fresh(test)


def fifty_at_once(ctl):
    many = [Ns(f"m{i}") for i in range(50)]
    try:
        r = run(ctl.program, "-d", "parallel", many[0].path[:-1], "50")
        assert r.stdout == "50 namespaces\n", r.stdout
        for ns in (many[0], many[49]):
            assert ns.rules() == golden_rules("dns")
    finally:
        for ns in many:
            ns.delete()


def same_namespace_at_once(ctl):
    """Applies and removals of one pod from several processes: each sees a whole state, the last one wins."""
    def test(ns):
        for opts in ((), ("-d",), ("-i",)) * 3:
            procs = [subprocess.Popen([ctl.program, *o, v, ns.path], stderr=subprocess.PIPE, text=True)
                     for o, v in ((opts, "apply"), ((), "apply"), ((), "remove"), (opts, "apply"))]
            for p in procs:
                said = p.communicate(timeout=30)[1]
                assert p.returncode == 0, said
        ctl(ns, "apply")
        assert ctl.state(ns) == ("present", [])
        assert ns.rules() == golden_rules("default")
    fresh(test)


# The host

def host_golden(ctl):
    def test(ns):
        ctl(ns, "host-apply", "1000")
        assert ns.rules() == golden_rules("host"), ns.nft("list", "ruleset")
        ctl(ns, "host-apply", "1000")
        assert ns.rules() == golden_rules("host")
        ctl(ns, "host-apply", "0")
        assert "skuid 0" in ns.nft("list", "ruleset") and "skuid 1000" not in ns.nft("list", "ruleset")
        ctl(ns, "host-remove")
        assert ns.nft("list", "ruleset") == ""
        ctl(ns, "host-remove")
    fresh(test)


def host_without_ipv6(ctl):
    ns = Ns("t", ipv6=False)
    try:
        ctl(ns, "host-apply", "0")
        assert "v6" not in ns.nft("list", "ruleset")
        ctl(ns, "probe-add", "10.0.0.1", "uid-a")
        assert "has no IPv6" in ctl.refused(ns, "probe-add", "fd00::1", "uid-a")
        assert ctl(ns, "probe-del", "fd00::1", "uid-a").stdout == "kept\n"
    finally:
        ns.delete()


def host_keeps_sets(ctl):
    """Stock's set and elements survive an apply; foreign chains in the table do not."""
    def test(ns):
        ns.load("host")
        ns.nft("add", "element", "inet", NAT, "istio-inpod-probes-v4", '{ 10.0.0.1 comment "uid-a" }')
        ns.nft("add", "chain", "inet", NAT, "old")
        ns.nft("add", "rule", "inet", NAT, "postrouting", "jump", "old")
        ctl(ns, "host-apply", "7")
        text = ns.nft("list", "ruleset")
        assert '10.0.0.1 comment "uid-a"' in text and "chain old" not in text and "skuid 7" in text, text
    fresh(test)


def elements(ns):
    text = ns.nft("list", "ruleset")
    return sorted(x.strip(" \t{}") for part in text.split("elements = ")[1:]
                  for x in part.split("}")[0].replace("\n", " ").split(","))


def host_probes(ctl):
    def test(ns):
        assert "not in place" in ctl.refused(ns, "probe-add", "10.0.0.1", "uid-a")
        assert ctl(ns, "probe-del", "10.0.0.1", "uid-a").stdout == "kept\n"
        ctl(ns, "host-apply", "0")
        for ip, uid in (("10.0.0.1", "uid-a"), ("10.0.0.1", "uid-a"), ("fd00::1", "uid-a"), ("10.0.0.2", "uid-b")):
            ctl(ns, "probe-add", ip, uid)
        assert elements(ns) == ['10.0.0.1 comment "uid-a"', '10.0.0.2 comment "uid-b"', 'fd00::1 comment "uid-a"']
        # a re-used address belongs to its new pod
        ctl(ns, "probe-add", "10.0.0.1", "uid-new")
        assert ctl(ns, "probe-del", "10.0.0.1", "uid-a").stdout == "kept\n"
        assert '10.0.0.1 comment "uid-new"' in elements(ns)
        assert ctl(ns, "probe-del", "10.0.0.1", "uid-new").stdout == "removed\n"
        assert elements(ns) == ['10.0.0.2 comment "uid-b"', 'fd00::1 comment "uid-a"']
        ctl(ns, "probe-add", "::ffff:10.0.0.9", "uid-c")
        assert '10.0.0.9 comment "uid-c"' in elements(ns)
    fresh(test)


def host_prune(ctl):
    def test(ns):
        ctl(ns, "host-apply", "0")
        # 300 elements: more than one message
        ns.nft("-f", "-", stdin="".join(
            f'add element inet {NAT} istio-inpod-probes-v4 {{ 10.1.{i // 200}.{i % 200} comment "uid-{i % 3}" }}\n'
            for i in range(300)) + f"add element inet {NAT} istio-inpod-probes-v4 {{ 10.9.9.9 }}\n")
        ctl(ns, "probe-add", "fd00::1", "uid-0")
        ctl(ns, "probe-prune", "uid-1,uid-2")
        left = elements(ns)
        assert len(left) == 200 and not any("uid-0" in x or "10.9.9.9" in x for x in left), left
        ctl(ns, "probe-prune", "uid-1,uid-2")
        ctl(ns, "probe-prune", "none")
        assert elements(ns) == []
    fresh(test)


def host_bad_arguments(ctl):
    def test(ns):
        ctl(ns, "host-apply", "0")
        assert "pod uid is empty" in ctl.refused(ns, "probe-add", "10.0.0.1", "")
        assert "pod uid" in ctl.refused(ns, "probe-add", "10.0.0.1", "u" * 128)
        ctl(ns, "probe-add", "10.0.0.1", "u" * 127)
        assert ctl(ns, "probe-del", "10.0.0.1", "u" * 127).stdout == "removed\n"
    fresh(test)


def host_busy(ctl):
    """The host's rules change all the time (kube-proxy): an element still gets in."""
    def test(ns):
        ctl(ns, "host-apply", "0")
        script = "".join(f"add table inet t{i}\ndelete table inet t{i}\n" for i in range(400))
        noise = subprocess.Popen(["ip", "netns", "exec", ns.name, "nft", "-i"], stdin=subprocess.PIPE,
                                 stdout=subprocess.DEVNULL, text=True)
        try:
            noise.stdin.write(script)
            noise.stdin.flush()
            for i in range(30):
                ctl(ns, "probe-add", f"10.0.0.{i}", "uid-a")
        finally:
            noise.stdin.close()
            noise.wait()
        assert len(elements(ns)) == 30
    fresh(test)


def tests(tap, ctl):
    for name in GOLDEN:
        tap.case(f"{name}: same as the specification's text", same_as_golden, ctl, name)
    for name in GOLDEN:
        tap.case(f"{name}: a stock set is recognised and kept", stock_reads_present, ctl, name)
    for name in GOLDEN:
        tap.case(f"{name}: applied over every other set", over_every_other, ctl, name)
    for name in ("default", "everything"):
        tap.case(f"{name}: twice is the same", twice, ctl, name)
    for name in GOLDEN:
        tap.case(f"{name}: removal leaves no trace", no_trace, ctl, name)
    tap.case("a stock set is removed without a trace", removes_stock, ctl)
    tap.case("what is not ours stays", removes_only_ours, ctl)
    tap.case("routes that look like ours more than once all go", removes_duplicates, ctl)
    tap.case("a present IPv4 rule does not hide a missing IPv6 one", v4_does_not_hide_v6, ctl)
    tap.case("IPv6 switched on later is noticed", ipv6_switched_on_later, ctl)
    for name, damage, expected in DAMAGE:
        tap.case(f"check: {name}", check_names, ctl, damage, expected)
    tap.case("check: DNS rules missing", check_dns_missing, ctl)
    tap.case("absent, present", absent_and_present, ctl)
    tap.case("fault: a foreign table with our name", foreign_table, ctl)
    tap.case("fault: a table that somebody owns", owned_table, ctl)
    tap.case("fault: a failed apply keeps the old rules", failure_keeps_old_rules, ctl)
    for verb, args in (("apply", ()), ("remove", ()), ("check", ()), ("host-apply", ("0",))):
        tap.case(f"fault: {verb} without CAP_NET_ADMIN", no_permission, ctl, verb, *args)
    tap.case("apply brings lo up where it is down", lo_down, ctl)
    tap.case("fault: not a network namespace", not_a_namespace, ctl)
    tap.case("fault: the namespace's name is gone", name_gone_namespace_held, ctl)
    for syscall in ("socket", "sendto", "sendmsg", "recvmsg", "recvfrom"):
        for live in (False, True):
            if syscall != "recvfrom" or live:
                tap.case(f"fault: each {syscall} fails once, {'running' if live else 'new'} pod", every_call_fails,
                         ctl, syscall, live)
    tap.case("50 namespaces at once", fifty_at_once, ctl)
    tap.case("one namespace from several processes at once", same_namespace_at_once, ctl)
    tap.case("host: same as the specification's text", host_golden, ctl)
    tap.case("host: without IPv6", host_without_ipv6, ctl)
    tap.case("host: sets survive, foreign chains do not", host_keeps_sets, ctl)
    tap.case("host: probe addresses", host_probes, ctl)
    tap.case("host: prune", host_prune, ctl)
    tap.case("host: bad arguments", host_bad_arguments, ctl)
    tap.case("host: rules that change all the time", host_busy, ctl)


main(tests)
