#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""headlines.py: each source begins with its licence tag and says what it is for; headers have #pragma once; no file
names a machine's own folders or carries a leftover mark.
"""
import os
import re
import sys

import tap

TAG = "SPDX-License-Identifier: Apache-2.0"
# Written in pieces so that this file does not find itself.
LEFTOVER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b(?!\(#\d+\))")
MACHINE = re.compile("/" + r"(work|home/\w+|root)/(main|shared|\.library)\b")


def faults(path, text):
    lines = text.splitlines()
    head = "\n".join(lines[:4])
    name = os.path.basename(path)
    out = []
    if TAG not in head:
        out.append(f"{path}: no '{TAG}' in its first lines")
    if path.endswith((".c", ".h")):
        if not re.search(r"^ \* " + re.escape(name) + r": \S", head, re.M):
            out.append(f"{path}: its second line should be ' * {name}: <purpose>'")
        if path.endswith(".h") and "#pragma once" not in text:
            out.append(f"{path}: no #pragma once")
    for n, line in enumerate(lines, 1):
        if LEFTOVER.search(line):
            out.append(f"{path}:{n}: leftover mark: {line.strip()[:60]}")
        if MACHINE.search(line):
            out.append(f"{path}:{n}: a machine's own folder: {line.strip()[:60]}")
    return out


def main():
    t = tap.Tap()
    samples = [("a.c", "int x;\n"), ("a.c", f"/* {TAG}\n * b.c: x\n */\n"), ("a.h", f"/* {TAG}\n * a.h: x\n */\n"),
               ("a.py", f"# {TAG}\n# " + "TO" + "DO: later\n"), ("a.py", f"# {TAG}\nx = '/wo" + "rk/main/x'\n")]
    missed = [repr(s) for s in samples if not faults(*s)]
    if faults("a.h", f"/* {TAG}\n * a.h: x\n */\n#pragma once\n"):
        missed.append("a good header was refused")
    t.ok(not missed, f"self-test: {len(samples)} wrong heads are refused", missed)
    sources = [p for p in tap.files(".c", ".h", ".py", ".sh", ".proto") if not p.startswith("tests/fuzz/seeds/")]
    found = [f for p in sources for f in faults(p, tap.read(p))]
    t.ok(not found and sources, f"{len(sources)} files begin as they should", found)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
