# SPDX-License-Identifier: Apache-2.0
"""steps.py: the demo's steps, in order. Each says what it does, why it matters, and what was seen."""
import concurrent.futures
import os
import signal
import time

from cri import node, private, product, wire
from cri.daemon import wait_until
from cri.lab import PORT, Talk
from stage import BATCH, BIG_BYTES, MARKER, RELEASE_LIMIT, VIP
from story import shown

LOOPS, BATCH_SIZE, AWAY_S = 4, 50, 2


def _access(story, line):
    """An access-log line, cut to what the step is about."""
    shown = ["src.workload", "src.identity", "dst.workload", "dst.identity", "dst.addr",
             "dst.hbone_addr", "direction", "bytes_sent", "bytes_recv", "duration", "error"]
    story.quote("access log: " + " ".join("%s=%s" % (k, line[k]) for k in shown if k in line),
                wrap=True)


def start(story, s):
    story.step("Start a node: containerd, the CNI chain, the agent, ztunnel",
               "The runtime, the reference plugins and the calls are those under a kubelet. It all lives in "
               "namespaces of its own, so this machine is left as it was.")
    story.do("containerd with the chain [bridge, ambient-cni]; ambient-agent with a directory of "
             "manifests; ztunnel with a state file and its development CA")
    s.manifests.namespace("shop", "ambient")
    s.manifests.namespace("legacy")
    s.start()
    v = s.node.cri.call("Version")
    story.saw("%s %s is ready; agent pid %d; ztunnel pid %d, ready on port 15021"
              % (v.runtime_name, v.runtime_version, s.agent.pid, s.ztunnel.pid))
    story.check(s.agent.journal() == [], "the agent's journal is empty", "no attachments yet")


def create(story, s):
    story.step("Create four pods through the Container Runtime Interface",
               "A pod joins the mesh while its network is set up: no sidecar, no restart, no change to "
               "its manifest. The label of its namespace is all.")
    story.do("namespace shop is labelled istio.io/dataplane-mode=ambient: server, client, stranger; "
             "namespace legacy is not: plain")
    for name, ns in (("server", "shop"), ("client", "shop"), ("stranger", "shop"),
                     ("plain", "legacy")):
        began = time.monotonic()
        p = s.pod(name, ns, page="hello from %s, %s" % (name, MARKER))
        story.saw("%s/%s: sandbox and container in %.0f ms, address %s, agent says: %s"
                  % (ns, name, 1000 * (time.monotonic() - began), p.ip, s.agent.state(p)))
    for name in ("server", "client", "stranger"):
        p = s.pods[name]
        state, ports = s.agent.state(p), product.listeners(p)
        story.check(state == "enrolled" and {15001, 15006, 15008} <= set(ports),
                    "%s is enrolled: rules are there, ports %s listen in its network namespace"
                    % (name, ", ".join(map(str, ports))),
                    "pod %s enrolled with listeners on 15001, 15006, 15008 (agent: %s, ports: %s)"
                    % (name, state, ports))
    left = product.rules(s.pods["plain"]) + str(product.listeners(s.pods["plain"]) or "")
    story.check(left == "", "plain has no table, rule, route or listener of ours",
                "an untouched namespace (found: %s)" % left)


def describe(s):
    """The mesh as a control plane would describe it, with the addresses that the runtime gave."""
    st, pods = s.state, s.pods
    service = st.service("server", "shop", VIP, {80: PORT})
    only = st.policy("callers-of-server", "shop", "Allow", [
        {"principals": [st.principal("shop", "client"), st.principal("legacy", "plain")]}])
    st.workload(pods["server"], services={service: {80: PORT}}, policies=[only])
    st.workload(pods["client"])
    st.workload(pods["stranger"])
    st.workload(pods["plain"], mesh=False)
    s.write_state()


