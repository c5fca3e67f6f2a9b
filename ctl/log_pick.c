/* SPDX-License-Identifier: Apache-2.0
 * log_pick.c: see log_pick.h. Pure.
 */
#include "ctl/log_pick.h"

#include <string.h>

#define UID_MAX 64

/* Namespaces and names have no '_'. */
static bool split(struct str folder, struct str *ret_name, struct str *ret_uid)
{
	struct str ns;

	return str_cut(&folder, '_', &ns) && ns.n != 0 && str_cut(&folder, '_', ret_name) &&
	       ret_name->n != 0 && (*ret_uid = folder).n != 0;
}

static bool has(struct str s, const char *p, size_t n)
{
	return n != 0 && s.n != 0 && memmem(s.p, s.n, p, n) != NULL;
}

/* cgroupfs writes the UID as it is, systemd's slices with '_' for '-'. */
static bool has_uid(struct str cgroup, struct str uid)
{
	char other[UID_MAX];

	if (uid.n < 8 || uid.n > sizeof(other))
		return false;
	for (size_t i = 0; i < uid.n; i++)
		other[i] = uid.p[i] == '-' ? '_' : uid.p[i];
	return has(cgroup, uid.p, uid.n) || has(cgroup, other, uid.n);
}

bool ctl_log_pod_is_ours(struct str folder, struct str cgroup)
{
	struct str name, uid;

	return split(folder, &name, &uid) &&
	       (str_has_prefix(name, STR("istio-cni-node-")) ||
		str_has_prefix(name, STR("ztunnel-")) || has_uid(cgroup, uid));
}

struct str ctl_log_pod_name(struct str folder)
{
	struct str name, uid;

	return split(folder, &name, &uid) ? name : folder;
}

struct str ctl_log_unit(struct str cgroup)
{
	struct str line, part, found = {0};

	while (cgroup.n != 0) {
		if (!str_cut(&cgroup, '\n', &line)) {
			line = cgroup;
			cgroup = (struct str){0};
		}
		while (line.n != 0) {
			if (!str_cut(&line, '/', &part)) {
				part = line;
				line = (struct str){0};
			}
			if (part.n > 8 && str_has_suffix(part, STR(".service")))
				found = part; /* the innermost one */
		}
	}
	return found;
}

struct str ctl_log_tail(struct str text, size_t max)
{
	const char *end, *begin;
	struct str s = text, half;

	if (text.n <= max)
		return text;
	s.p += text.n - max;
	s.n = max;
	(void)str_cut(&s, '\n', &half);
	while ((end = memmem(s.p, s.n, "PRIVATE KEY-----", 16)) != NULL) {
		const char *line = memrchr(s.p, '\n', (size_t)(end - s.p));
		struct str rest = {end + 16, s.n - (size_t)(end + 16 - s.p)};

		line = line != NULL ? line + 1 : s.p;
		begin = memmem(line, (size_t)(end - line), "-----BEGIN ", 11);
		if (begin != NULL)
			break; /* a whole one */
		s = rest;
	}
	return s;
}
