/* SPDX-License-Identifier: Apache-2.0
 * eligibility.c: see eligibility.h.
 */
#include "node-agent/enrol/eligibility.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/err.h"
#include "nft/nft.h"
#include "node-agent/config.h"
#include "node-agent/source/pods.h"

static enum eligibility say(enum eligibility e, char *reason, const char *fmt, ...) _printf_(3, 4);
static enum eligibility say(enum eligibility e, char *reason, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(reason, ELIGIBILITY_REASON_MAX, fmt, ap);
	va_end(ap);
	return e;
}

static bool mode_is(const char *label, const char *value)
{
	return label != NULL && strcmp(label, value) == 0;
}

/* Whatever the labels say. */
static bool ruled_out(const struct pod *p, const struct config *cfg, char *reason)
{
	if (p->host_network) {
		(void)say(ELIGIBLE_NO, reason, "the pod uses the host's network");
		return true;
	}
	if (p->sidecar) {
		(void)say(ELIGIBLE_NO, reason, "the pod has a sidecar (sidecar.istio.io/status)");
		return true;
	}
	for (size_t i = 0; i < cfg->nexcluded; i++)
		if (str_eqc(cfg->excluded[i], p->ns)) {
			(void)say(ELIGIBLE_NO, reason, "namespace %s is excluded", p->ns);
			return true;
		}
	if (mode_is(p->app, "ztunnel") && strcmp(p->ns, cfg->system_namespace) == 0) {
		(void)say(ELIGIBLE_NO, reason, "the pod is ztunnel itself");
		return true;
	}
	if (p->terminal) {
		(void)say(ELIGIBLE_NO, reason, "the pod has finished");
		return true;
	}
	return false;
}

/* What AMBIENT_ENABLEMENT_SELECTOR says. */
static enum eligibility by_selectors(const struct pod *p, const struct pod_namespace *ns,
				     const struct selectors *s, char *reason)
{
	size_t n = selectors_match(s, &p->labels, &ns->labels);

	if (n != 0)
		return say(ELIGIBLE_YES, reason, "enablement selector %zu of %zu matches", n, s->n);
	return say(ELIGIBLE_NO, reason, "none of %zu enablement selectors matches", s->n);
}

/* Without selectors: what the stock chart's selectors say, in better words. */
static enum eligibility by_mode(const struct pod *p, const struct pod_namespace *ns, char *reason)
{
	if (mode_is(p->mode, "ambient"))
		return say(ELIGIBLE_YES, reason,
			   "the pod is labelled istio.io/dataplane-mode=ambient");
	if (mode_is(ns->mode, "ambient"))
		return say(ELIGIBLE_YES, reason,
			   "namespace %s is labelled istio.io/dataplane-mode=ambient", p->ns);
	return say(ELIGIBLE_NO, reason,
		   "neither the pod nor namespace %s is labelled istio.io/dataplane-mode=ambient",
		   p->ns);
}

enum eligibility eligibility_of(const struct pod *p, const struct pod_namespace *ns,
				const struct config *cfg, char *reason)
{
	if (p == NULL)
		return say(ELIGIBLE_UNKNOWN, reason, "the pod is not known yet");
	if (cfg->node_name[0] != '\0' && p->node_name != NULL &&
	    strcmp(p->node_name, cfg->node_name) != 0)
		return say(ELIGIBLE_UNKNOWN, reason, "the pod is placed on node %s, this is %s",
			   p->node_name, cfg->node_name);
	if (ruled_out(p, cfg, reason))
		return ELIGIBLE_NO;
	if (!cfg->has_selectors && mode_is(p->mode, "none"))
		return say(ELIGIBLE_NO, reason, "the pod is labelled istio.io/dataplane-mode=none");
	if (ns == NULL)
		return say(ELIGIBLE_UNKNOWN, reason, "namespace %s is not known yet", p->ns);
	return cfg->has_selectors ? by_selectors(p, ns, &cfg->selectors, reason)
				  : by_mode(p, ns, reason);
}

int eligibility_parse_bool(struct str s, bool *ret)
{
	static const char *const yes[] = {"1", "t", "T", "TRUE", "true", "True"};
	static const char *const no[] = {"0", "f", "F", "FALSE", "false", "False"};

	for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
		if (str_eqc(s, yes[i])) {
			*ret = true;
			return 0;
		}
		if (str_eqc(s, no[i])) {
			*ret = false;
			return 0;
		}
	}
	return -EINVAL;
}

static void override(const char *annotation, const char *name, bool *value, char *ignored)
{
	if (annotation == NULL || eligibility_parse_bool(str_of(annotation), value) == 0)
		return;
	(void)snprintf(ignored, ELIGIBILITY_REASON_MAX, "%s=%s: expected true or false", name,
		       str_shown(str_of(annotation)));
}

int eligibility_rules(const struct pod *p, const struct config *cfg, struct nft_pod_opts *ret,
		      char *ret_ignored, struct err *err)
{
	struct nft_pod_opts o = {.dns_capture = cfg->dns_capture,
				 .probe_v4 = cfg->probe_v4,
				 .probe_v6 = cfg->probe_v6};

	ret_ignored[0] = '\0';
	override(p->bypass_inbound, "ambient.istio.io/bypass-inbound-capture", &o.ingress_mode,
		 ret_ignored);
	override(p->dns_capture, "ambient.istio.io/dns-capture", &o.dns_capture, ret_ignored);
	if (p->reroute_ifaces != NULL && nft_parse_ifaces(str_of(p->reroute_ifaces), &o, err) < 0)
		return err_wrap(err, "annotation istio.io/reroute-virtual-interfaces");
	*ret = o;
	return 0;
}
