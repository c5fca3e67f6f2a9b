/* SPDX-License-Identifier: Apache-2.0
 * kube_conn.c: see kube_conn.h.
 */
#include "lib/kube/kube_conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/os/clock.h"
#include "lib/os/fd.h"
#include "lib/wire/tls_client.h"
#include "lib/kube/kubeconfig.h"

#define FIRST_PAUSE_MS 100
#define MAX_PAUSE_MS   30000
#define STEADY_MS      1000  /* one that was up for so long starts the pauses anew */
#define TOKEN_AGE_MS   60000 /* the kubelet replaces a token when 80 % of its life is over */
#define FILE_MAX       (1u << 20)
#define TOKEN_MAX      (64u << 10)

struct kube_conn {
	struct loop *loop;
	const struct kubeconfig *cfg;
	const char *program;
	const struct kube_conn_ops *ops;
	void *ctx;
	char *where;
	struct https_client *client;
	unsigned int failures;
	uint64_t up_ms; /* since when it is up; 0: it is not */
	struct timer again;
	struct ready reset;  /* drop the connection, not from inside of it */
	char *authorization; /* "Bearer ..."; secret; NULL: none */
	uint64_t token_read_ms;
	bool token_refused;
};

static void wipe(char **s)
{
	if (*s != NULL)
		explicit_bzero(*s, strlen(*s));
	free(*s);
	*s = NULL;
}

static int set_token(struct kube_conn *c, struct str token, struct err *err)
{
	token = str_trim(token);
	while (token.n != 0 && (token.p[token.n - 1] == '\n' || token.p[token.n - 1] == '\r'))
		token.n--;
	if (token.n == 0)
		return err_set(err, EINVAL, "empty token");
	for (size_t i = 0; i < token.n; i++)
		if (token.p[i] <= ' ' || token.p[i] >= 127)
			return err_set(err, EINVAL, "expected one token and nothing else");
	wipe(&c->authorization);
	c->authorization = xasprintf("Bearer %.*s", STR_FMT(token));
	return 0;
}

static void refresh_token(struct kube_conn *c)
{
	struct str inline_token = str_of(c->cfg->token);
	const char *file = c->cfg->token_file;
	char *text = NULL;
	struct err err = {0};
	size_t n = 0;
	int r;

	if (file == NULL) {
		if (inline_token.n != 0 && c->authorization == NULL &&
		    set_token(c, inline_token, &err) < 0)
			log_error("kube", "token: %s", err.msg);
		return;
	}
	if (c->authorization != NULL && !c->token_refused &&
	    loop_now_ms(c->loop) - c->token_read_ms < TOKEN_AGE_MS)
		return;
	r = file_read(file, TOKEN_MAX, &text, &n, &err);
	if (r == 0 && (r = set_token(c, (struct str){text, n}, &err)) < 0)
		(void)err_wrap(&err, "%s", file);
	if (text != NULL)
		explicit_bzero(text, n);
	free(text);
	if (r < 0) {
		log_limited(LOG_LV_WARN, "kube", "%s; %s", err.msg,
			    c->authorization != NULL ? "the last token stays in use"
						     : "going on without a token");
		return;
	}
	c->token_refused = false;
	c->token_read_ms = loop_now_ms(c->loop);
}

/* --- certificates --- */

static int load(const char *pem, const char *file, char **ret_own, struct str *ret, struct err *err)
{
	size_t n;
	int r;

	*ret = str_of(pem);
	if (file == NULL)
		return 0;
	r = file_read(file, FILE_MAX, ret_own, &n, err);
	if (r == 0)
		*ret = (struct str){*ret_own, n};
	return r;
}

static struct tls_client_ctx *load_tls(const struct kubeconfig *k, struct err *err)
{
	_cleanup_free_ char *ca = NULL, *cert = NULL;
	struct tls_client_config cfg = {.insecure = k->insecure};
	struct tls_client_ctx *tls = NULL;
	char *key = NULL;

	if (load(k->ca_pem, k->ca_file, &ca, &cfg.ca_pem, err) == 0 &&
	    load(k->cert_pem, k->cert_file, &cert, &cfg.cert_pem, err) == 0 &&
	    load(k->key_pem, k->key_file, &key, &cfg.key_pem, err) == 0)
		tls = tls_client_ctx_new(&cfg, err);
	if (key != NULL)
		explicit_bzero(key, cfg.key_pem.n);
	free(key);
	return tls;
}

/* --- the connection --- */

static void on_again(struct timer *t);

static void again(struct kube_conn *c)
{
	c->failures++;
	loop_timer_set(c->loop, &c->again,
		       https_backoff_ms(c->failures, FIRST_PAUSE_MS, MAX_PAUSE_MS, rand_u64()),
		       on_again);
}

