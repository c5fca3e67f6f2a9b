#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""test_kube.py: ambient-agent with the Kubernetes API as its source: a scripted API server that misbehaves in every
way of docs/kubernetes.md, and pods that are network namespaces. Run as root."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from agent_lab import BIN, Pod, V2, main, namespace, run, test, until  # noqa: E402
from kube_api import NODE, Pki, kubeconfig, serve, source  # noqa: E402
from kube_lab import agent, cluster, config, current, object_of, running  # noqa: E402


def answers(w):
    """The socket is served, whatever it says."""
    try:
        return w.status()
    except (ConnectionRefusedError, FileNotFoundError):
        return False


def watch_again(api):
    """The server ends the watch of pods in order; waits for the next request."""
    n = len(api.asked("pods", True))
    api.watching()[0].finish = True
    until("the next watch", lambda: len(api.asked("pods", True)) > n)


def plain_add(w, p):
    """ADD of a pod that is not in the mesh."""
    status, a = w.cni(p.event())
    assert (status, a["outcome"]) == (200, "not-in-mesh"), (status, a)


def resident(w):
    with open("/proc/%d/statm" % w.pid()) as f:
        return int(f.read().split()[1]) * 4


# --- the picture, and live changes ---

def meshed(w):
    """(api, pod): a namespace in the mesh, a pod that runs in it and was not added yet; its agent has a ztunnel."""
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    return api, p


@test
def label_enrols_and_unlabel_releases_a_running_pod(w):
    api = cluster(w)
    p = running(w, api)
    agent(w, api)
    until("watching", lambda: len(api.watching()) == 1 and len(api.watching("namespaces")) == 1)
    serve(w.ready_ztunnel(V2))
    plain_add(w, p)
    at = api.label("pods", "default", "app", "ambient")
    until("annotated", lambda: api.annotation("default", "app") == "enabled")
    done = [t for t, _, name, value, _ in api.patches if name == "app" and value == "enabled"][0]
    print("# label event to annotation received: %.1f ms" % ((done - at) * 1000))
    assert w.state(p) == "enrolled" and p.has_rules()
    api.label("pods", "default", "app", None)
    until("annotation gone", lambda: api.annotation("default", "app") is None)
    # Peers are told at once; ztunnel serves on until they have heard.
    assert w.state(p) in ("pending", "not-in-mesh"), w.pod(p)
    until("out of the mesh", lambda: w.state(p) == "not-in-mesh")
    assert p.clean(), p.rules()
    # and by its namespace
    api.label("namespaces", "", "default", "ambient")
    until("enrolled by namespace", lambda: w.state(p) == "enrolled")
    assert [x[3] for x in api.patches] in (["enabled", None], ["enabled", None, "enabled"])


