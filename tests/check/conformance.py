#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""conformance.py: every test that docs/conformance.md and the table of faults in docs/testing.md name exists.

A reference is `file: name, name` in backquotes; a name may be cut with an ellipsis; `unit/x` is tests/unit/test_x.c, a file of
system/ has no folder, those of interop/ and conformance/ have.
"""
import os
import re
import sys

import tap

DOCS = ("docs/conformance.md", "docs/testing.md")
REFERENCE = re.compile(r"`((?:unit/|interop/|conformance/(?:istiod/)?)?[a-z0-9_]+)((?:: )[^`]+)?`((?:, `[^`:/.]+`)*)")


def path_of(name):
    if name.startswith("unit/"):
        return "tests/unit/test_%s.c" % name[5:]
    if name.startswith(("interop/", "conformance/")):
        return "tests/%s.py" % name
    return "tests/system/%s.py" % name if name.startswith("test_") else None


def plain(text):
    """Program text as it is read: a test's name may be built from pieces."""
    return re.sub(r"\s+", " ", text)


def faults(doc, known):
    """Yields what is wrong in the text @doc; @known(path) gives a file's text, or None."""
    for m in REFERENCE.finditer(doc):
        path = path_of(m.group(1))
        if path is None or (m.group(2) is None and "/" not in m.group(1) and not m.group(3)):
            continue
        text = known(path)
        if text is None:
            yield "%s: there is no %s" % (m.group(1), path)
            continue
        names = ([m.group(2)[2:]] if m.group(2) else []) + re.findall(r"`([^`]+)`", m.group(3))
        for name in names:
            for piece in name.split("…"):
                piece = piece.strip(" :,")
                if piece and piece not in text and piece.replace(" ", "_") not in text:
                    yield "%s has no %r" % (path, piece)


def known(path):
    full = os.path.join(tap.ROOT, path)
    return plain(tap.read(path)) if os.path.exists(full) else None


def main():
    t = tap.Tap()
    sample = {"tests/system/test_a.py": "def one_two(w): ('three: four', x)", "tests/unit/test_b.c": "f__row", "tests/conformance/istiod/c.py": "def h(lab)"}
    bad = ["`test_a: five`", "`test_c: one_two`", "`unit/b: g__row`", "`test_a: one_two`, `six_seven`", "`unit/x`", "`conformance/istiod/c: g_two`"]
    good = ["`test_a: one_two`", "`test_a: one_…`", "`test_a: three: four`, `one_two`", "`unit/b: f__row`", "`unit/b`", "`x: y`", "`conformance/istiod/c: h`"]
    missed = [s for s in bad if not list(faults(s, sample.get))] + [s for s in good if list(faults(s, sample.get))]
    t.ok(not missed, "self-test: %d wrong references are found, good ones pass" % len(bad), missed)
    for doc in DOCS:
        wrong = list(faults(tap.read(doc), known))
        t.ok(not wrong, "every test that %s names exists" % doc, wrong)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
