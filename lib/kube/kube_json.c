/* SPDX-License-Identifier: Apache-2.0
 * kube_json.c: see kube_json.h.
 */
#include "lib/kube/kube_json.h"

#include <errno.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

#define KEPT_BYTES   (64u << 10) /* of a buffer that is used again */
#define ENVELOPE_MAX (64u << 10) /* kind, apiVersion and metadata of a list */

static bool blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* One character of JSON: keeps track of texts and nesting. -EINVAL below the first level. */
static int step(struct kube_list *l, char c)
{
	if (l->in_text) {
		if (l->escaped)
			l->escaped = false;
		else if (c == '\\')
			l->escaped = true;
		else if (c == '"')
			l->in_text = false;
		return 0;
	}
	if (c == '"')
		l->in_text = true;
	else if (c == '{' || c == '[')
		l->depth++;
	else if (c == '}' || c == ']')
		return l->depth-- == 0 ? -EINVAL : 0;
	return 0;
}

static int broken(struct err *err)
{
	return err_set(err, EINVAL, "the list is not valid JSON");
}

static int in_envelope(struct kube_list *l, char c, struct err *err)
{
	struct strbuf *e = &l->envelope;
	bool was_text = l->in_text;

	if (l->done)
		return blank(c) ? 0 : broken(err);
	if (e->n == ENVELOPE_MAX)
		return err_set(err, E2BIG, "more than %u bytes around the objects of a list",
			       ENVELOPE_MAX);
	if (!was_text && c == '[' && l->depth == 1 && l->key_items) {
		strbuf_putc(e, c);
		l->in_items = l->first = true;
		l->comma = l->key_items = false;
		l->depth = 0;
		return 0;
	}
	strbuf_putc(e, c);
	if (step(l, c) < 0)
		return broken(err);
	if (!was_text && l->in_text)
		l->key_at = e->n;
	else if (was_text && !l->in_text && l->depth == 1)
		l->key_items =
			str_eqc((struct str){e->p + l->key_at, e->n - 1 - l->key_at}, "items");
	else if (!l->in_text && c != ':' && !blank(c))
		l->key_items = false;
	l->done = l->depth == 0 && !l->in_text && !blank(c);
	return 0;
}

/* Between the objects: "{" after the start or a comma, "," after an object, "]" not after a comma.
 */
static int between(struct kube_list *l, char c, struct err *err)
{
	if (blank(c))
		return 0;
	if (c == '{' && (l->first || l->comma)) {
		l->first = l->comma = false;
		strbuf_putc(&l->object, c);
		l->depth = 1;
		return 0;
	}
	if (c == ',' && !l->first && !l->comma) {
		l->comma = true;
		return 0;
	}
	if (c != ']' || l->comma)
		return broken(err);
	strbuf_putc(&l->envelope, c);
	l->in_items = false;
	l->depth = 1;
	return 0;
}

int kube_list_feed(struct kube_list *l, struct str in,
		   int (*object)(void *, struct str, struct err *), void *ctx, struct err *err)
{
	for (size_t i = 0; i < in.n; i++) {
		int r;

		if (!l->in_items) {
			r = in_envelope(l, in.p[i], err);
		} else if (l->object.n == 0) {
			r = between(l, in.p[i], err);
		} else if (l->object.n == LIMIT_KUBE_OBJECT_BYTES) {
			r = err_set(err, E2BIG, "an object has more than %u bytes",
				    LIMIT_KUBE_OBJECT_BYTES);
		} else {
			strbuf_putc(&l->object, in.p[i]);
			r = step(l, in.p[i]);
			if (r == 0 && l->depth == 0) {
				r = object(ctx, (struct str){l->object.p, l->object.n}, err);
				l->object.n = 0;
			}
		}
		if (r < 0)
			return r;
	}
	return 0;
}

void kube_list_fini(struct kube_list *l)
{
	strbuf_fini(&l->envelope);
	strbuf_fini(&l->object);
	*l = (struct kube_list){0};
}

/* A version or token that goes into a URL and a fixed buffer. */
static int plain_text(const struct doc *map, const char *key, size_t max, struct str *ret,
		      struct err *err)
{
	int r = doc_opt_text(map, key, ret, err);

