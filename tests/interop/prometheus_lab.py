# SPDX-License-Identifier: Apache-2.0
"""prometheus_lab.py: a real Prometheus (Debian's package) as a process of the test in one network namespace, with its own
data directory, asked through its HTTP API; and Istio's dashboards from the Go module that tests/interop/istio pins."""
import json
import os
import re
import shutil
import subprocess
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
INTERVAL_S = 1  # between scrapes
WINDOW_S = 20  # of a rate; Grafana takes four intervals, which a busy machine may not fill
PORT = 19090


def program():
    """Path of Prometheus, or None."""
    return shutil.which("prometheus")


def dashboards():
    """The folder with Istio's dashboards, or None where the module was never downloaded."""
    with open(HERE + "/istio/go.mod") as f:
        version = re.search(r"istio\.io/istio (v\S+)", f.read()).group(1)
    cache = os.environ.get("GOMODCACHE") or os.path.join(
        (os.environ.get("GOPATH") or os.path.expanduser("~/go")).split(":")[0], "pkg/mod")
    path = os.path.join(cache, "istio.io/istio@" + version, "manifests/addons/dashboards")
    return path if os.path.isdir(path) else None


class Panel:
    """One query of a dashboard: @labels are those that the legend shows."""

    def __init__(self, title, expr, legend):
        self.title, self.expr, self.legend = title, expr, legend
        self.labels = re.findall(r"{{\s*(\w+)\s*}}", legend)
        bare = re.sub(r'"[^"]*"|\b(?:by|without|on|ignoring)\s*\([^)]*\)', "", expr)
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
        self.metrics = {m for m in re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", bare) if "_" in m and not m.startswith("label_")}

    def query(self, **variables):
        text = self.expr.replace("$__rate_interval", "%ds" % WINDOW_S)
        for name, value in variables.items():
            text = re.sub(r"\$%s\b" % name, value, text)
        return text


def panels(path):
    """Every query of a dashboard's file."""
    with open(path) as f:
        todo, found = json.load(f)["panels"], []
    for p in todo:
        todo += p.get("panels", [])
        found += [Panel(p["title"], t["expr"], t.get("legendFormat", "")) for t in p.get("targets", []) if t.get("expr")]
    return found


class Prometheus:
    """@inside(*argv) gives the words that run a program in the namespace; @connect() a socket to PORT there; @targets is
    {job: (port, labels)}, scraped on loopback."""

    def __init__(self, folder, inside, connect, targets):
        self.connect, self.folder = connect, folder
        os.mkdir(folder)
        config = {"global": {"scrape_interval": "%ds" % INTERVAL_S, "scrape_timeout": "%ds" % INTERVAL_S}, "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": ["127.0.0.1:%d" % port], "labels": labels}]}
            for job, (port, labels) in targets.items()]}
        with open(folder + "/prometheus.yml", "w") as f:
            json.dump(config, f)
        with open(folder + "/log", "wb") as log:
            self.proc = subprocess.Popen(
                inside(program(), "--config.file=" + folder + "/prometheus.yml", "--storage.tsdb.path=" + folder + "/data",
                       "--storage.tsdb.retention.time=1h", "--web.listen-address=127.0.0.1:%d" % PORT),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"})

    def said(self):
        with open(self.folder + "/log", errors="replace") as f:
            return f.read()

    def ask(self, path, **query):
        """(status, document) of one request."""
        if self.proc.poll() is not None:
            raise AssertionError("Prometheus ended: " + self.said()[-3000:])
        query = urllib.parse.urlencode(query, doseq=True)
        data = b""
        with self.connect() as s:
            s.sendall(("GET /api/v1/%s?%s HTTP/1.0\r\nHost: localhost\r\n\r\n" % (path, query)).encode())
            d = s.recv(65536)
            while d:
                data += d
                d = s.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        return status, json.loads(body) if b"json" in head else {}

    def get(self, path, **query):
        status, doc = self.ask(path, **query)
        assert status == 200, (path, query, status, doc)
        return doc["data"]

    def query(self, text):
        """[(labels, value)] of an instant query; one that does not parse fails with what Prometheus says."""
        data = self.get("query", query=text)
        assert data["resultType"] == "vector", data
        return [(r["metric"], float(r["value"][1])) for r in data["result"]]

    def healthy(self):
        """Scraped well: each target is up, and Prometheus read the whole of what it got (late is no answer yet)."""
        try:
            status, doc = self.ask("targets", state="active")
        except OSError:
            return False
        if status == 503:
            return False  # it starts
        targets = doc["data"]["activeTargets"]
        assert all(not t["lastError"] or "deadline exceeded" in t["lastError"] for t in targets), targets
        return bool(targets) and all(t["health"] == "up" for t in targets)

    def types(self):
        """{family: type} as scraped."""
        return {m["metric"]: m["type"] for m in self.get("targets/metadata")}

    def labels(self, name):
        """The label names that all series of a metric have, without those of the target."""
        series = self.get("series", **{"match[]": name})
        return [set(s) - {"__name__", "instance", "job", "pod", "app"} for s in series]

    def close(self):
        self.proc.kill()
        self.proc.wait()
