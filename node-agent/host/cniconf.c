/* SPDX-License-Identifier: Apache-2.0
 * cniconf.c: see cniconf.h. Pure.
 *
 * Theory of operation. The parser keeps for every value the slice of the text it came from. A list
 * is then
 *
 *	head  plugin gap plugin gap plugin  tail
 *
 * where a gap is a comma with blanks around it, and a new text is put together from these pieces:
 * leaving out an entry leaves out the gap before it (after it, for the first one). Our entry comes
 * after the last kept plugin; leaving it out later removes exactly what was added.
 */
#include "node-agent/host/cniconf.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

#define KEY_INSTALLED "installed"
#define OLD_VERSION   "0.3.1" /* the lowest one in common use that has chains */

static const char *const place_name[CNICONF_PLACE_N] = {
	[CNICONF_ABSENT] = "",
	[CNICONF_CHAINED] = "chained",
	[CNICONF_WRAPPED] = "wrapped",
	[CNICONF_OWNED] = "owned",
};

enum cniconf_kind cniconf_kind_of(const char *file_name)
{
	struct str s = str_of(file_name);

	if (str_has_suffix(s, STR(".conflist")))
		return CNICONF_LIST;
	if (str_has_suffix(s, STR(".conf")))
		return CNICONF_SINGLE;
	return str_has_suffix(s, STR(".json")) ? CNICONF_JSON : CNICONF_OTHER;
}

char *cniconf_list_name(const char *single_name)
{
	return xasprintf("%slist", single_name);
}

char *cniconf_single_name(const char *list_name)
{
	return xstrndup(list_name, strlen(list_name) - strlen("list"));
}

/* --- reading --- */

static const char *end_of(const struct doc *d)
{
	return d->raw.p + d->raw.n;
}

static struct str between(const char *from, const char *to)
{
	return (struct str){from, (size_t)(to - from)};
}

static bool is_type(const struct doc *plugin, const char *type)
{
	const struct doc *d = doc_get(plugin, "type");

	return d != NULL && d->kind == DOC_TEXT && str_eqc(d->text, type);
}

static bool is_stock(const struct doc *plugin)
{
	return is_type(plugin, CNICONF_STOCK) && doc_get(plugin, KEY_INSTALLED) == NULL;
}

static bool is_ours(const struct doc *plugin)
{
	return is_type(plugin, CNICONF_PLUGIN) ||
	       (is_type(plugin, CNICONF_STOCK) && doc_get(plugin, KEY_INSTALLED) != NULL);
}

static void look_at_plugin(struct cniconf *c, const struct doc *plugin)
{
	const struct doc *d = doc_get(plugin, KEY_INSTALLED);

	if (is_stock(plugin))
		c->has_stock = true;
	else if (!is_ours(plugin))
		c->has_others = true;
	if (!is_ours(plugin))
		return;
	c->place = CNICONF_CHAINED;
	for (enum cniconf_place p = CNICONF_CHAINED; p < CNICONF_PLACE_N; p++)
		if (d != NULL && d->kind == DOC_TEXT && str_eqc(d->text, place_name[p]))
			c->place = p;
}

static int check_plugin(struct cniconf *c, const struct doc *plugin, struct err *err)
{
	struct str type;

	if (doc_map(plugin, err) < 0 || doc_need_text(plugin, "type", &type, err) < 0)
		return -EINVAL;
	if (type.n == 0)
		return doc_err(doc_get(plugin, "type"), err, "it is empty");
	look_at_plugin(c, plugin);
	return 0;
}

static int check_list(struct cniconf *c, struct err *err)
{
	struct str name;

	if (doc_need_text(c->root, "name", &name, err) < 0)
		return -EINVAL;
	if (name.n == 0)
		return doc_err(doc_get(c->root, "name"), err, "it is empty");
	c->plugins = doc_get(c->root, "plugins");
	if (c->plugins == NULL)
		return err_set(err, EINVAL, "field plugins is missing");
	if (doc_list(c->plugins, err) < 0)
		return -EINVAL;
	if (c->plugins->count == 0)
		return doc_err(c->plugins, err, "it has no entry");
	for (const struct doc *d = c->plugins->child; d != NULL; d = d->next)
		if (check_plugin(c, d, err) < 0)
			return -EINVAL;
	return 0;
}

int cniconf_parse(struct str text, enum cniconf_kind kind, struct arena *a, struct cniconf *ret,
		  struct err *err)
{
	struct cniconf c = {.kind = kind, .text = text};
	struct str version = {0};
	int r;

	if (text.n > LIMIT_NETCONF_BYTES)
		return err_set(err, E2BIG, "it is larger than %u bytes", LIMIT_NETCONF_BYTES);
	r = json_parse(text, a, &c.root, err);
	if (r < 0)
		return r;
	if (doc_map(c.root, err) < 0 || doc_opt_text(c.root, "cniVersion", &version, err) < 0 ||
	    (kind == CNICONF_LIST ? check_list(&c, err) : check_plugin(&c, c.root, err)) < 0)
		return -EINVAL;
	*ret = c;
	return 0;
}

