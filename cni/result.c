/* SPDX-License-Identifier: Apache-2.0
 * result.c: see result.h. Pure.
 */
#include "cni/result.h"

#include "lib/format/json.h"

static int bad(struct cni_fail *f, const struct err *err)
{
	return cni_fail_set(f, CNI_BAD_CONFIG, "network configuration: %s", err->msg);
}

static int take_ip(const struct doc *d, struct result_ip *ip, struct err *err)
{
	struct str text = {0}, gw = {0};
	int r = doc_map(d, err);

	*ip = (struct result_ip){0};
	if (r < 0 || (r = doc_need_text(d, "address", &text, err)) < 0 ||
	    (r = doc_opt_text(d, "gateway", &gw, err)) < 0)
		return r;
	if (memchr(text.p, '/', text.n) == NULL || ip_cidr_parse(text, &ip->addr) < 0)
		return doc_err(doc_get(d, "address"), err,
			       "expected an address with prefix length such as 10.0.0.2/24, got "
			       "\"%s\"",
			       str_shown(text));
	if (gw.n != 0 && ip_parse(gw, &ip->gateway) < 0)
		return doc_err(doc_get(d, "gateway"), err, "expected an IP address, got \"%s\"",
			       str_shown(gw));
	ip->interface = UINT32_MAX;
	r = doc_opt_u32(d, "interface", 0, INT32_MAX, &ip->interface, err);
	ip->has_interface = ip->interface != UINT32_MAX;
	return r;
}

static int take_version(const struct doc *prev, struct result *ret, struct cni_fail *f)
{
	struct str v = {0};
	struct err err = {0};

	if (doc_opt_text(prev, "cniVersion", &v, &err) < 0)
		return bad(f, &err);
	if (v.n == 0)
		return 0;
	ret->names_version = true;
	ret->version = cni_version_parse(v);
	if (ret->version != CNI_V_NONE)
		return 0;
	(void)cni_fail_set(f, CNI_INCOMPATIBLE_VERSION,
			   "network configuration: prevResult.cniVersion: \"%s\" cannot be "
			   "converted",
			   str_shown(v));
	return cni_fail_details(f,
				"Results of %s can. The plugin before this one in the chain gave "
				"another; set its cniVersion.",
				cni_version_list());
}

int result_parse(const struct doc *prev, enum cni_version version, struct result *ret,
		 struct cni_fail *f)
{
	const struct doc *ips = NULL, *interfaces = NULL;
	struct err err = {0};

	*ret = (struct result){.doc = prev, .version = version};
	if (prev == NULL)
		return 0;
	if (take_version(prev, ret, f) < 0)
		return -1;
	if (doc_opt_list(prev, "interfaces", &interfaces, &err) < 0 ||
	    doc_opt_list(prev, "ips", &ips, &err) < 0)
		return bad(f, &err);
	if (ips == NULL)
		return 0;
	for (const struct doc *d = ips->child; d != NULL; d = d->next) {
		if (ret->nips == RESULT_IPS_MAX) {
			(void)doc_err(d, &err, "more than %d addresses", RESULT_IPS_MAX);
			return bad(f, &err);
		}
		if (take_ip(d, &ret->ips[ret->nips], &err) < 0)
			return bad(f, &err);
		ret->nips++;
	}
	return 0;
}

/* A member as it was, key included. */
static void copy_member(struct strbuf *out, const struct doc *d)
{
	struct jsonw w;

	/* the writer escapes the key; a list of one text without its brackets is just that text */
	jsonw_init(&w, out, false);
	jsonw_str(&w, NULL, d->key);
	strbuf_putc(out, ':');
	strbuf_str(out, d->raw);
}

/* One element of ips with `version` right for the target. */
static void convert_ip(struct strbuf *out, const struct doc *ip, const struct result_ip *parsed,
		       bool want_version)
{
	bool first = true;

	strbuf_putc(out, '{');
	if (want_version) {
		strbuf_printf(out, "\"version\":\"%c\"", parsed->addr.ip.len == 4 ? '4' : '6');
		first = false;
	}
	for (const struct doc *d = ip->child; d != NULL; d = d->next) {
		if (str_eqc(d->key, "version"))
			continue;
		if (!first)
			strbuf_putc(out, ',');
		first = false;
		copy_member(out, d);
	}
	strbuf_putc(out, '}');
}

static void convert_ips(struct strbuf *out, const struct doc *ips, const struct result *r,
			enum cni_version version)
{
	size_t i = 0;

	strbuf_puts(out, "\"ips\":[");
	for (const struct doc *d = ips->child; d != NULL; d = d->next, i++) {
		if (i != 0)
			strbuf_putc(out, ',');
		convert_ip(out, d, &r->ips[i], version < CNI_V_1_0_0);
	}
	strbuf_putc(out, ']');
}

void result_write(const struct result *r, enum cni_version version, struct strbuf *out)
{
	bool same = r->version == version;
	/* The 0.x versions have one result format between them, the 1.x ones another. */
	bool same_format = (r->version < CNI_V_1_0_0) == (version < CNI_V_1_0_0);

	if (r->doc != NULL && same && r->names_version) {
		strbuf_str(out, r->doc->raw);
		strbuf_putc(out, '\n');
		return;
	}
	strbuf_printf(out, "{\"cniVersion\":\"%s\"", cni_version_name[version]);
	if (r->doc == NULL)
		strbuf_puts(out, ",\"dns\":{}");
	for (const struct doc *d = r->doc != NULL ? r->doc->child : NULL; d != NULL; d = d->next) {
		if (str_eqc(d->key, "cniVersion"))
			continue;
		strbuf_putc(out, ',');
		if (!same_format && d->kind == DOC_LIST && str_eqc(d->key, "ips"))
			convert_ips(out, d, r, version);
		else
			copy_member(out, d);
	}
	strbuf_puts(out, "}\n");
}