	if (r < 0)
		return r;
	if (ret->n >= max)
		return doc_err(doc_get(map, key), err, "longer than %zu characters", max - 1);
	for (size_t i = 0; i < ret->n; i++)
		if (ret->p[i] <= ' ' || ret->p[i] >= 127)
			return doc_err(doc_get(map, key), err, "unexpected character in %s",
				       str_shown(*ret));
	return 0;
}

int kube_list_end(const struct kube_list *l, const char *kind, struct arena *a, struct str *ret_rv,
		  struct str *ret_continue, struct err *err)
{
	struct str rv = {0}, next = {0}, got;
	const struct doc *root, *meta = NULL;
	int r;

	if (l->in_items || !l->done)
		return err_set(err, EINVAL, "the list ends in the middle");
	if ((r = json_parse((struct str){l->envelope.p, l->envelope.n}, a, &root, err)) < 0 ||
	    (r = doc_map(root, err)) < 0 || (r = doc_need_text(root, "kind", &got, err)) < 0)
		return r;
	if (!str_eqc(got, kind))
		return err_set(err, EINVAL, "expected a %s, got %s", kind, str_shown(got));
	if ((r = doc_opt_map(root, "metadata", &meta, err)) < 0)
		return r;
	if (meta == NULL)
		return err_set(err, EINVAL, "the list has no metadata");
	if ((r = plain_text(meta, "resourceVersion", KUBE_RV_MAX, &rv, err)) < 0 ||
	    (r = plain_text(meta, "continue", KUBE_CONTINUE_MAX, &next, err)) < 0)
		return r;
	if (rv.n == 0)
		return err_set(err, EINVAL, "the list has no metadata.resourceVersion");
	*ret_rv = rv;
	*ret_continue = next;
	return 0;
}

/* --- watches --- */

static const char *const event_name[KUBE_EVENT_N] = {
	[KUBE_ADDED] = "ADDED",	      [KUBE_MODIFIED] = "MODIFIED", [KUBE_DELETED] = "DELETED",
	[KUBE_BOOKMARK] = "BOOKMARK", [KUBE_ERROR] = "ERROR",
};

static int event_type(const struct doc *root, enum kube_event_type *ret, struct err *err)
{
	struct str name;
	int r = doc_need_text(root, "type", &name, err);

	if (r < 0)
		return r;
	for (int i = 0; i < KUBE_EVENT_N; i++)
		if (str_eqc(name, event_name[i])) {
			*ret = (enum kube_event_type)i;
			return 0;
		}
	return doc_err(doc_get(root, "type"), err, "unknown type of event %s", str_shown(name));
}

int kube_event_parse(struct str line, struct arena *a, struct kube_event *ret, struct err *err)
{
	struct kube_event ev = {.code = 500};
	const struct doc *root, *object = NULL, *meta = NULL;
	int r;

	if ((r = json_parse(line, a, &root, err)) < 0 || (r = doc_map(root, err)) < 0 ||
	    (r = event_type(root, &ev.type, err)) < 0 ||
	    (r = doc_opt_map(root, "object", &object, err)) < 0)
		return r;
	if (object == NULL)
		return doc_err(root, err, "event without an object");
	if (ev.type == KUBE_ERROR) {
		/* a Status that is none is still an error */
		if (doc_opt_u32(object, "code", 0, 999, &ev.code, NULL) < 0 ||
		    doc_opt_text(object, "message", &ev.message, NULL) < 0)
			ev.code = 500;
		*ret = ev;
		return 0;
	}
	ev.object = object;
	if ((r = doc_opt_map(object, "metadata", &meta, err)) < 0)
		return r;
	if (meta == NULL)
		return doc_err(object, err, "object without metadata");
	if ((r = plain_text(meta, "resourceVersion", KUBE_RV_MAX, &ev.rv, err)) < 0)
		return r;
	if (ev.rv.n == 0)
		return doc_err(object, err, "object without metadata.resourceVersion");
	*ret = ev;
	return 0;
}

