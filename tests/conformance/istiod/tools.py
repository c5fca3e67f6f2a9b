# SPDX-License-Identifier: Apache-2.0
"""tools.py: what istioctl says of a mesh whose ztunnel is ours; it is to work as with Istio's own."""
import json
import os
import shutil
import subprocess
import tarfile

from cluster import istiod as stock
from cri.daemon import wait_until

from ..lab import ECHO_PORT, PORT, Talk, pod, service
from ..scenario import Skip, scenario
from .policies import authorization, principal

SYSTEM = "istio-system"


def istioctl(lab, *args, check=True):
    """Its CompletedProcess."""
    program = stock.ISTIOCTL if os.path.exists(stock.ISTIOCTL) else shutil.which("istioctl")
    if not program:
        raise Skip("no istioctl: make stock")
    r = subprocess.run([program, "--kubeconfig", lab.kubectl.kubeconfig, *args], cwd=lab.out, capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, timeout=420, check=False)
    assert not check or r.returncode == 0, "istioctl %s: %s" % (" ".join(args), r.stdout + r.stderr)
    return r


HEADS = {"workloads": ("NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"),
         "services": ("NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"),
         "policies": ("NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"),
         "certificates": ("CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"),
         "connections": ("WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"),
         "status": ("NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES")}


def table(text, heads):
    """Rows of a table as dicts; its columns begin where their headings do."""
    lines = [line for line in text.splitlines() if line.strip()]
    starts, at = [], 0
    for h in heads:
        starts.append(lines[0].index(h, at))
        at = starts[-1] + len(h)
    assert not lines[0][at:].strip() and lines[0].split() == " ".join(heads).split(), "other columns: " + lines[0]
    return [{h: line[a:b].strip() for h, a, b in zip(heads, starts, starts[1:] + [None])} for line in lines[1:]]


def config(lab, what, *args):
    return table(istioctl(lab, "ztunnel-config", what, *args).stdout, HEADS[what])


@scenario
def istioctl_shows_what_ztunnel_knows(lab):
    s = lab.space("ambient")
    first, last = lab.names()[0], lab.names()[-1]
    s.run(pod("server", node=last), pod("out", mode="none"), pod("echo", "echo", node=last), service("web", app="server"),
          authorization("p", "DENY", principal(s, "nobody"), "server"))
    s.wait_hbone("server", "echo")  # the talker's connection is begun once
    s.run(pod("talker", "talk", "%s:%d" % (s.ip("echo"), ECHO_PORT), node=first))
    s.wait_hbone("talker")
    Talk(s, "talker").goes_on()
    wait_until("ztunnel to know the service and the policy", lambda: config(lab, "policies", "--policy-namespace", s.name)
               and any(r["ENDPOINTS"] == "1/1" for r in config(lab, "services", "--service-namespace", s.name)), 90, every=0.5)
    rows = {r["POD NAME"]: r for r in config(lab, "workloads", "--workload-namespace", s.name)}
    assert set(rows) == {"server", "out", "echo", "talker"}, rows
    addresses = ",".join(p["ip"] for p in s.pod("server")["status"]["podIPs"])
    assert rows["server"] == {"NAMESPACE": s.name, "POD NAME": "server", "ADDRESS": addresses, "NODE": last, "WAYPOINT": "None",
                              "PROTOCOL": "HBONE"}, rows
    assert rows["out"]["PROTOCOL"] == "TCP", rows
    vip = lab.kubectl.get("-n", s.name, "service", "web")["spec"]["clusterIP"]
    rows = config(lab, "services", "--service-namespace", s.name)
    assert rows == [{"NAMESPACE": s.name, "SERVICE NAME": "web", "SERVICE VIP": vip, "WAYPOINT": "None", "ENDPOINTS": "1/1"}], rows
    rows = config(lab, "policies", "--policy-namespace", s.name)
    assert [(r["NAMESPACE"], r["POLICY NAME"], r["ACTION"], r["SCOPE"]) for r in rows] == [
        (s.name, "p", "Deny", "WorkloadSelector")], rows
    identity = "spiffe://cluster.local/ns/%s/sa/default" % s.name
    for node in (first, last):
        rows = [r for r in config(lab, "certificates", "--node", node) if r["CERTIFICATE NAME"] == identity]
        good = {("Leaf", "Available", "true"), ("Root", "Available", "true")}
        assert {(r["TYPE"], r["STATUS"], r["VALID CERT"]) for r in rows} == good, rows
    for node, workload, direction in ((first, "talker", "Outbound"), (last, "echo", "Inbound")):
        rows = config(lab, "connections", "--node", node, "--workload-namespace", s.name)
        rows = [r for r in rows if r["WORKLOAD"] == "%s.%s" % (workload, s.name)]
        assert [(r["DIRECTION"], r["PROTOCOL"]) for r in rows] == [(direction, "HBONE")], rows
        assert "echo.%s:%d" % (s.name, ECHO_PORT) in rows[0]["LOCAL" if direction == "Inbound" else "REMOTE TARGET"], rows
    everything = json.loads(istioctl(lab, "ztunnel-config", "all", "-o", "json").stdout)
    assert {"workloads", "services", "policies", "certificates"} <= set(everything), everything.keys()
    text = istioctl(lab, "ztunnel-config", "all", "--with-headers").stdout
    assert "server" in text and vip in text and identity in text, text
    # By a pod's name instead of its ztunnel's.
    rows = config(lab, "workloads", "server." + s.name)
    assert [r["POD NAME"] for r in rows] == ["server"], rows