def talk(story, s):
    client, server = s.pods["client"], s.pods["server"]
    story.step("HTTP between two pods that know nothing of TLS",
               "Both speak plain HTTP on port %d. What is between them is mutual TLS, with an identity "
               "for each side, made from its service account." % PORT)
    describe(s)
    story.do("record the pods' bridge; in client: wget %s, and the service address http://%s/"
             % (s.url(server), VIP))
    since = s.ztunnel.mark()
    s.record("http")
    for url in (s.url(server), "http://%s/" % VIP):
        good, body = s.get(client, url)
        story.check(good and MARKER in body, "%s answered: %s" % (url, body),
                    "a page with %s from %s" % (MARKER, url))
    lines = s.ztunnel.wait_access(since, "client to server, inbound", src_addr=client.ip,
                                  direction="inbound")
    lines += s.ztunnel.wait_access(since, "client to server, outbound", src_addr=client.ip,
                                   direction="outbound")
    for line in lines[:1] + lines[-1:]:
        _access(story, line)
    wanted = "spiffe://cluster.local/ns/shop/sa/client"
    story.check(all(x.get("src.identity") == wanted for x in lines if x["direction"] == "inbound"),
                "server's side checked who called: " + wanted, "the identity %s in the log" % wanted)
    only_tls(story, s.recorded(server), server, client)


def only_tls(story, capture, a, b, kept=True, cut_ok=False):
    """Reads a capture back: everything between two pods must be whole TLS records on port 15008;
    @cut_ok: the last record of a connection may be cut, because its sender was killed."""
    got = wire.summary(capture.path, a.ip, b.ip, cut_ok=cut_ok)
    plain = wire.count_text(capture.path, MARKER.encode())
    story.check(got.packets > 0 and not got.problems and set(got.ports) == {15008},
                "on the bridge between %s and %s: %d packets, %d bytes, port 15008 only; every byte "
                "in TLS records (%s)" % (a.name, b.name, got.packets, got.bytes, ", ".join(
                    "%d %s" % (n, k) for k, n in sorted(got.records.items()))),
                "only TLS on port 15008 (ports %s; %s; lost by the capture: %d)"
                % (got.ports, "; ".join(got.problems[:3]) or "no other problem", capture.lost))
    story.check(plain == 0, "the text %s, in every answer, is nowhere in the capture%s"
                % (MARKER, " (%s)" % shown(capture.path) if kept else ""),
                "no plaintext (found %d times)" % plain)


