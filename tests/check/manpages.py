#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""manpages.py: every program has a man page without a lint warning, and the page names every long option that
the program's --help names.  usage: manpages.py BIN_FOLDER PROGRAM...
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tap


def lint(path):
    r = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], cwd=tap.ROOT, capture_output=True, text=True)
    return [line for line in r.stdout.splitlines() + r.stderr.splitlines() if "referenced manual not found" not in line]


def options(text):
    return set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", text))


def page_options(path):
    text = subprocess.run(["mandoc", "-T", "ascii", path], cwd=tap.ROOT, capture_output=True, text=True).stdout
    return options(re.sub(r".\x08", "", text))


def main():
    folder, programs = sys.argv[1], sys.argv[2:]
    t = tap.Tap()
    if shutil.which("mandoc") is None:
        t.skip("man pages are correct", "mandoc is not installed")
        t.finish()
    with tempfile.TemporaryDirectory() as d:
        bad = os.path.join(d, "bad.8")
        with open(bad, "w") as f:
            f.write(".Dd January 1, 2026\n.Dt BAD 8\n.Os\n.Sh NAME\n.Xx what\n")
        t.ok(lint(bad), "self-test: a wrong man page is refused")
    pages = tap.files(".1", ".5", ".7", ".8")
    by_name = {os.path.basename(p).rsplit(".", 1)[0]: p for p in pages if p.startswith("docs/man/")}
    for p in sorted(by_name.values()):
        found = lint(p)
        t.ok(not found, f"{p} passes mandoc's lint", found)
    for program in programs:
        page = by_name.get(program)
        t.ok(page, f"{program} has a man page")
        exe = os.path.join(folder, program)
        if not os.path.exists(exe):
            t.ok(False, f"{program} answers --help and --version", [f"{exe} is not built"])
            continue
        for option in ("--help", "--version"):
            r = subprocess.run([exe, option], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
            t.ok(r.returncode == 0 and r.stdout, f"{program} {option} prints something and succeeds",
                 [f"exit {r.returncode}", r.stderr])
            if option == "--help" and page:
                missing = options(r.stdout) - page_options(page)
                t.ok(not missing, f"{page} has every option of --help", sorted(missing))
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
