#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""certificates from a CA that speaks Istio's protocol: good, slow, failing in every way, rotating."""
import os
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from grpc_server import Authority, GrpcServer, CA_METHOD, schemas  # noqa: E402
from ztlab import Lab, double_echo, wait_for  # noqa: E402
from ztsite import ARGS, check, main, works  # noqa: E402

CODES = ("CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
         "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
         "UNAUTHENTICATED").split()


class Site:
    """Pods a and b, a node whose certificates come from the CA at localhost:15012. @answer(site, stream, request,
    identity) may do something else than answering well, and returns True then."""

    def __init__(self, answer=None, pods="ab", start=True, prepare=None, **env):
        self.lab = Lab(ARGS.bin, 2, {})
        if prepare:
            prepare(self.lab)
        self.answer, self.seen, self.server = answer, [], None
        self.life = 3600
        try:
            self.pb = schemas(self.lab.dir)["citadel"]
            self.auth = self.roots = Authority()
            self.transport = Authority("transport root")
            self.token_path = os.path.join(self.lab.dir, "token")
            self.root_path = os.path.join(self.lab.dir, "ca-root.pem")
            self.write(self.token_path, "first-token\n")
            self.write(self.root_path, self.transport.pem)
            self.up()
            self.pods = [self.lab.pod(n, i + 2) for i, n in enumerate(pods)]
            self.pods[-1].serve(8080, double_echo)
            self.lab.state()
            self.env = dict(CA_ADDRESS="https://localhost:15012", CA_ROOT_CA=self.root_path,
                            AUTH_TOKEN=self.token_path, ISTIO_META_CLUSTER_ID="c1", SECRET_TTL="1h",
                            CA_HEADER_X_Tenant="blue")
            self.env.update(env)
            self.zt = self.lab.start(serve=start, **self.env)
        except BaseException:
            for zt in self.lab.zts:
                print("# " + zt.log()[-6000:].replace("\n", "\n# "))
            self.close()
            raise

    @staticmethod
    def write(path, text):
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)

    def up(self, **kw):
        self.server = GrpcServer(self.lab.node, self.transport.server_context(self.lab.dir, **kw),
                                 {CA_METHOD: self.serve})

    def sign(self, public_key, identity, **kw):
        return self.auth.sign(public_key, [x509.UniformResourceIdentifier(identity)], **kw)

    def reply(self, stream, *chain):
        stream.send(self.pb.Response(cert_chain=[c.encode() for c in chain]).SerializeToString())
        stream.end()

    def serve(self, stream):
        raw = stream.recv()
        req = self.pb.Request.FromString(raw)
        csr = x509.load_pem_x509_csr(req.csr)
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uri = san.value.get_values_for_type(x509.UniformResourceIdentifier)[0]
        meta = {f.key.decode(): f.value.string_value.decode() for f in req.metadata.fields}
        self.seen.append(dict(uri=uri, meta=meta, ttl=req.validity_duration, valid=csr.is_signature_valid,
                              critical=san.critical, headers=stream.headers))
        if self.answer is None or not self.answer(self, stream, csr, uri):
            self.reply(stream, self.sign(csr.public_key(), uri, end=self.life), self.roots.pem)

    def works(self):
        return works(self.pods[0], self.pods[-1].ip)

    def entry(self, name):
        return [c for c in self.zt.dump()["certificates"] if name in c["identity"]][0]

    def close(self):
        if self.server:
            self.server.close()
        self.lab.close()


def good():
    s = Site()
    try:
        wait_for("traffic", s.works)
        check({r["uri"] for r in s.seen} == {"spiffe://cluster.local/ns/default/sa/" + n for n in "ab"}, s.seen)
        for r in s.seen:
            check(r["valid"] and r["critical"] and r["ttl"] == 3600, r)
            check(r["meta"] == {"ImpersonatedIdentity": r["uri"]}, r)
            h = r["headers"]
            check(h["authorization"] == "Bearer first-token", h)
            check(h["clusterid"] == "c1" and h["x_tenant"] == "blue" and h["te"] == "trailers", h)
            check(h["content-type"] == "application/grpc" and h["grpc-timeout"] == "10000m", h)
        check(not s.zt.lines("first-token"), "the token is in no log")
        check(s.zt.lines("certificates come from the Istio CA (localhost:15012)"))
        check(not s.zt.lines("NOT for production"))
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        s.close()


