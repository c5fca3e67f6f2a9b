#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ca_server.py: a certificate authority that speaks Istio's CA protocol (ztunnel-spec 8.2) on 127.0.0.1:15012, for a stock
ztunnel: it has no development CA. Writes root.pem into the directory given, then "ready". Trusts everybody: for tests.
With a second directory its root is the one there, dev-root.pem and dev-root.key, made if it is not there: several nodes share it.
usage: ca_server.py DIRECTORY [ROOT]"""
import datetime
import ipaddress
import os
import sys
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Use, NameOID

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "system"))
from agent_lab import field, fields  # noqa: E402

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
NAME = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cluster.local")])


class Authority:
    def __init__(self, folder=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self.builder(NAME, self.key.public_key(), 365).add_extension(
            x509.BasicConstraints(True, None), True).sign(self.key, hashes.SHA256())
        if folder is not None:
            self.share(folder)
        self.pem = self.root.public_bytes(serialization.Encoding.PEM)

    def share(self, folder):
        """The root that is in @folder becomes ours, or ours is put there."""
        cert, key = folder + "/dev-root.pem", folder + "/dev-root.key"
        if os.path.exists(cert):
            with open(key, "rb") as f:
                self.key = serialization.load_pem_private_key(f.read(), None)
            with open(cert, "rb") as f:
                self.root = x509.load_pem_x509_certificate(f.read())
            return
        os.makedirs(folder, 0o700, exist_ok=True)
        with open(key, "wb") as f:
            f.write(private_pem(self.key))
        with open(cert, "wb") as f:
            f.write(self.root.public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def builder(subject, key, days):
        now = datetime.datetime.utcnow()
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(NAME).public_key(key)
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=2))
                .not_valid_after(now + datetime.timedelta(days=days)))

    def sign(self, key, names):
        cert = (self.builder(x509.Name([]), key, 1)
                .add_extension(x509.SubjectAlternativeName(names), True)
                .add_extension(x509.BasicConstraints(False, None), True)
                .add_extension(x509.KeyUsage(True, False, True, False, False, False, False, False, False), True)
                .add_extension(x509.ExtendedKeyUsage([Use.SERVER_AUTH, Use.CLIENT_AUTH]), False)
                .sign(self.key, hashes.SHA256()))
        return cert.public_bytes(serialization.Encoding.PEM)


class Service(grpc.GenericRpcHandler):
    def __init__(self, authority):
        self.authority = authority

    def service(self, details):
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self.create)

    def create(self, request, context):
        pem = next(v for n, v in fields(request) if n == 1)
        csr = x509.load_pem_x509_csr(pem)
        if not csr.is_signature_valid:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is not signed by its key")
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        leaf = self.authority.sign(csr.public_key(), list(names))
        print("signed %s" % names.get_values_for_type(x509.UniformResourceIdentifier)[0], flush=True)
        return field(1, leaf) + field(1, self.authority.pem)


def private_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def main(directory, folder=None):
    authority = Authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    chain = authority.sign(key.public_key(), [x509.DNSName("localhost"),
                                              x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    pem = private_pem(key)
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Service(authority)])
    server.add_secure_port("127.0.0.1:15012", grpc.ssl_server_credentials([(pem, chain + authority.pem)]))
    server.start()
    with open(directory + "/root.pem", "wb") as f:
        f.write(authority.pem)
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
