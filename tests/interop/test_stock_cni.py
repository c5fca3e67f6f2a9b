#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_stock_cni.py: Istio's CNI plugin with our agent, our plugin with Istio's agent, and Istio's agent with our ztunnel
(cni-spec 1.7, 4 and 7), against a real API server. STOCK_ISTIO_CNI and STOCK_INSTALL_CNI name the programs; what is
absent is skipped. Run as root."""
import json
import os
import shutil
import subprocess
import sys

from interop_lab import OurZtunnel, bridge, echo, end, mesh_state, stock, works
import dnslab
from agent_lab import BIN, PORTS, V2, main, test, until
from dnslab import Net
from kube_api import NODE, kubeconfig, serve
from kube_server import ADMIN, API, Cluster, agent

SELECTORS = [{"podSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}}},
             {"namespaceSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}},
              "podSelector": {"matchExpressions": [{"key": "istio.io/dataplane-mode", "operator": "NotIn",
                                                    "values": ["none"]}]}}]


def call(w, program, conf, pod, command="ADD"):
    """Runs a plugin as a runtime would, in the node's namespace; returns (exit code, answer)."""
    conf = dict(conf, cniVersion="1.0.0", name="net",
                prevResult={"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path}],
                            "ips": [{"address": pod.ip + "/24", "gateway": "10.77.0.254", "interface": 0}]})
    env = {"CNI_COMMAND": command, "CNI_CONTAINERID": pod.cid, "CNI_NETNS": pod.path, "CNI_IFNAME": "eth0",
           "CNI_PATH": "/none", "PATH": os.environ["PATH"],
           "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=%s;K8S_POD_NAMESPACE=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s"
                       % (pod.name, pod.ns, pod.cid, pod.uid)}
    p = subprocess.run(["nsenter", "--net=/var/run/netns/" + w.host, program], input=json.dumps(conf), env=env,
                       text=True, capture_output=True, check=False, timeout=60)
    return p.returncode, p.stdout, p.stderr


@test
def stock_plugin_drives_our_agent(w):
    """POST /cmdadd from the real plugin: a pod of the mesh is enrolled, another passes, a failure reaches the runtime."""
    plugin = stock("istio-cni")
    c = Cluster(w)
    p, q, r = c.pod(w, "app", mode="ambient"), c.pod(w, "plain"), c.pod(w, "late", mode="ambient")
    agent(w)
    z = w.ready_ztunnel(V2)
    serve(z)
    kubeconfig(w.dir + "/run/istio-cni-kubeconfig", "https://127.0.0.1:%d" % API, w.dir + "/ca.crt", token=ADMIN)
    conf = {"type": "istio-cni", "plugin_log_level": "debug", "cni_agent_run_dir": w.dir + "/run",
            "ambient_enabled": True, "enablement_selectors": SELECTORS, "exclude_namespaces": ["kube-system"],
            "ipam": {}, "dns": {}}
    code, out, err = call(w, plugin, conf, p)
    assert code == 0 and json.loads(out)["ips"][0]["address"] == p.ip + "/24", (code, out, err)
    assert w.state(p) == "enrolled" and p.has_rules() and p.listening() == PORTS
    until("annotated", lambda: c.annotation("app") == "enabled", 60)
    code, out, err = call(w, plugin, conf, q)
    assert code == 0, (out, err)
    assert not q.has_rules() and q.listening() == ()
    w.stop()
    code, out, err = call(w, plugin, conf, r)
    assert code != 0 and "failed to contact node Istio CNI agent" in out, (code, out, err)
    assert r.clean(), "a failed ADD leaves nothing"
    code, out, err = call(w, plugin, conf, p, "DEL")
    assert code == 0, (out, err)