@test
def add_waits_for_the_watch_and_enrols(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    agent(w, api)
    z = w.ready_ztunnel(V2)
    p = Pod(w, "app")
    c = w.begin(p.event())
    api.put("pods", object_of(p))
    z.expect(1)
    z.ack()
    status, a = w.end(c)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    until("annotated", lambda: api.annotation("default", "app") == "enabled")


@test
def released_pods_lose_their_annotation(w):
    """--uninstall --release-pods: or istiod would go on telling the mesh that they speak HBONE."""
    api = cluster(w)
    p, q, r = running(w, api, mode="ambient"), running(w, api, name="plain"), running(w, api, mode="ambient", name="again")
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    for pod, outcome in ((p, "enrolled"), (q, "not-in-mesh"), (r, "enrolled")):
        status, a = w.cni(pod.event())
        assert (status, a["outcome"]) == (200, outcome), a
    until("annotated", lambda: api.annotation("default", "app") == api.annotation("default", "again") == "enabled")
    w.stop()

    def another_by_now(obj):
        obj["metadata"]["uid"] = "0"
    api.change("pods", "default", "again", another_by_now)
    for folder in ("conf", "bin"):
        os.mkdir(w.dir + "/" + folder)
    args = ("--cni-conf-dir", w.dir + "/conf", "--cni-bin-dir", w.dir + "/bin", "--source", "kubernetes", "--kubeconfig",
            w.dir + "/kubeconfig", "--node-name", NODE)
    n = len(api.patches)
    w.spawn("--uninstall", "--release-pods", *args)
    assert w.proc.wait(30) == 0, w.logged()
    assert api.annotation("default", "app") is None and p.clean() and r.clean(), p.rules()
    # one conflict may be others' changes of the same pod, several are not
    assert sorted((x[2], x[3], x[4]) for x in api.patches[n:]) == [("again", None, 409)] * 4 + [("app", None, 200)], api.patches[n:]
    text = w.logged()
    for pod, what in ((p, "released"), (q, "was not in the mesh"), (r, "released")):
        assert "%s pod=default/%s uid=%s" % (what, pod.name, pod.uid) in text, text


@test
def released_while_the_api_is_away(w):
    api = cluster(w)
    p = running(w, api, mode="ambient")
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    assert w.cni(p.event())[0] == 200
    w.stop()
    api.stop()
    for folder in ("conf", "bin"):
        os.mkdir(w.dir + "/" + folder)
    w.spawn("--uninstall", "--release-pods", "--cni-conf-dir", w.dir + "/conf", "--cni-bin-dir", w.dir + "/bin", "--source",
            "kubernetes", "--kubeconfig", w.dir + "/kubeconfig", "--node-name", NODE)
    assert w.proc.wait(30) == 1 and p.clean(), w.logged()
    w.proc = None
    assert "1 pods keep the annotation ambient.istio.io/redirection: " in w.logged()


@test
def other_nodes_pods_are_not_taken_even_when_the_server_sends_them(w):
    api = cluster(w)
    api.chosen = lambda r, obj: True
    p = Pod(w, "here")
    api.put("pods", object_of(p))
    api.put("pods", object_of(Pod(w, "there"), node="node-2"))
    api.put("pods", dict(object_of(Pod(w, "nowhere")), spec={}))
    agent(w, api)
    assert source(w)["pods"] == 1, source(w)
    q = [r.query for r in api.asked("pods")]
    assert all(x["fieldSelector"] == "spec.nodeName=" + NODE for x in q), q
    assert "fieldSelector" not in api.asked("namespaces")[0].query


@test
def lists_come_in_pages(w):
    api = cluster(w)
    for i in range(1203):
        api.put("namespaces", namespace("ns-%04d" % i))
    agent(w, api)
    assert source(w)["namespaces"] == 1205, source(w)
    lists = api.asked("namespaces", False)
    assert len(lists) == 3 and all(r.query["limit"] == "500" for r in lists), [r.query for r in lists]


@test
def five_thousand_namespaces_stay_small(w):
    api = cluster(w)
    agent(w, api)
    until("watching", lambda: len(api.watching("namespaces")) == 1)
    few = resident(w)
    api.stop()
    for i in range(5000):  # as large as real ones, with what their managers noted
        doc = namespace("ns-%04d" % i)
        doc["metadata"]["managedFields"] = [{"manager": "m%d" % j, "fieldsV1": {"f:" + "x" * 40 + str(k): {} for k in range(6)}}
                                            for j in range(3)]
        api.put("namespaces", doc)
    api.compact()
    api.start()
    until("listed", lambda: source(w)["namespaces"] == 5002 and current(w, api), 60)
    assert len(api.asked("namespaces", False)) == 1 + 11, len(api.asked("namespaces", False))
    many = resident(w)
    print("# resident while they are read: %d KiB with 2 namespaces, %d KiB with 5002" % (few, many))
    if "asan" not in BIN[0]:
        assert many < few + 4096, (few, many)
        # what only the start needed goes back when nothing happens
        until("at rest it is small: %d KiB" % resident(w), lambda: resident(w) < 5 * 1024, 60)
        print("# resident at rest: %d KiB" % resident(w))


@test
def deleted_objects_go_and_recreated_pods_are_new(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    agent(w, api)
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert w.state(p) == "enrolled"
    w.cni(p.event("DEL"))
    z.expect(2)
    z.ack()
    api.delete("pods", "default", "app")
    until("gone", lambda: source(w)["pods"] == 0)
    q = Pod(w, "app")
    assert q.uid != p.uid
    api.put("pods", object_of(q))
    (status, a), _, _ = w.add(q, z)
    assert status == 200 and w.pod(q)["uid"] == q.uid, a
    until("annotated", lambda: api.annotation("default", "app") == "enabled")


@test
def label_flapping_ends_as_the_api_says(w):
    api = cluster(w)
    p = running(w, api)
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    plain_add(w, p)
    until("watching", lambda: len(api.watching("namespaces")) == 1)
    fds = w.count_fds()
    for i in range(100):
        api.label("namespaces", "", "default", "ambient" if i % 2 == 0 else None)
    # the pod looks released before the first event, too: this one comes behind the last of them
    known = source(w)["namespaces"]
    api.put("namespaces", namespace("marker"))
    until("all events are in", lambda: source(w)["namespaces"] == known + 1)
    until("released", lambda: w.state(p) == "not-in-mesh" and api.annotation("default", "app") is None and p.clean())
    until("no descriptor leaked", lambda: w.count_fds() <= fds)
    api.label("namespaces", "", "default", "ambient")
    until("enrolled", lambda: w.state(p) == "enrolled" and api.annotation("default", "app") == "enabled")


@test
def selectors_of_ones_own_decide_and_are_followed(w):
    api = cluster(w)
    p, q = running(w, api), running(w, api, mode="ambient", name="other")
    agent(w, api, "--enablement-selector", "- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}\n"
          "  podSelector: {matchExpressions: [{key: mesh.example/tier, operator: In, values: [gold, silver]}]}\n")
    until("watching", lambda: len(api.watching()) == 1 and len(api.watching("namespaces")) == 1)
    serve(w.ready_ztunnel(V2))
    plain_add(w, p)
    plain_add(w, q)  # the built-in label means nothing now
    for value, state in (("gold", "enrolled"), ("silver", "enrolled"), ("tin", "not-in-mesh"), ("gold", "enrolled"), (None, "not-in-mesh")):
        def fn(obj, value=value):
            obj["metadata"]["labels"] = {"mesh.example/tier": value} if value else {}
        api.change("pods", "default", "app", fn)
        until("%s: %s" % (value, state), lambda state=state: w.state(p) == state)
    assert p.clean() and w.state(q) == "not-in-mesh"
    refused = refusal(w, "--source", "kubernetes", "--kubeconfig", config(w, api), "--node-name", NODE, "--enablement-selector",
                      "- podselector: {}")
    assert "--enablement-selector" in refused and "podselector" in refused, refused


# --- watches: resume, bookmarks, 410, garbage ---

@test
def watch_resumes_from_the_last_event_without_a_list(w):
    api = cluster(w)
    p = running(w, api)
    agent(w, api)
    until("watching", lambda: len(api.watching()) == 1)
    api.change("pods", "default", "app", lambda o: o["metadata"].setdefault("labels", {}).update(app="x"))
    version = api.version
    watch_again(api)
    r = api.asked("pods", True)[1]
    assert int(r.query["resourceVersion"]) <= version
    assert len(api.asked("pods", False)) == 1, "listed again"
    until("current", lambda: current(w, api))
    api.delete("pods", "default", "app")
    until("deletion seen", lambda: source(w)["pods"] == 0)
    assert p is not None


@test
def bookmarks_move_the_version(w):
    api = cluster(w, bookmarks=0.1)
    running(w, api)
    agent(w, api)
    until("watching", lambda: len(api.watching()) == 1)
    for i in range(20):  # of namespaces: the pods' watch hears nothing but bookmarks
        api.put("namespaces", namespace("other-%d" % i))
    version = api.version
    r = api.watching()[0]
    until("bookmark sent", lambda: getattr(r, "told", 0) >= version)
    watch_again(api)
    r = api.asked("pods", True)[1]
    assert r.query["allowWatchBookmarks"] == "true" and int(r.query["resourceVersion"]) >= version, r.query


@test
def gone_version_is_listed_anew_and_what_vanished_meanwhile_goes(w):
    api = cluster(w)
    running(w, api, name="a")
    running(w, api, name="b")
    agent(w, api)
    until("watching", lambda: len(api.watching()) == 1 and len(api.watching("namespaces")) == 1)
    api.stop()
    until("noticed", lambda: source(w)["error"] != "")
    assert source(w)["pods"] == 2
    api.delete("pods", "default", "a")
    running(w, api, name="c")
    running(w, api, name="d")
    api.compact()
    api.start()
    until("listed anew", lambda: source(w)["pods"] == 3 and current(w, api), 20)
    assert len(api.asked("pods", False)) == 2


@test
def gone_answered_by_status_and_between_pages(w):
    api = cluster(w, page=2)
    for i in range(5):
        running(w, api, name="p%d" % i)
    t = api.make_trouble(lambda r: r.status(410, "expired"), times=1, resource="pods", watch=True)
    u = api.make_trouble(lambda r: r.status(410, "continue expired") if "continue" in r.query else api.serve_list(r),
                         times=2, resource="pods", watch=False)
    agent(w, api)
    until("current", lambda: current(w, api) and source(w)["pods"] == 5, 20)
    assert t["hit"] == 1 and u["hit"] == 2


@test
def error_event_other_than_410_resumes_and_lists_after_a_few(w):
    api = cluster(w)
    running(w, api)

    def error(r):
        r.head()
        r.send(json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}}).encode()
               + b"\n", True)
    t = api.make_trouble(error, times=5, resource="pods", watch=True)
    agent(w, api)
    until("current", lambda: current(w, api), 30)
    assert t["hit"] == 5 and len(api.asked("pods", False)) == 2, (t["hit"], len(api.asked("pods", False)))


