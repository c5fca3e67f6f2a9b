/* SPDX-License-Identifier: Apache-2.0
 * vault.c: see vault.h.
 *
 * Of the text in the memory only the first lines are looked at: whose it is, and until when. That
 * key and certificate belong together is checked by the ztunnel that gets them back.
 */
#include "node-agent/enrol/vault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/event/loop.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/os/notify.h"
#include "lib/os/sealed.h"
#include "lib/wire/credential.h"
#include "lib/wire/spiffe.h"

#define STORE_PREFIX "ambient-credential-"
#define LOOK_MS	     30000

struct entry {
	struct list node;
	char *whose;	/* namespace, NUL, service account, NUL */
	const char *sa; /* in .whose */
	int fd;
	const void *map; /* for as long as it is kept: locked */
	size_t n;
	int64_t not_after;
	char name[64]; /* in the descriptor store */
};

struct vault {
	struct loop *loop;
	struct list all;
	size_t n;
	struct timer look;
};

/* FNV-1a: the name must be the same in our next life. */
static void name_of(const char *ns, const char *sa, char *buf, size_t cap)
{
	const char *parts[] = {ns, "/", sa};
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		for (const char *p = parts[i]; *p != '\0'; p++)
			h = (h ^ (unsigned char)*p) * 0x100000001b3ull;
	(void)snprintf(buf, cap, STORE_PREFIX "%016llx", (unsigned long long)h);
}

static void store(const struct entry *e, bool keep)
{
	char msg[128];
	int r;

	(void)snprintf(msg, sizeof(msg), "FDSTORE%s=1\nFDNAME=%s", keep ? "" : "REMOVE", e->name);
	r = notify_send_fds(msg, &e->fd, keep ? 1 : 0);
	if (r < 0)
		log_limited(LOG_LV_WARN, "vault",
			    "the descriptor store does not follow: error %d namespace=%s "
			    "serviceAccount=%s",
			    -r, e->whose, e->sa);
}

static void drop(struct vault *v, struct entry *e, bool from_store)
{
	if (from_store)
		store(e, false);
	list_remove(&e->node);
	v->n--;
	sealed_unmap(e->map, e->n);
	(void)xclose(e->fd);
	free(e->whose);
	free(e);
}

static int64_t now_s(void)
{
	return clock_wall_us() / 1000000;
}

static struct entry *find(struct vault *v, const char *ns, const char *sa)
{
	list_for_each (n, &v->all) {
		struct entry *e = container_of(n, struct entry, node);

		if (strcmp(e->whose, ns) == 0 && strcmp(e->sa, sa) == 0)
			return e;
	}
	return NULL;
}

static char *whose_of(const struct credential *c, const char **ret_sa)
{
	struct spiffe_id id;
	char *s;

	if (spiffe_parse(c->spiffe, &id) != 0) /* credential_parse() has tried it */
		return NULL;
	s = xcalloc(1, id.ns.n + id.sa.n + 2);
	memcpy(s, id.ns.p, id.ns.n);
	memcpy(s + id.ns.n + 1, id.sa.p, id.sa.n);
	*ret_sa = s + id.ns.n + 1;
	return s;
}

/* Maps and looks; @e->fd is set. */
static int look_in(struct entry *e, struct err *err)
{
	bool locked = false;
	struct credential c;
	int r = sealed_check(e->fd, LIMIT_CREDENTIAL_BYTES, &e->n, err);

	if (r == 0) {
		e->map = sealed_map(e->fd, e->n, &locked, err);
		r = e->map != NULL ? credential_parse((struct str){e->map, e->n}, &c, err)
				   : -ENOMEM;
	}
	if (r != 0)
		return r;
	if (!locked)
		log_limited(
			LOG_LV_WARN, "vault",
			"keys are not locked into memory (RLIMIT_MEMLOCK): they may be swapped");
	e->not_after = c.not_after;
	e->whose = whose_of(&c, &e->sa);
	return e->whose != NULL ? 0 : err_set(err, EINVAL, "no identity");
}

char *vault_whose(int fd, const char **ret_sa, struct err *err)
{
	struct entry e = {.fd = fd};
	int r = look_in(&e, err);

	sealed_unmap(e.map, e.n);
	*ret_sa = e.sa;
	if (r == 0)
		return e.whose;
	free(e.whose);
	return NULL;
}

