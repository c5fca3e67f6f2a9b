# SPDX-License-Identifier: Apache-2.0
"""client.py: talks the Container Runtime Interface to containerd, as the kubelet does.

The messages come from runtime.proto, which protoc turns into a descriptor at run time: no generated
code is kept, and any version of python3-protobuf will do.
"""
import json
import os
import subprocess
import tempfile

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "runtime.proto")


class CriError(Exception):
    """The runtime refused a call; str() is its own sentence, `code` the gRPC status name."""

    def __init__(self, method, code, text):
        super().__init__(text)
        self.method, self.code = method, code


def _descriptors():
    with tempfile.NamedTemporaryFile(suffix=".pb") as out:
        subprocess.run(["protoc", "-I", os.path.dirname(PROTO), "--descriptor_set_out=" + out.name,
                        PROTO], check=True)
        return descriptor_pb2.FileDescriptorSet.FromString(out.read())


def _message_class(desc):
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(desc)
    return message_factory.MessageFactory(desc.file.pool).GetPrototype(desc)


class Cri:
    """One connection to a runtime. Every method takes and returns plain messages of runtime.proto;
    `deadline` is in seconds and always finite."""

    def __init__(self, socket="/run/containerd/containerd.sock", deadline=60):
        self.deadline = deadline
        self.channel = grpc.insecure_channel("unix://" + socket, options=[
            ("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0)])
        pool = descriptor_pool.DescriptorPool()
        for f in _descriptors().file:
            pool.Add(f)
        self.types, self.calls = {}, {}
        fd = pool.FindFileByName(os.path.basename(PROTO))
        for name, desc in fd.message_types_by_name.items():
            self.types[name] = _message_class(desc)
        for service in fd.services_by_name.values():
            for m in service.methods:
                self._bind(service, m)

    def _bind(self, service, method):
        out = self.types[method.output_type.name]
        stub = self.channel.unary_unary(
            "/%s/%s" % (service.full_name, method.name),
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=out.FromString)
        self.calls[method.name] = (self.types[method.input_type.name], stub)

    def call(self, method, deadline=None, **fields):
        """Calls a method by its CRI name; keyword arguments are the request's fields."""
        request, stub = self.calls[method]
        try:
            return stub(request(**fields), timeout=deadline or self.deadline)
        except grpc.RpcError as e:
            raise CriError(method, e.code().name, e.details()) from None

    def close(self):
        self.channel.close()

    # What the tests need most, in the words of the kubelet.

    def run_sandbox(self, config):
        return self.call("RunPodSandbox", config=config).pod_sandbox_id

    def remove_sandbox(self, sandbox_id):
        """Stops and removes a sandbox with all its containers."""
        self.call("StopPodSandbox", pod_sandbox_id=sandbox_id)
        self.call("RemovePodSandbox", pod_sandbox_id=sandbox_id)

    def sandbox_ip(self, sandbox_id):
        return self.call("PodSandboxStatus", pod_sandbox_id=sandbox_id).status.network.ip

    def sandbox_info(self, sandbox_id):
        """The runtime's own record of a sandbox (verbose status), as a dict; `pid`, `runtimeSpec`."""
        r = self.call("PodSandboxStatus", pod_sandbox_id=sandbox_id, verbose=True)
        return json.loads(r.info["info"])

    def sandbox_netns(self, sandbox_id):
        for ns in self.sandbox_info(sandbox_id)["runtimeSpec"]["linux"]["namespaces"]:
            if ns["type"] == "network":
                return ns.get("path", "")
        return ""

    def sandboxes(self):
        return self.call("ListPodSandbox").items

    def run_container(self, sandbox_id, sandbox_config, name, image, command):
        """Creates and starts a container; returns its id."""
        config = {"metadata": {"name": name}, "image": {"image": image}, "command": command,
                  "log_path": name + ".log"}
        cid = self.call("CreateContainer", pod_sandbox_id=sandbox_id, config=config,
                        sandbox_config=sandbox_config).container_id
        self.call("StartContainer", container_id=cid)
        return cid

    def container(self, container_id):
        """(pid, started_at in ns, state) of a container."""
        r = self.call("ContainerStatus", container_id=container_id, verbose=True)
        return json.loads(r.info["info"])["pid"], r.status.started_at, r.status.state

    def exec(self, container_id, *argv, timeout=60):
        """Runs a command in a container; returns (exit code, stdout, stderr), the latter as text."""
        r = self.call("ExecSync", deadline=timeout + 10, container_id=container_id, cmd=list(argv),
                      timeout=timeout)
        return (r.exit_code, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace"))

    def image_present(self, image):
        return self.call("ImageStatus", image={"image": image}).image.id != ""
