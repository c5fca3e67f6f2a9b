/* SPDX-License-Identifier: Apache-2.0
 * dump.c: see dump.h. Defaults are left out as stock does; istioctl matches the key names.
 */
#include "ztunnel/control/dump.h"

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/wire/tls.h"
#include "ztunnel/config.h"
#include "ztunnel/control/certs.h"
#include "ztunnel/mesh/mesh.h"
#include "ztunnel/observe/metrics.h"

static void opt_str(struct jsonw *w, const char *key, struct str v)
{
	if (v.n != 0)
		jsonw_str(w, key, v);
}

static void put_net_ip(struct jsonw *w, const char *key, const struct net_ip *a)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	char ip[IP_TEXT_MAX];

	strbuf_printf(&b, "%.*s/%s", STR_FMT(a->network), ip_format(&a->ip, ip));
	jsonw_str(w, key, (struct str){b.p, b.n});
}

static void put_gateway(struct jsonw *w, const char *key, const struct gateway_ref *g)
{
	_cleanup_strbuf_ struct strbuf b = {0};

	if (!g->set)
		return;
	jsonw_obj(w, key);
	if (g->by_host) {
		strbuf_printf(&b, "%.*s/%.*s", STR_FMT(g->ns), STR_FMT(g->hostname));
		jsonw_str(w, "destination", (struct str){b.p, b.n});
	} else {
		put_net_ip(w, "destination", &g->addr);
	}
	jsonw_int(w, "hboneMtlsPort", g->hbone_port);
	jsonw_end_obj(w);
}

