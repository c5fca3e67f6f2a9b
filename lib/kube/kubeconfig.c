/* SPDX-License-Identifier: Apache-2.0
 * kubeconfig.c: see kubeconfig.h.
 */
#include "lib/kube/kubeconfig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/base64.h"
#include "lib/format/ip.h"
#include "lib/format/yaml.h"

static void wipe(char **s)
{
	if (*s != NULL)
		explicit_bzero(*s, strlen(*s));
	free(*s);
	*s = NULL;
}

void kubeconfig_fini(struct kubeconfig *k)
{
	free(k->host);
	free(k->prefix);
	free(k->server_name);
	free(k->ca_file);
	free(k->ca_pem);
	free(k->cert_file);
	free(k->cert_pem);
	free(k->key_file);
	wipe(&k->key_pem);
	wipe(&k->token);
	free(k->token_file);
	*k = (struct kubeconfig){0};
}

/* --- single fields; an empty text means absent, as for kubectl --- */

static int text(const struct doc *map, const char *key, char **ret, struct err *err)
{
	struct str s = {0};
	int r = doc_opt_text(map, key, &s, err);

	if (r < 0 || s.n == 0)
		return r;
	if (memchr(s.p, '\0', s.n) != NULL)
		return doc_err(doc_get(map, key), err, "text with a NUL character");
	free(*ret);
	*ret = xstrndup(s.p, s.n);
	return 0;
}

static int path(const struct doc *map, const char *key, const char *dir, char **ret,
		struct err *err)
{
	_cleanup_free_ char *name = NULL;
	int r = text(map, key, &name, err);

	if (r < 0 || name == NULL)
		return r;
	free(*ret);
	*ret = name[0] == '/' ? take_ptr(name) : xasprintf("%s/%s", dir, name);
	return 0;
}

static int data(const struct doc *map, const char *key, char **ret, struct err *err)
{
	struct str s = {0};
	char *out;
	size_t n;
	int r = doc_opt_text(map, key, &s, err);

	if (r < 0 || s.n == 0)
		return r;
	out = xmalloc(BASE64_DECODED_MAX(s.n) + 1);
	if (base64_decode(s, out, &n) < 0 || n == 0 || memchr(out, '\0', n) != NULL) {
		free(out);
		return doc_err(doc_get(map, key), err, "expected PEM text in base64");
	}
	out[n] = '\0';
	wipe(ret);
	*ret = out;
	return 0;
}

/* A file and the same thing inline: the inline one wins, as for kubectl. */
static int file_or_data(const struct doc *map, const char *file_key, const char *data_key,
			const char *dir, char **ret_file, char **ret_data, struct err *err)
{
	int r = data(map, data_key, ret_data, err);

	if (r < 0 || *ret_data != NULL)
		return r;
	return path(map, file_key, dir, ret_file, err);
}

static int refuse(const struct doc *map, const char *key, const char *why, struct err *err)
{
	const struct doc *d = doc_get(map, key);

	if (d == NULL || d->kind == DOC_NULL || (d->kind == DOC_TEXT && d->text.n == 0))
		return 0;
	return doc_err(d, err, "%s", why);
}

/* --- the server's URL --- */

static bool host_ok(struct str h)
{
	struct ip_addr ip;

	if (h.n == 0 || h.n > 253)
		return false;
	if (ip_parse(h, &ip) == 0)
		return true;
	for (size_t i = 0; i < h.n; i++) {
		char c = h.p[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      (i != 0 && (c == '-' || c == '.'))))
			return false;
	}
	return true;
}

static bool prefix_ok(struct str p)
{
	for (size_t i = 0; i < p.n; i++)
		if (p.p[i] <= ' ' || p.p[i] >= 127 || p.p[i] == '?' || p.p[i] == '#')
			return false;
	return p.n <= 1024;
}

static struct str from(struct str s, size_t at)
{
	return (struct str){s.p + at, s.n - at};
}

/* "host", "host:port", "[v6]:port"; false when it is none of them. */
static bool split_authority(struct str a, struct str *host, uint16_t *port)
{
	const char *colon;
	size_t n;

	*port = 443;
	if (a.n != 0 && a.p[0] == '[') {
		const char *end = memchr(a.p, ']', a.n);

		if (end == NULL)
			return false;
		*host = (struct str){a.p + 1, (size_t)(end - a.p) - 1};
		a = from(a, (size_t)(end - a.p) + 1);
		return a.n == 0 || (a.p[0] == ':' && parse_u16(from(a, 1), 1, 65535, port) == 0);
	}
	colon = a.n != 0 ? memchr(a.p, ':', a.n) : NULL;
	n = colon != NULL ? (size_t)(colon - a.p) : a.n;
	*host = (struct str){a.p, n};
	return colon == NULL || parse_u16(from(a, n + 1), 1, 65535, port) == 0;
}