/* --- writing --- */

/* Between stock's program coming back under this name and its agent writing its own entry, it is
 * called with ours: without these it would let every pod pass (cni-spec 1.2, 1.5). */
static void print_for_stock(const struct cniconf_entry *e, struct jsonw *w)
{
	jsonw_cstr(w, "plugin_log_level", e->debug ? "debug" : "info");
	jsonw_bool(w, "ambient_enabled", true);
	jsonw_raw(w, "enablement_selectors", e->selectors);
}

static void print_entry(const struct cniconf_entry *e, enum cniconf_place place, struct strbuf *out)
{
	struct jsonw w;

	jsonw_init(&w, out, false);
	jsonw_obj(&w, NULL);
	jsonw_cstr(&w, "type", e->as_stock ? CNICONF_STOCK : CNICONF_PLUGIN);
	jsonw_cstr(&w, KEY_INSTALLED, place_name[place]);
	jsonw_str(&w, "cni_agent_run_dir", e->run_dir);
	jsonw_list(&w, "exclude_namespaces");
	for (size_t i = 0; i < e->nexcluded; i++)
		jsonw_str(&w, NULL, e->excluded[i]);
	jsonw_end_list(&w);
	if (e->pod_namespace.n != 0)
		jsonw_str(&w, "pod_namespace", e->pod_namespace);
	if (e->in_pod_network)
		jsonw_bool(&w, "agent_in_pod_network", true);
	if (e->as_stock)
		print_for_stock(e, &w);
	jsonw_end_obj(&w);
}

static bool is_kept(const struct doc *plugin, bool drop_stock)
{
	return !is_ours(plugin) && !(drop_stock && is_stock(plugin));
}

/* What goes before our entry: what stood before an old one of ours in that place (in a wrapped list
 * it is the end of the single configuration's text), else what makes it look like its neighbours.
 */
static void print_gap(const struct cniconf *c, const struct doc *before, const struct doc *last,
		      bool drop_stock, struct strbuf *out)
{
	const char *open = c->plugins->raw.p + 1;

	if (is_ours(last) && is_kept(before, drop_stock)) {
		strbuf_str(out, between(end_of(before), last->raw.p));
		return;
	}
	strbuf_putc(out, ',');
	strbuf_str(out, between(open, c->plugins->child->raw.p));
}

/* Copies the list without our entries (and stock's), and with @entry, if any, as the last one. */
static void print_list(const struct cniconf *c, bool drop_stock, struct str entry,
		       struct strbuf *out)
{
	const struct doc *first = c->plugins->child, *before = NULL, *last = first;
	bool any = false;

	strbuf_str(out, between(c->text.p, first->raw.p));
	for (const struct doc *d = first; d != NULL; d = d->next) {
		before = d == first ? NULL : last;
		last = d;
		if (!is_kept(d, drop_stock))
			continue;
		if (any)
			strbuf_str(out, between(end_of(before), d->raw.p));
		strbuf_str(out, d->raw);
		any = true;
	}
	if (entry.n != 0) {
		print_gap(c, before, last, drop_stock, out);
		strbuf_str(out, entry);
	}
	strbuf_str(out, between(end_of(last), c->text.p + c->text.n));
}

static bool version_chains(struct str v)
{
	/* what our plugin speaks; there were no chains before 0.3.0 */
	return str_eqc(v, "0.3.0") || str_eqc(v, "0.3.1") || str_eqc(v, "0.4.0") ||
	       str_eqc(v, "1.0.0") || str_eqc(v, "1.1.0");
}

static bool version_is_old(struct str v)
{
	return v.n == 0 || str_eqc(v, "0.1.0") || str_eqc(v, "0.2.0");
}

static int version_error(const struct cniconf *c, struct str v, struct err *err)
{
	return doc_err(c->root, err,
		       "cniVersion \"%s\": " CNICONF_PLUGIN
		       " can only be chained with 0.3.0, 0.3.1, "
		       "0.4.0, 1.0.0 or 1.1.0",
		       str_shown(v));
}

/* Our plugin refuses other names, as the CNI specification wants; older plugins take any. */
static int check_name(const struct cniconf *c, struct err *err)
{
	const struct doc *d = doc_get(c->root, "name");
	struct str s = {0};

	if (d != NULL && d->kind == DOC_TEXT)
		s = d->text;
	for (size_t i = 0; i < s.n; i++) {
		char ch = s.p[i];

		if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
		      (ch >= '0' && ch <= '9') ||
		      (i != 0 && (ch == '_' || ch == '.' || ch == '-'))))
			return doc_err(d, err,
				       "\"%s\": expected letters, digits, '_', '.' and '-' after a "
				       "letter or digit",
				       str_shown(s));
	}
	return 0;
}

