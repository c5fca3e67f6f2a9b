# SPDX-License-Identifier: Apache-2.0
"""pki.py: one authority, and every certificate, key and kubeconfig that a cluster needs."""
import base64
import datetime
import ipaddress
import os

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from . import layout

LIFE = datetime.timedelta(days=30)
# Name of a kubeconfig, user, group: https://kubernetes.io/docs/setup/best-practices/certificates/
CLIENTS = {"admin": ("admin", "system:masters"), "kubelet-client": ("kube-apiserver-kubelet-client", "system:masters"),
           "kube-controller-manager": ("system:kube-controller-manager", None),
           "kube-scheduler": ("system:kube-scheduler", None), "kube-proxy": ("system:kube-proxy", None)}


def _write(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)


def _pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def _subject(user, group):
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    if group:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(parts)


class Authority:
    def __init__(self, folder):
        os.makedirs(folder, 0o700, exist_ok=True)
        self.folder = folder
        if os.path.exists(folder + "/ca.crt"):
            self.cert = x509.load_pem_x509_certificate(self.read("ca.crt"))
            self.key = serialization.load_pem_private_key(self.read("ca.key"), None)
            return
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = _subject("test-ca", None)
        self.cert = self._sign(name, name, self.key, [(x509.BasicConstraints(True, None), True)])
        _write(folder + "/ca.key", _pem(self.key))
        _write(folder + "/ca.crt", self.cert.public_bytes(serialization.Encoding.PEM))
        # Service accounts' tokens are signed with RSA.
        token_key = rsa.generate_private_key(65537, 2048)
        _write(folder + "/sa.key", _pem(token_key))
        _write(folder + "/sa.pub", token_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))

    def read(self, name):
        with open(os.path.join(self.folder, name), "rb") as f:
            return f.read()

    def _sign(self, subject, issuer, key, extensions):
        now = datetime.datetime.utcnow()
        b = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(),
                                    now - datetime.timedelta(minutes=5), now + LIFE)
        for e, critical in extensions:
            b = b.add_extension(e, critical)
        return b.sign(self.key, hashes.SHA256())

    def certificate(self, name, user, group=None, dns=(), ips=()):
        """Writes name.crt and name.key; a server's, too, if it has names or addresses."""
        if os.path.exists("%s/%s.crt" % (self.folder, name)):
            return
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        extensions = []
        if dns or ips:
            usage.append(ExtendedKeyUsageOID.SERVER_AUTH)
            extensions.append((x509.SubjectAlternativeName(
                [x509.DNSName(d) for d in dns] + [x509.IPAddress(ipaddress.ip_address(i)) for i in ips]), False))
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self._sign(_subject(user, group), self.cert.subject, key,
                          extensions + [(x509.ExtendedKeyUsage(usage), False)])
        _write("%s/%s.key" % (self.folder, name), _pem(key))
        _write("%s/%s.crt" % (self.folder, name), cert.public_bytes(serialization.Encoding.PEM))

    def kubeconfig(self, name, path, server):
        def data(file):
            return base64.b64encode(self.read(file)).decode()
        _write(path, yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server,
                                                      "certificate-authority-data": data("ca.crt")}}],
            "users": [{"name": "test", "user": {"client-certificate-data": data(name + ".crt"),
                                                "client-key-data": data(name + ".key")}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}).encode())


def make(cluster):
    """Everything for all nodes; what is there already stays."""
    a = Authority(cluster.pki)
    api = layout.address(1)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
             "localhost"]
    a.certificate("apiserver", "kube-apiserver", dns=names, ips=[layout.API_SERVICE, "127.0.0.1", api, *layout.LINK])
    for name, (user, group) in CLIENTS.items():
        a.certificate(name, user, group)
        a.kubeconfig(name, "%s/%s.kubeconfig" % (cluster.pki, name), "https://%s:6443" % api)
    for node in cluster.nodes():
        name = "kubelet-" + node.name
        a.certificate(name, "system:node:" + node.name, "system:nodes", dns=[node.name], ips=[node.address])
        a.kubeconfig(name, "%s/%s.kubeconfig" % (cluster.pki, name), "https://%s:6443" % api)
    a.kubeconfig("admin", cluster.kubeconfig, "https://127.0.0.1:%d" % cluster.load()["port"])
