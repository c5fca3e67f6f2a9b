/* SPDX-License-Identifier: Apache-2.0
 * manifest.c: see manifest.h.
 */
#include "node-agent/source/manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/yaml.h"
#include "node-agent/source/pods.h"

#define RUNTIME_UID_MIN	     8
#define MANIFEST_OBJECTS_MAX 20000 /* a 4 MiB file holds fewer real ones */

struct reading {
	struct manifest *m;
	const struct label_keys *keep;
	size_t pods_cap, namespaces_cap;
};

void manifest_fini(struct manifest *m)
{
	for (size_t i = 0; i < m->npods; i++)
		(void)pod_free(m->pods[i]);
	for (size_t i = 0; i < m->nnamespaces; i++)
		(void)pod_namespace_free(m->namespaces[i]);
	free(m->pods);
	free(m->namespaces);
	*m = (struct manifest){0};
}

/* Names travel in paths, logs and ZDS packets: the characters of RFC 1123 names, and capitals and
 * '_' because UIDs of static pods and hand-written names have them. */
static int name_check(const struct doc *map, const char *key, struct str s, size_t max,
		      struct err *err)
{
	const struct doc *d = doc_get(map, key);

	if (s.n == 0 || s.n > max)
		return doc_err(d, err, "expected 1 to %zu characters, got %zu", max, s.n);
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		bool alnum =
			(c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		if (!alnum && (i == 0 || (c != '-' && c != '.' && c != '_')))
			return doc_err(d, err, "expected letters, digits, '-', '.' and '_', got %s",
				       str_shown(s));
	}
	return 0;
}

/* Optional text into fresh memory; absent leaves *ret NULL. */
static int take_text(const struct doc *map, const char *key, char **ret, struct err *err)
{
	struct str s = {0};
	int r = doc_opt_text(map, key, &s, err);

	if (r < 0 || s.p == NULL)
		return r;
	if (memchr(s.p, '\0', s.n) != NULL)
		return doc_err(doc_get(map, key), err, "text with a NUL character");
	free(*ret);
	*ret = xstrndup(s.p, s.n);
	return 0;
}

static int take_name(const struct doc *map, const char *key, size_t max, bool required, char **ret,
		     struct err *err)
{
	struct str s = {0};
	int r = required ? doc_need_text(map, key, &s, err) : doc_opt_text(map, key, &s, err);

	if (r < 0 || s.p == NULL)
		return r;
	r = name_check(map, key, s, max, err);
	if (r < 0)
		return r;
	free(*ret);
	*ret = xstrndup(s.p, s.n);
	return 0;
}

/* Labels and annotations: every value must be text, as the API server demands. */
static int text_map(const struct doc *meta, const char *key, const struct doc **ret,
		    struct err *err)
{
	const struct doc *map = NULL;
	int r = doc_opt_map(meta, key, &map, err);

	if (r < 0 || map == NULL)
		return r;
	for (const struct doc *d = map->child; d != NULL; d = d->next)
		if (d->kind != DOC_TEXT && d->kind != DOC_NULL)
			return doc_err(d, err, "expected text (put the value in quotes)");
	*ret = map;
	return 0;
}

static int read_ip(struct pod *p, const struct doc *map, const char *key, struct err *err)
{
	struct str s = {0};
	struct ip_addr ip;
	int r = doc_opt_text(map, key, &s, err);

	if (r < 0 || s.n == 0)
		return r;
	if (ip_parse(s, &ip) < 0)
		return doc_err(doc_get(map, key), err, "expected an IP address, got %s",
			       str_shown(s));
	for (size_t i = 0; i < p->nips; i++)
		if (ip_eq(&p->ips[i], &ip))
			return 0;
	if (p->nips == POD_IPS_MAX)
		return doc_err(doc_get(map, key), err, "more than %d addresses", POD_IPS_MAX);
	p->ips[p->nips++] = ip;
	return 0;
}

