#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""banned.py: functions that the product does not use, looked for in the sources and in the undefined symbols of
its objects.  usage: banned.py OBJECT_FOLDER
"""
import os
import re
import subprocess
import sys
import tempfile

import tap

UNSAFE_TEXT = {"atoi", "atol", "atoll", "atof", "strtok", "strtok_r", "sscanf", "vsscanf", "scanf", "fscanf", "strcpy",
               "strcat", "strncat", "stpcpy", "sprintf", "vsprintf", "gets", "rand", "srand", "random", "localtime",
               "gmtime", "ctime", "asctime", "alloca", "tmpnam", "mktemp", "inet_addr", "inet_aton", "gethostbyname"}
CHILDREN = {"system", "popen", "fork", "vfork", "execl", "execlp", "execle", "execv", "execve", "execvp", "execvpe",
            "fexecve", "execveat", "posix_spawn", "posix_spawnp", "wordexp", "daemon"}
RESOLVER = {"getaddrinfo", "getnameinfo", "getpwnam", "getgrnam", "res_ninit", "res_nsearch", "res_nquery", "__res_ninit",
            "__res_nsearch", "__res_nquery", "res_nquerydomain", "__res_nquerydomain", "res_init", "res_query", "res_search", "res_send",
            "res_nsend"}  # names need threads, files and network: never here
EXCEPT = {"lib/wire/resolve.c": {"getaddrinfo"},  # in a helper thread: where every look-up starts
          "ztunnel/dns/lookup.c": {"res_ninit", "res_nquerydomain", "__res_ninit", "__res_nquerydomain"}}  # runs there, too
ASSERT = {"assert"}  # bug_on stays in release builds
BANNED = UNSAFE_TEXT | CHILDREN | RESOLVER
PRODUCT = ("cni/", "nft/", "node-agent/", "ztunnel/", "ctl/", "lib/")
CALL = re.compile(r"(?<![\w.>])(" + "|".join(sorted(BANNED | ASSERT)) + r")\s*\(")


def source_faults(path, text):
    for n, line in enumerate(tap.code_only(text).splitlines(), 1):
        for m in CALL.finditer(line):
            if m.group(1) not in EXCEPT.get(path, ()):
                yield f"{path}:{n}: {m.group(1)}"


def plain(symbol):
    """The function behind the name that the compiler or libc gave it: __sprintf_chk, __isoc99_sscanf."""
    s = re.sub(r"^__isoc\d+_", "", symbol)
    return s[2:-4] if s.startswith("__") and s.endswith("_chk") else s


def object_faults(obj, allowed=frozenset()):
    return [f"{obj}: {s}" for s in sorted(tap.undefined_symbols(obj))
            if (plain(s) in BANNED and plain(s) not in allowed) or s == "__assert_fail"]


def self_test(t):
    bad = 'int f(char *s) { strcpy(s, "x"); return atoi(s); }\n'
    good = '/* system("x") */ void g(void) { puts("fork()"); x->exec.system(1); my_rand(); }\n'
    t.ok(len(list(source_faults("bad.c", bad))) == 2 and not list(source_faults("good.c", good)),
         "self-test: calls are found, comments and texts are not")
    with tempfile.TemporaryDirectory() as d:
        obj = os.path.join(d, "x.o")
        code = "#include <stdio.h>\n#include <stdlib.h>\nint f(const char *s, int *n); int f(const char *s, int *n) " \
               '{ return system(s) + sscanf(s, "%d", n); }\n'
        subprocess.run(["gcc", "-O2", "-x", "c", "-c", "-o", obj, "-"], input=code, text=True, check=True)
        t.ok(len(object_faults(obj)) == 2, "self-test: banned symbols of an object are found", object_faults(obj))


def main():
    t = tap.Tap()
    self_test(t)
    paths = [p for p in tap.files(".c", ".h") if p.startswith(PRODUCT)]
    found = [f for p in paths for f in source_faults(p, tap.read(p))]
    t.ok(not found and paths, f"{len(paths)} files call no banned function", found)
    objects = [(os.path.join(sys.argv[1], p[:-2] + ".o"), EXCEPT.get(p, ())) for p in paths if p.endswith(".c")]
    there = [o for o in objects if os.path.exists(o[0])]
    found = [f for o, allowed in there for f in object_faults(o, allowed)]
    t.ok(not found and there, f"{len(there)} objects need no banned function", found)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
