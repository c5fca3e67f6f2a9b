/* SPDX-License-Identifier: Apache-2.0
 * baggage.c: see baggage.h.
 */
#include "ztunnel/mesh/baggage.h"

#include <stdio.h>

#include "lib/base/mem.h"

#define VALUE_MAX 253 /* names of Kubernetes are not longer */

static void add_kv(struct strbuf *b, const char *key, struct str v)
{
	if (v.n == 0)
		return;
	strbuf_printf(b, "%s%s=", b->n != 0 ? "," : "", key);
	strbuf_str(b, v);
}

void baggage_format(const struct workload *w, struct strbuf *out)
{
	char key[48];

	(void)snprintf(key, sizeof(key), "k8s.%s.name", wl_type_name[w->type]);
	add_kv(out, "k8s.cluster.name", w->cluster);
	add_kv(out, "k8s.namespace.name", w->ns);
	add_kv(out, key, w->workload_name);
	add_kv(out, "service.name", w->canonical_name);
	add_kv(out, "service.version", w->canonical_revision);
	add_kv(out, "cloud.region", w->region);
	add_kv(out, "cloud.availability_zone", w->zone);
}

/* "k8s.<type>.name" */
static bool is_workload_key(struct str key, enum wl_type *ret)
{
	static const struct str head = {"k8s.", 4}, tail = {".name", 5};

	if (!str_has_prefix(key, head) || !str_has_suffix(key, tail) || key.n <= head.n + tail.n)
		return false;
	key = (struct str){key.p + head.n, key.n - head.n - tail.n};
	for (int t = 0; t < WL_TYPE_N; t++)
		if (str_eqc(key, wl_type_name[t])) {
			*ret = (enum wl_type)t;
			return true;
		}
	return false;
}

static void take(struct baggage *b, struct str key, struct str value)
{
	const struct {
		const char *key;
		struct str *to;
	} t[] = {
		{"k8s.cluster.name", &b->cluster},    {"k8s.namespace.name", &b->ns},
		{"service.name", &b->canonical_name}, {"service.version", &b->canonical_revision},
		{"cloud.region", &b->region},	      {"cloud.availability_zone", &b->zone},
	};

	if (value.n == 0 || value.n > VALUE_MAX || !str_is_utf8(value))
		return;
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		if (str_eqc(key, t[i].key)) {
			*t[i].to = value;
			return;
		}
	if (is_workload_key(key, &b->type))
		b->workload_name = value;
}

void baggage_parse(struct str line, struct baggage *b)
{
	bool more = true;

	while (more) {
		struct str entry, key;

		more = str_cut(&line, ',', &entry);
		if (!more)
			entry = line;
		if (str_cut(&entry, '=', &key))
			take(b, key, entry);
	}
}

struct workload *baggage_workload(const struct baggage *b, struct str name, const char *identity)
{
	struct workload *w = workload_new();
	struct str id = str_of(identity);

	w->cluster = model_text(w->arena, b->cluster);
	w->ns = model_text(w->arena, b->ns);
	w->workload_name = model_text(w->arena, b->workload_name);
	w->canonical_name = model_text(w->arena, b->canonical_name);
	w->canonical_revision = model_text(w->arena, b->canonical_revision);
	w->region = model_text(w->arena, b->region);
	w->zone = model_text(w->arena, b->zone);
	w->type = b->type;
	w->name = model_text(w->arena, name);
	w->identity = arena_strndup(w->arena, id.n != 0 ? id.p : "", id.n);
	return w;
}