GARBAGE = {
    "not_json": b"<html>502 Bad Gateway</html>\n",
    "half_an_object": b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}\n',
    "no_version": b'{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n',
    "unknown_type": b'{"type":"EXPLODED","object":{"metadata":{"resourceVersion":"1"}}}\n',
    "version_with_a_newline": b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1\\n2"}}}\n',
    "nul": b"\0\0\0\0\n",
    "bad_utf8": b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"\xff"}}}\n',
    "deep": b'{"type":"ADDED","object":' + b"[" * 5000 + b"\n",
}


@test
def garbage_in_a_watch_is_a_new_list(w):
    api = cluster(w)
    running(w, api)
    agent(w, api)
    for n, (name, data) in enumerate(GARBAGE.items(), 1):
        def bad(r, data=data):
            r.head()
            r.send(data)
        until("watching", lambda: len(api.watching()) == 1)
        api.make_trouble(bad, resource="pods", watch=True)
        watch_again(api)
        until("current after " + name, lambda: current(w, api))
        assert len(api.asked("pods", False)) == n + 1, (name, len(api.asked("pods", False)))
        assert source(w)["pods"] == 1


@test
def garbage_lists_are_refused_and_the_last_picture_stays(w):
    api = cluster(w)
    running(w, api)
    agent(w, api)
    bodies = [b"", b"{}", b"null", b'{"kind":"PodList","items":[]}', b'{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{]}',
              b'{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{},]}',
              b'{"kind":"NamespaceList","metadata":{"resourceVersion":"7"},"items":[]}',
              b'{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[', b"[" * 100000]
    for body in bodies:
        def bad(r, body=body):
            r.head()
            r.send(body, True)
        until("watching", lambda: len(api.watching()) == 1)
        api.make_trouble(bad, resource="pods", watch=False)
        api.compact()
        watch_again(api)
        until("refused", lambda: api.trouble[-1]["left"] == 0)
        assert source(w)["pods"] == 1, body[:60]
        until("current", lambda: current(w, api))


