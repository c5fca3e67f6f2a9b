# SPDX-License-Identifier: Apache-2.0
"""fake_istiod.py: a scripted istiod: holds resources, answers subscriptions, pushes, and goes wrong when told to."""
import os
import socket
import threading

from cryptography import x509
from grpc_server import Authority, GrpcServer, CA_METHOD, XDS_METHOD, schemas
from ztlab import wait_for

ADDRESS = "type.googleapis.com/istio.workload.Address"
POLICY = "type.googleapis.com/istio.security.Authorization"


class Istiod:
    """xDS and CA on localhost:15012 of @lab's node."""

    def __init__(self, lab):
        self.lab = lab
        self.pb = schemas(lab.dir)
        self.auth = Authority()
        self.root_path = os.path.join(lab.dir, "root-cert.pem")
        with open(self.root_path, "w") as f:
            f.write(self.auth.pem)
        self.token_path = os.path.join(lab.dir, "token")
        with open(self.token_path, "w") as f:
            f.write("token-1")
        self.resources = {ADDRESS: {}, POLICY: {}}  # name: (version, bytes)
        self.requests, self.streams, self.nonce = [], [], 0
        self.lock = threading.RLock()
        self.issuer = self.auth  # of workload certificates: the root, or a CA below it
        self.life = 3600  # of certificates, seconds
        self.ca_open, self.ca_fails = threading.Event(), False
        self.ca_open.set()
        self.on_open = None  # a function(stream) that answers instead; returns True when it did
        self.server = None
        self.subs, self.asked, self.speak = set(), [], threading.Event()  # on-demand: as istiod keeps them; of the last stream
        self.speak.set()
        self.up()

    def env(self):
        return dict(XDS_ADDRESS="https://localhost:15012", XDS_ROOT_CA=self.root_path, CA_ROOT_CA=self.root_path,
                    AUTH_TOKEN=self.token_path, LOCAL_XDS_PATH="", INSTANCE_IP="10.1.2.3", POD_NAME="ztunnel-x",
                    POD_NAMESPACE="istio-system", ISTIO_META_CLUSTER_ID="c1", ISTIO_METAJSON_LABELS='{"a":["b",1,true,null]}',
                    XDS_HEADER_X_Tenant="blue")

    def up(self, **kw):
        self.server = GrpcServer(self.lab.node, self.auth.server_context(self.lab.dir, **kw),
                                 {CA_METHOD: self.certificate, XDS_METHOD: self.stream})

    def down(self):
        self.server.close()
        with self.lock:
            self.streams = []

    # --- resources -------------------------------------------------------------------------------

    def put(self, kind, name, message, version=None):
        data = message if isinstance(message, bytes) else message.SerializeToString()
        if version is None:
            version = "%x" % (hash(data) & 0xffffffff) if kind == ADDRESS else ""
        self.resources[kind][name] = (version, data)

    def workload(self, pod, **more):
        w = self.pb["workload"].Workload(
            uid=("c1//Pod/%s/%s" % (pod.ns, pod.name)).encode(), name=pod.name.encode(), namespace=pod.ns.encode(),
            service_account=pod.sa.encode(), addresses=[socket.inet_aton(pod.ip)], node=self.lab.node_name.encode(),
            tunnel_protocol=1 if pod.captured else 0, cluster_id=b"c1", trust_domain=b"cluster.local", workload_type=2,
            **more)
        return w

    def put_workload(self, pod, **more):
        w = self.workload(pod, **more)
        self.put(ADDRESS, w.uid.decode(), self.pb["workload"].Address(workload=w))
        return w.uid.decode()

    def put_policy(self, name, ns, action, scope=1, dry_run=0, **match):
        sec = self.pb["authorization"]
        p = sec.Authorization(name=name.encode(), namespace=ns.encode(), scope=scope, action=action, dry_run=dry_run)
        if match:
            p.groups.add().rules.add().matches.add(**match)
        self.put(POLICY, ns + "/" + name, p)

    # --- the protocol ----------------------------------------------------------------------------

    def response(self, kind, names, removed=(), **more):
        self.nonce += 1
        d = self.pb["discovery"]
        r = d.DeltaResponse(type_url=kind.encode(), nonce=b"%d" % self.nonce, **more)
        for n in names:
            version, data = self.resources[kind][n]
            r.resources.add(name=n.encode(), version=version.encode(),
                            resource=d.Any(type_url=kind.encode(), value=data))
        r.removed_resources.extend(n.encode() for n in removed)
        return r.SerializeToString()

    def push(self, kind, names=(), removed=()):
        """To every open stream; waits until each has answered. The errors it said, "" for an ACK."""
        with self.lock:
            data = self.response(kind, names, removed)
            nonce, streams = b"%d" % self.nonce, list(self.streams)
        for s in streams:
            s.send(data)
        return self.answer_to(nonce)

    def answer_to(self, nonce):
        def find():
            with self.lock:
                return [r for r in self.requests if r.response_nonce == nonce]
        return wait_for("the answer to response %s" % nonce, find, 60)[0].error_detail.message.decode()

    def initial(self, stream, req):
        """What istiod answers to the first request of a type: what differs from what the client has."""
        kind = req.type_url.decode()
        have = {v.key.decode(): v.value.decode() for v in req.initial_resource_versions}
        with self.lock:
            mine = self.resources[kind]
            names = [n for n, (v, _) in mine.items() if v == "" or have.get(n) != v]
            stream.send(self.response(kind, names, sorted(set(have) - set(mine))))

    def stream(self, stream):
        if self.on_open and self.on_open(stream):
            return
        seen = set()
        while True:
            data = stream.recv(3600)
            if data is None:
                break
            req = self.pb["discovery"].DeltaRequest.FromString(data)
            req_headers = stream.headers
            with self.lock:
                self.requests.append(req)
                self.headers = req_headers
            if not req.response_nonce and req.type_url not in seen:
                seen.add(req.type_url)
                if req.subscribe:
                    with self.lock:
                        self.subs, self.asked = set(), []
                    self.by_name(stream, req)
                else:
                    with self.lock:  # who has seen the answer may push
                        if len(seen) == 2:
                            self.streams.append(stream)
                        self.initial(stream, req)
            elif not req.response_nonce:
                self.by_name(stream, req)
        with self.lock:
            if stream in self.streams:
                self.streams.remove(stream)

    # --- on demand: istiod's pilot/pkg/xds/workload.go -------------------------------------------

    def keys_of(self, name):
        """The network/ip keys of an Address resource."""
        a = self.pb["workload"].Address.FromString(self.resources[ADDRESS][name][1])
        if a.HasField("service"):
            return [n.network.decode() + "/" + socket.inet_ntoa(n.address) for n in a.service.addresses]
        return [a.workload.network.decode() + "/" + socket.inet_ntoa(x) for x in a.workload.addresses]

    def found_by(self, key):
        names = [n for n in self.resources[ADDRESS] if n == key or key in self.keys_of(n)]
        for n in list(names):
            if self.pb["workload"].Address.FromString(self.resources[ADDRESS][n][1]).HasField("service"):
                names += [w for w, (_, data) in self.resources[ADDRESS].items() if n.encode() in
                          [e.key for e in self.pb["workload"].Address.FromString(data).workload.services]]
        return names

    def by_name(self, stream, req):
        """A request of a client that does not want everything. What changes nothing is not answered."""
        have = {v.key.decode(): v.value.decode() for v in req.initial_resource_versions}
        names = {n.decode() for n in req.subscribe} | set(have)
        gone = {n.decode() for n in req.unsubscribe}
        with self.lock:
            changed = bool(names - self.subs) or bool(gone & self.subs) or "*" in names
            self.subs = (self.subs | names) - gone - {"*"}
            self.asked += sorted(names - {"*"} - set(have))
        if not changed:
            return
        if not names:  # as istiod: a request that subscribes to nothing is answered as if nothing were there
            with self.lock:
                stream.send(self.response(ADDRESS, [], sorted(self.subs)))
            return
        self.speak.wait(60)
        with self.lock:
            keys = names - {"*"}
            local = [n for n in self.resources[ADDRESS] if n not in self.subs and self.pb["workload"].Address.FromString(
                self.resources[ADDRESS][n][1]).workload.node == self.lab.node_name.encode()]
            found = sorted(set(local) | {n for k in keys for n in self.found_by(k)})
            removed = sorted(k for k in keys if not self.found_by(k))
            self.subs |= set(found)
            self.nonce += 1
            d = self.pb["discovery"]
            r = d.DeltaResponse(type_url=ADDRESS.encode(), nonce=b"%d" % self.nonce)
            for n in found:
                version, data = self.resources[ADDRESS][n]
                if have.get(n) != version:
                    r.resources.add(name=n.encode(), version=version.encode(), aliases=[k.encode() for k in self.keys_of(n)],
                                    resource=d.Any(type_url=ADDRESS.encode(), value=data))
            r.removed_resources.extend(n.encode() for n in removed)
        stream.send(r.SerializeToString())

    def hold_ca(self, fail=False):
        """From now on requests for certificates wait, or fail."""
        self.ca_fails = fail
        if not fail:
            self.ca_open.clear()

    def release_ca(self):
        self.ca_fails = False
        self.ca_open.set()

    def certificate(self, stream):
        if self.ca_fails:
            stream.end(14, "the CA is away")
            return
        self.ca_open.wait(60)
        req = self.pb["citadel"].Request.FromString(stream.recv())
        csr = x509.load_pem_x509_csr(req.csr)
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        leaf = self.issuer.sign(csr.public_key(), list(san), end=self.life)
        chain = [leaf] + [self.issuer.pem] * (self.issuer is not self.auth) + [self.auth.pem]
        stream.send(self.pb["citadel"].Response(cert_chain=[c.encode() for c in chain]).SerializeToString())
        stream.end()

    def close(self):
        self.ca_open.set()
        self.speak.set()
        if self.server:
            self.server.close()
