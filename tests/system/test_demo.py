#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_demo.py: `make demo` as a test: every step of it is a result."""
import argparse
import os
import sys

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", required=True, help="folder with the built programs")
    a = p.parse_args()
    out = os.path.join(os.path.dirname(os.path.abspath(a.bin)), "demo-test")
    os.execv(sys.executable, [sys.executable, TESTS + "/demo/demo.py", "--tap", "--bin", a.bin, "--out", out])
