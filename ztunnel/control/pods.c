/* SPDX-License-Identifier: Apache-2.0
 * pods.c: see pods.h.
 *
 * A pod's certificate is that of the workload found for (name, namespace, service account) in the
 * mesh state (ztunnel-spec 3.9), so it may come, change or be missing at any time; the workers hold
 * connections for a while when it is missing. One that was there once and is gone is not assumed
 * again.
 */
#include "ztunnel/control/pods.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/os/netns.h"
#include "lib/wire/tls.h"
#include "lib/wire/zds.h"
#include "ztunnel/control/certs.h"
#include "ztunnel/control/credential_fd.h"
#include "ztunnel/data/worker.h"
#include "ztunnel/mesh/assume.h"
#include "ztunnel/mesh/mesh.h"
#include "ztunnel/observe/metrics.h"

/* Whose the DNS proxy's sockets in a pod are. */
enum dns_mode { DNS_NONE, DNS_OWN, DNS_GIVEN };

struct pod {
	struct hnode h;
	struct pods *pods;
	char *uid, *name, *ns, *sa;
	struct netns_id netns;
	ino_t sockets[MESH_L_N];
	ino_t dns[MESH_DNS_N]; /* when given; else 0 */
	enum dns_mode dns_mode;
	struct cert_sub cert;
	struct tls_identity *current; /* what the workers have (reference), NULL: nothing */
	struct workload *assumed;     /* what the workers take it for (reference) */
	bool seen;		      /* the mesh state has held its workload */
	unsigned int epoch;
};

struct pods {
	struct workers *workers;
	struct certs *certs;
	struct listener_opts opts;
	const struct assume_node *node;
	const struct dns_config *dns;
	struct mesh *mesh;
	struct htab table;
};

static struct pod *find(const struct pods *p, const char *uid);

static void on_wanted(void *ctx, const char *uid)
{
	struct pod *pod = find(ctx, uid);

	if (pod != NULL)
		certs_waited(&pod->cert);
}

struct pods *pods_new(struct workers *w, struct certs *certs, const struct listener_opts *opts,
		      const struct assume_node *node, const struct dns_config *dns)
{
	struct pods *p = xcalloc(1, sizeof(*p));

	p->workers = w;
	p->certs = certs;
	p->opts = *opts;
	p->node = node;
	p->dns = dns;
	htab_init(&p->table);
	workers_on_wanted(w, on_wanted, p);
	return p;
}

static void pod_free(struct pod *pod)
{
	certs_unsubscribe(pod->pods->certs, &pod->cert);
	if (pod->current != NULL)
		tls_identity_unref(pod->current);
	workload_unref(pod->assumed);
	htab_remove(&pod->pods->table, &pod->h);
	free(pod->uid);
	free(pod->name);
	free(pod->ns);
	free(pod->sa);
	free(pod);
}

struct pods *pods_free(struct pods *p)
{
	if (p == NULL)
		return NULL;
	htab_for_each (n, &p->table)
		pod_free(container_of(n, struct pod, h));
	workers_on_wanted(p->workers, NULL, NULL);
	htab_fini(&p->table);
	mesh_unref(p->mesh);
	free(p);
	return NULL;
}

static struct pod *find(const struct pods *p, const char *uid)
{
	struct hnode *n = htab_first(&p->table, hash_str(str_of(uid)));

	for (; n != NULL; n = htab_next(n)) {
		struct pod *pod = container_of(n, struct pod, h);

		if (strcmp(pod->uid, uid) == 0)
			return pod;
	}
	return NULL;
}

static void on_cert(struct cert_sub *s, struct tls_identity *id)
{
	struct pod *pod = container_of(s, struct pod, cert);

	if (pod->current != NULL)
		tls_identity_unref(pod->current);
	pod->current = id != NULL ? tls_identity_ref(id) : NULL;
	workers_pod_identity(pod->pods->workers, pod->uid, id);
}

static void assume(struct pod *pod, struct workload *w)
{
	if (w == NULL && pod->assumed == NULL)
		return;
	workload_unref(pod->assumed);
	pod->assumed = w;
	workers_pod_assume(pod->pods->workers, pod->uid, w);
}

/* The pod's identity as far as it is known: by the mesh state, else by the agent. */
static const char *look_up(struct pod *pod)
{
	const struct pods *p = pod->pods;
	struct str name = str_of(pod->name), ns = str_of(pod->ns), sa = str_of(pod->sa);
	struct workload *w = p->mesh == NULL ? NULL : mesh_local_workload(p->mesh, name, ns, sa);

	if (w != NULL) {
		pod->seen = true;
		assume(pod, NULL);
		return w->identity;
	}
	if (p->mesh == NULL || pod->seen)
		return NULL;
	w = assume_workload(p->mesh, p->node, name, ns, sa);
	if (w != NULL && pod->assumed != NULL && strcmp(w->identity, pod->assumed->identity) == 0)
		workload_unref(w);
	else
		assume(pod, w);
	return pod->assumed != NULL ? pod->assumed->identity : NULL;
}