@test
def connection_closed_in_the_middle_of_an_event(w):
    api = cluster(w)
    running(w, api)

    def half(r):
        r.head()
        r.send(b'{"type":"DELETED","object":{"metadata":{"name":"app","namespace":"default","resourceVersion":"99')
        r.conn.kill()
    api.make_trouble(half, resource="pods", watch=True)

    def half_ended(r):
        r.head()
        r.send(b'{"type":"DELETED","object":{"metadata":{"name":"app","name', True)
    api.make_trouble(half_ended, resource="pods", watch=True)

    def half_reset(r):
        r.head()
        r.send(b'{"type":"DELETED"')
        r.reset()
    api.make_trouble(half_reset, resource="pods", watch=True)
    agent(w, api)
    until("current", lambda: current(w, api), 20)
    assert source(w)["pods"] == 1 and len(api.asked("pods", False)) == 1


@test
def connection_closed_in_the_middle_of_a_list(w):
    api = cluster(w)
    running(w, api)

    def half(r):
        r.head()
        r.send(b'{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"na')
        r.conn.kill()
    t = api.make_trouble(half, times=2, resource="pods", watch=False)
    agent(w, api)
    until("current", lambda: current(w, api), 20)
    assert source(w)["pods"] == 1 and t["hit"] == 2


# --- load and refusals ---

@test
def retry_after_is_honoured(w):
    api = cluster(w)
    running(w, api)
    api.make_trouble(lambda r: r.status(429, "slow down", retry_after=2), resource="pods", watch=False)
    agent(w, api)
    a, b = api.asked("pods", False)[:2]
    assert 2.0 <= b.at - a.at < 8, b.at - a.at


