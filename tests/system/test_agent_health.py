#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_agent_health.py: what the agent tells a probe, a scrape and the runtime about itself: /readyz, /metrics and
STATUS, while pods are not known, no ztunnel is there, or the plugin cannot be put or kept in place. Run as root."""
import contextlib
import http.client
import os
import re
import shutil
import subprocess
import time

from agent_lab import BIN, V2, Pod, main, run, test, until
from dnslab import Net

NETWORK = '{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"ptp"}]}\n'


def get(w, port, path, method="GET"):
    """(status, body) as asked from within the agent's host namespace."""
    net, c = Net(w.host), http.client.HTTPConnection("127.0.0.1", port)
    try:
        c.sock = net.connect(("127.0.0.1", port), 60)
        c.request(method, path)
        r = c.getresponse()
        return r.status, r.read().decode()
    finally:
        c.close()
        net.close()


def metrics(w):
    status, body = get(w, 15014, "/metrics")
    assert status == 200, body
    names = {}
    for line in body.splitlines():
        m = re.fullmatch(r'([a-z_]+(?:\{[^}]*\})?) (\d+)', line)
        assert m or line.startswith("#"), line
        if m:
            names[m.group(1)] = int(m.group(2))
    return names


PORTS = ("--health-port", "8000", "--monitoring-port", "15014")


def directories(w):
    for d in ("net.d", "bin"):
        os.mkdir("%s/%s" % (w.dir, d))
    return ("--install-cni", "chained", "--cni-conf-dir", w.dir + "/net.d", "--cni-bin-dir", w.dir + "/bin",
            "--cni-plugin", BIN[0] + "/ambient-cni")


def put(w, text):
    with open(w.dir + "/net.d/.tmp", "w") as f:
        f.write(text)
    os.rename(w.dir + "/net.d/.tmp", w.dir + "/net.d/10-net.conflist")


def status_verb(w):
    return w.cni({"command": "STATUS"})


@test
def nothing_listens_unless_asked(w):
    w.start()
    assert run("ip", "netns", "exec", w.host, "ss", "-Hltn") == ""


@test
def taken_port_is_named(w):
    p = subprocess.Popen(["ip", "netns", "exec", w.host, "busybox", "nc", "-ll", "-p", "8000", "-e", "true"])
    try:
        until("taken", lambda: ":8000" in run("ip", "netns", "exec", w.host, "ss", "-Hltn"))
        w.spawn(*PORTS)
        assert w.proc.wait(60) == 1
        assert "listen on port 8000: Address already in use" in w.logged(), w.logged()
    finally:
        p.terminate()
        p.wait()
        w.proc = None


@test
def readiness_follows_the_installer_and_status_ztunnel_too(w):
    flags = directories(w)
    w.start(*PORTS, *flags)
    assert get(w, 8000, "/healthz") == (200, "alive\n")
    # no network yet: the plugin is in nobody's way, and pods would not pass it
    status, body = get(w, 8000, "/readyz")
    assert status == 503 and "waiting" in body, body
    put(w, NETWORK)
    until("ready", lambda: get(w, 8000, "/readyz") == (200, "ready\n"))
    # STATUS asks for a ztunnel as well, and says what is missing
    status, a = status_verb(w)
    assert (status, a["code"]) == (503, 50) and "no ztunnel" in a["msg"], a
    w.ready_ztunnel(V2)
    assert status_verb(w)[0] == 200 and w.status()["ready"]
    # somebody takes our entry out, and may do so again: until it is back, pods start outside
    put(w, NETWORK)
    until("put back", lambda: "ambient-cni" in open(w.dir + "/net.d/10-net.conflist").read())
    put(w, NETWORK)
    until("told", lambda: status_verb(w)[0] == 503)
    status, a = status_verb(w)
    assert a["code"] == 50 and "not in place" in a["msg"] and "repairing" in a["msg"], a
    assert get(w, 8000, "/readyz")[0] == 503 and not w.status()["ready"]
    until("ready again", lambda: status_verb(w)[0] == 200)
    assert get(w, 8000, "/readyz")[0] == 200


