/* SPDX-License-Identifier: Apache-2.0
 * xds_wire.c: see xds_wire.h. The field numbers are those of proto/discovery.proto and
 * struct.proto.
 */
#include "ztunnel/control/xds_wire.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/wire/grpc_frame.h"
#include "ztunnel/config_istiod.h"

enum {
	REQ_NODE = 1,
	REQ_TYPE = 2,
	REQ_SUBSCRIBE,
	REQ_UNSUBSCRIBE,
	REQ_VERSIONS = 5,
	REQ_NONCE = 6,
	REQ_ERROR = 7
};
enum { RES_RESOURCE = 2, RES_TYPE = 4, RES_NONCE = 5, RES_REMOVED = 6 };
enum { RESOURCE_ALIAS = 4 };
enum { NODE_ID = 1, NODE_METADATA = 3 };
enum { STRUCT_FIELD = 1, FIELD_KEY = 1, FIELD_VALUE = 2, LIST_VALUE = 1 };
enum { VALUE_NULL = 1, VALUE_NUMBER, VALUE_STRING, VALUE_BOOL, VALUE_STRUCT, VALUE_LIST };

static void put_text(struct strbuf *out, uint32_t number, const char *s)
{
	pb_add_bytes(out, number, str_of(s));
}

static void put_sub(struct strbuf *out, uint32_t number, struct strbuf *sub)
{
	pb_add_bytes(out, number, (struct str){sub->p, sub->n});
	strbuf_fini(sub);
}

/* Depth is bounded by json_parse(). */
static void put_value(struct strbuf *out, const struct doc *d)
{
	_cleanup_strbuf_ struct strbuf sub = {0};
	char number[64] = "0"; /* longer ones are no numbers that anybody means */

	switch (d->kind) {
	case DOC_BOOL:
		pb_add_varint(out, VALUE_BOOL, d->truth);
		return;
	case DOC_NUMBER:
		if (str_to_cstr(d->text, number, sizeof(number), NULL) != 0)
			number[0] = '0';
		pb_add_double(out, VALUE_NUMBER, strtod(number, NULL));
		return;
	case DOC_TEXT:
		pb_add_bytes(out, VALUE_STRING, d->text);
		return;
	case DOC_LIST:
		for (const struct doc *c = d->child; c != NULL; c = c->next) {
			struct strbuf item = {0};

			put_value(&item, c);
			put_sub(&sub, LIST_VALUE, &item);
		}
		put_sub(out, VALUE_LIST, &sub);
		return;
	case DOC_MAP:
		for (const struct doc *c = d->child; c != NULL; c = c->next) {
			struct strbuf field = {0}, value = {0};

			put_value(&value, c);
			pb_add_bytes(&field, FIELD_KEY, c->key);
			put_sub(&field, FIELD_VALUE, &value);
			put_sub(&sub, STRUCT_FIELD, &field);
		}
		put_sub(out, VALUE_STRUCT, &sub);
		return;
	case DOC_NULL:
	case DOC_N:
		pb_add_varint(out, VALUE_NULL, 0);
	}
}

/* One entry of the metadata; later ones win over earlier ones of the same key. */
static void put_meta(struct strbuf *out, const char *key, struct strbuf *value)
{
	struct strbuf field = {0};

	put_text(&field, FIELD_KEY, key);
	put_sub(&field, FIELD_VALUE, value);
	put_sub(out, STRUCT_FIELD, &field);
}

static void put_text_meta(struct strbuf *out, const char *key, const char *text)
{
	struct strbuf value = {0};

	put_text(&value, VALUE_STRING, text);
	put_meta(out, key, &value);
}

static void put_json_meta(struct strbuf *out, const struct xds_meta *m)
{
	struct arena *a = arena_new();
	struct strbuf value = {0};
	const struct doc *d;

	if (json_parse(str_of(m->value), a, &d, NULL) == 0) { /* config_istiod.c has tried it */
		put_value(&value, d);
		put_meta(out, m->key, &value);
	}
	(void)arena_free(a);
}

void xds_put_node(struct strbuf *out, const struct config_istiod *c, const char *node_name)
{
	_cleanup_free_ char *id = xasprintf("ztunnel~%s~%s.%s~%s.svc.cluster.local", c->instance_ip,
					    c->pod_name, c->pod_namespace, c->pod_namespace);
	struct strbuf node = {0}, meta = {0};

	put_text_meta(&meta, "NAME", c->pod_name);
	put_text_meta(&meta, "NAMESPACE", c->pod_namespace);
	put_text_meta(&meta, "INSTANCE_IPS", c->instance_ip);
	put_text_meta(&meta, "NODE_NAME", node_name);
	for (size_t i = 0; i < c->nmeta; i++)
		if (!c->meta[i].json)
			put_text_meta(&meta, c->meta[i].key, c->meta[i].value);
	for (size_t i = 0; i < c->nmeta; i++)
		if (c->meta[i].json)
			put_json_meta(&meta, &c->meta[i]);
	put_text(&node, NODE_ID, id);
	put_sub(&node, NODE_METADATA, &meta);
	put_sub(out, REQ_NODE, &node);
}

