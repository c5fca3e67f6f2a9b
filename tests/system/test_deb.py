#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_deb.py: the Debian package and `make install`.

What is proved: `make uninstall` takes out what `make install` put there; the package has the same bytes whenever and
wherever it is made, holds what it should, and lintian has nothing against it. Then dpkg itself installs, upgrades, removes
and purges it in a root of its own, without systemd and under one: installing starts nothing, an upgrade keeps the pods'
listening sockets and the running ztunnel, and a purge leaves nothing.
"""
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

import test_systemd
from test_systemd import MANIFEST, STATE, Failed, Machine, Suite, expect, wait_for

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
UNITS = ("ambient-agent-zds.socket", "ambient-agent.service", "ambient-agent.socket", "ztunnel.service", "ztunnel@.service")
DAEMONS = ("ambient-agent.socket", "ambient-agent-zds.socket", "ambient-agent.service", "ztunnel.service")
BOTH = sorted([*("usr/lib/systemd/system/" + u for u in UNITS), "usr/bin/ambientctl", "usr/sbin/ambient-agent", "usr/sbin/ztunnel",
               "usr/lib/tmpfiles.d/ambient.conf", "usr/share/bash-completion/completions/ambientctl",
               "usr/share/zsh/vendor-completions/_ambientctl", "usr/share/doc/ambient/NOTICE"])
MAN = [f"usr/share/man/man8/{p}.8" for p in ("ambient-agent", "ambient-cni", "ambientctl", "ztunnel")]
INSTALLED = sorted([*BOTH, *MAN, "opt/cni/bin/ambient-cni", "usr/share/doc/ambient/LICENSE"])
DOC = "usr/share/doc/ambient/"
CONFFILES = ("etc/default/ambient-agent", "etc/default/ztunnel")
PACKAGED = sorted([*BOTH, *(m + ".gz" for m in MAN), *CONFFILES, "usr/lib/cni/ambient-cni", "opt/cni/bin/ambient-cni",
                   DOC + "changelog.gz", DOC + "copyright", DOC + "README.Debian", "usr/share/lintian/overrides/ambient"])
SETTINGS = {"ambient-agent": "NODE_NAME=node1\nAMBIENT_HOST_PROBES=off\n",
            "ztunnel": "NODE_NAME=node1\nLOCAL_XDS_PATH=/etc/ambient/state.yaml\n"}


def run(*command, check=True, **more):
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, **more)
    if check and r.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit {r.returncode}: {r.stdout}")
    return r


def make(out, goal, *settings, umask=0o022, zone="UTC"):
    """A goal that builds nothing: the programs are there. @out is the folder of all variants."""
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SOURCE_DATE_EPOCH")}
    run("make", "-s", "O=" + out, goal, *settings, cwd=TREE, env={**env, "TZ": zone}, umask=umask)


def files(root, skip=()):
    """Sorted paths of everything below @root but directories; not below the folders of @skip."""
    found = []
    for folder, folders, names in os.walk(root):
        here = os.path.relpath(folder, root)
        folders[:] = [d for d in folders if os.path.normpath(os.path.join(here, d)) not in skip]
        found += [os.path.normpath(os.path.join(here, n)) for n in
                  names + [d for d in folders if os.path.islink(os.path.join(folder, d))]]
    return sorted(found)


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


class Built:
    """The packages, and a later version of the first one."""

    def __init__(self, folder, out):
        self.folder, self.out = folder, out
        self.deb = self.debug = self.later = None

    def install_and_uninstall(self):
        dest = os.path.join(self.folder, "dest")
        make(self.out, "install-built", "DESTDIR=" + dest, umask=0o077)
        expect(files(dest), INSTALLED, "installed files")
        with open(dest + "/usr/lib/systemd/system/ztunnel.service") as f:
            expect("ExecStart=/usr/sbin/ztunnel\n" in f.read(), True, "the unit names the program")
        for name in INSTALLED:
            program = "/bin/" in name or "/sbin/" in name
            expect(oct(os.stat(os.path.join(dest, name)).st_mode & 0o777), oct(0o755 if program else 0o644), name)
        other = os.path.join(dest, "opt/cni/bin/bridge")
        with open(other, "w"):
            pass
        make(self.out, "uninstall", "DESTDIR=" + dest)
        expect(files(dest), ["opt/cni/bin/bridge"], "files that are left")

    def reproducible(self):
        outs = [os.path.join(self.folder, d) for d in ("one", "two/below")]
        make(self.out, "deb-built", "DEB_OUT=" + outs[0])
        make(self.out, "deb-built", "DEB_OUT=" + outs[1], umask=0o077, zone="Pacific/Auckland")
        names = sorted(n for n in os.listdir(outs[0]) if n.endswith(".deb"))
        expect([n.split("_")[0] for n in names], ["ambient-dbgsym", "ambient"], "packages")
        for n in names:
            expect(digest(os.path.join(outs[1], n)), digest(os.path.join(outs[0], n)), "bytes of " + n)
        self.debug, self.deb = (os.path.join(outs[0], n) for n in names)

    def contents(self):
        lines = run("dpkg-deb", "-c", self.deb).stdout.splitlines()
        expect({line.split()[1] for line in lines}, {"root/root"}, "owners")
        paths = [line.split(None, 5)[5].split(" -> ")[0][2:] for line in lines if not line.startswith("d")]
        expect(sorted(paths), PACKAGED, "files of the package")
        depends = run("dpkg-deb", "-f", self.deb, "Depends").stdout
        for library in ("libc6", "libnftnl11", "libssl3", "libnghttp2-14"):
            expect(library in depends, True, f"{library} in {depends}")
        expect("glibc (= " in run("dpkg-deb", "-f", self.deb, "Built-Using").stdout, True, "the plugin's C library is named")
        # The debug symbols are those of the programs in the package.
        tree = os.path.join(self.folder, "contents")
        run("dpkg-deb", "-x", self.deb, tree)
        symbols = run("dpkg-deb", "-c", self.debug).stdout
        for program in ("usr/sbin/ambient-agent", "usr/sbin/ztunnel", "usr/bin/ambientctl", "usr/lib/cni/ambient-cni"):
            notes = run("readelf", "-n", os.path.join(tree, program)).stdout
            build_id = notes.split("Build ID: ")[1].split()[0]
            expect(f"/.build-id/{build_id[:2]}/{build_id[2:]}.debug" in symbols, True, "symbols of " + program)

    def lintian(self):
        r = run("lintian", "--allow-root", "--fail-on", "error,warning", self.deb, self.debug, check=False)
        expect((r.returncode, [line for line in r.stdout.splitlines() if line[:2] in ("E:", "W:")]), (0, []), "lintian")

    def make_later(self):
        """The same package with a higher version."""
        tree = os.path.join(self.folder, "later")
        run("dpkg-deb", "-R", self.deb, tree)
        with open(tree + "/DEBIAN/control") as f:
            text = f.read()
        with open(tree + "/DEBIAN/control", "w") as f:
            f.write(text.replace("\nVersion: ", "\nVersion: 1:"))
        self.later = os.path.join(self.folder, "later.deb")
        run("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, self.later)


class Node(Machine):
    """A root with this machine's packages, as an overlay over its /usr; all it changes is in a tmpfs."""

    usr = ()

    def lay_out(self, bin_dir):
        base = os.path.dirname(self.root)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", base)
        for d in ("etc", "usr", "var/lib", "var/log", "run", "tmp", "proc", "sys", "dev", "root"):
            os.makedirs(os.path.join(self.root, d))
        for d in ("upper", "work"):
            os.mkdir(os.path.join(base, d))
        run("mount", "-t", "overlay", "-o", f"lowerdir=/usr,upperdir={base}/upper,workdir={base}/work", "overlay", self.root + "/usr")
        policy = self.root + "/usr/sbin/policy-rc.d"
        if os.path.exists(policy):  # forbids this machine's packages to start anything, where it is a container
            os.unlink(policy)
        for d in ("bin", "sbin", "lib", "lib64"):
            os.symlink("usr/" + d, os.path.join(self.root, d))
        self.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n")
        self.write("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
        self.write("/etc/machine-id", "%032x\n" % os.getpid())
        shutil.copy("/usr/lib/os-release", self.root + "/etc/os-release")
        shutil.copytree("/var/lib/dpkg", self.root + "/var/lib/dpkg", symlinks=True)
        self.write("/var/lib/dpkg/statoverride", "")  # names groups of this machine
        run("mknod", "-m", "666", self.root + "/dev/null", "c", "1", "3")

    def bring(self, built):
        for name in ("deb", "later"):
            shutil.copy(getattr(built, name), f"{self.root}/root/{name}.deb")

    def dpkg(self, *args):
        """dpkg inside the root: in the booted system if there is one. Its triggers are other packages' business."""
        command = ("dpkg", "--no-triggers", *args)
        if self.init:
            r = self.run(*command)
            return r.stdout + r.stderr
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        return run("chroot", self.root, *command, env=env).stdout

    def here(self, path):
        return os.path.lexists(self.root + path)

    def state(self, unit):
        return self.show(unit, "ActiveState")


def without_systemd(n):
    """(name, function): dpkg in a root where systemd does not run."""
    skip = ("var/lib/dpkg", "var/log", "dev", "proc", "sys")
    seen = {}

    def listing():
        return [f for f in files(n.root, skip) if not f.startswith("usr/") or "ambient" in f or "ztunnel" in f]

    def install():
        seen["before"] = listing()
        n.dpkg("-i", "/root/deb.deb")
        for name in PACKAGED:
            expect(n.here("/" + name), True, f"{name} is there")
        expect(n.here("/etc/systemd/system"), False, "something was enabled")
        version = run("chroot", n.root, "/usr/bin/ambientctl", "--version").stdout
        expect("ambientctl" in version, True, f"what the installed program says: {version}")
        answer = run("chroot", n.root, "/opt/cni/bin/ambient-cni", input='{"cniVersion": "1.0.0"}',
                     env={**os.environ, "CNI_COMMAND": "VERSION"}).stdout
        expect("supportedVersions" in answer, True, f"the plugin's answer where runtimes look for it: {answer}")

    def upgrade():
        n.write("/etc/default/ztunnel", "NODE_NAME=mine\n")
        n.write("/var/lib/ambient/x", "")
        n.write("/var/lib/ambient-agent/x", "")
        out = n.dpkg("-i", "/root/later.deb")
        expect("hand over" in out, False, f"a hint about a ztunnel that does not run: {out}")
        with open(n.root + "/etc/default/ztunnel") as f:
            expect(f.read(), "NODE_NAME=mine\n", "the administrator's settings")

    def remove():
        n.write("/etc/cni/net.d/10-n.conflist", '{"plugins": [{"type": "ambient-cni"}]}\n')
        expect("still names ambient-cni" in n.dpkg("-r", "ambient"), True, "the plugin in use is said")
        os.unlink(n.root + "/etc/cni/net.d/10-n.conflist")
        expect([p for p in PACKAGED if n.here("/" + p)], list(CONFFILES), "files of the package that stay")
        expect(n.here("/var/lib/ambient-agent/x"), True, "state stays")

    def purge():
        n.dpkg("-P", "ambient")
        expect(listing(), seen["before"], "files")
        expect([d for d in ("/var/lib/ambient", "/var/lib/ambient-agent", "/etc/ambient") if n.here(d)], [], "folders")

    return [("without systemd: installs, and enables nothing", install),
            ("without systemd: upgrades, and keeps settings", upgrade),
            ("without systemd: removes, keeps settings and state, and warns of a plugin in use", remove),
            ("without systemd: purges everything", purge)]


def under_systemd(n):
    """(name, function): dpkg in a booted system with a pod in the mesh."""
    pod = dict(test_systemd.steps(n))
    seen = {}

    def install():
        n.dpkg("-i", "/root/deb.deb")
        for unit in DAEMONS:
            expect(n.state(unit), "inactive", unit)
            expect(n.run("systemctl", "is-enabled", unit, check=False).stdout.strip(), "disabled", unit)

    def start():
        for name, text in SETTINGS.items():
            n.write("/etc/default/" + name, text)
        n.write("/etc/ambient/manifests/web.yaml", MANIFEST)
        n.write("/etc/ambient/state.yaml", STATE)
        n.run("systemctl", "enable", "--now", "ambient-agent.service", "ztunnel.service")
        for step in ("units start and say they are ready", "a pod is enrolled", "its descriptors are in systemd's store"):
            pod[step]()
        seen["sockets"] = n.listeners()

    def upgrade():
        agent, proxy = n.show("ambient-agent.service", "MainPID"), n.show("ztunnel.service", "MainPID")
        out = n.dpkg("-i", "/root/later.deb")
        expect(n.state("ambient-agent.service"), "active", "the agent")
        expect(n.show("ambient-agent.service", "MainPID") == agent, False, "the agent is the old one")
        expect(n.show("ztunnel.service", "MainPID"), proxy, "process of ztunnel")
        expect(n.listeners(), seen["sockets"], "inodes of the pod's listening sockets")
        expect("systemctl start ztunnel@2 && systemctl stop ztunnel\n" in out, True, f"how to hand over: {out}")
        expect("ztunnel@2 goes on" in out, False, "a hint about a generation that does not run")

    def next_generation():
        n.run("sh", "-c", "systemctl start ztunnel@2 && systemctl stop ztunnel")
        out = n.dpkg("-i", "/root/later.deb")
        expect(n.state("ztunnel@2.service"), "active", "the next generation")
        expect("systemctl start ztunnel && systemctl stop ztunnel@2\n" in out, True, f"how to hand over: {out}")
        expect("ambient: ztunnel goes on" in out, False, "a hint about a generation that does not run")
        expect(n.listeners(), seen["sockets"], "inodes of the pod's listening sockets")

    def plugin():
        """The drop-in of README.Debian: the link in /opt/cni/bin is program enough for the agent."""
        own = "/etc/cni/net.d/05-ambient.conflist"
        with open(n.root + "/usr/share/doc/ambient/README.Debian") as f:
            lines = [line.strip() for line in f if line.startswith("    [Service]") or line.startswith("    Environment=") or
                     line.startswith("    ReadWritePaths=")]
        expect(len(lines), 3, f"lines of the drop-in: {lines}")
        n.write("/etc/systemd/system/ambient-agent.service.d/own.conf", "\n".join(lines) + "\n")
        n.write("/etc/cni/net.d/10-n.conflist", '{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "ptp"}]}\n')
        n.run("systemctl", "daemon-reload")
        n.run("systemctl", "restart", "ambient-agent.service")
        wait_for("the plugin to be in the chain", lambda: n.call("GET", "/v1/status")[1].get("install", {}).get("state") ==
                 "installed" and n.here(own))
        expect(os.path.islink(n.root + "/opt/cni/bin/ambient-cni"), True, "the package's link stays")
        shutil.rmtree(n.root + "/etc/systemd/system/ambient-agent.service.d")
        n.run("systemctl", "daemon-reload")
        n.run("systemctl", "stop", "ambient-agent.socket", "ambient-agent-zds.socket", "ambient-agent")
        n.run("ambient-agent", "--uninstall")
        expect(n.here(own), False, "our configuration is still there")
        n.run("systemctl", "start", "ambient-agent")

    def remove():
        out = n.dpkg("-r", "ambient")
        expect("still names" in out, False, f"a warning of a plugin that is not in use: {out}")
        for unit in (*DAEMONS, "ztunnel@2.service"):
            expect(n.state(unit), "inactive", unit)
        wait_for("the pod's sockets to be gone", lambda: not n.listeners())
        expect(n.here("/var/lib/ambient"), True, "state stays")

    def purge():
        n.dpkg("-P", "ambient")
        left = [f for f in files(n.root + "/etc") + files(n.root + "/var/lib", ("dpkg", "systemd"))
                if "ambient" in f or "ztunnel" in f]
        expect(left, ["ambient/manifests/web.yaml", "ambient/state.yaml"], "all but what the administrator wrote")

    return [("under systemd: installing starts and enables nothing", install),
            ("under systemd: started, with a pod in the mesh", start),
            ("under systemd: an upgrade renews the agent and keeps the pod's sockets and ztunnel", upgrade),
            ("under systemd: so it does beside a later generation of ztunnel", next_generation),
            ("under systemd: the agent installs the plugin as README.Debian says, and takes it off", plugin),
            ("under systemd: removal stops all", remove),
            ("under systemd: purged", purge)]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bin", required=True)
    a = p.parse_args()
    for tool in ("systemd-nspawn", "nsenter", "curl", "lintian", "dpkg-shlibdeps"):
        if shutil.which(tool) is None:
            print(f"1..0 # SKIP {tool} is not installed")
            return 0
    if os.geteuid() != 0:
        print("1..0 # SKIP needs root")
        return 0
    if "DEB_TEST_MOUNTS" not in os.environ:  # what is mounted goes with this process
        os.environ["DEB_TEST_MOUNTS"] = "private"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    folder = tempfile.mkdtemp(prefix="ambient-deb-")
    base = os.path.join(folder, "node")
    os.mkdir(base)
    built = Built(folder, os.path.dirname(os.path.dirname(os.path.abspath(a.bin))))
    node = Node(base, a.bin)
    suite = Suite(node)

    def prepare():
        built.make_later()
        node.bring(built)

    def boot():
        os.unlink(node.root + "/dev/null")
        node.boot()
    try:
        todo = [("`make uninstall` takes out what `make install` put there", built.install_and_uninstall),
                ("the package has the same bytes under another umask, zone and path", built.reproducible),
                ("it holds what it should", built.contents), ("lintian", built.lintian), ("a later version", prepare),
                *without_systemd(node), ("systemd boots", boot), *under_systemd(node)]
        for name, step in todo:
            if not suite.check(name, step):
                break
    finally:
        node.stop()
        run("umount", "-R", base, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"1..{suite.count}")
    return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main())
