/* SPDX-License-Identifier: Apache-2.0
 * check_cni.c: which CNI configuration a runtime takes, and what stands in it; see check.h. Pure.
 *
 * Runtimes (libcni) take the first file by name that ends in .conf, .conflist or .json and can be
 * read as a configuration; one that cannot is passed over.
 */
#include <errno.h>
#include <stdlib.h>

#include "ctl/check.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"
#include "lib/format/json.h"

#define OUR_TYPE "ambient-cni"

/* Plugins of other meshes, which would redirect the same traffic. */
static const char *const other_meshes[] = {"istio-cni", "linkerd-cni", "kuma-cni", "consul-cni",
					   "osm-cni"};

static int by_name(const void *a, const void *b)
{
	const struct ctl_cni_file *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static bool is_conf(const char *name)
{
	struct str s = str_of(name);

	return name[0] != '.' &&
	       (str_has_suffix(s, STR(".conf")) || str_has_suffix(s, STR(".conflist")) ||
		str_has_suffix(s, STR(".json")));
}

static struct str type_of(const struct doc *plugin)
{
	struct str t = STR("");

	if (doc_opt_text(plugin, "type", &t, NULL) < 0)
		return STR("");
	return t;
}

/* The plugins of a configuration, in order; 0 when it is none. */
static size_t read_types(struct str text, struct arena *a, struct str **ret, struct err *err)
{
	const struct doc *d = NULL, *list = NULL;
	size_t n = 0;

	if (json_parse(text, a, &d, err) < 0 || doc_map(d, err) < 0)
		return 0;
	if (doc_get(d, "plugins") == NULL) {
		*ret = arena_alloc(a, sizeof(**ret));
		**ret = type_of(d);
		if ((*ret)->n == 0)
			(void)err_set(err, EINVAL, "it has neither plugins nor a type");
		return (*ret)->n != 0;
	}
	if (doc_opt_list(d, "plugins", &list, err) < 0 || list->count == 0) {
		(void)err_set(err, EINVAL, "plugins is no list, or empty");
		return 0;
	}
	*ret = arena_alloc(a, list->count * sizeof(**ret));
	for (const struct doc *p = list->child; p != NULL; p = p->next)
		(*ret)[n++] = type_of(p);
	return n;
}

static void check_order(struct ctl_rows *rows, const char *where, const struct str *types, size_t n)
{
	size_t at = n, other = n;
	_cleanup_strbuf_ struct strbuf chain = {0};

	for (size_t i = 0; i < n; i++) {
		strbuf_printf(&chain, "%s%.*s", i != 0 ? ", " : "", STR_FMT(types[i]));
		if (str_eqc(types[i], OUR_TYPE))
			at = i;
		for (size_t k = 0; k < ARRAY_LEN(other_meshes); k++)
			if (str_eqc(types[i], other_meshes[k]))
				other = i;
	}
	if (at == n)
		ctl_row_add(rows, "CNI chain", CTL_FAILED,
			    "let the agent install it (--install-cni=chained), or add "
			    "{\"type\": \"" OUR_TYPE "\"} as the last plugin",
			    "runtimes use %s, and " OUR_TYPE " is not in it (%s): new pods start "
			    "without the mesh",
			    where, chain.p);
	else if (at == 0)
		ctl_row_add(rows, "CNI chain", CTL_FAILED,
			    "put it after the plugin that makes the pod's network",
			    OUR_TYPE " comes first in %s (%s): the pod has no network yet then",
			    where, chain.p);
	else if (at != n - 1)
		ctl_row_add(rows, "CNI chain", CTL_WARNING,
			    "put it last, so that it sees the final addresses",
			    OUR_TYPE " is not the last plugin of %s (%s)", where, chain.p);
	else
		ctl_row_add(rows, "CNI chain", CTL_OK, NULL, "%s: %s", where, chain.p);
	if (other != n)
		ctl_row_add(rows, "other meshes", CTL_FAILED,
			    "uninstall one of the two meshes: both redirect the same traffic",
			    "%s of another mesh stands in %s", str_shown(types[other]), where);
	else
		ctl_row_add(rows, "other meshes", CTL_OK, NULL, "no plugin of another mesh");
}

void ctl_check_cni(struct ctl_rows *rows, const char *dir, struct ctl_cni_file *files, size_t n)
{
	if (n != 0)
		qsort(files, n, sizeof(*files), by_name);
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *where = xasprintf("%s/%s", dir, files[i].name);
		struct str *types = NULL;
		struct err err = {0};
		size_t k;

		if (!is_conf(files[i].name))
			continue;
		k = read_types(files[i].text, rows->a, &types, &err);
		if (k != 0) {
			check_order(rows, where, types, k);
			return;
		}
		if (rows->n < CTL_ROWS_MAX / 2)
			ctl_row_add(rows, "CNI file", CTL_WARNING, "repair or remove it",
				    "runtimes pass over %s: %s", where, err.msg);
	}
	ctl_row_add(rows, "CNI chain", CTL_FAILED, "install a network plugin for pods",
		    "there is no usable CNI configuration in %s", dir);
}
