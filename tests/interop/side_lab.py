# SPDX-License-Identifier: Apache-2.0
"""side_lab.py: two nodes on one bridge, each with a ztunnel that may be ours or Istio's, one CA for both; what is done there
leaves access log lines and metrics, which are made comparable."""
import json
import os
import re
import time

from interop_lab import ca, end, stock_env  # sets the path of tests/system
from ztlab import Lab, double_echo, join, policy, wait_for  # noqa: E402

NEAR, FAR = "near", "far"
VIP, WAYPOINT_VIP, EMPTY_VIP, LOST_VIP = ("10.96.0.%d" % i for i in (10, 20, 30, 40))
HOST = "web.default.svc.cluster.local"
DENIED, CLOSED = 8082, 8099
PROXY_PORT = 15088


def domain(name):
    return "%s.default.svc.cluster.local" % name


def service(name, vip, ports=None, **more):
    return dict(name=name, namespace="default", hostname=domain(name), vips=[vip if "/" in vip else "/" + vip],
                ports=ports or {80: 8080}, **more)


class Node:
    """A lab with its CA and its program: "ours" or "stock"."""

    def __init__(self, kind, program, ca_dir=None, **env):
        self.kind = kind
        self.lab = Lab(os.path.dirname(program), 1 if kind == "stock" else 2, ipv6=True)
        self.lab.bin = program
        self.lab.ca_dir = ca_dir or self.lab.ca_dir
        self.env = dict(stock_env(self.lab.dir), RUST_LOG="info,access=debug", **env)
        self.ca = self.zt = None

    def start(self):
        self.ca = ca(self.lab.node.name, self.lab.dir, self.lab.ca_dir)
        self.zt = self.lab.start(**self.env)

    def close(self):
        if self.ca is not None:
            end(self.ca)
        self.lab.close()


class Site:
    """Pods a and lost on the near node, b and wp on the far one, all in the mesh; c, u and gw are not, and the mesh does not
    know u."""

    def __init__(self, near, far, programs, network="", **env):
        self.near = Node(near, programs[near], **env)
        self.far = Node(far, programs[far], self.near.lab.ca_dir, **dict(env, NETWORK=network))
        self.marks = {}
        try:
            lab = self.near.lab
            join(lab, self.far.lab)
            self.far.lab.node.ip("addr", "add", "10.77.0.254/24", "dev", "br0")
            self.a, self.lost = lab.pod("a", 2), lab.pod("lost", 6)
            self.c, self.u, self.gw = (lab.pod(n, i, captured=False) for n, i in (("c", 4), ("u", 5), ("gw", 30)))
            self.b, self.wp = self.far.lab.pod("b", 3), self.far.lab.pod("wp", 7)
            for p in (self.b, self.c, self.u):
                p.serve(8080, double_echo)
                p.serve(8080, double_echo, ipv6=True)
            self.b.serve(DENIED, double_echo)
            self.write(network)
            self.near.start()
            self.far.start()
        except BaseException:
            self.close()
            raise

    def write(self, network):
        """The mesh; with @network b is also behind the gateway gw of that network, for whoever is in another."""
        known = dict(trustDomain="cluster.local", clusterId="Kubernetes")  # left out they are empty to stock
        place = dict(locality={"region": "r1", "zone": "z1", "subzone": ""})
        ips = {p: dict(workloadIps=[p.ip, p.ip6]) for p in (self.a, self.b, self.c)}
        workloads = [self.a.workload(**ips[self.a], **place, workloadType="deployment"), self.c.workload(**ips[self.c]),
                     self.b.workload(**ips[self.b], network=network, workloadType="deployment", workloadName="b-of",
                                     canonicalName="b-app", services={"default/" + HOST: {80: 8080}}),
                     self.wp.workload(applicationTunnel={"protocol": "PROXY", "port": PROXY_PORT}, network=network),
                     self.lost.workload(), self.gw.workload(protocol="TCP", network=network),
                     dict(uid="x/unserved", name="unserved", namespace="default", serviceAccount="u", protocol="HBONE",
                          workloadIps=["10.77.0.8"], services={}),
                     dict(uid="x/other", name="other", namespace="default", serviceAccount="other", protocol="HBONE",
                          workloadIps=["10.77.0.9"], services={})]
        for w in workloads:
            w.update(known)
        services = [service("web", "%s/%s" % (network, VIP)),
                    service("ways", WAYPOINT_VIP, waypoint={"destination": "/" + self.wp.ip, "hboneMtlsPort": 15008}),
                    service("empty", EMPTY_VIP),
                    service("lostway", LOST_VIP, waypoint={"destination": "/10.77.0.98", "hboneMtlsPort": 15008})]
        policies = [policy("closed", "Deny", {"destinationPorts": [DENIED]}, dryRun=False)]  # stock wants it said
        self.far.lab.state(workloads, services, policies)
        if network:
            workloads = [w for w in workloads if w["name"] not in ("b", "wp")] + [
                dict(uid="far/SplitHorizonWorkload/istio/gw/x/remote", name="beyond", namespace="default", workloadIps=[],
                     trustDomain="cluster.local", network=network, protocol="HBONE", clusterId="far", capacity=1, services={"default/" + HOST: {80: 80}},
                     networkGateway={"destination": "%s/%s" % (network, self.gw.ip), "hboneMtlsPort": 15008})]
            services = [service("web", VIP, subjectAltNames=[self.b.identity])]
        self.near.lab.state(workloads, services, policies)

    def nodes(self):
        return {NEAR: self.near, FAR: self.far}

    def close(self):
        self.near.close()
        self.far.close()

    # --- what is said ---------------------------------------------------------------------------

    def mark(self):
        self.marks = {k: len(n.zt.log()) for k, n in self.nodes().items()}

    def said(self, node):
        """Access log lines since mark(), made comparable, as [(level, message, [(key, value)])]."""
        text = self.nodes()[node].zt.log()[self.marks[node]:]
        whole = text[:text.rfind("\n") + 1]
        return sorted(filter(None, (access(x) for x in whole.splitlines())), key=repr)

    def lines(self, **want):
        """The lines since mark() once there are so many as @want says (near=, far=; else one at least) and no more come."""
        def enough():
            counts = [len(self.said(k)) for k in (NEAR, FAR)]
            return all(n >= want.get(k, 0) for k, n in zip((NEAR, FAR), counts)) and any(counts)
        try:
            wait_for("the lines", enough, 5)
        except AssertionError:
            pass  # compared with what the other said
        before = None
        while before != (before := [len(self.said(k)) for k in (NEAR, FAR)]):
            time.sleep(0.4)
        return {k: self.said(k) for k in (NEAR, FAR)}

    def metrics(self, node):
        """{(name, labels as written): value} of istio_tcp_*."""
        out = {}
        for line in self.nodes()[node].zt.http(15020, "/metrics")[1].splitlines():
            m = re.match(r"(istio_tcp_[a-z_]+)\{(.*)\} (\S+)$", line)
            if m:
                out[m[1], m[2]] = float(m[3])
        return out


