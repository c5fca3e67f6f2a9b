# SPDX-License-Identifier: Apache-2.0
"""story.py: how the demo talks: numbered steps that say what is done, why, and what was seen."""
import os
import sys
import textwrap
import time

WIDTH = 110


def shown(path):
    """A path for the reader: relative when it is below the current folder."""
    short = os.path.relpath(path)
    return path if short.startswith("..") else short


class StepFailed(Exception):
    """An observation was not the promised one; str() is the sentence for the reader."""


class Story:
    """@tap: every step is a test result of the Test Anything Protocol, the story its comments."""

    def __init__(self, out=sys.stdout, tap=False):
        self.out, self.tap, self.began, self.step_began = out, tap, time.monotonic(), None
        self.title, self.number, self.done = "", 0, []
        self.colour = not tap and out.isatty() and not os.environ.get("NO_COLOR")

    def _paint(self, code, text):
        return "\033[%sm%s\033[0m" % (code, text) if self.colour else text

    def _print(self, text=""):
        if self.tap:
            text = "# " + text.replace("\n", "\n# ")
        print(text, file=self.out, flush=True)

    def _result(self, word):
        if self.tap:
            print("%s %d - %s" % (word, max(1, self.number), self.title or "set the stage"),
                  file=self.out, flush=True)

    def _wrapped(self, lead, text):
        lines = textwrap.wrap(text, WIDTH - len(lead), break_on_hyphens=False) or [""]
        self._print("\n".join((lead if i == 0 else " " * len(lead)) + line
                              for i, line in enumerate(lines)))

    def head(self, text):
        self._print(self._paint("1", text))

    def note(self, text):
        self._wrapped("   ", text)

    def step(self, title, why):
        """Begins a step; the one before it is then over, and passed."""
        self._finish_step()
        self.number, self.title, self.step_began = self.number + 1, title, time.monotonic()
        self._print()
        self._print(self._paint("1;36", "%2d. %s" % (self.number, title)))
        self._wrapped("    why:  ", why)

    def do(self, text):
        self._wrapped("    do:   ", text)

    def saw(self, text):
        self._wrapped("    " + self._paint("32", "saw:  "), text)

    def quote(self, text, limit=30, wrap=False):
        """Shows output as it is; @wrap: long lines over several."""
        lines = text.rstrip("\n").splitlines()
        if wrap:
            lines = [part for line in lines for part in textwrap.wrap(
                line, WIDTH - 10, subsequent_indent="  ", break_on_hyphens=False)]
        for line in lines[:limit]:
            self._print(self._paint("2", "        | " + line))
        if len(lines) > limit:
            self._print("        | (%d more lines)" % (len(lines) - limit))

    def check(self, good, seen, expected):
        """An observation: printed when @good, the end of the demo when not."""
        if not good:
            raise StepFailed("expected %s; saw %s" % (expected, seen))
        self.saw(seen)

    def _finish_step(self):
        if self.step_began is not None:
            self.done.append((self.title, time.monotonic() - self.step_began))
            self.step_began = None
            self._result("ok")

    def failed(self, text):
        self._print()
        where = "step %d, \"%s\"" % (self.number, self.title) if self.number else "before step 1"
        self._print(self._paint("1;31", "FAILED in %s" % where))
        self._wrapped("    ", text)
        self._result("not ok")
        self.step_began = None

    def summary(self, facts):
        self._finish_step()
        self._print()
        self._print(self._paint("1", "Summary"))
        for i, (title, seconds) in enumerate(self.done, 1):
            self._print("   %2d. %-84s %5.1f s" % (i, title, seconds))
        for f in facts:
            self._wrapped("   * ", f)
        self._print("   all %d steps passed in %.0f s" % (len(self.done),
                                                          time.monotonic() - self.began))

    def end(self):
        if self.tap:
            print("1..%d" % max(1, self.number), file=self.out, flush=True)
