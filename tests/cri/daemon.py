# SPDX-License-Identifier: Apache-2.0
"""daemon.py: starts, watches and stops one long-running program; waiting with a deadline."""
import os
import signal
import subprocess
import time


class NotReady(Exception):
    """A condition did not become true in time, or the program ended; str() says which."""


def wait_until(what, condition, deadline=60, alive=lambda: True, every=0.02):
    """Polls @condition until it is true and returns its value. @what completes "waited N s for"."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if not alive():
            raise NotReady("the program ended while waiting for " + what)
        if time.monotonic() > end:
            raise NotReady("waited %g s for %s" % (deadline, what))
        time.sleep(every)


def descriptors(pid):
    """What the descriptors of a process point at, as readlink shows them; one that is closed while we look is not there."""
    found, folder = [], "/proc/%d/fd" % pid
    for n in os.listdir(folder):
        try:
            found.append(os.readlink(os.path.join(folder, n)))
        except FileNotFoundError:
            pass
    return sorted(found)


class Daemon:
    """A program with its own session (a terminal's Ctrl-C does not reach it) and a log file that
    grows over restarts."""

    def __init__(self, name, argv, log_dir, env=None):
        self.name, self.argv, self.env = name, argv, env or {}
        self.log = os.path.join(log_dir, name + ".log")
        self.process = None

    def start(self):
        out = open(self.log, "ab")
        with out:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=dict(os.environ, **self.env), start_new_session=True)
        return self

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, signum=signal.SIGTERM, deadline=60):
        """Ends the program and returns its exit status; SIGKILL when it does not listen."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signum)
            try:
                self.process.wait(deadline)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)
        status, self.process = self.process.returncode, None
        return status

    def kill(self):
        return self.stop(signal.SIGKILL)

    def text(self):
        try:
            with open(self.log, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def tail(self, lines=20):
        return "\n".join(self.text().splitlines()[-lines:])

    def fds(self):
        """What the program's descriptors point at, as readlink shows them."""
        return descriptors(self.pid)
