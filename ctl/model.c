/* SPDX-License-Identifier: Apache-2.0
 * model.c: documents to structs; see model.h. Pure. What is wrong with them is in diagnose.c.
 */
#include "ctl/model.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

/* Optional fields of one map, read in a row: the first wrong type is the error. */
struct field {
	const char *key;
	struct str *text; /* one of these */
	bool *truth;
	uint32_t *number;
};

static int read_fields(const struct doc *map, const struct field *f, size_t n, struct err *err)
{
	int r = doc_map(map, err);

	for (size_t i = 0; i < n && r == 0; i++) {
		if (f[i].text != NULL)
			r = doc_opt_text(map, f[i].key, f[i].text, err);
		else if (f[i].truth != NULL)
			r = doc_opt_bool(map, f[i].key, f[i].truth, err);
		else
			r = doc_opt_u32(map, f[i].key, 0, UINT32_MAX, f[i].number, err);
	}
	return r;
}

/* Room for the children of the optional list @key; *ret_first is its first child or NULL. */
static int open_list(const struct doc *map, const char *key, size_t size, struct arena *a,
		     void *ret_array, size_t *ret_n, const struct doc **ret_first, struct err *err)
{
	const struct doc *l = NULL;
	int r = doc_opt_list(map, key, &l, err);

	if (r < 0)
		return r;
	*ret_n = l != NULL ? l->count : 0;
	*ret_first = l != NULL ? l->child : NULL;
	*(void **)ret_array = arena_alloc(a, (*ret_n + 1) * size);
	return 0;
}

static int read_texts(const struct doc *map, const char *key, struct arena *a, struct str **ret,
		      size_t *ret_n, struct err *err)
{
	const struct doc *c;
	int r = open_list(map, key, sizeof(struct str), a, ret, ret_n, &c, err);

	for (size_t i = 0; r == 0 && c != NULL; c = c->next, i++) {
		if (c->kind != DOC_TEXT)
			return doc_err(c, err, "expected text");
		(*ret)[i] = c->text;
	}
	return r;
}

static int read_pod(const struct doc *d, struct arena *a, struct ctl_pod *p, struct err *err)
{
	const struct field fields[] = {
		{"uid", .text = &p->uid},      {"name", .text = &p->name},
		{"namespace", .text = &p->ns}, {"serviceAccount", .text = &p->sa},
		{"state", .text = &p->state},  {"reason", .text = &p->reason},
		{"netns", .text = &p->netns},  {"containerID", .text = &p->container},
		{"rules", .text = &p->rules},  {"ruleDiff", .text = &p->rule_diff},
		{"error", .text = &p->error},  {"custody", .truth = &p->custody},
	};
	int r = read_fields(d, fields, ARRAY_LEN(fields), err);

	if (r == 0)
		r = read_texts(d, "ips", a, &p->ips, &p->nips, err);
	if (r == 0)
		r = read_texts(d, "sockets", a, &p->sockets, &p->nsockets, err);
	return r;
}

static int read_link(const struct doc *d, struct ctl_link *l, struct err *err)
{
	const struct field fields[] = {
		{"pid", .number = &l->pid},
		{"version", .number = &l->version},
		{"snapshot", .truth = &l->snapshot},
		{"newest", .truth = &l->newest},
	};

	return read_fields(d, fields, ARRAY_LEN(fields), err);
}

static int read_source(const struct doc *d, struct ctl_agent *g, struct err *err)
{
	const struct doc *s = NULL;
	const struct field fields[] = {
		{"kind", .text = &g->source_kind},
		{"where", .text = &g->source_where},
		{"error", .text = &g->source_error},
		{"synced", .truth = &g->synced},
		{"stale", .truth = &g->stale},
		{"ageSeconds", .number = &g->source_age_s},
		{"pods", .number = &g->source_pods},
		{"namespaces", .number = &g->source_namespaces},
	};
	int r = doc_opt_map(d, "source", &s, err);

	return r < 0 || s == NULL ? r : read_fields(s, fields, ARRAY_LEN(fields), err);
}

