/* SPDX-License-Identifier: Apache-2.0
 * test_store.c: what istiod has sent, by name, and snapshots of it in steps of every size.
 */
#include "tests/unit/zt_helper.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "ztunnel/mesh/image.h"
#include "ztunnel/mesh/store.h"

static struct workload *wl(const char *uid, uint8_t ip, const char *service)
{
	struct workload *w = workload_new();

	w->uid = model_text(w->arena, str_of(uid));
	w->name = w->uid;
	w->ns = STR("ns");
	w->node = STR("n1");
	w->ips = arena_alloc(w->arena, sizeof(*w->ips));
	w->ips[w->nips++] = (struct ip_addr){4, {10, 0, 0, ip}};
	w->services = arena_alloc(w->arena, sizeof(*w->services));
	if (service != NULL)
		w->services[w->nservices++].name = model_text(w->arena, str_of(service));
	assert_int_equal(workload_complete(w, NULL), 0);
	return w;
}

static struct service *svc(const char *host)
{
	struct service *s = service_new();

	s->ns = STR("ns");
	s->hostname = model_text(s->arena, str_of(host));
	return s;
}

static struct policy *pol(const char *key)
{
	struct policy *p = policy_new();

	p->key = model_text(p->arena, str_of(key));
	p->ns = STR("ns");
	p->name = p->key;
	p->scope = POLICY_NAMESPACE;
	return p;
}

static void store__snapshot(void **state)
{
	struct store *s = store_new(STR("n1"), true);
	struct ip_addr ip = {4, {10, 0, 0, 2}};
	struct mesh *m;
	size_t n;

	(void)state;
	store_workload(s, wl("a", 1, "ns/h"), STR("1"), STR("v"));
	store_policy(s, pol("ns/p"), STR(""), STR("v"));
	store_service(s, svc("h"), STR("ns/h"), STR("2"), STR("v"));
	store_workload(s, wl("b", 2, "ns/h"), STR("3"), STR("v"));
	m = store_snapshot(s, 7);
	assert_int_equal(mesh_generation(m), 7);
	assert_int_equal(mesh_count_workloads(m), 2);
	assert_true(mesh_workload_by_ip(m, STR(""), &ip) == mesh_workload_by_uid(m, STR("b")));
	assert_non_null(mesh_endpoints(m, mesh_service_by_host(m, STR("ns"), STR("h")), &n));
	assert_int_equal(n, 2);
	assert_non_null(mesh_policy(m, STR("ns/p")));
	(void)mesh_policies(m, POLICY_NAMESPACE, STR("ns"), &n);
	assert_int_equal(n, 1);
	assert_non_null(mesh_local_workload(m, STR("a"), STR("ns"), STR("default")));
	assert_false(mesh_is_last(m)); /* the store builds on it */
	(void)store_free(s);
	assert_true(mesh_is_last(m));
	assert_true(mesh_workload_by_ip(m, STR(""), &ip) == mesh_workload_by_uid(m, STR("b")));
	mesh_unref(m);
}

struct seen {
	char text[256];
};

static void see(void *ctx, struct str name, struct str version)
{
	struct seen *s = ctx;
	size_t n = strlen(s->text);

	(void)snprintf(s->text + n, sizeof(s->text) - n, "%.*s=%.*s ", STR_FMT(name),
		       STR_FMT(version));
}

static void expect(const struct store *s, enum store_kind kind, const char *want)
{
	struct seen seen = {""};

	store_each(s, kind, see, &seen);
	assert_string_equal(seen.text, want);
}

