/* SPDX-License-Identifier: Apache-2.0
 * istiod.c: see istiod.h.
 */
#include "ztunnel/control/istiod.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/os/fd.h"
#include "lib/wire/tls_client.h"

#define DEFAULT_PORT 15012
/* istiod refuses pings that come more often than every 15 s. */
#define PING_MS	    30000
#define ROOTS_BYTES (1u << 20)
#define HEADERS_MAX 16

void istiod_config_fini(struct istiod_config *c)
{
	free(c->host);
	free(c->alt_name);
	free(c->root_ca);
	free(c->token);
	free(c->cluster);
	for (size_t i = 0; i < c->nheaders; i++) {
		free(c->header[i].name);
		free(c->header[i].value);
	}
	free(c->header);
	*c = (struct istiod_config){0};
}

int istiod_address(struct istiod_config *c, struct str text, struct err *err)
{
	struct str s = text, host, port;
	struct str scheme = STR("https://");

	if (str_has_prefix(s, scheme)) {
		s.p += scheme.n;
		s.n -= scheme.n;
	} else if (memmem(s.p, s.n, "://", 3) != NULL) {
		return err_set(err, EINVAL, "only https:// is spoken");
	}
	if (str_has_suffix(s, STR("/")))
		s.n--;
	c->port = DEFAULT_PORT;
	host = s;
	if (s.n != 0 && s.p[0] == '[') { /* [v6]:port */
		port = (struct str){s.p + 1, s.n - 1};
		if (!str_cut(&port, ']', &host) || (port.n != 0 && port.p[0] != ':'))
			return err_set(err, EINVAL, "expected https://host:port");
		if (port.n != 0) {
			port.p++;
			port.n--;
			if (parse_u16(port, 1, UINT16_MAX, &c->port) != 0)
				return err_set(err, EINVAL, "%s is not a port", str_shown(port));
		}
	} else {
		port = s;
		if (str_cut(&port, ':', &host) && parse_u16(port, 1, UINT16_MAX, &c->port) != 0)
			return err_set(err, EINVAL, "%s is not a port", str_shown(port));
	}
	if (host.n == 0)
		return err_set(err, EINVAL, "expected https://host:port");
	for (size_t i = 0; i < host.n; i++)
		if (host.p[i] <= ' ' || host.p[i] > '~' || host.p[i] == '/' || host.p[i] == '@')
			return err_set(err, EINVAL, "%s is not a host", str_shown(host));
	free(c->host);
	c->host = xstrndup(host.p, host.n);
	return 0;
}

/* Printable ASCII, no blank at the ends (RFC 9110 5.5). */
static bool is_value(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((unsigned char)s.p[i] < 0x20 || (unsigned char)s.p[i] > 0x7e)
			return false;
	return str_trim(s).n == s.n;
}

int istiod_header(struct istiod_config *c, struct str name, struct str value, struct err *err)
{
	static const char *const ours[] = {"authorization", "clusterid", "content-type", "te",
					   "user-agent",    "host",	 "connection"};
	struct istiod_header h;
	bool ok = name.n != 0 && name.n <= 128 && is_value(value) && value.n <= 4096 &&
		  !str_has_prefix(name, STR("grpc-"));

	if (c->nheaders == HEADERS_MAX)
		return err_set(err, EINVAL, "more than %d headers", HEADERS_MAX);
	h.name = xstrndup(name.p, name.n);
	for (size_t i = 0; i < name.n; i++) {
		char ch = name.p[i];

		if (ch >= 'A' && ch <= 'Z')
			h.name[i] = (char)(ch - 'A' + 'a');
		else if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || ch == '-' ||
			   ch == '_' || ch == '.'))
			ok = false;
	}
	for (size_t i = 0; i < ARRAY_LEN(ours); i++)
		ok = ok && strcmp(h.name, ours[i]) != 0;
	if (!ok) {
		free(h.name);
		return err_set(err, EINVAL, "not a header that may be sent");
	}
	h.value = xstrndup(value.p, value.n);
	c->header = xrealloc_array(c->header, c->nheaders + 1, sizeof(*c->header));
	c->header[c->nheaders++] = h;
	return 0;
}

