/* SPDX-License-Identifier: Apache-2.0
 * zds.c: see zds.h. Pure: one packet in or out, no socket.
 *
 * protobuf-c decodes; every text arrives as bytes with a length and is checked in take_text(), the
 * one place where it becomes a C string.
 */
#include "lib/wire/zds.h"

#include <errno.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "proto/zds.pb-c.h"

static ProtobufCBinaryData bytes_of(char *s)
{
	return (ProtobufCBinaryData){.len = strlen(s), .data = (uint8_t *)s};
}

static int pack(const ProtobufCMessage *m, uint8_t *buf, struct err *err)
{
	size_t n = protobuf_c_message_get_packed_size(m);

	if (n > LIMIT_ZDS_PACKET_BYTES)
		return err_set(err, EMSGSIZE, "zds: message of %zu bytes, the limit is %u", n,
			       LIMIT_ZDS_PACKET_BYTES);
	bug_on(n == 0); /* a packet of no bytes reads as end of file */
	bug_on(protobuf_c_message_pack(m, buf) != n);
	return (int)n;
}

static int pack_hello(const struct zds_msg *m, uint8_t *buf, struct err *err)
{
	Zds__Hello h = ZDS__HELLO__INIT;

	if (m->version == 0)
		return err_set(err, EINVAL, "zds: hello without a version");
	h.version = m->version;
	h.held = m->held;
	h.dns = m->dns;
	return pack(&h.base, buf, err);
}

static int pack_request(const Zds__WorkloadRequest *r, uint8_t *buf, struct err *err)
{
	return pack(&r->base, buf, err);
}

static size_t copy_ports(const struct zds_msg *m, uint32_t ports[ZDS_PORTS_MAX])
{
	bug_on(m->nports > ZDS_PORTS_MAX);
	for (size_t i = 0; i < m->nports; i++)
		ports[i] = m->ports[i];
	return m->nports;
}

static int pack_add(struct zds_msg *m, uint8_t *buf, struct err *err)
{
	Zds__WorkloadRequest r = ZDS__WORKLOAD_REQUEST__INIT;
	Zds__AddWorkload add = ZDS__ADD_WORKLOAD__INIT;
	Zds__WorkloadInfo info = ZDS__WORKLOAD_INFO__INIT;
	uint32_t ports[ZDS_PORTS_MAX];

	info.name = bytes_of(m->name);
	info.namespace_ = bytes_of(m->ns);
	info.service_account = bytes_of(m->sa);
	add.uid = bytes_of(m->uid);
	add.workload_info = m->has_info ? &info : NULL;
	add.n_listener_ports = copy_ports(m, ports);
	add.listener_ports = ports;
	add.agent_version = m->agent_version;
	add.credential = m->credential;
	add.dns_not_captured = m->dns_not_captured;
	r.payload_case = ZDS__WORKLOAD_REQUEST__PAYLOAD_ADD;
	r.add = &add;
	return pack_request(&r, buf, err);
}

static int pack_del(struct zds_msg *m, uint8_t *buf, struct err *err)
{
	Zds__WorkloadRequest r = ZDS__WORKLOAD_REQUEST__INIT;
	Zds__DelWorkload del = ZDS__DEL_WORKLOAD__INIT;

	del.uid = bytes_of(m->uid);
	r.payload_case = ZDS__WORKLOAD_REQUEST__PAYLOAD_DEL;
	r.del = &del;
	return pack_request(&r, buf, err);
}

static int pack_keep(struct zds_msg *m, uint8_t *buf, struct err *err)
{
	Zds__WorkloadRequest r = ZDS__WORKLOAD_REQUEST__INIT;
	Zds__KeepWorkload keep = ZDS__KEEP_WORKLOAD__INIT;

	keep.uid = bytes_of(m->uid);
	r.payload_case = ZDS__WORKLOAD_REQUEST__PAYLOAD_KEEP;
	r.keep = &keep;
	return pack_request(&r, buf, err);
}

static int pack_snapshot_sent(uint8_t *buf, struct err *err)
{
	Zds__WorkloadRequest r = ZDS__WORKLOAD_REQUEST__INIT;
	Zds__SnapshotSent sent = ZDS__SNAPSHOT_SENT__INIT;

	r.payload_case = ZDS__WORKLOAD_REQUEST__PAYLOAD_SNAPSHOT_SENT;
	r.snapshot_sent = &sent;
	return pack_request(&r, buf, err);
}

static int pack_ack(struct zds_msg *m, uint8_t *buf, struct err *err)
{
	Zds__WorkloadResponse r = ZDS__WORKLOAD_RESPONSE__INIT;
	Zds__Ack ack = ZDS__ACK__INIT;

	ack.error = bytes_of(m->error);
	r.payload_case = ZDS__WORKLOAD_RESPONSE__PAYLOAD_ACK;
	r.ack = &ack;
	return pack(&r.base, buf, err);
}

