#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_json_diff: our JSON reader against Python's: random documents must mean the same, damaged ones must be accepted
by both or by neither. Where RFC 8259 leaves Python more lenient than we are, Python is made strict first."""
import json
import os
import random
import re
import subprocess
import sys

DEPTH = 32  # LIMIT_DOC_DEPTH
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))
rng = random.Random(SEED)


class Refused(Exception):
    pass


def pairs(items):
    keys = [k for k, _ in items]
    if len(set(keys)) != len(keys):
        raise Refused("key twice")
    return dict(items)


def constant(name):
    raise Refused(name)


def depth(v):
    if isinstance(v, dict):
        return 1 + max(map(depth, v.values()), default=0)
    if isinstance(v, list):
        return 1 + max(map(depth, v), default=0)
    return 0


def texts(v):
    if isinstance(v, str):
        yield v
    elif isinstance(v, list):
        for e in v:
            yield from texts(e)
    elif isinstance(v, dict):
        for k, e in v.items():
            yield k
            yield from texts(e)


def reference(raw):
    """The value, or Refused. Numbers stay text, so that no precision is lost."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise Refused(str(e)) from None
    try:
        v = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=lambda t: ("n", t),
                       parse_int=lambda t: ("n", t))
    except (json.JSONDecodeError, RecursionError) as e:
        raise Refused(str(e)) from None
    for t in texts(v):
        if "\0" in t or re.search("[\ud800-\udfff]", t):
            raise Refused("NUL or half a surrogate pair")
    if depth(v) > DEPTH:
        raise Refused("too deep")
    return v


def random_text():
    alphabet = ["a", "B", "7", " ", "\"", "\\", "/", "\n", "\t", "\b", "\x1f", "\x7f", "\u00e4", "\u20ac", "\U0001f600",
                "{", "}", "[", "]", ":", ",", "\u2028", "\uffff"]
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(6)))


def random_value(level):
    kind = rng.randrange(8 if level else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.randrange(-10**20, 10**20)
    if kind == 2:
        return rng.choice([0.5, -1e300, 1e-7, 3.25, -0.0])
    if kind <= 5:
        return random_text()
    if kind == 6:
        return [random_value(level - 1) for _ in range(rng.randrange(5))]
    return {random_text(): random_value(level - 1) for _ in range(rng.randrange(5))}


def random_document():
    text = json.dumps(random_value(rng.randrange(6)), ensure_ascii=rng.random() < 0.5,
                      indent=rng.choice([None, 1]), separators=rng.choice([(",", ":"), (" , ", " : ")]))
    return text.encode("utf-8", "surrogatepass")


SNIPPETS = [b",", b":", b"\"", b"\\", b"{", b"}", b"[", b"]", b"0", b"1", b"-", b"+", b".", b"e", b"true", b"null", b"NaN",
            b"Infinity", b" ", b"\n", b"\x00", b"\x0b", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\\u0000", b"\\ud800",
            b"\\udc00", b"\\ud83d\\ude00", b"\\x", b"\xef\xbb\xbf", b"//", b"'", b"\xc2\xa0"]


def damaged(raw):
    raw = bytearray(raw)
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(raw) + 1)
        how = rng.randrange(3)
        if how == 0:
            raw[at:at] = rng.choice(SNIPPETS)
        elif how == 1:
            del raw[at:at + rng.randrange(1, 4)]
        else:
            raw[at:at + 1] = rng.choice(SNIPPETS)
    return bytes(raw)


def compare(tool, documents):
    stdin = b"".join(b"%d\n%s" % (len(d), d) for d in documents)
    out = subprocess.run([tool], input=stdin, stdout=subprocess.PIPE, check=True, timeout=120).stdout.split(b"\n")
    if len(out) != len(documents) + 1:
        raise AssertionError(f"{len(out) - 1} answers to {len(documents)} documents")
    accepted = 0
    for raw, answer in zip(documents, out):
        try:
            want = reference(raw)
        except Refused as e:
            if not answer.startswith(b"no "):
                raise AssertionError(f"accepted {raw!r}, Python: {e}") from None
            continue
        if not answer.startswith(b"ok "):
            raise AssertionError(f"refused {raw!r}: {answer!r}")
        if reference(answer[3:]) != want:
            raise AssertionError(f"{raw!r} became {answer!r}")
        accepted += 1
    return accepted


def whole(tool):
    n = compare(tool, [random_document() for _ in range(5000)])
    if n != 5000:
        raise AssertionError(f"only {n} of 5000 are valid for Python")


def broken(tool):
    n = compare(tool, [damaged(random_document()) for _ in range(20000)])
    if not 500 < n < 19500:  # damage that always or never hurts tests nothing
        raise AssertionError(f"{n} of 20000 damaged documents are valid")


def nested(tool):
    docs = [b"[" * n + b"1" + b"]" * n for n in range(1, 80)] + [b"{\"a\":" * n + b"1" + b"}" * n for n in range(1, 80)]
    n = compare(tool, docs)
    if n != 2 * DEPTH:
        raise AssertionError(f"{n} accepted, expected {2 * DEPTH}")


def main():
    tool = os.path.join(sys.argv[sys.argv.index("--bin") + 1], "jsoncheck")
    tests = [("random documents mean the same", whole), ("damaged documents are judged the same", broken),
             ("the depth limit", nested)]
    failed = 0
    print(f"# SEED={SEED}")
    for i, (name, fn) in enumerate(tests, 1):
        try:
            fn(tool)
            print(f"ok {i} - {name}", flush=True)
        except Exception as e:  # the test program reports every failure and goes on
            failed += 1
            print(f"not ok {i} - {name}\n# {type(e).__name__}: {e}", flush=True)
    print(f"1..{len(tests)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