@test
def server_errors_are_retried_with_growing_pauses(w):
    api = cluster(w)
    running(w, api)
    api.make_trouble(lambda r: r.status(500, "boom"), times=4, resource="namespaces", watch=False)
    agent(w, api)
    at = [r.at for r in api.asked("namespaces", False)]
    gaps = [b - a for a, b in zip(at, at[1:])]
    assert len(gaps) == 4, gaps
    for n, gap in enumerate(gaps):
        assert 0.1 * 2 ** n <= gap < 0.2 * 2 ** n + 3, gaps


@test
def slow_server_is_waited_for_and_silent_one_is_left(w):
    api = cluster(w)
    running(w, api)

    def slow(r):
        r.head()
        body = json.dumps({"kind": "PodList", "metadata": {"resourceVersion": "1001"}, "items": []}).encode()
        for i in range(len(body)):
            r.send(body[i:i + 1], i == len(body) - 1)
    api.make_trouble(slow, resource="pods", watch=False)
    agent(w, api)
    until("current", lambda: current(w, api), 20)


@test
def forbidden_says_what_is_needed(w):
    api = cluster(w)
    api.make_trouble(lambda r: r.status(403, 'pods is forbidden: cannot list resource "pods"'), times=2, resource="pods",
                     watch=False)
    agent(w, api)
    assert "answered 403: pods is forbidden" in w.logged()


@test
def rotated_token_is_read_again(w):
    api = cluster(w)
    running(w, api)
    agent(w, api)
    until("watching", lambda: len(api.watching()) == 1)
    api.token = "an0ther"
    with open(w.dir + "/token.new", "w") as f:
        f.write("an0ther")
    os.rename(w.dir + "/token.new", w.dir + "/token")
    watch_again(api)
    until("watching again", lambda: len(api.watching()) == 1, 15)
    assert api.asked("pods", True)[-1].headers["authorization"] == "Bearer an0ther"
    assert "t0ken" not in w.logged() and "an0ther" not in w.logged()


@test
def empty_token_file_keeps_the_last_token(w):
    api = cluster(w)
    running(w, api)
    agent(w, api)
    until("watching", lambda: len(api.watching()) == 1)
    api.token = "third"
    with open(w.dir + "/token", "w"):
        pass
    watch_again(api)
    until("401 was met", lambda: "401" in w.logged(), 15)
    assert source(w)["pods"] == 1
    with open(w.dir + "/token", "w") as f:
        f.write("third")
    until("current", lambda: current(w, api), 20)


@test
def client_certificate_and_inline_data(w):
    import base64
    api = cluster(w, token=None)
    running(w, api)
    api.tls.verify_mode = 2  # required from now on
    b64 = lambda b: base64.b64encode(b).decode()  # noqa: E731
    agent(w, api, token_file=None, user={"client-certificate-data": b64(api.pki.client_cert),
                                         "client-key-data": b64(api.pki.client_key)})
    until("current", lambda: current(w, api))
    assert "authorization" not in api.asked("pods")[0].headers


@test
def huge_objects_are_bounded(w):
    api = cluster(w)
    p = running(w, api)
    agent(w, api)
    until("watching", lambda: len(api.watching()) == 1)
    rss = resident(w)
    # as large as etcd takes: fine
    api.change("pods", "default", "app", lambda o: o["metadata"].setdefault("annotations", {}).update(x="y" * 1500000))
    api.label("pods", "default", "app", "ambient")
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    assert w.state(p) == "enrolled"
    # larger: the picture stays, the error says so
    big = object_of(Pod(w, "big"))
    big["metadata"]["annotations"] = {"x": "y" * 5000000}
    api.put("pods", big)
    until("refused", lambda: "more than 4194304 bytes" in source(w)["error"], 20)
    assert w.state(p) == "enrolled" and source(w)["pods"] == 1
    api.delete("pods", "default", "big")
    until("current", lambda: current(w, api), 60)
    now = resident(w)
    print("# resident: %d KiB before, %d KiB after" % (rss, now))
    if "asan" not in BIN[0]:
        assert now < rss + 32 * 1024, (rss, now)


