/* SPDX-License-Identifier: Apache-2.0
 * last_state.c: see last_state.h.
 */
#include "node-agent/source/last_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "node-agent/source/manifest.h"
#include "node-agent/source/pods.h"

#define HEADING	   "ambient-agent last state"
#define OBJECT_MAX 100000 /* far more than a cluster has namespaces */

/* FNV-1a, 64 bits: it finds damage, it does not keep a forger out (the file is root's). */
static uint64_t checksum(struct str s)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < s.n; i++)
		h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3ull;
	return h;
}

/* --- writing --- */

static void print_opt(struct jsonw *w, const char *key, const char *value)
{
	if (value != NULL)
		jsonw_cstr(w, key, value);
}

/* The configured labels; not those that have a field of their own. */
static void print_labels(struct jsonw *w, const struct labels *l, const char *mode, const char *app)
{
	jsonw_obj(w, "labels");
	print_opt(w, "istio.io/dataplane-mode", mode);
	print_opt(w, "app", app);
	for (size_t i = 0; i < l->n; i++)
		if ((mode == NULL || strcmp(l->v[i].key, "istio.io/dataplane-mode") != 0) &&
		    (app == NULL || strcmp(l->v[i].key, "app") != 0))
			jsonw_cstr(w, l->v[i].key, l->v[i].value);
	jsonw_end_obj(w);
}

static void print_annotations(struct jsonw *w, const struct pod *p)
{
	jsonw_obj(w, "annotations");
	if (p->sidecar)
		jsonw_cstr(w, "sidecar.istio.io/status", "");
	print_opt(w, "kubernetes.io/config.mirror", p->runtime_uid);
	print_opt(w, "ambient.istio.io/redirection", p->redirection);
	print_opt(w, "ambient.istio.io/bypass-inbound-capture", p->bypass_inbound);
	print_opt(w, "ambient.istio.io/dns-capture", p->dns_capture);
	print_opt(w, "istio.io/reroute-virtual-interfaces", p->reroute_ifaces);
	jsonw_end_obj(w);
}

static void print_pod(void *ctx, const struct pod *p)
{
	struct jsonw *w = ctx;

	jsonw_obj(w, NULL);
	jsonw_obj(w, "metadata");
	jsonw_cstr(w, "namespace", p->ns);
	jsonw_cstr(w, "name", p->name);
	print_opt(w, "uid", p->uid);
	print_labels(w, &p->labels, p->mode, p->app);
	print_annotations(w, p);
	jsonw_end_obj(w);
	jsonw_obj(w, "spec");
	print_opt(w, "nodeName", p->node_name);
	jsonw_cstr(w, "serviceAccountName", p->service_account);
	if (p->host_network)
		jsonw_bool(w, "hostNetwork", true);
	jsonw_end_obj(w);
	jsonw_obj(w, "status");
	jsonw_cstr(w, "phase", p->terminal ? "Succeeded" : "Running");
	jsonw_list(w, "podIPs");
	for (size_t i = 0; i < p->nips; i++) {
		char text[IP_TEXT_MAX];

		jsonw_obj(w, NULL);
		jsonw_cstr(w, "ip", ip_format(&p->ips[i], text));
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
	jsonw_end_obj(w);
	jsonw_end_obj(w);
}

static void print_namespace(void *ctx, const struct pod_namespace *n)
{
	struct jsonw *w = ctx;

	jsonw_obj(w, NULL);
	jsonw_obj(w, "metadata");
	jsonw_cstr(w, "name", n->name);
	print_labels(w, &n->labels, n->mode, NULL);
	jsonw_end_obj(w);
	jsonw_end_obj(w);
}

static void print_of(struct jsonw *w, const struct last_state_of *of)
{
	jsonw_cstr(w, "node", of->node);
	jsonw_cstr(w, "server", of->server);
	jsonw_list(w, "labelKeys");
	for (size_t i = 0; of->keep != NULL && i < of->keep->n; i++)
		jsonw_cstr(w, NULL, of->keep->v[i]);
	jsonw_end_list(w);
}

void last_state_print(const struct pods *s, const struct last_state_of *of,
		      const char *pods_version, const char *namespaces_version, struct strbuf *out)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct jsonw w;

	jsonw_init(&w, &b, false);
	jsonw_obj(&w, NULL);
	print_of(&w, of);
	jsonw_cstr(&w, "podsVersion", pods_version);
	jsonw_cstr(&w, "namespacesVersion", namespaces_version);
	jsonw_list(&w, "namespaces");
	pods_each_namespace(s, print_namespace, &w);
	jsonw_end_list(&w);
	jsonw_list(&w, "pods");
	pods_each(s, print_pod, &w);
	jsonw_end_list(&w);
	jsonw_end_obj(&w);
	strbuf_putc(&b, '\n');
	strbuf_printf(out, HEADING " %d %016llx %zu\n", LAST_STATE_VERSION,
		      (unsigned long long)checksum((struct str){b.p, b.n}), b.n);
	strbuf_add(out, b.p, b.n);
}

/* --- reading --- */

static int parse_hex(struct str s, uint64_t *ret)
{
	*ret = 0;
	if (s.n != 16)
		return -EINVAL;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];
		int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

		if (d < 0)
			return -EINVAL;
		*ret = *ret << 4 | (uint64_t)d;
	}
	return 0;
}

