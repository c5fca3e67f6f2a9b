# SPDX-License-Identifier: Apache-2.0
"""mesh.py: writes the two kinds of documents that say what is in the mesh.

Manifests are Kubernetes objects, read by the agent: who is enrolled. The local state is ztunnel's
picture of the mesh: which address is which workload, services, policies. Both are replaced by
rename, as an editor or a configuration tool would do.
"""
import os

import yaml

MODE = "istio.io/dataplane-mode"


class Tagged:
    """A YAML value with an application tag: policies write strings as `!Exact text`."""

    def __init__(self, tag, text):
        self.tag, self.text = tag, text


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(Tagged, lambda d, v: d.represent_scalar("!" + v.tag, v.text))


def exact(text):
    return Tagged("Exact", text)


def write(path, *documents):
    """Replaces the file at @path; readers see the old content or the new one."""
    new = os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".new")
    with open(new, "w") as out:
        yaml.dump_all(documents, out, Dumper=_Dumper, sort_keys=False, default_flow_style=False)
    os.rename(new, path)


class Manifests:
    """A directory of manifests, one file an object."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def namespace(self, name, mode=None):
        meta = {"name": name}
        if mode:
            meta["labels"] = {MODE: mode}
        write(self.folder + "/namespace-%s.yaml" % name,
              {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})

    def path(self, pod):
        return self.folder + "/pod-%s-%s.yaml" % (pod.namespace, pod.name)

    def pod(self, pod, mode=None, account=None):
        """@pod: a node.Pod. @mode: the value of the pod's own label, None for no label."""
        meta = {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
                "labels": {"app": pod.name}}
        if mode:
            meta["labels"][MODE] = mode
        status = {"phase": "Running", "podIP": pod.ip} if pod.ip else {"phase": "Pending"}
        write(self.path(pod), {
            "status": status,
            "apiVersion": "v1", "kind": "Pod", "metadata": meta,
            "spec": {"serviceAccountName": account or pod.name,
                     "containers": [{"name": "main", "image": "ambient.test/busybox:1"}]}})

    def remove(self, pod):
        os.unlink(self.path(pod))


class State:
    """ztunnel's local state file."""

    def __init__(self, path, node, trust_domain="cluster.local"):
        self.path, self.node, self.trust_domain = path, node, trust_domain
        self.workloads, self.services, self.policies = {}, {}, {}

    def workload(self, pod, account=None, mesh=True, services=None, policies=()):
        w = {"uid": "Kubernetes//Pod/%s/%s" % (pod.namespace, pod.name), "name": pod.name,
             "namespace": pod.namespace, "serviceAccount": account or pod.name,
             "trustDomain": self.trust_domain, "workloadIps": [pod.ip], "node": self.node,
             "workloadName": pod.name, "workloadType": "pod", "canonicalName": pod.name,
             "protocol": "HBONE" if mesh else "TCP", "clusterId": "Kubernetes",
             "services": services or {}}
        if policies:
            w["authorizationPolicies"] = list(policies)
        self.workloads[w["uid"]] = w

    def forget(self, pod):
        self.workloads.pop("Kubernetes//Pod/%s/%s" % (pod.namespace, pod.name), None)

    def service(self, name, namespace, vip, ports):
        host = "%s.%s.svc.cluster.local" % (name, namespace)
        self.services[host] = {"name": name, "namespace": namespace, "hostname": host,
                               "vips": ["/" + vip], "ports": ports}
        return "%s/%s" % (namespace, host)

    def policy(self, name, namespace, action, matches, scope="WorkloadSelector"):
        """One rule with one clause: any of @matches (dicts of match keys)."""
        self.policies[name] = {"name": name, "namespace": namespace, "scope": scope,
                               "action": action, "rules": [[matches]]}
        return "%s/%s" % (namespace, name)

    def principal(self, namespace, account):
        return exact("%s/ns/%s/sa/%s" % (self.trust_domain, namespace, account))

    def write(self):
        write(self.path, {"workloads": list(self.workloads.values()),
                          "services": list(self.services.values()),
                          "policies": list(self.policies.values())})
