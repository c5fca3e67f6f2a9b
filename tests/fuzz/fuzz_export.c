/* SPDX-License-Identifier: Apache-2.0
 * fuzz_export.c: objects of Kubernetes, one a line (a letter for the kind, then JSON), into the
 * state file. Properties: what is written is a file that ztunnel takes, with as many workloads; a
 * refusal has a sentence; the same objects give the same bytes; no text is left when the objects
 * are gone.
 */
#include <stdint.h>

#include "ctl/export_read.h"
#include "ctl/export_yaml.h"
#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "ztunnel/mesh/local_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(struct ex_store *s, struct str line)
{
	static const char letters[EX_KIND_N + 1] = "psenoam";
	const char *at = line.n != 0 ? memchr(letters, line.p[0], EX_KIND_N) : NULL;
	struct arena *a = arena_new();
	struct ex_object *o = NULL;
	const struct doc *d = NULL;
	struct err err = {0};

	if (at != NULL && json_parse((struct str){line.p + 1, line.n - 1}, a, &d, NULL) == 0) {
		if (ex_read((enum ex_kind)(at - letters), d, &s->texts, &o, &err) != 0)
			bug_on(err.msg[0] == '\0' || o != NULL);
		else if (o != NULL)
			(void)ex_store_put(s, o);
	}
	(void)arena_free(a);
}

static void check(const struct ex_store *s)
{
	static const struct ex_config cfg = {"Kubernetes", "cluster.local", "cluster.local",
					     "root"};
	_cleanup_strbuf_ struct strbuf one = {0}, two = {0};
	struct ex_counts n;
	struct err err = {0};
	struct mesh *m;

	ex_yaml(s, &cfg, &one, &n);
	ex_yaml(s, &cfg, &two, &n);
	bug_on(one.n != two.n || memcmp(one.p, two.p, one.n) != 0);
	m = local_state_parse((struct str){one.p, one.n}, STR("node"), 1, &err);
	bug_on(m == NULL || mesh_count_workloads(m) != n.workloads);
	mesh_unref(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str rest = {(const char *)data, size}, line;
	struct ex_store s = {0};

	while (str_cut(&rest, '\n', &line))
		put(&s, line);
	put(&s, rest);
	check(&s);
	ex_store_fini(&s);
	return 0;
}