class StockAgent:
    """install-cni as process 1 of a node, in a root of its own: it wants its host below /host, its token where a pod has it,
    and a kubelet to be there (here a program of that name that sleeps: it is asked for its user only)."""

    def __init__(self, w, c):
        self.w, self.c = w, c
        self.root = w.dir + "/root"
        self.program = stock("install-cni")
        stock("istio-cni")
        self.started = []
        self.log = open(w.dir + "/stock.log", "w+")
        for d in ("host/proc", "host/opt/cni/bin", "host/etc/cni/net.d", "host/var/run/netns", "opt/cni/bin", "tmp",
                  "var/run/istio-cni", "var/run/ztunnel", "var/run/netns", "var/run/secrets/kubernetes.io/serviceaccount",
                  "proc", "sys", "dev", "usr", "etc"):
            os.makedirs(self.root + "/" + d)
        for d in ("bin", "sbin", "lib", "lib64"):
            os.symlink("usr/" + d, self.root + "/" + d)
        os.symlink("var/run", self.root + "/run")
        shutil.copy(stock("istio-cni"), self.root + "/opt/cni/bin/istio-cni")
        with open(self.root + "/host/etc/cni/net.d/10-net.conflist", "w") as f:
            json.dump({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}, f)
        account = self.root + "/var/run/secrets/kubernetes.io/serviceaccount/"
        shutil.copy(w.dir + "/ca.crt", account + "ca.crt")
        for name, text in (("token", ADMIN), ("namespace", "istio-system")):
            with open(account + name, "w") as f:
                f.write(text)
        shutil.copy("/bin/sleep", w.dir + "/kubelet")
        self.events = self.root + "/var/run/istio-cni/pluginevent.sock"
        self.zds = self.root + "/var/run/ztunnel/ztunnel.sock"

    def start(self):
        binds = "".join("mount --rbind %s %s/%s && " % (a, self.root, b) for a, b in (
            ("/usr", "usr"), ("/etc", "etc"), ("/proc", "proc"), ("/proc", "host/proc"), ("/sys", "sys"), ("/dev", "dev"),
            ("/run/netns", "host/var/run/netns"), ("/run/netns", "var/run/netns")))
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "KUBERNETES_SERVICE_HOST": "127.0.0.1",
               "KUBERNETES_SERVICE_PORT": str(API), "AMBIENT_ENABLED": "true", "NODE_NAME": NODE,
               "POD_NAME": "istio-cni-node-x", "POD_NAMESPACE": "istio-system", "NATIVE_NFTABLES": "true",
               "AMBIENT_ENABLEMENT_SELECTOR": json.dumps(SELECTORS), "CHAINED_CNI_PLUGIN": "true",
               "EXCLUDE_NAMESPACES": "kube-system", "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP": "true",
               "AMBIENT_DNS_CAPTURE": "true"}  # as its chart has it
        shutil.copy(self.program, self.root + "/install-cni")
        self.started.append(subprocess.Popen(
            ["nsenter", "--net=/var/run/netns/" + self.w.host, "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "--propagation", "private", "sh", "-c", binds + "(%s/kubelet 600 &) && "
             "exec chroot %s /install-cni --log_output_level=default:debug" % (self.w.dir, self.root)],
            env=env, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL))
        until("the stock agent listens", lambda: self.alive() and os.path.exists(self.events)
              and os.path.exists(self.zds), 120)
        until("its plugin is installed", lambda: self.alive() and os.path.exists(
            self.root + "/var/run/istio-cni/istio-cni-kubeconfig"), 90)

    def alive(self):
        if self.started[-1].poll() is not None:
            raise AssertionError("the stock agent ended with %d" % self.started[-1].returncode)
        return True

    def said(self):
        self.log.flush()
        with open(self.w.dir + "/stock.log", errors="replace") as f:
            return f.read()

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind:
            for line in self.said().splitlines()[-50:]:
                print("# stock: " + line)
        end(*self.started)
        self.log.close()


@test
def our_plugin_and_ztunnel_with_the_stock_agent(w):
    """Our plugin asks Istio's agent, which sends the pods to our ztunnel: both neighbours of the stock agent are ours."""
    c = Cluster(w)
    a, b, q = c.pod(w, "a", mode="ambient"), c.pod(w, "b", mode="ambient"), c.pod(w, "plain")
    bridge(w, (a, b, q))
    mesh_state(w.dir + "/state.yaml", (a, b), [{"name": "web", "namespace": "default", "vips": ["/10.96.0.9"],
                                                "hostname": "web.default.svc.cluster.local", "ports": {"80": 80}}])
    with StockAgent(w, c) as s:
        s.start()
        zt = OurZtunnel(w, s.zds)
        server = echo(b)
        try:
            conf = {"type": "ambient-cni", "agent_socket": s.events, "agent_api": "istio"}
            for p in (a, b):
                code, out, err = call(w, BIN[0] + "/ambient-cni", conf, p)
                assert code == 0, (code, out, err)
                assert p.has_rules() and set(PORTS) <= set(p.listening()), (p.rules(), p.listening())
            until("annotated by the stock agent", lambda: c.annotation("a") == c.annotation("b") == "enabled", 60)
            code, out, err = call(w, BIN[0] + "/ambient-cni", conf, q)
            assert code == 0 and not q.has_rules(), (code, out, err)
            until("traffic", lambda: works(a, b), 60)
            net = Net(a.netns)
            for tcp in (False, True):  # its rules lead there
                assert dnslab.ask(net, "10.77.0.200", "web", tcp=tcp).ips() == ["10.96.0.9"]
            net.close()
            until("HBONE in our access log", lambda: any(
                "/sa/sa-a" in l and "/sa/sa-b" in l and ":15008" in l for l in zt.said().splitlines()), 60)
            c.label("/api/v1/namespaces/default/pods/b", None)
            until("released by the stock agent", lambda: not b.has_rules(), 90)
            until("our ztunnel has let go of it", lambda: b.listening() == (8080,), 90)
        except BaseException:
            print("# ztunnel: " + zt.said()[-3000:].replace("\n", "\n# "))
            raise
        finally:
            end(server)
            zt.stop()


if __name__ == "__main__":
    sys.exit(main())
