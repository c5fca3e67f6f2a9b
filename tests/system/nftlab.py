# SPDX-License-Identifier: Apache-2.0
"""nftlab.py: network namespaces, sockets inside them and TAP for the tests of nft/."""
import argparse
import ctypes
import json
import os
import subprocess
import sys
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
TIMEOUT_S = 15
HERE = os.path.dirname(os.path.abspath(__file__))


class Tap:
    def __init__(self):
        self.n = self.failed = 0

    def case(self, name, fn, *args):
        """One named test: passes when fn returns; an AssertionError or any other exception fails it."""
        self.n += 1
        try:
            fn(*args)
        except Exception:  # the text goes into the log, the failure into the exit status
            self.failed += 1
            print(f"not ok {self.n} - {name}")
            for line in traceback.format_exc().splitlines():
                print("# " + line)
        else:
            print(f"ok {self.n} - {name}")
        sys.stdout.flush()

    def finish(self):
        print(f"1..{self.n}")
        return 1 if self.failed or not self.n else 0


def run(*args, check=True, stdin=None):
    r = subprocess.run(args, input=stdin, capture_output=True, text=True, timeout=60)
    if check and r.returncode != 0:
        raise AssertionError(f"{' '.join(args)}: exit {r.returncode}: {r.stderr.strip()} {r.stdout.strip()}")
    return r


class Ns:
    """A network namespace of our own; `with ns:` puts this thread inside (for socket calls only)."""
    made = []

    def __init__(self, label, ipv6=True, lo=True):
        self.name = f"nft{os.getpid()}{label}"
        run("ip", "netns", "add", self.name)
        Ns.made.append(self)
        self.path = "/run/netns/" + self.name
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.home = -1
        if not ipv6:
            for i in ("all", "default", "lo"):
                self.write(f"/proc/sys/net/ipv6/conf/{i}/disable_ipv6", "1")
        if lo:
            self.ip("link", "set", "lo", "up")

    def __enter__(self):
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if LIBC.setns(self.fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        return self

    def __exit__(self, *exc):
        if LIBC.setns(self.home, CLONE_NEWNET) != 0:
            os.abort()
        os.close(self.home)

    def write(self, path, text):
        with self, open(path, "w") as f:
            f.write(text)

    def sh(self, *args, **kw):
        return run("ip", "netns", "exec", self.name, *args, **kw)

    def ip(self, *args, **kw):
        return run("ip", "-n", self.name, *args, **kw).stdout

    def route6(self):
        """IPv6 table 100; the kernel refuses to list a table that never had a route."""
        return self.ip("-6", "route", "show", "table", "100", check=False)

    def nft(self, *args, **kw):
        return self.sh("nft", *args, **kw).stdout

    def load(self, golden):
        """The rules of tests/system/nft/<golden>.nft, through nft(8)."""
        self.nft("-f", os.path.join(HERE, "nft", golden + ".nft"))

    def rules(self):
        """The rule set without what differs between two equal ones: handles, counts, order of tables."""
        out = {}
        for o in json.loads(self.nft("-j", "list", "ruleset"))["nftables"]:
            kind, body = next(iter(o.items()))
            if kind == "metainfo":
                continue
            body.pop("handle", None)
            if kind == "rule":
                for e in body["expr"]:
                    if "counter" in e:
                        e["counter"] = None
                out.setdefault((body["table"], body["chain"], "rules"), []).append(body["expr"])
            else:
                out[(body.get("table", ""), kind, body["name"])] = body
        return out

    def trace(self):
        """Everything that a removal has to leave as it was."""
        return "\n".join([self.nft("list", "ruleset"), self.ip("rule"), self.ip("-6", "rule"),
                          self.ip("route", "show", "table", "all"), self.ip("-6", "route", "show", "table", "all")])

    def delete(self):
        os.close(self.fd)
        run("ip", "netns", "del", self.name, check=False)
        Ns.made.remove(self)


class Ctl:
    """The driver: ctl(ns, "apply", "-d"); options first, then arguments."""

    def __init__(self, folder):
        self.program = os.path.join(folder, "nftctl")

    def __call__(self, ns, verb, *args, check=True):
        path = ns.path if isinstance(ns, Ns) else ns
        n = 0
        while n < len(args) and args[n].startswith("-"):
            n += 2 if args[n] == "-n" else 1
        return run(self.program, *args[:n], verb, path, *args[n:], check=check)

    def state(self, ns, *args):
        """("present", []) or ("different", [lines])"""
        lines = self(ns, "check", *args).stdout.splitlines()
        return lines[0], lines[1:]

    def refused(self, ns, verb, *args):
        r = self(ns, verb, *args, check=False)
        assert r.returncode == 1, f"{verb}: exit {r.returncode}, expected a refusal; {r.stdout} {r.stderr}"
        return r.stderr.strip()


def main(tests):
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True, help="folder with the programs")
    args = p.parse_args()
    tap = Tap()
    if os.geteuid() != 0:
        print("1..0 # SKIP not root")
        sys.exit(0)
    try:
        tests(tap, Ctl(args.bin))
    finally:
        for ns in list(Ns.made):
            ns.delete()
    sys.exit(tap.finish())
