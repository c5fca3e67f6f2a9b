/* SPDX-License-Identifier: Apache-2.0
 * fuzz_ctl.c: the same bytes as the agent's answer and as ztunnel's dump, through everything that
 * ambientctl makes of them. Properties: what is printed is clean text, the JSON can be read again,
 * a refusal has a sentence.
 */
#include <stdint.h>

#include "ctl/http.h"
#include "ctl/model.h"
#include "ctl/print.h"
#include "lib/base/bug.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/format/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const struct strbuf *b)
{
	for (size_t i = 0; i < b->n; i++)
		bug_on(((unsigned char)b->p[i] < 0x20 && b->p[i] != '\n') || b->p[i] == 0x7f);
}

static void check_json(const struct strbuf *b, struct arena *a)
{
	const struct doc *d = NULL;

	bug_on(json_parse((struct str){b->p, b->n}, a, &d, NULL) != 0);
}

static void use(const struct doc *d, struct arena *a)
{
	struct ctl_report r = {.now = 1790000000};
	_cleanup_strbuf_ struct strbuf status = {0}, pods = {0}, notes = {0}, js = {0}, jp = {0};
	struct err err = {0};

	r.agent.error = r.ztunnel.error = "away";
	if (ctl_agent_read(d, a, &r.agent, &err) != 0)
		bug_on(err.msg[0] == '\0');
	if (ctl_ztunnel_read(d, a, &r.ztunnel, &err) != 0)
		bug_on(err.msg[0] == '\0');
	ctl_diagnose(&r, a);
	ctl_print_status(&r, false, &status);
	ctl_print_pods(&r, NULL, false, &pods, &notes);
	ctl_json_status(&r, &js);
	ctl_json_pods(&r, NULL, &jp);
	check_text(&status);
	check_text(&pods);
	check_text(&notes);
	check_json(&js, a);
	check_json(&jp, a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str in = {(const char *)data, size};
	struct arena *a = arena_new();
	struct ctl_answer answer = {.body = in};
	const struct doc *d = NULL;

	if (ctl_answer_parse(in, &answer, NULL) == 0)
		bug_on(answer.body.p < in.p || answer.body.p + answer.body.n > in.p + in.n);
	if (json_parse(answer.body, a, &d, NULL) == 0)
		use(d, a);
	arena_free(a);
	return 0;
}
