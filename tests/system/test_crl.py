#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""revocation lists (CRL_PATH): who is named by one gets no connection, and loses those that are open."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import serialization  # noqa: E402
from grpc_server import Authority  # noqa: E402
from istiod_site import Site  # noqa: E402
from ztlab import wait_for  # noqa: E402
from ztsite import check, main  # noqa: E402

WHY = "connection closed: peer certificate revoked by CRL"


def site(**kw):
    """Certificates come from a CA below the root; the file of lists is not there yet."""
    def prepare(s):
        s.istiod.issuer = Authority("test intermediate", s.istiod.auth)
        s.path = os.path.join(s.lab.dir, "crl.pem")
        s.env["CRL_PATH"] = s.path
    return Site(prepare=prepare, **kw)


def put(s, text):
    with open(s.path + ".new", "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    os.rename(s.path + ".new", s.path)


def serial(s, pod):
    """The serial number of the certificate that ztunnel has for a pod."""
    entry = [c for c in s.zt.dump()["certificates"] if c["identity"] == pod.identity][0]
    return int(entry["certChain"][0]["serialNumber"])


def rejections(s, reporter):
    return s.zt.metric("istio_crl_policy_rejections_total", reporter=reporter)


def revoked_leaf():
    """A list comes while a connection is open: it is cut and says why, and the next one is refused; when the list goes
    empty again, all is as before."""
    with site() as s:
        wait_for("traffic", s.works)
        s.zt.wait_line("No such file or directory; nothing is revoked yet")
        with s.a.net.connect((s.b.ip, 8080)) as c:
            c.sendall(b"one")
            check(c.recv(100), "echo")
            put(s, s.istiod.issuer.crl(1, 2, 3))
            s.zt.wait_line("revocation lists taken over", "lists=1 revoked=3")
            c.sendall(b"two")
            check(c.recv(100), "a list that does not name it")
            put(s, s.istiod.issuer.crl(serial(s, s.a)))
            c.settimeout(60)
            try:
                while c.recv(100):
                    pass
            except ConnectionResetError:
                pass
        lines = wait_for("the end in the access log", lambda: s.zt.lines("connection complete", 'error="%s"' % WHY))
        check(any('direction="inbound"' in x for x in lines), lines)
        wait_for("it to be counted", lambda: s.zt.metric("istio_tcp_connections_failed_total", response_flags="CERT_REVOKED") >= 1)
        before = wait_for("it to be counted as revoked", lambda: rejections(s, "destination"))
        check(s.refused(), "a new connection")
        s.zt.wait_line("connection failed", "peer certificate: certificate revoked")
        wait_for("the counter", lambda: rejections(s, "destination") > before)
        put(s, s.istiod.issuer.crl())
        s.zt.wait_line("revocation lists taken over", "lists=1 revoked=0")
        wait_for("traffic again", s.works)
        s.end()


def revoked_intermediate():
    """The root takes back the CA below it: nobody of that CA is let in, on either side."""
    with site() as s:
        wait_for("traffic", s.works)
        put(s, s.istiod.auth.crl(s.istiod.issuer.cert.serial_number) + s.istiod.issuer.crl())
        s.zt.wait_line("revocation lists taken over", "lists=2 revoked=1")
        wait_for("the refusal", s.refused)
        check(s.refused())
        wait_for("it to be counted", lambda: rejections(s, "source") + rejections(s, "destination") >= 1)
        s.end()


def bad_file_keeps_the_lists():
    """There at the start; then a file that cannot be used changes nothing, is said once, and is counted."""
    def prepare(s):
        s.path = os.path.join(s.lab.dir, "crl.der")
        s.env["CRL_PATH"] = s.path
        put(s, b"")
    with Site(prepare=prepare) as s:
        wait_for("traffic", s.works)
        s.zt.wait_line("revocation lists taken over", "lists=0 revoked=0")
        good = x509.load_pem_x509_crl(s.istiod.auth.crl(serial(s, s.b)).encode())
        put(s, good.public_bytes(serialization.Encoding.DER))
        s.zt.wait_line("revocation lists taken over", "lists=1 revoked=1")
        wait_for("the refusal", s.refused)
        put(s, s.istiod.auth.crl() + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
        s.zt.wait_line("revocation lists: %s: list 2: " % s.path, "those read before stay in use")
        wait_for("it to be counted", lambda: s.zt.metric("ambient_crl_errors_total") == 1)
        check(s.refused(), "the lists of before")
        os.unlink(s.path)
        s.zt.wait_line("No such file or directory; those read before stay in use")
        check(s.refused(), "a file that went away takes nothing back")
        put(s, s.istiod.auth.crl())
        wait_for("traffic again", s.works)
        s.end()


if __name__ == "__main__":
    sys.exit(main([revoked_leaf, revoked_intermediate, bad_file_keeps_the_lists]))
