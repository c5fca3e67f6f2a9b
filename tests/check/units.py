#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""units.py: systemd's units: systemd can read them, what systemd-analyze says about their exposure stays below a limit,
every daemon is watched, and the two ztunnel units differ in nothing but what they must.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tap

FOLDER = "install/systemd"
# systemd-analyze's exposure level times ten (0 is best, 100 is worst); the rest is what the service is there for.
LIMIT = {"ambient-agent.service": 33, "ztunnel.service": 28, "ztunnel@.service": 28}
MAY_DIFFER = {"Description", "TimeoutStartSec", "WantedBy"}


def settings(text):
    """Sorted "Name=value" lines, without comments and sections."""
    return sorted(line for line in text.splitlines() if re.match(r"\w+=", line))


def differences(a, b):
    """Settings that only one of two units has, but those that may differ."""
    return sorted(s for s in set(settings(a)) ^ set(settings(b)) if s.split("=")[0] not in MAY_DIFFER)


def unwatched(text):
    """What a unit lacks to be watched."""
    have = settings(text)
    return [s for s in ("Type=notify", "Restart=always") if s not in have] + \
        ([] if any(s.startswith("WatchdogSec=") for s in have) else ["WatchdogSec="])


def exposure(path, limit):
    """(output, whether it is below the limit)"""
    r = subprocess.run(["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={limit}", path],
                       capture_output=True, text=True)
    return r.stdout + r.stderr, r.returncode == 0


def complaints(paths):
    """What systemd-analyze says about these units; not about others that they pull in."""
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths], capture_output=True, text=True)
    return [line for line in (r.stdout + r.stderr).splitlines() if any(os.path.basename(p) in line for p in paths)] or \
        (r.stderr.splitlines() if r.returncode else [])


def install(folder, names):
    """The units as make install writes them, with a program that exists."""
    for n in names:
        with open(os.path.join(FOLDER, n)) as f:
            text = f.read()
        with open(os.path.join(folder, n), "w") as f:
            f.write(re.sub(r"@SBINDIR@/[\w-]+", "/bin/true", text))


def self_test(t, folder, texts):
    wrong = []
    unit = texts["ztunnel.service"]
    if not differences(unit, unit.replace("ProtectHome=yes", "ProtectHome=no")):
        wrong.append("a difference is not noticed")
    if unwatched(re.sub("WatchdogSec=.*", "", unit)) != ["WatchdogSec="]:
        wrong.append("a missing watchdog is not noticed")
    open_path = os.path.join(folder, "open.service")
    with open(open_path, "w") as f:
        f.write("[Service]\nExecStart=/bin/true\n")
    if exposure(open_path, 60)[1]:
        wrong.append("a unit without a sandbox passes")
    with open(open_path, "a") as f:
        f.write("WatchdogSecs=3\n")
    if not complaints([open_path]):
        wrong.append("a misspelt setting passes")
    t.ok(not wrong, "self-test: bad units are noticed", wrong)


def main():
    t = tap.Tap()
    if shutil.which("systemd-analyze") is None:
        print("1..0 # SKIP systemd-analyze is not installed")
        return
    names = sorted(os.listdir(FOLDER))
    texts = {n: open(os.path.join(FOLDER, n)).read() for n in names}
    with tempfile.TemporaryDirectory() as d:
        install(d, names)
        self_test(t, d, texts)
        said = complaints([os.path.join(d, n) for n in names])
        t.ok(not said, "systemd reads the units without a complaint", said)
        services = [n for n in names if n.endswith(".service")]
        t.ok(sorted(LIMIT) == services, "every service has a limit", [f"{sorted(LIMIT)} {services}"])
        for n in services:
            out, good = exposure(os.path.join(d, n), LIMIT.get(n, 0))
            score = re.findall(r"Overall exposure level.*?: ([\d.]+)", out)
            t.ok(good and score, f"{n}: exposure {score[0] if score else '?'}, limit {LIMIT.get(n, 0) / 10}", out.splitlines())
            missing = unwatched(texts[n])
            t.ok(not missing, f"{n} is watched", missing)
    found = differences(texts["ztunnel.service"], texts["ztunnel@.service"])
    t.ok(not found, "both generations of ztunnel are the same service", found)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