static void put_weighted(struct jsonw *w, const struct service *s)
{
	if (s->nwaypoints == 0)
		return;
	jsonw_list(w, "weightedWaypoints");
	for (size_t i = 0; i < s->nwaypoints; i++) {
		jsonw_obj(w, NULL);
		put_gateway(w, "destination", &s->waypoints[i].ref);
		jsonw_int(w, "weight", s->waypoints[i].weight);
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
}

static void put_ports(struct jsonw *w, const struct port_map *v, size_t n)
{
	char key[8];

	for (size_t i = 0; i < n; i++) {
		(void)snprintf(key, sizeof(key), "%u", v[i].service_port);
		jsonw_int(w, key, v[i].target_port);
	}
}

static void put_workload_lists(struct jsonw *w, const struct workload *wl)
{
	char ip[IP_TEXT_MAX];

	jsonw_list(w, "workloadIps");
	for (size_t i = 0; i < wl->nips; i++)
		jsonw_cstr(w, NULL, ip_format(&wl->ips[i], ip));
	jsonw_end_list(w);
	if (wl->nservices != 0) {
		jsonw_obj(w, "services");
		for (size_t i = 0; i < wl->nservices; i++) {
			jsonw_obj_k(w, wl->services[i].name);
			put_ports(w, wl->services[i].ports, wl->services[i].nports);
			jsonw_end_obj(w);
		}
		jsonw_end_obj(w);
	}
	if (wl->npolicies != 0) {
		jsonw_list(w, "authorizationPolicies");
		for (size_t i = 0; i < wl->npolicies; i++)
			jsonw_str(w, NULL, wl->policies[i]);
		jsonw_end_list(w);
	}
}

static void put_workload_extras(struct jsonw *w, const struct workload *wl)
{
	put_gateway(w, "waypoint", wl->waypoint);
	put_gateway(w, "networkGateway", wl->network_gateway);
	if (wl->app_tunnel.set) {
		jsonw_obj(w, "applicationTunnel");
		jsonw_cstr(w, "protocol", wl->app_tunnel.proxy ? "PROXY" : "NONE");
		if (wl->app_tunnel.port != 0)
			jsonw_int(w, "port", wl->app_tunnel.port);
		jsonw_end_obj(w);
	}
	jsonw_obj(w, "locality");
	opt_str(w, "region", wl->region);
	opt_str(w, "zone", wl->zone);
	opt_str(w, "subzone", wl->subzone);
	jsonw_end_obj(w);
	if (wl->native_tunnel)
		jsonw_bool(w, "nativeTunnel", true);
	if (wl->host_network)
		jsonw_cstr(w, "networkMode", "HostNetwork");
}

static void put_workload(void *ctx, struct workload *wl)
{
	struct jsonw *w = ctx;

	jsonw_obj(w, NULL);
	jsonw_str(w, "uid", wl->uid);
	jsonw_str(w, "name", wl->name);
	jsonw_str(w, "namespace", wl->ns);
	jsonw_str(w, "serviceAccount", wl->sa);
	jsonw_str(w, "trustDomain", wl->trust_domain);
	opt_str(w, "network", wl->network);
	opt_str(w, "node", wl->node);
	opt_str(w, "hostname", wl->hostname);
	opt_str(w, "workloadName", wl->workload_name);
	jsonw_cstr(w, "workloadType", wl_type_name[wl->type]);
	opt_str(w, "canonicalName", wl->canonical_name);
	opt_str(w, "canonicalRevision", wl->canonical_revision);
	jsonw_str(w, "clusterId", wl->cluster);
	jsonw_cstr(w, "protocol", wl->protocol == WL_HBONE ? "HBONE" : "TCP");
	jsonw_cstr(w, "status", wl->unhealthy ? "Unhealthy" : "Healthy");
	jsonw_int(w, "capacity", wl->capacity);
	put_workload_lists(w, wl);
	put_workload_extras(w, wl);
	jsonw_end_obj(w);
}

struct dump_ctx {
	struct jsonw *w;
	const struct mesh *mesh;
};

static void put_endpoints(struct dump_ctx *d, const struct service *s)
{
	size_t n;
	const struct endpoint *e = mesh_endpoints(d->mesh, s, &n);

	jsonw_obj(d->w, "endpoints");
	for (size_t i = 0; i < n; i++) {
		jsonw_obj_k(d->w, e[i].wl->uid);
		jsonw_str(d->w, "workloadUid", e[i].wl->uid);
		jsonw_obj(d->w, "port");
		put_ports(d->w, e[i].ports, e[i].nports);
		jsonw_end_obj(d->w);
		jsonw_cstr(d->w, "status", e[i].wl->unhealthy ? "Unhealthy" : "Healthy");
		jsonw_end_obj(d->w);
	}
	jsonw_end_obj(d->w);
}

static void put_lb(struct jsonw *w, const struct service *s)
{
	static const char *const modes[LB_MODE_N] = {"Standard", "Strict", "Failover",
						     "Passthrough"};
	static const char *const scopes[LB_SCOPE_N] = {"Region", "Zone",    "Subzone",
						       "Node",	 "Cluster", "Network"};

	if (s->lb_mode == LB_UNSPECIFIED && s->nlb_pref == 0 && !s->allow_unhealthy)
		return;
	jsonw_obj(w, "loadBalancer");
	jsonw_list(w, "routingPreferences");
	for (size_t i = 0; i < s->nlb_pref; i++)
		jsonw_cstr(w, NULL, scopes[s->lb_pref[i]]);
	jsonw_end_list(w);
	jsonw_cstr(w, "mode", modes[s->lb_mode]);
	jsonw_cstr(w, "healthPolicy", s->allow_unhealthy ? "AllowAll" : "OnlyHealthy");
	jsonw_end_obj(w);
}

static void put_vips(struct jsonw *w, const struct service *s)
{
	char ip[IP_TEXT_MAX];

	jsonw_list(w, "vips");
	for (size_t i = 0; i < s->nvips; i++)
		put_net_ip(w, NULL, &s->vips[i]);
	jsonw_end_list(w);
	if (s->ncidr_vips == 0)
		return;
	jsonw_list(w, "cidrVips");
	for (size_t i = 0; i < s->ncidr_vips; i++) {
		_cleanup_strbuf_ struct strbuf b = {0};

		strbuf_printf(&b, "%.*s/%s/%u", STR_FMT(s->cidr_vips[i].network),
			      ip_format(&s->cidr_vips[i].cidr.ip, ip), s->cidr_vips[i].cidr.prefix);
		jsonw_str(w, NULL, (struct str){b.p, b.n});
	}
	jsonw_end_list(w);
}

static void put_service(void *ctx, struct service *s)
{
	struct dump_ctx *d = ctx;
	struct jsonw *w = d->w;
	const char *fam = s->ip_families == 4	 ? "IPv4"
			  : s->ip_families == 6	 ? "IPv6"
			  : s->ip_families == 10 ? "Dual"
						 : NULL;

	jsonw_obj(w, NULL);
	jsonw_str(w, "name", s->name);
	jsonw_str(w, "namespace", s->ns);
	jsonw_str(w, "hostname", s->hostname);
	put_vips(w, s);
	jsonw_obj(w, "ports");
	put_ports(w, s->ports, s->nports);
	jsonw_end_obj(w);
	put_endpoints(d, s);
	if (s->nsans != 0) {
		jsonw_list(w, "subjectAltNames");
		for (size_t i = 0; i < s->nsans; i++)
			jsonw_str(w, NULL, s->subject_alt_names[i]);
		jsonw_end_list(w);
	}
	put_gateway(w, "waypoint", &s->waypoint);
	put_weighted(w, s);
	put_lb(w, s);
	if (fam != NULL)
		jsonw_cstr(w, "ipFamilies", fam);
	if (s->canonical)
		jsonw_bool(w, "canonical", true);
	jsonw_cstr(w, "visibility", s->private_to_ns ? "Namespace" : "Public");
	jsonw_end_obj(w);
}

static void put_strs(struct jsonw *w, const char *key, const struct match_list_str *l)
{
	static const char *const kinds[MATCH_KIND_N] = {"Exact", "Prefix", "Suffix", "Presence"};

	if (l->n == 0)
		return;
	jsonw_list(w, key);
	for (size_t i = 0; i < l->n; i++) {
		jsonw_obj(w, NULL);
		if (l->v[i].kind == MATCH_PRESENCE) {
			jsonw_obj(w, "Presence");
			jsonw_end_obj(w);
		} else {
			jsonw_str(w, kinds[l->v[i].kind], l->v[i].text);
		}
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
}

static void put_cidrs(struct jsonw *w, const char *key, const struct match_list_cidr *l)
{
	char ip[IP_TEXT_MAX], text[IP_TEXT_MAX + 8];

	if (l->n == 0)
		return;
	jsonw_list(w, key);
	for (size_t i = 0; i < l->n; i++) {
		(void)snprintf(text, sizeof(text), "%s/%u", ip_format(&l->v[i].ip, ip),
			       l->v[i].prefix);
		jsonw_cstr(w, NULL, text);
	}
	jsonw_end_list(w);
}

static void put_match_ports(struct jsonw *w, const char *key, const struct match_list_port *l)
{
	if (l->n == 0)
		return;
	jsonw_list(w, key);
	for (size_t i = 0; i < l->n; i++)
		jsonw_int(w, NULL, l->v[i]);
	jsonw_end_list(w);
}

static void put_sas(struct jsonw *w, const char *key, const struct match_list_sa *l)
{
	if (l->n == 0)
		return;
	jsonw_list(w, key);
	for (size_t i = 0; i < l->n; i++) {
		jsonw_obj(w, NULL);
		jsonw_str(w, "namespace", l->v[i].ns);
		jsonw_str(w, "serviceAccount", l->v[i].sa);
		jsonw_end_obj(w);
	}
	jsonw_end_list(w);
}

static void put_match(struct jsonw *w, const struct policy_match *m)
{
	jsonw_obj(w, NULL);
	put_strs(w, "namespaces", &m->namespaces);
	put_strs(w, "notNamespaces", &m->not_namespaces);
	put_strs(w, "principals", &m->principals);
	put_strs(w, "notPrincipals", &m->not_principals);
	put_cidrs(w, "sourceIps", &m->source_ips);
	put_cidrs(w, "notSourceIps", &m->not_source_ips);
	put_cidrs(w, "destinationIps", &m->destination_ips);
	put_cidrs(w, "notDestinationIps", &m->not_destination_ips);
	put_match_ports(w, "destinationPorts", &m->destination_ports);
	put_match_ports(w, "notDestinationPorts", &m->not_destination_ports);
	put_sas(w, "serviceAccounts", &m->service_accounts);
	put_sas(w, "notServiceAccounts", &m->not_service_accounts);
	jsonw_end_obj(w);
}

static void put_rule(struct jsonw *w, const struct policy_rule *r)
{
	jsonw_list(w, NULL);
	for (size_t i = 0; i < r->n; i++) {
		jsonw_list(w, NULL);
		for (size_t k = 0; k < r->v[i].n; k++)
			put_match(w, &r->v[i].v[k]);
		jsonw_end_list(w);
	}
	jsonw_end_list(w);
}

static void put_policy(void *ctx, struct policy *p)
{
	static const char *const scopes[POLICY_SCOPE_N] = {"Global", "Namespace",
							   "WorkloadSelector"};
	struct jsonw *w = ctx;

	jsonw_obj(w, NULL);
	jsonw_str(w, "name", p->name);
	jsonw_str(w, "namespace", p->ns);
	jsonw_cstr(w, "scope", scopes[p->scope]);
	jsonw_cstr(w, "action", p->action == POLICY_DENY ? "Deny" : "Allow");
	if (p->dry_run)
		jsonw_bool(w, "dryRun", true);
	if (p->closed)
		jsonw_bool(w, "unreadable", true);
	jsonw_list(w, "rules");
	for (size_t i = 0; i < p->nrules; i++)
		put_rule(w, &p->rules[i]);
	jsonw_end_list(w);
	jsonw_end_obj(w);
}

static void put_time(struct jsonw *w, const char *key, const ASN1_TIME *t)
{
	char text[32];
	struct tm tm;

	if (ASN1_TIME_to_tm(t, &tm) == 1 &&
	    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm) != 0)
		jsonw_cstr(w, key, text);
}

/* `pem` is base64 of the PEM text, as stock has it. */
static void put_pem(struct jsonw *w, X509 *x)
{
	BIO *b = BIO_new(BIO_s_mem());
	_cleanup_free_ unsigned char *b64 = NULL;
	char *p;
	long n;

	if (b != NULL && PEM_write_bio_X509(b, x) == 1) {
		n = BIO_get_mem_data(b, &p);
		b64 = xmalloc((size_t)n / 3 * 4 + 8);
		(void)EVP_EncodeBlock(b64, (const unsigned char *)p, (int)n);
		jsonw_cstr(w, "pem", (const char *)b64);
	}
	BIO_free(b);
}

static void put_cert(struct jsonw *w, X509 *x)
{
	BIGNUM *bn = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
	char *dec = bn != NULL ? BN_bn2dec(bn) : NULL;

	jsonw_obj(w, NULL);
	put_pem(w, x);
	if (dec != NULL)
		jsonw_cstr(w, "serialNumber", dec);
	put_time(w, "validFrom", X509_get0_notBefore(x));
	put_time(w, "expirationTime", X509_get0_notAfter(x));
	jsonw_end_obj(w);
	OPENSSL_free(dec);
	BN_free(bn);
}

static void put_chain(struct jsonw *w, const char *key, const char *pem)
{
	BIO *b = BIO_new_mem_buf(pem, -1);
	X509 *x;

	jsonw_list(w, key);
	while (b != NULL && (x = PEM_read_bio_X509(b, NULL, NULL, NULL)) != NULL) {
		put_cert(w, x);
		X509_free(x);
	}
	jsonw_end_list(w);
	BIO_free(b);
}

static void put_cert_info(void *ctx, const struct cert_info *i)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	struct jsonw *w = ctx;

	jsonw_obj(w, NULL);
	jsonw_cstr(w, "identity", i->spiffe);
	switch (i->state) {
	case CERT_INITIALIZING:
		strbuf_puts(&b, "Initializing");
		break;
	case CERT_AVAILABLE:
		strbuf_puts(&b, "Available");
		break;
	case CERT_UNAVAILABLE:
		strbuf_printf(&b, "Unavailable: %s", i->error != NULL ? i->error : "");
		break;
	}
	jsonw_str(w, "state", (struct str){b.p, b.n});
	put_chain(w, "certChain", i->id != NULL ? tls_identity_chain_pem(i->id) : "");
	put_chain(w, "rootCerts", i->id != NULL ? tls_identity_roots_pem(i->id) : "");
	jsonw_end_obj(w);
}