static int read_install(const struct doc *d, struct ctl_agent *g, struct err *err)
{
	const struct doc *s = NULL;
	const struct field fields[] = {
		{"mode", .text = &g->install_mode},	{"state", .text = &g->install_state},
		{"file", .text = &g->install_file},	{"plugin", .text = &g->install_plugin},
		{"reason", .text = &g->install_reason},
	};
	int r = doc_opt_map(d, "install", &s, err);

	return r < 0 || s == NULL ? r : read_fields(s, fields, ARRAY_LEN(fields), err);
}

int ctl_agent_read(const struct doc *d, struct arena *a, struct ctl_agent *ret, struct err *err)
{
	struct ctl_agent g = {.answers = true, .doc = d};
	const struct field fields[] = {
		{"version", .text = &g.version},
		{"node", .text = &g.node},
		{"reason", .text = &g.reason},
		{"ready", .truth = &g.ready},
	};
	const struct doc *c;
	int r = read_fields(d, fields, ARRAY_LEN(fields), err);

	if (r == 0)
		r = read_source(d, &g, err);
	if (r == 0)
		r = read_install(d, &g, err);
	if (r == 0)
		r = open_list(d, "ztunnels", sizeof(*g.links), a, &g.links, &g.nlinks, &c, err);
	for (size_t i = 0; r == 0 && c != NULL; c = c->next, i++)
		r = read_link(c, &g.links[i], err);
	if (r == 0)
		r = open_list(d, "pods", sizeof(*g.pods), a, &g.pods, &g.npods, &c, err);
	for (size_t i = 0; r == 0 && c != NULL; c = c->next, i++)
		r = read_pod(c, a, &g.pods[i], err);
	if (r == 0)
		*ret = g;
	return r;
}

/* Days since 1970-01-01 of a date in the Gregorian calendar, counting years from March so that the
 * leap day is the last of its year. */
static int64_t days_of(uint32_t year, uint32_t month, uint32_t day)
{
	uint64_t y = month > 2 ? year : year - 1, m = month > 2 ? month - 3 : month + 9;

	return (int64_t)(365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day) - 719469;
}

