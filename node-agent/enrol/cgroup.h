/* SPDX-License-Identifier: Apache-2.0
 * cgroup.h: the pod UID in the text of /proc/<pid>/cgroup. Pure. Source: cni-spec 3.10.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "lib/base/str.h"

struct err;

#define CGROUP_UID_LEN 36 /* 8-4-4-4-12 with dashes */

/* All lines that name a pod must agree. 0 with the UID (dashes restored, NUL-terminated), -ENOENT
 * when no line names a pod, -EINVAL for a text that cannot be trusted. */
int cgroup_pod_uid(struct str text, char ret[CGROUP_UID_LEN + 1]) _must_check_;
/* Field 22 (start time) of /proc/<pid>/stat. 0 or -EINVAL. */
int cgroup_start_time(struct str stat, uint64_t *ret) _must_check_;
