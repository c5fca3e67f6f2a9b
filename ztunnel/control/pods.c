/* SPDX-License-Identifier: Apache-2.0
 * pods.c: see pods.h.
 *
 * A pod's certificate is that of the workload found for (name, namespace, service account) in the
 * mesh state (ztunnel-spec 3.9), so it may come, change or be missing at any time; the workers hold
 * connections for a while when it is missing.
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
#include "ztunnel/data/worker.h"
#include "ztunnel/mesh/mesh.h"
#include "ztunnel/observe/metrics.h"

struct pod {
	struct hnode h;
	struct pods *pods;
	char *uid, *name, *ns, *sa;
	struct netns_id netns;
	ino_t sockets[MESH_L_N];
	struct cert_sub cert;
	struct tls_identity *current; /* what the workers have (reference), NULL: nothing */
	unsigned int epoch;
};

struct pods {
	struct workers *workers;
	struct certs *certs;
	struct listener_opts opts;
	struct mesh *mesh;
	struct htab table;
};

struct pods *pods_new(struct workers *w, struct certs *certs, const struct listener_opts *opts)
{
	struct pods *p = xcalloc(1, sizeof(*p));

	p->workers = w;
	p->certs = certs;
	p->opts = *opts;
	htab_init(&p->table);
	return p;
}

static void pod_free(struct pod *pod)
{
	certs_unsubscribe(pod->pods->certs, &pod->cert);
	if (pod->current != NULL)
		tls_identity_unref(pod->current);
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
	pod->current = tls_identity_ref(id);
	workers_pod_identity(pod->pods->workers, pod->uid, id);
}

/* Looks the pod's workload up again and follows a changed identity. A workload that is gone takes
 * the identity with it: what the state no longer names must not speak for it. */
static void refresh(struct pod *pod)
{
	const struct pods *p = pod->pods;
	struct workload *w = p->mesh == NULL
				     ? NULL
				     : mesh_local_workload(p->mesh, str_of(pod->name),
							   str_of(pod->ns), str_of(pod->sa));
	const char *want = w != NULL ? w->identity : NULL, *have = cert_sub_spiffe(&pod->cert);

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
	else
		log_info("pods", "no workload in the mesh state yet pod=%s/%s serviceAccount=%s",
			 pod->ns, pod->name, pod->sa);
}

static void socket_inodes(const int fds[MESH_L_N], ino_t ret[MESH_L_N])
{
	struct stat st;

	for (int i = 0; i < MESH_L_N; i++)
		ret[i] = fstat(fds[i], &st) == 0 ? st.st_ino : 0;
}

static void replace_text(char **to, const char *from)
{
	free(*to);
	*to = xstrdup(from);
}

/* Hands the pod to the workers and remembers it. */
static int serve(struct pods *p, struct pod *pod, const struct zds_msg *add, struct netns_id id,
		 int netns_fd, int listeners[MESH_L_N], struct err *err)
{
	struct worker_pod_info info = {add->uid, add->name, add->ns, add->sa};
	ino_t sockets[MESH_L_N];
	int r;

	socket_inodes(listeners, sockets);
	r = workers_pod_add(p->workers, &info, netns_fd, listeners,
			    pod != NULL ? pod->current : NULL, err);
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
	log_info("pods", "serving pod=%s/%s serviceAccount=%s uid=%s", pod->ns, pod->name, pod->sa,
		 pod->uid);
	refresh(pod);
	return 0;
}

static bool same_sockets(const struct pod *pod, const int listeners[MESH_L_N])
{
	ino_t now[MESH_L_N];

	if (listeners[0] < 0)
		return true; /* a stock agent: it sent none */
	socket_inodes(listeners, now);
	return memcmp(now, pod->sockets, sizeof(now)) == 0;
}

static bool same_names(const struct pod *pod, const struct zds_msg *add)
{
	return strcmp(pod->name, add->name) == 0 && strcmp(pod->ns, add->ns) == 0 &&
	       strcmp(pod->sa, add->sa) == 0;
}

int pods_add(struct pods *p, const struct zds_msg *add, int netns_fd, int listeners[MESH_L_N],
	     unsigned int epoch, struct err *err)
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
	if (r == 0 && pod != NULL && netns_id_eq(id, pod->netns) && same_sockets(pod, listeners) &&
	    (same_names(pod, add) || listeners[0] < 0)) {
		mesh_listeners_close(listeners);
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
		return r;
	}
	r = serve(p, pod, add, id, take_fd(ns), listeners, err);
	if (r == 0)
		find(p, add->uid)->epoch = epoch;
	return r;
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
