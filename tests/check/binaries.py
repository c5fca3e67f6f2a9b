#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""binaries.py: how the release programs are linked: position independent, full RELRO, no executable stack, no
run path, no debug symbols, and only the shared libraries that were reviewed. On x86-64 every object was compiled for
control-flow enforcement (IBT, SHSTK); Debian's C start files are not, so the programs as a whole lack that note.
usage: binaries.py BIN_FOLDER TEST_TOOL...
"""
import os
import platform
import re
import subprocess
import sys
import tempfile

import tap

LIBC = {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
DAEMON = LIBC | {"libcap-ng.so.0", "libseccomp.so.2", "libyaml-0.so.2", "libprotobuf-c.so.1"}
# A new library is a reviewed change: add it here with the reason in the commit, and to NOTICE.
NEEDED = {
    "ambient-cni": set(),
    "ambient-agent": DAEMON | {"libnftnl.so.11", "libmnl.so.0", "libnl-3.so.200", "libnl-route-3.so.200", "libssl.so.3",
                               "libcrypto.so.3", "libnghttp2.so.14"},
    "ztunnel": DAEMON | {"libssl.so.3", "libcrypto.so.3", "libnghttp2.so.14", "libm.so.6"},
    "ambientctl": LIBC | {"libyaml-0.so.2", "libssl.so.3", "libcrypto.so.3", "libnghttp2.so.14"},
}
STATIC = {"ambient-cni"}


def readelf(path, *options):
    return subprocess.run(["readelf", "-W", *options, path], check=True, capture_output=True, text=True).stdout


def unprotected(objects):
    """Those of the objects without the control-flow note."""
    return [o for o in objects if not {"IBT", "SHSTK"} <= set(re.findall(r"\w+", readelf(o, "-n")))]


def faults(path, needed, static):
    """Sentences about what is wrong with the way @path is linked."""
    header, segments = readelf(path, "-h"), readelf(path, "-l")
    dynamic = readelf(path, "-d")
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
    good = ["-O2", "-fPIE", "-pie", "-Wl,-z,relro,-z,now"]
    variants = {
        "position independent": ["-no-pie", "-fno-pie"],
        "full RELRO": ["-Wl,-z,lazy"],
        "executable stack": ["-z", "execstack"],
        "run path": ["-Wl,-rpath,/tmp"],
        "not on its list": ["-Wl,--no-as-needed", "-lm"],
        "debug symbols": ["-g"],
    }
    wrong = []
    with tempfile.TemporaryDirectory() as d:
        exe = os.path.join(d, "x")

        def link(extra):
            subprocess.run(["gcc", *good, "-x", "c", "-", "-o", exe, *extra], input="int main(void) { return 0; }\n",
                           text=True, check=True)
        link([])
        wrong += ["a good program was refused: " + f for f in faults(exe, LIBC, False)]
        if not any("static" in f for f in faults(exe, LIBC, True)):
            wrong.append("a dynamic program passed as static")
        for word, extra in variants.items():
            link(extra)
            if not any(word in f for f in faults(exe, LIBC, False)):
                wrong.append(f"not noticed: {word}")
        if platform.machine() == "x86_64":
            for mode, bad in (("full", False), ("none", True)):
                link(["-c", f"-fcf-protection={mode}"])
                if bool(unprotected([exe])) != bad:
                    wrong.append(f"-fcf-protection={mode} was misjudged")
    t.ok(not wrong, f"self-test: {len(variants) + 2} badly linked programs are noticed", wrong)


def main():
    folder, tools = sys.argv[1], sys.argv[2:]
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
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    others = [n for n in names if n not in NEEDED and n not in tools and not n.endswith(".debug")]
    t.ok(not others, "no program is without a list", others)
    if platform.machine() == "x86_64":
        top = os.path.dirname(os.path.abspath(folder))
        objects = [os.path.join(top, p[:-2] + ".o") for p in tap.files(".c") if not p.startswith("tests/")]
        objects = [o for o in objects if os.path.exists(o)]
        found = unprotected(objects)
        t.ok(not found and objects, f"{len(objects)} objects have the IBT and SHSTK note", found)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
