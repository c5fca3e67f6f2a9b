#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""headers.py: every header compiles alone, with gcc and with clang.  usage: headers.py CFLAGS..."""
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile

import tap


def compiles(compiler, flags, header):
    r = subprocess.run([compiler, *flags, "-Wno-unused-function", "-fsyntax-only", "-x", "c", "-include", header, "/dev/null"],
                       cwd=tap.ROOT, capture_output=True, text=True)
    return r.returncode == 0, r.stderr.splitlines()[:5]


def main():
    flags = [f for f in sys.argv[1:] if not f.startswith(("-Wduplicated", "-Wlogical", "-Wbidi"))]
    t = tap.Tap()
    headers = tap.files(".h")
    with tempfile.TemporaryDirectory() as d:
        needy = os.path.join(d, "needy.h")
        with open(needy, "w") as f:
            f.write("#pragma once\nuint32_t not_self_contained(void);\n")
        t.ok(not compiles("gcc", flags, needy)[0], "self-test: a header that lacks an include is refused")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for compiler in ("gcc", "clang"):
            if shutil.which(compiler) is None:
                t.skip(f"headers compile alone with {compiler}", f"{compiler} is not installed")
                continue
            results = list(pool.map(lambda h: (h, *compiles(compiler, flags, h)), headers))
            bad = [line for h, ok, err in results if not ok for line in [h, *err]]
            t.ok(not bad and headers, f"{len(headers)} headers compile alone with {compiler}", bad)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
