#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""format.py: every C file is as .clang-format lays it out.

Pinned to clang-format 14 (Debian 12): later versions lay out some lines differently, and one layout must win.
"""
import shutil
import subprocess
import sys

import tap

PINNED = 14


def tool():
    exact = shutil.which(f"clang-format-{PINNED}")
    if exact:
        return exact
    found = shutil.which("clang-format")
    if found and f"version {PINNED}." in subprocess.run([found, "--version"], capture_output=True, text=True).stdout:
        return found
    return None


def main():
    t = tap.Tap()
    cf = tool()
    if cf is None:
        t.skip("C files are formatted", f"clang-format {PINNED} is not there; its layout is the pinned one")
        t.finish()
    bad = subprocess.run([cf, "--dry-run", "-Werror", "--style=file", "--assume-filename=x.c"], cwd=tap.ROOT,
                         input="int  f ( void ){return 1 ;}\n", capture_output=True, text=True)
    t.ok(bad.returncode != 0, "self-test: a badly laid out function is refused")
    paths = tap.files(".c", ".h")
    r = subprocess.run([cf, "--dry-run", "-Werror", "--style=file", *paths], cwd=tap.ROOT, capture_output=True, text=True)
    wrong = sorted({line.split(":")[0] for line in r.stderr.splitlines() if "error:" in line})
    t.ok(r.returncode == 0 and paths, f"{len(paths)} C files are formatted",
         wrong + ["lay them out with: make format"])
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