static void on_up(void *ctx)
{
	struct kube_conn *c = ctx;

	log_debug("kube", "connected server=%s", c->where);
	c->up_ms = loop_now_ms(c->loop);
	c->ops->up(c->ctx);
}

static void on_down(void *ctx, const struct err *why)
{
	struct kube_conn *c = ctx;

	c->client = https_client_free(c->client);
	if (c->up_ms != 0 && loop_now_ms(c->loop) - c->up_ms >= STEADY_MS)
		c->failures = 0;
	c->up_ms = 0;
	again(c);
	c->ops->down(c->ctx, why);
}

static const struct https_client_ops client_ops = {.up = on_up, .down = on_down};

static void dial(struct kube_conn *c)
{
	const struct kubeconfig *k = c->cfg;
	struct err err = {0};
	struct tls_client_ctx *tls = load_tls(k, &err);
	struct https_config cfg = {
		.host = k->host, .port = k->port, .server_name = k->server_name, .tls = tls};

	if (tls != NULL)
		c->client = https_client_new(c->loop, &cfg, &client_ops, c, &err);
	(void)tls_client_ctx_free(tls);
	if (c->client != NULL)
		return;
	again(c);
	c->ops->down(c->ctx, &err);
}

static void on_again(struct timer *t)
{
	dial(container_of(t, struct kube_conn, again));
}

int kube_conn_config(const char *path, struct kubeconfig *ret, struct err *err)
{
	_cleanup_free_ char *dir = xstrdup(path);
	char *slash = strrchr(dir, '/'), *text = NULL;
	size_t n = 0;
	int r = file_read(path, FILE_MAX, &text, &n, err);

	if (r < 0)
		return r;
	if (slash != NULL)
		*slash = '\0';
	r = kubeconfig_parse((struct str){text, n}, NULL, slash != NULL ? dir : ".", ret, err);
	explicit_bzero(text, n);
	free(text);
	return r < 0 ? err_wrap(err, "%s", path) : 0;
}

struct kube_conn *kube_conn_new(struct loop *l, const struct kubeconfig *k, const char *program,
				const struct kube_conn_ops *ops, void *ctx)
{
	struct kube_conn *c = xcalloc(1, sizeof(*c));

	*c = (struct kube_conn){.loop = l, .cfg = k, .program = program, .ops = ops, .ctx = ctx};
	c->where = xasprintf(strchr(k->host, ':') != NULL ? "https://[%s]:%u%s" : "https://%s:%u%s",
			     k->host, k->port, k->prefix);
	loop_timer_set(l, &c->again, 0, on_again);
	return c;
}

struct kube_conn *kube_conn_free(struct kube_conn *c)
{
	if (c == NULL)
		return NULL;
	loop_timer_cancel(&c->again);
	loop_ready_cancel(&c->reset);
	c->client = https_client_free(c->client);
	wipe(&c->authorization);
	free(c->where);
	free(c);
	return NULL;
}

bool kube_conn_usable(const struct kube_conn *c)
{
	return https_client_usable(c->client);
}

int kube_conn_request(struct kube_conn *c, struct https_req *r, const char *method,
		      const char *path, const char *content_type, struct str body,
		      uint64_t deadline_ms, const struct https_req_ops *ops, struct err *err)
{
	struct h2_field f[4] = {{STR("accept"), STR("application/json")},
				{STR("user-agent"), str_of(c->program)}};
	struct https_call call = {.method = method,
				  .path = path,
				  .field = f,
				  .nfields = 2,
				  .body = body,
				  .deadline_ms = deadline_ms};

	refresh_token(c);
	if (c->authorization != NULL)
		f[call.nfields++] =
			(struct h2_field){STR("authorization"), str_of(c->authorization)};
	if (content_type != NULL)
		f[call.nfields++] = (struct h2_field){STR("content-type"), str_of(content_type)};
	return https_request(c->client, r, &call, ops, err);
}

void kube_conn_proved(struct kube_conn *c)
{
	c->failures = 0;
}

static void on_reset(struct ready *r)
{
	struct kube_conn *c = container_of(r, struct kube_conn, reset);
	struct err why = {0};

	if (c->client == NULL)
		return;
	(void)err_set(&why, EACCES, "connecting again with the client certificate as it is now");
	c->client = https_client_free(c->client);
	again(c);
	c->ops->down(c->ctx, &why);
}

void kube_conn_refused(struct kube_conn *c)
{
	c->token_refused = true;
	if (c->cfg->cert_file == NULL)
		return;
	c->reset.fn = on_reset;
	loop_ready(c->loop, &c->reset);
}

const char *kube_conn_where(const struct kube_conn *c)
{
	return c->where;
}

const char *kube_conn_prefix(const struct kube_conn *c)
{
	return c->cfg->prefix;
}
