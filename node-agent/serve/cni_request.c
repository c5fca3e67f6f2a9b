/* SPDX-License-Identifier: Apache-2.0
 * cni_request.c: see cni_request.h.
 */
#include "node-agent/serve/cni_request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

#define NETNS_PATH_MAX	  4095
#define STOCK_DEADLINE_MS 4500 /* stock's client gives up after 5 s */

static const char *const command_name[CNI_COMMAND_N] = {
	[CNI_ADD] = "ADD", [CNI_CHECK] = "CHECK",   [CNI_DEL] = "DEL",
	[CNI_GC] = "GC",   [CNI_STATUS] = "STATUS",
};

void cni_request_fini(struct cni_request *r)
{
	attachment_fini(&r->at);
	free(r->valid);
	*r = (struct cni_request){0};
}

/* Text into a fixed buffer; absent is "". */
static int take_fixed(const struct doc *map, const char *key, char *buf, size_t cap,
		      struct err *err)
{
	struct str s = {0};
	int r = doc_opt_text(map, key, &s, err);

	if (r < 0 || s.p == NULL)
		return r;
	if (str_to_cstr(s, buf, cap, err) < 0)
		return doc_err(doc_get(map, key), err, "expected at most %zu characters", cap - 1);
	return 0;
}

static int take_fresh(const struct doc *map, const char *key, size_t max, char **ret,
		      struct err *err)
{
	struct str s = STR("");
	int r = doc_opt_text(map, key, &s, err);

	if (r < 0)
		return r;
	if (s.n > max || memchr(s.p, '\0', s.n) != NULL)
		return doc_err(doc_get(map, key), err, "expected at most %zu characters", max);
	*ret = xstrndup(s.p, s.n);
	return 0;
}

/* A Kubernetes name: it goes into paths, packets and logs. */
static int check_name(const struct doc *map, const char *key, const char *s, bool required,
		      struct err *err)
{
	const struct doc *d = doc_get(map, key) != NULL ? doc_get(map, key) : map;

	if (s[0] == '\0')
		return required ? doc_err(d, err, "%s: expected a name", key) : 0;
	for (const char *p = s; *p != '\0'; p++) {
		bool alnum = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			     (*p >= '0' && *p <= '9');

		if (!alnum && (p == s || (*p != '-' && *p != '.' && *p != '_')))
			return doc_err(d, err, "expected letters, digits, '-', '.' and '_', got %s",
				       str_shown(str_of(s)));
	}
	return 0;
}

static int add_ip(struct attachment *at, const struct doc *d, struct str text, struct err *err)
{
	struct ip_cidr c;

	if (at->nips == POD_IPS_MAX)
		return doc_err(d, err, "more than %d addresses", POD_IPS_MAX);
	if (ip_cidr_parse(text, &c) < 0)
		return doc_err(d, err, "expected an IP address, got %s", str_shown(text));
	at->ips[at->nips++] = c.ip;
	return 0;
}

