/* SPDX-License-Identifier: Apache-2.0
 * rules_print.c: see rules_print.h. Pure.
 */
#include "ctl/rules_print.h"

#include "ctl/table.h"
#include "lib/base/mem.h"
#include "lib/format/doc.h"

void ctl_rules_path(const char *key, struct strbuf *out)
{
	strbuf_puts(out, "/v1/rules?pod=");
	for (const char *p = key; *p != '\0'; p++) {
		bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			     (*p >= '0' && *p <= '9') || strchr("-._~", *p) != NULL;

		if (plain)
			strbuf_putc(out, *p);
		else
			strbuf_printf(out, "%%%02X", (unsigned char)*p);
	}
}

static enum ctl_colour state_colour(struct str state)
{
	if (str_eqc(state, "present"))
		return CTL_GREEN;
	return str_eqc(state, "changed") || str_eqc(state, "unexpected") ? CTL_YELLOW : CTL_RED;
}

/* "istio-ambient-nat istio-output rule 3: tcp ..." to the place and the rule. False for a table, a
 * chain or a route. */
static bool split_rule(struct str text, struct str *ret_place, struct str *ret_rule)
{
	struct str table, chain, word, rest = text;

	if (!str_cut(&rest, ' ', &table) || !str_cut(&rest, ' ', &chain) ||
	    !str_cut(&rest, ' ', &word) || !str_eqc(word, "rule"))
		return false;
	*ret_place = (struct str){text.p, table.n + 1 + chain.n};
	*ret_rule = rest;
	return true;
}

static void put_line(struct str state, struct str text, bool colour, struct strbuf *out)
{
	strbuf_puts(out, "    ");
	ctl_put(out, state, 0, state_colour(state), colour);
	for (size_t n = state.n; n < sizeof("unexpected") + 1; n++)
		strbuf_putc(out, ' ');
	ctl_put(out, text, 0, CTL_PLAIN, colour);
	strbuf_putc(out, '\n');
}

static int put_lines(const struct doc *pod, bool colour, struct strbuf *out, size_t *ret_wrong,
		     struct err *err)
{
	const struct doc *lines = NULL;
	struct str last = {0};
	int r = doc_opt_list(pod, "lines", &lines, err);

	for (const struct doc *d = lines != NULL ? lines->child : NULL; r == 0 && d != NULL;
	     d = d->next) {
		struct str state = {0}, text = {0}, place = STR("tables, routes"), rule;

		r = doc_need_text(d, "state", &state, err);
		if (r == 0)
			r = doc_need_text(d, "text", &text, err);
		if (r < 0)
			break;
		if (!split_rule(text, &place, &rule))
			rule = text;
		if (!str_eq(place, last)) {
			strbuf_puts(out, "  ");
			ctl_put(out, place, 0, CTL_BOLD, colour);
			strbuf_putc(out, '\n');
		}
		last = place;
		put_line(state, rule, colour, out);
		*ret_wrong += !str_eqc(state, "present");
	}
	return r;
}

static int put_socket(const struct doc *d, bool colour, struct strbuf *out, struct err *err)
{
	uint32_t port = 0, waiting = 0, backlog = 0;
	struct str name = {0}, error = {0};
	bool listening = false;
	int r = doc_opt_u32(d, "port", 0, 65535, &port, err);

	if (r == 0)
		r = doc_opt_text(d, "name", &name, err);
	if (r == 0)
		r = doc_opt_text(d, "error", &error, err);
	if (r == 0)
		r = doc_opt_bool(d, "listening", &listening, err);
	if (r == 0)
		r = doc_opt_u32(d, "waiting", 0, UINT32_MAX, &waiting, err);
	if (r == 0)
		r = doc_opt_u32(d, "backlog", 0, UINT32_MAX, &backlog, err);
	if (r < 0)
		return r;
	strbuf_printf(out, "    %u  ", port);
	ctl_put(out, name, 0, CTL_PLAIN, colour);
	if (listening) {
		strbuf_printf(out, ", listening, %u of %u waiting\n", waiting, backlog);
	} else {
		ctl_put(out, STR(", NOT listening: "), 0, CTL_RED, colour);
		ctl_put(out, error, 0, CTL_RED, colour);
		strbuf_putc(out, '\n');
	}
	return 0;
}