static void store__names_and_versions(void **state)
{
	struct store *s = store_new(STR("n1"), true);
	struct mesh *before, *after;

	(void)state;
	store_workload(s, wl("a", 1, NULL), STR("1"), STR("v"));
	store_workload(s, wl("b", 2, NULL), STR("2"), STR("v"));
	store_service(s, svc("h"), STR("ns/h"), STR("3"), STR("v"));
	store_policy(s, pol("a"), STR(""), STR("v")); /* the same name in another kind */
	expect(s, STORE_ADDRESS, "a=1 b=2 ns/h=3 ");
	expect(s, STORE_POLICY, "a= ");
	before = store_snapshot(s, 1);
	store_workload(s, wl("a", 9, NULL), STR("4"), STR("v")); /* replaced: the newest now */
	expect(s, STORE_ADDRESS, "b=2 ns/h=3 a=4 ");
	assert_true(store_remove(s, STORE_ADDRESS, STR("b")));
	assert_false(store_remove(s, STORE_ADDRESS, STR("b")));
	assert_true(store_remove(s, STORE_POLICY, STR("a")));
	assert_true(store_remove(s, STORE_ADDRESS, STR("ns/h")));
	assert_int_equal(store_count(s, STORE_ADDRESS), 1);
	assert_int_equal(store_count(s, STORE_POLICY), 0);
	after = store_snapshot(s, 1);
	/* the old snapshot keeps what it had */
	assert_int_equal(mesh_count_workloads(before), 2);
	assert_int_equal(mesh_workload_by_uid(before, STR("a"))->ips[0].b[3], 1);
	assert_int_equal(mesh_workload_by_uid(after, STR("a"))->ips[0].b[3], 9);
	assert_true(store_bytes(s) > 0);
	assert_true(store_remove(s, STORE_ADDRESS, STR("a")));
	assert_int_equal(store_bytes(s), 0);
	(void)store_free(s);
	mesh_unref(before);
	mesh_unref(after);
}

/* ---- changes against building anew ---- */

#define NAMES 24
static unsigned int seed;

static unsigned int pick(unsigned int n)
{
	seed = seed * 1103515245u + 12345u;
	return (seed >> 16) % n;
}

/* Objects that share addresses, services and namespaces as much as they can. */
static struct workload *random_workload(unsigned int i)
{
	struct workload *w = workload_new();
	char text[32];

	(void)snprintf(text, sizeof(text), pick(2) ? "c//Pod/ns/w%u" : "w%u", i);
	w->uid = model_text(w->arena, str_of(text));
	(void)snprintf(text, sizeof(text), "w%u", i % 3);
	w->name = model_text(w->arena, str_of(text));
	w->ns = pick(2) ? STR("ns") : STR("other");
	w->network = pick(4) ? STR("") : STR("net");
	w->node = pick(2) ? STR("n1") : STR("n2");
	w->unhealthy = pick(3) == 0;
	w->host_network = pick(8) == 0;
	w->protocol = pick(2) ? WL_HBONE : WL_TCP;
	w->ips = arena_alloc(w->arena, 2 * sizeof(*w->ips));
	for (w->nips = 0; w->nips < 1 + pick(2); w->nips++)
		w->ips[w->nips] = (struct ip_addr){4, {10, 0, 0, (uint8_t)pick(6)}};
	w->services = arena_alloc(w->arena, 2 * sizeof(*w->services));
	for (w->nservices = 0; w->nservices < pick(3); w->nservices++) {
		(void)snprintf(text, sizeof(text), "ns/h%u", pick(4));
		w->services[w->nservices].name = model_text(w->arena, str_of(text));
	}
	assert_int_equal(workload_complete(w, NULL), 0);
	return w;
}

static struct service *random_service(unsigned int i, char name[32])
{
	struct service *s = service_new();

	(void)snprintf(name, 32, "h%u", i % 4);
	s->hostname = model_text(s->arena, str_of(name));
	s->ns = i < 4 ? STR("ns") : STR("other");
	(void)snprintf(name, 32, "%.*s/h%u", STR_FMT(s->ns), i % 4);
	s->allow_unhealthy = pick(2);
	s->canonical = pick(3) == 0;
	s->private_to_ns = pick(4) == 0;
	s->vips = arena_alloc(s->arena, 2 * sizeof(*s->vips));
	for (s->nvips = 0; s->nvips < pick(3); s->nvips++)
		s->vips[s->nvips] = (struct net_ip){STR(""), {4, {10, 9, 0, (uint8_t)pick(3)}}};
	s->cidr_vips = arena_alloc(s->arena, sizeof(*s->cidr_vips));
	if (pick(4) == 0) {
		s->ncidr_vips = 1;
		s->cidr_vips[0].network = STR("");
		s->cidr_vips[0].cidr =
			(struct ip_cidr){{4, {10, 9, 0, 0}}, (uint8_t)(24 + pick(8))};
	}
	return s;
}

