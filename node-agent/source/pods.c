/* SPDX-License-Identifier: Apache-2.0
 * pods.c: see pods.h.
 */
#include "node-agent/source/pods.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"

struct pods {
	struct htab pods, namespaces;
	void (*changed)(void *ctx, const char *ns, const char *name);
	void *ctx;
	struct pods_changes changes;
	uint64_t puts;
};

struct pod *pod_free(struct pod *p)
{
	if (p == NULL)
		return NULL;
	free(p->name);
	free(p->ns);
	free(p->uid);
	free(p->runtime_uid);
	free(p->service_account);
	free(p->node_name);
	free(p->mode);
	labels_fini(&p->labels);
	free(p->app);
	free(p->bypass_inbound);
	free(p->dns_capture);
	free(p->reroute_ifaces);
	free(p->redirection);
	free(p);
	return NULL;
}

/* Lengths without '-' in @loose mode. */
static bool uid_eq(const char *a, const char *b, bool loose)
{
	while (loose && (*a == '-' || *b == '-')) {
		a += *a == '-';
		b += *b == '-';
	}
	while (*a != '\0' && *a == *b) {
		a++;
		b++;
		while (loose && *a == '-')
			a++;
		while (loose && *b == '-')
			b++;
	}
	return *a == *b;
}

bool pod_has_uid(const struct pod *p, const char *uid, bool loose)
{
	return (p->uid != NULL && uid_eq(p->uid, uid, loose)) ||
	       (p->runtime_uid != NULL && uid_eq(p->runtime_uid, uid, loose));
}

const char *pod_runtime_uid(const struct pod *p)
{
	return p->runtime_uid != NULL ? p->runtime_uid : p->uid;
}

struct pod_namespace *pod_namespace_free(struct pod_namespace *n)
{
	if (n == NULL)
		return NULL;
	free(n->name);
	free(n->mode);
	labels_fini(&n->labels);
	free(n);
	return NULL;
}

struct pods *pods_new(void (*changed)(void *, const char *, const char *), void *ctx)
{
	struct pods *s = xcalloc(1, sizeof(*s));

	htab_init(&s->pods);
	htab_init(&s->namespaces);
	s->changed = changed;
	s->ctx = ctx;
	return s;
}

struct pods *pods_free(struct pods *s)
{
	if (s == NULL)
		return NULL;
	htab_for_each (n, &s->pods)
		(void)pod_free(container_of(n, struct pod, node));
	htab_for_each (n, &s->namespaces)
		(void)pod_namespace_free(container_of(n, struct pod_namespace, node));
	htab_fini(&s->pods);
	htab_fini(&s->namespaces);
	free(s);
	return NULL;
}

static uint64_t pod_hash(const char *ns, const char *name)
{
	return hash_mix(hash_str(str_of(ns)), hash_str(str_of(name)));
}

