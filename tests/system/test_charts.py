#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_charts: the Helm charts: lint, the plain manifests are what they render, values of Istio's charts are honoured or
refused by name, and what the pods may do. Needs helm: `make helm`."""
import os
import subprocess
import sys
import tempfile

import yaml

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HELM = os.environ.get("HELM") or os.path.join(TREE, ".cache/helm/bin/helm")
CNI, ZT = "install/helm/ambient-cni", "install/helm/ztunnel"


def helm(*argv):
    return subprocess.run([HELM, *argv], cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def render(chart, *sets, version="1.34.0"):
    args = [x for s in sets for x in ("--set", s)]
    return helm("template", "x", chart, "-n", "mesh", "--kube-version", version, *args)


def objects(chart, *sets, **kw):
    p = render(chart, *sets, **kw)
    assert p.returncode == 0, p.stderr
    return [d for d in yaml.safe_load_all(p.stdout) if d]


def one(docs, kind):
    return next(d for d in docs if d["kind"] == kind)


def pod(chart, *sets, **kw):
    return one(objects(chart, *sets, **kw), "DaemonSet")["spec"]["template"]["spec"]


def env(container):
    return {e["name"]: e.get("value") for e in container["env"]}


def lint():
    p = helm("lint", "--strict", CNI, ZT)
    assert p.returncode == 0, p.stdout + p.stderr


def manifests_are_current():
    with tempfile.TemporaryDirectory(prefix="test_charts.") as d:
        subprocess.run([TREE + "/install/manifests/render.sh", HELM, d], check=True)
        for name in ("ambient-cni.yaml", "ztunnel.yaml"):
            with open(f"{d}/{name}", encoding="utf-8") as a, open(f"{TREE}/install/manifests/{name}", encoding="utf-8") as b:
                assert a.read() == b.read(), f"{name} is not what the chart renders: run make manifests"


def refused():
    rows = [
        (CNI, "ambient.enabled=false"), (CNI, "ambient.ipv6=false"),
        (CNI, "chained=false"), (CNI, "provider=multus"), (CNI, "global.platform=openshift"),
        (CNI, "updateStrategy.rollingUpdate.maxSurge=1"), (CNI, "global.resourceScope=some"),
        (CNI, "ambient.enablementSelectors[0].podSelector.matchLabels.a=b"),
        (ZT, "xdsAddress=istiod:15012"), (ZT, "caAddress=istiod:15012"), (ZT, "peerCaCrl.enabled=true"),
        (ZT, "meshState.source=file"), (ZT, "devCA.secretName="), (ZT, "resourceScope=some"),
        (CNI, "cniConfDirectory=/c"), (CNI, "ambient.dnsCaptur=true"), (ZT, "xdsAdress=istiod:15012"),
        (ZT, "devCA.secret=x"), (ZT, "meshState.kind=istiod"), (ZT, "multiCluster.cluster=c"),
    ]
    for chart, value in rows:
        p = render(chart, value)
        name = value.split("=")[0].split("[")[0]
        # The schema names a misspelt value by its last part.
        said = name in p.stderr or f"'{name.split('.')[-1]}' not allowed" in p.stderr
        assert p.returncode != 0 and said, (value, p.returncode, p.stderr)
    p = render(ZT, "meshState.source=istiod", "env.CA_ADDRESS=")
    assert p.returncode != 0 and "CA_ADDRESS" in p.stderr, p.stderr


def honoured():
    e = env(pod(CNI, "istioOwnedCNIConfig=false", "cniConfFileName=10-x.conflist", "excludeNamespaces={a,b}",
                "global.logAsJson=true", "logging.level=all:debug\\,cni:info", "replaceIstioCni=true", "env.X=y")["containers"][0])
    want = {"AMBIENT_INSTALL_CNI": "chained", "CNI_CONF_NAME": "10-x.conflist", "EXCLUDE_NAMESPACES": "a,b",
            "LOG_FORMAT": "json", "AMBIENT_LOG": "debug,cni=info", "AMBIENT_REPLACE_ISTIO_CNI": "true", "X": "y"}
    assert want.items() <= e.items(), e
    paths = {v["name"]: v["hostPath"]["path"] for v in pod(CNI, "global.platform=k3s", "cniConfDir=/c")["volumes"]}
    assert paths["cni-bin-dir"] == "/var/lib/rancher/k3s/data/cni" and paths["cni-net-dir"] == "/c", paths
    z = pod(ZT, "hub=h", "tag=t", "network=n", "multiCluster.clusterName=c", "logLevel=debug", "resourceName=z")
    assert z["serviceAccountName"] == "z" and z["containers"][0]["image"] == "h/ztunnel:t"
    want = {"NETWORK": "n", "ISTIO_META_CLUSTER_ID": "c", "RUST_LOG": "debug"}
    assert want.items() <= env(z["containers"][0]).items()


def istiod():
    """Facts of Istio's ztunnel chart: addresses, token and root; only what istiod needs is there."""
    source, names = "meshState.source=istiod", ["XDS_ADDRESS", "CA_ADDRESS"]
    own = "https://istiod.istio-system.svc:15012"
    rows = [  # values, XDS_ADDRESS, CA_ADDRESS
        ([], own, own),
        (["revision=canary"], *["https://istiod-canary.istio-system.svc:15012"] * 2),
        (["istioNamespace=other"], *["https://istiod.other.svc:15012"] * 2),
        (["xdsAddress=a:1"], "a:1", own), (["caAddress=b:1"], own, "b:1"),
        (["global.xdsAddress=a:1", "global.caAddress=b:1"], "a:1", "b:1"),
        (["global.caAddress=b:1", "caAddress=c:1", "env.XDS_ADDRESS=d:1"], "d:1", "c:1"),
    ]
    for values, *want in rows:
        e = env(pod(ZT, source, *values)["containers"][0])
        assert [e[n] for n in names] == want and "LOCAL_XDS_PATH" not in e, (values, e)
    lists = pod(ZT, source, "peerCaCrl.enabled=true")
    mounts = {m["name"]: m["mountPath"] for m in lists["containers"][0]["volumeMounts"]}
    assert env(lists["containers"][0])["CRL_PATH"] == mounts["crl-volume"] + "/ca-crl.pem", mounts
    assert {"name": "istio-ca-crl", "optional": True} in [v.get("configMap") for v in lists["volumes"]], lists["volumes"]
    docs = objects(ZT, source, "global.network=n", "global.multiCluster.clusterName=c", "global.hub=h", "global.tag=t")
    assert {d["kind"] for d in docs} == {"ServiceAccount", "DaemonSet"}
    t = one(docs, "DaemonSet")["spec"]["template"]
    spec, (c,) = t["spec"], t["spec"]["containers"]
    assert t["metadata"]["labels"]["app"] == "ztunnel" and spec["serviceAccountName"] == "ztunnel"
    assert {"NETWORK": "n", "ISTIO_META_CLUSTER_ID": "c"}.items() <= env(c).items() and c["image"] == "h/ztunnel:t"
    fields = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in c["env"] if "fieldRef" in e.get("valueFrom", {})}
    assert fields == {"NODE_NAME": "spec.nodeName", "POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace",
                      "INSTANCE_IP": "status.podIP", "SERVICE_ACCOUNT": "spec.serviceAccountName"}, fields
    token = {"path": "istio-token", "expirationSeconds": 43200, "audience": "istio-ca"}
    root = {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}
    assert spec["automountServiceAccountToken"] is False
    assert spec["volumes"][1:] == [{"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}}, root]
    mounts = {m["name"]: m["mountPath"] for m in c["volumeMounts"] if m.get("readOnly")}
    assert mounts == {"istiod-ca-cert": "/var/run/secrets/istio", "istio-token": "/var/run/secrets/tokens"}, mounts
    assert pod(ZT, source, "trustBundleName=x")["volumes"][2]["configMap"] == {"name": "x"}
    bundle = pod(ZT, source, "env.ENABLE_CLUSTER_TRUST_BUNDLE_API=true")["volumes"][2]["projected"]["sources"]
    assert bundle == [{"clusterTrustBundle": {"name": "istio.io:istiod-ca:root-cert", "path": "root-cert.pem"}}], bundle
    for other in ("kubernetes", "configMap"):
        p = pod(ZT, "meshState.source=" + other)
        assert "LOCAL_XDS_PATH" in env(p["containers"][0]) and not set(names) & set(env(p["containers"][0])), other
        assert not {"istio-token", "istiod-ca-cert"} & {v["name"] for v in p["volumes"]}, other


def apparmor():
    new, old = pod(CNI)["containers"][0], objects(CNI, version="1.29.0")
    assert new["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
    t = one(old, "DaemonSet")["spec"]["template"]
    assert "appArmorProfile" not in t["spec"]["containers"][0]["securityContext"]
    assert "unconfined" in str(t["metadata"]["annotations"])


def least_privilege():
    agent, zt = pod(CNI), pod(ZT)
    assert agent["hostNetwork"] and agent["hostPID"] and not zt.get("hostNetwork") and not zt.get("hostPID")
    for spec in (agent, zt):
        for c in spec["containers"]:
            s = c["securityContext"]
            assert s["privileged"] is False if "privileged" in s else not s["allowPrivilegeEscalation"], c["name"]
            assert s["readOnlyRootFilesystem"] and s["capabilities"]["drop"] == ["ALL"], c["name"]
            assert s["seccompProfile"] == {"type": "RuntimeDefault"}, c["name"]
    tokens = [c["name"] for c in zt["containers"] if any("secrets" in m["mountPath"] for m in c["volumeMounts"])]
    assert zt["automountServiceAccountToken"] is False and tokens == ["mesh-state"], tokens
    for chart in (CNI, ZT):
        for rule in one(objects(chart), "ClusterRole")["rules"]:
            assert set(rule["verbs"]) <= {"list", "watch"} or rule == {
                "apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]}, rule
            assert "secrets" not in rule["resources"] and "*" not in rule["resources"] + rule["apiGroups"], rule
    assert not [d for d in objects(ZT, "meshState.source=configMap") if d["kind"].startswith("ClusterRole")]


def uninstall():
    ds = one(objects(CNI, "uninstall=true"), "DaemonSet")
    c = ds["spec"]["template"]["spec"]["containers"][0]
    assert c["args"] == ["--uninstall", "--release-pods", "--stay"] and "readinessProbe" not in c
    assert ds["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "100%"


def scopes():
    cluster = {"ClusterRole", "ClusterRoleBinding"}
    for chart, value in ((CNI, "global.resourceScope"), (ZT, "resourceScope")):
        assert {d["kind"] for d in objects(chart, value + "=cluster")} == cluster
        assert not {d["kind"] for d in objects(chart, value + "=namespace")} & cluster


def main():
    if not os.access(HELM, os.X_OK):
        print("1..0 # SKIP charts: no helm; `make helm` builds it")
        return 0
    tests = [lint, manifests_are_current, refused, honoured, istiod, apparmor, least_privilege, uninstall, scopes]
    failed = 0
    for n, fn in enumerate(tests, 1):
        try:
            fn()
            print(f"ok {n} - charts: {fn.__name__}", flush=True)
        except Exception as e:  # every failure is reported, then the next test runs
            failed += 1
            text = str(e).replace("\n", "\n# ")
            print(f"not ok {n} - charts: {fn.__name__}\n# {type(e).__name__}: {text}", flush=True)
    print(f"1..{len(tests)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