static int read_status(struct pod *p, const struct doc *root, struct err *err)
{
	static const char *const phases[] = {"Pending", "Running", "Succeeded", "Failed",
					     "Unknown"};
	const struct doc *st = NULL, *ips = NULL;
	struct str phase = {0};
	bool known = false;
	int r = doc_opt_map(root, "status", &st, err);

	if (r < 0 || st == NULL)
		return r;
	r = doc_opt_text(st, "phase", &phase, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		known = known || str_eqc(phase, phases[i]);
	if (phase.n != 0 && !known)
		return doc_err(doc_get(st, "phase"), err,
			       "expected Pending, Running, Succeeded, Failed or Unknown, got %s",
			       str_shown(phase));
	p->terminal = str_eqc(phase, "Succeeded") || str_eqc(phase, "Failed");
	r = read_ip(p, st, "podIP", err);
	if (r < 0)
		return r;
	r = doc_opt_list(st, "podIPs", &ips, err);
	if (r < 0 || ips == NULL)
		return r;
	for (const struct doc *d = ips->child; d != NULL; d = d->next) {
		r = doc_map(d, err);
		if (r == 0)
			r = read_ip(p, d, "ip", err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The kubelet writes it on the mirror of a static pod. Anybody may write anything there: what is no
 * UID is no static pod's. */
static void read_runtime_uid(struct pod *p, const struct doc *notes)
{
	struct str s = {0};
	bool good = doc_opt_text(notes, "kubernetes.io/config.mirror", &s, NULL) == 0 &&
		    s.n >= RUNTIME_UID_MIN && s.n < POD_UID_MAX;

	for (size_t i = 0; good && i < s.n; i++)
		good = (s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'z') ||
		       (s.p[i] >= 'A' && s.p[i] <= 'Z') || s.p[i] == '-';
	if (good)
		p->runtime_uid = xstrndup(s.p, s.n);
}

static int read_pod_meta(struct pod *p, const struct doc *root, const struct label_keys *keep,
			 struct err *err)
{
	const struct doc *meta = NULL, *labels = NULL, *notes = NULL;
	int r = doc_opt_map(root, "metadata", &meta, err);

	if (r < 0)
		return r;
	if (meta == NULL)
		return doc_err(root, err, "expected metadata with the pod's name");
	if ((r = take_name(meta, "name", POD_NAME_MAX - 1, true, &p->name, err)) < 0 ||
	    (r = take_name(meta, "namespace", POD_NAME_MAX - 1, false, &p->ns, err)) < 0 ||
	    (r = take_name(meta, "uid", POD_UID_MAX - 1, false, &p->uid, err)) < 0 ||
	    (r = text_map(meta, "labels", &labels, err)) < 0 ||
	    (r = text_map(meta, "annotations", &notes, err)) < 0)
		return r;
	if (p->ns == NULL)
		p->ns = xstrdup("default");
	if (labels != NULL &&
	    ((r = take_text(labels, "istio.io/dataplane-mode", &p->mode, err)) < 0 ||
	     (r = take_text(labels, "app", &p->app, err)) < 0 ||
	     (r = labels_read(&p->labels, labels, keep, err)) < 0))
		return r;
	if (notes == NULL)
		return 0;
	read_runtime_uid(p, notes);
	p->sidecar = doc_get(notes, "sidecar.istio.io/status") != NULL;
	if ((r = take_text(notes, "ambient.istio.io/redirection", &p->redirection, err)) < 0 ||
	    (r = take_text(notes, "ambient.istio.io/bypass-inbound-capture", &p->bypass_inbound,
			   err)) < 0 ||
	    (r = take_text(notes, "ambient.istio.io/dns-capture", &p->dns_capture, err)) < 0 ||
	    (r = take_text(notes, "istio.io/reroute-virtual-interfaces", &p->reroute_ifaces, err)) <
		    0)
		return r;
	return 0;
}

static int read_pod(struct pod *p, const struct doc *root, const struct label_keys *keep,
		    struct err *err)
{
	const struct doc *spec = NULL;
	int r = read_pod_meta(p, root, keep, err);

	if (r < 0)
		return r;
	r = doc_opt_map(root, "spec", &spec, err);
	if (r < 0)
		return r;
	if (spec != NULL &&
	    ((r = doc_opt_bool(spec, "hostNetwork", &p->host_network, err)) < 0 ||
	     (r = take_name(spec, "nodeName", POD_NAME_MAX - 1, false, &p->node_name, err)) < 0 ||
	     (r = take_name(spec, "serviceAccountName", POD_NAME_MAX - 1, false,
			    &p->service_account, err)) < 0))
		return r;
	if (p->service_account == NULL)
		p->service_account = xstrdup("default");
	return read_status(p, root, err);
}

/* The API server gives every namespace this label; a manifest need not have it. */
static void add_name_label(struct pod_namespace *n, const struct label_keys *keep)
{
	static const char key[] = "kubernetes.io/metadata.name";

	for (size_t i = 0; keep != NULL && i < keep->n; i++)
		if (strcmp(keep->v[i], key) == 0 && labels_get(&n->labels, key) == NULL)
			labels_add(&n->labels, key, n->name);
}

static int read_namespace(struct pod_namespace *n, const struct doc *root,
			  const struct label_keys *keep, struct err *err)
{
	const struct doc *meta = NULL, *labels = NULL;
	int r = doc_opt_map(root, "metadata", &meta, err);

	if (r < 0)
		return r;
	if (meta == NULL)
		return doc_err(root, err, "expected metadata with the namespace's name");
	if ((r = take_name(meta, "name", POD_NAME_MAX - 1, true, &n->name, err)) < 0 ||
	    (r = text_map(meta, "labels", &labels, err)) < 0 ||
	    (r = labels_read(&n->labels, labels, keep, err)) < 0)
		return r;
	add_name_label(n, keep);
	return labels != NULL ? take_text(labels, "istio.io/dataplane-mode", &n->mode, err) : 0;
}

int manifest_read_pod(const struct doc *root, const struct label_keys *keep, struct pod **ret,
		      struct err *err)
{
	struct pod *p = xcalloc(1, sizeof(*p));
	int r = read_pod(p, root, keep, err);

	if (r < 0) {
		(void)pod_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

int manifest_read_namespace(const struct doc *root, const struct label_keys *keep,
			    struct pod_namespace **ret, struct err *err)
{
	struct pod_namespace *n = xcalloc(1, sizeof(*n));
	int r = read_namespace(n, root, keep, err);

	if (r < 0) {
		(void)pod_namespace_free(n);
		return r;
	}
	*ret = n;
	return 0;
}

static int add_pod(struct reading *rd, const struct doc *root, struct err *err)
{
	struct pod *p;
	int r = manifest_read_pod(root, rd->keep, &p, err);

	if (r < 0)
		return r;
	if (rd->m->npods == rd->pods_cap) {
		rd->pods_cap = rd->pods_cap != 0 ? rd->pods_cap * 2 : 8;
		rd->m->pods = xrealloc_array(rd->m->pods, rd->pods_cap, sizeof(p));
	}
	rd->m->pods[rd->m->npods++] = p;
	return 0;
}

static int add_namespace(struct reading *rd, const struct doc *root, struct err *err)
{
	struct pod_namespace *n;
	int r = manifest_read_namespace(root, rd->keep, &n, err);

	if (r < 0)
		return r;
	if (rd->m->nnamespaces == rd->namespaces_cap) {
		rd->namespaces_cap = rd->namespaces_cap != 0 ? rd->namespaces_cap * 2 : 8;
		rd->m->namespaces =
			xrealloc_array(rd->m->namespaces, rd->namespaces_cap, sizeof(n));
	}
	rd->m->namespaces[rd->m->nnamespaces++] = n;
	return 0;
}

/* @list_of: the kind that items of a PodList may omit, NULL for a free-standing object. */
static int add_object(struct reading *rd, const struct doc *d, const char *list_of, struct err *err)
{
	struct str kind = str_of(list_of), api = STR("v1");
	int r = doc_map(d, err);

	if (r < 0)
		return r;
	r = list_of != NULL ? doc_opt_text(d, "kind", &kind, err)
			    : doc_need_text(d, "kind", &kind, err);
	if (r < 0 || (r = doc_opt_text(d, "apiVersion", &api, err)) < 0)
		return r;
	if (rd->m->npods + rd->m->nnamespaces >= MANIFEST_OBJECTS_MAX)
		return doc_err(d, err, "more than %d objects in one file", MANIFEST_OBJECTS_MAX);
	if (!str_eqc(api, "v1"))
		return str_eqc(kind, "Pod") || str_eqc(kind, "Namespace")
			       ? doc_err(doc_get(d, "apiVersion"), err, "expected v1, got %s",
					 str_shown(api))
			       : 0;
	if (str_eqc(kind, "Pod"))
		return add_pod(rd, d, err);
	if (str_eqc(kind, "Namespace"))
		return add_namespace(rd, d, err);
	return 0;
}

static int read_document(void *ctx, const struct doc *root, struct err *err)
{
	const struct doc *items = NULL;
	const char *of = "";
	struct str kind;
	int r = doc_map(root, err);

	if (r < 0 || (r = doc_need_text(root, "kind", &kind, err)) < 0)
		return r;
	if (str_eqc(kind, "PodList"))
		of = "Pod";
	else if (str_eqc(kind, "NamespaceList"))
		of = "Namespace";
	else if (!str_eqc(kind, "List"))
		return add_object(ctx, root, NULL, err);
	r = doc_opt_list(root, "items", &items, err);
	if (r < 0)
		return r;
	for (const struct doc *d = items != NULL ? items->child : NULL; d != NULL; d = d->next) {
		r = add_object(ctx, d, of[0] != '\0' ? of : NULL, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int pod_order(const void *a, const void *b)
{
	const struct pod *x = *(struct pod *const *)a, *y = *(struct pod *const *)b;
	int c = strcmp(x->ns, y->ns);

	return c != 0 ? c : strcmp(x->name, y->name);
}

static int namespace_order(const void *a, const void *b)
{
	return strcmp((*(struct pod_namespace *const *)a)->name,
		      (*(struct pod_namespace *const *)b)->name);
}

static int check_unique(struct manifest *m, struct err *err)
{
	if (m->npods != 0)
		qsort(m->pods, m->npods, sizeof(*m->pods), pod_order);
	if (m->nnamespaces != 0)
		qsort(m->namespaces, m->nnamespaces, sizeof(*m->namespaces), namespace_order);
	for (size_t i = 1; i < m->npods; i++)
		if (pod_order(&m->pods[i - 1], &m->pods[i]) == 0)
			return err_set(err, EINVAL, "pod %s/%s is defined twice", m->pods[i]->ns,
				       m->pods[i]->name);
	for (size_t i = 1; i < m->nnamespaces; i++)
		if (namespace_order(&m->namespaces[i - 1], &m->namespaces[i]) == 0)
			return err_set(err, EINVAL, "namespace %s is defined twice",
				       m->namespaces[i]->name);
	return 0;
}

int manifest_parse(struct str text, const struct label_keys *keep, struct manifest *ret,
		   struct err *err)
{
	struct manifest m = {0};
	struct reading rd = {.m = &m, .keep = keep};
	struct arena *a = arena_new();
	int r = yaml_parse_all(text, a, read_document, &rd, err);

	(void)arena_free(a);
	if (r == 0)
		r = check_unique(&m, err);
	if (r < 0) {
		manifest_fini(&m);
		return r;
	}
	*ret = m;
	return 0;
}

int manifest_fuzz(const uint8_t *p, size_t n)
{
	struct manifest m = {0};
	struct err err = {0};
	int r = manifest_parse((struct str){(const char *)p, n}, NULL, &m, &err);

	bug_on(r < 0 && err.msg[0] == '\0');
	for (size_t i = 0; i < m.npods; i++)
		bug_on(m.pods[i]->name == NULL || m.pods[i]->ns == NULL ||
		       m.pods[i]->service_account == NULL || m.pods[i]->nips > POD_IPS_MAX);
	manifest_fini(&m);
	return 0;
}