static int check_list_version(const struct cniconf *c, struct err *err)
{
	const struct doc *many = doc_get(c->root, "cniVersions"), *one;
	struct str v = {0};

	/* of several the runtime takes the newest that it knows */
	for (one = many != NULL ? many->child : NULL; one != NULL; one = one->next)
		if (one->kind == DOC_TEXT && version_chains(one->text))
			return 0;
	one = doc_get(c->root, "cniVersion");
	if (one != NULL && one->kind == DOC_TEXT)
		v = one->text;
	return version_chains(v) ? 0 : version_error(c, v, err);
}

/* The text stays as it is, blanks around it included: a plugin of a list may carry a name and a
 * version, runtimes put the list's over them. */
static int print_wrapped(const struct cniconf *c, struct str entry, struct strbuf *out,
			 struct err *err)
{
	const struct doc *version = doc_get(c->root, "cniVersion"),
			 *name = doc_get(c->root, "name");
	struct str v =
		version != NULL && version->kind == DOC_TEXT ? version->text : (struct str){0};

	if (!version_chains(v) && !version_is_old(v))
		return version_error(c, v, err);
	strbuf_puts(out, "{\n  \"cniVersion\": ");
	strbuf_str(out, version_is_old(v) ? STR("\"" OLD_VERSION "\"") : version->raw);
	strbuf_puts(out, ",\n  \"name\": ");
	strbuf_str(out, name != NULL && name->kind == DOC_TEXT && name->text.n != 0
				? name->raw
				: STR("\"" CNICONF_DEFAULT_NAME "\""));
	strbuf_puts(out, ",\n  \"plugins\": [");
	strbuf_str(out, c->text);
	strbuf_puts(out, ",\n    ");
	strbuf_str(out, entry);
	strbuf_puts(out, "\n  ]\n}\n");
	return 0;
}

/* Nothing is handed out that we could not take apart again: an inner text may be as deep and as
 * long as is allowed already. */
static int check_result(struct str text, struct err *err)
{
	struct arena *a = arena_new();
	struct cniconf c;
	int r = cniconf_parse(text, CNICONF_LIST, a, &c, err);

	(void)arena_free(a);
	return r < 0 ? err_wrap(err, "with " CNICONF_PLUGIN " in it") : 0;
}

static int print_with_entry(const struct cniconf *c, struct str entry, bool drop_stock,
			    struct strbuf *out, struct err *err)
{
	int r;

	if (c->kind != CNICONF_LIST)
		return print_wrapped(c, entry, out, err);
	r = check_list_version(c, err);
	if (r < 0)
		return r;
	print_list(c, drop_stock, entry, out);
	return 0;
}

int cniconf_add(const struct cniconf *c, enum cniconf_place place, const struct cniconf_entry *e,
		bool replace_stock, struct strbuf *out, struct err *err)
{
	_cleanup_strbuf_ struct strbuf entry = {0};
	size_t from = out->n;
	int r;

	if (c->has_stock && !replace_stock)
		return err_set(err, EEXIST,
			       "the plugin " CNICONF_STOCK " of another mesh installation is in "
			       "there: uninstall it, or take its place with --replace-istio-cni");
	if (!c->has_others)
		return err_set(err, EINVAL, "no plugin that makes a network is in there");
	if (place != CNICONF_OWNED)
		place = c->kind != CNICONF_LIST || c->place == CNICONF_WRAPPED ? CNICONF_WRAPPED
									       : CNICONF_CHAINED;
	r = check_name(c, err);
	if (r < 0)
		return r;
	print_entry(e, place, &entry);
	r = print_with_entry(c, (struct str){entry.p, entry.n}, replace_stock, out, err);
	return r < 0 ? r : check_result((struct str){out->p + from, out->n - from}, err);
}

/* What a wrapped list was made of: all between the bracket and the comma after it. False when
 * somebody changed the list since, so that it is no longer one plugin and ours. */
static bool print_unwrapped(const struct cniconf *c, struct strbuf *out)
{
	const struct doc *single = c->plugins->child;
	const char *comma;

	if (c->plugins->count != 2 || is_ours(single) || !is_ours(single->next))
		return false;
	comma = memchr(end_of(single), ',', (size_t)(single->next->raw.p - end_of(single)));
	strbuf_str(out, between(c->plugins->raw.p + 1, comma));
	return true;
}

enum cniconf_rest cniconf_remove(const struct cniconf *c, struct strbuf *out)
{
	if (c->place == CNICONF_ABSENT) {
		strbuf_str(out, c->text);
		return CNICONF_REST_SAME;
	}
	if (c->place == CNICONF_OWNED || (!c->has_others && !c->has_stock))
		return CNICONF_REST_NOTHING;
	if (c->place == CNICONF_WRAPPED && print_unwrapped(c, out))
		return CNICONF_REST_SINGLE;
	print_list(c, false, (struct str){0}, out);
	return CNICONF_REST_LIST;
}