static struct policy *random_policy(unsigned int i)
{
	char key[32];
	struct policy *p;

	(void)snprintf(key, sizeof(key), "ns/p%u", i);
	p = pol(key);
	p->ns = pick(2) ? STR("ns") : STR("other");
	p->scope = (enum policy_scope)pick(POLICY_SCOPE_N);
	return p;
}

static void change(struct store *s)
{
	unsigned int i = pick(NAMES);
	char name[32];

	switch (pick(6)) {
	case 0:
	case 1:
		store_workload(s, random_workload(i), STR("1"), STR("v"));
		return;
	case 2: {
		struct service *v = random_service(i % 8, name);

		store_service(s, v, str_of(name), STR("1"), STR("v"));
		return;
	}
	case 3:
		store_policy(s, random_policy(i % 8), STR("1"), STR("v"));
		return;
	case 4:
		(void)snprintf(name, sizeof(name), pick(2) ? "c//Pod/ns/w%u" : "w%u", i);
		(void)store_remove(s, STORE_ADDRESS, str_of(name));
		(void)snprintf(name, sizeof(name), pick(2) ? "ns/h%u" : "other/h%u", i % 4);
		if (pick(2))
			(void)store_remove(s, STORE_ADDRESS, str_of(name));
		return;
	default:
		(void)snprintf(name, sizeof(name), "ns/p%u", i % 8);
		(void)store_remove(s, STORE_POLICY, str_of(name));
	}
}

/* What a store knows, in its order, built anew. */
struct anew {
	struct mesh *from;
	struct mesh_builder *b;
};

static void add_address(void *ctx, struct str name, struct str version)
{
	struct anew *a = ctx;
	struct str host = name, ns;
	struct workload *w = mesh_workload_by_uid(a->from, name);

	(void)version;
	if (w != NULL) {
		assert_int_equal(mesh_builder_workload(a->b, workload_ref(w), NULL), 0);
		return;
	}
	assert_true(str_cut(&host, '/', &ns));
	assert_int_equal(mesh_builder_service(
				 a->b, service_ref(mesh_service_by_host(a->from, ns, host)), NULL),
			 0);
}

static void add_policy(void *ctx, struct str name, struct str version)
{
	struct anew *a = ctx;

	(void)version;
	assert_int_equal(mesh_builder_policy(a->b, policy_ref(mesh_policy(a->from, name)), NULL),
			 0);
}

/* Services come first here: a service that comes later sees its endpoints in the order of their
 * health, which decides nothing. */
static void expect_same_endpoints(const struct mesh *x, const struct mesh *y, const char *host)
{
	struct service *a = mesh_service_by_host(x, STR("ns"), str_of(host));
	const struct endpoint *ex, *ey;
	size_t nx, ny, found = 0;

	assert_ptr_equal(a, mesh_service_by_host(y, STR("ns"), str_of(host)));
	if (a == NULL)
		return;
	ex = mesh_endpoints(x, a, &nx);
	ey = mesh_endpoints(y, a, &ny);
	assert_int_equal(nx, ny);
	for (size_t i = 0; i < nx; i++)
		for (size_t k = 0; k < ny; k++)
			found += ex[i].wl == ey[k].wl && ex[i].ports == ey[k].ports;
	assert_true(found >= nx);
}

