/* SPDX-License-Identifier: Apache-2.0
 * env.c: see env.h. Pure.
 */
#include "cni/env.h"

#include <assert.h>
#include <stdio.h>
#include <strings.h>

#define ON(verb) (1u << CNI_VERB_##verb)

const char *const cni_verb_name[] = {
	[CNI_VERB_NONE] = "",		[CNI_VERB_ADD] = "ADD", [CNI_VERB_CHECK] = "CHECK",
	[CNI_VERB_DEL] = "DEL",		[CNI_VERB_GC] = "GC",	[CNI_VERB_STATUS] = "STATUS",
	[CNI_VERB_VERSION] = "VERSION",
};
static_assert(ARRAY_LEN(cni_verb_name) == CNI_VERB_N, "one name per verb");

enum cni_verb cni_verb_parse(const char *s)
{
	for (enum cni_verb v = CNI_VERB_NONE + 1; v < CNI_VERB_N; v++)
		if (strcmp(s, cni_verb_name[v]) == 0)
			return v;
	return CNI_VERB_NONE;
}

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool cni_name_ok(struct str s)
{
	if (s.n == 0 || !is_alnum(s.p[0]))
		return false;
	for (size_t i = 1; i < s.n; i++)
		if (!is_alnum(s.p[i]) && s.p[i] != '_' && s.p[i] != '.' && s.p[i] != '-')
			return false;
	return true;
}

static int check_ifname(struct str s, struct cni_fail *f)
{
	if (s.n > 15)
		return cni_fail_set(f, CNI_BAD_ENV,
				    "CNI_IFNAME \"%s\" is %zu characters long; Linux allows 15",
				    str_shown(s), s.n);
	if (str_eqc(s, ".") || str_eqc(s, ".."))
		return cni_fail_set(f, CNI_BAD_ENV, "CNI_IFNAME must not be \"%.*s\"", STR_FMT(s));
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] == '/' || s.p[i] == ':' || s.p[i] == ' ' ||
		    (s.p[i] >= '\t' && s.p[i] <= '\r'))
			return cni_fail_set(f, CNI_BAD_ENV,
					    "CNI_IFNAME \"%s\" contains '/', ':' or white space",
					    str_shown(s));
	return 0;
}

static int set_bool(struct str v, bool *ret)
{
	char low[8];

	if (str_to_cstr(v, low, sizeof(low), NULL) < 0)
		return -1;
	if (strcasecmp(low, "1") == 0 || strcasecmp(low, "true") == 0)
		*ret = true;
	else if (strcasecmp(low, "0") == 0 || strcasecmp(low, "false") == 0)
		*ret = false;
	else
		return -1;
	return 0;
}

/* One pair. 1 when the key is not known. */
static int take_pair(struct str key, struct str value, struct cni_env *ret, bool *ignore)
{
	static const char infra[] = "K8S_POD_INFRA_CONTAINER_ID"; /* known, not needed */
	const struct {
		const char *name;
		struct str *to;
	} keys[] = {
		{"K8S_POD_NAME", &ret->pod_name},
		{"K8S_POD_NAMESPACE", &ret->pod_namespace},
		{"K8S_POD_UID", &ret->pod_uid},
	};

	if (str_eqc(key, "IgnoreUnknown"))
		return set_bool(value, ignore);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		if (str_eqc(key, keys[i].name)) {
			*keys[i].to = value;
			return 0;
		}
	}
	return str_eqc(key, infra) ? 0 : 1;
}