static int server(const struct doc *cluster, struct kubeconfig *k, struct err *err)
{
	const struct doc *at = doc_get(cluster, "server");
	struct str url, host, rest;
	const char *slash;
	int r = doc_need_text(cluster, "server", &url, err);

	if (r < 0)
		return r;
	if (str_has_prefix(url, STR("http://")))
		return doc_err(at, err,
			       "expected https://, plain HTTP to the API server is not "
			       "supported");
	if (!str_has_prefix(url, STR("https://")))
		return doc_err(at, err, "expected https://host[:port], got %s", str_shown(url));
	rest = from(url, 8);
	slash = rest.n != 0 ? memchr(rest.p, '/', rest.n) : NULL;
	if (slash != NULL) {
		struct str p = from(rest, (size_t)(slash - rest.p));

		rest.n -= p.n;
		while (p.n != 0 && p.p[p.n - 1] == '/')
			p.n--;
		if (!prefix_ok(p))
			return doc_err(at, err, "path of the URL: got %s", str_shown(p));
		k->prefix = xstrndup(p.p, p.n);
	} else {
		k->prefix = xstrdup("");
	}
	if (!split_authority(rest, &host, &k->port) || !host_ok(host))
		return doc_err(at, err, "expected https://host[:port], got %s", str_shown(url));
	k->host = xstrndup(host.p, host.n);
	return 0;
}

/* --- the three lists --- */

/* The entry of list @key with that name; the map under @inner in *ret. */
static int named(const struct doc *root, const char *key, const char *inner, struct str name,
		 const struct doc **ret, struct err *err)
{
	const struct doc *list = NULL;
	int r = doc_opt_list(root, key, &list, err);

	if (r < 0)
		return r;
	for (const struct doc *d = list != NULL ? list->child : NULL; d != NULL; d = d->next) {
		struct str n;

		if ((r = doc_map(d, err)) < 0 || (r = doc_need_text(d, "name", &n, err)) < 0)
			return r;
		if (!str_eq(n, name))
			continue;
		*ret = NULL;
		r = doc_opt_map(d, inner, ret, err);
		if (r == 0 && *ret == NULL)
			r = doc_err(d, err, "expected a map called %s", inner);
		return r;
	}
	return doc_err(root, err, "%s: there is none called %s", key, str_shown(name));
}

static int read_cluster(const struct doc *c, const char *dir, struct kubeconfig *k, struct err *err)
{
	int r = server(c, k, err);

	if (r < 0 ||
	    (r = file_or_data(c, "certificate-authority", "certificate-authority-data", dir,
			      &k->ca_file, &k->ca_pem, err)) < 0 ||
	    (r = doc_opt_bool(c, "insecure-skip-tls-verify", &k->insecure, err)) < 0 ||
	    (r = text(c, "tls-server-name", &k->server_name, err)) < 0)
		return r;
	if (k->server_name != NULL && !host_ok(str_of(k->server_name)))
		return doc_err(doc_get(c, "tls-server-name"), err, "expected a host name, got %s",
			       str_shown(str_of(k->server_name)));
	if (k->insecure && (k->ca_file != NULL || k->ca_pem != NULL))
		return doc_err(doc_get(c, "insecure-skip-tls-verify"), err,
			       "not together with a certificate-authority");
	return refuse(c, "proxy-url",
		      "proxies are not supported: remove it, and give a server "
		      "that can be reached directly",
		      err);
}

