/* SPDX-License-Identifier: Apache-2.0
 * yaml.c: libyaml events to a document tree; see yaml.h. Pure.
 *
 * Events are pulled one at a time, so that the depth limit stops libyaml before it reads on. The
 * encoding is fixed to UTF-8: libyaml would otherwise also take UTF-16.
 */
#include "lib/format/yaml.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <yaml.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"

struct reader {
	yaml_parser_t parser;
	struct arena *a;
	struct err *err;
	size_t nodes;
	/* yaml_parse_items(), else NULL */
	int (*item)(void *ctx, const struct doc *d, struct err *err);
	void *ctx;
	struct arena *scratch;
};

static unsigned int line_of(yaml_mark_t m)
{
	return m.line < UINT_MAX ? (unsigned int)m.line + 1 : UINT_MAX;
}

static int next_event(struct reader *r, yaml_event_t *ev)
{
	const yaml_parser_t *p = &r->parser;

	if (yaml_parser_parse(&r->parser, ev) == 1)
		return 0;
	if (p->error == YAML_MEMORY_ERROR)
		return err_set(r->err, ENOMEM, "YAML: no memory");
	if (p->error == YAML_READER_ERROR)
		return err_set(r->err, EINVAL, "YAML offset %zu: %s", p->problem_offset,
			       p->problem != NULL ? p->problem : "unreadable");
	return err_set(r->err, EINVAL, "YAML line %u, column %zu: %s%s%s", line_of(p->problem_mark),
		       p->problem_mark.column + 1, p->problem != NULL ? p->problem : "malformed",
		       p->context != NULL ? ", " : "", p->context != NULL ? p->context : "");
}

static int fail(struct reader *r, yaml_mark_t at, int code, const char *what)
{
	return err_set(r->err, code, "YAML line %u, column %zu: %s", line_of(at), at.column + 1,
		       what);
}

static bool is_one_of(struct str s, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (str_eqc(s, words[i]))
			return true;
	return false;
}

static size_t digits(struct str s, size_t i)
{
	size_t from = i;

	while (i < s.n && s.p[i] >= '0' && s.p[i] <= '9')
		i++;
	return i - from;
}

/* Decimal numbers of the core schema: [-+]? ( \.[0-9]+ | [0-9]+ ( \.[0-9]* )? ) ( [eE][-+]?[0-9]+
 * )? */
static bool is_number(struct str s)
{
	size_t i = 0, whole, frac = 0;

	if (i < s.n && (s.p[i] == '-' || s.p[i] == '+'))
		i++;
	whole = digits(s, i);
	i += whole;
	if (i < s.n && s.p[i] == '.') {
		frac = digits(s, ++i);
		i += frac;
	}
	if (whole == 0 && frac == 0)
		return false;
	if (i < s.n && (s.p[i] == 'e' || s.p[i] == 'E')) {
		size_t n;

		i++;
		if (i < s.n && (s.p[i] == '-' || s.p[i] == '+'))
			i++;
		n = digits(s, i);
		if (n == 0)
			return false;
		i += n;
	}
	return i == s.n;
}

static void resolve_plain(struct doc *d)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
	static const char *const trues[] = {"true", "True", "TRUE"};
	static const char *const falses[] = {"false", "False", "FALSE"};

	d->kind = DOC_TEXT;
	if (is_one_of(d->text, nulls, ARRAY_LEN(nulls))) {
		d->kind = DOC_NULL;
	} else if (is_one_of(d->text, trues, ARRAY_LEN(trues))) {
		d->kind = DOC_BOOL;
		d->truth = true;
	} else if (is_one_of(d->text, falses, ARRAY_LEN(falses))) {
		d->kind = DOC_BOOL;
	} else if (is_number(d->text)) {
		d->kind = DOC_NUMBER;
	}
	if (d->kind == DOC_NULL || d->kind == DOC_BOOL)
		d->text = (struct str){0};
}

/* Our own tags are kept, "!!str" and "!" mean text, the other tags of YAML itself are refused. */
static int read_tag(struct reader *r, const yaml_event_t *ev, const yaml_char_t *tag, bool scalar,
		    struct doc *d, bool *ret_text)
{
	const char *t = (const char *)tag;

	*ret_text = false;
	if (t == NULL)
		return 0;
	*ret_text = scalar;
	if (strcmp(t, "!") == 0 || (scalar && strcmp(t, YAML_STR_TAG) == 0))
		return 0;
	if (t[0] != '!' || t[1] == '!')
		return fail(r, ev->start_mark, EINVAL, "this tag is not supported");
	d->tag = (struct str){arena_strndup(r->a, t + 1, strlen(t + 1)), strlen(t + 1)};
	return 0;
}

