#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""demo.py: the whole path, end to end, on this machine: see `make demo`.

Starts a node of its own (containerd, CNI chain, agent, ztunnel), plays the steps of steps.py on it,
and takes everything away again, whatever happens. Exit status 0 only if every step held.
"""
import argparse
import os
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

from cri import node, private, product  # noqa: E402
from cri.client import CriError  # noqa: E402
from cri.daemon import NotReady  # noqa: E402
from stage import Stage  # noqa: E402
from steps import play  # noqa: E402
from story import StepFailed, Story, shown  # noqa: E402

EXPECTED = (StepFailed, NotReady, CriError)


def options():
    p = argparse.ArgumentParser(description="two pods meet over mutual TLS on a private node")
    p.add_argument("--bin", required=True, help="folder with the built programs")
    p.add_argument("--out", default="build/demo", help="folder for logs, captures and documents")
    p.add_argument("--tap", action="store_true", help="print test results (TAP), the story as notes")
    a = p.parse_args()
    a.bin, a.out = os.path.abspath(a.bin), os.path.abspath(a.out)
    return a


def show_logs(story, stage):
    """The end of what the programs said, after a failure."""
    for d in (stage.agent, stage.ztunnel, stage.node.containerd):
        if d.text():
            story.note("the last lines of %s:" % shown(d.log))
            story.quote(d.tail(15))
    for p in stage.pods.values():
        if p.netns and os.path.exists(p.netns):
            story.note("in the network namespace of %s (%s):" % (p.name, p.ip))
            story.quote(p.in_netns("ss", "-Htan"), limit=12)


def perform(a, story):
    """Plays the steps; returns the exit status."""
    stage = Stage(a.bin, a.out)
    story.note("logs, captures and documents: " + shown(a.out))
    try:
        facts = play(story, stage)
    except KeyboardInterrupt:
        story.failed("interrupted")
        return 130
    except EXPECTED as e:
        story.failed(str(e))
        show_logs(story, stage)
        return 1
    except Exception:
        story.failed("the demo itself failed")
        story.quote(traceback.format_exc())
        show_logs(story, stage)
        return 1
    finally:
        stage.close()
    story.summary(facts)
    return 0


def main():
    a = options()
    absent = ["%s/%s (make)" % (a.bin, p) for p in product.PROGRAMS
              if not os.path.exists(os.path.join(a.bin, p))]
    absent += ["package %s (make deps)" % p for p in node.missing()]
    if absent:
        sys.exit("demo: missing: " + ", ".join(absent))
    private.enter(keep=a.out)
    story = Story(tap=a.tap)
    story.head("Two pods, created by a real container runtime, meet over mutual TLS and do not know it")
    status = perform(a, story)
    story.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
