/* SPDX-License-Identifier: Apache-2.0
 * test_xt.c: the chains of Istio's agent leave a table of the older packet filter, and nothing else
 * does (cni-spec 5.7, 6.3). Tables of a real kernel: system/nft_foreign.
 */
#include <errno.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "nft/xt.h"

/* A table under construction; every entry is a header and one target. */
struct made {
	struct xt_table t;
	bool v6;
};

static uint32_t entry(struct made *m, const char *target, const char *text, int32_t verdict,
		      uint64_t packets)
{
	uint16_t head = m->v6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry);
	uint16_t len = (uint16_t)(head + (text != NULL ? sizeof(struct xt_error_target)
						       : sizeof(struct xt_standard_target)));
	struct xt_error_target e = {0};
	uint8_t *p;

	len = (uint16_t)XT_ALIGN(len);
	m->t.entries = xrealloc_array(m->t.entries, m->t.size + len, 1);
	p = m->t.entries + m->t.size;
	memset(p, 0, len);
	if (m->v6) {
		struct ip6t_entry h = {.target_offset = head, .next_offset = len};

		h.counters.pcnt = packets;
		memcpy(p, &h, sizeof(h));
	} else {
		struct ipt_entry h = {.target_offset = head, .next_offset = len};

		h.counters.pcnt = packets;
		memcpy(p, &h, sizeof(h));
	}
	(void)snprintf(e.target.u.user.name, sizeof(e.target.u.user.name), "%s", target);
	if (text != NULL)
		(void)snprintf(e.errorname, sizeof(e.errorname), "%s", text);
	else
		memcpy(e.errorname, &verdict, sizeof(verdict));
	memcpy(p + head, &e, text != NULL ? sizeof(e) : sizeof(struct xt_standard_target));
	m->t.size += len;
	m->t.n++;
	return m->t.size - len;
}

static uint32_t rule(struct made *m, int32_t verdict, uint64_t packets)
{
	return entry(m, "", NULL, verdict, packets);
}

static uint32_t chain(struct made *m, const char *name)
{
	return entry(m, XT_ERROR_TARGET, name, 0, 0);
}

static void set_verdict(struct made *m, uint32_t at, uint32_t to)
{
	size_t head = m->v6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry);
	int32_t v = (int32_t)to;

	memcpy(m->t.entries + at + head + offsetof(struct xt_standard_target, verdict), &v,
	       sizeof(v));
}

/* A nat table with the rules of somebody (5, 6, 7 packets) between those of the agent, if @with. */
static struct made nat(bool v6, bool with)
{
	struct made m = {.v6 = v6};
	uint32_t jump_own, jump = 0, jump2 = 0, plain, own, istio = 0;

	/* PREROUTING */
	m.t.hook_entry[0] = m.t.size;
	if (with)
		jump = rule(&m, 0, 100);
	jump_own = rule(&m, 0, 5);
	m.t.underflow[0] = rule(&m, -2, 1);
	/* OUTPUT: ours first, then a rule without a target */
	m.t.hook_entry[3] = m.t.size;
	if (with)
		jump2 = rule(&m, 0, 100);
	plain = rule(&m, 0, 6);
	set_verdict(&m, plain, m.t.size);
	m.t.underflow[3] = rule(&m, -2, 2);
	m.t.valid_hooks = 1u << 0 | 1u << 3;
	if (with) {
		(void)chain(&m, "ISTIO_PRERT");
		istio = rule(&m, -1, 50);
		(void)rule(&m, -5, 50);
		set_verdict(&m, jump, istio);
	}
	(void)chain(&m, "THEIRS");
	own = rule(&m, -1, 7);
	(void)rule(&m, -5, 3);
	set_verdict(&m, jump_own, own);
	if (with) {
		(void)chain(&m, "ISTIO_OUTPUT");
		istio = rule(&m, -5, 50);
		set_verdict(&m, jump2, istio);
	}
	(void)chain(&m, "ERROR");
	return m;
}

static void xt_strip__takes_out_ours_and_turns_offsets(void **state)
{
	(void)state;
	for (int v6 = 0; v6 < 2; v6++) {
		struct made a = nat(v6 != 0, true), b = nat(v6 != 0, false);
		uint64_t counters[64] = {0};
		struct err err = {0};

		assert_int_equal(xt_strip(&a.t, v6 != 0, &err), 1);
		assert_int_equal(a.t.size, b.t.size);
		assert_int_equal(a.t.n, b.t.n);
		assert_memory_equal(a.t.entries, b.t.entries, b.t.size);
		assert_memory_equal(a.t.hook_entry, b.t.hook_entry, sizeof(b.t.hook_entry));
		assert_memory_equal(a.t.underflow, b.t.underflow, sizeof(b.t.underflow));
		xt_counters_of(&a.t, v6 != 0, counters);
		assert_true(counters[0] == 5 && counters[2] == 1 && counters[4] == 6);
		/* and there is nothing more */
		assert_int_equal(xt_strip(&a.t, v6 != 0, &err), 0);
		assert_memory_equal(a.t.entries, b.t.entries, b.t.size);
		free(a.t.entries);
		free(b.t.entries);
	}
}

static void xt_strip__damaged_tables_are_refused(void **state)
{
	struct made good = nat(false, true);

	(void)state;
	/* cut at each place, and each length and offset wrong */
	for (uint32_t cut = 1; cut < good.t.size; cut += 7) {
		struct xt_table t = good.t;
		struct err err = {0};

		t.size = cut;
		t.entries = xmalloc(cut);
		memcpy(t.entries, good.t.entries, cut);
		assert_int_equal(xt_strip(&t, false, &err), -EBADMSG);
		assert_true(err.msg[0] != '\0');
		free(t.entries);
	}
	for (int k = 0; k < 4; k++) {
		struct made m = nat(false, true);
		uint16_t wrong[] = {0, 8, 0xffff, 4097};
		struct err err = {0};

		memcpy(m.t.entries + offsetof(struct ipt_entry, next_offset), &wrong[k], 2);
		assert_int_equal(xt_strip(&m.t, false, &err), -EBADMSG);
		free(m.t.entries);
		m = nat(false, true);
		memcpy(m.t.entries + offsetof(struct ipt_entry, target_offset), &wrong[k], 2);
		assert_int_equal(xt_strip(&m.t, false, &err), -EBADMSG);
		free(m.t.entries);
		m = nat(false, true);
		set_verdict(&m, m.t.hook_entry[0], 12345);
		assert_int_equal(xt_strip(&m.t, false, &err), -EBADMSG);
		free(m.t.entries);
		m = nat(false, true);
		m.t.hook_entry[3] += 8;
		assert_int_equal(xt_strip(&m.t, false, &err), -EBADMSG);
		free(m.t.entries);
	}
	free(good.t.entries);
}

static void xt_is_istio_chain__table(void **state)
{
	static const struct {
		const char *name;
		bool is;
	} rows[] = {
		{"ISTIO_PRERT", true},	  {"ISTIO_OUTPUT", true},
		{"ISTIO_POSTRT", true},	  {"ISTIO_IN_REDIRECT", false}, /* a sidecar's */
		{"ISTIO_INBOUND", false}, {"istio_output", false},
		{"OUTPUT", false},	  {"", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (xt_is_istio_chain(str_of(rows[i].name)) != rows[i].is)
			fail_msg("%s", rows[i].name);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(xt_strip__takes_out_ours_and_turns_offsets),
		cmocka_unit_test(xt_strip__damaged_tables_are_refused),
		cmocka_unit_test(xt_is_istio_chain__table),
	};

	return cmocka_run_group_tests_name("xt", tests, NULL, NULL);
}