static struct str scalar_of(const yaml_event_t *ev)
{
	return (struct str){(const char *)ev->data.scalar.value, ev->data.scalar.length};
}

static int check_scalar(struct reader *r, const yaml_event_t *ev)
{
	if (ev->data.scalar.anchor != NULL)
		return fail(r, ev->start_mark, EINVAL, "anchors are not supported");
	if (!str_is_utf8(scalar_of(ev)))
		return fail(r, ev->start_mark, EINVAL, "text with a NUL byte or not UTF-8");
	return 0;
}

static struct str copy_scalar(struct reader *r, const yaml_event_t *ev)
{
	struct str s = scalar_of(ev);

	return (struct str){arena_strndup(r->a, s.p, s.n), s.n};
}

static int read_scalar(struct reader *r, const yaml_event_t *ev, struct doc *d)
{
	bool text;
	int rc = check_scalar(r, ev);

	if (rc == 0)
		rc = read_tag(r, ev, ev->data.scalar.tag, true, d, &text);
	if (rc < 0)
		return rc;
	d->text = copy_scalar(r, ev);
	d->kind = DOC_TEXT;
	if (!text && ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
		resolve_plain(d);
	return 0;
}

static int read_node(struct reader *r, const yaml_event_t *ev, struct doc *d, unsigned int depth);

static int read_key(struct reader *r, const yaml_event_t *ev, struct doc *d)
{
	struct doc key = {0};
	bool unused;
	int rc;

	if (ev->type != YAML_SCALAR_EVENT)
		return fail(r, ev->start_mark, EINVAL, "a key must be plain text");
	rc = check_scalar(r, ev);
	if (rc == 0)
		rc = read_tag(r, ev, ev->data.scalar.tag, true, &key, &unused);
	if (rc < 0)
		return rc;
	if (key.tag.n != 0)
		return fail(r, ev->start_mark, EINVAL, "a key must not have a tag");
	d->key = copy_scalar(r, ev);
	return 0;
}

/* An element of one of the root's lists is read into the scratch arena and handed on. */
static int read_item(struct reader *r, const yaml_event_t *ev, struct doc *list, unsigned int depth)
{
	struct arena *a = r->a;
	struct doc *c;
	int rc;

	r->a = r->scratch;
	c = arena_alloc(r->a, sizeof(*c));
	c->parent = list;
	c->index = list->count++;
	rc = read_node(r, ev, c, depth);
	r->a = a;
	if (rc == 0)
		rc = r->item(r->ctx, c, r->err);
	arena_reset(r->scratch);
	return rc;
}

/* Reads one member; *ret_end when the container ended instead. */
static int read_member(struct reader *r, struct doc *parent, struct doc ***tail, unsigned int depth,
		       bool *ret_end)
{
	_cleanup_(yaml_event_delete) yaml_event_t ev = {0}, val = {0};
	struct doc *c;
	int rc = next_event(r, &ev);

	if (rc < 0)
		return rc;
	if (ev.type == YAML_SEQUENCE_END_EVENT || ev.type == YAML_MAPPING_END_EVENT) {
		*ret_end = true;
		return 0;
	}
	if (r->item != NULL && depth == 2 && parent->kind == DOC_LIST &&
	    parent->parent->kind == DOC_MAP)
		return read_item(r, &ev, parent, depth);
	c = arena_alloc(r->a, sizeof(*c));
	c->parent = parent;
	c->index = parent->count++;
	**tail = c;
	*tail = &c->next;
	if (parent->kind == DOC_LIST)
		return read_node(r, &ev, c, depth);
	rc = read_key(r, &ev, c);
	if (rc == 0)
		rc = next_event(r, &val);
	return rc < 0 ? rc : read_node(r, &val, c, depth);
}

static int read_children(struct reader *r, struct doc *d, unsigned int depth)
{
	struct doc **tail = &d->child;
	const struct doc *dup;
	bool end = false;
	char path[120];

	while (!end) {
		int rc = read_member(r, d, &tail, depth + 1, &end);

		if (rc < 0)
			return rc;
	}
	dup = d->kind == DOC_MAP ? doc_duplicate(d) : NULL;
	if (dup != NULL)
		return err_set(r->err, EINVAL, "YAML line %u: field %s appears twice", dup->line,
			       doc_path(dup, path, sizeof(path)));
	return 0;
}

/* @depth: containers around this node. Recursion is bounded by it. */
static int read_node(struct reader *r, const yaml_event_t *ev, struct doc *d, unsigned int depth)
{
	bool map = ev->type == YAML_MAPPING_START_EVENT, unused;
	int rc;

	d->line = line_of(ev->start_mark);
	if (++r->nodes > LIMIT_DOC_NODES)
		return fail(r, ev->start_mark, E2BIG, "too many values");
	if (ev->type == YAML_SCALAR_EVENT)
		return read_scalar(r, ev, d);
	if (ev->type == YAML_ALIAS_EVENT)
		return fail(r, ev->start_mark, EINVAL, "aliases are not supported");
	if (depth >= LIMIT_DOC_DEPTH)
		return fail(r, ev->start_mark, E2BIG, "nested too deeply");
	if ((map ? ev->data.mapping_start.anchor : ev->data.sequence_start.anchor) != NULL)
		return fail(r, ev->start_mark, EINVAL, "anchors are not supported");
	rc = read_tag(r, ev, map ? ev->data.mapping_start.tag : ev->data.sequence_start.tag, false,
		      d, &unused);
	if (rc < 0)
		return rc;
	d->kind = map ? DOC_MAP : DOC_LIST;
	return read_children(r, d, depth);
}

static int read_document(struct reader *r,
			 int (*fn)(void *ctx, const struct doc *root, struct err *err), void *ctx)
{
	_cleanup_(yaml_event_delete) yaml_event_t ev = {0}, end = {0};
	struct doc *root = arena_alloc(r->a, sizeof(*root));
	int rc = next_event(r, &ev);

	if (rc == 0)
		rc = read_node(r, &ev, root, 0);
	if (rc == 0)
		rc = next_event(r, &end);
	if (rc < 0 || root->kind == DOC_NULL)
		return rc;
	return fn(ctx, root, r->err);
}

static int read_stream(struct reader *r,
		       int (*fn)(void *ctx, const struct doc *root, struct err *err), void *ctx)
{
	yaml_event_type_t type = YAML_NO_EVENT;

	while (type != YAML_STREAM_END_EVENT) {
		_cleanup_(yaml_event_delete) yaml_event_t ev = {0};
		int rc = next_event(r, &ev);

		if (rc < 0)
			return rc;
		type = ev.type;
		if (type == YAML_DOCUMENT_START_EVENT)
			rc = read_document(r, fn, ctx);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int run(struct reader *r, struct str in,
	       int (*fn)(void *ctx, const struct doc *root, struct err *err), void *ctx)
{
	int rc;

	if (yaml_parser_initialize(&r->parser) != 1)
		return err_set(r->err, ENOMEM, "YAML: no memory");
	yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r->parser, (const unsigned char *)in.p, in.n);
	rc = read_stream(r, fn, ctx);
	yaml_parser_delete(&r->parser);
	return rc;
}

int yaml_parse_all(struct str in, struct arena *a,
		   int (*fn)(void *ctx, const struct doc *root, struct err *err), void *ctx,
		   struct err *err)
{
	struct reader r = {.a = a, .err = err};

	return run(&r, in, fn, ctx);
}

static int keep_one(void *ctx, const struct doc *root, struct err *err)
{
	const struct doc **one = ctx;

	if (*one != NULL)
		return doc_err(root, err, "expected one document, this is the second");
	*one = root;
	return 0;
}

static int parse_one(struct reader *r, struct str in, const struct doc **ret)
{
	struct arena *a = r->a;
	const struct doc *one = NULL;
	int rc = run(r, in, keep_one, &one);

	if (rc < 0)
		return rc;
	if (one == NULL) {
		struct doc *none = arena_alloc(a, sizeof(*none));

		none->line = 1;
		one = none;
	}
	*ret = one;
	return 0;
}

int yaml_parse(struct str in, struct arena *a, const struct doc **ret, struct err *err)
{
	struct reader r = {.a = a, .err = err};

	return parse_one(&r, in, ret);
}

int yaml_parse_items(struct str in, struct arena *a,
		     int (*item)(void *ctx, const struct doc *d, struct err *err), void *ctx,
		     const struct doc **ret, struct err *err)
{
	struct reader r = {.a = a, .err = err, .item = item, .ctx = ctx, .scratch = arena_new()};
	int rc = parse_one(&r, in, ret);

	(void)arena_free(r.scratch);
	return rc;
}