/* Of all pods and workers. */
static void put_dns_cache(struct jsonw *w)
{
	static const struct {
		const char *key;
		enum metric_id id;
	} t[] = {
		{"entries", M_DNS_CACHE_ENTRIES}, {"bytes", M_DNS_CACHE_BYTES},
		{"hits", M_DNS_CACHE_HITS},	  {"misses", M_DNS_CACHE_MISSES},
		{"joined", M_DNS_CACHE_JOINED},	  {"evictions", M_DNS_CACHE_EVICTIONS},
	};

	jsonw_obj(w, "dnsCache");
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		jsonw_int(w, t[i].key, metric_get(t[i].id));
	jsonw_end_obj(w);
}

static void put_state(struct jsonw *w, const struct dump_in *in)
{
	jsonw_obj(w, "localState");
	jsonw_int(w, "generation", (long long)mesh_generation(in->mesh));
	jsonw_cstr(w, "error", in->state_error);
	if (in->xds) {
		jsonw_bool(w, "stale", in->stale);
		if (in->stale)
			jsonw_int(w, "ageSeconds", (long long)in->stale_s);
		jsonw_bool(w, "onDemand", in->on_demand);
		if (in->on_demand)
			jsonw_int(w, "onDemandWaiting", (long long)in->asked);
		jsonw_cstr(w, "keptIn", in->kept);
		jsonw_cstr(w, "keepError", in->keep_error);
	}
	jsonw_end_obj(w);
}

