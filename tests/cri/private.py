# SPDX-License-Identifier: Apache-2.0
"""private.py: gives a script a machine of its own: mount, network, UTS, IPC and PID namespaces.

A script calls enter() first. Outside, that starts the same script again inside new namespaces, waits
for it and removes what namespaces do not take along (cgroups, the work folder). Inside, it returns.
Everything that the script starts dies with its PID namespace, whatever happens: the host keeps no
process, mount, interface, rule or socket of it, and two runs at once do not see each other.
"""
import fcntl
import glob
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

MARK = "AMBIENT_PRIVATE_NODE"
PREFIX = "ambient-node-"
CGROUPS = "/sys/fs/cgroup"


def name():
    """This node's unique name; also the name of its cgroup."""
    return os.environ[MARK]


def enter(keep=None):
    """Returns inside private namespaces, with a private, empty /run. Outside it does not return.

    @keep: a folder outside that stays when the node is gone (logs); made here. The inner run's
    exit status becomes ours.
    """
    if os.environ.get(MARK):
        return _settle()
    if os.geteuid() != 0:
        sys.exit("%s: needs root: it makes namespaces and starts containerd in them" % sys.argv[0])
    if keep:
        os.makedirs(keep, exist_ok=True)
    # A host name, too, so no underscore, which mkdtemp() likes.
    sweep()
    work = os.path.join(tempfile.gettempdir(), PREFIX + secrets.token_hex(4))
    os.mkdir(work, 0o700)
    with open(work + "/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            status = _run_inside(os.path.basename(work), work)
        finally:
            _remove(work)
    sys.exit(status)


def _remove(work):
    remove_cgroups(os.path.basename(work))
    shutil.rmtree(work, ignore_errors=True)


def sweep():
    """Removes what runs left that were killed (SIGKILL) before they could: empty cgroups, folders.
    Nobody holds their lock."""
    for work in glob.glob(os.path.join(tempfile.gettempdir(), PREFIX + "*")):
        try:
            with open(work + "/lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(work)
        except OSError:
            continue


def _run_inside(node, work):
    """Runs this script again as (the child of) PID 1 of new namespaces; returns its exit status."""
    env = dict(os.environ, **{MARK: node, "TMPDIR": work})
    env["PATH"] = env.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    # The shell in between is PID 1: it reaps what double-forking daemons leave behind. If we are
    # killed, the kernel kills unshare, and with it everything inside.
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--uts", "--ipc",
            "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--",
            "sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-u", os.path.abspath(sys.argv[0])]
    p = subprocess.Popen(argv + sys.argv[1:], env=env, stdin=subprocess.DEVNULL,
                         start_new_session=True)
    stops = []

    def stop(signum, _frame):
        # First time: ask the script, which cleans up. Second time: end the namespaces.
        stops.append(signum)
        os.killpg(p.pid, signal.SIGINT if len(stops) == 1 else signal.SIGKILL)

    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, stop)
    status = p.wait()
    return 128 - status if status < 0 else status


def _settle():
    """First steps inside: a private /run (containerd's shims, /run/netns, the daemons' sockets) and
    a network of our own. Returns the work folder."""
    _mount_tmpfs("/run")
    for d in ("netns", "containerd"):
        os.mkdir("/run/" + d)
    socket.sethostname(name())
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for f in ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"):
        if os.path.exists(f):
            with open(f, "w") as out:
                out.write("1")
    # Whoever started us may have had SIGINT ignored (a shell's background job does).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return os.environ["TMPDIR"]


def _mount_tmpfs(where):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", where], check=True)


def cgroup_dirs(node):
    """Every folder of this node's cgroup: one per hierarchy (v1), or one (v2)."""
    found = [os.path.join(CGROUPS, node)]
    found += [os.path.join(CGROUPS, c, node) for c in sorted(os.listdir(CGROUPS))]
    return [d for d in dict.fromkeys(found) if os.path.isdir(d)]


def remove_cgroups(node):
    """Removes the node's (now empty) cgroups; what cannot be removed is reported."""
    for top in cgroup_dirs(node):
        for d, _dirs, _files in os.walk(top, topdown=False):
            try:
                os.rmdir(d)
            except OSError as e:
                print("cgroup %s: %s" % (d, e.strerror), file=sys.stderr)
