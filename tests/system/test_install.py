#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_install.py: ambient-agent puts the plugin on the node, keeps it there and takes it off again
(cni-spec 2 and 8.7), with directories given by flags. Run as root."""
import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from agent_lab import BIN, TESTS, Pod, TAG, main, run, test, until

# Odd on purpose: what others write must come back byte by byte.
CALICO = """
{
  "plugins": [
    {
      "type": "calico", "mtu": 1.50e3, "big": 18446744073709551616,
\t"s": "\\u00e9\\/", "ipam": {"type": "calico-ipam" }
    } ,
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ],
  "unknown": [ 1, 2.0, -0 ],
  "name": "k8s-pod-network", "cniVersion": "1.0.0"}"""
BRIDGE = '{\n\t"cniVersion": "0.4.0",\n\t"name": "mynet",\n\t"type": "bridge", "mtu": 1e3\n}\n\n'
OTHER = '{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"ptp"}]}\n'
STOCK = '{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"},{"type":"istio-cni","x":1}]}'
PACE = 5.0  # at most one rewrite in this time
SOON = PACE + 20


class Node:
    """The two directories of a node, and an agent that keeps them."""

    def __init__(self, w):
        self.w, self.conf, self.bin = w, w.dir + "/net.d", w.dir + "/bin"
        os.mkdir(self.conf)
        os.mkdir(self.bin)

    def flags(self, mode, *more):
        return ("--install-cni", mode, "--cni-conf-dir", self.conf, "--cni-bin-dir", self.bin, "--cni-plugin",
                BIN[0] + "/ambient-cni") + more

    def start(self, mode, *more):
        self.w.start(*self.flags(mode, *more))

    def put(self, name, text, mode=0o644):
        tmp = "%s/.tmp-%s" % (self.conf, name)
        with open(tmp, "w") as f:
            f.write(text)
        os.chmod(tmp, mode)
        os.rename(tmp, "%s/%s" % (self.conf, name))

    def read(self, name):
        try:
            with open("%s/%s" % (self.conf, name)) as f:
                return f.read()
        except FileNotFoundError:
            return None

    def names(self):
        return sorted(os.listdir(self.conf))

    def types(self, name):
        text = self.read(name)
        return [p["type"] for p in json.loads(text)["plugins"]] if text else []

    def ours(self, name):
        return self.types(name)[-1:] == ["ambient-cni"]

    def install(self):
        return self.w.status()["install"]

    def settled(self, state="installed", seconds=30.0):
        until("state " + state, lambda: self.install()["state"] == state, seconds)
        return self.install()

    def plugin_is_good(self):
        path = self.bin + "/ambient-cni"
        try:
            with open(path, "rb") as a, open(BIN[0] + "/ambient-cni", "rb") as b:
                return a.read() == b.read() and os.stat(path).st_mode & 0o7777 == 0o755
        except FileNotFoundError:
            return False

    def uninstall(self, *more):
        argv = ["nsenter", "--net=/var/run/netns/" + self.w.host, BIN[0] + "/ambient-agent", "--uninstall",
                "--cni-conf-dir", self.conf, "--cni-bin-dir", self.bin, "--cni-agent-run-dir", self.w.dir + "/run"]
        p = subprocess.run(argv + list(more), stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        return p.returncode, p.stderr

    def gone(self):
        return os.listdir(self.bin) == []


@contextlib.contextmanager
def tmpfs(path, size="256k"):
    run("mount", "-t", "tmpfs", "-o", "size=" + size, TAG, path)
    try:
        yield
    finally:
        run("umount", "-l", path)


# --- putting in and taking out ---

@test
def off_by_default(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    w.start("--cni-conf-dir", n.conf, "--cni-bin-dir", n.bin, "--cni-plugin", BIN[0] + "/ambient-cni")
    assert w.status()["install"] == {"mode": "off"}, w.status()["install"]
    assert n.names() == ["10-calico.conflist"] and n.read("10-calico.conflist") == CALICO and n.gone()


@test
def chained_and_uninstalled_byte_for_byte(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO, 0o640)
    n.put("20-other.conflist", OTHER)
    n.start("chained")
    s = n.settled()
    assert s["file"] == s["primary"] == n.conf + "/10-calico.conflist", s
    assert n.types("10-calico.conflist") == ["calico", "portmap", "ambient-cni"]
    assert n.plugin_is_good()
    entry = json.loads(n.read("10-calico.conflist"))["plugins"][-1]
    assert entry["cni_agent_run_dir"] == w.dir + "/run" and entry["exclude_namespaces"] == ["kube-system"], entry
    assert os.stat(n.conf + "/10-calico.conflist").st_mode & 0o7777 == 0o640
    assert n.read("20-other.conflist") == OTHER
    assert n.names() == ["10-calico.conflist", "20-other.conflist"]
    with_us = n.read("10-calico.conflist")
    w.stop()
    assert n.read("10-calico.conflist") == with_us and n.plugin_is_good(), "stopping is not uninstalling"
    n.start("chained")
    assert n.settled()["writes"] == 0, "nothing to do after a restart"
    w.stop()
    rc, text = n.uninstall()
    assert rc == 0, text
    assert n.read("10-calico.conflist") == CALICO and n.gone()
    assert os.stat(n.conf + "/10-calico.conflist").st_mode & 0o7777 == 0o640
    assert n.names() == ["10-calico.conflist", "20-other.conflist"]
    rc, text = n.uninstall()
    assert rc == 0, "uninstalling twice: " + text


@test
def single_configuration_is_wrapped_and_given_back(w):
    n = Node(w)
    n.put("10-bridge.conf", BRIDGE, 0o600)
    n.start("chained")
    n.settled()
    assert n.names() == ["10-bridge.conflist"], n.names()
    doc = json.loads(n.read("10-bridge.conflist"))
    assert (doc["name"], doc["cniVersion"]) == ("mynet", "0.4.0"), doc
    assert doc["plugins"][0]["type"] == "bridge" and doc["plugins"][0]["mtu"] == 1000
    # its owner writes it once more: it is wrapped once more
    n.put("10-bridge.conf", BRIDGE.replace("1e3", "9000"))
    until("wrapped again", lambda: n.names() == ["10-bridge.conflist"] and "9000" in n.read("10-bridge.conflist"),
          SOON)
    w.stop()
    rc, text = n.uninstall()
    assert rc == 0, text
    assert n.names() == ["10-bridge.conf"] and n.read("10-bridge.conf") == BRIDGE.replace("1e3", "9000")


@test
def unwrapping_does_not_overwrite_a_newer_file(w):
    n = Node(w)
    n.put("10-bridge.conf", BRIDGE)
    n.start("chained")
    n.settled()
    w.stop()
    n.put("10-bridge.conf", BRIDGE + "\n\n")
    rc, text = n.uninstall()
    assert rc == 0, text
    assert n.names() == ["10-bridge.conf"] and n.read("10-bridge.conf") == BRIDGE + "\n\n"


@test
def owned_file_follows_the_primarys_content(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("owned")
    s = n.settled()
    assert s["file"] == n.conf + "/05-ambient.conflist" and s["primary"] == n.conf + "/10-calico.conflist", s
    assert n.types("05-ambient.conflist") == ["calico", "portmap", "ambient-cni"]
    assert n.read("10-calico.conflist") == CALICO
    assert os.stat(n.conf + "/05-ambient.conflist").st_mode & 0o7777 == 0o600
    changed = CALICO.replace("1.50e3", "1400")  # same plugins, other content
    n.put("10-calico.conflist", changed)
    until("copy is refreshed", lambda: "1400" in n.read("05-ambient.conflist"), SOON)
    # the primary goes away for a moment: pods must not start without the mesh when it is back
    os.unlink(n.conf + "/10-calico.conflist")
    n.settled("waiting")
    assert n.ours("05-ambient.conflist")
    n.put("10-calico.conflist", changed)
    n.settled()
    w.stop()
    rc, text = n.uninstall()
    assert rc == 0, text
    assert n.names() == ["10-calico.conflist"] and n.read("10-calico.conflist") == changed and n.gone()


@test
def the_installed_entry_works(w):
    """What a runtime does with the list: our plugin, from where it was copied, asks our agent."""
    n = Node(w)
    n.put("10-calico.conflist", CALICO.replace("1.0.0", "1.1.0"))
    n.start("chained")
    n.settled()
    doc = json.loads(n.read("10-calico.conflist"))
    conf = dict(doc["plugins"][-1], name=doc["name"], cniVersion=doc["cniVersion"])

    def status():
        p = subprocess.run([n.bin + "/ambient-cni"], input=json.dumps(conf), stdout=subprocess.PIPE, text=True,
                           env={"CNI_COMMAND": "STATUS", "CNI_PATH": n.bin}, timeout=20, check=False)
        return p.returncode, p.stdout

    rc, out = status()
    assert rc != 0 and json.loads(out)["code"] == 50, "no ztunnel is connected: " + out
    w.ready_ztunnel()
    rc, out = status()
    assert rc == 0, out


@test
def settings_reach_an_entry_that_is_there_already(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    w.stop()
    n.start("chained", "--exclude-namespaces", "a,b")
    n.settled()
    assert json.loads(n.read("10-calico.conflist"))["plugins"][-1]["exclude_namespaces"] == ["a", "b"]
    assert n.types("10-calico.conflist") == ["calico", "portmap", "ambient-cni"]


@test
def another_mode_takes_over(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("owned")
    n.settled()
    w.stop()
    n.start("chained")
    n.settled()
    assert n.names() == ["10-calico.conflist"] and n.ours("10-calico.conflist")


# --- others interfere ---

@test
def overwritten_by_the_primarys_owner(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    n.put("10-calico.conflist", CALICO)
    assert n.settled("repairing", 3)["file"].endswith("10-calico.conflist")
    until("repaired", lambda: n.ours("10-calico.conflist"), SOON)
    n.settled()


@test
def rewritten_in_place_half_at_a_time(w):
    """A writer without rename: what we see in between is no configuration, and is left alone."""
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    with open(n.conf + "/10-calico.conflist", "w") as f:
        f.write(CALICO[:100])
        f.flush()
        n.settled("waiting")
        assert n.read("10-calico.conflist") == CALICO[:100]
        f.write(CALICO[100:])
    until("repaired", lambda: n.ours("10-calico.conflist"), SOON)


@test
def removed_and_damaged_files_come_back(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("owned")
    n.settled()
    os.unlink(n.conf + "/05-ambient.conflist")
    until("file is back", lambda: n.ours("05-ambient.conflist"), SOON)
    n.put("05-ambient.conflist", OTHER)  # somebody else's content under our name
    until("content is back", lambda: n.types("05-ambient.conflist") == ["calico", "portmap", "ambient-cni"], SOON)
    with open(n.conf + "/05-ambient.conflist", "w"):
        pass
    until("not empty any more", lambda: n.ours("05-ambient.conflist"), SOON)


@test
def the_program_comes_back(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    os.unlink(n.bin + "/ambient-cni")
    until("program is back", n.plugin_is_good, SOON)
    os.chmod(n.bin + "/ambient-cni", 0o644)
    until("program is executable", n.plugin_is_good, SOON)
    shutil.copyfile("/bin/true", n.bin + "/.x")
    os.rename(n.bin + "/.x", n.bin + "/ambient-cni")
    until("program is ours", n.plugin_is_good, SOON)
    shutil.rmtree(n.bin)
    n.settled("failed", SOON)
    os.mkdir(n.bin)
    until("program is back in a new directory", n.plugin_is_good, SOON)


@test
def a_program_that_cannot_be_renewed_serves_on(w):
    n = Node(w)
    source = w.dir + "/plugin"
    shutil.copyfile(BIN[0] + "/ambient-cni", source)
    n.put("10-calico.conflist", CALICO)
    n.start("chained", "--cni-plugin", source)
    n.settled()
    os.unlink(source)
    n.put("10-calico.conflist", CALICO)
    until("repaired all the same", lambda: n.ours("10-calico.conflist"), SOON)
    assert "--cni-plugin" in n.settled("failed")["reason"]


@test
def the_program_can_be_called_while_it_is_upgraded(w):
    n = Node(w)
    source = w.dir + "/plugin"
    shutil.copyfile(BIN[0] + "/ambient-cni", source)
    n.put("10-calico.conflist", CALICO)
    n.start("chained", "--cni-plugin", source)
    n.settled()
    size = os.stat(source).st_size
    with open(source, "ab") as f:
        f.write(b"x")  # another program, as far as bytes go
    calls, end = 0, time.monotonic() + SOON
    while os.stat(n.bin + "/ambient-cni").st_size == size or calls < 50:
        assert time.monotonic() < end, "not upgraded"
        p = subprocess.run([n.bin + "/ambient-cni"], input='{"cniVersion":"1.0.0"}', stdout=subprocess.PIPE, text=True,
                           env={"CNI_COMMAND": "VERSION"}, timeout=20, check=False)
        assert p.returncode == 0 and "supportedVersions" in p.stdout, p.stdout
        calls += 1
    assert os.stat(n.bin + "/ambient-cni").st_size == size + 1


@test
def two_writers_do_not_spin(w):
    """Somebody who takes us out at once, each time: we come back slowly, and say who fights about what."""
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    start, seen = time.monotonic(), []
    while "another program keeps changing" not in w.logged():
        assert time.monotonic() - start < 40, "no warning"
        if n.ours("10-calico.conflist"):
            seen.append(os.stat(n.conf + "/10-calico.conflist").st_mtime)  # the agent's moment, not ours
            n.put("10-calico.conflist", CALICO)
        time.sleep(0.01)
    apart = [b - a for a, b in zip(seen, seen[1:])]
    assert len(apart) >= 2 and min(apart[1:]) > PACE - 0.5, apart
    assert "changing %s/10-calico.conflist" % n.conf in w.logged()
    assert n.install()["writes"] <= 6, n.install()


@test
def a_file_that_comes_first_later_is_followed(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    n.put("05-new.conflist", OTHER)
    until("entry is in the new file", lambda: n.ours("05-new.conflist"), SOON)
    assert n.settled()["primary"] == n.conf + "/05-new.conflist"
    os.unlink(n.conf + "/05-new.conflist")  # and back: there is no gap
    until("old file again", lambda: n.install()["primary"] == n.conf + "/10-calico.conflist", SOON)
    assert n.ours("10-calico.conflist")
    n.put("05-new.conflist", OTHER)
    until("and again", lambda: n.ours("05-new.conflist"), SOON)
    w.stop()
    rc, text = n.uninstall()
    assert rc == 0, text
    assert n.read("10-calico.conflist") == CALICO and n.read("05-new.conflist") == OTHER


@test
def owned_file_stays_the_first(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("owned")
    n.settled()
    n.put("01-multus.conflist", OTHER)
    until("ours is before it", lambda: n.types("00-ambient.conflist") == ["ptp", "ambient-cni"], SOON)
    until("the other one is gone", lambda: n.read("05-ambient.conflist") is None)
    n.put("00-a.conflist", OTHER)
    s = n.settled("preempted", SOON)
    assert "00-a.conflist sorts before" in s["reason"], s
    os.unlink(n.conf + "/00-a.conflist")
    n.settled(seconds=SOON)


@test
def what_cannot_be_read_is_named(w):
    n = Node(w)
    n.put("05-broken.conflist", '{"name": "x", "plugins": [{"type": "ptp"}], "name": "y"}')
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    s = n.settled()
    assert "05-broken.conflist" in s["reason"] and "twice" in s["reason"], s
    assert n.ours("10-calico.conflist")


# --- nothing there yet ---

@test
def waits_for_directory_and_primary(w):
    n = Node(w)
    os.rmdir(n.conf)
    n.start("chained")
    assert n.install()["state"] == "waiting", n.install()
    os.mkdir(n.conf)
    n.put("10-calico.conf.tmp", BRIDGE)
    n.put("readme.txt", "hello")
    until("directory was seen", lambda: "no usable" in n.install()["reason"], SOON)
    n.put("10-calico.conflist", CALICO)
    until("installed", lambda: n.ours("10-calico.conflist"), SOON)
    # the directory is replaced by another one
    os.rename(n.conf, n.conf + ".old")
    n.settled("waiting", SOON)
    os.mkdir(n.conf)
    n.put("20-other.conflist", OTHER)
    until("installed in the new one", lambda: n.ours("20-other.conflist"), 2 * SOON)
    other = subprocess.run([BIN[0] + "/ambient-agent", *n.flags("chained"), "--manifests", w.dir + "/m",
                            "--cni-agent-run-dir", w.dir + "/run2", "--ztunnel-uds-address", w.dir + "/z2/z.sock"],
                           stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert other.returncode == 1 and "in use by another ambient-agent" in other.stderr, other.stderr


@test
def a_named_primary_is_waited_for(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained", "--cni-conf-name", "20-other.conflist")
    assert "waiting for 20-other.conflist" in n.settled("waiting")["reason"]
    n.put("20-other.conflist", OTHER)
    s = n.settled("preempted")
    assert "10-calico.conflist sorts before" in s["reason"], s
    assert n.ours("20-other.conflist") and n.read("10-calico.conflist") == CALICO


# --- the disk ---

@test
def disk_full(w):
    n = Node(w)
    with tmpfs(n.conf, "64k"):
        n.put("10-calico.conflist", CALICO)
        with open(n.conf + "/fill", "wb", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(b"x" * 4096)
        n.start("chained")
        s = n.settled("failed")
        assert "No space left" in s["reason"], s
        assert n.names() == ["10-calico.conflist", "fill"] and n.read("10-calico.conflist") == CALICO
        before = len(w.logged())
        time.sleep(1)  # what fails must not be tried in a loop
        assert w.logged()[before:].count("No space") <= 1
        os.unlink(n.conf + "/fill")
        until("installed", lambda: n.ours("10-calico.conflist"), SOON)


@test
def disk_full_for_the_program(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    with tmpfs(n.bin, "8k"):
        n.start("chained")
        s = n.settled("failed")
        assert "No space left" in s["reason"] and n.gone(), s
        assert n.read("10-calico.conflist") == CALICO, "a configuration that names a program that is not there"
        run("mount", "-o", "remount,size=64m", n.bin)
        until("installed", lambda: n.ours("10-calico.conflist"), 2 * SOON)


@test
def read_only_directory(w):
    n = Node(w)
    with tmpfs(n.conf):
        n.put("10-calico.conflist", CALICO)
        run("mount", "-o", "remount,ro", n.conf)
        n.start("chained")
        for _ in range(5):  # the cause stays there while the next attempt is waited for
            assert "Read-only file system" in n.settled("failed")["reason"], n.install()
            with open(n.bin + "/another", "w"):
                pass  # another look at the directories
            time.sleep(0.1)
        os.unlink(n.bin + "/another")
        run("mount", "-o", "remount,rw", n.conf)
        until("installed", lambda: n.ours("10-calico.conflist"), SOON)
        w.stop()
        run("mount", "-o", "remount,ro", n.conf)
        rc, text = n.uninstall()
        assert rc == 1 and "Read-only file system" in text, text
        assert n.plugin_is_good(), "the configuration still names the program"
        run("mount", "-o", "remount,rw", n.conf)
        rc, text = n.uninstall()
        assert rc == 0 and n.read("10-calico.conflist") == CALICO and n.gone(), text


@test
def killed_at_any_time(w):
    n = Node(w)
    for name in ("10-bridge.conf", "20-other.conflist"):
        n.put(name, BRIDGE if name.endswith(".conf") else OTHER)
    rnd = random.Random(7)
    for i in range(12):
        w.spawn(*n.flags(("chained", "owned")[i % 2]))
        time.sleep(rnd.random() * 0.15)
        w.proc.send_signal(signal.SIGKILL)
        w.proc.wait(10)
        names = [x for x in n.names() if x.endswith((".conf", ".conflist"))]
        for name in names:
            json.loads(n.read(name))
        assert any(x.startswith(("05-ambient", "10-bridge")) for x in names), names
    w.proc = None
    n.start("owned")
    n.settled()
    assert not [x for x in n.names() + os.listdir(n.bin) if x.startswith(".")], n.names()
    w.stop()
    rc, text = n.uninstall()
    assert rc == 0, text
    assert n.names() == ["10-bridge.conf", "20-other.conflist"], n.names()
    assert n.read("10-bridge.conf") == BRIDGE and n.read("20-other.conflist") == OTHER


# --- two of a kind ---

@test
def second_installer_is_refused(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    text = n.read("10-calico.conflist")
    for mode, where in (("owned", "net.d"), ("chained", "net.d")):
        p = subprocess.run([BIN[0] + "/ambient-agent", *n.flags(mode), "--manifests", w.dir + "/m",
                            "--cni-agent-run-dir", w.dir + "/run2", "--ztunnel-uds-address",
                            w.dir + "/z2/z.sock"], stderr=subprocess.PIPE, text=True, timeout=30, check=False)
        assert p.returncode == 1 and where + " is in use by another ambient-agent" in p.stderr, p.stderr
    assert n.read("10-calico.conflist") == text and n.names() == ["10-calico.conflist"]
    rc, said = n.uninstall()
    assert rc == 1 and "stop the agent first" in said, said
    assert n.read("10-calico.conflist") == text and n.plugin_is_good()


@test
def istios_plugin_is_refused_or_replaced(w):
    n = Node(w)
    n.put("10-ptp.conflist", STOCK)
    n.start("chained")
    s = n.settled("failed")
    assert "istio-cni" in s["reason"] and "--replace-istio-cni" in s["reason"], s
    assert n.read("10-ptp.conflist") == STOCK
    w.stop()
    n.start("chained", "--replace-istio-cni")
    n.settled()
    assert n.types("10-ptp.conflist") == ["ptp", "ambient-cni"]


# --- pods ---

def enrolled(w, names):
    w.namespace(mode="ambient")
    pods = [Pod(w, name) for name in names]
    for p in pods:
        w.put(p.name + ".yaml", p.manifest())
    return pods


@test
def pods_stay_until_they_are_released(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    a, b = enrolled(w, ("a", "b"))
    n.start("chained")
    z = w.ready_ztunnel()
    for p in (a, b):
        (status, answer), _, _ = w.add(p, z)
        assert (status, answer["outcome"]) == (200, "enrolled"), answer
    run("ip", "netns", "exec", w.host, "nft", "add table inet istio-ambient-nat")  # as with a kubelet
    rc, text = n.uninstall("--release-pods")
    assert rc == 1 and "stop it first" in text, text
    w.stop()
    rc, text = n.uninstall()
    assert rc == 0 and a.has_rules() and b.has_rules() and len(w.journal()) == 2, text
    # a path that is gone while a process still lives in the namespace
    proc = subprocess.Popen(["ip", "netns", "exec", b.netns, "sleep", "60"])
    try:
        until("process is in the namespace", lambda: os.stat("/proc/%d/ns/net" % proc.pid).st_ino ==
              os.stat(b.path).st_ino)
        run("ip", "netns", "del", b.netns)
        w.netns.remove(b.netns)
        rc, text = n.uninstall("--release-pods")
        assert rc == 0, text
        assert a.clean(), a.rules()
        left = run("nsenter", "--net=/proc/%d/ns/net" % proc.pid, "nft", "list", "ruleset")
        assert "istio-ambient" not in left, left
    finally:
        proc.kill()
        proc.wait()
    assert w.journal() == []
    assert "istio-ambient" not in run("ip", "netns", "exec", w.host, "nft", "list", "ruleset")
    assert "a uid=" in text and text.count("released") == 2, text


@test
def an_uninstaller_that_stays(w):
    n = Node(w)
    n.put("10-calico.conflist", CALICO)
    n.start("chained")
    n.settled()
    w.stop()
    argv = [BIN[0] + "/ambient-agent", "--uninstall", "--stay", "--cni-conf-dir", n.conf, "--cni-bin-dir", n.bin,
            "--cni-agent-run-dir", w.dir + "/run"]
    p = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(p.stderr.readline, "")
        assert any("waiting for SIGTERM" in line for line in lines)
        assert n.gone() and n.read("10-calico.conflist") == CALICO and p.poll() is None
        p.terminate()
        assert p.wait(20) == 0
    finally:
        p.kill()
        p.wait()


@test
def nothing_to_uninstall(w):
    n = Node(w)
    os.rmdir(n.conf)
    os.rmdir(n.bin)
    rc, text = n.uninstall("--release-pods")
    assert rc == 0, text


# --- many at once: each test mostly waits for the pace of repairs ---

AT_ONCE = 6


def alone(name):
    p = subprocess.run([sys.executable, os.path.abspath(__file__), *sys.argv[1:], name], stdout=subprocess.PIPE,
                       text=True, check=False)
    lines = p.stdout.splitlines()
    if sum(l.startswith(("ok 1 ", "not ok 1 ")) for l in lines) != 1:
        lines.append("not ok 1 - agent: %s ended with %d and no result" % (name, p.returncode))
    return [l for l in lines if not l.startswith("1..")]


def everything():
    failed = False
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for n, lines in enumerate(pool.map(alone, [t.__name__ for t in TESTS]), 1):
            for line in lines:
                failed |= line.startswith("not ok 1 ")
                print(line.replace("ok 1 ", "ok %d " % n, 1) if not line.startswith("#") else line, flush=True)
    print("1..%d" % len(TESTS))
    return int(failed)


if __name__ == "__main__":
    whole = os.geteuid() == 0 and len(sys.argv) == 3 and sys.argv[1] == "--bin"
    sys.exit(everything() if whole else main())
