#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""clock.py: who reads the clock that can jump. Deadlines, pauses and ages are CLOCK_MONOTONIC's (lib/os/clock.h,
lib/event/loop.h); each place that asks for the time of day is listed here with what a jump does to it.
usage: clock.py OBJECT_FOLDER"""
import os
import re
import sys

import tap

# file -> (function, what happens when the clock jumps)
READERS = {
    "lib/os/clock.h": ("clock_gettime", "clock_wall_us(), whose callers follow"),
    "lib/base/log.c": ("clock_gettime", "the times in the log jump"),
    "node-agent/source/last_file.c": ("clock_wall_us", "the age of the last picture in status; never less than 0, decides nothing"),
    "ztunnel/observe/access_log.c": ("clock_wall_us", "the times in the access log jump"),
    "ztunnel/control/certs.c": ("time", "a certificate is renewed early, or is not valid: that is what its dates mean"),
    "ztunnel/control/xds_apply.c": ("clock_wall_us", "the age of the kept state in the admin document; never less than 0"),
    "ztunnel/control/xds_keep.c": ("clock_wall_us", "the same when it is loaded"),
    "ctl/ask.c": ("clock_wall_us", "a report has the time of day"),
}
WALL = re.compile(r"(?<![\w.>])(time|gettimeofday|clock_wall_us|localtime_r|ftime|timespec_get)\s*\(|\b(CLOCK_REALTIME\w*|CLOCK_TAI|TIMER_ABSTIME)\b")
DEADLINE = re.compile(r"(?<![\w.>])(pthread_cond_timedwait|sem_timedwait|mq_timed\w+|timerfd_create|alarm|setitimer)\s*\(")
PRODUCT = ("cni/", "nft/", "node-agent/", "ztunnel/", "ctl/", "lib/")
SYMBOLS = {"time", "gettimeofday", "localtime_r", "timespec_get", "pthread_cond_timedwait", "sem_timedwait", "timerfd_create", "alarm", "setitimer"}


def reads(text):
    """(line, word) of each reading of a clock that can jump, or waiting by one; definitions are none."""
    for n, line in enumerate(tap.code_only(text).splitlines(), 1):
        for m in list(WALL.finditer(line)) + list(DEADLINE.finditer(line)):
            if not re.match(r"\s*(static\s+)?(inline\s+)?\w+\s+" + re.escape(m.group(0)), line):
                yield n, m.group(0).rstrip("( ")


def main():
    t = tap.Tap()
    bad = "long f(void) { return time(0) + clock_wall_us(); }\nint g(int c) { return clock_gettime(CLOCK_REALTIME, 0); }\n"
    good = "long up_time(void);\nstatic inline int64_t clock_wall_us(void)\n/* time(0) */ int h(struct x *x) { return x->time(1); }\n"
    t.ok(len(list(reads(bad))) == 3 and not list(reads(good)), "self-test: readings are found, names and comments are not",
         [str(list(reads(bad))), str(list(reads(good)))])
    paths = [p for p in tap.files(".c", ".h") if p.startswith(PRODUCT)]
    found = {p: list(reads(tap.read(p))) for p in paths}
    wrong = [f"{p}:{n}: {word}" for p, all_of_it in found.items() for n, word in all_of_it if p not in READERS]
    t.ok(not wrong and paths, f"{len(paths)} files: the time of day is asked for where it is listed", wrong)
    gone = [p for p in READERS if not found.get(p)]
    t.ok(not gone, "the list has no place that does not ask", gone)
    objects = [os.path.join(sys.argv[1], p[:-2] + ".o") for p in paths if p.endswith(".c") and p not in READERS]
    there = [o for o in objects if os.path.exists(o)]
    wrong = [f"{o}: {s}" for o in there for s in sorted(tap.undefined_symbols(o) & SYMBOLS)]
    t.ok(not wrong and there, f"{len(there)} objects need no such function", wrong)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
