/* SPDX-License-Identifier: Apache-2.0
 * config_istiod.c: see config_istiod.h.
 */
#include "ztunnel/config_istiod.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

#define DEFAULT_ROOT  "./var/run/secrets/istio/root-cert.pem"
#define DEFAULT_TOKEN "./var/run/secrets/tokens/istio-token"
#define IN_CLUSTER    "https://istiod.istio-system.svc:15012"
#define META_MAX      256

struct reader {
	struct config_istiod *c;
	const char *(*env)(const char *name);
	struct err *err;
};

static int bad(struct reader *r, const char *name, const char *value)
{
	struct err why = *r->err;

	return err_set(r->err, EINVAL, "invalid env var %s=%s (%s)", name, str_shown(str_of(value)),
		       why.msg);
}

static const char *set_or(struct reader *r, const char *name, const char *def)
{
	const char *v = r->env(name);

	return v != NULL && *v != '\0' ? v : def;
}

/* What one service is reached with; @address NULL or empty: it is not used. */
static int read_service(struct reader *r, struct istiod_config *s, const char *which,
			const char *address, const char *cluster)
{
	_cleanup_free_ char *root = xasprintf("%s_ROOT_CA", which);
	_cleanup_free_ char *alt = xasprintf("ALT_%s_HOSTNAME", which);
	_cleanup_free_ char *name = xasprintf("%s_ADDRESS", which);
	const char *token = r->env("AUTH_TOKEN"), *other = set_or(r, alt, NULL);

	if (address == NULL || *address == '\0')
		return 0;
	if (istiod_address(s, str_of(address), r->err) != 0)
		return bad(r, name, address);
	s->root_ca = xstrdup(set_or(r, root, DEFAULT_ROOT));
	s->alt_name = other != NULL ? xstrdup(other) : NULL;
	s->token_optional = token == NULL;
	if (token == NULL)
		s->token = xstrdup(DEFAULT_TOKEN);
	else if (*token != '\0')
		s->token = xstrdup(token);
	s->cluster = xstrdup(cluster);
	return 0;
}

static int read_addresses(struct reader *r, const char *cluster)
{
	bool in_cluster = r->env("KUBERNETES_SERVICE_HOST") != NULL;
	bool local =
		set_or(r, "LOCAL_XDS_PATH", NULL) != NULL || set_or(r, "LOCAL_XDS", NULL) != NULL;
	const char *xds = r->env("XDS_ADDRESS"), *ca = r->env("CA_ADDRESS");

	if (xds == NULL && in_cluster && !local)
		xds = IN_CLUSTER;
	if (ca == NULL)
		ca = xds; /* one istiod does both; an empty CA_ADDRESS is the development CA */
	if (xds != NULL && *xds != '\0' && local) {
		(void)err_set(r->err, EINVAL,
			      "LOCAL_XDS_PATH or LOCAL_XDS is set too; the mesh "
			      "state comes from one of them");
		return bad(r, "XDS_ADDRESS", xds);
	}
	if (read_service(r, &r->c->xds, "XDS", xds, cluster) != 0)
		return -EINVAL;
	return read_service(r, &r->c->ca, "CA", ca, cluster);
}

static void add_meta(struct config_istiod *c, struct str key, const char *value, bool json)
{
	c->meta = xrealloc_array(c->meta, c->nmeta + 1, sizeof(*c->meta));
	c->meta[c->nmeta++] = (struct xds_meta){xstrndup(key.p, key.n), xstrdup(value), json};
}

static int read_json_meta(struct reader *r, const char *name, struct str key, const char *value)
{
	struct arena *a = arena_new();
	const struct doc *d;
	int rc = json_parse(str_of(value), a, &d, r->err);

	(void)arena_free(a);
	if (rc != 0)
		return bad(r, name, value);
	add_meta(r->c, key, value, true);
	return 0;
}

/* Variables whose names begin with a known prefix. */
static int read_prefixed(struct reader *r, const char *line)
{
	static const char *const prefix[] = {"XDS_HEADER_", "CA_HEADER_", "ISTIO_METAJSON_",
					     "ISTIO_META_"};
	const char *eq = strchr(line, '=');
	struct str name = {line, eq != NULL ? (size_t)(eq - line) : 0}, key;
	_cleanup_free_ char *shown = xstrndup(name.p, name.n);
	size_t i = 0;
	int rc = 0;

	while (i < ARRAY_LEN(prefix) && !str_has_prefix(name, str_of(prefix[i])))
		i++;
	if (eq == NULL || i == ARRAY_LEN(prefix))
		return 0;
	key = (struct str){name.p + strlen(prefix[i]), name.n - strlen(prefix[i])};
	if (i < 2) {
		struct istiod_config *s = i == 0 ? &r->c->xds : &r->c->ca;

		if (s->host != NULL)
			rc = istiod_header(s, key, str_of(eq + 1), r->err);
		return rc == 0 ? 0 : bad(r, shown, "..."); /* it may be a secret */
	}
	if (key.n == 0 || r->c->nmeta == META_MAX || !str_is_utf8(key) ||
	    !str_is_utf8(str_of(eq + 1))) {
		(void)err_set(r->err, EINVAL, "no metadata, or more than %d", META_MAX);
		return bad(r, shown, eq + 1);
	}
	if (i == 2)
		return read_json_meta(r, shown, key, eq + 1);
	add_meta(r->c, key, eq + 1, false);
	return 0;
}

static char *need_text(struct reader *r, const char *name, const char *def)
{
	const char *v = set_or(r, name, def);

	return xstrdup(str_is_utf8(str_of(v)) ? v : def);
}

int config_istiod_load(struct config_istiod *c, const char *(*env)(const char *name),
		       const char *const *all, const char *cluster, struct err *err)
{
	struct reader r = {.c = c, .env = env, .err = err};
	int rc;

	*c = (struct config_istiod){0};
	rc = read_addresses(&r, cluster);
	for (; rc == 0 && all != NULL && *all != NULL; all++)
		rc = read_prefixed(&r, *all);
	c->instance_ip = need_text(&r, "INSTANCE_IP", "1.1.1.1");
	c->pod_name = need_text(&r, "POD_NAME", "");
	c->pod_namespace = need_text(&r, "POD_NAMESPACE", "");
	if (rc != 0)
		config_istiod_free(c);
	return rc;
}

void config_istiod_free(struct config_istiod *c)
{
	istiod_config_fini(&c->xds);
	istiod_config_fini(&c->ca);
	free(c->instance_ip);
	free(c->pod_name);
	free(c->pod_namespace);
	for (size_t i = 0; i < c->nmeta; i++) {
		free(c->meta[i].key);
		free(c->meta[i].value);
	}
	free(c->meta);
	*c = (struct config_istiod){0};
}