static int pack_held(struct zds_msg *m, uint8_t *buf, struct err *err)
{
	Zds__WorkloadResponse r = ZDS__WORKLOAD_RESPONSE__INIT;
	Zds__Held held = ZDS__HELD__INIT;
	uint32_t ports[ZDS_PORTS_MAX];

	held.uid = bytes_of(m->uid);
	held.n_listener_ports = copy_ports(m, ports);
	held.listener_ports = ports;
	r.payload_case = ZDS__WORKLOAD_RESPONSE__PAYLOAD_HELD;
	r.held = &held;
	return pack(&r.base, buf, err);
}

static int pack_credential(struct zds_msg *m, uint8_t *buf, struct err *err)
{
	Zds__WorkloadResponse r = ZDS__WORKLOAD_RESPONSE__INIT;
	Zds__Credential c = ZDS__CREDENTIAL__INIT;

	c.identity = bytes_of(m->identity);
	r.payload_case = ZDS__WORKLOAD_RESPONSE__PAYLOAD_CREDENTIAL;
	r.credential = &c;
	return pack(&r.base, buf, err);
}

static int pack_draining(uint8_t *buf, struct err *err)
{
	Zds__WorkloadResponse r = ZDS__WORKLOAD_RESPONSE__INIT;
	Zds__Draining draining = ZDS__DRAINING__INIT;

	r.payload_case = ZDS__WORKLOAD_RESPONSE__PAYLOAD_DRAINING;
	r.draining = &draining;
	return pack(&r.base, buf, err);
}

int zds_encode(const struct zds_msg *m, uint8_t buf[LIMIT_ZDS_PACKET_BYTES], struct err *err)
{
	struct zds_msg c = *m; /* protobuf-c wants writable bytes */
	bool has_uid = m->kind == ZDS_ADD || m->kind == ZDS_DEL || m->kind == ZDS_KEEP ||
		       m->kind == ZDS_HELD;

	if (has_uid && m->uid[0] == '\0')
		return err_set(err, EINVAL, "zds: uid is empty");
	switch (m->kind) {
	case ZDS_HELLO:
		return pack_hello(&c, buf, err);
	case ZDS_ADD:
		return pack_add(&c, buf, err);
	case ZDS_DEL:
		return pack_del(&c, buf, err);
	case ZDS_KEEP:
		return pack_keep(&c, buf, err);
	case ZDS_SNAPSHOT_SENT:
		return pack_snapshot_sent(buf, err);
	case ZDS_ACK:
		return pack_ack(&c, buf, err);
	case ZDS_HELD:
		return pack_held(&c, buf, err);
	case ZDS_DRAINING:
		return pack_draining(buf, err);
	case ZDS_CREDENTIAL:
		return pack_credential(&c, buf, err);
	case ZDS_KIND_N:
		break;
	}
	bug_on(true);
	return -EINVAL;
}

static int take_text(const ProtobufCBinaryData *b, const char *field, bool required, char *out,
		     size_t cap, struct err *err)
{
	struct str s = {(const char *)b->data, b->len};

	if (required && s.n == 0)
		return err_set(err, EINVAL, "zds: %s is empty", field);
	if (s.n >= cap)
		return err_set(err, EINVAL, "zds: %s has %zu bytes, the limit is %zu", field, s.n,
			       cap - 1);
	if (!str_is_utf8(s))
		return err_set(err, EINVAL, "zds: %s has a NUL byte or is not UTF-8", field);
	return str_to_cstr(s, out, cap, err);
}

static int take_ports(const uint32_t *ports, size_t n, struct zds_msg *m, struct err *err)
{
	if (n > ZDS_PORTS_MAX)
		return err_set(err, EINVAL, "zds: %zu listener ports, the limit is %u", n,
			       ZDS_PORTS_MAX);
	for (size_t i = 0; i < n; i++) {
		if (ports[i] == 0 || ports[i] > UINT16_MAX)
			return err_set(err, EINVAL, "zds: listener port %u is no port", ports[i]);
		m->ports[i] = (uint16_t)ports[i];
	}
	m->nports = n;
	return 0;
}

static int check_size(size_t n, struct err *err)
{
	if (n == 0 || n > LIMIT_ZDS_PACKET_BYTES)
		return err_set(err, EINVAL, "zds: packet of %zu bytes, expected 1 to %u", n,
			       LIMIT_ZDS_PACKET_BYTES);
	return 0;
}

int zds_decode_hello(const uint8_t *p, size_t n, struct zds_msg *ret, struct err *err)
{
	struct zds_msg m = {.kind = ZDS_HELLO};
	Zds__Hello *h;
	int r = check_size(n, err);

	if (r < 0)
		return r;
	h = zds__hello__unpack(NULL, n, p);
	if (h == NULL)
		return err_set(err, EINVAL, "zds: hello of %zu bytes cannot be decoded", n);
	m.version = h->version;
	m.held = h->held;
	m.dns = h->dns && h->version >= ZDS_V2_CUSTODY;
	zds__hello__free_unpacked(h, NULL);
	if (m.version == 0)
		return err_set(err, EINVAL, "zds: hello without a version");
	*ret = m;
	return 0;
}