@test
def directory_removed_under_a_mount(w):
    """As a container sees the node: only a process that is started anew sees the directory that comes in its place."""
    flags = directories(w)
    put(w, NETWORK)
    os.rename(w.dir + "/net.d", w.dir + "/real")

    def mounted(folder):
        os.makedirs(w.dir + "/" + folder, exist_ok=True)
        os.makedirs(w.dir + "/net.d", exist_ok=True)
        run("mount", "--bind", w.dir + "/" + folder, w.dir + "/net.d")
    mounted("real")
    try:
        w.start(*PORTS, *flags)
        w.ready_ztunnel(V2)
        until("ready", lambda: status_verb(w)[0] == 200)
        shutil.rmtree(w.dir + "/real")
        until("ended", lambda: w.proc.poll() is not None, 30)
        assert w.proc.returncode == 1 and "was removed under the mount" in w.logged()
        w.proc = None
        # still like that at the start: told, and no end
        w.start(*PORTS, *flags)
        until("told", lambda: "under the mount" in w.status()["install"]["reason"])
        time.sleep(2.5)
        assert w.proc.poll() is None
        w.stop()
        run("umount", "-l", w.dir + "/net.d")
        mounted("again")
        put(w, NETWORK)
        w.start(*PORTS, *flags)
        w.ready_ztunnel(V2)
        until("ready", lambda: status_verb(w)[0] == 200)
    finally:
        run("umount", "-l", w.dir + "/net.d", check=False)


@test
def directory_removed_and_disk_full(w):
    flags = directories(w)
    put(w, NETWORK)
    w.start(*PORTS, *flags)
    w.ready_ztunnel(V2)
    until("ready", lambda: status_verb(w)[0] == 200)
    # the whole directory goes: nobody finds the plugin
    os.unlink(w.dir + "/net.d/10-net.conflist")
    os.rmdir(w.dir + "/net.d")
    until("told", lambda: status_verb(w)[0] == 503)
    assert status_verb(w)[1]["code"] == 50, status_verb(w)
    os.mkdir(w.dir + "/net.d")
    run("mount", "-t", "tmpfs", "-o", "size=64k", "ambient-test", w.dir + "/net.d")
    try:
        with open(w.dir + "/net.d/fill", "wb", buffering=0) as f:
            with contextlib.suppress(OSError):
                while True:
                    f.write(b"x" * 4096)
            f.truncate(f.tell() - 4096)  # room for the network's file, and not for another
            put(w, NETWORK)
        until("disk full is told", lambda: "No space left" in status_verb(w)[1].get("msg", ""))
        assert get(w, 8000, "/readyz")[0] == 503 and metrics(w)["istio_cni_install_ready"] == 0
        assert metrics(w)['istio_cni_installs_total{result="CREATE_CNI_CONFIG_FAILURE"}'] >= 1
        os.unlink(w.dir + "/net.d/fill")
        until("ready again", lambda: status_verb(w)[0] == 200)
    finally:
        run("umount", "-l", w.dir + "/net.d", check=False)


@test
def not_ready_before_the_pods_are_known(w):
    os.rmdir(w.dir + "/m")
    w.spawn(*PORTS)
    until("serves", w.answers)
    status, body = get(w, 8000, "/readyz")
    assert status == 503 and "has not been read yet" in body, body
    os.mkdir(w.dir + "/m")
    until("ready", lambda: get(w, 8000, "/readyz")[0] == 200)


@test
def metrics_have_stocks_names(w):
    w.namespace(mode="ambient")
    p = Pod(w, "app")
    w.put("p.yaml", p.manifest())
    w.start(*PORTS)
    m = metrics(w)
    assert m["ztunnel_connected"] == 0 and m['nodeagent_reconcile_events_total{type="add"}'] == 1, m
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert w.cni(p.event(podNamespace=7))[0] == 400
    m = metrics(w)
    assert m["ztunnel_connected"] == 1 and m['ambient_agent_pods{state="enrolled"}'] == 1, m
    assert m['istio_cni_plugin_requests_total{response_code="200"}'] == 1, m
    assert m['istio_cni_plugin_requests_total{response_code="400"}'] == 1, m
    assert m["istio_cni_install_ready"] == 1, m
    os.unlink(w.dir + "/m/p.yaml")
    until("counted", lambda: metrics(w)['nodeagent_reconcile_events_total{type="delete"}'] == 1)
    assert get(w, 15014, "/metrics", "POST")[0] == 405 and get(w, 15014, "/readyz")[0] == 404
    assert get(w, 8000, "/metrics")[0] == 404


if __name__ == "__main__":
    raise SystemExit(main())
