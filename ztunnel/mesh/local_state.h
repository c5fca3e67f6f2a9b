/* SPDX-License-Identifier: Apache-2.0
 * local_state.h: stock ztunnel's local YAML state (ztunnel-spec 9.9) to a mesh snapshot. Pure.
 * Unknown fields, wrong types and bad values are errors that name field and line; nothing is
 * half-applied.
 */
#pragma once
#include "ztunnel/mesh/mesh.h"

/* NULL with @err on any problem. */
struct mesh *local_state_parse(struct str yaml, struct str node, uint64_t generation,
			       struct err *err) _must_check_;