@test
def unreadable_pod_keeps_what_was_known(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    agent(w, api)
    z = w.ready_ztunnel(V2)
    w.add(p, z)

    def odd(o):
        o["status"]["phase"] = "Sideways"
    api.change("pods", "default", "app", odd)
    until("named", lambda: "default/app" in source(w)["error"] and "Sideways" in source(w)["error"])
    api.compact()
    api.watching()[0].finish = True  # and a new list does not take it away either
    until("listed anew", lambda: len(api.asked("pods", False)) == 2 and len(api.watching()) == 1)
    assert w.state(p) == "enrolled" and source(w)["pods"] == 1
    api.change("pods", "default", "app", lambda o: o["status"].update(phase="Running"))
    until("well again", lambda: source(w)["error"] == "")


# --- the API away ---

@test
def api_away_keeps_the_picture_marked_stale_and_unknown_is_an_error(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    late = running(w, api, name="late")
    agent(w, api)
    z = w.ready_ztunnel(V2)
    until("watching", lambda: len(api.watching()) == 1 and len(api.watching("namespaces")) == 1)
    w.add(p, z)
    until("annotated", lambda: api.annotation("default", "app") == "enabled")
    api.stop()
    until("stale", lambda: source(w)["stale"] and source(w)["ageSeconds"] >= 2)
    assert "127.0.0.1" in source(w)["error"], source(w)
    # a pod of a known namespace that was known before starts
    (status, a), _, _ = w.add(late, z)
    assert (status, a["outcome"]) == (200, "enrolled"), a
    # what is not known is an error that the runtime retries
    status, a = w.cni(Pod(w, "stranger").event(deadlineMs=2500))
    assert status != 200 and a["code"] == 11, (status, a)
    assert w.state(p) == "enrolled"
    api.start()
    until("current", lambda: current(w, api), 40)
    assert len(api.asked("pods", False)) == 1, "resumed, not listed"
    until("annotated later", lambda: api.annotation("default", "late") == "enabled")


@test
def reconnecting_leaks_nothing(w):
    api = cluster(w, bookmarks=0.05)
    running(w, api)
    agent(w, api)
    until("current", lambda: current(w, api))
    fds, kib = w.count_fds(), 0
    for n in range(12):
        api.drop_connections()
        until("noticed", lambda: api.handshakes >= n + 2)
        until("current", lambda: current(w, api))
        watches = api.watching() + api.watching("namespaces")
        until("bookmarks", lambda: all(getattr(r, "told", 0) for r in watches))  # progress: the pauses stay short
        kib = kib or resident(w)
    until("no descriptor leaked", lambda: w.count_fds() <= fds)
    assert len(api.asked("pods", False)) == 1, "a lost connection is no reason to list"
    if "asan" not in BIN[0]:
        assert resident(w) < kib + 1024, (kib, resident(w))


@test
def start_without_the_api_waits_for_it(w):
    api = cluster(w)
    p = running(w, api, "ambient")
    config(w, api)
    api.stop()
    w.serves = lambda: answers(w)
    agent(w, api)
    until("tried", lambda: "Connection refused" in source(w)["error"])
    st = w.status()
    assert not st["ready"] and not st["source"]["synced"], st
    status, a = w.cni(p.event(deadlineMs=2000))
    assert status != 200, (status, a)
    api.start()
    until("synced", lambda: source(w)["synced"], 30)
    z = w.ready_ztunnel(V2)
    (status, a), _, _ = w.add(p, z)
    assert (status, a["outcome"]) == (200, "enrolled"), a


@test
def agent_restart_finds_its_pods_again(w):
    api = cluster(w)
    p = running(w, api, "ambient")
    agent(w, api)
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    until("annotated", lambda: api.annotation("default", "app") == "enabled")
    w.stop()
    w.peers.remove(z)
    z.close()
    api.label("pods", "default", "app", None)  # while nobody watches
    agent(w, api)
    serve(w.ztunnel(V2))
    until("released", lambda: w.state(p) == "not-in-mesh")
    until("annotation gone", lambda: api.annotation("default", "app") is None)
    assert p.clean()


# --- who the server is ---

def refused_server(w, api, word, **more):
    config(w, api, **more)
    w.serves = lambda: answers(w)
    agent(w, api, **more)
    until("refused", lambda: word in source(w)["error"])
    assert not api.requests, "asked something of a server that it must not trust"


@test
def certificate_of_another_authority_is_refused(w):
    api = cluster(w)
    os.mkdir(w.dir + "/other")
    other = Pki(w.dir + "/other")
    with open(w.dir + "/ca.crt", "wb") as f:
        f.write(other.ca)
    refused_server(w, api, "certificate is not valid")


@test
def certificate_for_another_name_is_refused(w):
    api = cluster(w)
    refused_server(w, api, "ostname mismatch", tls_server_name="other.test")


@test
def tls_server_name_is_what_is_checked(w):
    api = cluster(w)
    agent(w, api, tls_server_name="api.test")
    until("current", lambda: current(w, api))


@test
def server_may_have_a_name(w):
    api = cluster(w)
    path = config(w, api)
    with open(path) as f:
        text = f.read().replace("127.0.0.1", "localhost")
    with open(path, "w") as f:
        f.write(text)
    w.start("--source", "kubernetes", "--kubeconfig", path, "--node-name", NODE)
    until("current", lambda: current(w, api))
    assert source(w)["where"].startswith("https://localhost:"), source(w)
    # a name that nobody knows is an error, and no reason to stop answering
    w.stop()
    with open(path, "w") as f:
        f.write(text.replace("localhost", "no-such-host.invalid"))
    w.serves = lambda: answers(w)
    w.start("--source", "kubernetes", "--kubeconfig", path, "--node-name", NODE)
    until("said so", lambda: "look up no-such-host.invalid" in source(w)["error"], 30)


@test
def server_without_http2_is_named(w):
    api = cluster(w, alpn=["http/1.1"])
    refused_server(w, api, "HTTP/2")


@test
def plain_text_server_is_an_error(w):
    api = cluster(w, start=False)
    api.tls = None

    class Plain:
        def wrap_socket(self, sock, server_side):
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            raise OSError("plain")
    real_start = api.start
    real_start()
    api.tls = Plain()
    refused_server(w, api, "port %d" % api.port)


# --- write-back ---

@test
def hanging_patch_is_not_in_the_way_and_is_retried(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p, q = running(w, api), running(w, api, name="second")
    agent(w, api)
    z = w.ready_ztunnel(V2)
    api.make_trouble(lambda r: None, resource="status", method="PATCH")
    api.make_trouble(lambda r: r.status(500, "no"), times=2, resource="status", method="PATCH")
    w.add(p, z)
    at = time.monotonic()
    (status, a), _, _ = w.add(q, z)
    assert status == 200 and time.monotonic() - at < 5, a
    until("both annotated", lambda: all(api.annotation("default", n) == "enabled" for n in ("app", "second")), 30)


@test
def patch_names_the_uid_and_a_successor_is_not_touched(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    agent(w, api)
    z = w.ready_ztunnel(V2)
    held = []
    api.make_trouble(held.append, resource="status", method="PATCH")
    w.add(p, z)
    until("patch came", lambda: held)
    assert json.loads(held[0].body)["metadata"]["uid"] == p.uid
    api.delete("pods", "default", "app")
    api.put("pods", object_of(Pod(w, "app"), mode="none"))
    api.serve_patch(held[0])
    assert api.patches[-1][4] == 409
    assert api.annotation("default", "app") is None


@test
def a_successor_that_came_while_a_patch_was_under_way_is_annotated(w):
    api, p = meshed(w)
    held = []
    api.make_trouble(held.append, resource="status", method="PATCH")
    assert w.cni(p.event())[0] == 200
    until("patch came", lambda: held)
    api.delete("pods", "default", "app")
    q = running(w, api)
    status, a = w.cni(q.event())
    assert (status, a["outcome"]) == (200, "enrolled"), a
    api.serve_patch(held[0])
    assert api.patches[-1][4] == 409
    until("annotated", lambda: api.annotation("default", "app") == "enabled")


@test
def a_patch_that_met_with_others_changes_is_tried_again(w):
    api, p = meshed(w)
    conflict = {"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409, "message": "the object has been modified"}
    t = api.make_trouble(lambda r: r.answer(409, conflict), times=2, resource="status", method="PATCH")
    assert w.cni(p.event())[0] == 200
    until("annotated", lambda: api.annotation("default", "app") == "enabled")
    assert t["hit"] == 2


@test
def annotation_that_is_removed_before_the_patchs_answer_comes_back(w):
    api, p = meshed(w)
    held = []
    api.make_trouble(held.append, resource="status", method="PATCH")
    assert w.cni(p.event())[0] == 200
    until("patch came", lambda: held)
    notes = {"ambient.istio.io/redirection": "enabled"}
    api.change("pods", "default", "app", lambda o: o["metadata"].update(annotations=notes))
    api.change("pods", "default", "app", lambda o: o["metadata"].update(annotations={}))
    running(w, api, name="second")  # behind both
    until("both events are in", lambda: source(w)["pods"] == 2)
    held[0].answer(200, api.objects["pods"][("default", "app")])
    until("annotated", lambda: api.annotation("default", "app") == "enabled")


@test
def annotation_that_somebody_removed_comes_back(w):
    api = cluster(w)
    api.label("namespaces", "", "default", "ambient")
    p = running(w, api)
    agent(w, api)
    z = w.ready_ztunnel(V2)
    w.add(p, z)
    until("annotated", lambda: api.annotation("default", "app") == "enabled")
    api.change("pods", "default", "app", lambda o: o["metadata"]["annotations"].clear())
    until("annotated again", lambda: api.annotation("default", "app") == "enabled")
    n = len(api.patches)
    until("quiet", lambda: len(api.watching()) == 1)
    assert len(api.patches) == n


# --- settings ---

def refusal(w, *args, env=None):
    import subprocess
    e = dict(os.environ)
    for k in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "NODE_NAME"):
        e.pop(k, None)
    e.update(env or {})
    p = subprocess.run([BIN[0] + "/ambient-agent", "--cni-agent-run-dir", w.dir + "/run", "--ztunnel-uds-address", w.zds,
                        *args], stderr=subprocess.PIPE, env=e, text=True, timeout=20, check=False)
    assert p.returncode in (1, 2), p.returncode
    return p.stderr


@test
def settings_that_cannot_work_are_refused_with_a_sentence(w):
    api = cluster(w)
    assert "--node-name" in refusal(w, "--source", "kubernetes", "--kubeconfig", config(w, api))
    assert "KUBERNETES_SERVICE_HOST" in refusal(w, "--source", "kubernetes", "--node-name", NODE)
    assert "No such file" in refusal(w, "--kubeconfig", w.dir + "/none", "--node-name", NODE)
    path = config(w, api, token_file=None, user={"exec": {"command": "aws"}})
    out = refusal(w, "--kubeconfig", path, "--node-name", NODE)
    assert "users[0].user.exec (line 1)" in out and "never starts a program" in out and path in out, out
    assert "expected manifests or kubernetes" in refusal(w, "--source", "etcd")
    for odd in ("a:b", "relative", "/a:/b"):
        assert "absolute path of one file" in refusal(w, "--source", "kubernetes", "--node-name", NODE,
                                                      env={"KUBECONFIG": odd})
    # an administrator's shell is no reason not to start with manifests
    w.start(env={"KUBECONFIG": "a:b"})
    assert source(w)["kind"] == "manifests" and "stale" not in source(w)


@test
def in_cluster_settings_are_taken_without_a_flag(w):
    api = cluster(w)
    running(w, api)
    account = w.dir + "/account"
    os.mkdir(account)
    run("cp", w.dir + "/ca.crt", account)
    with open(account + "/token", "w") as f:
        f.write(api.token)
    import subprocess
    env = dict(os.environ, KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT=str(api.port), NODE_NAME=NODE)
    env.pop("KUBECONFIG", None)
    # its own mount namespace: /var/run/secrets is where a pod has it
    script = ("mount -t tmpfs none /mnt && mkdir -p /mnt/kubernetes.io && ln -s %s /mnt/kubernetes.io/serviceaccount && "
              "mkdir -p /var/run/secrets && mount --bind /mnt /var/run/secrets && exec %s/ambient-agent "
              "--cni-agent-run-dir %s/run --state-dir %s/state --ztunnel-uds-address %s --host-probes=off --log debug"
              % (account, BIN[0], w.dir, w.dir, w.zds))
    w.proc = subprocess.Popen(["nsenter", "--net=/var/run/netns/" + w.host, "unshare", "-m", "sh", "-c", script],
                              stderr=w.log, env=env)
    until("synced", w.serves)
    assert source(w)["kind"] == "kubernetes" and source(w)["pods"] == 1, source(w)


@test
def hundred_pods_by_one_namespace_label(w):
    api = cluster(w)
    pods = [running(w, api, name="p%d" % i) for i in range(100)]
    agent(w, api)
    serve(w.ready_ztunnel(V2))
    for p in pods:
        plain_add(w, p)
    at = api.label("namespaces", "", "default", "ambient")
    until("all annotated", lambda: sum(1 for x in list(api.patches) if x[3] == "enabled" and x[4] == 200) >= 100, 60)
    times = sorted(x[0] - at for x in api.patches)
    print("# namespace label event to annotation received, 100 pods: first %.1f ms, median %.1f ms, last %.1f ms"
          % (times[0] * 1000, times[50] * 1000, times[99] * 1000))
    assert all(x["state"] == "enrolled" for x in w.status()["pods"])


if __name__ == "__main__":
    sys.exit(main())