static void on_look(struct timer *t)
{
	struct vault *v = container_of(t, struct vault, look);

	list_for_each_safe (n, &v->all) {
		struct entry *e = container_of(n, struct entry, node);

		if (e->not_after <= now_s())
			drop(v, e, true);
	}
	if (v->n != 0)
		loop_timer_set(v->loop, t, LOOK_MS, on_look);
}

/* @fd moves here. @stored: it is in the descriptor store already. */
static int put(struct vault *v, int fd, bool stored, struct err *err)
{
	struct entry *e = xcalloc(1, sizeof(*e)), *old = NULL;
	int r;

	list_init(&e->node);
	e->fd = fd;
	r = look_in(e, err);
	if (r == 0 && e->not_after <= now_s())
		r = err_set(err, EINVAL, "it has expired");
	if (r == 0)
		old = find(v, e->whose, e->sa);
	if (r == 0 && old == NULL && v->n >= LIMIT_CREDENTIALS)
		r = err_set(err, ENOSPC, "%u are kept already", LIMIT_CREDENTIALS);
	if (r != 0) {
		sealed_unmap(e->map, e->n);
		(void)xclose(e->fd);
		free(e->whose);
		free(e);
		return r;
	}
	name_of(e->whose, e->sa, e->name, sizeof(e->name));
	if (old != NULL)
		drop(v, old, true); /* the newest one counts */
	list_append(&v->all, &e->node);
	v->n++;
	if (!stored || old != NULL)
		store(e, true);
	if (!timer_armed(&v->look))
		loop_timer_set(v->loop, &v->look, LOOK_MS, on_look);
	return 0;
}

int vault_put(struct vault *v, int fd, struct err *err)
{
	int dup = fd_dup(fd);

	return dup < 0 ? err_errno(err, -dup, "duplicate") : put(v, dup, false, err);
}

int vault_get(struct vault *v, const char *ns, const char *sa)
{
	struct entry *e = find(v, ns, sa);

	return e != NULL && e->not_after > now_s() ? e->fd : -1;
}

void vault_prune(struct vault *v, bool (*wanted)(void *, const char *, const char *), void *ctx)
{
	list_for_each_safe (n, &v->all) {
		struct entry *e = container_of(n, struct entry, node);

		if (wanted(ctx, e->whose, e->sa))
			continue;
		log_info("vault",
			 "no pod needs this credential any more namespace=%s "
			 "serviceAccount=%s",
			 e->whose, e->sa);
		drop(v, e, true);
	}
}

size_t vault_count(const struct vault *v)
{
	return v->n;
}

/* Only between the start and vault_new(). */
static struct stored {
	char name[64];
	int fd;
} * stored;
static size_t nstored;

bool vault_stored_take(struct str name, int fd)
{
	if (!str_has_prefix(name, STR(STORE_PREFIX)))
		return false;
	if (nstored == LIMIT_CREDENTIALS || name.n >= sizeof(stored->name)) {
		(void)xclose(fd);
		return true;
	}
	stored = xrealloc_array(stored, nstored + 1, sizeof(*stored));
	memcpy(stored[nstored].name, name.p, name.n);
	stored[nstored].name[name.n] = '\0';
	stored[nstored++].fd = fd;
	return true;
}

void vault_stored_release(void)
{
	for (size_t i = 0; i < nstored; i++)
		(void)xclose(stored[i].fd);
	free(stored);
	stored = NULL;
	nstored = 0;
}

struct vault *vault_new(struct loop *l)
{
	struct vault *v = xcalloc(1, sizeof(*v));

	v->loop = l;
	list_init(&v->all);
	for (size_t i = 0; i < nstored; i++) {
		struct err err = {0};
		char msg[128];

		if (put(v, stored[i].fd, true, &err) == 0)
			continue;
		log_warn("vault", "a credential of before is not kept: %s", err.msg);
		(void)snprintf(msg, sizeof(msg), "FDSTOREREMOVE=1\nFDNAME=%s", stored[i].name);
		if (notify_send_fds(msg, NULL, 0) < 0)
			log_warn("vault", "it stays in the descriptor store");
	}
	if (nstored != 0)
		log_info("vault", "credentials came back from the descriptor store n=%zu", v->n);
	nstored = 0;
	vault_stored_release();
	return v;
}

struct vault *vault_free(struct vault *v)
{
	if (v == NULL)
		return NULL;
	loop_timer_cancel(&v->look);
	while (!list_empty(&v->all))
		drop(v, container_of(v->all.next, struct entry, node), false);
	free(v);
	return NULL;
}
