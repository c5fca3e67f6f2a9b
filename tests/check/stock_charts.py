#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""stock_charts.py: docs/stock-charts.md has a row for every value of Istio's charts istio-cni and ztunnel, and for every
profile, and no row for anything else; the agent refuses what it says is refused. The charts are those of the Go module
that tests/interop/istio pins; where it was never downloaded, they are not compared.  usage: stock_charts.py BIN_FOLDER
"""
import os
import re
import subprocess
import sys

import tap

DOC = "docs/stock-charts.md"
# Values of Istio's other charts, which share the profiles; and names inside of values that are free.
OTHERS = ("pilot", "gateways", "meshConfig", "istiodRemote", "telemetry", "configMap", "experimental", "trustedZtunnelNamespace",
          "global.proxy", "global.waypoint", "global.omitSidecarInjectorConfigMap")
# How the refused values reach the programs: templates/configmap-cni.yaml and daemonset.yaml.
REFUSED = {"istio-cni": ("ambient-agent", "install-cni", {"chained": {"CHAINED_CNI_PLUGIN": "false"},
                                                          "ambient.enabled": {"AMBIENT_ENABLED": "false"}}),
           "ztunnel": ("ztunnel", "ztunnel", {})}


def charts():
    with open(os.path.join(tap.ROOT, "tests/interop/istio/go.mod")) as f:
        version = re.search(r"istio\.io/istio (v\S+)", f.read()).group(1)
    cache = os.environ.get("GOMODCACHE") or os.path.join(
        (os.environ.get("GOPATH") or os.path.expanduser("~/go")).split(":")[0], "pkg/mod")
    return os.path.join(cache, "istio.io/istio@" + version, "manifests/charts")


def leaves(values, before=""):
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, before + name + ".")
        else:
            yield before + name


def load(path):
    import yaml
    with open(path) as f:
        return yaml.safe_load(f) or {}


def values_of(folder):
    """All values that a chart knows: its defaults, what its templates read, what its profiles set."""
    found = set(leaves(load(folder + "/values.yaml")["_internal_defaults_do_not_set"]))
    for name in os.listdir(folder + "/templates"):
        with open(os.path.join(folder, "templates", name)) as f:
            text = f.read()
        used = re.findall(r"\.Values\.([A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*)", text)
        used += ["global." + x for x in re.findall(r"\.Values\.global\)\.(\w+)", text)]
        used += re.findall(r"\$\.Values\)\.(\w+)", text) + [".".join(x) for x in re.findall(r"\.Values\.(\w+)\)\.(\w+)", text)]
        found |= {u for u in used if u not in ("global", "defaults") and not any(f.startswith(u + ".") for f in found)}
    chart = os.path.basename(folder).replace("istio-", "")
    for name in profiles(folder):
        for path in leaves(load("%s/files/profile-%s.yaml" % (folder, name))):
            own, _, rest = path.partition(".")
            if own == chart:
                found.add(rest)
            elif own not in ("cni", "ztunnel") and not path.startswith(OTHERS):
                found.add(path)
    return found


def profiles(folder):
    """Names of the files that profile, platform and compatibilityVersion choose."""
    return {n[len("profile-"):-len(".yaml")] for n in os.listdir(folder + "/files") if n.startswith("profile-")}


def tables(doc):
    """{heading: [(names, how they are taken)]} of the tables below `### heading`."""
    found = {}
    for part in doc.split("\n### ")[1:]:
        rows = [line.split("|")[1:4] for line in part.splitlines() if line.startswith("| `")]
        found[part.split("\n")[0].strip()] = [([n.split(":")[0] for n in re.findall(r"`([^`]+)`", r[0])], r[1].strip())
                                              for r in rows]
    return found


def faults(rows, known):
    """What is wrong between the documented @rows and the @known names."""
    said = {n for names, _ in rows for n in names}
    for k in sorted(known):
        if not any(k == s or k.startswith(s + ".") for s in said):
            yield "%s has no row" % k
    for s in sorted(said):
        # A row may name a part of a value that templates read with a path of its own.
        if not any(k == s or k.startswith(s + ".") or s.startswith(k + ".") for k in known):
            yield "%s: the chart has no such value" % s
    for names, here in rows:
        if here not in ("honoured", "no effect", "refused"):
            yield "%s: %r is not one of honoured, no effect, refused" % (names[0], here)


def refused(rows, folder, chart):
    """The program, as the chart starts it, ends and names the value."""
    program, name, how = REFUSED[chart]
    said = {names[0] for names, here in rows if here == "refused"}
    if said != set(how):
        yield "the table refuses %s, the check knows how to ask for %s" % (sorted(said), sorted(how))
    for value in said & set(how):
        p = subprocess.run([name], executable=os.path.abspath(folder) + "/" + program, capture_output=True, text=True, timeout=20,
                           check=False, env={"PATH": os.environ["PATH"], **how[value]})
        if p.returncode not in (1, 2) or "value %s of Istio's chart" % value not in p.stderr:
            yield "%s: exit %d, %s" % (value, p.returncode, p.stderr.strip())


def main():
    t = tap.Tap()
    doc = tables(tap.read(DOC))
    sample = [(["a.b"], "honoured"), (["c"], "refused"), (["d"], "perhaps"), (["e"], "no effect")]
    said = list(faults(sample, {"a.b.x", "c", "d", "f"}))
    t.ok([s.split(" ")[0].strip(":") for s in said] == ["f", "e", "d"], "self-test: a value without a row, a row without a value, "
         "a row that says nothing", said)
    wrong = [x for chart in REFUSED for x in refused(doc[chart], sys.argv[1], chart)]
    t.ok(not wrong, "values that are refused end agent and ztunnel by their names", wrong)
    folder = charts()
    for chart in ("istio-cni", "ztunnel"):
        name = "every value of Istio's chart %s has a row, and every row a value" % chart
        if not os.path.isdir(folder):
            t.skip(name, "no charts: the Go module istio.io/istio was not downloaded")
            continue
        wrong = list(faults(doc[chart], values_of(os.path.join(folder, chart))))
        wrong += list(faults(doc["Profiles"], profiles(os.path.join(folder, chart))))
        t.ok(not wrong, name, wrong)
    t.finish()


if __name__ == "__main__":
    sys.exit(main())