static void expect_same(const struct mesh *x, const struct mesh *y)
{
	static const char *const networks[] = {"", "net"}, *const nss[] = {"ns", "other"};
	char text[32];

	assert_int_equal(mesh_count_workloads(x), mesh_count_workloads(y));
	for (unsigned int i = 0; i < 8; i++) {
		struct ip_addr ip = {4, {10, 0, 0, (uint8_t)i}}, vip = {4, {10, 9, 0, (uint8_t)i}};

		for (size_t n = 0; n < 2; n++) {
			struct str net = str_of(networks[n]);

			assert_ptr_equal(mesh_workload_by_ip(x, net, &ip),
					 mesh_workload_by_ip(y, net, &ip));
			assert_ptr_equal(mesh_service_by_vip(x, STR(""), &vip, str_of(nss[n])),
					 mesh_service_by_vip(y, STR(""), &vip, str_of(nss[n])));
			(void)snprintf(text, sizeof(text), "w%u", i % 3);
			assert_ptr_equal(mesh_local_workload(x, str_of(text), str_of(nss[n]),
							     STR("default")),
					 mesh_local_workload(y, str_of(text), str_of(nss[n]),
							     STR("default")));
		}
		assert_ptr_equal(mesh_service_by_vip(x, STR(""), &vip, (struct str){NULL, 0}),
				 mesh_service_by_vip(y, STR(""), &vip, (struct str){NULL, 0}));
		(void)snprintf(text, sizeof(text), i < 4 ? "h%u" : "H%u", i % 4);
		assert_ptr_equal(mesh_service_by_name(x, str_of(text), STR("ns")),
				 mesh_service_by_name(y, str_of(text), STR("ns")));
		text[0] = 'h';
		expect_same_endpoints(x, y, text);
	}
	for (size_t n = 0; n < 3; n++) {
		enum policy_scope scope = n == 2 ? POLICY_GLOBAL : POLICY_NAMESPACE;
		struct str ns = n == 2 ? STR("") : str_of(nss[n]);
		size_t nx, ny;
		struct policy *const *px = mesh_policies(x, scope, ns, &nx);
		struct policy *const *py = mesh_policies(y, scope, ns, &ny);

		assert_int_equal(nx, ny);
		for (size_t i = 0; i < nx; i++) /* in the same order */
			assert_ptr_equal(px[i], py[i]);
	}
}

static void store__same_as_anew(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 200; round++) {
		struct store *s = store_new(STR("n1"), true);
		struct mesh *kept = NULL;

		seed = round;
		for (unsigned int i = 0; i < 60; i++) {
			struct anew a;
			struct mesh *m;

			for (unsigned int k = pick(4); k > 0; k--)
				change(s);
			m = store_snapshot(s, i);
			a.from = m;
			a.b = mesh_builder_new(STR("n1"));
			store_each(s, STORE_ADDRESS, add_address, &a);
			store_each(s, STORE_POLICY, add_policy, &a);
			a.from = mesh_builder_finish(a.b, i);
			expect_same(m, a.from);
			mesh_unref(a.from);
			if (i % 7 == 0) { /* old ones stay whole while newer ones come and go */
				mesh_unref(kept);
				kept = mesh_ref(m);
			}
			mesh_unref(m);
		}
		(void)store_free(s);
		expect_same(kept, kept);
		mesh_unref(kept);
	}
}

static struct policy *closed(const char *key)
{
	struct policy *p = pol(key);

	p->closed = true;
	return p;
}

/* One that could not be read is in force and told of, without a version. */
static void store__closed_policies(void **state)
{
	struct store *s = store_new(STR("n1"), false);

	(void)state;
	store_policy(s, closed("ns/p"), STR(""), STR("v"));
	store_policy(s, pol("ns/q"), STR("1"), STR("v"));
	expect(s, STORE_POLICY, "ns/p= ns/q=1 ");
	assert_int_equal(store_count_closed(s), 1);
	assert_true(store_has(s, STORE_POLICY, STR("ns/p")));
	assert_false(store_has_policy(s, STR("ns/p")));
	assert_true(store_has_policy(s, STR("ns/q")));
	store_policy(s, closed("ns/p"), STR(""), STR("v"));
	assert_int_equal(store_count_closed(s), 1);
	store_policy(s, pol("ns/p"), STR("2"), STR("v")); /* now it can be read */
	assert_int_equal(store_count_closed(s), 0);
	expect(s, STORE_POLICY, "ns/q=1 ns/p=2 ");
	store_policy(s, closed("ns/r"), STR(""), STR("v"));
	assert_true(store_remove(s, STORE_POLICY, STR("ns/r")));
	assert_int_equal(store_count_closed(s), 0);
	(void)store_free(s);
}

