# SPDX-License-Identifier: Apache-2.0
"""scenario.py: a register of scenarios, and their run as a TAP program.

After every scenario the nodes must be as the API says, and, once its pods are gone, hold nothing that they did not hold
before the first.
"""
import sys
import time
import traceback

ALL = []


class Skip(Exception):
    """This cluster cannot show it; str() says why."""


def scenario(fn):
    """@fn(lab); its name is its title. One that needs the harness takes (lab, harness)."""
    ALL.append(fn)
    return fn


def title(fn):
    return fn.__name__.replace("_", " ")


def one(fn, lab, harness):
    args = (lab, harness) if fn.__code__.co_argcount == 2 else (lab,)
    if len(args) == 2 and harness is None:
        raise Skip("needs the harness of tests/cluster")
    labs = [lab, *lab.peers]
    try:
        fn(*args)
        for each in labs:
            each.consistent()
    finally:
        for each in labs:
            each.clean()
    for each in labs:
        each.unchanged()


def of(*modules):
    """All scenarios of these modules, in their order."""
    return [f for m in modules for f in ALL if f.__module__ == m.__name__]


def choose(scenarios, only):
    """Those whose names contain one of the words @only; all when there is none."""
    return [f for f in scenarios if not only or any(o in f.__name__ for o in only)]


def run(lab, harness, chosen):
    """Prints TAP; True when all passed."""
    for each in (lab, *lab.peers):
        each.base = each.held()
    failed = 0
    for n, fn in enumerate(chosen, 1):
        start = time.monotonic()
        try:
            one(fn, lab, harness)
            print("ok %d - %s # %.1f s" % (n, title(fn), time.monotonic() - start))
        except Skip as e:
            print("ok %d - %s # SKIP %s" % (n, title(fn), e))
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print("not ok %d - %s" % (n, title(fn)))
            if harness:
                harness.explain()
        sys.stdout.flush()
    print("1..%d" % len(chosen))
    return failed == 0
