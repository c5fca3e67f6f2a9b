#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_ctl_agent.py: what the agent tells ambientctl about rules and the node, and what ambientctl makes of it. Run as
root."""
import json
import select
import subprocess
import time
import urllib.parse

from agent_lab import BIN, Pod, UnixHTTP, V2, main, run, test, until


def ctl(w, *args, code=0):
    r = subprocess.run([BIN[0] + "/ambientctl", "--agent-socket", w.sock, "--ztunnel-socket", w.dir + "/no.sock", *args],
                       capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert r.returncode == code, (args, r.returncode, r.stdout, r.stderr)
    return r.stdout


def rules(w, key):
    status, text = w.request("GET", "/v1/rules?pod=" + urllib.parse.quote(key, safe=""))
    return status, json.loads(text)


def nft(p, *args):
    run("ip", "netns", "exec", p.netns, "nft", *args)


def states(doc):
    return {line["state"] for line in doc["lines"]}


def enrolled(w, name="app"):
    w.namespace(mode="ambient")
    p = Pod(w, name)
    w.put(name + ".yaml", p.manifest())
    w.start()
    w.add(p, w.ready_ztunnel(V2))
    return p


@test
def rules_of_one_pod(w):
    p = enrolled(w)
    out = Pod(w, "out")
    doc = out.manifest()
    doc["metadata"].setdefault("labels", {})["istio.io/dataplane-mode"] = "none"
    w.put("out.yaml", doc)
    until("known", lambda: w.status()["source"]["pods"] == 2)
    assert w.cni(out.event())[1]["outcome"] == "not-in-mesh"
    fds = w.count_fds()
    container = p.event()["containerID"]
    for key in ("default/app", p.uid, container, container[:8]):
        status, doc = rules(w, key)
        assert status == 200 and [x["uid"] for x in doc["pods"]] == [p.uid], (key, doc)
    pod = doc["pods"][0]
    assert pod["rules"] == "present" and pod["wanted"] and states(pod) == {"present"}, pod
    text = [line["text"] for line in pod["lines"]]
    assert any("redirect :15001" in t for t in text) and any("lookup 100" in t for t in text), text
    assert [(s["port"], s["listening"], s["waiting"]) for s in pod["sockets"]] == \
        [(port, True, 0) for port in (15001, 15006, 15008)], pod
    text = ctl(w, "rules", "default/app")
    assert "the rules are as they should be" in text and "15001  outbound, listening, 0 of" in text, text
    # one rule gone, one foreign, the policy rule gone: each is named
    handle = next(line.split("handle ")[1] for line in run(
        "ip", "netns", "exec", p.netns, "nft", "-a", "list", "chain", "inet", "istio-ambient-nat", "istio-output").splitlines()
        if "redirect to :15001" in line)
    nft(p, "delete", "rule", "inet", "istio-ambient-nat", "istio-output", "handle", handle)
    nft(p, "add", "rule", "inet", "istio-ambient-mangle", "istio-output", "drop")
    run("ip", "netns", "exec", p.netns, "ip", "rule", "del", "priority", "32764")
    pod = rules(w, p.uid)[1]["pods"][0]
    assert pod["rules"] == "different" and states(pod) == {"present", "missing", "unexpected"}, pod
    gone = [line["text"] for line in pod["lines"] if line["state"] == "missing"]
    assert len(gone) == 2 and "istio-output rule" in gone[0] and "redirect :15001" in gone[0], gone
    assert "ip rule (IPv4)" in gone[1], gone
    text = ctl(w, "rules", p.uid, code=1)
    assert "3 lines are not as wanted" in text, text
    assert json.loads(ctl(w, "rules", "-o", "json", p.uid, code=1))["pods"][0]["lines"] == pod["lines"]
    # a whole table: each of its rules
    nft(p, "delete", "table", "inet", "istio-ambient-nat")
    pod = rules(w, p.uid)[1]["pods"][0]
    gone = [line["text"] for line in pod["lines"] if line["state"] == "missing"]
    assert sum("istio-ambient-nat istio-output rule" in t for t in gone) > 3, gone
    # a pod outside has nothing, and what is there is unexpected; looking costs no descriptor
    pod = rules(w, "default/out")[1]["pods"][0]
    assert pod["rules"] == "absent" and not pod["wanted"] and pod["lines"] == [] and pod["sockets"] == [], pod
    nft(out, "add", "table", "inet", "istio-ambient-nat")
    assert states(rules(w, "default/out")[1]["pods"][0]) == {"unexpected"}
    until("no descriptor is left over", lambda: w.count_fds() == fds)
    assert "no rules, as it should be" not in ctl(w, "rules", "default/out", code=1)
    nft(out, "delete", "table", "inet", "istio-ambient-nat")
    assert "no rules, as it should be" in ctl(w, "rules", "default/out")
    ctl(w, "rules", "default/nobody", code=3)
    # no such pod, no key, a wrong method
    for key in ("default/nobody", "app", container[:7], "/", "x" * 300):
        assert rules(w, key)[0] == 404, key
    assert rules(w, "")[0] == 400 and w.request("GET", "/v1/rules")[0] == 400
    assert w.request("POST", "/v1/rules?pod=x", b"")[0] == 405


@test
def status_does_not_hold_up_the_loop(w):
    """Many pods are read back a few per turn: other requests are answered in between."""
    w.namespace(mode="ambient")
    pods = [Pod(w, "p%d" % i) for i in range(30)]
    for p in pods:
        w.put(p.name + ".yaml", p.manifest())
    w.start()
    z = w.ready_ztunnel(V2)
    for p in pods:
        assert w.add(p, z)[0][0] == 200
    nft(pods[17], "delete", "table", "inet", "istio-ambient-nat")
    st = w.status()["pods"]
    assert {x["name"]: x["rules"] for x in st} == {p.name: "different" if p is pods[17] else "present" for p in pods}, st
    assert [x["ruleDiff"] for x in st if x["name"] == "p17"] == ["missing: table istio-ambient-nat\n"], st
    # strace would disturb the times; the order of answers shows it: the later, small request overtakes
    for _ in range(50):
        slow, quick = UnixHTTP(w.sock), UnixHTTP(w.sock)
        slow.request("GET", "/v1/status")
        quick.request("GET", "/v1/status?rules=no")
        quick_text = quick.getresponse().read()
        quick_at = time.monotonic()
        assert b'"rules"' not in quick_text and b'"p29"' in quick_text
        early = not has_input(slow)
        assert len(json.loads(slow.getresponse().read())["pods"]) == 30
        took = time.monotonic() - quick_at
        slow.close()
        quick.close()
        if early:
            print("# the whole status came %.1f ms after the quick one" % (took * 1000))
            break
    else:
        raise AssertionError("the quick request never overtook the slow one")
    # clients that go away while it looks, and pods that do
    for _ in range(20):
        c = UnixHTTP(w.sock)
        c.request("GET", "/v1/status")
        c.close()
    c = UnixHTTP(w.sock)
    c.request("GET", "/v1/status")
    for p in pods[:10]:
        w.cni(p.event("DEL"))
    assert len(json.loads(c.getresponse().read())["pods"]) >= 20
    c.close()
    assert len(w.status()["pods"]) == 20


def has_input(conn):
    return bool(select.select([conn.sock], [], [], 0)[0])


@test
def node(w):
    w.namespace(mode="ambient")
    w.start()
    status, text = w.request("GET", "/v1/node")
    doc = json.loads(text)
    assert status == 200 and doc["pid"] == w.pid(), doc
    assert 5 < doc["descriptors"]["open"] < doc["descriptors"]["limit"], doc
    assert doc["probes"] == {"enabled": False, "active": False}, doc
    assert w.status()["pid"] == w.pid()
    rows = {c["what"]: c for c in json.loads(ctl(w, "check", "-o", "json", "--cni-conf-dir", w.dir, code=1))["checks"]}
    assert rows["agent"]["result"] == "failed" and "no ztunnel" in rows["agent"]["observed"], rows  # no ztunnel is there
    assert rows["descriptors of the agent"]["result"] == "ok", rows
    assert rows["probe exemption"]["result"] == "warning" and "--host-probes" in rows["probe exemption"]["fix"], rows


if __name__ == "__main__":
    main()