static struct pod *find(const struct pods *s, const char *ns, const char *name)
{
	for (struct hnode *n = htab_first(&s->pods, pod_hash(ns, name)); n != NULL;
	     n = htab_next(n)) {
		struct pod *p = container_of(n, struct pod, node);

		if (strcmp(p->ns, ns) == 0 && strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

static struct pod_namespace *find_namespace(const struct pods *s, const char *name)
{
	for (struct hnode *n = htab_first(&s->namespaces, hash_str(str_of(name))); n != NULL;
	     n = htab_next(n)) {
		struct pod_namespace *x = container_of(n, struct pod_namespace, node);

		if (strcmp(x->name, name) == 0)
			return x;
	}
	return NULL;
}

const struct pod *pods_find(const struct pods *s, const char *ns, const char *name)
{
	return find(s, ns, name);
}

const struct pod_namespace *pods_namespace(const struct pods *s, const char *name)
{
	return find_namespace(s, name);
}

const struct pod *pods_find_uid(const struct pods *s, const char *uid)
{
	htab_for_each (n, &s->pods) {
		struct pod *p = container_of(n, struct pod, node);

		if (p->uid != NULL && strcmp(p->uid, uid) == 0)
			return p;
	}
	return NULL;
}

const struct pods_changes *pods_changes(const struct pods *s)
{
	return &s->changes;
}

size_t pods_count(const struct pods *s)
{
	return s->pods.count;
}

size_t pods_namespace_count(const struct pods *s)
{
	return s->namespaces.count;
}

void pods_each(const struct pods *s, void (*fn)(void *, const struct pod *), void *ctx)
{
	htab_for_each (n, &s->pods)
		fn(ctx, container_of(n, struct pod, node));
}

void pods_each_namespace(const struct pods *s, void (*fn)(void *, const struct pod_namespace *),
			 void *ctx)
{
	htab_for_each (n, &s->namespaces)
		fn(ctx, container_of(n, struct pod_namespace, node));
}

const void *pods_other_owner(const struct pods *s, const char *ns, const char *name,
			     const void *owner)
{
	const struct pod *p = find(s, ns, name);

	return p != NULL && p->owner != owner ? p->owner : NULL;
}

const void *pods_namespace_other_owner(const struct pods *s, const char *name, const void *owner)
{
	const struct pod_namespace *n = find_namespace(s, name);

	return n != NULL && n->owner != owner ? n->owner : NULL;
}

static bool same(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool pod_same(const struct pod *a, const struct pod *b)
{
	if (a->nips != b->nips || a->host_network != b->host_network || a->sidecar != b->sidecar ||
	    a->terminal != b->terminal)
		return false;
	for (size_t i = 0; i < a->nips; i++)
		if (!ip_eq(&a->ips[i], &b->ips[i]))
			return false;
	return same(a->uid, b->uid) && same(a->runtime_uid, b->runtime_uid) &&
	       same(a->service_account, b->service_account) && same(a->node_name, b->node_name) &&
	       same(a->mode, b->mode) && same(a->app, b->app) &&
	       same(a->bypass_inbound, b->bypass_inbound) && same(a->dns_capture, b->dns_capture) &&
	       same(a->reroute_ifaces, b->reroute_ifaces) && labels_same(&a->labels, &b->labels);
}

/* The callback gets copies: it may change the store. */
static void tell(struct pods *s, const char *ns, const char *name, uint64_t *counter)
{
	_cleanup_free_ char *n1 = xstrdup(ns), *n2 = xstrdup(name);

	++*counter;
	s->changed(s->ctx, n1, n2);
}

void pods_put(struct pods *s, struct pod *p, const void *owner, unsigned int generation)
{
	struct pod *old = find(s, p->ns, p->name);
	uint64_t *counter;

	p->owner = owner;
	p->generation = generation;
	p->put = ++s->puts;
	if (old != NULL && pod_same(old, p)) {
		old->owner = owner;
		old->put = p->put;
		old->generation = generation;
		free(old->redirection);
		old->redirection = take_ptr(p->redirection);
		(void)pod_free(p);
		return;
	}
	counter = old != NULL ? &s->changes.updated : &s->changes.added;
	if (old != NULL) {
		htab_remove(&s->pods, &old->node);
		(void)pod_free(old);
	}
	htab_insert(&s->pods, &p->node, pod_hash(p->ns, p->name));
	tell(s, p->ns, p->name, counter);
}

static void tell_namespace(struct pods *s, const char *name)
{
	htab_for_each (n, &s->pods) {
		struct pod *p = container_of(n, struct pod, node);

		if (strcmp(p->ns, name) == 0)
			tell(s, p->ns, p->name, &s->changes.updated);
	}
}

void pods_put_namespace(struct pods *s, struct pod_namespace *n, const void *owner,
			unsigned int generation)
{
	struct pod_namespace *old = find_namespace(s, n->name);

	n->owner = owner;
	n->generation = generation;
	if (old != NULL && same(old->mode, n->mode) && labels_same(&old->labels, &n->labels)) {
		old->owner = owner;
		old->generation = generation;
		(void)pod_namespace_free(n);
		return;
	}
	if (old != NULL) {
		htab_remove(&s->namespaces, &old->node);
		(void)pod_namespace_free(old);
	}
	htab_insert(&s->namespaces, &n->node, hash_str(str_of(n->name)));
	tell_namespace(s, n->name);
}

void pods_keep(struct pods *s, const char *ns, const char *name, const void *owner,
	       unsigned int generation)
{
	struct pod *p = find(s, ns, name);

	if (p != NULL && p->owner == owner)
		p->generation = generation;
}

void pods_keep_namespace(struct pods *s, const char *name, const void *owner,
			 unsigned int generation)
{
	struct pod_namespace *n = find_namespace(s, name);

	if (n != NULL && n->owner == owner)
		n->generation = generation;
}

void pods_remove(struct pods *s, const char *ns, const char *name, const void *owner)
{
	struct pod *p = find(s, ns, name);

	if (p == NULL || p->owner != owner)
		return;
	htab_remove(&s->pods, &p->node);
	tell(s, ns, name, &s->changes.deleted);
	(void)pod_free(p);
}

void pods_remove_namespace(struct pods *s, const char *name, const void *owner)
{
	struct pod_namespace *n = find_namespace(s, name);

	if (n == NULL || n->owner != owner)
		return;
	htab_remove(&s->namespaces, &n->node);
	tell_namespace(s, n->name);
	(void)pod_namespace_free(n);
}

void pods_set_redirection(struct pods *s, const char *ns, const char *name, const char *uid,
			  const char *value)
{
	struct pod *p = find(s, ns, name);

	if (p == NULL || !same(p->uid, uid))
		return;
	free(p->redirection);
	p->redirection = value != NULL ? xstrdup(value) : NULL;
}

void pods_sweep(struct pods *s, const void *owner, unsigned int generation)
{
	htab_for_each (n, &s->namespaces) {
		struct pod_namespace *x = container_of(n, struct pod_namespace, node);

		if (x->owner != owner || (generation != 0 && x->generation == generation))
			continue;
		htab_remove(&s->namespaces, &x->node);
		tell_namespace(s, x->name);
		(void)pod_namespace_free(x);
	}
	htab_for_each (n, &s->pods) {
		struct pod *p = container_of(n, struct pod, node);

		if (p->owner != owner || (generation != 0 && p->generation == generation))
			continue;
		htab_remove(&s->pods, &p->node);
		tell(s, p->ns, p->name, &s->changes.deleted);
		(void)pod_free(p);
	}
}
