/* SPDX-License-Identifier: Apache-2.0
 * kube_clear.c: see kube_clear.h.
 */
#include "node-agent/source/kube_clear.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/log.h"
#include "lib/event/loop.h"
#include "lib/kube/kube_conn.h"
#include "lib/kube/kubeconfig.h"
#include "node-agent/source/kube.h"
#include "node-agent/source/pods.h"

#define LOOK_MS 20

struct clearing {
	struct loop *loop;
	struct kubeconfig cfg;
	struct kube_conn *conn;
	struct kube_patch *patch;
	struct timer look;
	uint64_t end_ms;
	bool asked;
	struct err why; /* the connection's last error */
};

static enum kube_mesh out(void *ctx, const struct pod *p)
{
	(void)ctx;
	(void)p;
	return KUBE_MESH_OUT;
}

static void on_up(void *ctx)
{
	struct clearing *c = ctx;

	c->asked = true;
	c->why = (struct err){0};
	kube_patch_look_all(c->patch);
}

static void on_down(void *ctx, const struct err *why)
{
	struct clearing *c = ctx;

	c->why = *why;
}

static const struct kube_conn_ops ops = {.up = on_up, .down = on_down};

static void on_look(struct timer *t)
{
	struct clearing *c = container_of(t, struct clearing, look);

	if ((c->asked && kube_patch_waiting(c->patch) == 0) || loop_now_ms(c->loop) >= c->end_ms)
		loop_stop(c->loop);
	else
		loop_timer_set(c->loop, t, LOOK_MS, on_look);
}

static int run(struct clearing *c, struct pods *pods, uint64_t limit_ms, struct err *err)
{
	size_t left;

	c->loop = loop_new();
	c->conn = kube_conn_new(c->loop, &c->cfg, "ambient-agent/" VERSION, &ops, c);
	c->patch = kube_patch_new(c->loop, c->conn, pods, out, NULL);
	c->end_ms = loop_now_ms(c->loop) + limit_ms;
	loop_timer_set(c->loop, &c->look, LOOK_MS, on_look);
	loop_run(c->loop);
	loop_timer_cancel(&c->look);
	left = c->asked ? kube_patch_waiting(c->patch) : pods_count(pods);
	c->patch = kube_patch_free(c->patch);
	c->conn = kube_conn_free(c->conn);
	c->loop = loop_free(c->loop);
	if (left != 0)
		return err_set(err, ETIMEDOUT,
			       "%zu pods keep the annotation ambient.istio.io/redirection%s%s",
			       left, c->why.code != 0 ? ": " : "", c->why.msg);
	return 0;
}

int kube_clear(const struct kube_config *cfg, struct pods *pods, uint64_t limit_ms, struct err *err)
{
	struct clearing c = {0};
	int r = kube_config_read(cfg, &c.cfg, err);

	if (r == 0)
		r = run(&c, pods, limit_ms, err);
	kubeconfig_fini(&c.cfg);
	return r;
}