char *istiod_roots(const struct istiod_config *c, struct err *err)
{
	char *pem = NULL;
	size_t n;

	if (strcmp(c->root_ca, "SYSTEM") == 0)
		return xstrdup("");
	if (strstr(c->root_ca, "-----BEGIN") != NULL)
		return xstrdup(c->root_ca);
	if (file_read(c->root_ca, ROOTS_BYTES, &pem, &n, err) != 0) {
		(void)err_wrap(err, "root certificates");
		return NULL;
	}
	if (strlen(pem) != n || n == 0) {
		(void)err_set(err, EINVAL, "root certificates: %s is %s", c->root_ca,
			      n == 0 ? "empty" : "no text");
		free(pem);
		return NULL;
	}
	return pem;
}

struct https_client *istiod_connect(struct loop *l, const struct istiod_config *c,
				    const char *roots, const struct https_client_ops *ops,
				    void *ctx, struct err *err)
{
	struct tls_client_config tc = {.ca_pem = str_of(roots), .tls13 = true};
	struct tls_client_ctx *tls = tls_client_ctx_new(&tc, err);
	struct https_config hc = {.host = c->host,
				  .port = c->port,
				  .alt_name = c->alt_name,
				  .tls = tls,
				  .ping_ms = PING_MS};
	struct https_client *client = NULL;

	if (tls != NULL)
		client = https_client_new(l, &hc, ops, ctx, err);
	(void)tls_client_ctx_free(tls);
	return client;
}

/* "Bearer ..." or NULL without an error: none is wanted. */
static int read_token(const struct istiod_config *c, char **ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	struct str t;
	size_t n;
	int r = 0;

	if (c->token == NULL)
		return 0;
	if (strchr(c->token, '/') == NULL) {
		*ret = xasprintf("Bearer %s", c->token);
		return 0;
	}
	if (c->token_optional && access(c->token, F_OK) != 0)
		return 0;
	if (file_read(c->token, LIMIT_TOKEN_BYTES, &text, &n, err) != 0)
		return err_wrap(err, "token");
	t = (struct str){text, n};
	while (t.n != 0 && (t.p[t.n - 1] == '\n' || t.p[t.n - 1] == '\r' || t.p[t.n - 1] == ' '))
		t.n--; /* stock takes the line end into the header, and is refused */
	if (t.n == 0)
		r = err_set(err, EINVAL, "token: %s is empty", c->token);
	else if (!is_value(t))
		r = err_set(err, EINVAL, "token: %s holds what no header may", c->token);
	else
		*ret = xasprintf("Bearer %.*s", STR_FMT(t));
	explicit_bzero(text, n);
	return r;
}

int istiod_metadata(const struct istiod_config *c, struct istiod_metadata *m, struct err *err)
{
	int r;

	*m = (struct istiod_metadata){0};
	r = read_token(c, &m->authorization, err);
	if (r != 0)
		return r;
	if (m->authorization != NULL)
		m->field[m->n++] =
			(struct h2_field){STR("authorization"), str_of(m->authorization)};
	m->field[m->n++] = (struct h2_field){STR("clusterid"), str_of(c->cluster)};
	for (size_t i = 0; i < c->nheaders; i++)
		m->field[m->n++] =
			(struct h2_field){str_of(c->header[i].name), str_of(c->header[i].value)};
	return 0;
}

void istiod_metadata_fini(struct istiod_metadata *m)
{
	if (m->authorization != NULL)
		explicit_bzero(m->authorization, strlen(m->authorization));
	free(m->authorization);
	*m = (struct istiod_metadata){0};
}

const char *istiod_hint(enum grpc_code code)
{
	if (code == GRPC_UNAUTHENTICATED)
		return " (the token, its audience, or no pod of that identity on this node: "
		       "istiod's log has the reason)";
	if (code == GRPC_PERMISSION_DENIED)
		return " (CA_TRUSTED_NODE_ACCOUNTS of istiod must name our service account)";
	if (code == GRPC_UNIMPLEMENTED)
		return " (is this address an istiod's?)";
	return "";
}