void dump_write(const struct dump_in *in, struct strbuf *out)
{
	struct jsonw w;
	struct dump_ctx d = {&w, in->mesh};

	jsonw_init(&w, out, true);
	jsonw_obj(&w, NULL);
	jsonw_list(&w, "certificates");
	certs_each(in->certs, put_cert_info, &w);
	jsonw_end_list(&w);
	jsonw_obj(&w, "config");
	config_write(in->config, &w);
	jsonw_end_obj(&w);
	if (in->config->workers.dns.enabled)
		put_dns_cache(&w);
	put_state(&w, in);
	jsonw_list(&w, "policies");
	mesh_each_policy(in->mesh, put_policy, &w);
	jsonw_end_list(&w);
	jsonw_list(&w, "services");
	mesh_each_service(in->mesh, put_service, &d);
	jsonw_end_list(&w);
	jsonw_obj(&w, "version");
	jsonw_cstr(&w, "version", VERSION);
	jsonw_cstr(&w, "openssl", OpenSSL_version(OPENSSL_VERSION_STRING));
	jsonw_end_obj(&w);
	jsonw_raw(&w, "workloadState", in->workload_state);
	jsonw_list(&w, "workloads");
	mesh_each_workload(in->mesh, put_workload, &w);
	jsonw_end_list(&w);
	jsonw_end_obj(&w);
	strbuf_putc(out, '\n');
}