def access(line):
    """One access log line, of either shape: (level, message, [(key, value)]); None when it is another line."""
    if line.startswith("{"):
        o = json.loads(line)
        if o.get("scope") != "access":
            return None
        assert list(o)[:4] == ["level", "time", "scope", "message"], line
        fields = [(k, json.dumps(v)) for k, v in o.items()][4:]
        return o["level"], o["message"], [(k, plain(k, v)) for k, v in fields]
    part = line.split("\t", 4)
    if len(part) < 5 or part[2].split(":")[0] != "access":
        return None
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$", part[0]), line
    fields = re.findall(r'([a-z_.]+)=("(?:[^"\\]|\\.)*"|\S+)', part[4])
    return part[1], part[3] + part[2][len("access"):], [(k, plain(k, v)) for k, v in fields]


def plain(key, value):
    """Without what no two runs share."""
    if key == "duration":
        return re.sub(r"[0-9.]+", "N", value)
    return re.sub(r"((?:\.\d+|\])):([3-6]\d{4})\b", r"\1:PORT", value)


# Texts that name the same thing in other words: the libraries' and Rust's own form of an address.
WORDS = [(r"unknown waypoint: .*", "unknown waypoint"), (r"tls (handshake )?error: .*", "tls error"),
         (r"io error: invalid peer certificate: Other\(OtherError\((identity verification error: .*)\)\)", r"\2")]


def comparable(lines):
    """Without what is known to differ: those words; the service of what comes in, which a stock ztunnel does not know of a
    workload in a file (it keeps a workload's own services only as istiod names them)."""
    out = []
    for level, message, fields in lines:
        inbound = ("direction", '"inbound"') in fields
        fields = [(k, v) for k, v in fields if not (inbound and k == "dst.service")]
        for i, (k, v) in enumerate(fields):
            for pattern, to in WORDS if k == "error" else ():
                fields[i] = k, re.sub('^"(%s)"$' % pattern, '"%s"' % to, fields[i][1])
        out.append((level, message, fields))
    return out


def comparable_metrics(samples):
    """As comparable(); a gauge at zero may be there or not; a peer with the wrong name is a TLS failure, which a stock
    ztunnel calls one of the connection (ztunnel-spec 17, 20)."""
    out = {}
    for (name, labels), value in samples.items():
        if 'reporter="destination"' in labels:
            labels = re.sub(r'(destination_service[a-z_]*)="[^"]*"', r'\1="-"', labels)
        labels = labels.replace('"TLS_FAILURE"', '"CONNECT"')
        if name != "istio_tcp_sockets_open" or value != 0:
            out[name, labels] = out.get((name, labels), 0) + value
    return out


def differences(a, b):
    """What differs between two dictionaries, as text for a person."""
    return ["%s: %s, not %s" % (k, b.get(k), a.get(k)) for k in sorted(set(a) | set(b), key=repr) if a.get(k) != b.get(k)]


def line_differences(a, b):
    """The same of lines as comparable() gives them, with the differing fields only where there are as many."""
    if len(a) != len(b):
        return ["lines: %s, not %s" % (b, a)]
    return ["%s %s: %s, not %s" % (x[0], x[1], [f for f in y[2] if f not in x[2]] or [k for k, _ in y[2]],
                                   [f for f in x[2] if f not in y[2]] or [k for k, _ in x[2]])
            for x, y in zip(a, b) if x[2] != y[2]] + ["%s, not %s" % (y[:2], x[:2]) for x, y in zip(a, b) if x[:2] != y[:2]]