static int take_add(const Zds__AddWorkload *a, struct zds_msg *m, struct err *err)
{
	const Zds__WorkloadInfo *i = a->workload_info;
	int r = take_text(&a->uid, "uid", true, m->uid, sizeof(m->uid), err);

	m->kind = ZDS_ADD;
	m->dns_not_captured = a->dns_not_captured;
	if (r == 0 && i != NULL) {
		m->has_info = true;
		r = take_text(&i->name, "workload_info.name", false, m->name, sizeof(m->name), err);
		if (r == 0)
			r = take_text(&i->namespace_, "workload_info.namespace", false, m->ns,
				      sizeof(m->ns), err);
		if (r == 0)
			r = take_text(&i->service_account, "workload_info.service_account", false,
				      m->sa, sizeof(m->sa), err);
	}
	m->agent_version = a->agent_version;
	m->credential = a->credential != 0;
	return r < 0 ? r : take_ports(a->listener_ports, a->n_listener_ports, m, err);
}

static int take_request(const Zds__WorkloadRequest *q, struct zds_msg *m, struct err *err)
{
	switch (q->payload_case) {
	case ZDS__WORKLOAD_REQUEST__PAYLOAD_ADD:
		return take_add(q->add, m, err);
	case ZDS__WORKLOAD_REQUEST__PAYLOAD_DEL:
		m->kind = ZDS_DEL;
		return take_text(&q->del->uid, "uid", true, m->uid, sizeof(m->uid), err);
	case ZDS__WORKLOAD_REQUEST__PAYLOAD_KEEP:
		m->kind = ZDS_KEEP;
		return take_text(&q->keep->uid, "uid", true, m->uid, sizeof(m->uid), err);
	case ZDS__WORKLOAD_REQUEST__PAYLOAD_SNAPSHOT_SENT:
		m->kind = ZDS_SNAPSHOT_SENT;
		return 0;
	case ZDS__WORKLOAD_REQUEST__PAYLOAD__NOT_SET:
	case _ZDS__WORKLOAD_REQUEST__PAYLOAD__CASE_IS_INT_SIZE:
		break;
	}
	return err_set(err, EINVAL, "zds: request without a known payload");
}

int zds_decode_request(const uint8_t *p, size_t n, struct zds_msg *ret, struct err *err)
{
	struct zds_msg m = {0};
	Zds__WorkloadRequest *q;
	int r = check_size(n, err);

	if (r < 0)
		return r;
	q = zds__workload_request__unpack(NULL, n, p);
	if (q == NULL)
		return err_set(err, EINVAL, "zds: request of %zu bytes cannot be decoded", n);
	r = take_request(q, &m, err);
	zds__workload_request__free_unpacked(q, NULL);
	if (r == 0)
		*ret = m;
	return r;
}

static int take_response(const Zds__WorkloadResponse *q, struct zds_msg *m, struct err *err)
{
	int r;

	switch (q->payload_case) {
	case ZDS__WORKLOAD_RESPONSE__PAYLOAD_ACK:
		m->kind = ZDS_ACK;
		return take_text(&q->ack->error, "error", false, m->error, sizeof(m->error), err);
	case ZDS__WORKLOAD_RESPONSE__PAYLOAD_HELD:
		m->kind = ZDS_HELD;
		r = take_text(&q->held->uid, "uid", true, m->uid, sizeof(m->uid), err);
		return r < 0 ? r
			     : take_ports(q->held->listener_ports, q->held->n_listener_ports, m,
					  err);
	case ZDS__WORKLOAD_RESPONSE__PAYLOAD_DRAINING:
		m->kind = ZDS_DRAINING;
		return 0;
	case ZDS__WORKLOAD_RESPONSE__PAYLOAD_CREDENTIAL:
		m->kind = ZDS_CREDENTIAL;
		return take_text(&q->credential->identity, "identity", true, m->identity,
				 sizeof(m->identity), err);
	case ZDS__WORKLOAD_RESPONSE__PAYLOAD__NOT_SET:
	case _ZDS__WORKLOAD_RESPONSE__PAYLOAD__CASE_IS_INT_SIZE:
		break;
	}
	return err_set(err, EINVAL, "zds: response without a known payload");
}

int zds_decode_response(const uint8_t *p, size_t n, struct zds_msg *ret, struct err *err)
{
	struct zds_msg m = {0};
	Zds__WorkloadResponse *q;
	int r = check_size(n, err);

	if (r < 0)
		return r;
	q = zds__workload_response__unpack(NULL, n, p);
	if (q == NULL)
		return err_set(err, EINVAL, "zds: response of %zu bytes cannot be decoded", n);
	r = take_response(q, &m, err);
	zds__workload_response__free_unpacked(q, NULL);
	if (r == 0)
		*ret = m;
	return r;
}
