#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_cni: the plugin as a runtime sees it: environment and standard input in, JSON and an exit status out, with
scripted node agents that answer, err, hang, die in the middle and lie."""
import base64
import ipaddress
import itertools
import json
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

from cni_lab import (ENROLLED, NOT_IN_MESH, OK, Agent, Lab, Result, Skip, Tap, arguments, contains, equal, http, ours,
                     wait_for)

VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
tap = Tap()
lab = None  # set by main
test = tap.add


# ---- the binary

@test("binary: position independent, read-only relocations, needs no library")
def binary_audit():
    with open(lab.plugin, "rb") as f:
        elf = f.read()
    equal(elf[:4], b"\x7fELF", "magic")
    equal(struct.unpack_from("<H", elf, 16)[0], 3, "type (ET_DYN)")
    if lab.sanitized:
        return  # a sanitizer brings its libraries; the rest is for the release build
    phoff, phsize, phnum = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", elf, phoff + i * phsize) for i in range(phnum)]
    types = [h[0] for h in headers]
    equal(3 in types, False, "PT_INTERP: asks for a dynamic loader")
    equal(0x6474E552 in types, True, "PT_GNU_RELRO")
    dynamic = next(h for h in headers if h[0] == 2)
    tags = {}
    for at in range(dynamic[2], dynamic[2] + dynamic[5], 16):
        tag, value = struct.unpack_from("<QQ", elf, at)
        tags.setdefault(tag, []).append(value)
    equal(1 in tags, False, "DT_NEEDED")
    equal(tags[0x6FFFFFFB][0] & 0x08000001, 0x08000001, "DT_FLAGS_1 has NOW and PIE")


def traced(verb, conf, **env):
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    log = os.path.join(lab.dir, "strace")
    script = os.path.join(lab.dir, "traced.sh")
    with open(script, "w") as f:
        f.write(f'#!/bin/sh\nexec strace -o {log} {lab.plugin}\n')
    os.chmod(script, 0o755)
    lab.call(verb, conf, plugin=script, **env).ok()
    with open(log) as f:
        return [line.split("(")[0] for line in f if "(" in line and not line.startswith(("+", "-"))]


@test("system calls: a pod that passes through costs at most 26 and opens nothing")
def syscalls_pass_through():
    if lab.sanitized:
        return  # its own calls would be counted
    calls = traced("ADD", lab.conf(), CNI_ARGS=None)
    equal([c for c in calls if c.startswith(("open", "socket", "connect", "clone", "fork", "mmap"))], [], "calls")
    equal(calls.count("write"), 1, "writes")
    if len(calls) > 26:
        raise AssertionError(f"{len(calls)} system calls: {calls}")


@test("system calls: a pod of the mesh costs at most 36, one connection, one request")
def syscalls_mesh():
    if lab.sanitized:
        return
    with Agent(lab.socket()):
        calls = traced("ADD", lab.conf())
    equal([calls.count(c) for c in ("socket", "connect", "sendto", "write")], [1, 1, 1, 1], "calls")
    equal([c for c in calls if c.startswith("open")], [], "files opened")
    if len(calls) > 36:
        raise AssertionError(f"{len(calls)} system calls: {calls}")


# ---- by hand

@test("about: no CNI_COMMAND gives a text on standard error and status 0")
def about():
    r = lab.call("", "").ok(b"")
    contains(r.err, "ambient-cni")
    for version in VERSIONS:
        contains(r.err, version)


@test("options: --help and --version on standard output, anything else is status 2")
def options():
    def run(*args):
        return subprocess.run([lab.plugin, *args], env=lab.env(None), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=20)
    contains(run("--help").stdout, "Usage: ambient-cni")
    contains(run("--version").stdout, "ambient-cni ")
    for args in (["--nonsense"], ["--help", "more"], ["ADD"]):
        r = run(*args)
        equal((r.returncode, r.stdout), (2, ""), str(args))
        contains(r.stderr, "Usage")


@test("VERSION: the request's version, all that are supported, whatever else is on standard input")
def version():
    for text, want in (('{"cniVersion":"0.4.0"}', "0.4.0"), ('{"cniVersion":"9.9.9"}', "1.1.0"), ("", "1.1.0"),
                       ("{", "1.1.0"), ("[1]", "1.1.0"), ('{"cniVersion":4}', "1.1.0")):
        r = lab.call("VERSION", text, CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None, CNI_PATH=None)
        equal(r.result(), {"cniVersion": want, "supportedVersions": VERSIONS}, text)


@test("VERSION: does not wait for a standard input that never ends")
def version_open_stdin():
    process = lab.start("VERSION")
    equal(process.wait(timeout=20), 0, "exit status")
    equal(json.loads(process.stdout.read())["cniVersion"], "1.1.0", "version")
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


# ---- environment

@test("environment: an unknown verb")
def unknown_verb():
    lab.call("UPDATE").failed(4, 'CNI_COMMAND "UPDATE"')
    lab.call("add").failed(4, 'CNI_COMMAND "add"')


@test("environment: every missing variable is named, with the request's version")
def missing_variables():
    gone = dict(CNI_CONTAINERID=None, CNI_NETNS="", CNI_IFNAME=None, CNI_PATH=None)
    lab.call("ADD", lab.conf(cniVersion="0.4.0"), **gone).failed(
        4, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH", version="0.4.0")
    for verb in ("ADD", "CHECK"):
        for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"):
            lab.call(verb, **{name: None}).failed(4, f"missing: {name}")
    for verb in ("GC", "STATUS"):
        lab.call(verb, CNI_PATH=None).failed(4, "missing: CNI_PATH")


@test("environment: bad container id, interface name, namespace path, arguments")
def bad_variables():
    for change, part in (({"CNI_CONTAINERID": "../x"}, "CNI_CONTAINERID"), ({"CNI_IFNAME": "a" * 16}, "CNI_IFNAME"),
                         ({"CNI_IFNAME": "a b"}, "CNI_IFNAME"), ({"CNI_IFNAME": ".."}, "CNI_IFNAME"),
                         ({"CNI_NETNS": "relative"}, "CNI_NETNS"), ({"CNI_ARGS": "A"}, "CNI_ARGS"),
                         ({"CNI_ARGS": "K8S_POD_NAME=a;FOO=bar"}, 'unknown argument "FOO=bar"'),
                         ({"CNI_ARGS": "IgnoreUnknown=maybe"}, "IgnoreUnknown")):
        lab.call("ADD", **change).failed(4, part)


@test("namespace: the plugin's own is refused with code 8, unless it is overridden")
def own_netns():
    with Agent(lab.socket()) as agent:
        for path in ("/proc/self/ns/net", f"/proc/{os.getpid()}/ns/net"):
            lab.call("ADD", CNI_NETNS=path).failed(8, path)
        equal(agent.connections, 0, "connections")
        for value in ("1", "true", "TRUE"):
            lab.call("ADD", CNI_NETNS="/proc/self/ns/net", CNI_NETNS_OVERRIDE=value).ok()
        lab.call("ADD", CNI_NETNS="/proc/self/ns/net", CNI_NETNS_OVERRIDE="0").failed(8)
        lab.call("ADD", CNI_NETNS="/does/not/exist").ok()  # the agent's to judge


# ---- network configuration

@test("configuration: not JSON, cut, empty, two documents")
def not_json():
    for text in ("", " ", "{", '{"a"', "hello", "{}{}", '{"cniVersion":"1.1.0","name":"a",}', "\x00", "\ufeff{}"):
        r = lab.call("ADD", text)
        r.failed(6, "network configuration")
    lab.call("ADD", b'{"cniVersion":"1.1.0","name":"\xff"}').failed(6, "UTF-8")


@test("configuration: versions that are not spoken are refused with the list of those that are")
def bad_version():
    for v in (None, "0.1.0", "0.2.0", "1.2.0", "1.1", "", "v1.0.0"):
        lab.call("ADD", lab.conf(cniVersion=v)).failed(1, *VERSIONS)
    lab.call("ADD", lab.conf(cniVersion=1)).failed(7, "cniVersion", "expected text")


@test("configuration: missing and bad names have code 7")
def bad_name():
    for name in (None, "", "a/b", "-a", "a b", "é"):
        lab.call("ADD", lab.conf(name=name, cniVersion="1.0.0")).failed(7, "name", version="1.0.0")


@test("configuration: every key of ours is checked for its type and named")
def bad_types():
    wrong = {"cni_agent_run_dir": [1, "", "rel"], "agent_socket": [1, "rel", "/" + "x" * 107],
             "timeout": ["soon", 0, -1, 1.5, True, "121s", "99ms", [], {}], "agent_api": ["stock", 1],
             "plugin_log_level": [1], "ambient_enabled": ["true", 1], "enablement_selectors": [{}, "a"],
             "exclude_namespaces": ["a", {}, [1], [["a"]]], "pod_namespace": [1, []], "native_nftables": ["no"],
             "enable_ambient_detection_retry": [1], "prevResult": [[], "a", 1], "type": [1],
             "cni.dev/valid-attachments": [{}, [1], [{}], [{"containerID": "a", "ifname": 1}]]}
    for key, values in wrong.items():
        for value in values:
            lab.call("ADD", lab.conf(**{key: value}), CNI_ARGS=None).failed(7, key)


@test("configuration: keys of others are ignored")
def unknown_keys():
    conf = lab.conf(runtimeConfig={"portMappings": [1]}, capabilities={"x": True}, args={"cni": 1}, ipam={}, dns={},
                    whatever=[None], logLevel=3)
    lab.call("ADD", conf, CNI_ARGS=None).ok()


@test("configuration: bombs: depth, size, duplicate keys, very many values")
def bombs():
    head = '{"cniVersion":"1.1.0","name":"a","x":'
    for text in (head + "[" * 500000, head + '{"a":' * 100000, head + "[" * 40 + "]" * 40 + "}"):
        lab.call("ADD", text, CNI_ARGS=None).failed(6, "nested too deeply")
    lab.call("ADD", head + '1,"x":2}', CNI_ARGS=None).failed(6, "x appears twice")
    lab.call("ADD", head + '{"a":[{"b":1,"\\u0062":2}]}}', CNI_ARGS=None).failed(6, "appears twice")
    limit = 1 << 20
    full = head + '"' + "y" * (limit - len(head) - 3) + '"}'
    equal(len(full), limit, "size")
    lab.call("ADD", full, CNI_ARGS=None).ok()
    lab.call("ADD", full + " ", CNI_ARGS=None).failed(7, "1048576")
    lab.call("ADD", "x" * (16 * limit), CNI_ARGS=None).failed(7, "1048576")
    many = head + "{" + ",".join(f'"k{i}":0' for i in range(60000)) + "}}"
    lab.call("ADD", many, CNI_ARGS=None).ok()


@test("configuration: standard input without end is left at the limit")
def endless():
    with open("/dev/zero", "rb") as zeros:
        r = subprocess.run([lab.plugin], env=lab.env("ADD"), stdin=zeros, capture_output=True, timeout=60)
    Result(r.returncode, r.stdout, r.stderr, 0).failed(7, "standard input", "more than 1048576 bytes")


# ---- prevResult

def exact(text):
    """JSON with numbers as they are written, so that 1.50 is not 1.5."""
    return json.loads(text, parse_float=lambda s: ("number", s), parse_int=lambda s: ("number", s))


def random_value(rng, depth):
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice(["", "a", 'q"uote', "back\\slash", "\u00e9\u4e2d\U0001f600", "\n\t\x7f", "</x>"])
    if kind == 1:
        return rng.choice([0, -1, 10 ** 30, -(2 ** 63)])
    if kind == 2:
        return rng.choice([0.5, -1.25e-7, 1e300])
    if kind < 6:
        return [True, False, None][kind - 3]
    if kind == 6:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {f"k{i}{random.Random(i).choice(['', ' ', chr(233)])}": random_value(rng, depth - 1)
            for i in range(rng.randrange(4))}


def random_result(rng, version):
    result = {"cniVersion": version}
    ips = []
    for _ in range(rng.randrange(4)):
        ip = {"address": rng.choice(["10.1.2.3/24", "192.168.0.1/32", "fd00::1:2/64", "2001:db8::5/128"])}
        if version < "1":
            ip["version"] = "6" if ":" in ip["address"] else "4"
        if rng.random() < 0.5:
            ip["gateway"] = "fd00::1" if ":" in ip["address"] else "10.1.2.1"
        if rng.random() < 0.5:
            ip["interface"] = rng.randrange(4)
        if rng.random() < 0.3:
            ip["vendor"] = random_value(rng, 2)
        ips.append(ip)
    parts = {"interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n", "mtu": 1500}],
             "ips": ips, "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1", "priority": 5}], "dns": {"search": ["a"]},
             "x-vendor": random_value(rng, 3), "sp ace": random_value(rng, 3)}
    names = [n for n in parts if rng.random() < 0.7]
    rng.shuffle(names)
    result.update((n, parts[n]) for n in names)
    return result


@test("prevResult: in the same version it comes out as it came in (300 documents)")
def prev_result_same():
    rng = random.Random(20240501)
    for i in range(300):
        version = VERSIONS[i % len(VERSIONS)]
        text = json.dumps(random_result(rng, version), ensure_ascii=rng.random() < 0.5,
                          indent=rng.choice([None, 4, "\t"]))
        conf = json.dumps(lab.conf(cniVersion=version))[:-1] + ', "prevResult": ' + text + "}"
        r = lab.call("ADD", conf, CNI_ARGS=None).ok()
        equal(exact(r.out), exact(text), "prevResult")


def converted(result, version):
    """The rule of the specification in Python: ips[].version exists below 1.0.0 only."""
    out = dict(result, cniVersion=version)
    if "ips" in out and (result["cniVersion"] < "1") != (version < "1"):
        ips = []
        for ip in out["ips"]:
            ip = {k: v for k, v in ip.items() if k != "version"}
            if version < "1":
                family = ipaddress.ip_interface(ip["address"]).version
                ip["version"] = str(family)
            ips.append(ip)
        out["ips"] = ips
    return out


@test("prevResult: between versions only what the specification changed is changed (150 documents)")
def prev_result_converted():
    rng = random.Random(7)
    for i, (have, want) in enumerate(itertools.islice(itertools.cycle(itertools.product(VERSIONS, VERSIONS)), 150)):
        prev = random_result(rng, have)
        if i % 10 == 9:  # no version of its own: taken as the request's
            prev["cniVersion"] = want
            bare = {k: v for k, v in prev.items() if k != "cniVersion"}
            got = lab.call("ADD", lab.conf(cniVersion=want, prevResult=bare), CNI_ARGS=None).result()
            equal(got, prev, "version added")
            continue
        got = lab.call("ADD", lab.conf(cniVersion=want, prevResult=prev), CNI_ARGS=None).ok()
        equal(exact(got.out), exact(json.dumps(converted(prev, want))), f"{have} to {want}")


@test("prevResult: none, or null, gives an empty result of the version")
def prev_result_none():
    for version in VERSIONS:
        for conf in (lab.conf(cniVersion=version), json.dumps(lab.conf(cniVersion=version))[:-1] + ',"prevResult":null}'):
            equal(lab.call("ADD", conf, CNI_ARGS=None).result(), {"cniVersion": version, "dns": {}}, version)


@test("prevResult: a version that cannot be converted, and wrong types, name the field")
def prev_result_bad():
    lab.call("ADD", lab.conf(prevResult={"cniVersion": "0.2.0", "ip4": {}}), CNI_ARGS=None).failed(
        1, "prevResult.cniVersion", '"0.2.0"')
    for bad, field in (({"ips": {}}, "prevResult.ips"), ({"ips": [1]}, "prevResult.ips[0]"),
                       ({"ips": [{"address": "10.0.0.1"}]}, "prevResult.ips[0].address"),
                       ({"ips": [{"address": "10.0.0.1/24"}, {"address": "10.0.0.1/40"}]}, "prevResult.ips[1].address"),
                       ({"ips": [{"address": "10.0.0.1/24", "interface": -1}]}, "prevResult.ips[0].interface"),
                       ({"ips": [{"address": "10.0.0.1/24", "gateway": "x"}]}, "prevResult.ips[0].gateway"),
                       ({"interfaces": {}}, "prevResult.interfaces"), ({"cniVersion": 1}, "prevResult.cniVersion")):
        lab.call("ADD", lab.conf(prevResult=bad), CNI_ARGS=None).failed(7, field)


# ---- our agent

PREV = {"cniVersion": "1.1.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/n"}],
        "ips": [{"address": "10.1.2.3/24", "interface": 1, "gateway": "10.1.2.1"}, {"address": "fd00::2/64"}]}


@test("ADD: the request, byte for byte in meaning, and the result handed on")
def add_request():
    with Agent(lab.socket()) as agent:
        r = lab.call("ADD", lab.conf(prevResult=PREV))
        equal(r.result(), PREV, "result")
        equal(r.err, "", "standard error")
        request = agent.only()
    equal((request.method, request.path, request.protocol), ("POST", "/v1/cni", "HTTP/1.1"), "request line")
    equal(request.headers["content-type"], "application/json", "content-type")
    body = request.json()
    deadline = body.pop("deadlineMs")
    equal(5000 < deadline <= 9000, True, f"deadlineMs {deadline}")
    equal(body, {"command": "ADD", "containerID": "c-1", "netns": lab.netns, "ifname": "eth0", "podName": "web-1",
                 "podNamespace": "shop", "podUID": "uid-1", "ips": ["10.1.2.3/24", "fd00::2/64"]}, "body")


@test("ADD: not in the mesh is success, and debug says so on standard error only")
def add_not_in_mesh():
    with Agent(lab.socket(), NOT_IN_MESH):
        equal(lab.call("ADD", lab.conf(prevResult=PREV)).result(), PREV, "result")
        r = lab.call("ADD", lab.conf(prevResult=PREV, plugin_log_level="debug"))
        equal(r.result(), PREV, "result")
        equal(r.err, "ambient-cni: ADD shop/web-1: not in the mesh: no label\n", "standard error")


@test("ADD: the agent's own errors reach the runtime unchanged")
def add_agent_error():
    for status, code, msg, details in ((409, 11, "pod shop/web-1 is not known yet", "wait"), (503, 50, "no ztunnel", ""),
                                       (400, 7, "field ips[0] is wrong", "x"), (500, 999, "step 3 failed: \u00e9\n", "y")):
        with Agent(lab.socket(), ours(status, code=code, msg=msg, details=details)):
            error = lab.call("ADD").failed(code)
        want = {"cniVersion": "1.1.0", "code": code, "msg": msg, "details": details}
        equal(error, {k: v for k, v in want.items() if v != ""}, "error")


@test("ADD: an answer that is not understood is an error, never success")
def add_not_understood():
    for answer in (OK, ours(outcome="ENROLLED"), ours(outcome=True), ours(), http(200, ""), http(200, "fine"),
                   http(200, "[]"), http(200, '{"outcome":"enrolled"'), http(200, '{"outcome":"a","outcome":"enrolled"}'),
                   ours(201, outcome="enrolled"), ours(302, outcome="enrolled"), ours(500, outcome="enrolled"),
                   ours(500, code=0, msg="x"), ours(500, code=11), ours(500, code="11", msg="x"),
                   http(404, "404 page not found\n"), http(200, '{"outcome":"enrolled","reason":"\xff"}'.encode("latin1"))):
        with Agent(lab.socket(), answer):
            lab.call("ADD").failed(999, "not understood", "systemctl status ambient-agent", lab.socket())


LITTLE = "2s"  # half of it is spent on asking again


def wait_for_sleep(pid):
    """The process has nothing to read and nobody to ask: when it sleeps, it pauses."""
    def pauses():
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "S"
    wait_for(pauses, "the plugin pauses")
    return True


@test("ADD: answers in chunks, until the end of the connection, and one byte at a time")
def add_framings():
    body = b'{"outcome":"enrolled","reason":"ok"}'
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:5], body[5:])) + b"0\r\n\r\n"

    def slowly(connection, _):
        for byte in ENROLLED:
            connection.sendall(bytes([byte]))

    for answer in (chunked, b"HTTP/1.0 200 OK\r\n\r\n" + body, slowly):
        with Agent(lab.socket(), answer):
            lab.call("ADD").ok()


@test("ADD: does not wait for a connection that stays open after a whole answer")
def add_keep_alive():
    def stays(connection, _):
        connection.sendall(ENROLLED)
        agent.stop.wait(30)

    with Agent(lab.socket(), stays) as agent:
        r = lab.call("ADD", lab.conf(timeout="20s")).ok()
        equal(r.seconds < 15, True, f"{r.seconds:.1f} s")


@test("ADD: 40 at once")
def add_parallel():
    with Agent(lab.socket()) as agent:
        text = json.dumps(lab.conf(prevResult=PREV)).encode()
        processes = [lab.start("ADD", CNI_CONTAINERID=f"c{i}") for i in range(40)]
        for process in processes:
            out, _ = process.communicate(text, timeout=60)
            equal((process.returncode, json.loads(out)), (0, PREV), "result")
        equal(sorted(r.json()["containerID"] for r in agent.requests), sorted(f"c{i}" for i in range(40)), "requests")


# ---- pods that are none of our business

@test("pass through: no Kubernetes pod, excluded namespace, the agent's own pod, ambient switched off")
def pass_through():
    own = "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=istio-cni-node-x7"
    for api in ("ambient", "istio"):
        with Agent(lab.socket(), http(500, "no")) as agent:
            for conf, args in (({}, None), ({}, "K8S_POD_NAME=a"), ({}, "K8S_POD_NAMESPACE=a"),
                               ({"exclude_namespaces": ["x", "shop"]}, "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a"),
                               ({"pod_namespace": "istio-system"}, own), ({"ambient_enabled": False}, own)):
                for verb in ("ADD", "CHECK"):
                    r = lab.call(verb, lab.conf(prevResult=PREV, agent_api=api, **conf), CNI_ARGS=args).ok()
                    equal(json.loads(r.out) if verb == "ADD" else r.out, PREV if verb == "ADD" else b"", "output")
            equal(agent.connections, 0, "connections")
            for conf, args in (({"pod_namespace": "other"}, own), ({}, own), ({"exclude_namespaces": ["istio-systemx"]}, own)):
                equal(lab.call("ADD", lab.conf(agent_api=api, **conf), CNI_ARGS=args).rc, 1, "asked")
            equal(agent.connections, 3, "connections")


@test("pass through: works with the agent gone")
def pass_through_without_agent():
    lab.call("ADD", lab.conf(exclude_namespaces=["shop"])).ok()
    lab.call("ADD", lab.conf(cni_agent_run_dir="/nowhere"), CNI_ARGS=None).ok()


# ---- an agent that is not there, or not well

@test("agent gone: no socket, no directory, nobody listening")
def agent_gone():
    lab.call("ADD", lab.conf(timeout=LITTLE)).failed(11, lab.socket(), "No such file", "systemctl status ambient-agent", "cni_agent_run_dir")
    lab.call("ADD", lab.conf(cni_agent_run_dir="/nowhere/at/all", timeout=LITTLE)).failed(11, "/nowhere/at/all/pluginevent.sock")
    lab.call("ADD", lab.conf(agent_api="istio")).failed(11, "istio-cni-node")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(lab.socket())
    try:
        lab.call("ADD", lab.conf(timeout=LITTLE)).failed(11, "Connection refused", "not running")
        lab.call("ADD", lab.conf(agent_socket=lab.socket(), cni_agent_run_dir=None, timeout=LITTLE)).failed(11, "Connection refused")
    finally:
        os.unlink(lab.socket())


@test("agent gone: half of the time limit is spent on waiting for it, by ADD only")
def agent_gone_for_how_long():
    r = lab.call("ADD", lab.conf(timeout="3s"))
    r.failed(11, "No such file")
    equal(1.2 <= r.seconds < 10, True, f"took {r.seconds:.2f} s")
    for verb in ("CHECK", "GC", "STATUS", "DEL"):
        r = lab.call(verb, lab.conf(timeout="120s"))
        equal(r.seconds < 30, True, f"{verb} took {r.seconds:.2f} s")


@test("agent replaced: ADD waits for the new one")
def agent_replaced():
    process = lab.start("ADD")
    process.stdin.write(json.dumps(lab.conf(prevResult=PREV, timeout="60s")).encode())
    process.stdin.close()
    waited = wait_for_sleep(process.pid)
    with Agent(lab.socket()) as agent:
        equal((process.stdout.read() != b"", process.wait(timeout=60)), (True, 0), "result")
        equal((waited, agent.connections), (True, 1), "it waited, and asked once")
    process.stdout.close()


@test("agent replaced: not ready yet, or gone in the middle, is asked again; other errors are not")
def agent_not_ready_yet():
    late = [ours(503, code=50, msg="the agent has not read its pods yet"), b"", ENROLLED]

    def answer(connection, _):
        connection.sendall(late.pop(0))

    with Agent(lab.socket(), answer) as agent:
        lab.call("ADD", lab.conf(timeout="60s")).ok()
        equal(agent.connections, 3, "connections")
    with Agent(lab.socket(), ours(503, code=50, msg="no ztunnel is connected")) as agent:
        lab.call("ADD", lab.conf(timeout="2s")).failed(50, "no ztunnel is connected")
        equal(2 <= agent.connections <= 11, True, f"{agent.connections} connections")
    with Agent(lab.socket(), ours(409, code=11, msg="unknown pod")) as agent:
        lab.call("ADD", lab.conf(timeout="60s")).failed(11, "unknown pod")
        equal(agent.connections, 1, "connections")


@test("agent hangs: at accept, before, in and after the head; the limit is named and kept")
def agent_hangs():
    def silent(connection, _):
        agent.stop.wait(30)

    def half(connection, _):
        connection.sendall(ENROLLED[:20])
        agent.stop.wait(30)

    def drip(connection, _):
        for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200):
            if agent.stop.wait(0.02):
                return
            connection.sendall(bytes([byte]))

    for behave, part in ((silent, "did not answer in time"), (half, "did not finish its answer"), (drip, "its answer")):
        with Agent(lab.socket(), behave) as agent:
            r = lab.call("ADD", lab.conf(timeout="2s"))
            r.failed(11, part, "limit 2000 ms", "key timeout", "ambient-agent")
            equal(2 <= r.seconds < 20, True, f"took {r.seconds:.2f} s")


@test("agent hangs: a full queue of connections is waited for no longer than the limit")
def agent_full_queue():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(lab.socket())
        listener.listen(0)
        waiting = []
        try:
            while True:  # fill the queue
                s = socket.socket(socket.AF_UNIX)
                waiting.append(s)
                s.setblocking(False)
                s.connect(lab.socket())
        except BlockingIOError:
            pass
        try:
            r = lab.call("ADD", lab.conf(timeout="2s"))
            r.failed(11, "does not accept connections", "limit 2000 ms")
            equal(2 <= r.seconds < 20, True, f"took {r.seconds:.2f} s")
        finally:
            for s in waiting:
                s.close()
            os.unlink(lab.socket())


@test("agent closes: without an answer, in the first line, head and body")
def agent_closes():
    for answer, part in ((b"", "closed without an answer"), (b"HTTP/1", "first line"),
                         (b"HTTP/1.1 200 OK\r\nContent-Le", "answer's head"), (ENROLLED[:-1], "answer's body"),
                         (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"ou", "answer's body")):
        with Agent(lab.socket(), answer):
            lab.call("ADD", lab.conf(timeout=LITTLE)).failed(11, part, "stopped while")


@test("agent answers without reading the request, and closes")
def agent_does_not_read():
    refusal = ours(403, code=999, msg="uid 7 is not answered", details="")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(lab.socket())
        listener.listen(4)
        for answer, code, part in ((refusal, 999, "uid 7 is not answered"), (b"", 11, "closed without an answer")):
            process = lab.start("ADD")
            process.stdin.write(json.dumps(lab.conf(timeout=LITTLE)).encode())
            process.stdin.close()
            while process.poll() is None:
                if select.select([listener], [], [], 0.02)[0]:
                    connection, _ = listener.accept()
                    connection.recv(1, socket.MSG_PEEK)  # the request is there, and stays unread
                    connection.sendall(answer)
                    connection.close()
            Result(process.wait(20), process.stdout.read(), process.stderr.read(), 0).failed(code, part)
            process.stdout.close()
            process.stderr.close()
    os.unlink(lab.socket())


@test("agent sends garbage: other protocols, bad framing")
def agent_garbage():
    for answer in (b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x01\x02\x03", b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n",
                   b"HTTP/1.1 200 OK\r\nnocolon\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                   b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                   b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                   b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"):
        with Agent(lab.socket(), answer):
            lab.call("ADD").failed(999, "agent_api")


@test("agent sends too much: a head, a body, a length, chunks without end")
def agent_huge():
    def endless(head, piece):
        def behave(connection, _):
            connection.sendall(head)
            for _ in range(100000):
                connection.sendall(piece)
        return behave

    for behave in (endless(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 100), endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
                   endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"a\r\n0123456789\r\n"),
                   endless(b"HTTP/1.1 200 ", b"O" * 1000),
                   b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"):
        with Agent(lab.socket(), behave):
            lab.call("ADD").failed(999, "64 KiB" if isinstance(behave, bytes) else "65536")


def as_nobody():
    """The plugin where another user may run it, and that user."""
    if os.geteuid() != 0:
        raise Skip("needs root to become another user")
    os.chmod(lab.dir, 0o755)
    path = os.path.join(lab.dir, "plugin-for-nobody")
    shutil.copy(lab.plugin, path)
    os.chmod(path, 0o755)
    return path


@test("permission: a plugin that does not run as root is told so")
def permission():
    plugin = as_nobody()
    with Agent(lab.socket()) as agent:
        lab.call("ADD", plugin=plugin, user=65534).failed(5, "Permission denied", "as root")
        equal(agent.connections, 0, "connections")


@test("impostor: an agent that is not root is not believed")
def impostor():
    if os.geteuid() != 0:
        raise Skip("needs root to become another user")
    folder = os.path.join(lab.dir, "open")
    os.mkdir(folder)
    os.chmod(folder, 0o777)
    os.chmod(lab.dir, 0o755)
    path = os.path.join(folder, "s.sock")
    code = ("import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen(1)\nprint('up',flush=True)\n"
            "c,_=s.accept()\nc.sendall(sys.argv[2].encode())\nc.recv(1)\n")
    with subprocess.Popen(["/usr/bin/python3", "-c", code, path, ENROLLED.decode()], user=65534, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as fake:
        try:
            equal(fake.stdout.readline(), b"up\n", "the impostor is ready")
            lab.call("ADD", lab.conf(agent_socket=path)).failed(999, "uid 65534", "runs as root")
        finally:
            fake.kill()


# ---- other verbs

@test("CHECK: asks the agent, answers with nothing, needs prevResult and 0.4.0")
def check():
    with Agent(lab.socket(), OK) as agent:
        lab.call("CHECK", lab.conf(prevResult=PREV)).ok(b"")
        equal(agent.only().json()["command"], "CHECK", "command")
        lab.call("CHECK").failed(7, "prevResult is missing")
        for version in ("0.3.0", "0.3.1"):
            lab.call("CHECK", lab.conf(cniVersion=version, prevResult={})).failed(1, "does not allow CHECK", version=version)
    with Agent(lab.socket(), ours(500, code=999, msg="rule output/2 is missing", details="d")):
        lab.call("CHECK", lab.conf(prevResult=PREV)).failed(999, "rule output/2 is missing")
    lab.call("CHECK", lab.conf(prevResult=PREV)).failed(11, "not running")


@test("STATUS: the agent's word, and code 50 whenever it cannot be had; needs 1.1.0")
def status():
    none = dict(CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None, CNI_ARGS=None)
    with Agent(lab.socket(), OK) as agent:
        lab.call("STATUS", **none).ok(b"")
        body = agent.only().json()
        body.pop("deadlineMs")
        equal(body, {"command": "STATUS"}, "body")
        lab.call("STATUS", lab.conf(cniVersion="1.0.0"), **none).failed(1, "does not allow STATUS", version="1.0.0")
    lab.call("STATUS", **none).failed(50, "not running")
    for answer in (b"", b"garbage\n", ours(503, code=50, msg="no ztunnel is connected", details="x")):
        with Agent(lab.socket(), answer):
            lab.call("STATUS", **none).failed(50)
    with Agent(lab.socket(), lambda c, _: agent.stop.wait(30)) as agent:
        lab.call("STATUS", lab.conf(timeout="200ms"), **none).failed(50, "limit 200 ms")


@test("GC: the list of valid attachments, and nothing at all without a list; needs 1.1.0")
def gc():
    valid = [{"containerID": "a", "ifname": "eth0", "more": 1}, {"containerID": "b", "ifname": "net1"}]
    want = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]
    none = dict(CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None, CNI_ARGS=None)
    with Agent(lab.socket(), OK) as agent:
        for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
            lab.call("GC", lab.conf(**{key: valid}), **none).ok(b"")
        lab.call("GC", lab.conf(**{"cni.dev/valid-attachments": []}), **none).ok(b"")
        equal([r.json()["validAttachments"] for r in agent.requests], [want, want, []], "lists")
        lab.call("GC", **none).ok(b"")
        equal(agent.connections, 3, "connections")
        big = [{"containerID": f"{i:064d}", "ifname": "eth0"} for i in range(1000)]
        lab.call("GC", lab.conf(**{"cni.dev/valid-attachments": big}), **none).failed(7, "65536")
        lab.call("GC", lab.conf(cniVersion="1.0.0"), **none).failed(1, "does not allow GC", version="1.0.0")
    lab.call("GC", lab.conf(**{"cni.dev/valid-attachments": []}), **none).failed(11, "not running")


@test("DEL: tells the agent, and says nothing")
def delete():
    with Agent(lab.socket(), OK) as agent:
        lab.call("DEL", lab.conf(prevResult=PREV), CNI_NETNS=None).ok(b"")
        body = agent.only().json()
        equal((body["command"], body["containerID"], body["netns"]), ("DEL", "c-1", ""), "body")
        equal(body["deadlineMs"] <= 900, True, f"deadlineMs {body['deadlineMs']}")


@test("DEL: never fails, whatever is wrong")
def delete_never_fails():
    lab.call("DEL").ok(b"")
    for text in ("", "{", "[]", "{}", '{"cniVersion":"9.0.0","name":"a"}', '{"cniVersion":"1.0.0"}', "x" * (1 << 21),
                 lab.conf(timeout="soon"), lab.conf(prevResult=[1]), lab.conf(prevResult={"ips": [7]})):
        r = lab.call("DEL", text).ok(b"")
        contains(r.err, "ambient-cni: DEL", "a note")
    for name in ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"):
        contains(lab.call("DEL", **{name: None}).ok(b"").err, name)
    lab.call("DEL", CNI_ARGS="nonsense", CNI_NETNS="/proc/self/ns/net").ok(b"")
    for answer in (b"", b"garbage\n", ours(500, code=999, msg="it broke"), http(404, "")):
        with Agent(lab.socket(), answer):
            lab.call("DEL").ok(b"")
    reader, writer = os.pipe()
    os.close(reader)  # nobody reads the note: that is no reason to die by a signal
    try:
        r = subprocess.run([lab.plugin], env=lab.env("DEL"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writer,
                           timeout=20)
    finally:
        os.close(writer)
    equal((r.returncode, r.stdout), (0, b""), "exit status and output")


@test("DEL: waits one second at most for an agent that hangs, or for its own input")
def delete_is_quick():
    with Agent(lab.socket(), lambda c, _: agent.stop.wait(60)) as agent:
        r = lab.call("DEL", lab.conf(timeout="60s")).ok(b"")
        equal(0.9 <= r.seconds < 20, True, f"took {r.seconds:.1f} s")
    process = lab.start("DEL")  # standard input stays open
    equal(process.wait(timeout=20), 0, "exit status")
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


@test("standard input that never ends is an error after ten seconds, not a hang")
def stdin_hangs():
    begin = time.monotonic()
    process = lab.start("ADD")
    process.stdin.write(b'{"cniVersion":"1.1.0"')
    process.stdin.flush()
    equal(process.wait(timeout=60), 1, "exit status")
    equal(time.monotonic() - begin > 9, True, "waited")
    Result(1, process.stdout.read(), b"", 0).failed(5, "standard input", "did not come in time")
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


# ---- the stock agent

@test("stock agent: the request is the stock plugin's, byte for byte")
def stock_request():
    with Agent(lab.socket(), http(200, "")) as agent:
        equal(lab.call("ADD", lab.conf(agent_api="istio", prevResult=PREV)).result(), PREV, "result")
        request = agent.only()
    equal((request.method, request.path, request.protocol), ("POST", "/cmdadd", "HTTP/1.1"), "request line")
    equal(request.headers["content-type"], "application/json", "content-type")
    equal(request.headers["host"], "unix", "host")

    def mask(prefix, size):
        bits = ((1 << prefix) - 1) << (size * 8 - prefix)
        return base64.b64encode(bits.to_bytes(size, "big")).decode()

    want = ('{"Netns":"%s","PodName":"web-1","PodNamespace":"shop","IPs":['
            '{"Interface":1,"Address":{"IP":"10.1.2.3","Mask":"%s"},"Gateway":"10.1.2.1"},'
            '{"Interface":null,"Address":{"IP":"fd00::2","Mask":"%s"},"Gateway":""}]}'
            % (lab.netns, mask(24, 4), mask(64, 16)))
    equal(request.body, want.encode(), "body")


@test("stock agent: every prefix length gives the mask that Go would print")
def stock_masks():
    cases = [f"10.0.0.1/{p}" for p in (0, 1, 7, 8, 23, 31, 32)] + [f"fd00::1/{p}" for p in (0, 1, 63, 64, 65, 127, 128)]
    with Agent(lab.socket(), http(200, "")) as agent:
        lab.call("ADD", lab.conf(agent_api="istio", prevResult={"ips": [{"address": a} for a in cases]})).ok()
        sent = agent.only().json()["IPs"]
    for text, ip in zip(cases, sent, strict=True):
        interface = ipaddress.ip_interface(text)
        equal(base64.b64decode(ip["Address"]["Mask"], validate=True), interface.netmask.packed, text)
        equal(ip["Address"]["IP"], str(interface.ip), text)


@test("stock agent: no prevResult gives IPs null")
def stock_no_ips():
    with Agent(lab.socket(), http(200, "")) as agent:
        lab.call("ADD", lab.conf(agent_api="istio")).ok()
        equal(agent.only().body.endswith(b'"IPs":null}'), True, "body")


@test("stock agent: 200 is success, 'not eligible' passes through, everything else is an error")
def stock_answers():
    def text(status, words):
        return http(status, words + "\n", b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n")

    conf = lab.conf(agent_api="istio", prevResult=PREV)
    not_eligible = "pod shop/web-1 is unexpectedly not eligible for ambient enrollment"
    for answer in (http(200, ""), text(200, "ignored"), text(500, not_eligible)):
        with Agent(lab.socket(), answer):
            equal(lab.call("ADD", conf).result(), PREV, "result")
    for answer, code, part in ((text(500, 'failed to get pod shop/web-1: pod "web-1" not found'), 11, "not found"),
                               (text(500, "no ztunnel connection"), 11, "no ztunnel connection"),
                               (text(500, not_eligible.replace("web-1", "web-2")), 11, "status 500"),
                               (text(500, "x " + not_eligible), 11, "status 500"),
                               (text(400, not_eligible), 999, "status 400"), (text(404, "404 page not found"), 999, "404"),
                               (text(202, ""), 999, "status 202"), (ENROLLED.replace(b" 200 ", b" 503 "), 999, "503")):
        with Agent(lab.socket(), answer):
            lab.call("ADD", conf).failed(code, part, "istio-cni-node")


@test("stock agent: Go's server with a long error answers in chunks")
def stock_chunks():
    body = b"error: " + b"long text " * 500
    answer = b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with Agent(lab.socket(), answer):
        lab.call("ADD", lab.conf(agent_api="istio")).failed(11, "error: long text")


@test("stock agent: waited for five seconds at most")
def stock_limit():
    with Agent(lab.socket(), lambda c, _: agent.stop.wait(60)) as agent:
        r = lab.call("ADD", lab.conf(agent_api="istio", timeout="60s"))
        r.failed(11, "limit 5000 ms")
        equal(4.9 <= r.seconds < 30, True, f"took {r.seconds:.1f} s")


@test("stock agent: CHECK, DEL, GC and STATUS do not ask it, as the stock plugin does not")
def stock_other_verbs():
    with Agent(lab.socket(), http(500, "no")) as agent:
        for verb in ("CHECK", "DEL", "GC", "STATUS"):
            conf = lab.conf(agent_api="istio", prevResult=PREV, **{"cni.dev/valid-attachments": []})
            lab.call(verb, conf).ok(b"")
        equal(agent.connections, 0, "connections")


def main():
    global lab
    args = arguments(__doc__)
    before = threading.active_count()
    with Lab(args.bin) as lab:
        status = tap.run()
    wait_for(lambda: threading.active_count() <= before + 4, "threads of the scripted agents end")
    return status


if __name__ == "__main__":
    sys.exit(main())
