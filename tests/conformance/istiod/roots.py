# SPDX-License-Identifier: Apache-2.0
"""roots.py: the mesh's root is exchanged as Istio's documentation tells: the new one is trusted first, then used, then alone."""
import base64
import datetime

from cri.daemon import wait_until
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..lab import PORT, pod
from ..scenario import scenario
from .control_plane import SYSTEM, istiod, pair, rolled

ROOT_FILE = "/proc/1/root/var/lib/kubelet/pods/%s/volumes/kubernetes.io~configmap/istiod-ca-cert/root-cert.pem"


def new_root(name):
    """(certificate, key), both PEM, of an authority of our own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
    now = datetime.datetime.utcnow()
    usage = x509.KeyUsage(key_cert_sign=True, crl_sign=True, digital_signature=True, content_commitment=False, key_encipherment=False,
                          data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False)
    cert = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(),
                                   now - datetime.timedelta(minutes=5), now + datetime.timedelta(days=30)) \
        .add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True) \
        .sign(key, hashes.SHA256())
    return (cert.public_bytes(serialization.Encoding.PEM).decode(),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode())


def secret(lab, name):
    found = lab.kubectl.get("-n", SYSTEM, "secret", name, missing_ok=True)
    return {k: base64.b64decode(v).decode() for k, v in found["data"].items()} if found else None


def present_authority(lab):
    """The (certificate, key, roots) that istiod signs with: plugged in, or made by itself."""
    own = secret(lab, "cacerts")
    if own:
        return own["ca-cert.pem"], own["ca-key.pem"], own["root-cert.pem"]
    own = secret(lab, "istio-ca-secret")
    return own["ca-cert.pem"], own["ca-key.pem"], own["ca-cert.pem"]


def plug_in(lab, cert, key, roots):
    """istiod signs with @cert, and all are told to trust @roots; istiod is another process after it."""
    lab.kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": SYSTEM}, "stringData": {
        "ca-cert.pem": cert, "ca-key.pem": key, "cert-chain.pem": cert, "root-cert.pem": roots}})
    istiod(lab, "rollout", "restart", "deployment/istiod")
    rolled(lab)
    wait_until("istiod's roots in the ConfigMap", lambda: certificates(lab.kubectl.get(
        "-n", SYSTEM, "configmap", "istio-ca-root-cert")["data"]["root-cert.pem"]) == certificates(roots), 120, every=0.3)
    for node in lab.nodes.values():
        for p in lab.kubectl.get("-n", SYSTEM, "pods", "-l", "app=ztunnel", "--field-selector=spec.nodeName=" + node.name)["items"]:
            path = ROOT_FILE % p["metadata"]["uid"]
            # The kubelet takes up to its sync period, a minute by default.
            wait_until("the roots in ztunnel's pod on " + node.name, lambda n=node, f=path: certificates(
                n.run("cat", f, check=False).stdout) == certificates(roots), 240, every=0.3)


def certificates(text):
    """The set of certificates in PEM."""
    end = "-----END CERTIFICATE-----"
    return {c.strip() for c in text.split(end) if "BEGIN CERTIFICATE" in c}


def held(lab, s):
    """{workload's identity: (roots it trusts, who signed it)} on all nodes, for the scenario's namespace."""
    found = {}
    for node in lab.nodes.values():
        for c in node.ztunnel_dump()["certificates"]:
            if "/ns/%s/" % s.name in c["identity"] and c.get("certChain"):
                found[node.name, c["identity"]] = c
    return found


@scenario
def no_connection_is_dropped_while_the_root_is_exchanged(lab):
    s = lab.space("ambient")
    url, load, talk = pair(lab, s)
    old_cert, old_key, old_roots = present_authority(lab)
    new_cert, new_key = new_root("conformance")
    both = old_roots.rstrip("\n") + "\n" + new_cert
    for step, authority in enumerate(((old_cert, old_key, both), (new_cert, new_key, both))):
        plug_in(lab, *authority)
        # A new identity on each node: ztunnel hears of other roots with its certificate.
        names = ["step-%d-%s" % (step, n) for n in lab.names()]
        s.apply(*[{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": n}} for n in names])
        s.run(*[pod(n, node=node, serviceAccountName=n) for n, node in zip(names, lab.names())])
        for n in names:
            wait_until("%s to reach the mesh" % n, lambda p=n: s.get(p, url, n=3)[0], 90, every=0.2)
            # Others reach the new pod once its node's ztunnel is back at istiod: policies that it has not heard of may deny.
            wait_until("%s to be reached" % n, lambda a="http://%s:%d/" % (s.ip(n), PORT): s.get("client", a, n=3)[0], 120, every=0.2)
        talk.goes_on()
    r = load.faultless(200)
    talk.goes_on()
    print("# %d requests, slowest %d ms" % (r["count"]["ok"], r["slowestMs"]))
    # What is left of the old root goes with the certificates under it: a ztunnel that starts anew asks for all of them.
    url2 = "http://%s:%d/" % (s.ip("server"), PORT)
    lab.kubectl("-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel")
    lab.kubectl("-n", SYSTEM, "rollout", "status", "daemonset/ztunnel", "--timeout=300s", timeout=330)
    plug_in(lab, new_cert, new_key, new_cert)
    for n in ("client", *names):
        s.must_get(n, url2, n=3)
