/* SPDX-License-Identifier: Apache-2.0
 * test_xds_wire.c: requests as the generated code of proto/discovery.proto reads them, and
 * responses as it writes them.
 */
#include "tests/unit/zt_helper.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "proto/discovery.pb-c.h"
#include "ztunnel/config_istiod.h"
#include "ztunnel/control/xds_wire.h"

#define URL STR("type.googleapis.com/istio.workload.Address")

static bool is(ProtobufCBinaryData b, const char *want)
{
	return str_eqc((struct str){(const char *)b.data, b.len}, want);
}

static Istio__Xds__DeltaRequest *unpack(const struct strbuf *b)
{
	Istio__Xds__DeltaRequest *r =
		istio__xds__delta_request__unpack(NULL, b->n, (const uint8_t *)b->p);

	assert_non_null(r);
	return r;
}

/* The last entry of that key: that is what a map means. */
static const Istio__Value__Value *meta(const Istio__Xds__DeltaRequest *r, const char *key)
{
	const Istio__Value__Value *v = NULL;

	for (size_t i = 0; i < r->node->metadata->n_fields; i++)
		if (is(r->node->metadata->fields[i]->key, key))
			v = r->node->metadata->fields[i]->value;
	return v;
}

static void request__node(void **state)
{
	struct xds_meta metas[] = {
		{(char[]){"CLUSTER_ID"}, (char[]){"c1"}, false},
		{(char[]){"NAME"}, (char[]){"other"}, false}, /* wins over POD_NAME */
		{(char[]){"J"},
		 (char[]){"{\"n\":-1.5e2,\"t\":\"x\",\"b\":true,\"z\":null,"
			  "\"l\":[1,{\"k\":\"v\"}],\"e\":{}}"},
		 true},
	};
	struct config_istiod c = {.instance_ip = (char[]){"10.0.0.1"},
				  .pod_name = (char[]){"z-1"},
				  .pod_namespace = (char[]){"istio-system"},
				  .meta = metas,
				  .nmeta = ARRAY_LEN(metas)};
	struct strbuf b = {0};
	Istio__Xds__DeltaRequest *r;
	const Istio__Value__Struct *j;
	const Istio__Value__List *l;

	(void)state;
	xds_put_node(&b, &c, "node1");
	xds_put_type(&b, URL);
	xds_put_version(&b, STR("one"), STR("v1"));
	xds_put_version(&b, STR("two"), STR(""));
	r = unpack(&b);
	assert_true(is(r->node->id,
		       "ztunnel~10.0.0.1~z-1.istio-system~istio-system.svc.cluster.local"));
	assert_true(is(r->type_url, URL.p));
	assert_int_equal(r->n_subscribe + r->n_unsubscribe, 0);
	assert_int_equal(r->n_initial_resource_versions, 2);
	assert_true(is(r->initial_resource_versions[0]->key, "one"));
	assert_true(is(r->initial_resource_versions[0]->value, "v1"));
	assert_true(is(r->initial_resource_versions[1]->key, "two"));
	assert_true(is(r->initial_resource_versions[1]->value, ""));
	assert_true(is(meta(r, "NAME")->string_value, "other"));
	assert_true(is(meta(r, "NAMESPACE")->string_value, "istio-system"));
	assert_true(is(meta(r, "INSTANCE_IPS")->string_value, "10.0.0.1"));
	assert_true(is(meta(r, "NODE_NAME")->string_value, "node1"));
	assert_true(is(meta(r, "CLUSTER_ID")->string_value, "c1"));
	j = meta(r, "J")->struct_value;
	assert_int_equal(j->n_fields, 6);
	assert_true(is(j->fields[0]->key, "n"));
	assert_true(j->fields[0]->value->number_value == -150.0);
	assert_true(is(j->fields[1]->value->string_value, "x"));
	assert_int_equal(j->fields[2]->value->bool_value, 1);
	assert_int_equal(j->fields[3]->value->kind_case, ISTIO__VALUE__VALUE__KIND_NULL_VALUE);
	l = j->fields[4]->value->list_value;
	assert_int_equal(l->n_values, 2);
	assert_true(l->values[0]->number_value == 1.0);
	assert_true(is(l->values[1]->struct_value->fields[0]->value->string_value, "v"));
	assert_int_equal(j->fields[5]->value->struct_value->n_fields, 0);
	istio__xds__delta_request__free_unpacked(r, NULL);
	strbuf_fini(&b);
}

static void request__ack_and_nack(void **state)
{
	struct strbuf b = {0};
	Istio__Xds__DeltaRequest *r;

	(void)state;
	xds_put_ack(&b, URL, STR("n1"), STR(""));
	r = unpack(&b);
	assert_true(is(r->type_url, URL.p) && is(r->response_nonce, "n1"));
	assert_null(r->error_detail);
	assert_null(r->node);
	istio__xds__delta_request__free_unpacked(r, NULL);
	strbuf_fini(&b);
	xds_put_ack(&b, URL, STR("n2"), STR("a: bad"));
	r = unpack(&b);
	assert_true(is(r->response_nonce, "n2") && is(r->error_detail->message, "a: bad"));
	istio__xds__delta_request__free_unpacked(r, NULL);
	strbuf_fini(&b);
}