/* Takes the heading off @text. */
static int check_heading(struct str *text, struct err *err)
{
	struct str line, version, sum;
	uint64_t want_sum, want_n;
	uint32_t v;

	if (!str_cut(text, '\n', &line) || !str_has_prefix(line, STR(HEADING " ")))
		return err_set(err, EINVAL, "expected the heading \"" HEADING " ...\"");
	line.p += sizeof(HEADING);
	line.n -= sizeof(HEADING);
	if (!str_cut(&line, ' ', &version) || parse_u32(version, 0, UINT32_MAX, &v) < 0)
		return err_set(err, EINVAL, "expected a version in the heading");
	if (v != LAST_STATE_VERSION)
		return err_set(err, EINVAL, "version %u, expected %d", v, LAST_STATE_VERSION);
	if (!str_cut(&line, ' ', &sum) || parse_hex(sum, &want_sum) < 0 ||
	    parse_u64(line, 0, UINT64_MAX, &want_n) < 0)
		return err_set(err, EINVAL, "expected a checksum and a length in the heading");
	if (text->n != want_n)
		return err_set(err, EINVAL, "it has %zu bytes after the heading, expected %llu",
			       text->n, (unsigned long long)want_n);
	if (checksum(*text) != want_sum)
		return err_set(err, EINVAL, "the checksum is not that of its heading");
	return 0;
}

static int check_text(const struct doc *root, const char *key, const char *want, struct err *err)
{
	struct str s;
	int r = doc_need_text(root, key, &s, err);

	if (r == 0 && !str_eqc(s, want))
		return err_set(err, EINVAL, "it is of %s %s, not %s", key, str_shown(s), want);
	return r;
}

static int check_of(const struct doc *root, const struct last_state_of *of, struct err *err)
{
	const struct doc *keys = NULL;
	size_t n = of->keep != NULL ? of->keep->n : 0, i = 0;
	int r = doc_map(root, err);

	if (r < 0 || (r = check_text(root, "node", of->node, err)) < 0 ||
	    (r = check_text(root, "server", of->server, err)) < 0 ||
	    (r = doc_opt_list(root, "labelKeys", &keys, err)) < 0)
		return r;
	if (keys == NULL || keys->count != n)
		return err_set(err, EINVAL, "it was written for other selectors");
	for (const struct doc *d = keys->child; d != NULL; d = d->next, i++)
		if (d->kind != DOC_TEXT || !str_eqc(d->text, of->keep->v[i]))
			return err_set(err, EINVAL, "it was written for other selectors");
	return 0;
}

static int read_objects(const struct doc *root, const struct last_state_of *of, struct manifest *m,
			struct err *err)
{
	const struct doc *pods = NULL, *namespaces = NULL;
	int r;

	if ((r = doc_opt_list(root, "pods", &pods, err)) < 0 ||
	    (r = doc_opt_list(root, "namespaces", &namespaces, err)) < 0)
		return r;
	if (pods == NULL || namespaces == NULL)
		return doc_err(root, err, "expected pods and namespaces");
	if (pods->count > OBJECT_MAX || namespaces->count > OBJECT_MAX)
		return doc_err(root, err, "more than %d objects", OBJECT_MAX);
	m->pods = xcalloc(pods->count + 1, sizeof(struct pod *));
	m->namespaces = xcalloc(namespaces->count + 1, sizeof(struct pod_namespace *));
	for (const struct doc *d = pods->child; d != NULL; d = d->next) {
		r = manifest_read_pod(d, of->keep, &m->pods[m->npods], err);
		if (r < 0)
			return r;
		if (m->pods[m->npods++]->uid == NULL)
			return doc_err(d, err, "the pod has no metadata.uid");
	}
	for (const struct doc *d = namespaces->child; d != NULL; d = d->next) {
		r = manifest_read_namespace(d, of->keep, &m->namespaces[m->nnamespaces], err);
		if (r < 0)
			return r;
		m->nnamespaces++;
	}
	return 0;
}

int last_state_parse(struct str text, const struct last_state_of *of, struct manifest *ret,
		     struct err *err)
{
	struct manifest m = {0};
	struct arena *a = arena_new();
	const struct doc *root;
	int r = check_heading(&text, err);

	if (r == 0)
		r = json_parse(text, a, &root, err);
	if (r == 0)
		r = check_of(root, of, err);
	if (r == 0)
		r = read_objects(root, of, &m, err);
	(void)arena_free(a);
	if (r < 0) {
		manifest_fini(&m);
		return r;
	}
	*ret = m;
	return 0;
}

/* The heading is made right, so that what is behind it is looked at, too. */
int last_state_fuzz(const uint8_t *p, size_t n)
{
	struct str body = {(const char *)p, n};
	struct last_state_of of = {.node = "n", .server = "https://s"};
	_cleanup_strbuf_ struct strbuf b = {0};
	struct manifest m = {0};
	struct err err = {0};

	bug_on(last_state_parse(body, &of, &m, &err) < 0 && err.msg[0] == '\0');
	manifest_fini(&m);
	err = (struct err){0};
	strbuf_printf(&b, HEADING " %d %016llx %zu\n", LAST_STATE_VERSION,
		      (unsigned long long)checksum(body), n);
	strbuf_add(&b, p, n);
	bug_on(last_state_parse((struct str){b.p, b.n}, &of, &m, &err) < 0 && err.msg[0] == '\0');
	manifest_fini(&m);
	return 0;
}