void kube_lines_fini(struct kube_lines *l)
{
	strbuf_fini(&l->line);
}

static int take_line(struct kube_lines *l, int (*fn)(void *, struct str, struct err *), void *ctx,
		     struct err *err)
{
	struct str s = str_trim((struct str){l->line.p, l->line.n});
	int r = s.n != 0 ? fn(ctx, s, err) : 0;

	if (l->line.cap > KEPT_BYTES) /* a watch lives long */
		strbuf_fini(&l->line);
	l->line.n = 0;
	return r;
}

int kube_lines_feed(struct kube_lines *l, struct str in,
		    int (*fn)(void *, struct str, struct err *), void *ctx, struct err *err)
{
	while (in.n != 0) {
		const char *nl = memchr(in.p, '\n', in.n);
		size_t n = nl != NULL ? (size_t)(nl - in.p) : in.n;

		if (l->line.n + n > LIMIT_KUBE_OBJECT_BYTES)
			return err_set(err, E2BIG, "an event has more than %u bytes",
				       LIMIT_KUBE_OBJECT_BYTES);
		strbuf_add(&l->line, in.p, n);
		in.p += n;
		in.n -= n;
		if (nl == NULL)
			return 0;
		in.p++;
		in.n--;
		int r = take_line(l, fn, ctx, err);

		if (r < 0)
			return r;
	}
	return 0;
}

struct str kube_status_message(struct str body, struct arena *a)
{
	const struct doc *root;
	struct str s = {"", 0};

	if (json_parse(body, a, &root, NULL) < 0 || doc_opt_text(root, "message", &s, NULL) < 0)
		return STR("");
	return s;
}

/* --- fuzzing: bytes cut anywhere give what they give in one piece --- */

struct heard {
	uint64_t hash;
	unsigned int n;
};

static int hear(void *ctx, struct str text, struct err *err)
{
	struct heard *h = ctx;
	struct arena *a = arena_new();
	struct kube_event ev;

	bug_on(text.n == 0 || text.n > LIMIT_KUBE_OBJECT_BYTES);
	for (size_t i = 0; i < text.n; i++)
		h->hash = h->hash * 31 + (unsigned char)text.p[i];
	h->n++;
	if (kube_event_parse(text, a, &ev, err) == 0)
		bug_on(ev.type != KUBE_ERROR && (ev.rv.n == 0 || ev.rv.n >= KUBE_RV_MAX));
	(void)arena_free(a);
	return 0;
}

static int feed_list(const uint8_t *p, size_t n, size_t cut, struct heard *h)
{
	struct kube_list l = {0};
	struct arena *a = arena_new();
	struct str rv, next;
	struct err err = {0};
	int r = 0;

	for (size_t at = 0; r == 0 && at < n; at += cut)
		r = kube_list_feed(&l,
				   (struct str){(const char *)p + at, n - at < cut ? n - at : cut},
				   hear, h, &err);
	if (r == 0)
		r = kube_list_end(&l, "PodList", a, &rv, &next, &err);
	bug_on(r < 0 && err.msg[0] == '\0');
	(void)arena_free(a);
	kube_list_fini(&l);
	return r;
}

static int feed_lines(const uint8_t *p, size_t n, size_t cut, struct heard *h)
{
	struct kube_lines l = {0};
	struct err err = {0};
	int r = 0;

	for (size_t at = 0; r == 0 && at < n; at += cut)
		r = kube_lines_feed(&l,
				    (struct str){(const char *)p + at, n - at < cut ? n - at : cut},
				    hear, h, &err);
	kube_lines_fini(&l);
	return r;
}

int kube_event_fuzz(const uint8_t *p, size_t n)
{
	static int (*const feed[])(const uint8_t *, size_t, size_t, struct heard *) = {feed_list,
										       feed_lines};

	for (size_t i = 0; i < ARRAY_LEN(feed); i++) {
		struct heard whole = {0}, pieces = {0};
		int a = feed[i](p, n, n != 0 ? n : 1, &whole);
		int b = feed[i](p, n, 3, &pieces);

		bug_on(a != b || whole.hash != pieces.hash || whole.n != pieces.n);
	}
	return 0;
}