static void request__names(void **state)
{
	struct strbuf b = {0};
	Istio__Xds__DeltaRequest *r;

	(void)state;
	xds_put_type(&b, URL);
	xds_put_subscribe(&b, STR("/1.2.3.4"));
	xds_put_unsubscribe(&b, STR("*"));
	xds_put_subscribe(&b, STR("ns/h"));
	r = unpack(&b);
	assert_int_equal(r->n_subscribe, 2);
	assert_int_equal(r->n_unsubscribe, 1);
	assert_true(is(r->subscribe[0], "/1.2.3.4") && is(r->subscribe[1], "ns/h") &&
		    is(r->unsubscribe[0], "*"));
	istio__xds__delta_request__free_unpacked(r, NULL);
	strbuf_fini(&b);
}
static void response__is_walked(void **state)
{
	Istio__Xds__DeltaResponse d = ISTIO__XDS__DELTA_RESPONSE__INIT;
	Istio__Xds__Resource r1 = ISTIO__XDS__RESOURCE__INIT, r2 = r1, *rs[] = {&r1, &r2};
	Istio__Xds__Any any = ISTIO__XDS__ANY__INIT;
	ProtobufCBinaryData gone[] = {{1, (uint8_t *)(uintptr_t) "x"},
				      {2, (uint8_t *)(uintptr_t) "yz"}};
	struct xds_response resp;
	struct xds_resource r;
	struct str m, name;
	uint8_t buf[512];
	size_t n;

	(void)state;
	any.value = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "abc"};
	r1.name = (ProtobufCBinaryData){2, (uint8_t *)(uintptr_t) "r1"};
	r1.version = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "7"};
	r1.resource = &any;
	r1.aliases = gone;
	r1.n_aliases = 2;
	r2.name = (ProtobufCBinaryData){2, (uint8_t *)(uintptr_t) "r\xff"};
	d.resources = rs;
	d.n_resources = 2;
	d.type_url = (ProtobufCBinaryData){URL.n, (uint8_t *)(uintptr_t)URL.p};
	d.nonce = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "n"};
	d.removed_resources = gone;
	d.n_removed_resources = 2;
	n = istio__xds__delta_response__pack(&d, buf);
	m = (struct str){(const char *)buf, n};
	assert_int_equal(xds_response_open(m, &resp, NULL), 0);
	assert_true(str_eq(resp.type_url, URL) && str_eqc(resp.nonce, "n"));
	assert_int_equal(resp.nresources, 2);
	assert_int_equal(resp.nremoved, 2);
	assert_true(xds_next_resource(&resp, &r));
	assert_true(!r.broken && str_eqc(r.name, "r1") && str_eqc(r.version, "7") &&
		    str_eqc(r.value, "abc"));
	assert_true(xds_next_alias(&r, &name) && str_eqc(name, "x"));
	assert_true(xds_next_alias(&r, &name) && str_eqc(name, "yz"));
	assert_false(xds_next_alias(&r, &name));
	assert_true(xds_next_resource(&resp, &r));
	assert_true(r.broken);
	assert_false(xds_next_resource(&resp, &r));
	xds_response_rewind(&resp, m);
	assert_true(xds_next_removed(&resp, &name) && str_eqc(name, "x"));
	assert_true(xds_next_removed(&resp, &name) && str_eqc(name, "yz"));
	assert_false(xds_next_removed(&resp, &name));
	/* every cut is an error or a shorter response, never a read beyond */
	for (size_t i = 0; i < n; i++) {
		char *copy = xmalloc(i);
		struct str cut = {copy, i};

		memcpy(copy, buf, i);
		if (xds_response_open(cut, &resp, NULL) == 0)
			while (xds_next_resource(&resp, &r))
				while (!r.broken && xds_next_alias(&r, &name))
					;
		free(copy);
	}
}

/* Looks at a stream at these times (its limit is two minutes): how many seconds it is given. */
static void stream__silence(void **state)
{
	enum { STALL = LIMIT_XDS_STALL_MS / 1000 };
	static const struct {
		const char *title;
		size_t partial, grows; /* bytes at the first look, and more at each one after it */
		bool answered;
		unsigned int until_s; /* the bytes grow until then */
		unsigned int want_s;  /* 0: it lives for the ten minutes that are looked at */
		const char *why;
	} rows[] = {
		{"nothing at all", 0, 0, false, 0, STALL + 5, "no answer from istiod"},
		{"nothing more after the first answers", 0, 0, true, 0, 0, NULL},
		{"half a message", 7, 0, false, 0, STALL + 5, "nothing more comes"},
		{"half a message after the first answers", 7, 0, true, 0, STALL + 5,
		 "nothing more comes"},
		{"a large message, slowly", 1, 1, false, 600, 0, NULL},
		{"a large message that stops", 1, 1, true, 300, 300 + STALL + 5,
		 "nothing more comes"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct xds_progress p = {1000, 1000, 0};
		size_t partial = rows[i].partial;
		const char *why = NULL;
		unsigned int s = 0;

		print_message("row: %s\n", rows[i].title);
		while (why == NULL && (s += 5) < 600) {
			why = xds_stalled(&p, 1000 + s * 1000ull, partial, rows[i].answered);
			if (s < rows[i].until_s)
				partial += rows[i].grows;
		}
		if (rows[i].want_s == 0) {
			assert_null(why);
			continue;
		}
		assert_non_null(why);
		assert_non_null(strstr(why, rows[i].why));
		assert_in_range(s, rows[i].want_s, rows[i].want_s + 5);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request__node),   cmocka_unit_test(request__ack_and_nack),
		cmocka_unit_test(request__names),  cmocka_unit_test(response__is_walked),
		cmocka_unit_test(stream__silence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
