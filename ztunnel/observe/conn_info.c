/* SPDX-License-Identifier: Apache-2.0
 * conn_info.c: releasing what a connection's description holds.
 */
#include "ztunnel/observe/conn_info.h"

#include <stdlib.h>

void conn_info_fini(struct conn_info *c)
{
	workload_unref(c->src);
	workload_unref(c->dst);
	service_unref(c->service);
	free(c->peer_identity);
	*c = (struct conn_info){0};
}
