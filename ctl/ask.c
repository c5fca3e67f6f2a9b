/* SPDX-License-Identifier: Apache-2.0
 * ask.c: see ask.h.
 */
#include "ctl/ask.h"

#include <errno.h>

#include "ctl/command.h"
#include "ctl/http.h"
#include "ctl/model.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"
#include "lib/os/clock.h"

/* An error of connecting, in words for a person. */
static int explain(const char *socket, struct err *err)
{
	if (err->code == ENOENT)
		return err_set(err, ENOTCONN, "there is no socket %s", socket);
	if (err->code == ECONNREFUSED)
		return err_set(err, ENOTCONN, "nobody listens on %s", socket);
	if (err->code == EACCES)
		return err_set(err, EACCES, "no permission for %s; run this as root", socket);
	return -err->code;
}

int ctl_ask_text(const char *socket, const char *path, struct strbuf *text, struct str *ret,
		 struct err *err)
{
	struct ctl_answer answer;
	int r = ctl_get(socket, path, clock_mono_ms() + CTL_ANSWER_MS, text, &answer, err);

	if (r < 0)
		return explain(socket, err);
	if (answer.status == 403)
		return err_set(err, EACCES, "%s: refused (403); run this as root", socket);
	if (answer.status != 200)
		return err_set(err, answer.status == 404 ? ENOENT : EPROTO,
			       "%s: GET %s gave status %u: %s", socket, path, answer.status,
			       str_shown(answer.body));
	*ret = answer.body;
	return 0;
}

int ctl_ask_json(const char *socket, const char *path, struct arena *a, struct strbuf *text,
		 const struct doc **ret, struct err *err)
{
	struct str body;
	int r = ctl_ask_text(socket, path, text, &body, err);

	if (r < 0)
		return r;
	r = json_parse(body, a, ret, err);
	return r < 0 ? err_wrap(err, "%s: GET %s", socket, path) : 0;
}

static int read_agent(const char *socket, const char *path, struct arena *a, struct strbuf *text,
		      struct ctl_agent *g, struct err *err)
{
	const struct doc *d = NULL;
	int r = ctl_ask_json(socket, path, a, text, &d, err);

	if (r < 0)
		return r;
	r = ctl_agent_read(d, a, g, err);
	return r < 0 ? err_wrap(err, "%s: GET %s", socket, path) : 0;
}

int ctl_ask_agent_quick(const char *socket, struct arena *a, struct strbuf *text,
			struct ctl_agent *ret, struct err *err)
{
	return read_agent(socket, "/v1/status?rules=no", a, text, ret, err);
}

static void ask_agent(const char *socket, struct arena *a, struct strbuf *text, struct ctl_agent *g)
{
	struct err err = {0};

	if (read_agent(socket, "/v1/status", a, text, g, &err) < 0)
		g->error = arena_strndup(a, err.msg, strlen(err.msg));
}

static void ask_ztunnel(const char *socket, struct arena *a, struct ctl_texts *t,
			struct ctl_ztunnel *z)
{
	const struct doc *d = NULL;
	struct ctl_answer ready;
	struct err err = {0};
	int r = ctl_ask_json(socket, "/config_dump", a, &t->dump, &d, &err);

	if (r == 0) {
		r = ctl_ztunnel_read(d, a, z, &err);
		if (r < 0)
			(void)err_wrap(&err, "%s: GET /config_dump", socket);
	}
	if (r < 0)
		z->error = arena_strndup(a, err.msg, strlen(err.msg));
	else if (ctl_get(socket, "/healthz/ready", clock_mono_ms() + CTL_ANSWER_MS, &t->ready,
			 &ready, NULL) == 0)
		ctl_ready_read(ready.status, ready.body, z);
}

void ctl_texts_fini(struct ctl_texts *t)
{
	strbuf_fini(&t->agent);
	strbuf_fini(&t->dump);
	strbuf_fini(&t->ready);
}

void ctl_ask_report(const struct ctl_common *c, struct arena *a, struct ctl_texts *t,
		    struct ctl_report *ret)
{
	*ret = (struct ctl_report){.now = clock_wall_us() / 1000000};
	ask_agent(c->agent_socket, a, &t->agent, &ret->agent);
	ask_ztunnel(c->ztunnel_socket, a, t, &ret->ztunnel);
	ctl_diagnose(ret, a);
}
