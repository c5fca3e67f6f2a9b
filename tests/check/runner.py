#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""runner.py: tests/run counts what it should: each way a test program can go wrong ends as a failure."""
import os
import subprocess
import sys
import tempfile
import time

import tap

# name, shell text, closing line of a run with only this program
CASES = [
    ("passes", "echo 1..2; echo ok 1 - a; echo ok 2 - b", "2 passed, 0 failed"),
    ("plan_last", "echo ok 1 - a; echo 1..1", "1 passed, 0 failed"),
    ("two_groups", "echo 1..1; echo ok 1 - a; echo 1..1; echo ok 1 - b", "2 passed, 0 failed"),
    ("not_ok", "echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1", "1 passed, 1 failed"),
    ("not_ok_exit_0", "echo 1..1; echo not ok 1 - b", "0 passed, 2 failed"),
    ("dies", "echo 1..2; echo ok 1 - a; kill -SEGV $$", "1 passed, 1 failed"),
    ("exits_1", "echo 1..1; echo ok 1 - a; exit 1", "1 passed, 1 failed"),
    ("no_plan", "echo ok 1 - a", "1 passed, 1 failed"),
    ("too_few", "echo 1..3; echo ok 1 - a", "1 passed, 1 failed"),
    ("nothing", "true", "0 passed, 1 failed"),
    ("empty_plan", "echo 1..0", "0 passed, 1 failed"),
    ("hangs", "echo 1..1; echo ok 1 - a; exec sleep 60", "1 passed, 1 failed"),
    ("missing", None, "0 passed, 1 failed"),
    ("skips", "echo 1..2; echo ok 1 - a; echo 'ok 2 - b # SKIP no b here'", "1 passed, 0 failed, 1 skipped"),
    ("cmocka_skip", "echo 1..2; echo ok 1 - a; echo 'not ok 2 # SKIP b'", "1 passed, 0 failed, 1 skipped"),
    ("skips_all", "echo '1..0 # SKIP nothing here'", "0 passed, 0 failed, 1 skipped"),
]


def run(folder, lines, ci=False, skips=None, whole=False):
    plan = os.path.join(folder, "plan")
    with open(plan, "w") as f:
        f.write("\n".join(lines) + "\n")
    env = {k: v for k, v in os.environ.items() if k != "CI"}
    if ci:
        env["CI"] = "true"
    command = [os.path.join(tap.ROOT, "tests/run"), plan, "--logs", os.path.join(folder, "logs")]
    if skips is not None:
        with open(os.path.join(folder, "skip.rules"), "w") as f:
            f.write(skips)
        command += ["--skips", os.path.join(folder, "skip.rules")]
    r = subprocess.run(command, env=env, capture_output=True, text=True)
    if whole:
        return r.stdout.splitlines()
    return (r.stdout.splitlines() or [""])[-1], r.returncode


def main():
    t = tap.Tap()
    with tempfile.TemporaryDirectory() as d:
        for name, text, expected in CASES:
            script = os.path.join(d, name)
            if text is not None:
                with open(script, "w") as f:
                    f.write(text + "\n")
            limit = 1 if name == "hangs" else 20
            line, status = run(d, [f"{name} {limit} par sh {script}"])
            good = line == expected and status == (0 if " 0 failed" in expected else 1)
            t.ok(good, f"a program that {name}: {expected}", [f"got {line!r}, exit {status}"])
        skip = [f"s 20 alone sh {os.path.join(d, 'skips')}"]
        line, status = run(d, skip, ci=True)
        t.ok((line, status) == ("1 passed, 1 failed", 1), "in CI an unexpected skip fails", [line])
        line, status = run(d, [f"s 20 alone sh {os.path.join(d, 'skips_all')}"], ci=True, skips="^s: .*nothing # reason\n")
        t.ok((line, status) == ("0 passed, 0 failed, 1 skipped", 0), "in CI a skip on the list is accepted", [line])
        line, status = run(d, ["s 20 alone " + os.path.join(d, "no-such-program")])
        t.ok((line, status) == ("0 passed, 1 failed", 1), "a program that cannot be started fails", [line])
        for style, order in (("before", "rn"), ("after", "nr")):
            script = os.path.join(d, "why-" + style)
            with open(script, "w") as f:
                f.write("echo 1..3\necho ok 1 - a\n")
                for n, title in ((2, "b"), (3, "c")):
                    for part in order:
                        f.write("echo not ok %d - %s\n" % (n, title) if part == "n" else
                                """echo '#   File "x/t.py", line %d, in f'\necho '# AssertionError: %s is odd'\n""" % (n, title))
                f.write("exit 1\n")
            out = run(d, ["w 20 par sh " + script], whole=True)
            t.ok([x for x in out if x.startswith("failed: ")] ==
                 ["failed: w: b (t.py:2: AssertionError: b is odd)", "failed: w: c (t.py:3: AssertionError: c is odd)"],
                 "a failure is listed with its reason, said %s the result" % style, out)
        met = os.path.join(d, "met")  # each waits for the other: they end only when they run at once
        wait = "for i in $(seq 100); do [ -e %s.%s ] && break; sleep 0.1; done; [ -e %s.%s ] && echo 'ok 1 - met'; echo 1..1"
        lines = []
        for name, mode, other in (("a", "alone", "b"), ("b", "beside", "a"), ("c", "beside", "d"), ("d", "beside", "c")):
            script = os.path.join(d, "meets_" + name)
            with open(script, "w") as f:
                f.write("touch %s.%s\n" % (met, name) + wait % (met, other, met, other) + "\n")
            lines.append(f"{name} 20 {mode} sh {script}")
        line, status = run(d, lines)
        t.ok((line, status) == ("4 passed, 0 failed", 0), "one runs beside one that is alone, and two when none is", [line])
        began, tidied = os.path.join(d, "began"), os.path.join(d, "tidied")
        with open(os.path.join(d, "tidies"), "w") as f:
            f.write("trap 'touch %s; exit 1' INT; touch %s; for i in $(seq 300); do sleep 0.1; done\n" % (tidied, began))
        with open(os.path.join(d, "plan"), "w") as f:
            f.write("tidies 60 alone sh %s\n" % os.path.join(d, "tidies"))
            f.write("next 60 alone sh -c 'sleep 1; touch %s.next; sleep 30'\n" % began)
        p = subprocess.Popen([os.path.join(tap.ROOT, "tests/run"), os.path.join(d, "plan"), "--logs", os.path.join(d, "logs")],
                             stdout=subprocess.DEVNULL)
        for _ in range(300):
            if os.path.exists(began):
                break
            time.sleep(0.1)
        p.terminate()
        status = p.wait(60)
        time.sleep(1.5)
        t.ok(os.path.exists(tidied) and status == 143, "a run that is ended ends its programs first", ["exit %s" % status])
        t.ok(not os.path.exists(began + ".next"), "and begins no other")
        line, status = run(d, [])
        t.ok((line, status) == ("0 passed, 1 failed", 1), "an empty plan fails", [line])
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