@scenario
def istioctl_reads_and_sets_the_log_level(lab):
    text = istioctl(lab, "ztunnel-config", "log").stdout
    pods = [p["metadata"]["name"] for p in lab.kubectl.get("-n", SYSTEM, "pods", "-l", "app=ztunnel")["items"]]
    assert len(pods) == len(lab.nodes) and all(p in text for p in pods), text
    assert "current log level is" in text, text
    text = istioctl(lab, "ztunnel-config", "log", pods[0], "--level", "debug").stdout
    assert "debug" in text, text
    text = istioctl(lab, "ztunnel-config", "log", pods[0], "-r").stdout
    assert "info" in text and "debug" not in text, text


@scenario
def istioctl_sees_ztunnel_in_sync_with_istiod(lab):
    pods = {p["metadata"]["name"] + "." + SYSTEM for p in lab.kubectl.get("-n", SYSTEM, "pods", "-l", "app=ztunnel")["items"]}

    def connected():
        rows = table(istioctl(lab, "proxy-status").stdout, HEADS["status"])
        ours = [r for r in rows if r["NAME"] in pods]
        return len(ours) == len(pods) and all(r["SUBSCRIBED TYPES"].startswith("2 ") for r in ours) and rows
    rows = wait_until("istiod to know its ztunnels", connected, 90, every=0.5)
    for r in rows:
        if r["NAME"] in pods:
            assert r["ISTIOD"].startswith("istiod-") and r["VERSION"] and r["SUBSCRIBED TYPES"] == "2 (WADS,WDS)", r
    r = istioctl(lab, "version", check=False)
    assert r.returncode == 0 and "data plane version" in r.stdout, r.stdout + r.stderr


@scenario
def istioctl_finds_nothing_wrong(lab):
    s = lab.space("ambient")
    web = service("web", app="server")
    web["spec"]["ports"][0]["name"] = "http"
    s.run(pod("server"), web)
    s.wait_annotated("server")
    r = istioctl(lab, "analyze", "-n", s.name, check=False)
    assert r.returncode == 0 and "No validation issues found" in r.stdout + r.stderr, r.stdout + r.stderr


def bug_report(lab, *args):
    """(size of each file in the report, what istioctl said)"""
    r = istioctl(lab, "bug-report", "--dir", lab.out + "/bug-report", "--output-dir", lab.out, "--timeout", "5m", *args)
    with tarfile.open(lab.out + "/bug-report.tar.gz") as tar:
        return {m.name: m.size for m in tar if m.isfile()}, r.stdout + r.stderr


@scenario
def istioctl_bug_report_takes_our_logs_and_dumps_along(lab):
    s = lab.space("ambient")
    servers = ["server-" + node for node in lab.names()]
    s.run(pod("client"), *[pod(p, node=node) for p, node in zip(servers, lab.names())])
    s.wait_annotated("client", *servers)
    wanted = []
    for p in lab.kubectl.get("-n", SYSTEM, "pods")["items"]:
        name, labels = p["metadata"]["name"], p["metadata"]["labels"]
        if labels.get("app") == "ztunnel":
            wanted += ["proxies/%s/%s/%s" % (SYSTEM, name, f) for f in ("config_dump", "istio-proxy.log")]
        elif labels.get("k8s-app") == "istio-cni-node":
            wanted.append("cni/%s/cni.log" % name)
    # The kubelet puts a log of 10 MiB aside, as the scenarios before this one can make it, and shows what follows only:
    # nothing at first. It is not at that size again so soon.
    for _ in range(2):
        for p in servers:
            s.must_get("client", "http://%s:%d/" % (s.ip(p), PORT), n=3)
        sizes, said = bug_report(lab, "--include", SYSTEM, "--duration", "1h")
        empty = [path for path in wanted if not sizes.get(path)]
        if not empty:
            return
        print("# not in the report: %s" % empty)
    raise AssertionError("not in the report: %s; what is: %s\n%s" % (empty, sizes, said))
