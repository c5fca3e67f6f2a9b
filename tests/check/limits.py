#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""limits.py: docs/limits.md has every limit of lib/base/limits.h with its value, and no other; each limit is used."""
import re
import sys

import tap

HEADER, DOC = "lib/base/limits.h", "docs/limits.md"


def header_limits(text):
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S).replace("\\\n", " ")
    out = {}
    for name, expr in re.findall(r"^#define (LIMIT_\w+)[ \t]+(.+?)[ \t]*$", text, re.M):
        plain = re.sub(r"(?<=\d)[uUlL]+", "", expr)
        if not re.fullmatch(r"[\d\s()<*+-]+", plain):
            raise SystemExit(f"{HEADER}: {name}: {expr!r} is not a plain number")
        out[name] = eval(plain)  # digits and operators only, checked above
    return out


def doc_limits(text):
    return {n: int(v.replace(",", "")) for n, v in re.findall(r"^\| `(LIMIT_\w+)` \| ([\d,]+) \|", text, re.M)}


def differences(header, doc):
    for n in sorted(header.keys() | doc.keys()):
        if n not in doc:
            yield f"{n} = {header[n]:,} is not in {DOC}"
        elif n not in header:
            yield f"{n} is in {DOC} only"
        elif header[n] != doc[n]:
            yield f"{n}: {header[n]:,} in the header, {doc[n]:,} in {DOC}"


def main():
    t = tap.Tap()
    h = header_limits("#define LIMIT_A (1u << 4) /* x */\n#define LIMIT_B 7\n#define LIMIT_C 9\n")
    d = doc_limits("| `LIMIT_A` | 16 | bytes |\n| `LIMIT_B` | 8 | x |\n| `LIMIT_D` | 1,000 | x |\n")
    t.ok(len(list(differences(h, d))) == 3, "self-test: a wrong, a missing and a surplus limit are found")
    limits = header_limits(tap.read(HEADER))
    found = list(differences(limits, doc_limits(tap.read(DOC))))
    t.ok(not found and limits, f"{DOC} repeats the {len(limits)} limits of {HEADER}", found)
    code = "\n".join(tap.code_only(tap.read(p)) for p in tap.files(".c", ".h") if p != HEADER)
    unused = [n for n in limits if not re.search(rf"\b{n}\b", code)]
    t.ok(not unused, "every limit is used", unused)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
