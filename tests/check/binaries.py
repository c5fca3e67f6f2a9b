#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""binaries.py: how the release programs are linked: position independent, full RELRO, no executable stack, no
run path, control-flow notes, no debug symbols, and only the shared libraries that were reviewed.
usage: binaries.py BIN_FOLDER
"""
import os
import platform
import re
import subprocess
import sys
import tempfile

import tap

LIBC = {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
DAEMON = LIBC | {"libsystemd.so.0", "libcap-ng.so.0", "libseccomp.so.2", "libmicrohttpd.so.12", "libyaml-0.so.2",
                 "libprotobuf-c.so.1"}
# A new library is a reviewed change: add it here with the reason in the commit, and to NOTICE.
NEEDED = {
    "ambient-cni": set(),
    "ambient-agent": DAEMON | {"libnftnl.so.11", "libmnl.so.0", "libnl-3.so.200", "libnl-route-3.so.200"},
    "ztunnel": DAEMON | {"libssl.so.3", "libcrypto.so.3", "libnghttp2.so.14", "libjemalloc.so.2", "libm.so.6"},
    "ambientctl": LIBC,
}
STATIC = {"ambient-cni"}


def readelf(path, *options):
    return subprocess.run(["readelf", "-W", *options, path], check=True, capture_output=True, text=True).stdout


def faults(path, needed, static):
    """Sentences about what is wrong with the way @path is linked."""
    header, segments = readelf(path, "-h"), readelf(path, "-l")
    dynamic, notes = readelf(path, "-d"), readelf(path, "-n")
    out = []
    if "DYN (" not in header:
        out.append("is not position independent")
    if "GNU_RELRO" not in segments or not re.search(r"BIND_NOW|Flags:.*\bNOW\b", dynamic):
        out.append("has no full RELRO (GNU_RELRO and BIND_NOW)")
    stack = re.search(r"GNU_STACK.*", segments)
    if not stack or re.search(r"\bRWE\b", stack.group(0)):
        out.append("has an executable stack")
    if re.search(r"\bLOAD\b.*\bRWE\b", segments):
        out.append("has a segment that is writable and executable")
    if re.search(r"\((RPATH|RUNPATH)\)", dynamic):
        out.append("has a run path")
    if re.search(r"\(TEXTREL\)", dynamic):
        out.append("has text relocations")
    if platform.machine() == "x86_64" and not ("IBT" in notes and "SHSTK" in notes):
        out.append("has no IBT and SHSTK note")
    got = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", dynamic))
    if got - needed:
        out.append("needs " + ", ".join(sorted(got - needed)) + ", which is not on its list")
    if static and "INTERP" in segments:
        out.append("is not static: it has an interpreter")
    if ".debug_info" in readelf(path, "-S"):
        out.append("carries debug symbols")
    return out


def self_test(t):
    """Links one program badly in each way and expects each to be noticed."""
    good = ["-O2", "-fPIE", "-pie", "-fcf-protection=full", "-Wl,-z,relro,-z,now"]
    variants = {
        "position independent": ["-no-pie", "-fno-pie"],
        "full RELRO": ["-Wl,-z,lazy"],
        "executable stack": ["-z", "execstack"],
        "run path": ["-Wl,-rpath,/tmp"],
        "not on its list": ["-Wl,--no-as-needed", "-lm"],
        "debug symbols": ["-g"],
    }
    if platform.machine() == "x86_64":
        variants["IBT"] = ["-fcf-protection=none"]
    wrong = []
    with tempfile.TemporaryDirectory() as d:
        exe = os.path.join(d, "x")

        def link(extra):
            subprocess.run(["gcc", *good, "-x", "c", "-", "-o", exe, *extra], input="int main(void) { return 0; }\n",
                           text=True, check=True)
            return faults(exe, LIBC, False)
        if link([]):
            wrong.append("a good program was refused: " + "; ".join(faults(exe, LIBC, False)))
        if not any("static" in f for f in faults(exe, LIBC, True)):
            wrong.append("a dynamic program passed as static")
        for word, extra in variants.items():
            if not any(word in f for f in link(extra)):
                wrong.append(f"not noticed: {word}")
    t.ok(not wrong, f"self-test: {len(variants) + 1} badly linked programs are noticed", wrong)


def main():
    folder = sys.argv[1]
    t = tap.Tap()
    self_test(t)
    for name, needed in NEEDED.items():
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            t.ok(False, f"{name} is linked as it should be", [f"{path} is not built"])
            continue
        found = faults(path, needed, name in STATIC)
        t.ok(not found, f"{name} is linked as it should be", found)
        t.ok(os.path.exists(path + ".debug"), f"{name} has its debug symbols beside it")
    others = [n for n in sorted(os.listdir(folder)) if n not in NEEDED and not n.endswith(".debug")]
    t.ok(not others, "no program is without a list", others)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