int cni_args_parse(struct str args, struct cni_env *ret, struct cni_fail *f)
{
	struct str unknown = {0};
	bool ignore = false, more = args.n != 0;

	while (more) {
		struct str pair, value, key;
		int r;

		more = str_cut(&args, ';', &pair);
		if (!more)
			pair = args;
		value = pair;
		if (!str_cut(&value, '=', &key) || memchr(value.p, '=', value.n) != NULL)
			return cni_fail_set(f, CNI_BAD_ENV,
					    "CNI_ARGS: \"%s\" is not of the form KEY=VALUE",
					    str_shown(pair));
		r = take_pair(key, value, ret, &ignore);
		if (r < 0)
			return cni_fail_set(f, CNI_BAD_ENV,
					    "CNI_ARGS: IgnoreUnknown is \"%s\"; expected 1, true, "
					    "0 or false",
					    str_shown(value));
		if (r == 1 && unknown.n == 0)
			unknown = pair;
	}
	if (unknown.n == 0 || ignore)
		return 0;
	(void)cni_fail_set(f, CNI_BAD_ENV, "CNI_ARGS: unknown argument \"%s\"", str_shown(unknown));
	return cni_fail_details(f, "Known are K8S_POD_NAME, K8S_POD_NAMESPACE, K8S_POD_UID, "
				   "K8S_POD_INFRA_CONTAINER_ID and IgnoreUnknown; with "
				   "IgnoreUnknown=1 others are skipped.");
}

static int check_values(enum cni_verb verb, const struct cni_env *e, struct cni_fail *f)
{
	if (!cni_name_ok(str_of(e->container_id)))
		return cni_fail_set(f, CNI_BAD_ENV,
				    "CNI_CONTAINERID \"%s\" is not a letter or digit followed by "
				    "letters, digits, '_', '.' and '-'",
				    str_shown(str_of(e->container_id)));
	if (check_ifname(str_of(e->ifname), f) < 0)
		return -1;
	if (!str_is_utf8(str_of(e->ifname)) || !str_is_utf8(str_of(e->netns)))
		return cni_fail_set(f, CNI_BAD_ENV, "CNI_IFNAME or CNI_NETNS is not valid UTF-8");
	if (verb != CNI_VERB_DEL && e->netns[0] != '/')
		return cni_fail_set(f, CNI_BAD_ENV, "CNI_NETNS \"%s\" is not an absolute path",
				    str_shown(str_of(e->netns)));
	return 0;
}

int cni_env_load(enum cni_verb verb, cni_getenv get, void *ctx, struct cni_env *ret,
		 struct cni_fail *f)
{
	static const unsigned int pod = ON(ADD) | ON(CHECK) | ON(DEL);
	struct cni_env e = {0};
	const char *args = NULL, *path = NULL, *override = NULL;
	const struct {
		const char *name;
		unsigned int needed_by;
		const char **to;
	} vars[] = {
		{"CNI_CONTAINERID", pod, &e.container_id},
		{"CNI_NETNS", ON(ADD) | ON(CHECK), &e.netns},
		{"CNI_IFNAME", pod, &e.ifname},
		{"CNI_ARGS", 0, &args},
		{"CNI_PATH", pod | ON(GC) | ON(STATUS), &path},
		{"CNI_NETNS_OVERRIDE", 0, &override},
	};
	char missing[128] = "";
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_LEN(vars); i++) {
		const char *v = get(ctx, vars[i].name);

		*vars[i].to = v != NULL ? v : "";
		if (**vars[i].to == '\0' && (vars[i].needed_by & (1u << verb)) != 0)
			n += (size_t)snprintf(missing + n, sizeof(missing) - n, "%s%s",
					      n != 0 ? ", " : "", vars[i].name);
	}
	if (n != 0) {
		(void)cni_fail_set(f, CNI_BAD_ENV, "required environment variables are missing: %s",
				   missing);
		return cni_fail_details(f,
					"The container runtime sets them for CNI_COMMAND=%s. See "
					"ambient-cni(8) to run the plugin by hand.",
					cni_verb_name[verb]);
	}
	e.netns_override = strcmp(override, "1") == 0 || strcasecmp(override, "true") == 0;
	if ((pod & (1u << verb)) != 0) {
		if (check_values(verb, &e, f) < 0)
			return -1;
		if (!str_is_utf8(str_of(args)))
			return cni_fail_set(f, CNI_BAD_ENV, "CNI_ARGS is not valid UTF-8");
		if (cni_args_parse(str_of(args), &e, f) < 0)
			return -1;
	}
	*ret = e;
	return 0;
}
