/* SPDX-License-Identifier: Apache-2.0
 * ca.c: see ca.h: calls go to the provider.
 */
#include "ztunnel/control/ca.h"

#include <stdlib.h>

#include "ztunnel/control/ca_internal.h"

struct ca *ca_free(struct ca *ca)
{
	if (ca == NULL)
		return NULL;
	free(ca->name);
	ca->ops->free(ca);
	return NULL;
}

void ca_issue(struct ca *ca, const char *spiffe,
	      void (*done)(void *, struct tls_identity *, const char *), void *ctx)
{
	ca->ops->issue(ca, spiffe, done, ctx);
}

const char *ca_name(const struct ca *ca)
{
	return ca->name;
}

bool ca_is_dev(const struct ca *ca)
{
	return ca->ops->dev;
}
