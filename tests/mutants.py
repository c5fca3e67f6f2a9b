#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mutants.py: do the unit tests notice when a decision is turned round?  `make mutants`

Works on a copy of the tree. For each source below it turns one operator at a time (== to !=, < to <=, && to ||, true to
false), builds the module's unit tests and runs them: a mutant that no test notices survives, and says which test is
missing. Some mutants are equivalent to the original; a person looks at the survivors, so the command only fails when more
than a fifth survive.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "check"))
import tap  # noqa: E402

# source -> unit tests that must notice
TARGETS = {
    "ztunnel/mesh/rbac.c": ["rbac"],
    "ztunnel/mesh/decide.c": ["decide"],
    "ztunnel/mesh/pick.c": ["decide"],
    "ztunnel/mesh/local_policy.c": ["local_state", "rbac"],
    "node-agent/enrol/eligibility.c": ["agent_eligibility"],
    "lib/wire/spiffe.c": ["spiffe"],
    "lib/wire/zds.c": ["zds"],
    "lib/format/ip.c": ["ip"],
    "cni/netconf.c": ["cni_netconf"],
    "cni/result.c": ["cni_result"],
}
TURNS = [(" == ", " != "), (" != ", " == "), (" <= ", " < "), (" >= ", " > "), (" < ", " <= "), (" > ", " >= "),
         (" && ", " || "), (" || ", " && "), ("return true;", "return false;"), ("return false;", "return true;"),
         ("if (!", "if ("), (" + 1", ""), ("break;", ";")]
LIMIT_S = 60


def candidates(text):
    """(line number, changed line) for every place that can be turned, in order."""
    out = []
    for n, (line, code) in enumerate(zip(text.splitlines(), tap.code_only(text).splitlines())):
        if line.lstrip().startswith(("#", "*", "/*", "for (")) or "bug_on" in line:
            continue
        for old, new in TURNS:
            if code.count(old) == 1 and line.count(old) == 1:
                out.append((n, line.replace(old, new)))
    return out


def spread(items, count):
    """At most @count of the items, evenly over the file."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def noticed(tree, tests):
    """True, False, or None when the mutant does not compile (then the compiler noticed)."""
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP")
    programs = [f"build/release/tests/unit/test_{t}" for t in tests]
    if subprocess.run(["make", "-s", "-j2", *programs], cwd=tree, capture_output=True).returncode != 0:
        return None
    for p in programs:
        try:
            if subprocess.run([p], cwd=tree, env=env, capture_output=True, timeout=LIMIT_S).returncode != 0:
                return True
        except subprocess.TimeoutExpired:
            return True
    return False


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--per-file", type=int, default=12)
    p.add_argument("--only", default="", help="part of a source's path")
    a = p.parse_args()
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "O", "VARIANT"):
        os.environ.pop(name, None)
    killed = survived = 0
    with tempfile.TemporaryDirectory(prefix="ambient-mutants-") as tree:
        for path in tap.files(""):
            os.makedirs(os.path.dirname(os.path.join(tree, path)), exist_ok=True)
            shutil.copy(os.path.join(tap.ROOT, path), os.path.join(tree, path))
        for source, tests in TARGETS.items():
            if a.only not in source:
                continue
            full = os.path.join(tree, source)
            if noticed(tree, tests) is not False:
                print(f"{source}: its tests {tests} do not pass unchanged, or do not build")
                return 1
            text = tap.read(source)
            for n, changed in spread(candidates(text), a.per_file):
                lines = text.splitlines()
                lines[n] = changed
                with open(full, "w") as f:
                    f.write("\n".join(lines) + "\n")
                result = noticed(tree, tests)
                if result is False:
                    survived += 1
                    print(f"survived  {source}:{n + 1}: {changed.strip()}", flush=True)
                elif result:
                    killed += 1
            with open(full, "w") as f:
                f.write(text)
    print(f"{killed} mutants noticed, {survived} survived")
    return 1 if survived * 5 > killed + survived else 0


if __name__ == "__main__":
    sys.exit(main())
