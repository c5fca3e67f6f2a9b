#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_stock_state.py: a stock ztunnel takes the file that ambientctl export-state writes (ztunnel-spec 9.9): services,
identities and policies of it are in force. STOCK_ZTUNNEL names its program; without it all is skipped. Run as root."""
import os
import sys

from interop_lab import ca, end, stock, stock_env
from agent_lab import Skip
import kube_api  # noqa: E402, from tests/system, as the two below
import test_export as export  # noqa: E402
import ztlab  # noqa: E402
import ztsite  # noqa: E402
from ztlab import wait_for  # noqa: E402
from ztsite import check, refused, works  # noqa: E402


def start_stock(w, program):
    """With ztunnel's environment in the lab, and a CA that speaks Istio's protocol: stock has none of its own."""
    w.lab.bin = program
    w.lab.extra_env = stock_env(w.dir)
    return ca(w.lab.node.name, w.dir), w.lab.start()


@export.within()
def stock_ztunnel_takes_the_exported_file(w):
    try:
        program = stock("ztunnel")
    except Skip as e:
        raise ztlab.Skip(str(e))
    w.lab.agent.close()
    w.lab.agent = ztlab.Agent(os.path.join(w.dir, "zds.sock"), 1)
    a, b, c = (w.lab.pod(n, i) for n, i in (("a", 2), ("b", 3), ("c", 4)))
    b.serve(8080, ztlab.double_echo)
    b.serve(8081, ztlab.double_echo)
    w.api.missing.clear()
    for p in (a, b, c):
        w.api.put("pods", export.pod(p.name, p.ip, annotations=export.HBONE))
    w.api.put("pods", export.pod("host", "10.77.0.1", labels={"app": "x", "version": "1e5"}))
    w.api.change("pods", "default", "host", lambda o: o["spec"].update(hostNetwork=True))
    w.api.put("nodes", {"metadata": {"name": "node1", "labels": {"topology.kubernetes.io/region": "eu"}}})
    echo = export.service("echo", "10.96.0.7", "b")
    echo["spec"].update(trafficDistribution="PreferClose", publishNotReadyAddresses=True, ipFamilies=["IPv4"])
    w.api.put("services", echo)
    w.api.put("services", {"metadata": {"name": "out", "namespace": "default"},
                           "spec": {"clusterIP": "10.96.0.8", "ports": [{"name": "x", "port": 90}]}})
    w.api.put("endpointslices", {"metadata": {"name": "out-1", "namespace": "default",
                                              "labels": {"kubernetes.io/service-name": "out"}},
                                 "ports": [{"name": "x", "port": 91}], "endpoints": [{"addresses": ["192.0.2.1"]}]})
    source = {"principals": ["cluster.local/ns/default/sa/a", "x*", "*y"], "notNamespaces": ["z"],
              "ipBlocks": ["10.77.0.0/24"], "notIpBlocks": ["192.0.2.1", "fd00::/8"], "notServiceAccounts": ["z/z", "y"]}
    w.api.put(export.POLICIES, export.policy("only-a", selector={"matchLabels": {"app": "b"}}, rules=[
        {"from": [{"source": source}], "to": [{"operation": {"ports": ["8080"]}}],
         "when": [{"key": "source.principal", "values": ["*"]}]}]))
    w.api.put(export.POLICIES, export.policy("nobody", ns="other"))
    w.api.put("peerauthentications", {"metadata": {"name": "m", "namespace": "istio-system"},
                                      "spec": {"mtls": {"mode": "STRICT"}}})
    r = w.once("--file", w.file)
    check(r.returncode == 0, r.stderr)
    ca, zt = start_stock(w, program)
    try:
        wait_for("a reaches b by the service", lambda: works(a, "10.96.0.7", 80))
        check(works(a, b.ip), "by its own address")
        check(refused(c, b.ip), "the policy names a only")
        check(refused(a, b.ip, 8081), "and one port only")
        check(not zt.lines("error", "failed to parse"), zt.log()[-2000:])
    except BaseException:
        print("# " + zt.log()[-3000:].replace("\n", "\n# "))
        raise
    finally:
        end(ca)


if __name__ == "__main__":
    sys.exit(ztsite.main([stock_ztunnel_takes_the_exported_file]))