def transfer(story, s):
    client, server = s.pods["client"], s.pods["server"]
    story.step("One large transfer, checksummed",
               "Every byte must arrive once and in order, through TLS and HTTP/2 and two relays.")
    story.do("in server: a file of %d MB, the marker repeated; in client: wget | sha256sum"
             % (BIG_BYTES // 1000000))
    _st, made, _e = server.sh("yes %s | head -c %d > /www/big; sha256sum < /www/big"
                              % (MARKER, BIG_BYTES), timeout=180)
    s.record("transfer")
    began = time.monotonic()
    _st, got, err = client.sh("wget -q -O - %s | sha256sum" % s.url(server, "/big"), timeout=180)
    took = time.monotonic() - began
    capture = s.recorded(server)
    story.check(got == made, "same checksum on both sides (%s...), %.1f s, %.1f Gbit/s with the capture "
                "and both checksums" % (got[:16], took, BIG_BYTES * 8 / took / 1e9),
                "checksum %s (got %s %s)" % (made.strip(), got.strip(), err.strip()))
    if capture.lost:
        # The kernel may drop packets of a capture, never of the connection; then only the text counts.
        found = wire.count_text(capture.path, MARKER.encode())
        story.check(found == 0, "the capture missed %d packets; in the %d MB it has, no plaintext"
                    % (capture.lost, os.path.getsize(capture.path) // 1000000), "no plaintext")
    else:
        only_tls(story, capture, server, client, kept=False)
    os.unlink(capture.path)
    server.sh("rm /www/big")


def deny(story, s):
    stranger, server = s.pods["stranger"], s.pods["server"]
    story.step("A pod that the policy does not name",
               "stranger has a certificate, but server's policy allows only client and plain. The check is "
               "on the receiving side, with the identity that TLS proved.")
    story.do("in stranger: wget " + s.url(server))
    since = s.ztunnel.mark()
    good, said = s.get(stranger, s.url(server))
    story.check(not good, "refused: " + said, "a refusal (got: %s)" % said)
    line = s.ztunnel.wait_access(since, "the refusal", src_addr=stranger.ip, direction="inbound")[0]
    _access(story, line)
    story.check("polic" in line.get("error", ""), "the log says why: " + line["error"],
                "an error that names the policy (line: %s)" % line["line"])


def probe(story, s):
    server = s.pods["server"]
    story.step("The kubelet's health probes",
               "A probe is plaintext from the node itself and can have no identity. It must pass, or every "
               "enrolled pod would be restarted; nothing else may use that door.")
    story.do("from the node, GET %s as root, the user of the kubelet (here a process of that name "
             "stands in for it), then as another user" % s.url(server))
    good, body = s.probe(s.url(server))
    story.check(good, "as the kubelet's user: " + body, "an answer (got: %s)" % body)
    found = product.host_probes()
    story.check(len(found) == 3, "the node's exemption lists the %d enrolled pods" % len(found),
                "three addresses (has: %s)" % found)
    good, said = s.probe(s.url(server), user=65534)
    story.check(not good, "as another user: " + said, "a refusal (got: %s)" % said)


def outside(story, s):
    client, server, plain = s.pods["client"], s.pods["server"], s.pods["plain"]
    story.step("A pod outside the mesh",
               "Pods that are not enrolled keep working as before, in the clear. It also shows that the "
               "capture would have seen plaintext.")
    story.do("in client: wget %s; in plain: wget %s" % (s.url(plain), s.url(server)))
    s.record("plain-before")
    good, body = s.get(client, s.url(plain))
    story.check(good, "client reaches plain: " + body, "an answer (got: %s)" % body)
    got, capture = None, s.recorded(plain)
    got = wire.summary(capture.path, client.ip, plain.ip)
    seen = wire.count_text(capture.path, MARKER.encode())
    story.check(PORT in got.ports and 15008 not in got.ports and seen > 0,
                "port %d on the bridge, and the text %s is readable there" % (PORT, MARKER),
                "plaintext on port %d (ports: %s)" % (PORT, got.ports))
    good, said = s.get(plain, s.url(server))
    story.check(not good, "plain cannot prove who it is, so server's policy refuses it: " + said,
                "a refusal (got: %s)" % said)


def enrol(story, s):
    client, server, plain = s.pods["client"], s.pods["server"], s.pods["plain"]
    story.step("Enrol the running pod by a label",
               "A pod moves into the mesh, and its traffic to port 15008, while it runs: the container's "
               "process stays the same, and no open connection breaks.")
    before = plain.identity()
    talks = [Talk(s.pods["stranger"], plain, 9000), Talk(plain, s.pods["stranger"], 9001)]
    story.do("open a connection in each direction between plain and stranger, and keep it busy; then "
             "change plain's manifest: label istio.io/dataplane-mode=ambient")
    began = time.monotonic()
    s.manifests.pod(plain, mode="ambient")
    s.agent.wait_state(plain, "enrolled")
    story.saw("enrolled after %.0f ms" % (1000 * (time.monotonic() - began)))
    story.check(plain.identity() == before, "the container is still process %d" % before[0],
                "the same process %s (now %s)" % (before, plain.identity()))
    story.saw("the connections that were open before still echo: %d and %d lines"
              % tuple(t.goes_on() for t in talks))
    for t in talks:
        t.end()
    story.do("tell ztunnel, as a control plane would when it sees the pod enrolled: plain speaks HBONE")
    s.state.workload(plain)
    s.write_state()
    s.record("plain-after")
    for source, target in ((client, plain), (plain, server)):
        good, body = s.get(source, s.url(target))
        story.check(good, "%s reaches %s: %s" % (source.name, target.name, body),
                    "an answer (got: %s)" % body)
    capture = s.recorded(plain)
    only_tls(story, capture, client, plain)
    only_tls(story, capture, plain, server)


def _waiting(pod, port):
    """Connections in the accept queue of a listening port."""
    out = pod.in_netns("ss", "-Hltn", "sport = :%d" % port)
    return sum(int(line.split()[1]) for line in out.splitlines())


def kill(story, s):
    client, server = s.pods["client"], s.pods["server"]
    story.step("Kill ztunnel under load",
               "The agent holds a second handle of every listening socket. Without ztunnel the kernel still "
               "accepts: new connections wait instead of being refused, and nothing leaves in the clear.")
    url = s.url(server)
    s.start_load(client, url, LOOPS)
    wait_until("the load to run", lambda: s.load(client)[0] >= 50, 90)
    story.do("%d loops of new connections; SIGKILL to ztunnel; %d more connections at once; ztunnel back "
             "after %d s" % (LOOPS, BATCH_SIZE, AWAY_S))
    s.record("killed")
    old = s.ztunnel.pid
    s.ztunnel.kill()
    gone = time.monotonic()
    count = s.load(client)[0]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        batch = pool.submit(client.sh, "set -- %d %s\n%s" % (BATCH_SIZE, url, BATCH), timeout=150)
        waiting = wait_until("the new connections to wait", lambda: (
            lambda n: n if n >= BATCH_SIZE else 0)(_waiting(client, 15001)), 60)
        story.saw("ztunnel (pid %d) is gone; %d connections wait in the accept queue of port 15001"
                  % (old, waiting))
        time.sleep(max(0.0, AWAY_S - (time.monotonic() - gone)))
        story.check(not batch.done(), "after %d s none of them was refused" % AWAY_S,
                    "connections that wait")
        s.ztunnel.start()
        away = time.monotonic() - gone
        out = batch.result(180)[1].split("\n")
    ok = sum(1 for line in out if line == "ok")
    story.check(ok == BATCH_SIZE, "ztunnel is back (pid %d) after %.1f s: all %d of %d connections "
                "were answered" % (s.ztunnel.pid, away, ok, BATCH_SIZE),
                "%d answers (got %d; others: %s)" % (BATCH_SIZE, ok, sorted(set(out) - {"ok", ""})))
    wait_until("the load to go on", lambda: s.load(client)[0] >= count + 50, 90)
    total, errors = s.stop_load(client)
    refused = [e for e in errors if "refused" in e or "can't connect" in e]
    story.check(not refused and len(errors) <= LOOPS,
                "the loops: %d requests answered, 0 refused; %d had been in the middle of an answer when "
                "ztunnel died, and were cut" % (total, len(errors)),
                "no refused connection and at most %d cut ones (%s)" % (LOOPS, errors[:6]))
    only_tls(story, s.recorded(server), client, server, cut_ok=True)
    return "%d connections waited for a killed ztunnel and all were answered; none was refused" % ok


def ask(story, s):
    story.step("Ask the node what it is doing",
               "An operator sees what is enrolled, with which rules, sockets and certificate, from the "
               "daemons themselves.")
    for words in (["status"], ["pods"]):
        story.do("ambientctl " + " ".join(words))
        status, out, err = product.ctl(s.bin, *words)
        story.quote(out + err, limit=40)
        story.check(status == 0, "exit status 0", "exit status 0 (got %d: %s)" % (status, err))


def release(story, s):
    client, plain = s.pods["client"], s.pods["plain"]
    story.step("Take the running pod out of the mesh again",
               "What enrolment put into the pod's network namespace can be taken out without a trace, and "
               "what was promised to travel encrypted must not go on in the clear.")
    before = plain.identity()
    had = len(product.rules(plain).splitlines())
    talk = Talk(plain, s.pods["stranger"], 9002)
    s.record("release")
    story.do("keep a connection from plain to stranger busy, through the mesh; change plain's manifest: no "
             "label; tell ztunnel that plain speaks plain TCP")
    s.manifests.pod(plain)
    s.agent.wait_state(plain, "pending")
    talk.goes_on()
    began = time.monotonic()
    s.agent.wait_state(plain, "not-in-mesh")
    wait_until("plain's connection through the mesh to end", talk.ended)
    story.saw("its connection went on, through the mesh, for %.1f s; the limit is %s here (--release-limit, 30s by "
              "default)" % (time.monotonic() - began, RELEASE_LIMIT))
    clear = wire.count_text(s.recorded(plain).path, talk.text.encode())
    story.check(clear == 0, "then it ended, rather than going on in the clear; none of its lines is readable on "
                "the bridge", "no line in the clear (found: %d)" % clear)
    s.state.workload(plain, mesh=False)
    s.write_state()
    left = product.rules(plain)
    story.check(had > 0 and left == "", "%d lines of tables, rules and routes before, none now" % had,
                "an empty namespace (before: %d lines, now: %s)" % (had, left))
    wait_until("the mesh's ports to close", lambda: not product.listeners(plain))
    good, body = s.get(client, s.url(plain))
    story.check(good and plain.identity() == before,
                "same process %d, still answering: %s" % (before[0], body), "an answer: " + body)


def delete(story, s, fds):
    story.step("Delete the pods",
               "A mesh that leaks namespaces, addresses or descriptors fills a node in a week.")
    story.do("StopPodSandbox and RemovePodSandbox for all four; remove their manifests")
    for p in list(s.pods.values()):
        s.remove(p)
    s.write_state()
    s.agent.wait_forgotten()
    left = s.node.leftovers()
    story.check(left == [], "no sandbox, network namespace, veth or address is left",
                "nothing (left: %s)" % left)
    story.check(s.agent.journal() == [], "no attachment in the agent's journal",
                "an empty journal (left: %s)" % s.agent.journal())
    now = wait_until("the agent to close its descriptors",
                     lambda: (lambda f: f if f == fds else None)(product.descriptors(s.agent)), 60)
    story.check(now == fds, "the agent holds what it held before the first pod: %s" % now,
                "descriptors as before: %s" % fds)
    own = os.readlink("/proc/self/ns/net")

    def nets():
        return [f for f in s.ztunnel.fds() if f.startswith("net:") and f != own]
    wait_until("ztunnel to let go of the pods' network namespaces", lambda: nets() == [])
    story.check(nets() == [], "ztunnel holds no pod's network namespace", "none (it has %s)" % nets())
    probes = product.host_probes()
    story.check(probes == [], "no pod's address is left in the node's probe exemption",
                "empty sets (left: %s)" % probes)


def stop(story, s):
    story.step("Stop the mesh",
               "An orderly stop takes away what is left of it on the node, too.")
    story.do("SIGTERM to ztunnel and agent, then containerd")
    z, a = s.ztunnel.stop(signal.SIGTERM), s.agent.stop(signal.SIGTERM)
    story.check((z, a) == (0, 0), "both ended with status 0", "status 0 (ztunnel %s, agent %s)" % (z, a))
    s.node.stop()
    cgroups = [d for d in private.cgroup_dirs(private.name())
               for _r, dirs, _f in os.walk(d) if dirs]
    story.check(not cgroups, "no container is left; %s is deleted with this node's namespaces" %
                node.BRIDGE, "empty cgroups (%s)" % cgroups)


def play(story, s):
    """All steps; returns the sentences of the summary."""
    facts = []
    start(story, s)
    fds = product.descriptors(s.agent)
    create(story, s)
    talk(story, s)
    transfer(story, s)
    deny(story, s)
    probe(story, s)
    outside(story, s)
    enrol(story, s)
    facts.append(kill(story, s))
    ask(story, s)
    release(story, s)
    delete(story, s, fds)
    stop(story, s)
    return ["two pods talked over mutual TLS without knowing; between enrolled pods the bridge carried TLS only",
            "one pod was refused by policy, one joined and left the mesh while it ran"] + facts