static int two_digits(struct str s, size_t at, uint32_t min, uint32_t max, uint32_t *ret)
{
	char a = s.p[at], b = s.p[at + 1];
	uint32_t v;

	if (a < '0' || a > '9' || b < '0' || b > '9')
		return -EINVAL;
	v = (uint32_t)(a - '0') * 10 + (uint32_t)(b - '0');
	if (v < min || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}

int ctl_time_parse(struct str s, int64_t *ret)
{
	static const char form[] = "dddd-dd-ddTdd:dd:ddZ";
	uint32_t century, year, month, day, hour, minute, second;

	if (s.n != sizeof(form) - 1)
		return -EINVAL;
	for (size_t i = 0; i < s.n; i++)
		if (form[i] != 'd' && s.p[i] != form[i])
			return -EINVAL;
	if (two_digits(s, 0, 1, 99, &century) != 0 || two_digits(s, 2, 0, 99, &year) != 0 ||
	    two_digits(s, 5, 1, 12, &month) != 0 || two_digits(s, 8, 1, 31, &day) != 0 ||
	    two_digits(s, 11, 0, 23, &hour) != 0 || two_digits(s, 14, 0, 59, &minute) != 0 ||
	    two_digits(s, 17, 0, 60, &second) != 0)
		return -EINVAL;
	*ret = days_of(century * 100 + year, month, day) * 86400 + hour * 3600 + minute * 60 +
	       second;
	return 0;
}

static int read_cert(const struct doc *d, struct ctl_cert *c, struct err *err)
{
	const struct field fields[] = {
		{"identity", .text = &c->identity},
		{"state", .text = &c->state},
	};
	const struct field leaf[] = {
		{"validFrom", .text = &c->not_before_text},
		{"expirationTime", .text = &c->not_after_text},
	};
	const struct doc *chain = NULL;
	int r = read_fields(d, fields, ARRAY_LEN(fields), err);

	if (r == 0)
		r = doc_opt_list(d, "certChain", &chain, err);
	if (r < 0 || chain == NULL || chain->child == NULL)
		return r;
	r = read_fields(chain->child, leaf, ARRAY_LEN(leaf), err);
	if (r == 0 && ctl_time_parse(c->not_after_text, &c->not_after) != 0)
		return doc_err(chain->child, err, "expirationTime %s is no time",
			       str_shown(c->not_after_text));
	return r;
}

static int read_workload(const struct doc *d, struct ctl_workload *w, struct err *err)
{
	const struct field fields[] = {{"state", .text = &w->state}};
	const struct doc *c = NULL, *in = NULL, *out = NULL;
	int r = read_fields(d, fields, ARRAY_LEN(fields), err);

	w->uid = d->key;
	if (r == 0)
		r = doc_opt_map(d, "connections", &c, err);
	if (r < 0 || c == NULL)
		return r;
	r = doc_opt_list(c, "inbound", &in, err);
	if (r == 0)
		r = doc_opt_list(c, "outbound", &out, err);
	w->inbound = in != NULL ? in->count : 0;
	w->outbound = out != NULL ? out->count : 0;
	return r;
}

/* Stock has a map of build facts there; a plain text is understood too. */
static void read_version(const struct doc *d, struct ctl_ztunnel *z)
{
	const struct doc *v = doc_get(d, "version");

	if (v != NULL && v->kind == DOC_MAP)
		v = doc_get(v, "version");
	if (v != NULL && v->kind == DOC_TEXT)
		z->version = v->text;
}

static void read_trust_domain(const struct doc *d, struct ctl_ztunnel *z)
{
	const struct doc *t = doc_get(doc_get(d, "config"), "trustDomain");

	if (t != NULL && t->kind == DOC_TEXT)
		z->trust_domain = t->text;
}

/* Our development CA is a folder, a real one an address (as stock has it). */
static void read_ca(const struct doc *d, struct ctl_ztunnel *z)
{
	const struct doc *dir = doc_get(doc_get(d, "config"), "devCaDir"),
			 *address = doc_get(doc_get(d, "config"), "caAddress");

	z->ca_is_dev = dir != NULL && dir->kind == DOC_TEXT && dir->text.n != 0;
	if (z->ca_is_dev)
		z->ca = dir->text;
	else if (address != NULL && address->kind == DOC_TEXT)
		z->ca = address->text;
}

int ctl_ztunnel_read(const struct doc *d, struct arena *a, struct ctl_ztunnel *ret, struct err *err)
{
	struct ctl_ztunnel z = {.answers = true, .doc = d};
	const struct doc *c = NULL, *states = NULL;
	int r = doc_map(d, err);

	if (r < 0)
		return r;
	read_version(d, &z);
	read_trust_domain(d, &z);
	read_ca(d, &z);
	c = doc_get(doc_get(d, "localState"), "error");
	if (c != NULL && c->kind == DOC_TEXT)
		z.state_error = c->text;
	r = open_list(d, "certificates", sizeof(*z.certs), a, &z.certs, &z.ncerts, &c, err);
	for (size_t i = 0; r == 0 && c != NULL; c = c->next, i++)
		r = read_cert(c, &z.certs[i], err);
	if (r == 0)
		r = doc_opt_map(d, "workloadState", &states, err);
	if (r < 0)
		return r;
	z.nworkloads = states != NULL ? states->count : 0;
	z.workloads = arena_alloc(a, (z.nworkloads + 1) * sizeof(*z.workloads));
	c = states != NULL ? states->child : NULL;
	for (size_t i = 0; r == 0 && c != NULL; c = c->next, i++)
		r = read_workload(c, &z.workloads[i], err);
	if (r == 0)
		*ret = z;
	return r;
}

void ctl_ready_read(unsigned int status, struct str body, struct ctl_ztunnel *z)
{
	if (status == 200)
		z->ready = CTL_READY_YES;
	else if (status == 500 || status == 503)
		z->ready = CTL_READY_NO;
	while (body.n != 0 && (body.p[body.n - 1] == '\n' || body.p[body.n - 1] == '\r'))
		body.n--;
	z->ready_text = body;
}
