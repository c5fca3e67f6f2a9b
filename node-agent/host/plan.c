/* SPDX-License-Identifier: Apache-2.0
 * plan.c: see plan.h. Pure.
 */
#include "node-agent/host/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"

static bool is_usable(const struct confdir_file *f)
{
	return f->err.code == 0;
}

/* The file that stock's installer copies the primary into. */
static bool is_stock_copy(const struct confdir_file *f)
{
	return is_usable(f) && f->c.has_stock && strcmp(f->name, PLAN_STOCK_OWNED_NAME) == 0;
}

/* A file of our own, also while somebody else's content stands in its place. */
static bool is_own(const struct confdir_file *f, const struct plan_opts *o)
{
	return (is_usable(f) && f->c.place == CNICONF_OWNED) ||
	       (o->written != NULL && strcmp(f->name, o->written) == 0) ||
	       (o->replace_stock && is_stock_copy(f));
}

static const struct confdir_file *first_usable(const struct confdir *d, const struct plan_opts *o)
{
	for (size_t i = 0; i < d->n; i++) {
		const struct confdir_file *f = &d->files[i];

		if (is_usable(f) && f->c.kind != CNICONF_JSON && f->c.has_others && !is_own(f, o))
			return f;
	}
	return NULL;
}

/* The file that the operator names, or the same with the other ending: wrapping changes it. */
static const struct confdir_file *find_named(const struct confdir *d, const char *name)
{
	const struct confdir_file *f = confdir_find(d, name);
	_cleanup_free_ char *other = NULL;

	if (f != NULL)
		return f;
	other = cniconf_kind_of(name) == CNICONF_LIST ? cniconf_single_name(name)
						      : cniconf_list_name(name);
	return confdir_find(d, other);
}

static int choose_primary(const struct confdir *d, const struct plan_opts *o, struct plan *p,
			  struct err *err)
{
	bool named = o->conf_name[0] != '\0';
	const struct confdir_file *f = named ? find_named(d, o->conf_name) : first_usable(d, o);

	if (f == NULL && named)
		return err_set(err, ENOENT, "waiting for %s to appear", o->conf_name);
	if (f == NULL)
		return err_set(err, ENOENT,
			       "waiting for the configuration of the network that pods get: there "
			       "is no usable .conf or .conflist of another program");
	if (!is_usable(f))
		return err_set(err, EINVAL, "%s: %.400s", f->name, f->err.msg);
	p->primary = f;
	return 0;
}

static int choose_chained(const struct confdir *d, struct plan *p, struct err *err)
{
	const struct confdir_file *in_the_way;

	p->mode = p->primary->mode;
	if (p->primary->c.kind == CNICONF_LIST) {
		p->target = xstrdup(p->primary->name);
		return 0;
	}
	p->target = cniconf_list_name(p->primary->name);
	in_the_way = confdir_find(d, p->target);
	if (in_the_way != NULL &&
	    (!is_usable(in_the_way) || in_the_way->c.place != CNICONF_WRAPPED))
		return err_set(
			err, EEXIST,
			"%s cannot be made into a list: %s is there and not ours. Remove one "
			"of them, or use --install-cni=owned",
			p->primary->name, p->target);
	p->wrap = true;
	return 0;
}

static int choose_owned(const struct confdir *d, const struct plan_opts *o, struct plan *p,
			struct err *err)
{
	const struct confdir_file *at;
	const char *name = o->owned_name[0] != '\0' ? o->owned_name : PLAN_OWNED_NAME;

	for (size_t i = 0; o->owned_name[0] == '\0' && i < d->n; i++)
		if (is_usable(&d->files[i]) && !is_own(&d->files[i], o) &&
		    strcmp(d->files[i].name, PLAN_OWNED_NAME) <= 0)
			name = PLAN_OWNED_NAME_FIRST;
	p->target = xstrdup(name);
	p->mode = PLAN_OWNED_MODE;
	at = confdir_find(d, name);
	if (at != NULL && is_usable(at) && !is_own(at, o))
		return err_set(err, EEXIST,
			       "%s is a configuration of another program: choose another name with "
			       "--cni-owned-conf-name",
			       name);
	return 0;
}

/* What a runtime finds before it comes to our file. */
static void look_before(const struct confdir *d, struct plan *p)
{
	for (size_t i = 0; i < d->n && strcmp(d->files[i].name, p->target) < 0; i++) {
		const struct confdir_file *f = &d->files[i];

		if ((p->wrap && f == p->primary) || plan_is_stale(p, f))
			continue;
		if (is_usable(f)) {
			p->preempted = true;
			(void)snprintf(p->warning, sizeof(p->warning),
				       "%s sorts before %s and is used instead: pods are started "
				       "without the mesh. %s",
				       f->name, p->target,
				       f->c.kind == CNICONF_JSON
					       ? "Give it the ending .conf or .conflist"
					       : "Remove it, or choose names accordingly");
			return;
		}
		if (p->warning[0] == '\0')
			(void)snprintf(p->warning, sizeof(p->warning),
				       "%s sorts before %s and is skipped: %.300s. A runtime that "
				       "is less strict would start pods without the mesh",
				       f->name, p->target, f->err.msg);
	}
}

int plan_make(const struct confdir *d, const struct plan_opts *o, struct plan *ret, struct err *err)
{
	const struct confdir_file *now;
	int r;

	*ret = (struct plan){.replace_stock = o->replace_stock};
	r = choose_primary(d, o, ret, err);
	if (r == 0)
		r = o->owned ? choose_owned(d, o, ret, err) : choose_chained(d, ret, err);
	if (r < 0)
		return r;
	r = cniconf_add(&ret->primary->c, o->owned ? CNICONF_OWNED : CNICONF_CHAINED, &o->entry,
			o->replace_stock, &ret->text, err);
	if (r < 0)
		return err_wrap(err, "%s", ret->primary->name);
	now = confdir_find(d, ret->target);
	ret->write = now == NULL || !is_usable(now) ||
		     !str_eq(now->c.text, (struct str){ret->text.p, ret->text.n});
	look_before(d, ret);
	return 0;
}

void plan_fini(struct plan *p)
{
	free(p->target);
	strbuf_fini(&p->text);
	*p = (struct plan){0};
}

bool plan_is_stale(const struct plan *p, const struct confdir_file *f)
{
	return strcmp(f->name, p->target) != 0 && ((is_usable(f) && f->c.place == CNICONF_OWNED) ||
						   (p->replace_stock && is_stock_copy(f)));
}