/* Looks the pod's workload up again and follows a changed identity. A workload that is gone takes
 * the identity with it: what the state no longer names must not speak for it. */
static void refresh(struct pod *pod)
{
	const struct pods *p = pod->pods;
	const char *want = look_up(pod), *have = cert_sub_spiffe(&pod->cert);

	if (want != NULL && have != NULL && strcmp(want, have) == 0)
		return;
	if (have != NULL) {
		certs_unsubscribe(p->certs, &pod->cert);
		if (pod->current != NULL) {
			tls_identity_unref(pod->current);
			pod->current = NULL;
			workers_pod_identity(p->workers, pod->uid, NULL);
		}
	}
	if (want != NULL)
		certs_subscribe(p->certs, &pod->cert, want, on_cert);
	if (!pod->seen)
		log_info("pods",
			 "no workload on node=%s in the mesh state yet, %s pod=%s/%s "
			 "serviceAccount=%s",
			 p->node->node,
			 want != NULL ? "it is taken for what the agent says"
				      : "its connections wait",
			 pod->ns, pod->name, pod->sa);
}

static void socket_inodes(const int *fds, size_t n, ino_t *ret)
{
	struct stat st;

	for (size_t i = 0; i < n; i++)
		ret[i] = fds[i] >= 0 && fstat(fds[i], &st) == 0 ? st.st_ino : 0;
}

static bool is_given(const int dns[MESH_DNS_N])
{
	for (int i = 0; i < MESH_DNS_N; i++)
		if (dns[i] >= 0)
			return true;
	return false;
}

static enum dns_mode dns_mode(const struct pods *p, const struct zds_msg *add,
			      const int dns[MESH_DNS_N])
{
	if (!p->dns->enabled || add->dns_not_captured)
		return DNS_NONE;
	return is_given(dns) ? DNS_GIVEN : DNS_OWN;
}

/* What the workers shall listen on for DNS: what the agent sent, sockets of our own, or none. NULL:
 * what they have. */
static int dns_sockets(struct pods *p, const struct pod *pod, int netns_fd, enum dns_mode mode,
		       int dns[MESH_DNS_N], struct dns_sockets **ret, struct err *err)
{
	int r = 0;

	*ret = NULL;
	if (mode == DNS_NONE)
		mesh_dns_close(dns);
	if (mode != DNS_GIVEN && pod != NULL && pod->dns_mode == mode)
		return 0;
	if (mode == DNS_OWN) {
		r = mesh_dns_open(netns_fd, &p->opts, &p->dns->addr, dns, err);
	}
	if (r == 0)
		*ret = dns_sockets_new(dns);
	return r;
}

static void replace_text(char **to, const char *from)
{
	free(*to);
	*to = xstrdup(from);
}

/* Hands the pod to the workers and remembers it. */
static int serve(struct pods *p, struct pod *pod, const struct zds_msg *add, struct netns_id id,
		 int netns_fd, int listeners[MESH_L_N], int dns[MESH_DNS_N], struct err *err)
{
	struct worker_pod_info info = {add->uid, add->name, add->ns, add->sa};
	enum dns_mode mode = dns_mode(p, add, dns);
	struct dns_sockets *ds;
	ino_t sockets[MESH_L_N], dns_inodes[MESH_DNS_N];
	int r;

	socket_inodes(listeners, MESH_L_N, sockets);
	socket_inodes(dns, MESH_DNS_N, dns_inodes);
	r = dns_sockets(p, pod, netns_fd, mode, dns, &ds, err);
	if (r != 0) {
		(void)xclose(netns_fd);
		mesh_listeners_close(listeners);
		return r;
	}
	r = workers_pod_add(p->workers, &info, netns_fd, listeners, ds, mode == DNS_GIVEN,
			    pod != NULL ? pod->current : NULL, err);
	dns_sockets_unref(ds);
	if (r != 0)
		return r;
	if (pod == NULL) {
		pod = xcalloc(1, sizeof(*pod));
		pod->pods = p;
		pod->uid = xstrdup(add->uid);
		htab_insert(&p->table, &pod->h, hash_str(str_of(pod->uid)));
		metric_add(M_ZDS_STARTED, 1);
		metric_set(M_ZDS_ACTIVE, (int64_t)p->table.count);
	}
	replace_text(&pod->name, add->name);
	replace_text(&pod->ns, add->ns);
	replace_text(&pod->sa, add->sa);
	pod->netns = id;
	memcpy(pod->sockets, sockets, sizeof(sockets));
	memcpy(pod->dns, dns_inodes, sizeof(dns_inodes));
	pod->dns_mode = mode;
	log_info("pods", "serving pod=%s/%s serviceAccount=%s uid=%s", pod->ns, pod->name, pod->sa,
		 pod->uid);
	refresh(pod);
	return 0;
}

