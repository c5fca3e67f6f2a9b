/* SPDX-License-Identifier: Apache-2.0
 * zt_helper.h: for ztunnel's unit tests: a snapshot from YAML text, addresses from text.
 */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "lib/base/err.h"
#include "ztunnel/mesh/local_state.h"

#define UNUSED_FN __attribute__((unused))

static UNUSED_FN struct mesh *mesh_from_node(const char *yaml, const char *node)
{
	struct err e = {0};
	struct mesh *m = local_state_parse(str_of(yaml), str_of(node), 1, &e);

	if (m == NULL)
		fail_msg("%s", e.msg);
	return m;
}

static UNUSED_FN struct mesh *mesh_from(const char *yaml)
{
	return mesh_from_node(yaml, "");
}

static UNUSED_FN struct ip_addr ip(const char *text)
{
	struct ip_addr a;

	if (ip_parse(str_of(text), &a) != 0)
		fail_msg("not an address: %s", text);
	return a;
}

static UNUSED_FN struct ip_port ip_port(const char *text)
{
	struct ip_port a;

	if (ip_port_parse(str_of(text), &a) != 0)
		fail_msg("not an address and port: %s", text);
	return a;
}
