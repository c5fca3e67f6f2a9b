/* SPDX-License-Identifier: Apache-2.0
 * cgroup.c: see cgroup.h.
 */
#include "node-agent/enrol/cgroup.h"

#include <errno.h>
#include <string.h>

static bool is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* ASCII punctuation, what may stand between the parts of a cgroup path. */
static bool is_punct(char c)
{
	return c > ' ' && c < 0x7f && !is_alnum(c);
}

/* Reads hex groups 8-4-4-4-12, each boundary with at most one punctuation character. Returns the
 * number of bytes read, 0 if there is no UID here. */
static size_t match_uid(struct str s, char ret[CGROUP_UID_LEN + 1])
{
	static const unsigned char groups[] = {8, 4, 4, 4, 12};
	size_t at = 0, out = 0;

	for (size_t g = 0; g < sizeof(groups); g++) {
		if (g != 0) {
			if (at < s.n && is_punct(s.p[at]))
				at++;
			ret[out++] = '-';
		}
		for (unsigned char i = 0; i < groups[g]; i++) {
			if (at >= s.n || !is_hex(s.p[at]))
				return 0;
			ret[out++] = s.p[at++];
		}
	}
	ret[out] = '\0';
	return at;
}

/* <punctuation>pod<uid><punctuation>...<container id without punctuation> */
static bool match_path(struct str path, char ret[CGROUP_UID_LEN + 1])
{
	if (str_has_suffix(path, STR(".scope")))
		path.n -= 6;
	for (size_t i = 0; i + 4 < path.n; i++) {
		struct str rest = {path.p + i + 4, path.n - i - 4};
		size_t n;

		if (!is_punct(path.p[i]) || memcmp(path.p + i + 1, "pod", 3) != 0)
			continue;
		n = match_uid(rest, ret);
		/* the pod's own cgroup holds no process: a container's name must follow */
		if (n != 0 && n + 1 < rest.n && is_punct(rest.p[n]) &&
		    !is_punct(rest.p[rest.n - 1]))
			return true;
	}
	return false;
}

int cgroup_pod_uid(struct str text, char ret[CGROUP_UID_LEN + 1])
{
	char found[CGROUP_UID_LEN + 1] = "", uid[CGROUP_UID_LEN + 1];
	struct str line;
	bool more = true;

	while (more) {
		struct str field;

		more = str_cut(&text, '\n', &line);
		if (!more)
			line = text;
		if (line.n == 0)
			continue;
		if (!str_cut(&line, ':', &field) || !str_cut(&line, ':', &field))
			return -EINVAL;
		if (!match_path(line, uid))
			continue;
		if (found[0] != '\0' && strcmp(found, uid) != 0)
			return -EINVAL;
		memcpy(found, uid, sizeof(found));
	}
	if (found[0] == '\0')
		return -ENOENT;
	memcpy(ret, found, sizeof(found));
	return 0;
}

int cgroup_start_time(struct str stat, uint64_t *ret)
{
	size_t at = stat.n;
	struct str field;

	/* the command in parentheses may hold blanks and parentheses: count from the last one */
	while (at != 0 && stat.p[at - 1] != ')')
		at--;
	if (at == 0 || at + 1 >= stat.n)
		return -EINVAL;
	stat = (struct str){stat.p + at + 1, stat.n - at - 1};
	for (int i = 3; i <= 22; i++)
		if (!str_cut(&stat, ' ', &field))
			return -EINVAL;
	return parse_u64(field, 0, UINT64_MAX, ret);
}
