/* SPDX-License-Identifier: Apache-2.0
 * attachment.c: see attachment.h.
 */
#include "node-agent/enrol/attachment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

#define JOURNAL_VERSION 1
#define NETNS_PATH_MAX	4095

void attachment_fini(struct attachment *a)
{
	free(a->netns_path);
	free(a->name);
	free(a->ns);
	free(a->service_account);
	*a = (struct attachment){0};
}

void attachment_copy(struct attachment *to, const struct attachment *from)
{
	struct attachment a = *from;

	a.netns_path = xstrdup(from->netns_path);
	a.name = xstrdup(from->name);
	a.ns = xstrdup(from->ns);
	a.service_account = from->service_account != NULL ? xstrdup(from->service_account) : NULL;
	attachment_fini(to);
	*to = a;
}

int attachment_check_id(struct str id, struct err *err)
{
	if (id.n == 0 || id.n >= ATTACHMENT_ID_MAX)
		return err_set(err, EINVAL, "expected 1 to %d characters, got %zu",
			       ATTACHMENT_ID_MAX - 1, id.n);
	for (size_t i = 0; i < id.n; i++) {
		char c = id.p[i];
		bool alnum =
			(c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

		if (!alnum && (i == 0 || (c != '_' && c != '.' && c != '-')))
			return err_set(err, EINVAL,
				       "expected a letter or digit, then letters, digits, '_', '.' "
				       "and '-', got %s",
				       str_shown(id));
	}
	return 0;
}

bool attachment_is_ours(const char *container_id)
{
	return str_has_prefix(str_of(container_id), STR("scan-")) ||
	       str_has_prefix(str_of(container_id), STR("stock-"));
}

/* jsonw_int() has a sign, device and inode numbers have none. */
static void print_number(struct jsonw *w, const char *key, uint64_t v)
{
	char text[24];
	int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)v);

	jsonw_raw(w, key, (struct str){text, (size_t)n});
}

void attachment_print(const struct attachment *a, struct strbuf *out)
{
	struct jsonw w;

	jsonw_init(&w, out, true);
	jsonw_obj(&w, NULL);
	jsonw_int(&w, "version", JOURNAL_VERSION);
	jsonw_cstr(&w, "containerID", a->container_id);
	jsonw_cstr(&w, "ifname", a->ifname);
	jsonw_cstr(&w, "netns", a->netns_path);
	print_number(&w, "netnsDevice", a->id.dev);
	print_number(&w, "netnsInode", a->id.ino);
	jsonw_cstr(&w, "podNamespace", a->ns);
	jsonw_cstr(&w, "podName", a->name);
	jsonw_cstr(&w, "podUID", a->uid);
	if (a->service_account != NULL)
		jsonw_cstr(&w, "serviceAccount", a->service_account);
	if (a->quarantined)
		jsonw_bool(&w, "quarantined", true);
	jsonw_list(&w, "ips");
	for (size_t i = 0; i < a->nips; i++) {
		char text[IP_TEXT_MAX];

		jsonw_cstr(&w, NULL, ip_format(&a->ips[i], text));
	}
	jsonw_end_list(&w);
	jsonw_end_obj(&w);
	strbuf_putc(out, '\n');
}

static int parse_number(const struct doc *map, const char *key, uint64_t *ret, struct err *err)
{
	const struct doc *d = doc_get(map, key);

	if (d == NULL || d->kind != DOC_NUMBER || parse_u64(d->text, 0, UINT64_MAX, ret) < 0)
		return doc_err(d != NULL ? d : map, err, "%s: expected a whole number", key);
	return 0;
}

static int parse_ips(const struct doc *root, struct attachment *a, struct err *err)
{
	const struct doc *list = NULL;
	int r = doc_opt_list(root, "ips", &list, err);

	if (r < 0 || list == NULL)
		return r;
	for (const struct doc *d = list->child; d != NULL; d = d->next) {
		if (a->nips == POD_IPS_MAX)
			return doc_err(d, err, "more than %d addresses", POD_IPS_MAX);
		if (d->kind != DOC_TEXT || ip_parse(d->text, &a->ips[a->nips]) < 0)
			return doc_err(d, err, "expected an IP address");
		a->nips++;
	}
	return 0;
}

static int parse_texts(const struct doc *root, struct attachment *a, struct err *err)
{
	struct str id, ifname, path, ns, name, uid, sa = {0};
	int r;

	if ((r = doc_need_text(root, "containerID", &id, err)) < 0 ||
	    (r = attachment_check_id(id, err)) < 0 ||
	    (r = doc_need_text(root, "ifname", &ifname, err)) < 0 ||
	    (r = doc_need_text(root, "netns", &path, err)) < 0 ||
	    (r = doc_need_text(root, "podNamespace", &ns, err)) < 0 ||
	    (r = doc_need_text(root, "podName", &name, err)) < 0 ||
	    (r = doc_need_text(root, "podUID", &uid, err)) < 0 ||
	    (r = doc_opt_text(root, "serviceAccount", &sa, err)) < 0)
		return r;
	if ((r = str_to_cstr(id, a->container_id, sizeof(a->container_id), err)) < 0 ||
	    (r = str_to_cstr(ifname, a->ifname, sizeof(a->ifname), err)) < 0 ||
	    (r = str_to_cstr(uid, a->uid, sizeof(a->uid), err)) < 0)
		return r;
	if (path.n > NETNS_PATH_MAX || ns.n >= POD_NAME_MAX || name.n >= POD_NAME_MAX ||
	    sa.n >= POD_NAME_MAX)
		return err_set(err, EINVAL, "a text is too long");
	a->netns_path = xstrndup(path.p, path.n);
	a->ns = xstrndup(ns.p, ns.n);
	a->name = xstrndup(name.p, name.n);
	a->service_account = sa.p != NULL ? xstrndup(sa.p, sa.n) : NULL;
	return 0;
}

int attachment_parse(struct str text, struct attachment *ret, struct err *err)
{
	struct attachment a = {0};
	struct arena *arena = arena_new();
	const struct doc *root;
	uint64_t version = 0, dev = 0, ino = 0;
	int r = json_parse(text, arena, &root, err);

	if (r == 0)
		r = doc_map(root, err);
	if (r == 0)
		r = parse_number(root, "version", &version, err);
	if (r == 0 && version != JOURNAL_VERSION)
		r = err_set(err, EINVAL, "version: expected %d, got %llu", JOURNAL_VERSION,
			    (unsigned long long)version);
	if (r == 0)
		r = parse_texts(root, &a, err);
	if (r == 0)
		r = parse_number(root, "netnsDevice", &dev, err);
	if (r == 0)
		r = parse_number(root, "netnsInode", &ino, err);
	if (r == 0)
		r = parse_ips(root, &a, err);
	if (r == 0)
		r = doc_opt_bool(root, "quarantined", &a.quarantined, err);
	(void)arena_free(arena);
	if (r < 0) {
		attachment_fini(&a);
		return r;
	}
	a.id = (struct netns_id){.dev = (dev_t)dev, .ino = (ino_t)ino};
	*ret = a;
	return 0;
}