static int read_user(const struct doc *u, const char *dir, struct kubeconfig *k, struct err *err)
{
	static const char programs[] =
		"the agent never starts a program: use token, tokenFile or client-certificate";
	static const char gone[] = "not supported by Kubernetes any more: use token, tokenFile or "
				   "client-certificate";
	static const char acting[] = "acting as somebody else is not supported";
	const struct {
		const char *key, *why;
	} refused[] = {{"exec", programs},    {"auth-provider", programs},
		       {"username", gone},    {"password", gone},
		       {"as", acting},	      {"as-uid", acting},
		       {"as-groups", acting}, {"as-user-extra", acting}};
	int r;

	for (size_t i = 0; i < ARRAY_LEN(refused); i++)
		if ((r = refuse(u, refused[i].key, refused[i].why, err)) < 0)
			return r;
	if ((r = file_or_data(u, "client-certificate", "client-certificate-data", dir,
			      &k->cert_file, &k->cert_pem, err)) < 0 ||
	    (r = file_or_data(u, "client-key", "client-key-data", dir, &k->key_file, &k->key_pem,
			      err)) < 0 ||
	    (r = path(u, "tokenFile", dir, &k->token_file, err)) < 0)
		return r;
	if (k->token_file == NULL && (r = text(u, "token", &k->token, err)) < 0)
		return r;
	if ((k->cert_file != NULL || k->cert_pem != NULL) !=
	    (k->key_file != NULL || k->key_pem != NULL))
		return doc_err(u, err, "client-certificate and client-key belong together");
	if (k->token == NULL && k->token_file == NULL && k->cert_file == NULL &&
	    k->cert_pem == NULL)
		return doc_err(u, err,
			       "expected token, tokenFile or client-certificate with "
			       "client-key");
	for (const char *c = k->token; c != NULL && *c != '\0'; c++)
		if (*c <= ' ' || *c >= 127)
			return doc_err(doc_get(u, "token"), err,
				       "expected printable characters without blanks");
	return 0;
}

static int read_root(const struct doc *root, const char *context, const char *dir,
		     struct kubeconfig *k, struct err *err)
{
	const struct doc *ctx, *cluster, *user;
	struct str name = str_of(context), cluster_name, user_name;
	int r = doc_map(root, err);

	if (r < 0 ||
	    (context == NULL && (r = doc_need_text(root, "current-context", &name, err)) < 0))
		return r;
	if ((r = named(root, "contexts", "context", name, &ctx, err)) < 0 ||
	    (r = doc_need_text(ctx, "cluster", &cluster_name, err)) < 0 ||
	    (r = doc_need_text(ctx, "user", &user_name, err)) < 0 ||
	    (r = named(root, "clusters", "cluster", cluster_name, &cluster, err)) < 0 ||
	    (r = named(root, "users", "user", user_name, &user, err)) < 0 ||
	    (r = read_cluster(cluster, dir, k, err)) < 0)
		return r;
	return read_user(user, dir, k, err);
}

int kubeconfig_parse(struct str in, const char *context, const char *dir, struct kubeconfig *ret,
		     struct err *err)
{
	struct kubeconfig k = {0};
	struct arena *a = arena_new();
	const struct doc *root;
	int r = yaml_parse(in, a, &root, err);

	if (r == 0)
		r = read_root(root, context, dir, &k, err);
	(void)arena_free(a);
	if (r < 0) {
		kubeconfig_fini(&k);
		return r;
	}
	*ret = k;
	return 0;
}

int kubeconfig_in_cluster(const char *host, const char *port, const char *dir,
			  struct kubeconfig *ret, struct err *err)
{
	struct kubeconfig k = {0};

	if (!host_ok(str_of(host)))
		return err_set(err, EINVAL,
			       "KUBERNETES_SERVICE_HOST=%s: expected a name or an "
			       "address",
			       str_shown(str_of(host)));
	if (parse_u16(str_of(port), 1, 65535, &k.port) < 0)
		return err_set(err, EINVAL, "KUBERNETES_SERVICE_PORT=%s: expected a port",
			       str_shown(str_of(port)));
	k.host = xstrdup(host);
	k.prefix = xstrdup("");
	k.ca_file = xasprintf("%s/ca.crt", dir);
	k.token_file = xasprintf("%s/token", dir);
	*ret = k;
	return 0;
}

int kubeconfig_fuzz(const uint8_t *p, size_t n)
{
	struct kubeconfig k = {0};
	struct err err = {0};
	int r = kubeconfig_parse((struct str){(const char *)p, n}, NULL, "/d", &k, &err);

	bug_on(r < 0 && (err.msg[0] == '\0' || k.host != NULL));
	bug_on(r == 0 && (k.host == NULL || k.port == 0 || k.prefix == NULL ||
			  (k.ca_file != NULL && k.ca_pem != NULL) ||
			  (k.token != NULL && k.token_file != NULL)));
	kubeconfig_fini(&k);
	return 0;
}
