/* SPDX-License-Identifier: Apache-2.0
 * resolv_conf.c: see resolv_conf.h.
 */
#include "ztunnel/dns/resolv_conf.h"

#define DNS_PORT 53

static void take_option(struct str opt, struct resolv_conf *c)
{
	struct str key;
	uint32_t v;

	if (!str_cut(&opt, ':', &key))
		return;
	if (str_eqc(key, "timeout") && parse_u32(opt, 1, UINT32_MAX, &v) == 0)
		c->timeout_ms = (v > 30 ? 30 : v) * 1000ull;
	else if (str_eqc(key, "attempts") && parse_u32(opt, 1, UINT32_MAX, &v) == 0)
		c->attempts = v > 5 ? 5 : v;
}

static void take_line(struct str line, struct resolv_conf *c)
{
	struct str key = str_word(&line), value = str_word(&line);
	struct ip_addr ip;

	if (str_eqc(key, "nameserver") && c->n < DNS_SERVERS_MAX && ip_parse(value, &ip) == 0)
		c->servers[c->n++] = (struct ip_port){ip, DNS_PORT};
	for (; str_eqc(key, "options") && value.n != 0; value = str_word(&line))
		take_option(value, c);
}

void resolv_conf_parse(struct str text, struct resolv_conf *ret)
{
	struct str line;

	*ret = (struct resolv_conf){.timeout_ms = 5000, .attempts = 2};
	while (str_cut(&text, '\n', &line))
		take_line(line, ret);
	take_line(text, ret);
}