def codes():
    """Each gRPC code is named, and the next try succeeds."""
    left = list(range(1, 17))

    def answer(_site, stream, _csr, _uri):
        if left:
            stream.end(left.pop(0), "because%20of it")
            return True
        return False
    # sixteen identities at once: one code each
    s = Site(answer, pods=["p%d" % i for i in range(17)])
    try:
        for c in CODES:
            s.zt.wait_line("%s: because of it" % c, "retry=", timeout=60)
        check(s.zt.lines("UNAUTHENTICATED", "istiod's log has the reason"))
        check(s.zt.lines("PERMISSION_DENIED", "CA_TRUSTED_NODE_ACCOUNTS"))
        wait_for("all certificates", lambda: len(s.zt.lines("certificate issued")) == 17, 60)
        check(s.works())
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        s.close()


def _other_key():
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def wrong_answers():
    """Nothing but a certificate for that identity and key, valid and from these roots, is used."""
    def leaf(site, csr, uri, **kw):
        return site.sign(csr.public_key(), uri, **kw)

    rows = [
        ("is for spiffe://cluster.local/ns/default/sa/victim", lambda s, st, csr, uri: s.reply(
            st, leaf(s, csr, "spiffe://cluster.local/ns/default/sa/victim"), s.roots.pem)),
        ("certificate and key", lambda s, st, csr, uri: s.reply(st, s.sign(_other_key(), uri), s.roots.pem)),
        ("certificate has expired", lambda s, st, csr, uri: s.reply(
            st, leaf(s, csr, uri, start=-600, end=-60), s.roots.pem)),
        ("certificate: ", lambda s, st, csr, uri: s.reply(st, leaf(s, csr, uri), Authority("x").pem)),
        ("no root certificate present", lambda s, st, csr, uri: s.reply(st, leaf(s, csr, uri))),
        ("holds no certificate", lambda s, st, csr, uri: s.reply(st)),
        ("chain of 9 certificates", lambda s, st, csr, uri: s.reply(
            st, *[leaf(s, csr, uri)] + [s.roots.pem] * 9)),
        ("a message of 1048576 bytes, the limit is 262144", lambda s, st, csr, uri: st.send(b"x" * (1 << 20))),
        ("no CreateCertificate response", lambda s, st, csr, uri: (st.send(b"\x0a\xff\xff"), st.end())),
        ("certificate chain", lambda s, st, csr, uri: s.reply(st, "nonsense", s.roots.pem)),
        ("compressed message", lambda s, st, csr, uri: (st.raw(b"\1\0\0\0\1a"), st.end())),
        ("in the middle of a message", lambda s, st, csr, uri: (st.raw(b"\0\0\0\0\x09abc"), st.end())),
        ("OK without an answer", lambda s, st, csr, uri: st.end()),
        ("more than one answer", lambda s, st, csr, uri: (st.send(b""), st.send(b""))),
        ("UNAVAILABLE: the server reset the stream", lambda s, st, csr, uri: st.reset()),
        ("HTTP status 503", lambda s, st, csr, uri: (st.begin("503", "text/html"), st.raw(b"<html>"), st.end())),
        ("is no gRPC", lambda s, st, csr, uri: (st.begin("200", "text/html"), st.raw(b"<html>"), st.end())),
    ]
    left, lock = list(rows), threading.Lock()

    def answer(site, stream, csr, uri):
        with lock:
            row = left.pop(0) if left else None
        if row is None:
            return False
        row[1](site, stream, csr, uri)
        return True
    s = Site(answer, pods=["p%d" % i for i in range(len(rows))])
    try:
        for want, _ in rows:
            s.zt.wait_line("no certificate from the Istio CA", want, timeout=60)
        wait_for("all to be counted", lambda: s.zt.metric("ambient_ca_failures_total") == len(rows))
        wait_for("all certificates", lambda: len(s.zt.lines("certificate issued")) == len(rows), 90)
        check(s.works())
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        s.close()


def lost_in_the_middle():
    """The connection ends, or is about to (GOAWAY), while a certificate is being made."""
    todo = [lambda st: st.conn.drop(), lambda st: st.conn.goaway(0), lambda st: st.raw(b"\0\0\0\1"), None]
    calls = []

    def answer(_site, stream, _csr, _uri):
        calls.append(stream)
        fn = todo.pop(0)
        if fn:
            fn(stream)
            if len(calls) == 3:
                stream.conn.drop()
        return fn is not None
    s = Site(answer, pods="a")
    try:
        s.zt.wait_line("certificate issued", timeout=60)
        check(len(calls) == 4 and not todo, calls)
        check(len(s.zt.lines("no certificate from the Istio CA", "UNAVAILABLE")) == 3, s.zt.log())
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        s.close()


