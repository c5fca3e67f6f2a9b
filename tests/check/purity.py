#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""purity.py: pure modules do no I/O, read no clock and draw no random number.

Their objects may need only other pure objects, lib/base, plain memory and text functions of libc, and parser
libraries that work on memory.  usage: purity.py OBJECT_FOLDER SOURCE... [-- FUNCTION...]
FUNCTIONs are pure ones that live in a file which as a whole is not.
"""
import os
import re
import subprocess
import sys
import tempfile

import tap

LIBC = set("""memcpy memmove memset memcmp memchr memrchr memmem mempcpy explicit_bzero strlen strnlen strcmp strncmp
strcasecmp strncasecmp strcasestr strchr strrchr strchrnul strstr strspn strcspn strdup strndup strtoull strtoul strtoll strtol strtod
snprintf vsnprintf malloc calloc realloc reallocarray free qsort qsort_r bsearch abort strerror strerrordesc_np
strerrorname_np bcmp isnan isinf modf fmod pow floor ceil lround trunc
inet_ntop inet_pton htonl htons ntohl ntohs __errno_location __stack_chk_fail __fortify_fail __ctype_b_loc
__ctype_tolower_loc __ctype_toupper_loc tolower toupper _GLOBAL_OFFSET_TABLE_ __tls_get_addr
__popcountdi2""".split())
LIBRARIES = re.compile(r"^(yaml_|protobuf_c_|zds__|istio__|jsmn|mnl_attr_|mnl_nlmsg_)")
CHECKED = re.compile(r"^__(\w+)_chk$")


def plain(symbol):
    s = re.sub(r"^__isoc\d+_", "", symbol)
    m = CHECKED.match(s)
    return m.group(1) if m else s


def impure(obj, known):
    return sorted(s for s in tap.undefined_symbols(obj)
                  if plain(s) not in LIBC and s not in known and not LIBRARIES.match(s))


def self_test(t):
    samples = {"socket(1, 2, 3)": False, "(int)time(0)": False, 'open("x", 0)': False, "rand()": False,
               'getenv("x") != 0': False, 'printf("%d", x)': False, "(int)strlen(s)": True}
    wrong = []
    with tempfile.TemporaryDirectory() as d:
        obj = os.path.join(d, "x.o")
        for expr, good in samples.items():
            code = "#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <time.h>\n" \
                   "#include <sys/socket.h>\nint f(const char *s, int x);\n" \
                   f"int f(const char *s, int x) {{ (void)s; (void)x; return {expr}; }}\n"
            subprocess.run(["gcc", "-O1", "-x", "c", "-c", "-o", obj, "-"], input=code, text=True, check=True)
            if (impure(obj, set()) == []) != good:
                wrong.append(expr)
    t.ok(not wrong, f"self-test: {len(samples)} samples are told apart", wrong)


def main():
    folder, sources, functions = sys.argv[1], sys.argv[2:], []
    if "--" in sources:
        at = sources.index("--")
        sources, functions = sources[:at], sources[at + 1:]
    t = tap.Tap()
    self_test(t)
    # A module whose header says so is held to it, listed or not.
    for h in tap.files(".h"):
        head = tap.read(h).split("*/", 1)[0]
        c = h[:-2] + ".c"
        if re.search(r"\bPure[.:]", head) and c not in sources and os.path.exists(os.path.join(tap.ROOT, c)):
            sources.append(c)
    objects = {s: os.path.join(folder, s[:-2] + ".o") for s in sorted(sources)}
    base = [os.path.join(folder, "lib/base", n) for n in sorted(os.listdir(os.path.join(folder, "lib/base")))
            if n.endswith(".o")]
    known = set(functions)
    for o in [*objects.values(), *base]:
        if os.path.exists(o):
            known |= tap.defined_symbols(o)
    for s, o in objects.items():
        if not os.path.exists(o):
            t.ok(False, f"{s} is pure", [f"{o} is not built"])
            continue
        found = impure(o, known)
        t.ok(not found, f"{s} is pure", [f"it needs {x}" for x in found])
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
