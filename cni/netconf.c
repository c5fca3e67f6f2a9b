/* SPDX-License-Identifier: Apache-2.0
 * netconf.c: see netconf.h. Pure.
 */
#include "cni/netconf.h"

#include <assert.h>
#include <stdio.h>

#include "cni/env.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

static const char *const api_name[] = {
	[CNI_AGENT_AMBIENT] = "ambient",
	[CNI_AGENT_ISTIO] = "istio",
};
static_assert(ARRAY_LEN(api_name) == CNI_AGENT_N, "one name per agent api");

static int bad(struct cni_fail *f, const struct err *err)
{
	return cni_fail_set(f, CNI_BAD_CONFIG, "network configuration: %s", err->msg);
}

static int take_version(const struct doc *root, struct netconf *c, struct cni_fail *f)
{
	struct str v = STR("0.1.0"); /* what the specification says about an absent one */
	struct err err = {0};

	if (doc_opt_text(root, "cniVersion", &v, &err) < 0)
		return bad(f, &err);
	c->version = cni_version_parse(v);
	if (c->version != CNI_V_NONE)
		return 0;
	(void)cni_fail_set(f, CNI_INCOMPATIBLE_VERSION, "incompatible CNI version \"%s\"",
			   str_shown(v));
	return cni_fail_details(f,
				"This plugin supports %s. Set cniVersion of the network "
				"configuration list to one of them.",
				cni_version_list());
}

static int take_name(const struct doc *root, struct cni_fail *f)
{
	struct str name = {0};
	struct err err = {0};

	if (doc_opt_text(root, "name", &name, &err) < 0)
		return bad(f, &err);
	if (name.n == 0)
		return cni_fail_set(f, CNI_BAD_CONFIG, "network configuration: name is missing");
	if (!cni_name_ok(name))
		return cni_fail_set(f, CNI_BAD_CONFIG,
				    "network configuration: name \"%s\" is not a letter or digit "
				    "followed by letters, digits, '_', '.' and '-'",
				    str_shown(name));
	return 0;
}

static int take_socket(const struct doc *root, struct netconf *c, struct cni_fail *f)
{
	struct str dir = STR(NETCONF_RUN_DIR), sock = {0};
	const char *key = "agent_socket";
	struct err err = {0};
	int n;

	if (doc_opt_text(root, "cni_agent_run_dir", &dir, &err) < 0 ||
	    doc_opt_text(root, "agent_socket", &sock, &err) < 0)
		return bad(f, &err);
	if (sock.n == 0)
		key = "cni_agent_run_dir";
	if ((sock.n != 0 ? sock : dir).n == 0 || (sock.n != 0 ? sock : dir).p[0] != '/')
		return cni_fail_set(f, CNI_BAD_CONFIG,
				    "network configuration: %s: \"%s\" is not an absolute path",
				    key, str_shown(sock.n != 0 ? sock : dir));
	if (sock.n > NETCONF_SOCKET_MAX || dir.n > NETCONF_SOCKET_MAX)
		n = NETCONF_SOCKET_MAX + 1;
	else if (sock.n != 0)
		n = snprintf(c->socket, sizeof(c->socket), "%.*s", STR_FMT(sock));
	else
		n = snprintf(c->socket, sizeof(c->socket), "%.*s/" NETCONF_SOCKET_NAME,
			     STR_FMT(dir));
	if (n < 0 || n > NETCONF_SOCKET_MAX)
		return cni_fail_set(f, CNI_BAD_CONFIG,
				    "network configuration: %s: the socket's path is longer than "
				    "%d bytes",
				    key, NETCONF_SOCKET_MAX);
	return 0;
}

static int take_timeout(const struct doc *root, struct netconf *c, struct cni_fail *f)
{
	const struct doc *d = doc_get(root, "timeout");

	c->timeout_ms = NETCONF_TIMEOUT_MS;
	if (d == NULL || d->kind == DOC_NULL)
		return 0;
	if ((d->kind == DOC_TEXT || d->kind == DOC_NUMBER) &&
	    parse_duration_ms(d->text, &c->timeout_ms) == 0 &&
	    c->timeout_ms >= NETCONF_TIMEOUT_MIN_MS && c->timeout_ms <= NETCONF_TIMEOUT_MAX_MS)
		return 0;
	return cni_fail_set(f, CNI_BAD_CONFIG,
			    "network configuration: timeout (line %u): expected a duration from "
			    "100ms to 120s such as \"10s\", or whole seconds, got %s",
			    d->line, str_shown(d->raw));
}

