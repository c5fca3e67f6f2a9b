# SPDX-License-Identifier: Apache-2.0
"""tap.py: what the checks share: TAP output, the list of the tree's files, C text without comments."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = {".git", ".cache", "__pycache__"}


class Tap:
    def __init__(self):
        self.count = self.failed = 0

    def ok(self, good, name, details=()):
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {name}")
        if not good:
            for d in details:
                print(f"# {d}")

    def skip(self, name, why):
        self.count += 1
        print(f"ok {self.count} - {name} # SKIP {why}")

    def finish(self):
        print(f"1..{self.count}")
        sys.exit(1 if self.failed or self.count == 0 else 0)


def files(*suffixes):
    """Paths of the tree's own files, relative to its root; from git where there is git, so that build output is out."""
    try:
        out = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard"],
                             cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        out = []
        for folder, dirs, names in os.walk(ROOT):
            dirs[:] = [d for d in dirs if d not in SKIPPED_FOLDERS and not d.startswith("build")]
            out += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names]
    return sorted(p for p in out if p.endswith(suffixes) and os.path.isfile(os.path.join(ROOT, p)))


def read(path):
    with open(os.path.join(ROOT, path), errors="replace") as f:
        return f.read()


_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def code_only(text):
    """C text with comments and the contents of strings blanked; line numbers stay."""
    def blank(m):
        s = m.group(0)
        if s.startswith(("//", "/*")):
            return "\n" * s.count("\n") or " "
        return s[0] + s[0]
    return _TOKEN.sub(blank, text)


def undefined_symbols(obj):
    out = subprocess.run(["nm", "-u", "--format=posix", obj], check=True, capture_output=True, text=True).stdout
    return {line.split()[0].split("@")[0] for line in out.splitlines() if line.split()}


def defined_symbols(obj):
    out = subprocess.run(["nm", "--defined-only", "--extern-only", "--format=posix", obj], check=True,
                         capture_output=True, text=True).stdout
    return {line.split()[0] for line in out.splitlines() if len(line.split()) > 1}
