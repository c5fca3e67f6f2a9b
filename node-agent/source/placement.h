/* SPDX-License-Identifier: Apache-2.0
 * placement.h: does a pod template still belong on a node? Its nodeSelector and its required node
 * affinity, as the DaemonSet controller reads them (Kubernetes API: NodeSelectorTerm). Pure.
 *
 * Taints are not looked at: an agent tolerates all of them.
 */
#pragma once
#include "lib/base/attr.h"
#include "lib/base/str.h"

enum placement { PLACEMENT_YES, PLACEMENT_NO, PLACEMENT_UNKNOWN };

/* @workload: a DaemonSet as JSON, @node: a Node as JSON. What cannot be read, or has an operator
 * that nobody knows here, is PLACEMENT_UNKNOWN. */
enum placement placement_of(struct str workload, struct str node);
