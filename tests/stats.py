#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""stats.py: sizes of the release programs, lines per room, and the tail of file and function lengths.
usage: stats.py BIN_FOLDER PROGRAM...
"""
import collections
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "check"))
import tap  # noqa: E402

ROOMS = ["cni", "nft", "node-agent", "ztunnel", "ctl", "lib", "tests"]


def functions(path, text):
    """Yields (length, name, path, line) of each function: from the line with its name to the brace in column 0."""
    lines = text.splitlines()
    start = None
    for n, line in enumerate(lines, 1):
        if line == "{" and n > 1:
            start = n - 1
            while start > 1 and not re.match(r"\w", lines[start - 1]):
                start -= 1
        elif line == "}" and start:
            m = re.search(r"(\w+)\(", lines[start - 1])
            yield n - start + 1, m.group(1) if m else "?", path, start
            start = None


def centile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))] if values else 0


def main():
    folder, programs = sys.argv[1], sys.argv[2:]
    print(f"{'program':16} {'text':>9} {'data':>8} {'bss':>8} {'file':>9}  bytes")
    for p in programs:
        path = os.path.join(folder, p)
        text, data, bss = subprocess.run(["size", path], check=True, capture_output=True,
                                         text=True).stdout.splitlines()[1].split()[:3]
        print(f"{p:16} {int(text):9,} {int(data):8,} {int(bss):8,} {os.path.getsize(path):9,}")

    count = collections.Counter()
    files, funcs = [], []
    for path in tap.files(".c", ".h", ".py", ".sh"):
        text = tap.read(path)
        n = text.count("\n")
        room = path.split("/")[0]
        count[room] += n
        if path.endswith((".c", ".h")):
            files.append((n, path))
            if path.endswith(".c"):
                funcs += functions(path, tap.code_only(text))
    print("\nlines            " + "  ".join(f"{r} {count[r]:,}" for r in ROOMS if count[r]) + f"  all {sum(count.values()):,}")
    product = [f for f in files if not f[1].startswith("tests/")]
    pfuncs = [f for f in funcs if not f[2].startswith("tests/")]
    fl, ul = [f[0] for f in product], [f[0] for f in pfuncs]
    print(f"product files    {len(fl)}: median {centile(fl, 50)}, p90 {centile(fl, 90)}, longest {max(fl, default=0)} lines")
    print(f"product functions {len(ul)}: median {centile(ul, 50)}, p90 {centile(ul, 90)}, p99 {centile(ul, 99)}, "
          f"longest {max(ul, default=0)} lines")
    print("\nlongest files")
    for n, path in sorted(product, reverse=True)[:8]:
        print(f"  {n:5} {path}")
    print("longest functions (look twice at 80)")
    for n, name, path, line in sorted(pfuncs, reverse=True)[:12]:
        print(f"  {n:5} {name}  {path}:{line}")


if __name__ == "__main__":
    main()