static int put_sockets(const struct doc *pod, bool wanted, bool colour, struct strbuf *out,
		       struct err *err)
{
	const struct doc *list = NULL;
	int r = doc_opt_list(pod, "sockets", &list, err);

	if (r < 0)
		return r;
	if (list == NULL || list->child == NULL) {
		if (wanted)
			strbuf_puts(out, "  the agent holds no sockets: ztunnel made its own\n");
		return 0;
	}
	ctl_put(out, STR("  sockets, held by the agent"), 0, CTL_BOLD, colour);
	strbuf_putc(out, '\n');
	for (const struct doc *d = list->child; r == 0 && d != NULL; d = d->next)
		r = put_socket(d, colour, out, err);
	return r;
}

struct head {
	struct str ns, name, uid, container, netns, rules, error;
	bool wanted;
	uint32_t connections;
};

static int read_head(const struct doc *pod, struct head *h, struct err *err)
{
	const struct {
		const char *key;
		struct str *to;
	} texts[] = {{"namespace", &h->ns}, {"name", &h->name},
		     {"uid", &h->uid},	    {"containerID", &h->container},
		     {"netns", &h->netns},  {"rules", &h->rules},
		     {"error", &h->error}};
	int r = doc_map(pod, err);

	for (size_t i = 0; i < ARRAY_LEN(texts) && r == 0; i++)
		r = doc_opt_text(pod, texts[i].key, texts[i].to, err);
	if (r == 0)
		r = doc_opt_bool(pod, "wanted", &h->wanted, err);
	if (r == 0)
		r = doc_opt_u32(pod, "connections", 0, UINT32_MAX, &h->connections, err);
	return r;
}

static void put_head(const struct head *h, bool colour, struct strbuf *out)
{
	const struct {
		const char *what;
		struct str text;
	} rows[] = {{"uid", h->uid}, {"container", h->container}, {"namespace file", h->netns}};

	ctl_put(out, h->ns, 0, CTL_BOLD, colour);
	strbuf_putc(out, '/');
	ctl_put(out, h->name, 0, CTL_BOLD, colour);
	strbuf_putc(out, '\n');
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		strbuf_printf(out, "  %-15s ", rows[i].what);
		ctl_put(out, rows[i].text, 0, CTL_PLAIN, colour);
		strbuf_putc(out, '\n');
	}
}

static void put_verdict(const struct head *h, size_t wrong, bool colour, struct strbuf *out)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	bool bad = wrong != 0 || h->error.n != 0;

	if (h->error.n != 0)
		strbuf_printf(&b, "the rules could not be read: %.*s", STR_FMT(h->error));
	else if (wrong != 0)
		strbuf_printf(&b,
			      "%zu line%s not as wanted: something else changed the rules; "
			      "restart ambient-agent to put them back",
			      wrong, wrong == 1 ? " is" : "s are");
	else
		strbuf_puts(&b, h->wanted ? "the rules are as they should be"
					  : "not in the mesh, and no rules, as it should be");
	strbuf_puts(out, "  ");
	ctl_put(out, (struct str){b.p, b.n}, 0, bad ? CTL_RED : CTL_GREEN, colour);
	strbuf_putc(out, '\n');
}

int ctl_rules_print(const struct doc *d, bool colour, struct strbuf *out, bool *ret_wrong,
		    struct err *err)
{
	const struct doc *pods = NULL;
	bool any = false;
	int r = doc_map(d, err);

	if (r == 0)
		r = doc_opt_list(d, "pods", &pods, err);
	for (const struct doc *p = pods != NULL ? pods->child : NULL; r == 0 && p != NULL;
	     p = p->next) {
		struct head h = {0};
		size_t wrong = 0;

		r = read_head(p, &h, err);
		if (r < 0)
			break;
		if (p != pods->child)
			strbuf_putc(out, '\n');
		put_head(&h, colour, out);
		r = put_lines(p, colour, out, &wrong, err);
		if (r == 0)
			r = put_sockets(p, h.wanted, colour, out, err);
		if (h.wanted)
			strbuf_printf(out, "  connections that the mesh carries: %u\n",
				      h.connections);
		put_verdict(&h, wrong, colour, out);
		any |= wrong != 0 || h.error.n != 0;
	}
	if (r == 0)
		*ret_wrong = any;
	return r;
}
