/* SPDX-License-Identifier: Apache-2.0
 * kube_state.c: see kube_state.h.
 */
#include "lib/kube/kube_state.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/mem.h"

void kube_state_fini(struct kube_state *s)
{
	free(s->next);
	*s = (struct kube_state){0};
}

static void set_rv(struct kube_state *s, struct str rv)
{
	bug_on(rv.n >= sizeof(s->rv)); /* kube_json.c refuses longer ones */
	memcpy(s->rv, rv.p, rv.n);
	s->rv[rv.n] = '\0';
}

void kube_state_anew(struct kube_state *s)
{
	s->phase = KUBE_LIST;
	free(take_ptr(s->next));
}

bool kube_state_page(struct kube_state *s, struct str rv, struct str next)
{
	s->failures = 0;
	free(take_ptr(s->next));
	if (next.n != 0) {
		s->next = xstrndup(next.p, next.n);
		return false;
	}
	set_rv(s, rv);
	s->phase = KUBE_WATCH;
	s->synced = true;
	return true;
}

void kube_state_event(struct kube_state *s, struct str rv)
{
	s->failures = 0;
	set_rv(s, rv);
}

static uint64_t pause(struct kube_state *s, uint64_t random)
{
	uint64_t ms = KUBE_BACKOFF_MS;

	s->failures++;
	for (unsigned int i = 1; i < s->failures && ms < KUBE_BACKOFF_MAX_MS; i++)
		ms *= 2;
	if (ms > KUBE_BACKOFF_MAX_MS)
		ms = KUBE_BACKOFF_MAX_MS;
	return ms - random % (ms / 2 + 1);
}

uint64_t kube_state_watch_ended(struct kube_state *s, uint64_t lived_ms, uint64_t events,
				uint64_t random)
{
	if (events != 0 || lived_ms >= KUBE_SHORT_WATCH_MS) {
		s->failures = 0;
		return 0;
	}
	return pause(s, random);
}

void kube_state_lived(struct kube_state *s, uint64_t lived_ms)
{
	if (lived_ms >= KUBE_SHORT_WATCH_MS)
		s->failures = 0;
}

uint64_t kube_state_failed(struct kube_state *s, enum kube_failure f, uint32_t status,
			   uint64_t retry_after_ms, uint64_t random)
{
	uint64_t ms = pause(s, random);

	if (f == KUBE_GARBAGE || (f == KUBE_STATUS && status == 410))
		kube_state_anew(s);
	/* not for what a list would meet as well: who we are, and how busy the server is */
	if (f == KUBE_STATUS && s->phase == KUBE_WATCH && s->failures >= KUBE_WATCH_REFUSED_MAX &&
	    status != 401 && status != 403 && status != 429)
		kube_state_anew(s);
	if (retry_after_ms > KUBE_RETRY_AFTER_MAX_MS)
		retry_after_ms = KUBE_RETRY_AFTER_MAX_MS;
	return ms > retry_after_ms ? ms : retry_after_ms;
}

enum kube_missing kube_state_missing(struct kube_state *s, bool has_older, uint64_t now_ms,
				     uint64_t random, uint64_t *ret_pause_ms)
{
	*ret_pause_ms = 0;
	if (has_older && !s->other_tried && !s->present) {
		s->other_tried = true;
		s->older = !s->older;
		kube_state_anew(s);
		return KUBE_MISSING_OTHER;
	}
	s->other_tried = false;
	if (s->present && s->missing_ms == 0)
		s->missing_ms = now_ms;
	if (s->present && now_ms - s->missing_ms < KUBE_ABSENT_SURE_MS)
		return KUBE_MISSING_UNSURE;
	kube_state_anew(s);
	s->present = false;
	s->missing_ms = 0;
	s->failures = 0;
	s->synced = true;
	*ret_pause_ms = KUBE_ABSENT_MS - random % (KUBE_ABSENT_MS / 2);
	return KUBE_MISSING_SURE;
}

void kube_state_found(struct kube_state *s)
{
	s->present = true;
	s->other_tried = false;
	s->missing_ms = 0;
}

static void add_escaped(struct strbuf *out, const char *s)
{
	for (; *s != '\0'; s++) {
		char c = *s;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		    c == '-' || c == '.' || c == '_' || c == '~')
			strbuf_putc(out, c);
		else
			strbuf_printf(out, "%%%02X", (unsigned int)(unsigned char)c);
	}
}

void kube_state_path(const struct kube_state *s, const char *prefix, const char *resource,
		     const char *node, const char *labels, uint64_t random, struct strbuf *out)
{
	strbuf_printf(out, "%s%s?", prefix, resource);
	if (node != NULL) {
		strbuf_puts(out, "fieldSelector=spec.nodeName%3D");
		add_escaped(out, node);
		strbuf_putc(out, '&');
	}
	if (labels != NULL) {
		strbuf_puts(out, "labelSelector=");
		add_escaped(out, labels);
		strbuf_putc(out, '&');
	}
	if (s->phase == KUBE_LIST) {
		strbuf_printf(out, "limit=%d", KUBE_PAGE);
		if (s->next != NULL) {
			strbuf_puts(out, "&continue=");
			add_escaped(out, s->next);
		}
		return;
	}
	strbuf_printf(out, "watch=true&allowWatchBookmarks=true&timeoutSeconds=%u&resourceVersion=",
		      KUBE_WATCH_SECONDS + (unsigned int)(random % (KUBE_WATCH_SECONDS / 2)));
	add_escaped(out, s->rv);
}