/* A file of everything in the store, as xds_keep.c writes it. */
static void write_image(struct store *s, size_t step, const struct image_of *of, struct strbuf *out)
{
	struct store_copy *c = store_copy_new(s);
	char text[IMAGE_SUM_BYTES + 1];
	struct image_sum sum;
	uint64_t bytes = 0;

	while (!store_copy_step(c, step))
		;
	for (size_t i = 0; i < c->n; i++)
		bytes += image_record_size(c->v[i]);
	image_put_heading(out, of, c->n, bytes);
	for (size_t i = 0; i < c->n; i++)
		image_put_record(out, c->v[i]);
	(void)store_copy_free(c);
	image_sum_init(&sum);
	image_sum_add(&sum, out->p, 7); /* however it is cut */
	image_sum_add(&sum, out->p + 7, out->n - 7);
	image_sum_text(&sum, text);
	strbuf_add(out, text, IMAGE_SUM_BYTES);
}

static void fill(struct store *s)
{
	store_workload(s, wl("a", 1, NULL), STR("1"), STR("value of a"));
	store_policy(s, pol("ns/p"), STR(""), STR("p\0\n"));
	store_service(s, svc("h"), STR("ns/h"), STR("2"), STR(""));
	store_policy(s, closed("ns/c"), STR(""), STR("\xff"));
}

static void image__comes_back_as_it_was(void **state)
{
	static const struct {
		enum store_kind kind;
		bool closed;
		const char *name, *version;
		struct str value;
	} want[] = {{STORE_ADDRESS, false, "a", "1", {"value of a", 10}},
		    {STORE_POLICY, false, "ns/p", "", {"p\0\n", 3}},
		    {STORE_ADDRESS, false, "ns/h", "2", {"", 0}},
		    {STORE_POLICY, true, "ns/c", "", {"\xff", 1}}};
	struct image_of of = {"c 1\n", "istiod:15012"};
	struct store *s = store_new(STR("n1"), true);
	struct strbuf b = {0}, again = {0};
	struct image_record r;
	struct err err = {0};
	struct image i;

	(void)state;
	fill(s);
	write_image(s, 1, &of, &b);
	write_image(s, 100, &of, &again);
	assert_int_equal(b.n, again.n);
	assert_memory_equal(b.p, again.p, b.n);
	(void)store_free(s);
	if (image_open((struct str){b.p, b.n}, &of, &i, &err) != 0)
		fail_msg("%s", err.msg);
	for (size_t n = 0; n < ARRAY_LEN(want); n++) {
		assert_int_equal(image_next(&i, &r), 1);
		assert_int_equal(r.kind, want[n].kind);
		assert_int_equal(r.closed, want[n].closed);
		assert_true(str_eqc(r.name, want[n].name) && str_eqc(r.version, want[n].version));
		assert_true(str_eq(r.value, want[n].value));
	}
	assert_int_equal(image_next(&i, &r), 0);
	strbuf_fini(&b);
	strbuf_fini(&again);
}

/* Half of it, another bit, another mesh, another version: nothing of it is taken. */
static void image__whole_or_not_at_all(void **state)
{
	struct image_of of = {"c1", "istiod:15012"}, other = {"c2", "istiod:15012"},
			elsewhere = {"c1", "other:15012"};
	struct store *s = store_new(STR("n1"), true);
	struct strbuf b = {0};
	struct err err = {0};
	struct image i;

	(void)state;
	fill(s);
	write_image(s, 2, &of, &b);
	(void)store_free(s);
	assert_int_equal(image_open((struct str){b.p, b.n}, &of, &i, &err), 0);
	for (size_t n = 0; n < b.n; n++) {
		err = (struct err){0};
		assert_true(image_open((struct str){b.p, n}, &of, &i, &err) < 0);
		assert_true(err.msg[0] != '\0');
		for (int bit = 1; bit < 256; bit <<= 1) {
			b.p[n] = (char)(b.p[n] ^ bit);
			assert_true(image_open((struct str){b.p, b.n}, &of, &i, &err) < 0);
			b.p[n] = (char)(b.p[n] ^ bit);
		}
	}
	assert_true(image_open((struct str){b.p, b.n}, &other, &i, &err) < 0);
	assert_non_null(strstr(err.msg, "another mesh than c2"));
	assert_true(image_open((struct str){b.p, b.n}, &elsewhere, &i, &err) < 0);
	strbuf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(store__snapshot),
		cmocka_unit_test(store__names_and_versions),
		cmocka_unit_test(store__same_as_anew),
		cmocka_unit_test(store__closed_policies),
		cmocka_unit_test(image__comes_back_as_it_was),
		cmocka_unit_test(image__whole_or_not_at_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
