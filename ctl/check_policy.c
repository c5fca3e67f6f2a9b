/* SPDX-License-Identifier: Apache-2.0
 * check_policy.c: see check_policy.h. Pure.
 */
#include "ctl/check_policy.h"

#include "lib/format/doc.h"
#include "lib/os/sock.h"

/* One element of a rule's "ports": without a protocol TCP, without a port every port; a name is
 * that of a container's port, which 15008 is not. */
static int port_opens(const struct doc *p, bool *ret, struct err *err)
{
	const struct doc *port = doc_get(p, "port");
	struct str protocol = STR("TCP");
	uint32_t from = 0, to = 0;
	int r = doc_map(p, err);

	if (r == 0)
		r = doc_opt_text(p, "protocol", &protocol, err);
	if (r < 0 || !str_eqc(protocol, "TCP"))
		return r;
	if (port == NULL || port->kind == DOC_NULL) {
		*ret = true;
		return 0;
	}
	if (port->kind == DOC_TEXT)
		return 0;
	r = doc_opt_u32(p, "port", 1, 65535, &from, err);
	to = from;
	if (r == 0)
		r = doc_opt_u32(p, "endPort", 1, 65535, &to, err);
	if (r == 0)
		*ret |= from <= MESH_PORT_INBOUND_HBONE && MESH_PORT_INBOUND_HBONE <= to;
	return r;
}

static int rules_open(const struct doc *spec, const char *key, bool *ret, struct err *err)
{
	const struct doc *rules = NULL;
	int r = doc_opt_list(spec, key, &rules, err);

	for (const struct doc *d = rules != NULL ? rules->child : NULL; r == 0 && d != NULL;
	     d = d->next) {
		const struct doc *ports = NULL;

		r = doc_map(d, err);
		if (r == 0)
			r = doc_opt_list(d, "ports", &ports, err);
		if (r == 0 && (ports == NULL || ports->child == NULL))
			*ret = true;
		for (const struct doc *p = ports != NULL ? ports->child : NULL; r == 0 && p != NULL;
		     p = p->next)
			r = port_opens(p, ret, err);
	}
	return r;
}

int ctl_policy_read(const struct doc *policy, struct ctl_policy_verdict *ret, struct err *err)
{
	const struct doc *spec = NULL, *types = NULL;
	bool in = true, out = false, in_open = false, out_open = false;
	int r = doc_map(policy, err);

	if (r == 0)
		r = doc_opt_map(policy, "spec", &spec, err);
	if (r < 0)
		return r;
	if (spec == NULL)
		return doc_err(policy, err, "there is no spec");
	r = doc_opt_list(spec, "policyTypes", &types, err);
	if (r == 0)
		r = rules_open(spec, "ingress", &in_open, err);
	if (r == 0)
		r = rules_open(spec, "egress", &out_open, err);
	if (r < 0)
		return r;
	out = doc_get(spec, "egress") != NULL; /* without policyTypes */
	if (types != NULL) {
		in = out = false;
		for (const struct doc *t = types->child; t != NULL; t = t->next) {
			in |= t->kind == DOC_TEXT && str_eqc(t->text, "Ingress");
			out |= t->kind == DOC_TEXT && str_eqc(t->text, "Egress");
		}
	}
	*ret = (struct ctl_policy_verdict){.blocks_in = in && !in_open,
					   .blocks_out = out && !out_open};
	return 0;
}