static int parse_ips(const struct doc *root, struct attachment *at, struct err *err)
{
	const struct doc *list = NULL;
	int r = doc_opt_list(root, "ips", &list, err);

	if (r < 0 || list == NULL)
		return r;
	for (const struct doc *d = list->child; d != NULL; d = d->next) {
		if (d->kind != DOC_TEXT)
			return doc_err(d, err, "expected text");
		r = add_ip(at, d, d->text, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_command(const struct doc *root, enum cni_command *ret, struct err *err)
{
	struct str s;
	int r = doc_need_text(root, "command", &s, err);

	if (r < 0)
		return r;
	for (int i = 0; i < CNI_COMMAND_N; i++)
		if (str_eqc(s, command_name[i])) {
			*ret = (enum cni_command)i;
			return 0;
		}
	return doc_err(doc_get(root, "command"), err,
		       "expected ADD, CHECK, DEL, GC or STATUS, got %s", str_shown(s));
}

static int parse_valid(const struct doc *root, struct cni_request *q, struct err *err)
{
	const struct doc *list = NULL;
	int r = doc_opt_list(root, "validAttachments", &list, err);

	if (r < 0)
		return r;
	if (list == NULL)
		return doc_err(root, err, "validAttachments: expected a list");
	if (list->count > CNI_VALID_MAX)
		return doc_err(list, err, "more than %d attachments", CNI_VALID_MAX);
	q->valid = xcalloc(list->count, sizeof(*q->valid));
	for (const struct doc *d = list->child; d != NULL; d = d->next) {
		struct enrol_valid *v = &q->valid[q->nvalid++];

		if ((r = doc_map(d, err)) < 0 ||
		    (r = take_fixed(d, "containerID", v->container_id, sizeof(v->container_id),
				    err)) < 0 ||
		    (r = take_fixed(d, "ifname", v->ifname, sizeof(v->ifname), err)) < 0)
			return r;
	}
	return 0;
}

static int parse_attachment(const struct doc *root, struct cni_request *q, struct err *err)
{
	bool need_pod = q->command == CNI_ADD;
	uint32_t ms = CNI_DEADLINE_MS;
	struct str id;
	int r;

	if ((r = doc_need_text(root, "containerID", &id, err)) < 0)
		return r;
	if (attachment_check_id(id, err) < 0)
		return err_wrap(err, "containerID");
	if ((r = take_fixed(root, "containerID", q->at.container_id, sizeof(q->at.container_id),
			    err)) < 0 ||
	    (r = take_fixed(root, "ifname", q->at.ifname, sizeof(q->at.ifname), err)) < 0 ||
	    (r = take_fixed(root, "podUID", q->at.uid, sizeof(q->at.uid), err)) < 0 ||
	    (r = take_fresh(root, "netns", NETNS_PATH_MAX, &q->at.netns_path, err)) < 0 ||
	    (r = take_fresh(root, "podName", POD_NAME_MAX - 1, &q->at.name, err)) < 0 ||
	    (r = take_fresh(root, "podNamespace", POD_NAME_MAX - 1, &q->at.ns, err)) < 0 ||
	    (r = check_name(root, "podUID", q->at.uid, false, err)) < 0 ||
	    (r = check_name(root, "podName", q->at.name, need_pod, err)) < 0 ||
	    (r = check_name(root, "podNamespace", q->at.ns, need_pod, err)) < 0 ||
	    (r = parse_ips(root, &q->at, err)) < 0 ||
	    (r = doc_opt_u32(root, "deadlineMs", 1, CNI_DEADLINE_MAX, &ms, err)) < 0)
		return r;
	q->deadline_ms = ms;
	if (need_pod && q->at.netns_path[0] != '/')
		return doc_err(root, err, "netns: expected an absolute path");
	return 0;
}

int cni_request_parse(struct str body, struct cni_request *ret, unsigned int *ret_code,
		      struct err *err)
{
	struct arena *a = arena_new();
	struct cni_request q = {0};
	const struct doc *root;
	int r = json_parse(body, a, &root, err);

	*ret_code = CNI_BAD_CONFIG;
	if (r == 0)
		r = doc_map(root, err);
	if (r == 0)
		r = parse_command(root, &q.command, err);
	if (r == 0) {
		*ret_code = CNI_BAD_ENVIRONMENT; /* these fields come from CNI_* variables */
		if (q.command == CNI_GC)
			r = parse_valid(root, &q, err);
		else if (q.command != CNI_STATUS)
			r = parse_attachment(root, &q, err);
	}
	(void)arena_free(a);
	if (r < 0) {
		cni_request_fini(&q);
		return r;
	}
	*ret = q;
	return 0;
}

/* FNV-1a: the same pod gives the same ID in every life of the agent. */
static uint64_t stable_hash(uint64_t h, const char *s)
{
	for (; *s != '\0'; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
	return h;
}

static int parse_stock_ips(const struct doc *root, struct attachment *at, struct err *err)
{
	const struct doc *list = NULL;
	int r = doc_opt_list(root, "IPs", &list, err);

	if (r < 0 || list == NULL)
		return r;
	for (const struct doc *d = list->child; d != NULL; d = d->next) {
		const struct doc *addr = NULL;
		struct str ip = STR("");

		if ((r = doc_map(d, err)) < 0 || (r = doc_opt_map(d, "Address", &addr, err)) < 0 ||
		    (addr != NULL && (r = doc_opt_text(addr, "IP", &ip, err)) < 0) ||
		    (r = add_ip(at, d, ip, err)) < 0)
			return r;
	}
	return 0;
}

int cni_request_parse_stock(struct str body, struct cni_request *ret, struct err *err)
{
	struct cni_request q = {.command = CNI_ADD, .deadline_ms = STOCK_DEADLINE_MS};
	struct arena *a = arena_new();
	const struct doc *root;
	int r = json_parse(body, a, &root, err);

	if (r == 0)
		r = doc_map(root, err);
	if (r == 0)
		r = take_fresh(root, "Netns", NETNS_PATH_MAX, &q.at.netns_path, err);
	if (r == 0)
		r = take_fresh(root, "PodName", POD_NAME_MAX - 1, &q.at.name, err);
	if (r == 0)
		r = take_fresh(root, "PodNamespace", POD_NAME_MAX - 1, &q.at.ns, err);
	if (r == 0)
		r = check_name(root, "PodName", q.at.name, true, err);
	if (r == 0)
		r = check_name(root, "PodNamespace", q.at.ns, true, err);
	if (r == 0)
		r = parse_stock_ips(root, &q.at, err);
	(void)arena_free(a);
	if (r < 0) {
		cni_request_fini(&q);
		return r;
	}
	(void)snprintf(
		q.at.container_id, sizeof(q.at.container_id), "stock-%016llx",
		(unsigned long long)stable_hash(
			stable_hash(stable_hash(0xcbf29ce484222325ull, q.at.ns), "/"), q.at.name));
	*ret = q;
	return 0;
}

static void check_parsed(struct cni_request *q)
{
	bug_on(q->at.nips > POD_IPS_MAX || q->nvalid > CNI_VALID_MAX);
	if (q->command == CNI_ADD)
		bug_on(q->at.name[0] == '\0' || q->at.ns[0] == '\0' ||
		       attachment_check_id(str_of(q->at.container_id), NULL) < 0);
	cni_request_fini(q);
}

int cni_request_fuzz(const uint8_t *p, size_t n)
{
	struct str body = {(const char *)p, n};
	struct cni_request q = {0};
	struct err err = {0};
	unsigned int code = 0;

	if (cni_request_parse(body, &q, &code, &err) == 0)
		check_parsed(&q);
	else
		bug_on(err.msg[0] == '\0' ||
		       (code != CNI_BAD_CONFIG && code != CNI_BAD_ENVIRONMENT));
	if (cni_request_parse_stock(body, &q, &err) == 0)
		check_parsed(&q);
	return 0;
}