void xds_put_type(struct strbuf *out, struct str type_url)
{
	pb_add_bytes(out, REQ_TYPE, type_url);
}

void xds_put_subscribe(struct strbuf *out, struct str name)
{
	pb_add_bytes(out, REQ_SUBSCRIBE, name);
}

void xds_put_unsubscribe(struct strbuf *out, struct str name)
{
	pb_add_bytes(out, REQ_UNSUBSCRIBE, name);
}

void xds_put_version(struct strbuf *out, struct str name, struct str version)
{
	pb_add_head(out, REQ_VERSIONS, pb_bytes_size(1, name.n) + pb_bytes_size(2, version.n));
	pb_add_bytes(out, 1, name);
	pb_add_bytes(out, 2, version);
}

void xds_put_ack(struct strbuf *out, struct str type_url, struct str nonce, struct str error)
{
	struct strbuf status = {0};

	xds_put_type(out, type_url);
	pb_add_bytes(out, REQ_NONCE, nonce);
	if (error.n == 0)
		return;
	pb_add_bytes(&status, 2, error);
	put_sub(out, REQ_ERROR, &status);
}

const char *xds_stalled(struct xds_progress *p, uint64_t now_ms, size_t partial, bool answered)
{
	if (partial == 0 || partial != p->partial)
		p->moved_ms = now_ms;
	p->partial = partial;
	if (now_ms - p->moved_ms > LIMIT_XDS_STALL_MS)
		return "a message of which nothing more comes";
	if (!answered && partial == 0 && now_ms - p->started_ms > LIMIT_XDS_STALL_MS)
		return "no answer from istiod";
	return NULL;
}

int xds_response_open(struct str m, struct xds_response *ret, struct err *err)
{
	struct str in = m;
	struct pb_field f;
	int r;

	*ret = (struct xds_response){.rest = m, .type_url = STR(""), .nonce = STR("")};
	while ((r = pb_next(&in, &f)) == 1) {
		if (f.wire != 2)
			continue;
		if (f.number == RES_RESOURCE)
			ret->nresources++;
		else if (f.number == RES_REMOVED)
			ret->nremoved++;
		else if (f.number == RES_TYPE)
			ret->type_url = f.bytes;
		else if (f.number == RES_NONCE)
			ret->nonce = f.bytes;
	}
	return r == 0 ? 0 : err_set(err, EINVAL, "the response is no protobuf message");
}

static bool next_field(struct xds_response *r, uint32_t number, struct str *ret)
{
	struct pb_field f;

	while (pb_next(&r->rest, &f) == 1)
		if (f.number == number && f.wire == 2) {
			*ret = f.bytes;
			return true;
		}
	return false;
}

bool xds_next_resource(struct xds_response *r, struct xds_resource *ret)
{
	struct str in, any = {NULL, 0};
	struct pb_field f;
	int rc;

	*ret = (struct xds_resource){0};
	if (!next_field(r, RES_RESOURCE, &in))
		return false;
	ret->aliases = in;
	while ((rc = pb_next(&in, &f)) == 1) {
		if (f.wire != 2)
			continue;
		if (f.number == 1)
			ret->version = f.bytes;
		else if (f.number == 2)
			any = f.bytes;
		else if (f.number == 3)
			ret->name = f.bytes;
	}
	ret->broken = rc != 0;
	while (!ret->broken && (rc = pb_next(&any, &f)) == 1)
		if (f.number == 2 && f.wire == 2)
			ret->value = f.bytes;
	ret->broken = ret->broken || rc != 0 || !str_is_utf8(ret->name) ||
		      ret->version.n > XDS_VERSION_BYTES || ret->name.n > XDS_NAME_BYTES;
	return true;
}

bool xds_next_alias(struct xds_resource *r, struct str *ret)
{
	struct pb_field f;

	while (pb_next(&r->aliases, &f) == 1)
		if (f.number == RESOURCE_ALIAS && f.wire == 2) {
			*ret = f.bytes;
			return true;
		}
	return false;
}

void xds_response_rewind(struct xds_response *r, struct str m)
{
	r->rest = m;
}

bool xds_next_removed(struct xds_response *r, struct str *ret)
{
	return next_field(r, RES_REMOVED, ret);
}