static bool same_sockets(const struct pod *pod, const struct zds_msg *add,
			 const int listeners[MESH_L_N], const int dns[MESH_DNS_N])
{
	ino_t now[MESH_L_N], now_dns[MESH_DNS_N];

	if (listeners[0] < 0)
		return true; /* a stock agent: it sent none */
	socket_inodes(listeners, MESH_L_N, now);
	socket_inodes(dns, MESH_DNS_N, now_dns);
	return dns_mode(pod->pods, add, dns) == pod->dns_mode &&
	       memcmp(now, pod->sockets, sizeof(now)) == 0 &&
	       memcmp(now_dns, pod->dns, sizeof(now_dns)) == 0;
}

static bool same_names(const struct pod *pod, const struct zds_msg *add)
{
	return strcmp(pod->name, add->name) == 0 && strcmp(pod->ns, add->ns) == 0 &&
	       strcmp(pod->sa, add->sa) == 0;
}

int pods_add(struct pods *p, const struct zds_msg *add, int netns_fd, int listeners[MESH_L_N],
	     int dns[MESH_DNS_N], unsigned int epoch, struct err *err)
{
	_cleanup_close_ int ns = netns_fd;
	struct pod *pod = find(p, add->uid);
	struct netns_id id;
	int r;

	if (pod != NULL)
		pod->epoch = epoch;
	r = netns_check(ns, err);
	if (r == 0 && netns_id_of(ns, &id) != 0)
		r = err_set(err, EIO, "cannot identify the network namespace");
	if (r == 0 && pod != NULL && netns_id_eq(id, pod->netns) &&
	    same_sockets(pod, add, listeners, dns) && (same_names(pod, add) || listeners[0] < 0)) {
		mesh_listeners_close(listeners);
		mesh_dns_close(dns);
		return 0;
	}
	if (r == 0 && pod != NULL && !netns_id_eq(id, pod->netns)) {
		pods_del(p, add->uid); /* another sandbox: the old one is gone (ztunnel-spec 3.4) */
		pod = NULL;
	}
	if (r == 0 && listeners[0] < 0)
		r = mesh_listeners_open(ns, &p->opts, listeners, err);
	if (r != 0) {
		mesh_listeners_close(listeners);
		mesh_dns_close(dns);
		return r;
	}
	r = serve(p, pod, add, id, take_fd(ns), listeners, dns, err);
	if (r == 0)
		find(p, add->uid)->epoch = epoch;
	return r;
}

void pods_credential(struct pods *p, const char *uid, int fd, unsigned int from)
{
	struct pod *pod = find(p, uid);
	struct tls_identity *id;
	struct err err = {0};

	if (pod == NULL || pod->current != NULL)
		return;
	id = credential_open(fd, &err);
	if (id == NULL) {
		log_warn("pods", "what the agent kept is not used: %s pod=%s/%s", err.msg, pod->ns,
			 pod->name);
		return;
	}
	certs_adopt(&pod->cert, id, from); /* checks that it is the pod's identity */
	tls_identity_unref(id);
}

void pods_keep(struct pods *p, const char *uid, unsigned int epoch)
{
	struct pod *pod = find(p, uid);

	if (pod != NULL)
		pod->epoch = epoch;
}

void pods_unmark(struct pods *p, const char *uid)
{
	pods_keep(p, uid, 0);
}

static void stop(struct pod *pod)
{
	struct pods *p = pod->pods;

	log_info("pods", "stopped serving pod=%s/%s uid=%s", pod->ns, pod->name, pod->uid);
	workers_pod_del(p->workers, pod->uid);
	pod_free(pod);
	metric_add(M_ZDS_STOPPED, 1);
	metric_set(M_ZDS_ACTIVE, (int64_t)p->table.count);
}

void pods_del(struct pods *p, const char *uid)
{
	struct pod *pod = find(p, uid);

	if (pod != NULL)
		stop(pod);
}

void pods_prune(struct pods *p, unsigned int epoch)
{
	htab_for_each (n, &p->table) {
		struct pod *pod = container_of(n, struct pod, h);

		if (pod->epoch != epoch)
			stop(pod);
	}
}

void pods_mesh(struct pods *p, struct mesh *m)
{
	mesh_unref(p->mesh);
	p->mesh = mesh_ref(m);
	htab_for_each (n, &p->table)
		refresh(container_of(n, struct pod, h));
}

size_t pods_count(const struct pods *p)
{
	return p->table.count;
}

char **pods_uids(const struct pods *p, size_t *ret_n)
{
	char **v = xcalloc(p->table.count + 1, sizeof(*v));
	size_t n = 0;

	htab_for_each (it, &p->table)
		v[n++] = xstrdup(container_of(it, struct pod, h)->uid);
	*ret_n = n;
	return v;
}