def keeps_what_is_valid():
    """The CA goes away: certificates stay in use, the state says so, and it is found again."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        s.life = 8
        s.lab.pod("c", 9)
        s.lab.state()
        check(s.lab.agent.add(s.lab.pods[-1]) == "")
        s.zt.wait_line("certificate issued", "sa/c", "valid_for=")
        s.server.close()
        s.zt.wait_line("the present one stays in use", "Connection refused", "sa/c", timeout=60)
        check(s.works(), "without a CA")
        s.life = 3600
        s.up()
        s.zt.wait_line("certificate renewed", "sa/c", timeout=60)
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        s.close()


def token_and_roots_rotate():
    """The token is read for each request; other roots of the CA's own certificate mean a new connection."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        s.write(s.token_path, "second-token")
        s.transport = Authority("new transport root")
        old = s.server
        s.write(s.root_path, s.transport.pem)
        old.close()
        s.up()
        s.lab.pod("c", 9)
        s.lab.state()
        check(s.lab.agent.add(s.lab.pods[-1]) == "")
        s.zt.wait_line("certificate issued", "sa/c")
        check(s.seen[-1]["headers"]["authorization"] == "Bearer second-token", s.seen[-1])
        s.write(s.token_path, "")
        s.lab.pod("d", 10)
        s.lab.state()
        check(s.lab.agent.add(s.lab.pods[-1]) == "")
        s.zt.wait_line("token: %s is empty" % s.token_path)
        s.write(s.token_path, "third-token")
        s.zt.wait_line("certificate issued", "sa/d", timeout=60)
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        s.close()


def trust_bundle_rotates():
    """The mesh's roots change: both old certificates are renewed, and a connection goes on."""
    s = Site()
    try:
        wait_for("traffic", s.works)
        with s.pods[0].net.connect((s.pods[-1].ip, 8080)) as c:
            c.sendall(b"one")
            check(c.recv(100), "echo")
            new = Authority("new mesh root")
            s.roots = type("Both", (), {"pem": s.auth.pem + new.pem})
            s.lab.pod("c", 9)
            s.lab.state()
            check(s.lab.agent.add(s.lab.pods[-1]) == "")
            s.zt.wait_line("the CA has other roots: 2 certificates are renewed soon")
            wait_for("renewals", lambda: len(s.zt.lines("certificate renewed")) == 2, 40)
            c.sendall(b"two")
            check(c.recv(100), "the same connection")
        check(s.works())
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        s.close()


def not_trusted():
    """A CA with a certificate for another name, or of another authority, gets no token."""
    s = Site(start=False, pods="a")
    try:
        s.server.close()
        s.up(names=("elsewhere",))
        s.lab.agent.serve(s.pods)
        s.zt.wait_line("no certificate from the Istio CA", "ostname mismatch")
        check(not s.seen, s.seen)
        s.zt.stop()
        zt = s.lab.start(serve=False, **dict(s.env, ALT_CA_HOSTNAME="elsewhere"))
        s.lab.agent.serve(s.pods)
        zt.wait_line("certificate issued")
        zt.stop()
        s.write(s.root_path, Authority("other").pem)
        before = len(s.seen)
        zt = s.lab.start(serve=False, **dict(s.env, ALT_CA_HOSTNAME="elsewhere"))
        s.lab.agent.serve(s.pods)
        zt.wait_line("no certificate from the Istio CA", "the server's certificate is not valid")
        check(len(s.seen) == before, "no request")
        check(zt.stop() == 0, zt.log()[-3000:])
    finally:
        s.close()


def localhost_of_a_node_without_ipv4():
    """A CA on the node itself is reached while the node has link-local addresses of IPv6 only, as before its network is set
    up, and its hosts file knows localhost as 127.0.0.1 only."""
    def bare(lab):
        lab.etc(hosts="127.0.0.1 localhost\n")
        lab.node.ip("addr", "del", lab.gateway + "/24", "dev", "br0")
    s = None
    try:
        s = Site(prepare=bare)
        wait_for("an address of IPv6 alone", lambda: "fe80:" in s.lab.node.ip("addr", "show", "br0"))
        check(" inet 10." not in s.lab.node.ip("addr"))
        s.zt.kill()
        s.zt = s.lab.start(**s.env)  # it looks the name up anew
        wait_for("traffic", s.works)
        check(not s.zt.lines("look up localhost"), s.zt.log()[-2000:])
        check(s.zt.stop() == 0, s.zt.log()[-3000:])
    finally:
        if s is not None:
            s.close()


if __name__ == "__main__":
    sys.exit(main([good, codes, wrong_answers, lost_in_the_middle, keeps_what_is_valid, token_and_roots_rotate, trust_bundle_rotates,
                   not_trusted, localhost_of_a_node_without_ipv4]))
