/* SPDX-License-Identifier: Apache-2.0
 * ztunnel.c: what serve/zds.c asks about pods: snapshots, descriptors, sockets that come back.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/os/fd.h"
#include "lib/wire/zds.h"
#include "node-agent/enrol/enrol_internal.h"

static void zds_each(void *ctx, void (*fn)(void *, const char *), void *arg)
{
	struct enrol *e = ctx;

	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		if ((x->wanted || x->lingering) && x->rules)
			fn(arg, x->at.uid);
	}
}

static enum zds_describe zds_describe(void *ctx, const char *uid, uint32_t version, bool dns,
				      struct zds_pod *ret)
{
	struct enrolment *x = enrolment_find_uid(ctx, uid);
	struct err err = {0};

	if (x == NULL || !(x->wanted || x->lingering))
		return ZDS_POD_GONE;
	x->announced = true;
	if (x->at.service_account == NULL || enrolment_open_netns(x, &err) < 0)
		return ZDS_POD_KEEP;
	x->await_held = false;
	if (version < ZDS_V2_CUSTODY)
		custody_close(&x->custody, x->at.uid);
	else if (custody_open(&x->custody, x->at.uid, x->netns_fd, dns && x->opts.dns_capture,
			      &err) < 0)
		log_warn("enrol", "no custody " ENROL_POD ": %s", ENROL_ARGS(x), err.msg);
	*ret = (struct zds_pod){
		.uid = x->at.uid,
		.name = x->at.name,
		.ns = x->at.ns,
		.sa = x->at.service_account,
		.netns_fd = x->netns_fd,
		.listeners = x->custody.held ? x->custody.fds : NULL,
		.dns = dns && x->custody.dns_held ? x->custody.dns : NULL,
		.dns_not_captured = !x->opts.dns_capture,
		.credential = vault_get(x->owner->vault, x->at.ns, x->at.service_account)};
	return ZDS_POD_ADD;
}

/* Answers of a snapshot: they finish what was pending. */
static void zds_acked(void *ctx, const char *uid, const char *error)
{
	struct enrolment *x = enrolment_find_uid(ctx, uid);

	if (x != NULL && x->add.peer != NULL)
		x->refused = x->refused || error[0] != '\0'; /* the one that is asked decides */
	else if (x == NULL || !x->wanted || !x->prepared || x->passing || x->netns_fd < 0)
		return;
	else if (error[0] != '\0')
		enrolment_refused(x, error);
	else if (x->state == ENROL_PENDING)
		enrolment_finish(x, "ztunnel took the pod with its snapshot");
}

static void zds_held(void *ctx, const char *uid, int netns_fd, const int *fds,
		     const uint16_t *ports, size_t n)
{
	struct enrolment *x = enrolment_find_uid(ctx, uid);
	struct err err = {0};
	struct netns_id id;

	(void)ports; /* custody_adopt() asks the kernel */
	if (x == NULL || !x->rules || x->custody.held)
		return;
	if (netns_check(netns_fd, &err) < 0 || netns_id_of(netns_fd, &id) < 0 ||
	    !netns_id_eq(id, x->at.id)) {
		log_warn("enrol", "sockets that ztunnel holds are of another namespace " ENROL_POD,
			 ENROL_ARGS(x));
		return;
	}
	if (x->netns_fd < 0)
		x->netns_fd = fd_dup(netns_fd);
	if (x->netns_fd < 0 ||
	    custody_adopt(&x->custody, x->at.uid, x->netns_fd, id, fds, n, &err) < 0) {
		log_warn("enrol", "sockets that ztunnel holds are refused " ENROL_POD ": %s",
			 ENROL_ARGS(x), err.msg);
		return;
	}
	x->await_held = false;
	log_info("enrol", "sockets came back from ztunnel " ENROL_POD, ENROL_ARGS(x));
}

static bool has_pod(void *ctx, const char *ns, const char *sa)
{
	struct enrol *e = ctx;

	list_for_each (n, &e->all) {
		const struct enrolment *x = container_of(n, struct enrolment, node);

		/* whose service account is not known yet may be of any */
		if ((x->wanted || x->rules) && strcmp(x->at.ns, ns) == 0 &&
		    (x->at.service_account == NULL || strcmp(x->at.service_account, sa) == 0))
			return true;
	}
	return false;
}

static void on_prune(struct ready *r)
{
	struct enrol *e = container_of(r, struct enrol, prune_vault);

	vault_prune(e->vault, has_pod, e);
}

void enrol_prune_vault(struct enrol *e)
{
	e->prune_vault.fn = on_prune;
	if (e->started && vault_count(e->vault) != 0)
		loop_ready(e->loop, &e->prune_vault);
}

/* Only of pods that are here: what a peer hands over must not grow beyond them. */
static void zds_credential(void *ctx, const char *identity, int fd)
{
	struct enrol *e = ctx;
	struct err err = {0};
	const char *sa;
	_cleanup_free_ char *ns = vault_whose(fd, &sa, &err);

	if (ns != NULL && !has_pod(e, ns, sa))
		(void)err_set(&err, ENOENT, "no pod of this identity is in the mesh");
	else if (ns != NULL && vault_put(e->vault, fd, &err) == 0)
		return;
	log_limited(LOG_LV_WARN, "vault", "a credential is not kept: %s identity=%s", err.msg,
		    str_shown(str_of(identity)));
}

/* The ztunnel that is there now answers DNS, or does not, other than the one before. */
static bool dns_changed(const struct enrolment *x)
{
	bool served;

	return x->wanted && x->dns_wanted && zds_server_dns(x->owner->zds, &served) &&
	       served != x->opts.dns_capture;
}

static void zds_peers_changed(void *ctx)
{
	struct enrol *e = ctx;

	if (zds_server_version(e->zds) == 0)
		return;
	/* what the peer holds has been read: nothing more comes back */
	list_for_each (n, &e->all) {
		struct enrolment *x = container_of(n, struct enrolment, node);

		x->await_held = false;
		if (x->state == ENROL_FAILED || (x->state == ENROL_PENDING && !x->rules) ||
		    dns_changed(x))
			enrolment_again(x); /* the others are in its snapshot */
	}
}

const struct zds_ops enrol_zds_ops = {
	.each = zds_each,
	.describe = zds_describe,
	.acked = zds_acked,
	.held = zds_held,
	.credential = zds_credential,
	.peers_changed = zds_peers_changed,
};