static int take_api(const struct doc *root, struct netconf *c, struct cni_fail *f)
{
	struct str v = STR("ambient");
	struct err err = {0};

	if (doc_opt_text(root, "agent_api", &v, &err) < 0)
		return bad(f, &err);
	for (enum cni_agent_api i = 0; i < CNI_AGENT_N; i++) {
		if (str_eqc(v, api_name[i])) {
			c->api = i;
			return 0;
		}
	}
	return cni_fail_set(f, CNI_BAD_CONFIG,
			    "network configuration: agent_api: expected \"ambient\" or \"istio\", "
			    "got \"%s\"",
			    str_shown(v));
}

/* Keys that stock's installer writes (cni-spec 1.2). Eligibility is decided in the agent, so the
 * selectors are only checked for their kind. */
static int take_stock(const struct doc *root, struct netconf *c, struct cni_fail *f)
{
	const struct doc *selectors = NULL;
	bool unused = false;
	struct str level = {0};
	struct err err = {0};

	c->ambient_enabled = true;
	if (doc_opt_text(root, "plugin_log_level", &level, &err) < 0 ||
	    doc_opt_bool(root, "ambient_enabled", &c->ambient_enabled, &err) < 0 ||
	    doc_opt_bool(root, "native_nftables", &unused, &err) < 0 ||
	    doc_opt_bool(root, "enable_ambient_detection_retry", &unused, &err) < 0 ||
	    doc_opt_bool(root, "agent_in_pod_network", &c->agent_in_pod_network, &err) < 0 ||
	    doc_opt_list(root, "enablement_selectors", &selectors, &err) < 0 ||
	    doc_opt_text(root, "pod_namespace", &c->pod_namespace, &err) < 0 ||
	    doc_opt_list(root, "exclude_namespaces", &c->exclude_namespaces, &err) < 0)
		return bad(f, &err);
	c->debug = str_eqc(level, "debug");
	for (const struct doc *d = c->exclude_namespaces ? c->exclude_namespaces->child : NULL;
	     d != NULL; d = d->next) {
		if (d->kind != DOC_TEXT) {
			(void)doc_err(d, &err, "expected text");
			return bad(f, &err);
		}
	}
	return 0;
}

/* The specification's key, and the one it was misprinted as, which libcni sends too. */
static int take_attachments(const struct doc *root, struct netconf *c, struct cni_fail *f)
{
	struct str text = {0};
	struct err err = {0};

	if (doc_opt_list(root, "cni.dev/attachments", &c->valid_attachments, &err) < 0 ||
	    doc_opt_list(root, "cni.dev/valid-attachments", &c->valid_attachments, &err) < 0)
		return bad(f, &err);
	for (const struct doc *d = c->valid_attachments ? c->valid_attachments->child : NULL;
	     d != NULL; d = d->next)
		if (doc_map(d, &err) < 0 || doc_need_text(d, "containerID", &text, &err) < 0 ||
		    doc_need_text(d, "ifname", &text, &err) < 0)
			return bad(f, &err);
	return 0;
}

static int parse_root(const struct doc *root, struct netconf *c, struct cni_fail *f)
{
	struct str type = {0};
	struct err err = {0};

	if (doc_map(root, &err) < 0 || doc_opt_text(root, "type", &type, &err) < 0 ||
	    doc_opt_map(root, "prevResult", &c->prev_result, &err) < 0)
		return bad(f, &err);
	if (take_name(root, f) < 0 || take_socket(root, c, f) < 0 || take_timeout(root, c, f) < 0 ||
	    take_api(root, c, f) < 0 || take_stock(root, c, f) < 0)
		return -1;
	return take_attachments(root, c, f);
}

int netconf_parse(struct str in, struct arena *a, struct netconf *ret, struct cni_fail *f)
{
	const struct doc *root = NULL;
	struct err err = {0};

	*ret = (struct netconf){0};
	if (in.n > LIMIT_NETCONF_BYTES)
		return cni_fail_set(f, CNI_BAD_CONFIG,
				    "network configuration on standard input is larger than %u "
				    "bytes",
				    LIMIT_NETCONF_BYTES);
	if (str_trim(in).n == 0)
		return cni_fail_set(f, CNI_DECODE,
				    "network configuration: standard input is empty");
	if (json_parse(in, a, &root, &err) < 0) {
		(void)cni_fail_set(f, CNI_DECODE, "network configuration: %s", err.msg);
		return cni_fail_details(f,
					"Standard input is not one valid JSON document. Check the "
					"files in the runtime's CNI configuration directory "
					"(/etc/cni/net.d).");
	}
	if (doc_map(root, &err) < 0)
		return bad(f, &err);
	if (take_version(root, ret, f) < 0)
		return -1;
	return parse_root(root, ret, f);
}

bool netconf_excludes(const struct netconf *c, struct str ns)
{
	if (c->exclude_namespaces == NULL)
		return false;
	for (const struct doc *d = c->exclude_namespaces->child; d != NULL; d = d->next)
		if (str_eq(d->text, ns))
			return true;
	return false;
}
